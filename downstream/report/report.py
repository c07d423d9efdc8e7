"""report: one self-contained HTML page on a probe and the pretraining behind it, for a critical reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, write_text
from ...ssl.store.store import Store
from ..evaluation.html import Html, Section, bullets, element, joined, page
from .probe_results import Results, Run, run_names
from .skill_section import data_words, differences_section, interval_words, seasons_section, skill_section
from .training_section import (
    checks,
    cost_section,
    data_section,
    example_section,
    health_section,
    is_synthetic,
    training_section,
)
from .verdict import verdict


@dataclass(frozen=True)
class ReportConfig:
    """What to report on.

    Attributes:
        store: Folder of the training store.
        probe: Folder of a probe's results.
        runs: Folders of the pretraining runs behind the probed checkpoints.
        out: The page to write.
        title: Of the page; by default the task and the source.
    """

    store: str
    probe: str
    runs: list[str] = field(default_factory=list)
    out: str = "report.html"
    title: str = ""

    def __post_init__(self) -> None:
        if Path(self.out).is_dir() or not self.out:
            raise EarthSSLError(f"report.out: expected a file to write, such as report.html, got '{self.out}'")


def report(config: ReportConfig) -> Path:
    """Write the page and return its path. An older page of that name is replaced, atomically.

    Optional parts (seasons, an example, an online probe) are left out where their files are not there.

    Raises:
        EarthSSLError: If the store, the probe or a run is missing, unfinished or inconsistent.
    """
    store, results = Store(config.store), Results.read(config.probe)
    runs = [Run.read(folder) for folder in config.runs]
    synthetic = results.synthetic or is_synthetic(store)
    found = checks(store, runs, results)
    sections = [
        skill_section(results),
        differences_section(results),
        seasons_section(results),
        data_section(store, found),
        training_section(runs),
        health_section(runs),
        example_section(runs, synthetic),
        cost_section(runs, results),
        _convention(results),
    ]
    title = config.title or f"{str(results.record.get('task', 'probe')).upper()} probe: {store.manifest['source']}"
    top = _header(title, store, results, runs, synthetic, [words for good, words in found if not good])
    out = Path(config.out)
    with disk_full_is_clear(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(title, top, sections, _footer(store, config)))
    return out


def _header(
    title: str, store: Store, results: Results, runs: Sequence[Run], synthetic: bool, failed: list[str]
) -> Html:
    """Return title, badge, what this is about, and the verdict; failed checks stand before it."""
    badge = element("span", "synthetic planet", class_="badge") if synthetic else ""
    first, *rest = verdict(results)
    about = [store.manifest["source"], data_words(results).removeprefix("synthetic planet, ")]
    about.append(f"{len(runs)} pretraining run{'s' * (len(runs) != 1)}")
    parts = [
        element("h1", joined([title, badge] if badge else [title], " ")),
        element("p", " · ".join(about), class_="sub"),
    ]
    if failed:
        parts.append(element("div", "Not as it should be:", bullets([f"Fails: {words}" for words in failed]),
                             class_="warning"))  # fmt: skip
    warned = [name for name, run in zip(run_names(runs), runs, strict=True) if run.record.get("health_warnings")]
    if warned:
        link = element("a", "see below", href="#health")
        words = joined([f"The health monitor warned during {', '.join(warned)} (", link, ")."])
        parts.append(element("div", words, class_="warning"))
    how = f"{interval_words(results)}; “better” and “worse” only where the interval excludes 0."
    if results.synthetic:
        how += " The data are a synthetic planet: nothing here speaks of the real Earth."
    told = [element("p", first), element("p", joined(rest, " ")), element("p", how[0].upper() + how[1:])]
    parts.append(element("div", *told, class_="verdict"))
    return element("header", *parts)


def _convention(results: Results) -> Section:
    words = results.record.get("convention")
    return Section("convention", "Convention", element("p", words) if words else Html(""))


def _footer(store: Store, config: ReportConfig) -> Html:
    from importlib.metadata import version

    what = [f"Written by earthssl {version('earthssl')} from ", element("code", config.probe), " and ",
            element("code", store.path), ". This file holds all it shows and asks nothing of the network."]  # fmt: skip
    return element("footer", *what)

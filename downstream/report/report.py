"""report: one self-contained HTML page on any task's results and the pretraining behind it, for a critical reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, write_text
from ...ssl.store.store import Store
from ..results.html import Html, bullets, element, joined, page
from ..results.summary import Summary
from .pretraining_run import Run, run_names
from .read_summary import read_summary
from .training_section import (
    checks,
    cost_section,
    data_section,
    example_section,
    health_section,
    training_section,
)


@dataclass(frozen=True)
class ReportConfig:
    """What to report on.

    Attributes:
        store: Folder of the training store.
        probe: Folder of a probe's results, of any task.
        runs: Folders of the pretraining runs behind the probed checkpoints.
        out: The page to write.
        title: Of the page; by default that of the results.
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

    Optional parts (a picture, an example, an online probe) are left out where their files are not there.

    Raises:
        EarthSSLError: If the store, the probe or a run is missing, unfinished or inconsistent.
    """
    store, summary = Store(config.store), read_summary(config.probe)
    runs = [Run.read(folder) for folder in config.runs]
    found = checks(store, runs, summary.record)
    pictures = {name: data for name, data in summary.figures.items() if isinstance(data, bytes)}
    sections = [
        *summary.sections(pictures),
        data_section(store, found),
        training_section(runs),
        health_section(runs),
        example_section(runs, store.synthetic),
        cost_section(runs, summary.record),
    ]
    title = config.title or summary.title
    top = summary.top(title, *_about(config, summary, runs, [words for good, words in found if not good]))
    out = Path(config.out)
    with disk_full_is_clear(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(title, top, sections, _footer(store, config)))
    return out


def _about(config: ReportConfig, summary: Summary, runs: Sequence[Run], failed: list[str]) -> list[Html]:
    """Return what the page is about, and before any number what is not as it should be."""
    count = f"{len(runs)} pretraining run{'s' * (len(runs) != 1)}"
    parts = [element("p", " · ".join([*([summary.title] if config.title else []), count]), class_="sub")]
    if failed:
        parts.append(element("div", "Not as it should be:", bullets([f"Fails: {words}" for words in failed]),
                             class_="warning"))  # fmt: skip
    warned = [name for name, run in zip(run_names(runs), runs, strict=True) if run.record.get("health_warnings")]
    if warned:
        link = element("a", "see below", href="#health")
        words = joined([f"The health monitor warned during {', '.join(warned)} (", link, ")."])
        parts.append(element("div", words, class_="warning"))
    return parts


def _footer(store: Store, config: ReportConfig) -> Html:
    from importlib.metadata import version

    what = [f"Written by earthssl {version('earthssl')} from ", element("code", config.probe), " and ",
            element("code", store.path), ". This file holds all it shows and asks nothing of the network."]  # fmt: skip
    return element("footer", *what)

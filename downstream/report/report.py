"""report: one self-contained HTML page on any task's results and the pretraining behind it, for a critical reader."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, write_text
from ...ssl.store.store import Store
from ..results.page import look_command, page
from .planet_section import planet_section
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
    sections = [
        *summary.sections({name: data for name, data in summary.figures.items() if isinstance(data, bytes)}),
        *planet_section(store),
        data_section(store, found),
        training_section(runs),
        health_section(runs),
        example_section(runs, store.synthetic),
        cost_section(runs, summary.record),
    ]
    values = summary.head() | {
        "title": config.title or summary.title,
        "result": summary.title,
        "runs": len(runs),
        "failed": [f"Fails: {words}" for good, words in found if not good],
        "warned": [n for n, run in zip(run_names(runs), runs, strict=True) if run.record.get("health_warnings")],
        "version": version("earthssl"),
        "probe": config.probe,
        "store": store.path,
        "look": look_command(config.store, config.probe, next(iter(config.runs), "")),
    }
    out = Path(config.out)
    with disk_full_is_clear(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(sections, "report/report.html", **values))
    return out

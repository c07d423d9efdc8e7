"""Cross-validation: a run for each fold, in a folder of its own, and one table of all their test months."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..downstream.tasks.enso.pooled import pooled_summary
from ..downstream.tasks.registry import ENSO
from ..ssl.common.config import build
from ..ssl.common.errors import EarthSSLError
from ..ssl.fields.folds import FoldsConfig
from .verbs import config_of

FOLDS, POOLED = "folds", "pooled"


def folds_of(sections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sections of each fold's run: those given, with the splits of the fold.

    Raises:
        EarthSSLError: If the section folds does not fit, the task is not enso, or prepare has splits of its own.
    """
    task = dict(sections["probe"]).get("task", ENSO)
    if task != ENSO:
        raise EarthSSLError(f"folds: expected probe.task {ENSO}, whose folds can be pooled, got '{task}'; leave it out")
    if "splits" in sections["prepare"]:
        raise EarthSSLError("prepare.splits: expected none beside folds, which make them; leave one of the two out")
    config: FoldsConfig = build(FoldsConfig, dict(sections[FOLDS]), FOLDS)
    made = []
    for splits in config.splits():
        splits.build()
        plain = {name: value for name, value in sections.items() if name != FOLDS}
        made.append({**plain, "prepare": {**sections["prepare"], "splits": _plain(asdict(splits))}})
    return made


def _plain(value: Any) -> Any:
    """Return a value with lists in place of tuples, as a file would hold it."""
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, list | tuple) else value


def write_pooled(root: Path, count: int, sections: Mapping[str, Any], say: Callable[[str], None], command: str) -> Path:
    """Write the pooled table of all folds under `root` and return its page; one that was there is made anew."""
    out = root / POOLED
    probes = [fold_folder(root, k) / "probe" for k in range(count)]
    probe: Any = build(config_of("probe", {"task": ENSO}), {**sections["probe"], "store": "x", "out": "x"}, "probe")
    say(f"pooled table of {count} folds → {out}")
    summary = pooled_summary(probes, str(sections["report"].get("title", "")), probe.draws, probe.block)
    shutil.rmtree(out, ignore_errors=True)
    return summary.write(out, command) / "report.html"


def fold_folder(root: Path, number: int) -> Path:
    """Return the folder of a fold's run, numbered from 0 here and from 1 by name."""
    return root / f"fold-{number + 1}"

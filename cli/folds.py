"""Cross-validation: a run for each fold, in a folder of its own, and one table of all their test months."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..downstream.evaluation.pretraining_leaks import seen_by_pretraining
from ..downstream.tasks.enso.pooled import pooled_summary
from ..downstream.tasks.registry import ENSO
from ..ssl.checkpoint.manifest import checkpoint_folder
from ..ssl.checkpoint.read import read_record
from ..ssl.common.config import build, read_yaml
from ..ssl.common.errors import EarthSSLError
from ..ssl.fields.folds import FoldsConfig
from ..ssl.fields.splits import Splits
from ..ssl.store.store import Store
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
    plain = {name: value for name, value in sections.items() if name != FOLDS}
    return [{**plain, "prepare": {**sections["prepare"], "splits": own}} for own in splits_of(sections[FOLDS])]


def splits_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the setting prepare.splits of every fold that a section folds asks for.

    Raises:
        EarthSSLError: If the section does not fit.
    """
    config: FoldsConfig = build(FoldsConfig, settings, FOLDS)
    made = config.splits()
    for splits in made:
        splits.build()
    return [_plain(asdict(splits)) for splits in made]


def check_folds(every: Sequence[Splits], store: Path, start_from: str) -> None:
    """Hold the blocks of all folds against the data and against what the encoder to start from was trained on.

    Args:
        every: Blocks of each fold.
        store: Of any fold: the data are the same.
        start_from: Folder of a checkpoint or of its run; "": none.

    Raises:
        EarthSSLError: If a block holds no time of the data, or the encoder saw a fold's test block or came too near it.
    """
    made = Store(store)
    trainings = read_record(checkpoint_folder(Path(start_from))).trainings if start_from else []
    for k, splits in enumerate(every, 1):
        try:
            splits.proof(made.times)
        except EarthSSLError as error:
            raise EarthSSLError(f"folds: fold {k}: {error}") from None
        if said := seen_by_pretraining(trainings, made, splits):
            raise EarthSSLError(
                "pretrain.start_from: expected an encoder that was trained on nothing near the test block of any fold, "
                f"got of fold {k}: {'; '.join(said)} ({start_from}); start from another, or leave it out"
            )


def refuse_folds(file: str | Path) -> None:
    """Raise an EarthSSLError if a config leaves the splits to a section folds, of which prepare cannot take one."""
    if FOLDS not in read_yaml(file):
        return
    raise EarthSSLError(
        f"{file}: its section folds makes the splits of every fold, of which prepare cannot take one: type "
        f"earthssl run --config {file}, or give --splits.train, --splits.val, --splits.test and --splits.embargo_days"
    )


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

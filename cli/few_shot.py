"""The verb few-shot: each task of the study is done once and kept; the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..downstream.evaluation.config import TaskConfig
from ..downstream.evaluation.encoders import PRETRAINED, Decoder, contenders
from ..downstream.results.numbers import plain
from ..downstream.studies.few_shot import FewShotConfig, ShotTable, few_shot_summary, shot_table
from ..downstream.studies.matrix import folder_name
from ..downstream.tasks.registry import task_class
from ..ssl.common.config import build
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import locked, read_json, sha256, write_json, write_text
from ..ssl.runtime.signals import between_steps
from ..ssl.store.store import Store
from .probe import decoders
from .studies import finish, open_study

KEPT = ("scores", "differences", "choices")


def few_shot(config: FewShotConfig, command: str = "") -> Path:
    """Tell classes from a few examples, and fields from none; return the folder of the table over all tasks.

    Args:
        config: Its settings.
        command: As typed, for the record.

    Raises:
        EarthSSLError: If a task, store, checkpoint or number of examples does not fit.
    """
    begun, out = time.perf_counter(), Path(config.out)
    tasks = {name: task_settings(name, own, out) for name, own in config.tasks.items()}
    digests: dict[str, dict[str, Any]] = {}  # of what may change under the same path
    for name, own in tasks.items():
        twins = max(own.untrained_seeds, 0 if own.checkpoints else 1)
        read = contenders(Store(own.store), own.checkpoints, twins, own.encoder, own.other_statistics)
        labels = getattr(own, "labels", None)
        digests[name] = {
            "encoders": [one.source["sha256"] for one in read if one.kind == PRETRAINED],
            "labels_sha256": sha256(Path(labels)) if isinstance(labels, str) and Path(labels).is_file() else None,
        }
    if len({folder_name(name) for name in tasks}) < len(tasks):
        raise EarthSSLError(f"few-shot.tasks: expected names that differ in letters or digits, got {', '.join(tasks)}")
    shared = {name: value for name, value in asdict(config).items() if name not in ("out", "tasks")}
    open_study(out, "few-shot study", shared, ())
    found = {}
    with locked(out):
        for name, own in tasks.items():
            folder = out / "tasks" / folder_name(name)
            settings = {**asdict(own), "fingerprint": Store(own.store).fingerprint, **digests[name]}
            open_study(folder, f"task '{name}'", settings, ("out", "store", "cache"))
            if not (folder / "record.json").is_file():
                _write(folder, shot_table(_task(own), name, config))
            found[name] = _read(folder)
            between_steps()
        record = {"seconds": time.perf_counter() - begun, "config": asdict(config)}
        return finish(few_shot_summary(found, config, record), out / "report", command)


def task_settings(name: str, options: dict[str, Any], out: Path) -> TaskConfig:
    """Return the settings of one task of the study; features are cached beside it.

    Raises:
        EarthSSLError: If there is no such task or setting.
    """
    where = f"few-shot.tasks.{name}"
    kind = task_class(options.get("task", name), f"{where}.task").Config
    made: TaskConfig = build(kind, options, where)
    return replace(made, out="", cache=made.cache or str(out / "features"))


def _task(config: TaskConfig) -> Any:
    store = Store(config.store)

    def decoded(paths: Sequence[str]) -> dict[str, Decoder]:
        return decoders(paths, store.statistics)

    return task_class(config.task)(config, store, decoded)


def _write(folder: Path, found: ShotTable) -> None:
    for name in KEPT:
        write_text(folder / f"{name}.csv", getattr(found, name).to_csv(index=False))
    write_json(folder / "record.json", plain(found.record))  # last: where it is, all are


def _read(folder: Path) -> ShotTable:
    text = {"seed": str, "setting": str, "features": str, "head": str}
    scores, differences, choices = (pd.read_csv(folder / f"{name}.csv", dtype=text) for name in KEPT)
    scores["seed"] = scores["seed"].fillna("")
    return ShotTable(scores, differences, choices, read_json(folder / "record.json", "what was found of a task"))

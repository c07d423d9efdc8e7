"""The downstream tasks by name: a new one is one folder, its line here, one config and one test."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...ssl.common.config import build
from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.model.encoder import EncoderConfig
from ...ssl.store.store import Store
from ..evaluation.frozen_task import FrozenTask
from ..evaluation.task import Decoders, Task, run

ENSO = "enso"
# settings of a probe that the matrix sets itself
NOT_IN_MATRIX = ("store", "out", "task", "checkpoints", "encoder", "layers")
# name -> (module, its Task); imported when asked for, as each needs its own libraries
TASKS = {
    ENSO: ("enso.task", "Enso"),
    "forecast": ("forecast.task", "ForecastTask"),
    "infilling": ("infilling.task", "Infilling"),
    "rapid_intensification": ("rapid_intensification.task", "RapidIntensification"),
    "states": ("states.task", "States"),
    "storm_tiles": ("storm_tiles.task", "StormTiles"),
}
# name -> (module, config, function that runs it): not yet behind the seam
PROBES = {
    "explain": ("explain.task", "ExplainConfig", "run"),
}
# name -> (module, FrozenTask): what the matrix can ask
FROZEN = {}


def task_class(name: str) -> type[Task[Any]]:
    """Return the class of a task.

    Raises:
        EarthSSLError: If there is no such task.
    """
    module, kind = _entry(TASKS, name, "probe.task")
    found: type[Task[Any]] = getattr(importlib.import_module(f".{module}", __package__), kind)
    return found


def probe_config(task: str) -> Any:
    """Return the class of a task's config.

    Raises:
        EarthSSLError: If there is no such task.
    """
    if task in TASKS:
        return task_class(task).Config
    module, config, _ = _entry(TASKS | PROBES, task, "probe.task")
    return getattr(importlib.import_module(f".{module}", __package__), config)


def run_task(config: Any, decoders: Decoders, command: str = "") -> Path:
    """Run the task of a config and return the folder of its results.

    Args:
        config: Of the class `probe_config` names.
        decoders: See `Task`.
        command: As typed, for the record.
    """
    if config.task in TASKS:
        task = task_class(config.task)(config, Store(config.store) if config.store else None, decoders)
        return run(task, command)
    module, _, function = PROBES[config.task]
    runner = getattr(importlib.import_module(f".{module}", __package__), function)
    return Path(runner(config, command))


def matrix_config(task: str, options: dict[str, Any], store: str) -> Any:
    """Return the settings of a task in the matrix: those of its probe, but for what the matrix sets itself.

    Raises:
        EarthSSLError: If there is no such setting, or one does not fit.
    """
    kind = probe_config(task)
    _refuse_unknown(task, options, [one.name for one in fields(kind) if one.name not in NOT_IN_MATRIX])
    return build(kind, {"store": store, **options}, f"matrix.tasks.{task}")


def make_frozen(task: str, store: Store, options: dict[str, Any] | None, shape: EncoderConfig | None = None) -> Any:
    """Return a task as the matrix asks for it, with its options: the settings of its probe.

    Args:
        task: Its name.
        store: What it is to be made on.
        options: Settings, plain values.
        shape: Of the encoders it will be asked about.

    Raises:
        EarthSSLError: If there is no such task or option, or the store does not suit it.
    """
    own = options or {}
    if task in TASKS:
        config = matrix_config(task, own, str(store.path))
        return task_class(task)(config if shape is None else replace(config, encoder=shape), store)
    module, name = _entry(FROZEN | TASKS, task, "matrix.tasks")
    frozen: Any = getattr(importlib.import_module(f".{module}", __package__), name)
    parameters = inspect.signature(frozen.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        _refuse_unknown(task, own, [name for name in parameters if name not in ("self", "store")])
    made: FrozenTask = frozen(store, **own)
    return made


def _refuse_unknown(task: str, given: dict[str, Any], valid: list[str]) -> None:
    for name in given:
        if name not in valid:
            raise EarthSSLError(
                f"matrix.tasks.{task}: expected {', '.join(valid)}, got '{name}'." + nearest(name, valid)
            )


def _entry(table: dict[str, Any], task: str, where: str) -> Any:
    if task not in table:
        raise EarthSSLError(f"{where}: expected {', '.join(table)}, got '{task}'." + nearest(str(task), list(table)))
    return table[task]

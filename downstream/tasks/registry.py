"""The downstream tasks by name: a new one is one folder, its line here, one config and one test."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.store.store import Store
from ..evaluation.frozen_task import FrozenTask
from ..evaluation.task import Decoders, Task, run

ENSO = "enso"
# name -> (module, its Task); imported when asked for, as each needs its own libraries
TASKS = {
    "states": ("states.task", "States"),
    "explain": ("explain.task", "Explain"),
}
# name -> (module, config, function that runs it): not yet behind the seam
PROBES = {
    ENSO: ("enso.task", "ProbeConfig", "probe"),
    "rapid_intensification": ("rapid_intensification.task", "RapidIntensificationConfig", "run"),
    "infilling": ("infilling.task", "InfillingConfig", "run"),
    "forecast": ("forecast.task", "ForecastConfig", "run"),
    "storm_tiles": ("storm_tiles.task", "StormTilesConfig", "run"),
}
# name -> (module, FrozenTask): what the matrix can ask
FROZEN = {
    ENSO: ("enso.frozen", "EnsoFrozenTask"),
    "infilling": ("infilling.frozen", "InfillingTask"),
    "forecast": ("forecast.frozen", "ForecastTask"),
}


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
        task = task_class(config.task)(config, Store(config.store), decoders)
        return run(task, command)
    module, _, function = PROBES[config.task]
    runner = getattr(importlib.import_module(f".{module}", __package__), function)
    if config.task == "infilling":
        return Path(runner(config, decoders(config.checkpoints), command))
    return Path(runner(config, command))


def make_frozen(task: str, store: Store, options: dict[str, Any] | None) -> Any:
    """Return a task as the matrix asks for it, with its options.

    Raises:
        EarthSSLError: If there is no such task or option, or the store does not suit it.
    """
    own = options or {}
    if task in TASKS:
        kind = task_class(task)
        valid = [name for name in inspect.signature(kind.Config).parameters if name not in ("store", "out", "task")]
        _refuse_unknown(task, own, valid)
        return kind(kind.Config(store=str(store.path), **own), store)
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

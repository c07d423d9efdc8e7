"""The downstream tasks by name: a new one is one folder, its lines here, one config and one test."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.store.store import Store
from ..evaluation.frozen_task import FrozenTask

ENSO = "enso"
# name -> (module, config, function that runs it); imported when asked for, as each needs its own libraries
PROBES = {
    ENSO: ("enso.task", "ProbeConfig", "probe"),
    "rapid_intensification": ("rapid_intensification.task", "RapidIntensificationConfig", "run"),
    "infilling": ("infilling.task", "InfillingConfig", "run"),
    "forecast": ("forecast.task", "ForecastConfig", "run"),
    "states": ("states.task", "StatesConfig", "run"),
    "storm_tiles": ("storm_tiles.task", "StormTilesConfig", "run"),
    "explain": ("explain.task", "ExplainConfig", "run"),
}
# name -> (module, FrozenTask): what the matrix can ask
FROZEN = {
    ENSO: ("enso.frozen", "EnsoFrozenTask"),
    "infilling": ("infilling.frozen", "InfillingTask"),
    "forecast": ("forecast.frozen", "ForecastTask"),
    "states": ("states.frozen", "StatesTask"),
}


def probe_config(task: str) -> Any:
    """Return the class of a task's config.

    Raises:
        EarthSSLError: If there is no such task.
    """
    module, config, _ = _entry(PROBES, task, "probe.task")
    return getattr(importlib.import_module(f".{module}", __package__), config)


def probe_function(task: str) -> Any:
    """Return the function that runs a task."""
    module, _, function = _entry(PROBES, task, "probe.task")
    return getattr(importlib.import_module(f".{module}", __package__), function)


def frozen_task(task: str) -> Any:
    """Return the FrozenTask class of a task.

    Raises:
        EarthSSLError: If there is no such task.
    """
    module, name = _entry(FROZEN, task, "matrix.tasks")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def make_frozen(task: str, store: Store, options: dict[str, Any] | None) -> FrozenTask:
    """Return a FrozenTask with its options.

    Raises:
        EarthSSLError: If there is no such task or option, or the store does not suit it.
    """
    kind, own = frozen_task(task), options or {}
    parameters = inspect.signature(kind.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        valid = [name for name in parameters if name not in ("self", "store")]
        for name in own:
            if name not in valid:
                raise EarthSSLError(
                    f"matrix.tasks.{task}: expected {', '.join(valid)}, got '{name}'." + nearest(name, valid)
                )
    made: FrozenTask = kind(store, **own)
    return made


def _entry(table: dict[str, Any], task: str, where: str) -> Any:
    if task not in table:
        raise EarthSSLError(f"{where}: expected {', '.join(table)}, got '{task}'." + nearest(str(task), list(table)))
    return table[task]

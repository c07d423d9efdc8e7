"""The downstream tasks by name: a new one is one folder, its line here, one config and one test."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...ssl.common.config import build, nearest_key
from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.model.encoder import EncoderConfig
from ...ssl.store.store import Store
from ..evaluation.run import run
from ..evaluation.task import Decoders, Task

ENSO = "enso"
# name -> (module, its Task); imported when asked for, as each needs its own libraries
TASKS = {
    ENSO: ("enso.task", "Enso"),
    "states": ("states.task", "States"),
    "forecast": ("forecast.task", "ForecastTask"),
    "infilling": ("infilling.task", "Infilling"),
    "rapid_intensification": ("rapid_intensification.task", "RapidIntensification"),
    "storm_tiles": ("storm_tiles.task", "StormTiles"),
    "indices": ("indices.task", "Indices"),
    "explain": ("explain.task", "Explain"),
    "analogues": ("analogues.task", "Analogues"),
    "segmentation": ("segmentation.task", "Segmentation"),
    "parameterisation": ("parameterisation.task", "Parameterisation"),
    "parameterisation_weather": ("parameterisation.weather_task", "WeatherParameterisation"),
    "radiation": ("radiation.task", "Radiation"),
    "nowcasting": ("nowcasting.task", "Nowcasting"),
    "downscaling": ("downscaling.task", "Downscaling"),
    "bias_correction": ("bias_correction.task", "BiasCorrection"),
}
# settings of a probe that the matrix sets itself
NOT_IN_MATRIX = ("store", "out", "task", "checkpoints", "encoder", "layers", "cache")


def task_class(name: str, where: str = "probe.task") -> type[Task[Any]]:
    """Return the class of a task; its `Config` is that of its settings.

    Raises:
        EarthSSLError: If there is no such task.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise EarthSSLError(f"{where}: expected {', '.join(TASKS)}, got '{name}'." + nearest(str(name), list(TASKS)))
    module, kind = TASKS[name]
    found: type[Task[Any]] = getattr(importlib.import_module(f".{module}", __package__), kind)
    return found


def run_task(config: Any, decoders: Decoders, command: str = "") -> Path:
    """Run the task of a config and return the folder of its results.

    Args:
        config: Of the task's own class.
        decoders: See `Task`.
        command: As typed, for the record.
    """
    task = task_class(config.task)(config, Store(config.store) if config.store else None, decoders)
    return run(task, command)


def rehearse_task(config: Any, shape: EncoderConfig) -> None:
    """Build a task on its store without any checkpoint, so that labels that do not fit cost no pretraining.

    Args:
        config: Of the task's own class; the store must be there.
        shape: Of the encoders that will be pretrained.

    Raises:
        EarthSSLError: If the labels or the store do not suit the task, or the shape does not suit its samples.
    """
    kind = task_class(config.task)
    if config.store:
        kind(replace(config, checkpoints=[], encoder=shape), Store(config.store)).check(shape)


def matrix_config(task: str, options: Mapping[str, Any], store: str) -> Any:
    """Return the settings of a task in the matrix: those of its probe, but for what the matrix sets itself.

    Raises:
        EarthSSLError: If there is no such task or setting, or one does not fit.
    """
    kind = task_class(task, "matrix.tasks").Config
    valid = [one.name for one in fields(kind) if one.name not in NOT_IN_MATRIX]
    for name in options:
        if name not in valid:
            raise EarthSSLError(
                f"matrix.tasks.{task}: expected {', '.join(valid)}, got '{name}'." + nearest_key(str(name), kind)
            )
    return build(kind, {"store": store, **options}, f"matrix.tasks.{task}")


def matrix_task(
    task: str, store: Store, options: Mapping[str, Any] | None, shape: EncoderConfig | None = None
) -> Task[Any]:
    """Return a task as the matrix asks for it.

    Args:
        task: Its name.
        store: What it is to be made on.
        options: Settings of its probe, plain values.
        shape: Of the encoders it will be asked about.

    Raises:
        EarthSSLError: If there is no such task or option, or the store does not suit it.
    """
    config = matrix_config(task, options or {}, str(store.path))
    return task_class(task, "matrix.tasks")(config if shape is None else replace(config, encoder=shape), store)

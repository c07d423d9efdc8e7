"""Probing: the tasks of downstream/, given the decoders of pretext/ where they need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..downstream.tasks.registry import run_task
from ..pretext import TASKS
from ..pretext.prediction.masking import Masking
from ..ssl.checkpoint.read import read_record
from ..ssl.checkpoint.record import Record
from ..ssl.fields.batch import from_fields
from ..ssl.fields.normalisation import Statistics
from ..ssl.model.encoder import Encoder
from ..ssl.store.store import Store
from ..ssl.training.pretrain import load_objectives


def probe(config: Any, command: str = "") -> Path:
    """Probe frozen encoders beside their baselines and return the folder of the tables.

    Args:
        config: The config of a task of downstream/tasks/.
        command: As typed, for the record.
    """
    # Rebuilding fields takes the decoder of the pretext task, which downstream/ does not know.
    return run_task(config, lambda checkpoints: fillers(checkpoints, Store(config.store).statistics), command)


def fillers(
    checkpoints: Sequence[str], statistics: Statistics
) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None]:
    """Return for each checkpoint what rebuilds gappy windows with its pretrained decoder; None where it has none.

    A filler takes normalised fields (window, time, variable, row, column), NaN where nothing is observed, and
    their times (window, time), and returns the fields without gaps. The statistics are those that the fields are
    normalised by, which need not be the checkpoint's (other_statistics): constraints hold in the units that they give.
    """
    made: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None] = {}
    for path in checkpoints:
        folder = Path(path) / "checkpoint" if (Path(path) / "checkpoint").is_dir() else Path(path)
        encoder, objectives = load_objectives(folder, TASKS, statistics)
        masking = objectives.tasks().get("masking")
        known, record = statistics.known, read_record(folder)
        made[path] = partial(_filled, encoder, masking, record, known) if isinstance(masking, Masking) else None
    return made


def _filled(
    encoder: Encoder, masking: Masking, record: Record, known: np.ndarray, fields: np.ndarray, times: np.ndarray
) -> np.ndarray:
    batch = from_fields(
        torch.from_numpy(fields).float(),
        torch.from_numpy(times.astype("datetime64[s]").astype(np.int64)),
        torch.zeros(len(fields), dtype=torch.int64),
        torch.from_numpy(known),
        record.variables,
        record.grid,
    )
    return masking.fill(encoder, batch).numpy()

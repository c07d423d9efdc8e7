"""Probing: the tasks of downstream/, given the decoders of pretext/ where they need them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..downstream.evaluation.encoders import Decoder
from ..downstream.tasks.registry import run_task
from ..pretext import TASKS
from ..pretext.prediction.lead_time import LeadTime
from ..pretext.prediction.masking import Masking
from ..ssl.checkpoint.manifest import checkpoint_folder
from ..ssl.checkpoint.read import read_record
from ..ssl.checkpoint.record import Record
from ..ssl.fields.batch import Batch, from_fields
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
    return run_task(config, lambda checkpoints: decoders(checkpoints, Store(config.store).statistics), command)


def decoders(checkpoints: Sequence[str], statistics: Statistics) -> dict[str, Decoder]:
    """Return for each checkpoint what its pretrained heads can do: fill gappy windows, forecast fields.

    A window is given as normalised fields (window, time, variable, row, column), NaN where nothing is observed, and
    their times (window, time). The statistics are those that the fields are normalised by, which need not be the
    checkpoint's (other_statistics): constraints hold in the units that they give.
    """
    made: dict[str, Decoder] = {}
    for path in checkpoints:
        folder = checkpoint_folder(Path(path))
        encoder, objectives = load_objectives(folder, TASKS, statistics)
        tasks = objectives.tasks()
        masking, lead_time = tasks.get("masking", tasks.get("interpolation_residual")), tasks.get("lead_time")
        if isinstance(lead_time, LeadTime) and lead_time.window == 1 and lead_time.constraints is not None:
            lead_time = None  # one step does not tell the times ahead that constraints ask for
        given = (encoder, read_record(folder), statistics.known)
        made[path] = Decoder(
            partial(_filled, masking, *given) if isinstance(masking, Masking) else None,
            *((partial(_ahead, lead_time, *given), lead_time.config.leads) if isinstance(lead_time, LeadTime) else ()),
        )
    return made


def _filled(
    masking: Masking, encoder: Encoder, record: Record, known: np.ndarray, fields: np.ndarray, times: np.ndarray
) -> np.ndarray:
    return masking.fill(encoder, _batch(record, known, fields, times)).numpy()


def _ahead(
    lead_time: LeadTime, encoder: Encoder, record: Record, known: np.ndarray, fields: np.ndarray, times: np.ndarray,
    lead: int,
) -> np.ndarray:  # fmt: skip
    with torch.no_grad():
        return lead_time.fields(encoder, _batch(record, known, fields, times), lead).numpy()


def _batch(record: Record, known: np.ndarray, fields: np.ndarray, times: np.ndarray) -> Batch:
    return from_fields(
        torch.from_numpy(fields).float(),
        torch.from_numpy(times.astype("datetime64[s]").astype(np.int64)),
        torch.zeros(len(fields), dtype=torch.int64),
        torch.from_numpy(known),
        record.variables,
        record.grid,
    )

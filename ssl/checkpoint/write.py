"""Writing a checkpoint: whole or not at all, its golden output beside the weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.errors import EarthSSLError
from ..common.files import disk_full_is_clear, exchange, refuse_filled, write_json, write_text
from ..fields.batch import Batch
from ..model.encoder import Encoder
from ..model.tokens import patchify
from . import schema
from .manifest import (
    CARD,
    MANIFEST,
    RECORD,
    TASK_FILE,
    check_files,
    files_of,
    manifest_of,
)
from .model_card import card
from .read import check_finite, read, read_checked_record, read_record
from .record import Record, check_lengths
from .untrusted_input import read_tensors
from .verify import golden_batch

Weights = nn.Module | Mapping[str, Tensor]


def save(
    folder: Path,
    encoder: Encoder,
    heads: Weights,
    record: Record,
    golden: Batch,
    task: Weights | None = None,
) -> Path:
    """Write a checkpoint folder; it appears under its name only when every file is whole.

    Args:
        folder: New or empty.
        encoder: The network; LoRA is to be merged into it.
        heads: Pretext heads (a module or its tensors); none of a fine-tuned encoder whose heads no longer fit: {}.
        record: What it is; with `task` set if, and only if, a head is given.
        golden: A tiny input.
        task: Head of a fine-tuned encoder, as a module or its tensors.

    Raises:
        EarthSSLError: If the folder holds something already, the disk is full, or record and head disagree.
    """
    if (task is None) != (record.task is None):
        raise EarthSSLError(
            f"expected record.task and the head of the task both or neither, got {record.task} and "
            f"{'no head' if task is None else 'a head'}"
        )
    arrays = {"coefficients": record.statistics.coefficients, "scale": record.statistics.scale}
    with _appears(folder, record) as making:
        _save(making / "encoder.safetensors", encoder)
        _save(making / "heads.safetensors", heads)
        _save(making / "statistics.safetensors",
              {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()})  # fmt: skip
        _save(making / "golden.safetensors", _golden(encoder, golden))
        if task is not None:
            _save(making / TASK_FILE, task)
    return folder


def attach_scores(folder: str | Path, scores: Sequence[Mapping[str, Any]]) -> Path:
    """Put probe tables into record and card of a finished checkpoint and return its folder.

    The whole folder is made anew beside the old one and takes its place; weights and the other files stay bit for bit.

    Args:
        folder: The checkpoint; an older format version becomes the present one.
        scores: A table for each downstream task, see docs/checkpoint-format.md; tables of other tasks are kept.

    Raises:
        EarthSSLError: If the folder is not whole, or a table does not fit the schema; nothing changes then.
    """
    folder = Path(folder).resolve()
    record = read_record(folder)
    fresh = {table.get("task") for table in scores}
    kept = [table for table in record.extra.get("scores", []) if table["task"] not in fresh]
    extra = {**record.extra, "scores": [*kept, *map(dict, scores)]}
    made = upgrade(folder, folder.with_name(f".{folder.name}.scored.{os.getpid()}"), replace(record, extra=extra))
    try:
        exchange(folder, made)
    finally:
        shutil.rmtree(made)
    return folder


def upgrade(folder: str | Path, out: str | Path, record: Record | None = None) -> Path:
    """Write a checkpoint anew in the present format version; weights and golden sample stay bit for bit.

    Args:
        folder: The checkpoint, of any version that can be read; it is left as it is.
        out: New or empty folder.
        record: Another record of the same encoder; the folder's own where None.

    Raises:
        EarthSSLError: If the folder is not whole, `out` is not empty, or the disk is full.
    """
    folder, out = Path(folder), Path(out)
    names = check_files(folder)
    record = read_checked_record(folder, names) if record is None else record
    with _appears(out, record) as making:
        for name in names:
            if name not in (RECORD, CARD):
                shutil.copyfile(folder / name, making / name)
    return out


def halve(folder: str | Path, out: str | Path) -> Path:
    """Write a checkpoint anew with weights as 16-bit floats, half the size: those of encoder and pretext heads.

    They are read as 32-bit ones. The golden output is that of the rounded weights. Probe scores are left out: they are
    of other weights.

    Args:
        folder: The checkpoint; it is left as it is.
        out: New or empty folder.

    Raises:
        EarthSSLError: If the folder is not whole, `out` is not empty, a weight is too large for 16 bits, or the disk is
            full.
    """
    folder, out = Path(folder), Path(out)
    encoder, record = read(folder)
    weights, heads = _rounded(encoder.state_dict()), _rounded(read_tensors(folder / "heads.safetensors"))
    check_finite({**weights, **heads}, folder / "encoder.safetensors and heads.safetensors as 16-bit floats")
    encoder.load_state_dict(weights)
    golden = golden_batch(read_tensors(folder / "golden.safetensors"), record)
    extra = {name: value for name, value in record.extra.items() if name != "scores"}
    with _appears(out, replace(record, extra=extra)) as making:
        for name in check_files(folder):
            if name not in (RECORD, CARD):
                shutil.copyfile(folder / name, making / name)
        _save(making / "encoder.safetensors", weights)
        _save(making / "heads.safetensors", heads)
        _save(making / "golden.safetensors", _golden(encoder.eval(), golden))
    return out


@contextmanager
def _appears(folder: Path, record: Record) -> Iterator[Path]:
    """Give a hidden folder to be filled with tensors, add record, card and manifest, and let it appear whole.

    Raises:
        EarthSSLError: If the folder holds something already, the disk is full, or the record breaks its schema.
    """
    plain = record.to_json()
    schema.check(plain, schema.RECORD, "the record to be saved", "correct it")
    check_lengths(plain, "the record to be saved")
    refuse_filled(folder, "the checkpoint")
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        with disk_full_is_clear(folder):
            making.mkdir(parents=True)
            yield making
            write_json(making / RECORD, plain)
            write_text(making / CARD, card(record))
            write_json(making / MANIFEST, manifest_of(making, files_of(record.task is not None)))
        if folder.exists():
            folder.rmdir()
        os.replace(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _rounded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def _save(file: Path, weights: Weights) -> None:
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, file)


def _golden(encoder: Encoder, batch: Batch) -> dict[str, Tensor]:
    """Return the batch and what the encoder makes of it, in fp32 on the CPU."""
    with torch.no_grad():
        output = encoder(patchify(batch.to("cpu"), encoder.config.patch))
    return {
        "values": batch.values.contiguous(),
        "valid": batch.valid.contiguous(),
        "times": batch.times.contiguous(),
        "output": output.contiguous(),
    }

"""The checkpoint: one self-describing folder of safetensors and JSON; saved whole, verified, loaded or refused.

    record.json            what it is: see `Record`
    encoder.safetensors    weights of the encoder
    heads.safetensors      weights of the pretext heads (the decoder), to rebuild fields or train on
    statistics.safetensors climatology and scale of the data it was trained on
    golden.safetensors     a tiny input and the output it gave at home
    task.safetensors       weights of a fine-tuned head; only where the record names a task
    card.md                the model card, made from the record
    manifest.json          SHA-256 and size of every file above

Nothing in it is code or names code to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import EarthSSLError
from ..fields.month_stamps import by_month, stamp_of
from ..model.encoder import Encoder
from . import schema
from .manifest import (
    FILES_V1,
    RECORD,
    TASK_FILE,
    check_files,
    listed,
)
from .migration import migrate, version_of
from .record import Record, check_lengths
from .untrusted_input import read_header, read_strict_json, read_tensors

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]

HALF = "F16"  # how the numbers of encoder.safetensors may be kept; they become 32-bit floats again
_DTYPE = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


def read(folder: str | Path) -> tuple[Encoder, Record]:
    """Return the encoder and the record of a checkpoint, files checked, weights complete.

    Raises:
        EarthSSLError: If a file differs from its hash, the record does not fit its schema, or names, shapes or types
            of tensors do not follow from the record: all listed. No memory is taken for weights before that.
    """
    folder = Path(folder)
    return read_checked(folder, check_files(folder))


def read_checked(folder: Path, names: Sequence[str]) -> tuple[Encoder, Record]:
    """Return encoder and record of a folder whose files have been checked."""
    record = read_checked_record(folder, names)
    file = folder / "encoder.safetensors"
    with torch.device("meta"):
        expected = record.encoder.build(record.variables).state_dict()
    found = {name: ("F32" if kind == HALF else kind, shape) for name, (kind, shape) in read_header(file).items()}
    check_shapes(found, {name: (_DTYPE[t.dtype], tuple(t.shape)) for name, t in expected.items()}, file)
    encoder = record.encoder.build(record.variables)
    load_exactly(encoder, read_tensors(file), file)
    return encoder, replace(record, stamp_s=_stamp(folder / "golden.safetensors", record.step_days))


def _stamp(file: Path, step_days: float) -> int | None:
    """Return the stamp of the months of a golden input; None for other steps, and for a file that `verify` refuses."""
    if not by_month(step_days) or read_header(file).get("times", ("", ()))[0] != "I64":
        return None
    return stamp_of(read_tensors(file)["times"].numpy())


def read_record(folder: str | Path) -> Record:
    """Return the record of a checkpoint, files checked, without its weights.

    Raises:
        EarthSSLError: See `read`.
    """
    folder = Path(folder)
    return read_checked_record(folder, check_files(folder))


def read_checked_record(folder: Path, names: Sequence[str]) -> Record:
    """Return the record of a folder whose files have been checked."""
    plain = read_strict_json(folder / RECORD, "a checkpoint's record")
    version = version_of(plain, folder / RECORD)
    if (version == 1) != (set(names) == set(FILES_V1)):
        raise EarthSSLError(f"{folder}: record and manifest are of different format versions; fetch it again")
    plain = migrate(plain, folder / RECORD)
    schema.check(plain, schema.RECORD, folder / RECORD)
    if (plain["task"] is not None) != (TASK_FILE in names):
        raise EarthSSLError(f"{folder}: expected {TASK_FILE} if and only if the record names a task; fetch it again")
    check_lengths(plain, folder / RECORD)
    file = folder / "statistics.safetensors"
    check_shapes(read_header(file), _statistics_shapes(plain), file)
    arrays = read_tensors(file)
    scale = arrays["scale"]
    if bool(arrays["coefficients"].isinf().any()) or not bool((scale.isfinite() & (scale > 0)).all()):
        raise EarthSSLError(f"{file}: expected coefficients without infinity and a finite scale > 0; fetch it again")
    return Record.from_json(plain, arrays, folder / RECORD)


def _statistics_shapes(record: dict[str, Any]) -> Shapes:
    kind, grid = record["statistics"], record["grid"]
    fields = (len(record["variables"]), len(grid["lat"]), len(grid["lon"]))
    return {"coefficients": ("F32", (len(kind["keys"]), 1 + 2 * kind["harmonics"], *fields)), "scale": ("F32", fields)}


def check_shapes(found: Shapes, expected: Shapes, where: Path) -> None:
    """Raise where names, shapes or types of tensors are others than expected, listing the differences."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is unknown here" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        (dtype, shape), (other, got) = expected[name], found[name]
        if shape != got:
            wrong.append(f"{name}: expected shape {shape}, got {got}")
        elif dtype != other:
            wrong.append(f"{name}: expected {dtype}, got {other}")
    if wrong:
        raise EarthSSLError(f"{where}: the tensors do not fit the record: {listed(sorted(wrong))}; fetch it again")


def read_heads(folder: str | Path, heads: nn.Module) -> None:
    """Load the weights of the pretext heads into a module of the same shape, or list every difference."""
    file = Path(folder) / "heads.safetensors"
    load_exactly(heads, read_tensors(file), file)


def read_task(folder: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a fine-tuned head; `Record.task` says what they are.

    Raises:
        EarthSSLError: If the folder has no task, or the file cannot be read or holds values that are not finite.
    """
    file = Path(folder) / TASK_FILE
    if not file.exists():
        raise EarthSSLError(
            f"expected the head of a fine-tuned encoder at {file}, found none: this one is only pretrained; "
            "see `earthssl finetune`"
        )
    tensors = read_tensors(file)
    check_finite(tensors, file)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raise where tensors hold values that are not finite, naming them."""
    wrong = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if wrong:
        raise EarthSSLError(f"{where}: {listed(wrong)} holds values that are not finite; fetch it again")


def load_exactly(module: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Load weights that match the module in every name, shape and type and are finite.

    Raises:
        EarthSSLError: Listing every difference; the module is then unchanged.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown here" for name in weights if name not in own]
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape:
            wrong.append(f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(weights[name].shape)}")
        elif weights[name].is_floating_point() != own[name].is_floating_point():
            wrong.append(f"{name}: expected {own[name].dtype}, got {weights[name].dtype}")
        elif weights[name].is_floating_point() and not weights[name].isfinite().all():
            wrong.append(f"{name} holds values that are not finite")
    if wrong:
        raise EarthSSLError(f"{where}: the weights do not fit the record: {listed(sorted(wrong))}; fetch it again")
    module.load_state_dict(weights)

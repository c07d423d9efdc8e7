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

from . import schema
from .batch import Batch
from .card import card
from .encoder import Encoder
from .errors import EarthSSLError
from .files import disk_full_is_clear, exchange, refuse_filled, write_json, write_text
from .folder import (
    CARD,
    FILES,
    FILES_V1,
    MANIFEST,
    RECORD,
    TASK_FILE,
    check_files,
    files_of,
    listed,
    manifest_of,
    names_in,
)
from .grid import LatLonGrid
from .migration import FORMAT_VERSION, migrate, version_of
from .record import Record, check_lengths
from .stamps import by_month, stamp_of
from .strict import read_header, read_strict_json, read_tensors
from .tokens import patchify

__all__ = [
    "CARD", "FILES", "FILES_V1", "MANIFEST", "RECORD", "TASK_FILE", "Record", "attach_scores", "check_files",
    "differences", "files_of", "load_encoder", "load_exactly", "manifest_of", "names_in", "read", "read_heads",
    "read_record", "read_task", "save", "upgrade", "verify",
]  # fmt: skip
GOLDEN_TOLERANCE = 1e-3  # fp32 on other processors differs in the last digits; a wrong weight by far more
GOLDEN_WINDOWS = 64
Weights = nn.Module | Mapping[str, Tensor]
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
_DTYPE = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


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
    record = _read_record(folder, names) if record is None else record
    with _appears(out, record) as making:
        for name in names:
            if name not in (RECORD, CARD):
                shutil.copyfile(folder / name, making / name)
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


def read(folder: str | Path) -> tuple[Encoder, Record]:
    """Return the encoder and the record of a checkpoint, files checked, weights complete.

    Raises:
        EarthSSLError: If a file differs from its hash, the record does not fit its schema, or names, shapes or types
            of tensors do not follow from the record: all listed. No memory is taken for weights before that.
    """
    folder = Path(folder)
    return _read(folder, check_files(folder))


def _read(folder: Path, names: Sequence[str]) -> tuple[Encoder, Record]:
    """Return encoder and record of a folder whose files have been checked."""
    record = _read_record(folder, names)
    file = folder / "encoder.safetensors"
    with torch.device("meta"):
        expected = record.encoder.build(record.variables).state_dict()
    _check_shapes(read_header(file), {name: (_DTYPE[t.dtype], tuple(t.shape)) for name, t in expected.items()}, file)
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
    return _read_record(folder, check_files(folder))


def _read_record(folder: Path, names: Sequence[str]) -> Record:
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
    _check_shapes(read_header(file), _statistics_shapes(plain), file)
    arrays = read_tensors(file)
    scale = arrays["scale"]
    if bool(arrays["coefficients"].isinf().any()) or not bool((scale.isfinite() & (scale > 0)).all()):
        raise EarthSSLError(f"{file}: expected coefficients without infinity and a finite scale > 0; fetch it again")
    return Record.from_json(plain, arrays, folder / RECORD)


def _statistics_shapes(record: dict[str, Any]) -> Shapes:
    kind, grid = record["statistics"], record["grid"]
    fields = (len(record["variables"]), len(grid["lat"]), len(grid["lon"]))
    return {"coefficients": ("F32", (len(kind["keys"]), 1 + 2 * kind["harmonics"], *fields)), "scale": ("F32", fields)}


def _check_shapes(found: Shapes, expected: Shapes, where: Path) -> None:
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
    _check_finite(tensors, file)
    return tensors


def _check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
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


def verify(folder: str | Path) -> dict[str, Any]:
    """Check hashes, record, weights, and that the encoder still does what it did at home; on the CPU, offline.

    Returns:
        `golden_difference` (largest difference of the golden output) and its `tolerance`, the `files`, the
        `format_version` the folder was written in, and the `checks` passed, in words.

    Raises:
        EarthSSLError: On the first thing that is not as it should be.
    """
    folder = Path(folder)
    names = check_files(folder)
    checks = [f"{len(names)} files as the manifest says (SHA-256), none missing, none too many, no links"]
    encoder, record = _read(folder, names)
    version = version_of(read_strict_json(folder / RECORD, "a checkpoint's record"), folder)
    older = "" if version == FORMAT_VERSION else f", migrated to {FORMAT_VERSION}"
    checks += [
        f"record fits the schema of format version {version}{older}",
        f"{len(encoder.state_dict())} tensors of the encoder with the record's names, shapes and types, all finite",
    ]
    rest = ["heads.safetensors", *([TASK_FILE] if record.task is not None else [])]
    for name in rest:
        _check_finite(read_tensors(folder / name), folder / name)
    checks.append(f"statistics of {len(record.variables)} variables fit the grid; {', '.join(rest)} finite")
    difference = _replay(folder / "golden.safetensors", encoder.eval(), record)
    checks.append(f"golden input gives the output it gave at home to {difference:.1e} (at most {GOLDEN_TOLERANCE:.0e})")
    return {
        "golden_difference": difference,
        "tolerance": GOLDEN_TOLERANCE,
        "files": list(names),
        "format_version": version,
        "checks": checks,
    }


def _replay(file: Path, encoder: Encoder, record: Record) -> float:
    """Return the largest difference between the golden output and what the encoder makes of the golden input."""
    header = read_header(file)
    windows = (*header.get("values", ("", ()))[1], 0)[0]
    tokens = header.get("output", ("", ()))[1][1:2]  # how many there must be the patches will tell
    shape = (windows, record.encoder.window, len(record.variables), *record.grid.shape)
    expected: Shapes = {
        "values": ("F32", shape),
        "valid": ("BOOL", shape),
        "times": ("I64", shape[:2]),
        "output": ("F32", (windows, *tokens, encoder.width)),
    }
    _check_shapes(header, expected, file)
    if not 1 <= windows <= GOLDEN_WINDOWS:
        raise EarthSSLError(f"{file}: expected 1 to {GOLDEN_WINDOWS} windows, got {windows}; fetch it again")
    golden = read_tensors(file)
    _check_finite(golden, file)
    batch = Batch(
        golden["values"], golden["valid"], golden["times"], torch.zeros(windows, dtype=torch.int64),
        torch.from_numpy(record.statistics.known), record.variables, record.grid,
    )  # fmt: skip
    patches = patchify(batch, encoder.config.patch)
    expected_output = ("F32", (windows, patches.values.shape[1], encoder.width))
    _check_shapes(header, {**expected, "output": expected_output}, file)
    with torch.no_grad():
        output = encoder(patches)
    difference = float((output - golden["output"]).abs().max())
    if not difference <= GOLDEN_TOLERANCE:
        raise EarthSSLError(
            f"{file.parent}: the golden input gives an output that differs by {difference:.2e}, expected at most "
            f"{GOLDEN_TOLERANCE:.0e}; the weights or this installation are wrong"
        )
    return difference


def load_encoder(address: str | Path) -> Any:
    """Return the `FrozenEncoder` of a checkpoint: a folder, that of its run, or any address that `pull` takes."""
    from .embed import FrozenEncoder
    from .hub import load_folder

    encoder, record = read(load_folder(address))
    return FrozenEncoder(encoder, record)


def differences(record: Record, variables: Sequence[str], grid: LatLonGrid, step_days: float) -> list[str]:
    """Return in words how data differ from what an encoder was trained on; empty where they fit."""
    said = []
    unknown = [name for name in variables if name not in record.variables]
    if not set(variables) & set(record.variables):
        said.append(f"variables: expected some of {', '.join(record.variables)}, got {', '.join(unknown)}")
    if not record.grid.same_as(grid):
        said.append(f"grid: expected {record.grid}, got {grid}")
    if not abs(step_days - record.step_days) <= 0.1 * record.step_days:
        said.append(f"time step: expected {record.step_days:g} days, got {step_days:g}")
    return said

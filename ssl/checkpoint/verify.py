"""Verifying a checkpoint: hashes, record, weights, and that the encoder does what it did at home."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.errors import EarthSSLError
from ..fields.batch import Batch
from ..model.encoder import Encoder
from ..model.tokens import patchify
from .manifest import (
    RECORD,
    TASK_FILE,
    check_files,
)
from .migration import FORMAT_VERSION, version_of
from .read import Shapes, check_finite, check_shapes, read_checked
from .record import Record
from .untrusted_input import read_header, read_strict_json, read_tensors

GOLDEN_TOLERANCE = 1e-3  # fp32 on other processors differs in the last digits; a wrong weight by far more
GOLDEN_WINDOWS = 64


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
    encoder, record = read_checked(folder, names)
    version = version_of(read_strict_json(folder / RECORD, "a checkpoint's record"), folder)
    older = "" if version == FORMAT_VERSION else f", migrated to {FORMAT_VERSION}"
    checks += [
        f"record fits the schema of format version {version}{older}",
        f"{len(encoder.state_dict())} tensors of the encoder with the record's names, shapes and types, all finite",
    ]
    rest = ["heads.safetensors", *([TASK_FILE] if record.task is not None else [])]
    for name in rest:
        check_finite(read_tensors(folder / name), folder / name)
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


def golden_batch(golden: Mapping[str, Tensor], record: Record) -> Batch:
    """Return the golden input of a checkpoint, from the tensors of golden.safetensors."""
    return Batch(
        golden["values"], golden["valid"], golden["times"], torch.zeros(len(golden["values"]), dtype=torch.int64),
        torch.from_numpy(record.statistics.known), record.variables, record.grid,
    )  # fmt: skip


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
    check_shapes(header, expected, file)
    if not 1 <= windows <= GOLDEN_WINDOWS:
        raise EarthSSLError(f"{file}: expected 1 to {GOLDEN_WINDOWS} windows, got {windows}; fetch it again")
    golden = read_tensors(file)
    check_finite(golden, file)
    patches = patchify(golden_batch(golden, record), encoder.config.patch)
    expected_output = ("F32", (windows, patches.values.shape[1], encoder.width))
    check_shapes(header, {**expected, "output": expected_output}, file)
    with torch.no_grad():
        output = encoder(patches)
    difference = float((output - golden["output"]).abs().max())
    if not difference <= GOLDEN_TOLERANCE:
        raise EarthSSLError(
            f"{file.parent}: the golden input gives an output that differs by {difference:.2e}, expected at most "
            f"{GOLDEN_TOLERANCE:.0e}; the weights or this installation are wrong"
        )
    return difference

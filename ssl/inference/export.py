"""Export of a frozen encoder: one file that takes raw fields, for programs without this package; compared, or not left.

    onnx         ONNX, opset 18, for onnxruntime and whatever else reads it, from C and Fortran too (extra `onnx`)
    torch        a program of torch.export (.pt2), for torch and libtorch (after AOTInductor)
    torchscript  traced TorchScript (.pt), which libraries on libtorch such as FTorch load; torch calls it deprecated

Two inputs, `fields` and `seconds`, and one output, `features`: see `PortableEncoder.forward`; the number of windows is
free. Beside the file lies its description, the same name with `.json` added.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..common.errors import EarthSSLError, nearest
from ..common.files import disk_full_is_clear, write_json
from ..hub.pull import load_folder
from .frozen_encoder import FrozenEncoder
from .load import load_encoder
from .portable_encoder import PortableEncoder, example

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "torchscript": ".pt"}
OPSET = 18
# Features come out of a layer norm, so they are of order 1; fp32 in another order of sums differs by some 1e-6.
TOLERANCE = 1e-4
Inputs = tuple[Tensor, Tensor]
Program = Callable[[Tensor, Tensor], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file; its description is beside it, `.json` added to the name.
        difference: Largest absolute difference of a feature from the encoder's, over all inputs compared.
        tolerance: What it may be at most.
        inputs: Windows compared.
    """

    path: Path
    difference: float
    tolerance: float
    inputs: int


def export(
    checkpoint: str | Path | FrozenEncoder,
    out: str | Path,
    kind: str = "onnx",
    *,
    pooling: str = "mean",
    layer: int = -1,
) -> Exported:
    """Write an encoder to a file that needs none of this package, read it back, and compare.

    The written file is loaded and run on the golden input (where an address was given), on random fields with gaps, on
    one window and on several, and on fields without one of the variables.

    Args:
        checkpoint: What `load_encoder` takes, or a `FrozenEncoder`.
        out: File to write; it appears when it is whole and compared.
        kind: onnx, torch or torchscript.
        pooling: mean, last or tokens; as in `FrozenEncoder.embed`.
        layer: Block whose output is taken.

    Raises:
        EarthSSLError: If a package is missing, something is at `out` already, or the result differs by more than
            `TOLERANCE`; nothing is then left.
    """
    out = Path(out)
    _check(out, kind)
    folder = None if isinstance(checkpoint, FrozenEncoder) else load_folder(checkpoint)
    frozen = checkpoint if folder is None else load_encoder(folder)
    assert isinstance(frozen, FrozenEncoder)
    model = PortableEncoder(frozen, pooling, layer)
    cases = [example(frozen, 3), example(frozen, 1, seed=1), _lacking(frozen)]
    if folder is not None:
        cases.append(_golden(frozen, folder / "golden.safetensors"))
    temporary = out.with_name(f".{out.name}.{os.getpid()}{out.suffix}")
    try:
        with disk_full_is_clear(out), _quiet():
            WRITERS[kind](model, cases[0], temporary)
            program = READERS[kind](temporary)
            # numpy's maximum, which is NaN where any is: Python's would pass over a NaN that does not come first
            difference = float(np.max([_difference(program, frozen, case, pooling, layer) for case in cases]))
        if not difference <= TOLERANCE:
            raise EarthSSLError(
                f"{out}: expected features within {TOLERANCE:.0e} of the encoder's, got a difference of "
                f"{difference:.1e}; the file was not kept: try another kind ({', '.join(SUFFIXES)})"
            )
        done = Exported(out, difference, TOLERANCE, sum(len(case[0]) for case in cases))
        write_json(description(out), _describe(frozen, model, kind, layer, done))
        try:
            os.replace(temporary, out)
        except OSError:
            description(out).unlink()
            raise
    finally:
        temporary.unlink(missing_ok=True)
    return done


def description(out: Path) -> Path:
    """Return the file that describes an exported one."""
    return out.with_name(out.name + ".json")


def _check(out: Path, kind: str) -> None:
    if kind not in SUFFIXES:
        raise EarthSSLError(f"kind: expected {', '.join(SUFFIXES)}, got '{kind}'.{nearest(kind, SUFFIXES)}")
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if kind == "onnx" and lacking:
        raise EarthSSLError(f"ONNX needs the packages {', '.join(lacking)}, not found: pip install earthssl[onnx]")
    if out.suffix != SUFFIXES[kind]:
        raise EarthSSLError(f"expected a file that ends in {SUFFIXES[kind]} for kind {kind}, got '{out}'")
    for path in (out, description(out)):
        if path.exists():
            raise EarthSSLError(f"{path} exists already; choose another --out, or remove it")
    if not out.absolute().parent.is_dir():
        raise EarthSSLError(f"expected a folder to write {out} into, {out.absolute().parent} does not exist; make it")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' warnings from users, who can do nothing about them: the comparison says what counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _free(windows: Any) -> tuple[dict[int, Any], dict[int, Any]]:
    return {0: windows}, {0: windows}


def _write_onnx(model: PortableEncoder, inputs: Inputs, path: Path) -> None:
    program = torch.onnx.export(
        model, inputs, dynamo=True, opset_version=OPSET, input_names=["fields", "seconds"], output_names=["features"],
        dynamic_shapes=_free(torch.export.Dim("window")), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Program:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(fields: Tensor, seconds: Tensor) -> np.ndarray:
        return np.asarray(session.run(None, {"fields": fields.numpy(), "seconds": seconds.numpy()})[0])

    return run


def _write_torch(model: PortableEncoder, inputs: Inputs, path: Path) -> None:
    torch.export.save(torch.export.export(model, inputs, dynamic_shapes=_free(torch.export.Dim("window"))), path)


def _read_torch(path: Path) -> Program:
    return _numpy(torch.export.load(path).module())


def _write_torchscript(model: PortableEncoder, inputs: Inputs, path: Path) -> None:
    torch.jit.freeze(torch.jit.trace(model, inputs, check_trace=False)).save(str(path))


def _read_torchscript(path: Path) -> Program:
    return _numpy(torch.jit.load(str(path)))


def _numpy(module: Callable[[Tensor, Tensor], Tensor]) -> Program:
    def run(fields: Tensor, seconds: Tensor) -> np.ndarray:
        with torch.no_grad():
            return module(fields, seconds).numpy()

    return run


WRITERS = {"onnx": _write_onnx, "torch": _write_torch, "torchscript": _write_torchscript}
READERS = {"onnx": _read_onnx, "torch": _read_torch, "torchscript": _read_torchscript}


def _lacking(frozen: FrozenEncoder) -> Inputs:
    fields, seconds = example(frozen, 2, seed=2)
    fields[:, :, -1] = torch.nan
    return fields, seconds


def _golden(frozen: FrozenEncoder, file: Path) -> Inputs:
    """Return the golden input as raw fields."""
    golden = load_file(file)
    values = torch.where(golden["valid"], golden["values"], torch.nan)
    times = golden["times"].numpy().reshape(-1).astype("datetime64[s]")
    raw = frozen.record.statistics.denormalise(values.numpy().reshape(len(times), *values.shape[2:]), times)
    return torch.from_numpy(raw.astype(np.float32)).reshape(values.shape), golden["times"]


def _difference(program: Program, frozen: FrozenEncoder, inputs: Inputs, pooling: str, layer: int) -> float:
    """Return the largest absolute difference of the program's features from what `embed` computes."""
    fields, seconds = inputs
    expected = embedded(frozen, fields, seconds, pooling, layer)
    found = program(fields, seconds)
    if found.shape != expected.shape:
        raise EarthSSLError(f"export: expected features of shape {expected.shape}, got {found.shape}; report this")
    return float(np.abs(found - expected).max())


def embedded(frozen: FrozenEncoder, fields: Tensor, seconds: Tensor, pooling: str, layer: int) -> np.ndarray:
    """Return the features of raw windows by the way `FrozenEncoder.embed` goes; shapes as in `PortableEncoder`."""
    times = seconds.numpy().astype("datetime64[s]")
    view = frozen.view(pooling, layer, 64, check_range=False)
    return frozen.of_windows(fields.numpy(), times, frozen.record.variables, view)[:, 0]


def _describe(frozen: FrozenEncoder, model: PortableEncoder, kind: str, layer: int, done: Exported) -> dict[str, Any]:
    record = frozen.record
    tokens = [model.tokens] if model.pooling == "tokens" else []
    return {
        "format": "earthssl export",
        "kind": kind,
        **({"opset": OPSET} if kind == "onnx" else {}),
        "inputs": {
            "fields": {
                "type": "float32",
                "dims": ["window", "step", "variable", "row", "column"],
                "shape": ["any", record.encoder.window, len(record.variables), *record.grid.shape],
                "missing": "NaN",
            },
            "seconds": {"type": "int64", "dims": ["window", "step"], "since": "1970-01-01T00:00:00Z"},
        },
        "output": {"features": {"type": "float32", "shape": ["any", *tokens, model.width]}},
        "variables": list(record.variables),
        "units": list(record.units),
        "grid": record.grid.to_json(),
        "step_days": record.step_days,
        "climatology": {"by": record.statistics.groups, "keys": list(record.statistics.keys)},
        "pooling": model.pooling,
        "layer": layer % frozen.encoder.depth,
        "compared": {"windows": done.inputs, "difference": done.difference, "tolerance": done.tolerance},
        "fingerprint": record.fingerprint,
        "licence": record.licence,
    }

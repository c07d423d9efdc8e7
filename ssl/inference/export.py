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
from torch import Tensor, nn

from ..common.errors import EarthSSLError, nearest
from ..common.files import disk_full_is_clear, write_json
from ..hub.pull import load_folder
from .compare_export import Inputs, Program, cases, compare_dates, difference
from .frozen_encoder import FrozenEncoder
from .load import load_encoder
from .portable_encoder import PortableEncoder, example

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "torchscript": ".pt"}
OPSET = 18
INPUTS = ["fields", "seconds"]
# Features come out of a layer norm, so they are of order 1; fp32 in another order of sums differs by some 1e-6.
TOLERANCE = 1e-4
REFUSED = f"the file was not kept: try another kind ({', '.join(SUFFIXES)})"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file; its description is beside it, `.json` added to the name.
        difference: Largest absolute difference of a feature from the encoder's, over all inputs compared.
        tolerance: What it may be at most.
        inputs: Windows compared.
        dates: Dates at which the calendar was compared.
    """

    path: Path
    difference: float
    tolerance: float
    inputs: int
    dates: int


def export(
    checkpoint: str | Path | FrozenEncoder,
    out: str | Path,
    kind: str = "onnx",
    *,
    pooling: str = "mean",
    layer: int = -1,
) -> Exported:
    """Write an encoder to a file that needs none of this package, read it back, and compare.

    The calendar, written alone in the same way, is run at every hour of 1800–2200 and about each midnight, and equals
    numpy's. The written file is loaded and run on the golden input (where an address was given), on one window and on
    several, and on a hundred windows spread over these years, with gaps of all kinds.

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
    temporary = out.with_name(f".{out.name}.{os.getpid()}{out.suffix}")
    try:
        with disk_full_is_clear(out), _quiet():
            dates = _compare_dates(frozen, model, kind, out, temporary)
            WRITERS[kind](model, example(frozen, 3), temporary)
            golden = [] if folder is None else [("the golden input", _golden(frozen, folder / "golden.safetensors"))]
            worst, windows = _compare_features(READERS[kind](temporary), frozen, model, layer, out, golden)
        done = Exported(out, worst, TOLERANCE, windows, dates)
        write_json(description(out), _describe(frozen, model, kind, layer, done))
        try:
            os.replace(temporary, out)
        except OSError:
            description(out).unlink()
            raise
    finally:
        temporary.unlink(missing_ok=True)
    return done


def _compare_dates(frozen: FrozenEncoder, model: PortableEncoder, kind: str, out: Path, temporary: Path) -> int:
    """Write the calendar alone, as the whole is written, and compare it; returns at how many dates."""
    WRITERS[kind](model.dates, example(frozen, 3)[1:], temporary)
    try:
        return compare_dates(READERS[kind](temporary), frozen.record)
    except EarthSSLError as error:
        raise EarthSSLError(f"{out}: {error}; {REFUSED}") from None


def _compare_features(
    program: Program, frozen: FrozenEncoder, model: PortableEncoder, layer: int, out: Path,
    golden: list[tuple[str, Inputs]],
) -> tuple[float, int]:  # fmt: skip
    """Return the largest difference of a feature, and the number of windows compared."""
    worst, windows = 0.0, 0
    for name, case in [*golden, *cases(frozen)]:
        found = difference(program, frozen, case, model.pooling, layer)
        if not found <= TOLERANCE:  # NaN neither
            raise EarthSSLError(
                f"{out}: expected features within {TOLERANCE:.0e} of the encoder's, got a difference of {found:.1e} "
                f"({name}); {REFUSED}"
            )
        worst, windows = max(worst, found), windows + len(case[0])
    return worst, windows


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


def _free(inputs: Inputs) -> tuple[dict[int, Any], ...]:
    windows = torch.export.Dim("window")
    return tuple({0: windows} for _ in inputs)


def _write_onnx(model: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write a `PortableEncoder`, or the `Dates` of one, which take the last of the inputs alone."""
    names, output = (INPUTS[-len(inputs) :], "features" if len(inputs) == len(INPUTS) else "dates")
    program = torch.onnx.export(
        model, inputs, dynamo=True, opset_version=OPSET, input_names=names, output_names=[output],
        dynamic_shapes=_free(inputs), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Program:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> np.ndarray:
        given = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        return np.asarray(session.run(None, given)[0])

    return run


def _write_torch(model: nn.Module, inputs: Inputs, path: Path) -> None:
    torch.export.save(torch.export.export(model, inputs, dynamic_shapes=_free(inputs)), path)


def _read_torch(path: Path) -> Program:
    return _numpy(torch.export.load(path).module())


def _write_torchscript(model: nn.Module, inputs: Inputs, path: Path) -> None:
    torch.jit.freeze(torch.jit.trace(model.eval(), inputs, check_trace=False)).save(str(path))


def _read_torchscript(path: Path) -> Program:
    return _numpy(torch.jit.load(str(path)))


def _numpy(module: Callable[..., Tensor]) -> Program:
    def run(*inputs: Tensor) -> np.ndarray:
        with torch.no_grad():
            return module(*inputs).numpy()

    return run


WRITERS = {"onnx": _write_onnx, "torch": _write_torch, "torchscript": _write_torchscript}
READERS = {"onnx": _read_onnx, "torch": _read_torch, "torchscript": _read_torchscript}


def _golden(frozen: FrozenEncoder, file: Path) -> Inputs:
    """Return the golden input as raw fields."""
    golden = load_file(file)
    values = torch.where(golden["valid"], golden["values"], torch.nan)
    times = golden["times"].numpy().reshape(-1).astype("datetime64[s]")
    raw = frozen.record.statistics.denormalise(values.numpy().reshape(len(times), *values.shape[2:]), times)
    return torch.from_numpy(raw.astype(np.float32)).reshape(values.shape), golden["times"]


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
        "compared": {
            "dates": done.dates,
            "windows": done.inputs,
            "difference": done.difference,
            "tolerance": done.tolerance,
        },
        "fingerprint": record.fingerprint,
        "licence": record.licence,
    }

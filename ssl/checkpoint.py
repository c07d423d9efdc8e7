"""The checkpoint: one self-describing folder of safetensors and JSON; saved whole, verified, loaded or refused.

    record.json            what it is: see `Record`
    encoder.safetensors    weights of the encoder
    heads.safetensors      weights of the pretext heads (the decoder), to rebuild fields or train on
    statistics.safetensors climatology and scale of the data it was trained on
    golden.safetensors     a tiny input and the output it gave at home
    manifest.json          SHA-256 of every file above

Nothing in it is code or names code to run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .batch import Batch
from .encoder import Encoder, EncoderConfig
from .errors import EarthSSLError
from .files import disk_full_is_clear, read_json, refuse_filled, sha256, write_json
from .grid import LatLonGrid
from .splits import Splits
from .statistics import Statistics
from .tokens import patchify

FORMAT = "earthssl checkpoint"
FORMAT_VERSION = 1
FILES = (
    "record.json", "encoder.safetensors", "heads.safetensors", "statistics.safetensors", "golden.safetensors"
)  # fmt: skip
GOLDEN_TOLERANCE = 1e-3  # fp32 on other processors differs in the last digits; a wrong weight by far more


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of itself.

    Attributes:
        encoder: Shape of the encoder.
        variables: Canonical names it has weights for, with `units` and `step_days` between time steps.
        units: Of each variable.
        step_days: Median spacing of the time steps, days.
        grid: Where the cells lie.
        statistics: Climatology and scale that its inputs are normalised with.
        splits: The blocks of time of its pretraining.
        fingerprint: Of the training store.
        seed, steps: Of the training.
        config: Everything that was configured.
        licence: Of the data and hence of the weights.
        source: Where the data came from.
        versions: Of the libraries.
        health: As measured at the end.
        extra: Anything more: split proof, history, duration.
    """

    encoder: EncoderConfig
    variables: tuple[str, ...]
    units: tuple[str, ...]
    step_days: float
    grid: LatLonGrid
    statistics: Statistics
    splits: Splits
    fingerprint: str
    seed: int
    steps: int
    config: dict[str, Any]
    licence: str
    source: str
    versions: dict[str, str]
    health: dict[str, float]
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all but the arrays of the statistics as plain JSON."""
        plain = {
            name: getattr(self, name)
            for name in ("step_days", "fingerprint", "seed", "steps", "config", "licence", "source", "versions",
                         "health", "extra")
        }  # fmt: skip
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "encoder": self.encoder.to_json(),
            "variables": list(self.variables),
            "units": list(self.units),
            "grid": self.grid.to_json(),
            "statistics": self.statistics.to_json(),
            "splits": self.splits.to_json(),
            **plain,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: dict[str, Tensor], where: Path) -> Record:
        """Return the record of a folder.

        Raises:
            EarthSSLError: If it is of another format or lacks a field.
        """
        if not isinstance(record, dict):
            raise EarthSSLError(
                f"{where}: expected the record as a mapping, got {type(record).__name__}; fetch it again"
            )
        if record.get("format") != FORMAT or record.get("format_version") != FORMAT_VERSION:
            raise EarthSSLError(
                f"{where}: expected format '{FORMAT}' version {FORMAT_VERSION}, got '{record.get('format')}' version "
                f"{record.get('format_version')}; use the release of earthssl that wrote it"
            )
        try:
            kind = record["statistics"]
            encoder = {**record["encoder"], "patch": tuple(record["encoder"]["patch"])}
            return cls(
                encoder=EncoderConfig(**encoder),
                variables=tuple(record["variables"]),
                units=tuple(record["units"]),
                grid=LatLonGrid.from_json(record["grid"]),
                statistics=Statistics.from_json(kind, arrays["coefficients"].numpy(), arrays["scale"].numpy()),
                splits=Splits.from_json(record["splits"]),
                **{name: record[name] for name in ("step_days", "fingerprint", "seed", "steps", "config", "licence",
                                                   "source", "versions", "health", "extra")},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EarthSSLError(f"{where}: the record lacks or mistypes a field ({error}); fetch it again") from None


def save(folder: Path, encoder: Encoder, heads: nn.Module, record: Record, golden: Batch) -> Path:
    """Write a checkpoint folder; it appears under its name only when every file is whole.

    Raises:
        EarthSSLError: If the folder holds something already, or the disk is full.
    """
    refuse_filled(folder, "the checkpoint")
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        with disk_full_is_clear(folder):
            making.mkdir(parents=True)
            save_file(_weights(encoder), making / "encoder.safetensors")
            save_file(_weights(heads), making / "heads.safetensors")
            arrays = {"coefficients": record.statistics.coefficients, "scale": record.statistics.scale}
            save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()},
                      making / "statistics.safetensors")  # fmt: skip
            save_file(_golden(encoder, golden), making / "golden.safetensors")
            write_json(making / "record.json", record.to_json())
            write_json(making / "manifest.json", {"sha256": {name: sha256(making / name) for name in FILES}})
        if folder.exists():
            folder.rmdir()
        os.replace(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


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


def check_files(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        EarthSSLError: If there is no checkpoint, naming every file that is missing, changed or too many.
    """
    if not folder.is_dir():
        raise EarthSSLError(f"expected a checkpoint folder at {folder}, found none; see `earthssl pretrain`")
    manifest = read_json(folder / "manifest.json", "a checkpoint's manifest")
    hashes = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(hashes, dict) or set(hashes) != set(FILES):
        raise EarthSSLError(f"{folder}/manifest.json: expected the hashes of {', '.join(FILES)}; fetch it again")
    wrong = []
    for name in FILES:
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif sha256(folder / name) != hashes[name]:
            wrong.append(f"{name} was changed or damaged (SHA-256 differs)")
    wrong += [f"{entry.name} does not belong there" for entry in sorted(folder.iterdir())
              if entry.name not in (*FILES, "manifest.json")]  # fmt: skip
    if wrong:
        raise EarthSSLError(f"{folder}: expected the files of its manifest, but {'; '.join(wrong)}; fetch it again")


def read(folder: str | Path) -> tuple[Encoder, Record]:
    """Return the encoder and the record of a checkpoint, files checked, weights complete.

    Raises:
        EarthSSLError: If a file differs from its hash, or names or shapes of the weights do: all listed.
    """
    folder = Path(folder)
    check_files(folder)
    arrays = _load(folder / "statistics.safetensors")
    record = Record.from_json(read_json(folder / "record.json", "a checkpoint's record"), arrays, folder)
    encoder = record.encoder.build(record.variables)
    load_exactly(encoder, _load(folder / "encoder.safetensors"), folder / "encoder.safetensors")
    return encoder, record


def read_heads(folder: str | Path, heads: nn.Module) -> None:
    """Load the weights of the pretext heads into a module of the same shape, or list every difference."""
    file = Path(folder) / "heads.safetensors"
    load_exactly(heads, _load(file), file)


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise EarthSSLError(f"{file}: expected safetensors, but it cannot be read ({error}); fetch it again") from None


def load_exactly(module: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Load weights that match the module in every name and shape and are finite.

    Raises:
        EarthSSLError: Listing every difference; the module is then unchanged.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown here" for name in weights if name not in own]
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape:
            wrong.append(f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(weights[name].shape)}")
        elif weights[name].is_floating_point() and not weights[name].isfinite().all():
            wrong.append(f"{name} holds values that are not finite")
    if wrong:
        raise EarthSSLError(f"{where}: the weights do not fit the record: {'; '.join(sorted(wrong))}")
    module.load_state_dict(weights)


def verify(folder: str | Path) -> dict[str, Any]:
    """Check hashes, record, weights, and that the encoder still does what it did at home.

    Returns:
        The largest difference of the golden output and the tolerance.

    Raises:
        EarthSSLError: On the first thing that is not as it should be.
    """
    folder = Path(folder)
    encoder, record = read(folder)
    encoder.eval()
    golden = _load(folder / "golden.safetensors")
    batch = Batch(
        golden["values"], golden["valid"], golden["times"], torch.zeros(len(golden["values"]), dtype=torch.int64),
        torch.from_numpy(record.statistics.known), record.variables, record.grid,
    )  # fmt: skip
    with torch.no_grad():
        output = encoder(patchify(batch, encoder.config.patch))
    difference = float((output - golden["output"]).abs().max())
    if not difference <= GOLDEN_TOLERANCE:
        raise EarthSSLError(
            f"{folder}: the golden input gives an output that differs by {difference:.2e}, expected at most "
            f"{GOLDEN_TOLERANCE:.0e}; the weights or this installation are wrong"
        )
    return {"golden_difference": difference, "tolerance": GOLDEN_TOLERANCE, "files": list(FILES)}


def load_encoder(folder: str | Path) -> Any:
    """Return the `FrozenEncoder` of a checkpoint folder."""
    from .embed import FrozenEncoder

    encoder, record = read(folder)
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

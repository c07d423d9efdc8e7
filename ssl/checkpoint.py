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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .batch import Batch
from .card import card
from .encoder import Encoder
from .errors import EarthSSLError
from .files import disk_full_is_clear, read_json, refuse_filled, sha256, write_json, write_text
from .grid import LatLonGrid
from .migration import FORMAT_VERSION, version_of
from .record import Record
from .tokens import patchify

FILES_V1 = (
    "record.json", "encoder.safetensors", "heads.safetensors", "statistics.safetensors", "golden.safetensors"
)  # fmt: skip
FILES = (*FILES_V1, "card.md")
TASK_FILE = "task.safetensors"
MANIFEST = "manifest.json"
Weights = nn.Module | Mapping[str, Tensor]
GOLDEN_TOLERANCE = 1e-3  # fp32 on other processors differs in the last digits; a wrong weight by far more


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
    refuse_filled(folder, "the checkpoint")
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        with disk_full_is_clear(folder):
            making.mkdir(parents=True)
            arrays = {"coefficients": record.statistics.coefficients, "scale": record.statistics.scale}
            _save(making / "encoder.safetensors", encoder)
            _save(making / "heads.safetensors", heads)
            _save(making / "statistics.safetensors",
                  {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()})  # fmt: skip
            _save(making / "golden.safetensors", _golden(encoder, golden))
            if task is not None:
                _save(making / TASK_FILE, task)
            write_json(making / "record.json", record.to_json())
            write_text(making / "card.md", card(record))
            write_json(making / MANIFEST, manifest_of(making, files_of(record.task is not None)))
        if folder.exists():
            folder.rmdir()
        os.replace(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def files_of(tuned: bool) -> tuple[str, ...]:
    """Return the names of the files of a folder, without the manifest, of a fine-tuned encoder or another."""
    return (*FILES, TASK_FILE) if tuned else FILES


def manifest_of(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return what the manifest of a folder with these files holds."""
    return {
        "format_version": FORMAT_VERSION,
        "sha256": {name: sha256(folder / name) for name in names},
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }


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


def check_files(folder: Path) -> tuple[str, ...]:
    """Compare every file with the manifest and return their names.

    Raises:
        EarthSSLError: If there is no checkpoint, naming every file that is missing, changed or too many.
    """
    if not folder.is_dir():
        raise EarthSSLError(f"expected a checkpoint folder at {folder}, found none; see `earthssl pretrain`")
    manifest = read_json(folder / MANIFEST, "a checkpoint's manifest")
    hashes = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(hashes, dict) or set(hashes) not in map(set, (FILES_V1, files_of(False), files_of(True))):
        raise EarthSSLError(f"{folder}/{MANIFEST}: expected the hashes of {', '.join(FILES)}; fetch it again")
    names = tuple(name for name in files_of(True) if name in hashes)
    wrong = []
    for name in names:
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif sha256(folder / name) != hashes[name]:
            wrong.append(f"{name} was changed or damaged (SHA-256 differs)")
    wrong += [f"{entry.name} does not belong there" for entry in sorted(folder.iterdir())
              if entry.name not in (*names, MANIFEST)]  # fmt: skip
    if wrong:
        raise EarthSSLError(f"{folder}: expected the files of its manifest, but {'; '.join(wrong)}; fetch it again")
    return names


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


def read_task(folder: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a fine-tuned head; `Record.task` says what they are.

    Raises:
        EarthSSLError: If the folder has no task, or the file cannot be read.
    """
    file = Path(folder) / TASK_FILE
    if not file.exists():
        raise EarthSSLError(
            f"expected the head of a fine-tuned encoder at {file}, found none: this one is only pretrained; "
            "see `earthssl finetune`"
        )
    return _load(file)


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
    names = check_files(folder)
    version = version_of(read_json(folder / "record.json", "a checkpoint's record"), folder)
    encoder, record = read(folder)
    if (record.task is not None) != (TASK_FILE in names):
        raise EarthSSLError(f"{folder}: expected {TASK_FILE} if and only if the record names a task; fetch it again")
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
    return {
        "golden_difference": difference,
        "tolerance": GOLDEN_TOLERANCE,
        "files": list(names),
        "format_version": version,
    }


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

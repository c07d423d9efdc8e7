"""Transfer: the weights of a checkpoint laid into a new encoder, by rule, with a list of all that was done.

Blocks, norm and encodings must agree and are copied. Positions are true latitudes and longitudes and slots count
steps back from the last, so another grid or window needs nothing. Embedding blocks of known variables are copied,
or resized to another patch; those of new variables start at zero, so that the encoder at first does as before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..common.errors import EarthSSLError
from ..common.files import sha256
from ..fields.grid import LatLonGrid
from ..model.encoder import SIZES, Encoder
from .manifest import checkpoint_folder
from .read import read
from .record import Record

Patch = tuple[int, int, int]


@dataclass(frozen=True)
class Transfer:
    """What became of a checkpoint's weights in a new encoder.

    Attributes:
        source: Folder of the checkpoint.
        manifest_sha256: Of its manifest, which holds the hashes of its files.
        fingerprint: Of the store it was trained on.
        kept, resized, new, dropped: In words, one entry for each part.
        notes: What differs and needed nothing.
        trainings: What the checkpoint was trained on, see `Record.trainings`.
    """

    source: str
    manifest_sha256: str
    fingerprint: str
    kept: list[str]
    resized: list[str]
    new: list[str]
    dropped: list[str]
    notes: list[str]
    trainings: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON; the trainings have a place of their own in a checkpoint's."""
        return {name: value for name, value in asdict(self).items() if name != "trainings"}

    def lines(self) -> list[str]:
        """Return the record as lines to be read."""
        made = [f"weights from {self.source}"]
        for name in ("kept", "resized", "new", "dropped", "notes"):
            made += [f"  {name:<8} {words}" for words in getattr(self, name)]
        return made


def start_from(folder: str | Path, encoder: Encoder, grid: LatLonGrid, step_days: float) -> Transfer:
    """Lay a checkpoint's weights into a new encoder and return the record of it; random states stay as they were.

    Args:
        folder: Of the checkpoint, or of its run.
        encoder: New; changed in place.
        grid: Of the new data, for the record.
        step_days: Spacing of the new data's times, for the record.

    Raises:
        EarthSSLError: If the checkpoint is damaged, or width, depth or heads differ: all listed, nothing is changed.
    """
    folder = checkpoint_folder(Path(folder))
    with torch.random.fork_rng(devices=[]):
        donor, record = read(folder)
    _check_shape(donor, encoder, folder)
    for name in ("encodings", "blocks", "norm"):
        getattr(encoder, name).load_state_dict(getattr(donor, name).state_dict())
    with torch.no_grad():
        encoder.embedding.bias.copy_(donor.embedding.bias)
    old, fresh = donor.config.patch, encoder.config.patch
    known = [name for name in encoder.variables if name in donor.variables]
    new = [name for name in encoder.variables if name not in donor.variables]
    if not known:
        raise EarthSSLError(
            f"start_from: {folder} knows {', '.join(donor.variables)}, none of which the store holds "
            f"({', '.join(encoder.variables)}); start anew"
        )
    _embed(donor, encoder, known, new)
    kept = [f"{encoder.depth} blocks, norm, encodings of place, layout, slot and season, bias of the embedding"]
    embedded = f"embedding of {', '.join(known)}"
    resized = []
    if old == fresh:
        kept.append(embedded)
    else:
        resized.append(f"{embedded}: patch {_times(old)} → {_times(fresh)}, valid share kept")
    return Transfer(
        source=str(folder),
        manifest_sha256=sha256(folder / "manifest.json"),
        fingerprint=record.fingerprint,
        kept=kept,
        resized=resized,
        new=[f"embedding of {name}: zero weights, at first without effect" for name in new] + ["pretext heads"],
        dropped=[f"embedding of {name}" for name in donor.variables if name not in encoder.variables]
        + ["pretext heads of the checkpoint"],
        notes=_notes(record, encoder, grid, step_days),
        trainings=record.trainings,
    )


def _check_shape(donor: Encoder, encoder: Encoder, folder: Path) -> None:
    """Raise where the blocks cannot be copied, with every difference."""
    names = ("width", "depth", "heads")
    ours, theirs = SIZES[encoder.config.size], SIZES[donor.config.size]
    wrong = [f"{name} {b}, got {a}" for name, a, b in zip(names, ours, theirs, strict=True) if a != b]
    if wrong:
        raise EarthSSLError(
            f"start_from: the blocks of {folder} have another shape: expected {'; '.join(wrong)}; set encoder.size "
            f"{donor.config.size}"
        )


@torch.no_grad()
def _embed(donor: Encoder, encoder: Encoder, known: list[str], new: list[str]) -> None:
    for name in known:
        weight = donor.embedding.blocks[name]
        encoder.embedding.blocks[name].copy_(resize(weight, donor.config.patch, encoder.config.patch))
    for name in new:
        encoder.embedding.blocks[name].zero_()


def _notes(record: Record, encoder: Encoder, grid: LatLonGrid, step_days: float) -> list[str]:
    notes = []
    if not record.grid.same_as(grid):
        notes.append(f"grid {record.grid} → {grid}: positions are true latitude and longitude, nothing to adapt")
    if record.encoder.window != encoder.config.window:
        notes.append(
            f"window {record.encoder.window} → {encoder.config.window} steps: slots count back from the last, "
            "nothing to adapt"
        )
    if abs(step_days - record.step_days) > 0.1 * record.step_days:
        notes.append(f"time step {record.step_days:g} → {step_days:g} days: a slot now means another lag")
    notes.append("fields are normalised with the new store's statistics")
    return notes


def _times(patch: Patch) -> str:
    return "×".join(str(size) for size in patch)


def resize_matrix(old: Patch, new: Patch) -> Float[Tensor, "new_cell old_cell"]:
    """Return the matrix that turns the cells of an old patch into those of a new one: linear, smoothed if smaller."""
    parts = []
    for a, b in zip(old, new, strict=True):
        eye = torch.eye(a, dtype=torch.float64)[None, None]
        parts.append(nn.functional.interpolate(eye, (b, a), mode="bilinear", antialias=True)[0, 0])
    return torch.kron(torch.kron(parts[0], parts[1]), parts[2])


def resize(
    weight: Float[Tensor, "old_cell_and_share width"], old: Patch, new: Patch
) -> Float[Tensor, "new_cell_and_share width"]:
    """Return the weights of an embedding block for another patch (steps, rows, columns).

    A patch enlarged linearly gets the token that it had (pseudo-inverse of the enlargement: FlexiViT, Beyer et al.
    2023, arXiv 2212.08013); for a smaller patch the tokens agree best in the mean over white fields, and exactly for a
    constant one. The last row, of the valid share, is kept.
    """
    if old == new:
        return weight.clone()
    kernel, share = weight[:-1].double().cpu(), weight[-1:]
    matrix = resize_matrix(old, new)
    made = torch.linalg.pinv(matrix.T) @ kernel
    # What is left of a constant field's token goes where it changes the others least.
    ones = torch.ones(len(made), 1, dtype=torch.float64)
    towards = torch.linalg.pinv(matrix @ matrix.T) @ ones
    made += towards / towards.sum() * (kernel.sum(0) - made.sum(0))
    return torch.cat([made.to(weight), share])

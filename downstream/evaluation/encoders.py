"""Contenders: the encoders that a probe compares, pretrained ones and their untrained twins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialise

from ...ssl.checkpoint.manifest import checkpoint_folder
from ...ssl.checkpoint.read import read
from ...ssl.checkpoint.record import Record, differences
from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import digest as digest_of
from ...ssl.common.files import sha256
from ...ssl.common.randomness import key
from ...ssl.fields.grid import LatLonGrid
from ...ssl.model.encoder import Encoder, EncoderConfig
from ...ssl.store.store import Store
from ..results.row import Role
from ..training.from_scratch import SCRATCH
from .pretraining_leaks import seen_by_pretraining

PRETRAINED, UNTRAINED = "pretrained", "untrained"
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]
ZERO_SHOT = "pretrained [decoder, zero-shot]"


@dataclass(frozen=True, eq=False)
class Decoder:
    """What the heads of pretraining can do without any training on a task; fields are normalised.

    Attributes:
        fill: Takes gappy windows (window, time, variable, row, column), NaN where nothing is observed, and their
            times (window, time); returns them without gaps. None where no pretext task rebuilds fields.
        ahead: Takes the same and steps ahead, one of `leads`; returns fields (window, variable, row, column).
        leads: Steps ahead that are known; none where no pretext task forecasts.
    """

    fill: Fill | None = None
    ahead: Callable[[np.ndarray, np.ndarray, int], np.ndarray] | None = None
    leads: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Contender:
    """An encoder to be probed.

    Attributes:
        kind: "pretrained" or "untrained".
        seed: Of its pretraining, or of the pretraining that would have begun with its weights.
        encoder: Frozen, in evaluation mode.
        features_key: Names its cached features, see the function of that name; empty where they are never cached.
        source: What result.json says of it.
    """

    kind: str
    seed: int
    encoder: Encoder
    features_key: str
    source: dict[str, Any]


def contenders(
    store: Store,
    checkpoints: Sequence[str],
    untrained_seeds: int,
    shape: EncoderConfig | None = None,
    other_statistics: bool = False,
    other_grid: bool = False,
) -> list[Contender]:
    """Return the pretrained encoders, then untrained twins: the weights that each pretraining began with.

    Args:
        store: What they must fit: variables, grid, step, scaling, and blocks that keep the test block unseen.
        checkpoints: Checkpoint or run folders of one recipe at several seeds; may be empty with a shape.
        untrained_seeds: Number of twins.
        shape: Of the twins where there are no checkpoints.
        other_statistics: Whether their training data may have had another climatology and scale.
        other_grid: Whether they may have been trained on another region; the spacing must be the same.

    Raises:
        EarthSSLError: If a checkpoint does not fit the store, or there is nothing to probe.
    """
    folders = [checkpoint_folder(Path(path)) for path in checkpoints]
    loaded = [read(folder) for folder in folders]
    for folder, (_, record) in zip(folders, loaded, strict=True):
        check_fits(folder, record, store, loaded[0][1], other_statistics, other_grid)
    seeds = [record.seed for _, record in loaded]
    if len(set(seeds)) < len(seeds):
        raise EarthSSLError(f"checkpoints: expected different seeds of one recipe, got the seeds {seeds}")
    shape = loaded[0][1].encoder if loaded else shape
    if shape is None:
        raise EarthSSLError("expected checkpoints, or the shape of an encoder to probe untrained, got neither")
    found = []
    for folder, (encoder, record) in zip(folders, loaded, strict=True):
        digest, named = sha256(folder / "encoder.safetensors"), features_key(encoder)
        source = {"seed": record.seed, "path": str(folder), "fingerprint": record.fingerprint, "steps": record.steps,
                  "sha256": digest}  # fmt: skip
        if record.fingerprint != store.fingerprint and not _same_scaling(record, store, kind_only=False):
            source["other_statistics"] = str(record.source)
        found.append(Contender(PRETRAINED, record.seed, encoder.eval().requires_grad_(False), named, source))
    for seed in twin_seeds(seeds, untrained_seeds):
        twin = untrained(shape, store, seed)
        digest = hashlib.sha256(serialise(twin.state_dict())).hexdigest()
        source = {"seed": seed, "steps": 0, "sha256": digest}
        found.append(Contender(UNTRAINED, seed, twin, features_key(twin), source))
    if not found:
        raise EarthSSLError("expected at least one checkpoint or one untrained seed to probe, got none")
    return found


def features_key(encoder: Encoder) -> str:
    """Return what names the features of an encoder: its weights, variables and shape (other windows share weights)."""
    weights = hashlib.sha256(serialise(encoder.state_dict())).hexdigest()
    return digest_of([weights, list(encoder.variables), encoder.config.to_json()])


def untrained(shape: EncoderConfig, store: Store, seed: int) -> Encoder:
    """Return the encoder with which the pretraining of this seed begins, frozen."""
    torch.manual_seed(key(seed, "init") & (2**63 - 1))
    return shape.build(store.variables).eval().requires_grad_(False)


def twin_seeds(trained: list[int], count: int) -> list[int]:
    """Return seeds for the untrained twins: those of the pretrainings first."""
    others = [seed for seed in range(count + len(trained)) if seed not in trained]
    return [*trained, *others][:count]


def starts(
    encoders: Sequence[Contender], scratch: int, tuned: str, seeds: int | None
) -> list[tuple[str, Role, int, Encoder | None]]:
    """Return what the networks trained as a whole begin with: name and role of the row, seed, encoder or None for none.

    Args:
        encoders: Of the table.
        scratch: Networks that begin with nothing.
        tuned: Name of the rows that begin with a pretrained encoder; empty for none.
        seeds: How many of each kind, where not all are asked for.
    """
    count = scratch if seeds is None else seeds
    pretrained = [one for one in encoders if one.kind == PRETRAINED][:seeds] if tuned and count else []
    nothing: list[tuple[str, Role, int, Encoder | None]] = [(SCRATCH, Role.SCRATCH, k, None) for k in range(count)]
    return [*nothing, *((tuned, Role.TUNED, one.seed, one.encoder) for one in pretrained)]


def check_fits(
    folder: Path,
    record: Record,
    store: Store,
    first: Record,
    other_statistics: bool = False,
    other_grid: bool = False,
) -> None:
    """Refuse a checkpoint that does not fit the store, or not the others; list every difference."""
    free = other_grid and np.allclose(_spacing(record.grid), _spacing(store.grid), rtol=0.01)
    said = differences(record, store.variables, record.grid if free else store.grid, store.step_days)
    if record.fingerprint != store.fingerprint and not _same_scaling(record, store, other_statistics, free):
        remedy = "" if other_statistics else ", or where the data are another planet's or model's, set other_statistics"
        said.append("statistics: the encoder's inputs were normalised otherwise than the store's; prepare the store "
                    f"with the same blocks and scale{remedy}")  # fmt: skip
    said += [f"splits: {words}" for words in seen_by_pretraining(record.trainings, store)]
    for name in ("encoder", "variables"):
        if getattr(record, name) != getattr(first, name):
            said.append(f"{name}: the first checkpoint has {getattr(first, name)}, this one {getattr(record, name)}")
    if said:
        raise EarthSSLError(f"{folder} does not fit the store {store.path}: {'; '.join(map(str, said))}")


def _same_scaling(record: Record, store: Store, kind_only: bool, other_grid: bool = False) -> bool:
    own, its = store.statistics, record.statistics
    if kind_only and other_grid:  # by cell or by variable
        alike = [bool(np.ptp(one.scale, axis=(-2, -1)).max() == 0) for one in (own, its)]
        return own.to_json() == its.to_json() and alike[0] == alike[1]
    if kind_only:
        return own.to_json() == its.to_json() and own.scale.shape == its.scale.shape
    return own.to_json() == its.to_json() and all(
        getattr(own, name).shape == getattr(its, name).shape
        and np.allclose(getattr(own, name), getattr(its, name), rtol=1e-5, equal_nan=True)
        for name in ("coefficients", "scale")
    )


def _spacing(grid: LatLonGrid) -> tuple[float, float]:
    """Return the mean distance of neighbouring rows and columns, degrees."""
    rows, columns = (abs(float(axis[-1] - axis[0])) / max(len(axis) - 1, 1) for axis in (grid.lat, grid.lon))
    return rows, columns


def layers_to_read(asked: Sequence[int] | None, depth: int) -> list[int]:
    """Return the blocks to read, counted from 0: the last third, at least two, where none are asked for."""
    if asked is None:
        return list(range(min(depth - 2, 2 * depth // 3) if depth > 1 else 0, depth))
    bad = [layer for layer in asked if not -depth <= layer < depth]
    if bad:
        raise EarthSSLError(f"probe.layers: expected {-depth} to {depth - 1}, got {bad[0]}")
    return sorted({layer % depth for layer in asked})

"""All states of a store in three spaces, frozen features, principal components of the fields, the fields themselves:
made once in the background and kept in a file; and the states most alike in each.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..downstream.features.eof import Eof
from ..downstream.heads.neighbours import picked
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import digest, disk_full_is_clear
from ..ssl.fields.splits import unbroken_starts
from ..ssl.inference.frozen_encoder import FrozenEncoder
from ..ssl.store.store import Store
from .windows import common, window_batch

SPACES = ("features", "components", "fields")
COMPONENTS = 50
FITTED = 2000  # training windows, evenly spread, that components are fitted on
BATCH = 64  # windows at once


@dataclass(frozen=True, eq=False)
class States:
    """Every window of a store.

    Attributes:
        rows: Step of the store that each ends at, ascending, (state,).
        features: Principal components of the last step's tokens of the frozen encoder's last block, fitted on
            training windows, (state, component), float32.
        components: Principal components of the normalised fields of the last step, area-weighted, fitted there too.
        explained: Share of the variance that each component of the features explains.
    """

    rows: np.ndarray
    features: np.ndarray
    components: np.ndarray
    explained: np.ndarray


def fits(frozen: FrozenEncoder, store: Store) -> None:
    """Raise where an encoder cannot read a store.

    Raises:
        EarthSSLError: If grids or steps differ, or not one variable is common, or no window is unbroken.
    """
    record = frozen.record
    if not record.grid.same_as(store.grid):
        raise EarthSSLError(
            f"expected a store on the checkpoint's grid ({record.grid}), got {store.grid}; prepare one on that grid"
        )
    if not set(record.variables) & set(store.variables):
        raise EarthSSLError(
            f"expected a store with variables of the checkpoint ({', '.join(record.variables)}), got "
            f"{', '.join(store.variables)}"
        )
    if abs(record.step_days - store.step_days) > 0.1 * record.step_days:
        raise EarthSSLError(
            f"expected steps of {record.step_days:g} days as the checkpoint's, got {store.step_days:g}; prepare the "
            "store anew with those"
        )
    if not len(unbroken_starts(store.times.astype("datetime64[ns]"), record.encoder.window)):
        raise EarthSSLError(f"expected {record.encoder.window} unbroken steps (the encoder's window), got fewer")


class Progress:
    """How far the work in the background has come, and how it ended.

    Attributes:
        share: Of the work that is done, 0 to 1.
        error: What went wrong, in words; "" while nothing did.
        ready: The states, when they are.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self.error = ""
        self.ready: States | None = None
        self.stopped = threading.Event()

    def states(self) -> States:
        """Return the states.

        Raises:
            EarthSSLError: If they are not ready yet, or cannot be.
        """
        if self.error:
            raise EarthSSLError(self.error)
        if self.ready is None:
            raise EarthSSLError(f"the features are being computed ({self.share:.0%}); ask again")
        return self.ready


def cached(folder: Path, frozen: FrozenEncoder, store: Store, weights: str, progress: Progress | None = None) -> States:
    """Return the states from a file in the folder, made if it is missing.

    Args:
        folder: Where the file lies; it is created.
        frozen: The encoder.
        store: The store.
        weights: A digest of the encoder's weights: with the store's fingerprint it names the file.
        progress: Told how far the work is; its `stopped` ends it.

    Raises:
        EarthSSLError: If the encoder cannot read the store, or the disk is full.
    """
    fits(frozen, store)
    file = folder / f"states-{digest([weights, store.fingerprint, COMPONENTS, 1])[:16]}.safetensors"
    if file.is_file():
        try:
            return States(**load_file(file))
        except (SafetensorError, TypeError):
            file.unlink()  # of another version; made again below
    states = compute(frozen, store, progress or Progress())
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with disk_full_is_clear(file):
            save_file({name: np.ascontiguousarray(value) for name, value in vars(states).items()}, temporary)
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return states


def compute(frozen: FrozenEncoder, store: Store, progress: Progress, most: int = 0) -> States:
    """Return the states of a store; of the fields, no more than some batches are held in memory.

    Args:
        frozen: The encoder.
        store: That it fits.
        progress: Told how far the work is.
        most: Windows, evenly spread; 0 for all.
    """
    window = frozen.record.encoder.window
    rows = unbroken_starts(store.times.astype("datetime64[ns]"), window) + window - 1
    if 0 < most < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
    training = rows[store.splits.inside(store.times[rows].astype("datetime64[ns]"), "train")]
    training = training if len(training) > 2 else rows
    chosen = training[np.unique(np.linspace(0, len(training) - 1, min(FITTED, len(training))).astype(int))]
    work = Work(frozen, store, progress, len(rows) + len(chosen))
    tokens, fields = work.both(chosen)
    area = np.broadcast_to(store.grid.area, store.shape[1:]).ravel()
    of_tokens = Eof.fit(tokens, np.ones(tokens.shape[1]), min(COMPONENTS, len(chosen) - 1), fewer=True)
    of_fields = Eof.fit(fields, area, min(COMPONENTS, len(chosen) - 1), fewer=True)
    del tokens, fields
    features, components = [], []
    for part in np.array_split(rows, max(1, len(rows) // 512)):
        tokens, fields = work.both(part)
        features.append(of_tokens.project(tokens).astype(np.float32))
        components.append(of_fields.project(fields).astype(np.float32))
    return States(
        rows.astype(np.int64), np.concatenate(features), np.nan_to_num(np.concatenate(components)),
        of_tokens.explained.astype(np.float32),
    )  # fmt: skip


class Work:
    """Reads and encodes windows, and says how far it is."""

    def __init__(self, frozen: FrozenEncoder, store: Store, progress: Progress, total: int) -> None:
        """Prepare to read so many windows of a store that the encoder fits."""
        self.frozen, self.store, self.progress = frozen, store, progress
        self.total, self.done = total, 0
        patches = frozen.patches(common(frozen.record, store))
        self.last = (patches.step == patches.shape[0] - 1).numpy()
        self.view = frozen.view("tokens", -1, BATCH)

    def both(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the last step's tokens, (state, token · feature), and its normalised fields, (state, cell)."""
        tokens, fields = [], []
        length = self.frozen.record.encoder.window
        for k in range(0, len(rows), BATCH):
            if self.progress.stopped.is_set():
                raise EarthSSLError("stopped")
            steps = rows[k : k + BATCH, None] + np.arange(-length + 1, 1)
            fields_of = self.store.read(steps.ravel())
            found = self.frozen.encode(window_batch(self.frozen.record, self.store, fields_of, steps), self.view)[:, 0]
            tokens.append(found[:, self.last].reshape(len(found), -1))
            fields.append(fields_of.reshape(*steps.shape, -1)[:, -1])
            self.done += len(steps)
            self.progress.share = self.done / self.total
        return np.concatenate(tokens), np.concatenate(fields)


@dataclass(frozen=True)
class Analogue:
    """A state like another: its step, and the distance as a share of the mean distance of all states."""

    step: int
    distance: float


def analogues(states: States, store: Store, step: int, space: str, count: int, exclude_days: float) -> list[Analogue]:
    """Return the states most alike, nearest first, each at least `exclude_days` from the date and from each other.

    Args:
        states: All there are.
        store: Says when they are, and holds the fields.
        step: The step asked for.
        space: "features" (Euclidean in their components), "components" or "fields" (root mean square over the sphere
            of the normalised variables; the last step alone).
        count: How many.
        exclude_days: Days around a date that are left out.

    Raises:
        EarthSSLError: If no window ends at the step, or there is no such space.
    """
    if not exclude_days >= 0:
        raise EarthSSLError(f"exclude: expected days from 0, got {exclude_days:g}")
    if space not in SPACES:
        raise EarthSSLError(f"space: expected {', '.join(SPACES)}, got '{space}'")
    own = int(np.searchsorted(states.rows, step))
    if own >= len(states.rows) or states.rows[own] != step:
        raise EarthSSLError(f"expected a step at which a window of the encoder ends, got {step}; take a later one")
    if space == "fields":
        distance = _field_distances(store, step)[states.rows]
    else:
        values: np.ndarray = getattr(states, space)
        distance = np.sqrt(np.square(values - values[own]).sum(axis=1))
    days = store.times[states.rows].astype(np.float64) / 86400
    taken = np.abs(days - days[own]) <= exclude_days
    usual = float(np.nanmean(distance[~taken])) if (~taken).any() else 1.0
    distance = np.where(taken | ~np.isfinite(distance), np.inf, distance)
    order = np.argsort(distance, kind="stable")[: int(np.isfinite(distance).sum())]
    places = picked(days[order][None], days[[own]], min(count, len(order)), exclude=exclude_days, apart=True)[0]
    return [Analogue(int(states.rows[k]), float(distance[k] / (usual or 1.0))) for k in order[places[places >= 0]]]


def _field_distances(store: Store, step: int) -> np.ndarray:
    """Return the distance of every step's normalised fields from one's, (step,); read chunk after chunk."""
    field = store.read([step])[0].ravel()
    area = np.broadcast_to(store.grid.area, store.shape[1:]).ravel().astype(np.float32)
    out = np.empty(len(store.times), np.float32)
    for part in np.array_split(np.arange(len(store.times)), max(1, len(store.times) // 256)):
        gap = np.square(store.read(part).reshape(len(part), -1) - field)
        valid = np.isfinite(gap)
        weight = valid @ area
        total = np.where(valid, gap, 0) @ area
        out[part] = np.sqrt(np.divide(total, weight, out=np.full(len(part), np.nan, np.float32), where=weight > 0))
    return out


def points(states: States, axes: int = 6) -> dict[str, Any]:
    """Return what the scatter needs: rows as int32, leading components as float32 (state, axis), their shares."""
    axes = min(axes, states.features.shape[1])
    return {
        "rows": states.rows.astype(np.int32),
        "values": np.ascontiguousarray(states.features[:, :axes]),
        "explained": states.explained[:axes].tolist(),
    }

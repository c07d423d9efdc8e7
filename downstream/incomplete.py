"""Anomalies of one variable of a store, and the same with gaps: for fillers, and as windows for an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..ssl.batch import Batch, from_fields
from ..ssl.encoder import Encoder
from ..ssl.errors import EarthSSLError, nearest
from ..ssl.splits import window_starts
from ..ssl.store import Store
from ..ssl.tokens import patchify, unpatchify
from .enso import monthly_anomaly
from .gaps import GapConfig, Gaps
from .interpolation import Places
from .patch_head import Moments, PatchHead

# Fields of windows (window, time, variable, row, column), normalised, NaN where nothing is observed, and their times
# (window, time), datetime64[s]; returns the fields without gaps wherever the store ever holds a value.
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]

MOST_CELLS = 8000  # distances and covariances of all pairs are held in memory
LEAST_SPREAD = 2e-3  # of a cell's training anomalies, relative to all: below it stands constant sea ice
AT_ONCE = 64  # windows in a batch


@dataclass(frozen=True, eq=False)
class Anomalies:
    """What is to be filled: one variable's departures from the climatology of the fit period.

    The fit period is train start … validation end. Cells count that hold a value at all its times and vary.

    Attributes:
        store: Where they come from.
        variable: Canonical name.
        known: The cells that count, (rows, columns).
        values: In the variable's unit, (time, cells that count); NaN where the truth is missing.
        places: Those cells.
    """

    store: Store
    variable: str
    known: np.ndarray
    values: np.ndarray
    places: Places

    @classmethod
    def of(cls, store: Store, variable: str | None = None) -> Anomalies:
        """Return the anomalies of a store's variable, by default its first.

        Raises:
            EarthSSLError: If the store does not hold the variable, or has too few or too many cells of it.
        """
        name = variable or store.variables[0]
        if name not in store.variables:
            raise EarthSSLError(
                f"infilling.variable: expected one of {', '.join(store.variables)} of {store.path}, got '{name}'."
                + nearest(name, list(store.variables))
            )
        k = store.variables.index(name)
        steps = np.arange(len(store.times))
        fields = store.read(steps)[:, k].astype(np.float64) * store.statistics.scale[k]
        fit = store.splits.inside(store.times.astype("datetime64[ns]"), "fit")
        own = fields[fit]
        whole = np.isfinite(own).all(0)
        spread = np.where(whole, np.where(whole, own, 0.0).std(0), 0.0)
        overall = np.sqrt((spread[whole] ** 2).mean()) if whole.any() else 0.0
        known = whole & (spread > LEAST_SPREAD * overall)
        if not 2 <= known.sum() <= MOST_CELLS:
            raise EarthSSLError(
                f"infilling: expected 2 to {MOST_CELLS} cells of '{name}' that hold a value at all times from train "
                f"start to validation end and vary, got {int(known.sum())}; average the data onto larger cells "
                "(option resolution or coarsen of prepare), or take a variable without gaps of its own"
            )
        rows, columns = np.nonzero(known)
        grid = store.grid
        places = Places(grid.lat[rows], grid.lon[columns], grid.area[known])
        values = monthly_anomaly(fields[:, known], _month(store.times), fit)
        return cls(store, name, known, values, places)

    @cached_property
    def fit(self) -> np.ndarray:
        """Training fields of the baselines: all of the fit period, (time, cells)."""
        times = self.store.times.astype("datetime64[ns]")
        return self.values[self.store.splits.inside(times, "fit")]

    @property
    def position(self) -> int:
        """Index of the variable in the store."""
        return self.store.variables.index(self.variable)

    @cached_property
    def _offset(self) -> np.ndarray:
        """What the store's anomalies (from training's climatology) exceed these by, (time, cells)."""
        times = self.store.times
        fit = self.store.splits.inside(times.astype("datetime64[ns]"), "fit")
        fields = self.normalised[:, self.known] * self.store.statistics.scale[self.position][self.known]
        month, offset = _month(times), np.zeros(fields.shape)
        for m in np.unique(month):
            offset[month == m] = fields[fit & (month == m)].mean(0)
        return offset

    @cached_property
    def normalised(self) -> np.ndarray:
        """The variable as the store holds it, (time, rows, columns)."""
        return self.store.read(np.arange(len(self.store.times)))[:, self.position].astype(np.float64)

    def from_normalised(self, fields: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return normalised fields (step, rows, columns) at steps of the store as these anomalies, (step, cells)."""
        scale = self.store.statistics.scale[self.position][self.known]
        return fields[:, self.known] * scale - self._offset[steps]

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Return values of the cells that count (…, cells) as a map (…, rows, columns), NaN elsewhere."""
        out = np.full((*values.shape[:-1], *self.known.shape), np.nan)
        out[..., self.known] = values
        return out

    def ends(self, part: str, length: int) -> np.ndarray:
        """Return the last steps of the windows of `length` steps inside a block of the splits."""
        times = self.store.times.astype("datetime64[ns]")
        return window_starts(times, self.store.splits, part, length) + length - 1


class Gappy:
    """Anomalies seen through gaps of one kind; the gaps of a step are the same for everyone who looks."""

    def __init__(self, anomalies: Anomalies, config: GapConfig) -> None:
        """Draw the gaps of all steps.

        Raises:
            EarthSSLError: If a mask leaves nothing observed or nothing hidden.
        """
        self.anomalies, self.config = anomalies, config
        gaps = Gaps(config, anomalies.store.grid, anomalies.known)
        self.seen = np.stack([gaps.observed(step) for step in range(len(anomalies.store.times))])

    def observed(self, steps: np.ndarray) -> np.ndarray:
        """Return the anomalies at the steps, NaN in the gaps, (step, cells).

        Raises:
            EarthSSLError: If a step is left without an observation.
        """
        shown = np.where(self.seen[steps][:, self.anomalies.known], self.anomalies.values[steps], np.nan)
        empty = steps[~np.isfinite(shown).any(1)]
        if len(empty):
            raise EarthSSLError(
                f"infilling: expected some observed cell at every time, got none at "
                f"{self.anomalies.store.times[empty[0]]}: the truth is missing there; leave that time out of the store"
            )
        return shown

    def hidden(self, steps: np.ndarray) -> np.ndarray:
        """Return the cells that count and are scored: in a gap, and known in truth, (step, cells)."""
        return ~self.seen[steps][:, self.anomalies.known] & np.isfinite(self.anomalies.values[steps])

    def windows(self, ends: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (last steps, normalised fields with gaps in all variables alike, times) of some windows at once."""
        store = self.anomalies.store
        for part in np.array_split(ends, -(-len(ends) // AT_ONCE)):
            steps = part[:, None] + np.arange(1 - length, 1)
            fields = store.read(steps.ravel()).reshape(len(part), length, *store.shape[1:])
            # The gaps of the last step throughout: gaps drawn anew each month would show in one month what they hide
            # in the next, to encoders of several steps only.
            seen = self.seen[part][:, None, None]
            yield part, np.where(seen, fields, np.float32(np.nan)), store.times[steps]

    def filled(self, fill: Fill, ends: np.ndarray, length: int) -> np.ndarray:
        """Return what a trained filler of windows makes of their last steps, (window, cells).

        Raises:
            EarthSSLError: If it leaves a cell without a value.
        """
        own, parts = self.anomalies, []
        for last, fields, times in self.windows(ends, length):
            made = np.asarray(fill(fields, times))[:, -1, own.position]
            parts.append(own.from_normalised(made, last))
        out = np.concatenate(parts)
        if not np.isfinite(out).all():
            raise EarthSSLError(
                f"infilling: expected a value in every cell that counts, got {int((~np.isfinite(out)).sum())} without; "
                "the encoder was trained on another grid or another variable"
            )
        return out

    def probed(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Probed]:
        """Return what a linear head on each layer's frozen tokens makes of the test block's gaps.

        Every patch is given to the encoder, those without an observation as missing in all cells. The head maps
        a token of the last step to the cells of its patch, is the same at all places, is fitted on the hidden
        cells of training, its penalty chosen on validation, and refitted on both.
        """
        train, val = (self._moments(encoder, layers, part) for part in ("train", "val"))
        fitted = {layer: PatchHead.chosen(train[layer], val[layer]) for layer in layers}
        values = self._estimated(encoder, {layer: head for layer, (head, _) in fitted.items()})
        made = {}
        for layer, (_, penalty) in fitted.items():
            missed = val[layer].error(PatchHead.fit(train[layer], penalty))
            made[layer] = Probed(penalty, 1 - missed / float(val[layer].power.sum()), values[layer])
        return made

    def _moments(self, encoder: Encoder, layers: Sequence[int], part: str) -> dict[int, Moments]:
        length = encoder.config.window
        sums: dict[int, Moments] = {}
        for last, fields, times in self.windows(self.anomalies.ends(part, length), length):
            features = _tokens(encoder, self._batch(fields, times), layers)
            targets, weight = self._posed(last, encoder.config.patch, length)
            for layer in layers:
                new = Moments.of(features[layer], targets, weight)
                sums[layer] = sums[layer] + new if layer in sums else new
        return sums

    def _posed(self, last: np.ndarray, shape: tuple[int, int, int], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden cells of each patch of the last step (window, token, cell), normalised, and weights.

        Squared errors count by area and in the variable's unit, however the store is scaled.
        """
        own = self.anomalies
        truth = np.where(own.on_grid(self.hidden(last).astype(float)) == 1, own.normalised[last], np.nan)
        weight = own.store.grid.area / own.places.area.mean() * own.store.statistics.scale[own.position] ** 2

        def cut(maps: np.ndarray) -> np.ndarray:
            whole = np.broadcast_to(maps[:, None, None], (len(maps), length, *own.store.shape[1:]))
            times = np.broadcast_to(own.store.times[last[0]], whole.shape[:2])  # only the values matter here
            patches = patchify(self._batch(whole, times), shape)
            final, cells = patches.step == patches.shape[0] - 1, shape[1] * shape[2]
            values = torch.where(patches.valid, patches.values, torch.nan)[:, final, own.position, -cells:]
            return values.numpy().astype(np.float64)

        return cut(truth), np.nan_to_num(cut(weight[None])[0])

    def _batch(self, fields: np.ndarray, times: np.ndarray) -> Batch:
        store = self.anomalies.store
        return from_fields(
            torch.from_numpy(np.ascontiguousarray(fields, np.float32)),
            torch.from_numpy(times.astype("datetime64[s]").astype(np.int64)),
            torch.zeros(len(fields), dtype=torch.int64),
            torch.from_numpy(store.statistics.known),
            store.variables,
            store.grid,
        )

    def _estimated(self, encoder: Encoder, heads: dict[int, PatchHead]) -> dict[int, np.ndarray]:
        """Return each head's test fields as anomalies, (window, cells)."""
        length, shape = encoder.config.window, encoder.config.patch
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in heads}
        for last, fields, times in self.windows(self.anomalies.ends("test", length), length):
            shown = self._batch(fields, times)
            patches = patchify(shown, shape)
            tokens = _tokens(encoder, shown, list(heads))
            for layer, head in heads.items():
                made = torch.from_numpy(head.predict(tokens[layer]))
                full = made.new_full((*patches.values.shape[:2], 1, patches.values.shape[-1]), torch.nan)
                full[:, patches.step == patches.shape[0] - 1, 0, -made.shape[-1] :] = made
                maps = unpatchify(full.float(), patches, shape)[:, -1, 0].double().numpy()
                parts[layer].append(self.anomalies.from_normalised(maps, last))
        return {layer: np.concatenate(own) for layer, own in parts.items()}


@dataclass(frozen=True, eq=False)
class Probed:
    """A fitted head on one layer.

    Attributes:
        penalty: As chosen.
        validation: Skill on validation before the refit: 1 - squared error / power.
        values: Its estimates on test, anomalies, (window, cells).
    """

    penalty: float
    validation: float
    values: np.ndarray


@torch.no_grad()
def _tokens(encoder: Encoder, batch: Batch, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the features of the last step's tokens after each layer, (window, token, feature)."""
    patches = patchify(batch, encoder.config.patch)
    outputs = encoder.eval().layers(patches)
    final = patches.step == patches.shape[0] - 1
    return {layer: outputs[layer][:, final].numpy() for layer in layers}


def _month(times: np.ndarray) -> np.ndarray:
    return times.astype("datetime64[M]").astype(np.int64) % 12

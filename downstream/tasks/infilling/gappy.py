"""Anomalies of one variable of a store, and seen through gaps: for fillers, as windows for an encoder, as patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch

from ....ssl.common.errors import EarthSSLError, check_known
from ....ssl.fields.batch import Batch, from_fields
from ....ssl.fields.splits import window_starts
from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...evaluation.encoders import Fill
from ...features.patches import PatchGrid
from ...heads.patch_head import Moments, PatchHead
from .gaps import GapConfig, Gaps, Places

AT_ONCE = 64  # windows in a batch
MOST_CELLS = 8000  # distances and covariances of all pairs are held in memory
LEAST_SPREAD = 2e-3  # of a cell's training anomalies, relative to all: below it stands constant sea ice


@dataclass(frozen=True, eq=False)
class Anomalies:
    """What is to be filled: one variable's departures from the climatology of the fit period.

    The fit period is train start … validation end. Cells count that hold a value at all its times and vary.

    Attributes:
        store: Where they come from.
        variable: Canonical name.
        known: The cells that count, (rows, columns).
        normalised: The variable as the store holds it, anomalies from training's climatology, (time, rows, columns).
        offset: What these exceed the anomalies from the fit period's climatology by, in the variable's unit, (time,
            cells that count).
        places: Those cells.
    """

    store: Store
    variable: str
    known: np.ndarray
    normalised: np.ndarray
    offset: np.ndarray
    places: Places

    @classmethod
    def of(cls, store: Store, variable: str | None = None) -> Anomalies:
        """Return the anomalies of a store's variable, by default its first.

        Raises:
            EarthSSLError: If the store does not hold the variable, or has too few or too many cells of it.
        """
        name = variable or store.variables[0]
        check_known("infilling.variable", [name], store.variables)
        k = store.variables.index(name)
        normalised = store.read_all()[:, k].astype(np.float64)
        fields = normalised * store.statistics.scale[k]
        fit = store.splits.inside(store.times, "fit")
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
        month = store.times.astype("datetime64[M]").astype(int) % 12
        means = np.stack([fields[fit & (month == m)][:, known].mean(0) for m in range(12)])
        return cls(store, name, known, normalised, means[month], places)

    @cached_property
    def values(self) -> np.ndarray:
        """The anomalies in the variable's unit, (time, cells that count); NaN where the truth is missing."""
        return self.from_normalised(self.normalised, np.arange(len(self.offset)))

    @cached_property
    def fit(self) -> np.ndarray:
        """Training fields of the baselines: all of the fit period, (time, cells)."""
        return self.values[self.store.splits.inside(self.store.times, "fit")]

    @cached_property
    def years(self) -> np.ndarray:
        """Calendar year of every step, (time,)."""
        return np.asarray(self.store.times.astype("datetime64[Y]").astype(int) + 1970)

    @property
    def position(self) -> int:
        """Index of the variable in the store."""
        return self.store.variables.index(self.variable)

    def from_normalised(self, fields: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return normalised fields (step, rows, columns) at steps of the store as these anomalies, (step, cells)."""
        scale = self.store.statistics.scale[self.position][self.known]
        return fields[:, self.known] * scale - self.offset[steps]

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
        for part in _parts(ends):
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

    def tokens(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the frozen tokens of the last step after each layer, (time, place, feature).

        Every patch is given to the encoder, those without an observation as missing in all cells. NaN at times at
        which no window of a block ends.
        """
        return self._at_all(encoder.config.window, lambda f, t: _tokens(encoder, self.batch(f, t), layers))

    def _at_all(
        self, length: int, features: Callable[[np.ndarray, np.ndarray], Mapping[int, np.ndarray]]
    ) -> dict[int, np.ndarray]:
        """Return by its key what is made of (fields, times) of all windows of the blocks, NaN at other times."""
        made: dict[int, np.ndarray] = {}
        for part in ("train", "val", "test"):
            for last, fields, times in self.windows(self.anomalies.ends(part, length), length):
                for key, values in features(fields, times).items():
                    if key not in made:
                        made[key] = np.full((len(self.seen), *values.shape[1:]), np.nan, np.float32)
                    made[key][last] = values
        return made

    def raw(self, patch: tuple[int, int], length: int) -> np.ndarray:
        """Return what is observed in and about each patch, (time, place, value), NaN as for `tokens`.

        All variables in the patch over the window, the filled one in the eight patches around it at the last step, and
        where anything is observed there; a value that is not observed is 0. Cells are averaged where they are too many.
        """
        own = self.anomalies
        grid = PatchGrid(own.store, patch)
        inner, outer = grid.factors(length * len(own.store.variables) + 1, 2)

        def shown(fields: np.ndarray, times: np.ndarray) -> dict[int, np.ndarray]:
            filled = fields[:, -1, own.position, None]
            steps = [grid.coarse(fields[:, k], inner) for k in range(length)]
            around = grid.around(filled, outer)
            seen = np.isfinite(np.concatenate([grid.coarse(filled, inner), around], -1))
            return {0: np.concatenate([*map(np.nan_to_num, steps), np.nan_to_num(around), seen], -1)}

        return self._at_all(length, shown)[0]

    def posed(self, patch: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden cells of each patch at all times, normalised, (time, place, cell), and their weights.

        Squared errors count by area and in the variable's unit, however the store is scaled.
        """
        own, grid = self.anomalies, PatchGrid(self.anomalies.store, patch)
        hidden = own.on_grid(self.hidden(np.arange(len(self.seen))).astype(float)) == 1
        truth = np.where(hidden, own.normalised, np.nan)
        weight = own.store.grid.area / own.places.area.mean() * own.store.statistics.scale[own.position] ** 2
        return grid.cut(truth[:, None]).astype(np.float64), np.nan_to_num(grid.cut(weight[None, None])[0])

    def joined(self, values: np.ndarray, patch: tuple[int, int], steps: np.ndarray) -> np.ndarray:
        """Return cells of patches (step, place, cell), normalised, as anomalies (step, cells)."""
        maps = PatchGrid(self.anomalies.store, patch).join(values, 1)[:, 0].astype(np.float64)
        return self.anomalies.from_normalised(maps, steps)

    def probed(
        self,
        features: Mapping[str, np.ndarray],
        patch: tuple[int, int],
        ends: np.ndarray,
        years: np.ndarray | None = None,
    ) -> Probed:
        """Return what a linear head on features of the patches makes of the gaps of some times.

        The head maps features of the last step to the cells of their patch, is the same at all places, and is fitted on
        the hidden cells of training. Features and penalty are chosen on validation, and the head is refitted on both.

        Args:
            features: Candidates, (time, place, feature), NaN where there are none.
            patch: Rows and columns of a patch.
            ends: Times to fill.
            years: Of training that the head may see, nothing being refitted; None: all.
        """
        targets, weight = self.posed(patch)
        best: Probed | None = None
        for name, values in features.items():
            train = self._moments(values, targets, weight, "train", years)
            val = self._moments(values, targets, weight, "val")
            head, penalty = PatchHead.chosen(train, val)
            first = PatchHead.fit(train, penalty)
            skill = 1 - val.error(first) / float(val.power.sum())
            if best is None or skill > best.validation:
                used = head if years is None else first
                made = np.concatenate([self.joined(used.predict(values[one]), patch, one) for one in _parts(ends)])
                best = Probed(name, penalty, skill, made)
        assert best is not None
        return best

    def _moments(
        self,
        values: np.ndarray,
        targets: np.ndarray,
        weight: np.ndarray,
        block: str,
        years: np.ndarray | None = None,
    ) -> Moments:
        steps = self.anomalies.ends(block, 1)
        steps = steps[np.isfinite(values[steps, 0, 0])]
        if years is not None:
            steps = steps[np.isin(self.anomalies.years[steps], years)]
        return reduce(add, (Moments.of(values[one], targets[one], weight) for one in _parts(steps)))

    def batch(self, fields: np.ndarray, times: np.ndarray) -> Batch:
        """Return windows as an encoder takes them."""
        store = self.anomalies.store
        return from_fields(
            torch.from_numpy(fields), torch.from_numpy(times.astype(np.int64)),
            torch.zeros(len(fields), dtype=torch.int64), torch.from_numpy(store.statistics.known),
            store.variables, store.grid,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Probed:
    """A fitted head on one set of features.

    Attributes:
        features: Name of the set.
        penalty: As chosen.
        validation: Skill on validation before the refit: 1 - squared error / power.
        values: Its estimates, anomalies, (time, cells).
    """

    features: str
    penalty: float
    validation: float
    values: np.ndarray


def _parts(steps: np.ndarray) -> list[np.ndarray]:
    return np.array_split(steps, -(-len(steps) // AT_ONCE))


@torch.no_grad()
def _tokens(encoder: Encoder, batch: Batch, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the features of the last step's tokens after each layer, (window, token, feature)."""
    patches = patchify(batch, encoder.config.patch)
    outputs = encoder.eval().layers(patches)
    final = patches.step == patches.shape[0] - 1
    return {layer: outputs[layer][:, final].numpy() for layer in layers}

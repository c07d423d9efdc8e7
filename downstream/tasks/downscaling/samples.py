"""FineSamples: windows of a coarse store beside fine truth, what may be learnt of it, and places cut into cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.model.tokens import season_features
from ....ssl.store.store import Store
from ...evaluation.window_labels import block_rows, labelled_times
from ...features.patches import PatchGrid, with_neighbours
from .baselines import group_means, groupings, quantile_mapped
from .labels import IDENTITY, FineLabels, Link
from .scores import Scorer, detail_of


@dataclass(frozen=True, eq=False)
class Labelled:
    """What may be learnt from some of the labels.

    Attributes:
        train: Samples with labels.
        grouping: How validation divides the year: month, season or year.
        group: Of all samples.
        base: Linked forecast of the mean bias, (sample, variable, row, column).
        residual: Linked truth less that, (sample, place, variable, cell).
    """

    train: np.ndarray
    grouping: str
    group: np.ndarray
    base: np.ndarray
    residual: np.ndarray


class FineSamples:
    """Samples of all blocks.

    Attributes:
        store: Coarse.
        fine: The labels.
        steps: Of the store, (sample,).
        train, val, test: Samples of each block.
        month, year: Of each sample, 0 = January.
        truth, coarse: Labels, and the store's own fields between its cells, (sample, variable, row, column).
        links: Of each variable.
    """

    def __init__(
        self, store: Store, fine: FineLabels, links: Mapping[str, str], labelled: Sequence[str] | None, window: int,
        patch: tuple[int, int],
    ) -> None:  # fmt: skip
        """Match labels and windows.

        Args:
            store, fine: As above.
            links: Kind of link by variable; identity for the others.
            labelled: First and last date of the training labels; None: all.
            window: Steps.
            patch: Rows and columns of a patch, which is a place.

        Raises:
            EarthSSLError: If a block has no sample, a coarse field is missing somewhere, or labels do not suit a link.
        """
        self.store, self.fine, self.nest = store, fine, fine.nest
        self.patch = PatchGrid(store, patch)
        known = np.zeros(len(store.times), bool)
        known[fine.steps] = True
        known &= labelled_times(store, "downscaling.labelled", labelled)
        rows = block_rows(store, window, 0, known)
        self.steps = np.concatenate(list(rows.values()))
        ends = np.cumsum([0, *(len(own) for own in rows.values())])
        self.train, self.val, self.test = (np.arange(a, b) for a, b in pairwise(ends))
        when = store.times[self.steps].astype("datetime64[M]").astype(int)
        self.month, self.year = when % 12, when // 12 + 1970
        self.truth = fine.values[np.searchsorted(fine.steps, self.steps)].astype(np.float64)
        self.coarse = self._coarse()
        self.links = [Link(links.get(name, IDENTITY), max(float(self.coarse[self.train, v].mean()), 1e-12))
                      for v, name in enumerate(fine.names)]  # fmt: skip
        for v, (name, link) in enumerate(zip(fine.names, self.links, strict=True)):
            if link.kind != IDENTITY and (low := float(self.truth[:, v].min())) < -1e-3 * link.scale:
                raise EarthSSLError(
                    f"downscaling.links.{name}: expected labels that are never negative for {link.kind}, got {low:g}; "
                    "set identity, or mend the labels"
                )
        self._known_by: tuple[bytes, Labelled] | None = None

    def _coarse(self) -> np.ndarray:
        data = self.store.dataset(self.fine.names)
        made = np.empty_like(self.truth)
        for v, (name, factor) in enumerate(zip(self.fine.names, self.fine.factors, strict=True)):
            made[:, v] = factor * self.nest.bilinear(data[name].values[self.steps].astype(np.float64))
            if not np.isfinite(made[:, v][:, self.fine.known]).all():
                raise EarthSSLError(
                    f"{self.store.path}: expected '{name}' around every cell with labels, got missing values; prepare "
                    "the store with a lower least_valid, or a region without them"
                )
        return np.where(self.fine.known, np.nan_to_num(made), 0)

    @property
    def lattice(self) -> tuple[int, int]:
        """Patches in a column and in a row."""
        (high, wide), (p, q) = self.store.grid.shape, self.patch.patch
        return high // p, wide // q

    def cells(self, fields: np.ndarray) -> np.ndarray:
        """Return the fine cells of each place, (…, place, cell), of fields (…, row, column)."""
        (r, c), (high, wide) = self.lattice, self.nest.fine.shape
        cut = fields.reshape(*fields.shape[:-2], r, high // r, c, wide // c)
        return np.moveaxis(cut, -2, -3).reshape(*fields.shape[:-2], r * c, -1)

    def fields(self, cells: np.ndarray) -> np.ndarray:
        """Return fields (…, row, column) of the cells of each place, (…, place, cell)."""
        (r, c), (high, wide) = self.lattice, self.nest.fine.shape
        cut = cells.reshape(*cells.shape[:-2], r, c, high // r, wide // c)
        return np.moveaxis(cut, -2, -3).reshape(*cells.shape[:-2], high, wide)

    @cached_property
    def weight(self) -> np.ndarray:
        """Share of each cell in the area that counts, (place, cell)."""
        area = np.where(self.fine.known, self.nest.fine.area, 0)
        return self.cells(area / area.sum())

    @cached_property
    def scorers(self) -> list[Scorer]:
        """Scores of each variable."""
        made = []
        for v, link in enumerate(self.links):
            detail = detail_of(self.truth[:, v], self.nest, self.fine.known)
            group = next(groupings(self.month, self.train))[1]
            usual = group_means(detail, self.train, group)[self.test]
            made.append(Scorer(self.truth[self.test, v], usual, self.nest, self.fine.known, link))
        return made

    def linked(self, fields: np.ndarray) -> np.ndarray:
        """Return fields (sample, variable, row, column) linked."""
        return np.stack([link.of(fields[:, v]) for v, link in enumerate(self.links)], axis=1)

    @cached_property
    def linked_truth(self) -> np.ndarray:
        """Truth, linked."""
        return self.linked(self.truth)

    @cached_property
    def linked_coarse(self) -> np.ndarray:
        """The coarse field between its cells, linked."""
        return self.linked(self.coarse)

    def labelled(self, units: np.ndarray | None = None) -> Labelled:
        """Return what may be learnt from the labels of some training years, or of all."""
        train = self.train if units is None else self.train[np.isin(self.year[self.train], units)]
        if self._known_by is None or self._known_by[0] != train.tobytes():
            truth, coarse = self.linked_truth, self.linked_coarse
            found: list[tuple[float, str, np.ndarray, np.ndarray]] = []
            usual = truth[self.val].var(axis=(0, 2, 3))[:, None, None]
            for name, group in groupings(self.month, train):
                base = coarse + group_means(truth - coarse, train, group)
                off = ((base[self.val] - truth[self.val]) ** 2 / usual).mean(axis=(0, 1))
                found.append((float((self.cells(off) * self.weight).sum()), name, group, base))
            _, name, group, base = min(found, key=lambda one: one[0])
            residual = self.cells(truth - base).swapaxes(1, 2).astype(np.float32)
            self._known_by = (train.tobytes(), Labelled(train, name, group, base, residual))
        return self._known_by[1]

    @cached_property
    def told_rows(self) -> np.ndarray:
        """Samples of validation, then of test."""
        return np.concatenate([self.val, self.test])

    @cached_property
    def static(self) -> np.ndarray:
        """What static fields say of each cell, (place, cell, value); the first is 1."""
        return np.moveaxis(self.cells(np.moveaxis(self.fine.predictors, -1, 0)), 0, -1)

    def near(self, window: int) -> np.ndarray:
        """Return the coarse cells of each patch and of the eight around it, (sample, place, value)."""
        fields = self.store.read_all()
        steps = [self.patch.cut(fields[self.steps - back]) for back in range(window)[::-1]]
        own = self.everywhere(np.nan_to_num(np.concatenate(steps, axis=-1)))
        grid = self.store.grid
        return with_neighbours(own, np.arange(own.shape[1]), self.lattice[1], grid.periodic)

    def everywhere(self, values: np.ndarray) -> np.ndarray:
        """Return values of tokens (sample, token, feature) in their places, 0 where there is none."""
        full = np.zeros((len(values), self.lattice[0] * self.lattice[1], values.shape[2]), np.float32)
        full[:, self.patch.tiles] = values
        return full

    @cached_property
    def season(self) -> np.ndarray:
        """Two harmonics of the year, (sample, 4)."""
        seconds = torch.from_numpy(self.store.times[self.steps].astype(np.int64))
        return np.asarray(season_features(seconds[:, None])[:, 0, :4].numpy())

    def mapped(self, v: int, train: np.ndarray) -> tuple[float, str, np.ndarray]:
        """Return quantile mapping of a variable: validation error, by what, and what it says, linked."""
        shape, rows, count = self.truth.shape, self.told_rows, len(self.val)
        x, y = self.coarse[:, v].reshape(shape[0], -1), self.truth[:, v].reshape(shape[0], -1)
        found = []
        for by, group in groupings(self.month, train):
            made = self.links[v].of(quantile_mapped(x, y, train, group, rows).reshape(len(rows), *shape[2:]))
            off = (made[:count] - self.linked_truth[self.val, v]) ** 2
            found.append((float((self.cells(off.mean(axis=0)) * self.weight).sum()), by, made))
        return min(found, key=lambda one: one[0])

    def off(self) -> str:
        """Return by how much the area means of the labels differ from the store's cells, in words."""
        said, data = [], self.store.dataset(self.fine.names)
        share = self.nest.means(self.fine.known.astype(float))  # of a coarse cell, with labels
        for v, name in enumerate(self.fine.names):
            own = data[name].values[self.steps] * self.fine.factors[v]
            told = self.nest.means(np.where(self.fine.known, self.truth[:, v], 0))[:, share > 0] / share[share > 0]
            said.append(f"{name} {np.sqrt(np.nanmean((told - own[:, share > 0]) ** 2)):.3g} {self.fine.units[v]}")
        return ", ".join(said)

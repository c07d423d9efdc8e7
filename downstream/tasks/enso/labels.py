"""EnsoLabels: Niño 3.4 from monthly SST, its 3-month targets, and which sample belongs to which block.

Definitions (Ham, Kim & Luo 2019, doi 10.1038/s41586-019-1559-7):

* index: area mean of the SST anomaly over the cells with centres in 5S-5N, 190-240E;
* anomaly: departure from the calendar-month means of the *fit period*, training and validation together;
* target(i, L): mean of the index over the months i + L - 1, i + L, i + L + 1;
* lead L: central month of the target minus last input month i; the inputs are the months i - window + 1 … i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError, check_known, nearest
from ....ssl.fields.grid import LatLonGrid
from ....ssl.fields.splits import PARTS, Block, Splits, period
from ...features.anomalies import monthly_anomaly
from ...metrics.seasonal import all_season_skill, valid_mean
from .tested import MEAN as MEAN
from .tested import Tested

NINO34 = (-5.0, 5.0, 190.0, 240.0)  # south, north, west, east

BLOCKS = ("train", "val", "fit", "test")
Span = tuple[np.datetime64, np.datetime64]  # first and last month, both included
CRITERIA = ("r", "rmse")


def area_mean(fields: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted mean over the last two axes, skipping NaN; NaN where every weighted cell is NaN."""
    valid = np.isfinite(fields)
    total = (valid * weight).sum(axis=(-2, -1))
    mean = (np.where(valid, fields, 0.0) * weight).sum(axis=(-2, -1))
    return np.where(total > 0, mean / np.where(total > 0, total, 1.0), np.nan)


def nino34_weight(grid: LatLonGrid) -> np.ndarray:
    """Return cell areas inside the Niño 3.4 box, 0 outside, shape (rows, columns).

    Raises:
        EarthSSLError: If the grid reaches over less than 85 % of the box's width or height, or has no cell in it.
    """
    south, north, west, east = NINO34
    inside = grid.box(south, north, west, east)
    bottom, top, left, right = grid.lat_bounds[-1], grid.lat_bounds[0], grid.lon_bounds[0], grid.lon_bounds[-1]
    height = (min(top, north) - max(bottom, south)) / (north - south)
    width = (min(right, east) - max(left, west)) / (east - west)
    if min(height, width) < 0.85:
        raise EarthSSLError(
            f"expected a grid over the whole Niño 3.4 box (5S-5N, 190-240E), got "
            f"{bottom:g}…{top:g}°N, {left:g}…{right:g}°E ({grid}); choose data that cover the box"
        )
    return np.where(inside, grid.area, 0.0)


@dataclass(frozen=True, eq=False)
class EnsoLabels(Tested):
    """The labels of the ENSO probe and the rule that says which block a sample belongs to.

    A sample is an initial month i (its last input month). Blocks:

    * `train`: inputs, and the last month of the longest lead's target, inside one training block. All leads
      share these samples, so that one decomposition serves them all.
    * `val`: target months inside the validation block; inputs may lie in the gap before it, never in train.
    * `fit`: like `train` for the fit period (the refit after selection): training and validation, with the gap between
      those that follow each other. It is one span, or several around the test block.
    * `test`: central target month inside the test block; inputs outside the fit period.

    Anomalies are taken from the fit period while validation selects, too: this shifts a calendar month's
    features and targets alike, and the heads' intercepts take it out.

    Attributes:
        time: Months of the record, datetime64[M], consecutive, shape (time,).
        grid: Grid of the anomalies.
        anomaly: SST anomaly, K, shape (time, rows, columns); NaN on land.
        index: Niño 3.4, K, shape (time,).
        spans: First and last month, datetime64[M], both included, of each block of "train", "val", "fit" and "test",
            ascending.
        leads: Months from the last input month to the central target month, ascending.
        window: Number of input months.
        last_fit_init: Last initial month of the `fit` samples, earlier than need be; None: as late as may be.
        usual: What the index is an anomaly from, K, shape (time,): the area mean of the fit period's climatology.
    """

    time: np.ndarray
    grid: LatLonGrid
    anomaly: np.ndarray
    index: np.ndarray
    spans: Mapping[str, tuple[Span, ...]]
    leads: tuple[int, ...]
    window: int
    last_fit_init: np.datetime64 | None = None
    usual: np.ndarray | None = None

    @classmethod
    def from_dataset(
        cls,
        dataset: xr.Dataset,
        splits: Splits,
        leads: Sequence[int] = tuple(range(1, 19)),
        window: int = 3,
    ) -> EnsoLabels:
        """Return the labels of a canonical monthly dataset.

        Args:
            dataset: `ssta`, or else `sst`, with dims (time, lat, lon), latitude north to south, longitude ascending in
                [0, 360). Anomalies are taken from the fit period, so the base period of `ssta` does not matter.
            splits: Blocks of time, in any order, training perhaps in several; window + longest lead + 1 months between
                two that are not both of training.
            leads: Leads to forecast, months.
            window: Input months that a feature may see.

        Raises:
            EarthSSLError: If the variable is missing, the record is not monthly or misses the Niño 3.4 box,
                the embargo is too short, or a block holds no sample.
        """
        ordered = tuple(sorted({int(lead) for lead in leads}))
        if not ordered or ordered[0] < 1 or window < 1:
            raise EarthSSLError(
                f"expected leads and a window of at least 1 month, got leads {list(leads)}, window {window}"
            )
        check_embargo(splits, window, ordered[-1])
        spans = _spans(splits)
        field = dataset[sst_variable(list(map(str, dataset.data_vars)), "the dataset")]
        if field.dims != ("time", "lat", "lon"):
            raise EarthSSLError(f"expected dims (time, lat, lon) of '{field.name}', got {field.dims}; transpose it")
        time = _months(field["time"].values)
        grid = LatLonGrid(field["lat"].values, field["lon"].values)
        fit = _number(time, spans["fit"]) >= 0
        anomaly = monthly_anomaly(field.values, time.astype(int) % 12, fit)
        index = area_mean(anomaly, nino34_weight(grid))
        usual = area_mean(field.values.astype(np.float64), nino34_weight(grid)) - index
        labels = cls(time, grid, anomaly, index, spans, ordered, window, usual=usual)
        labels._check_samples()
        return labels

    @property
    def month(self) -> np.ndarray:
        """Calendar month of each time, 0 = January, shape (time,)."""
        return self.time.astype(int) % 12

    @cached_property
    def target(self) -> np.ndarray:
        """3-month mean Niño 3.4 for each (lead, initial month), K, shape (lead, time); NaN past the end."""
        return self._ahead(self.index)

    @property
    def usual_target(self) -> np.ndarray:
        if self.usual is None:
            raise EarthSSLError("expected labels that know their climatology, got others; make them from a dataset")
        return self._ahead(self.usual)

    def _ahead(self, series: np.ndarray) -> np.ndarray:
        """Return the 3-month mean of a series, (time,), for each (lead, initial month); NaN past the end."""
        n = len(self.time)
        centred = np.full(n + self.leads[-1], np.nan)
        centred[1 : n - 1] = (series[:-2] + series[1:-1] + series[2:]) / 3
        return np.stack([centred[lead : lead + n] for lead in self.leads])

    @property
    def blocks(self) -> dict[str, Span]:
        """First and last month of "train", "val", "fit" and "test", where each is one span.

        Raises:
            EarthSSLError: If one has several spans.
        """
        several = [name for name, spans in self.spans.items() if len(spans) > 1]
        if several:
            raise EarthSSLError(
                f"expected one block of {several[0]}, got {self.words(several[0])}, with which this cannot deal; "
                "prepare a store with one training block (splits.train)"
            )
        return {name: spans[0] for name, spans in self.spans.items()}

    def words(self, block: str) -> str:
        """Return the first and last month of each span of a block, for a message."""
        return _said(self.spans[block])

    def within(self, block: str) -> np.ndarray:
        """Return which months of the record lie in a block ("train", "val", "fit", "test"), shape (time,)."""
        check_known("block", [block], BLOCKS)
        return _number(self.time, self.spans[block]) >= 0

    def samples(self, block: str) -> np.ndarray:
        """Return which (lead, initial month) are samples of a block, bool, shape (lead, time).

        A month without any SST in the box (a gap of all cells) is in no sample, neither as input nor as target.
        All leads have the same initial months in "train" and "fit".
        """
        check_known("block", [block], BLOCKS)
        lead = np.array(self.leads)[:, None]
        first_input = self.time - (self.window - 1)
        held = np.isfinite(self.index).astype(int)
        whole_input = np.convolve(held, np.ones(self.window, dtype=int))[: len(held)] == self.window
        recorded = np.isfinite(self.target) & (first_input >= self.time[0]) & whole_input
        if block in ("train", "fit"):
            # a window and its targets lie in one span, never across two
            number = _number(first_input, self.spans[block])
            whole = (number >= 0) & (number == _number(self.time + (self.leads[-1] + 1), self.spans[block]))
            if block == "fit" and self.last_fit_init is not None:
                whole &= self.time <= self.last_fit_init
            return np.broadcast_to(whole & recorded.all(axis=0), recorded.shape)
        centre = self.time[None, :] + lead
        ((start, end),) = self.spans[block]
        seen = self.spans["train" if block == "val" else "fit"]
        unseen = np.all([(self.time < first) | (first_input > last) for first, last in seen], axis=0)
        if block == "val":
            return recorded & unseen & (centre - 1 >= start) & (centre + 1 <= end)
        return recorded & unseen & (centre >= start) & (centre <= end)

    def inits(self, block: str) -> np.ndarray:
        """Return which months start a sample of a block at any lead, bool, shape (time,)."""
        return np.asarray(self.samples(block).any(axis=0))

    @property
    def year(self) -> np.ndarray:
        """Year of each time, shape (time,)."""
        return self.time.astype("datetime64[Y]").astype(int) + 1970

    @cached_property
    def tested(self) -> list[np.ndarray]:
        """Initial months of the test samples of each lead, indices of the record."""
        return [np.flatnonzero(used) for used in self.samples("test")]

    def validation_score(self, forecast: np.ndarray, criterion: str = "rmse") -> np.ndarray:
        """Return how good forecasts are on the validation samples; larger is better.

        Args:
            forecast: K, shape (…, lead, time).
            criterion: "r": all-season skill; "rmse": minus the root mean square error, K (the steadier
                one: with few validation years an r per calendar month is mostly noise, and r is blind to
                forecasts of the wrong size).

        Returns:
            Scores, shape (…, lead).
        """
        check_known("criterion", [criterion], CRITERIA)
        val = self.samples("val")
        f, o = (np.where(val, values, np.nan)[..., val.any(axis=0)] for values in (forecast, self.target))
        if criterion == "rmse":
            return -np.sqrt(valid_mean((f - o) ** 2, axis=-1))
        skill = all_season_skill(f, o, self.month[val.any(axis=0)])
        if np.isnan(skill).any():
            raise EarthSSLError(
                "expected at least 3 validation years of some calendar month for the criterion r, got fewer; "
                "lengthen the validation block or select by rmse"
            )
        return skill

    def _check_samples(self) -> None:
        for block in BLOCKS:
            empty = [lead for lead, used in zip(self.leads, self.samples(block), strict=True) if not used.any()]
            if empty:
                raise EarthSSLError(
                    f"expected labels in the {block} block {self.words(block)}, got none at lead {empty[0]} in a "
                    f"record of {self.time[0]}…{self.time[-1]}; move the block, lengthen it, or drop the lead"
                )


def _months_of(block: Block) -> Span:
    return block[0].astype("datetime64[M]"), block[1].astype("datetime64[M]")


def _spans(splits: Splits) -> dict[str, tuple[Span, ...]]:
    """Return the spans of each block: "fit" joins training and validation across the gap where they are neighbours."""
    spans = {part: tuple(map(_months_of, splits.blocks(part))) for part in PARTS}
    fit: list[Span] = []
    before = ""
    for name, block in sorted(splits.named().items(), key=lambda item: item[1][0]):
        own = _months_of(block)
        joined = "val" in (before, name) and "test" not in (before, name) and fit
        if name != "test":
            fit = [*fit[:-1], (fit[-1][0], own[1])] if joined else [*fit, own]
        before = name
    return {**spans, "fit": tuple(fit)}


def _number(months: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Return the number of the span that each month lies in, from 0; -1 outside of all."""
    found = np.full(len(months), -1)
    for k, (start, end) in enumerate(spans):
        found[(months >= start) & (months <= end)] = k
    return found


def _said(spans: Sequence[Span]) -> str:
    return " and ".join(f"{start}…{end}" for start, end in spans)


def later(splits: Splits, first: str) -> Splits:
    """Return the splits with training from a later month on: blocks before it fall away, that around it begins there.

    Raises:
        EarthSSLError: If that is no date, or not inside a training block, or validation lies before it: what is fitted
            on both would hold the months that fell away between the two.
    """
    wanted = period("enso.since", [first, first])[0]
    if not any(start <= wanted < end for start, end in splits.train_blocks):
        raise EarthSSLError(
            "enso.since: expected a month of the training block "
            f"{_said([_months_of(block) for block in splits.train_blocks])}, got {first}; choose one, or leave it out"
        )
    if splits.val[0] < wanted:
        raise EarthSSLError(
            f"enso.since: expected validation too from {first} on, got one from {_months_of(splits.val)[0]}; leave it "
            "out, or move splits.val (folds: first)"
        )
    kept = [(max(start, wanted), end) for start, end in splits.train_blocks if end > wanted]
    return Splits(kept, splits.val, splits.test, splits.embargo_days)


def check_embargo(splits: Splits, window: int, longest: int) -> None:
    """Raise an EarthSSLError unless the blocks lie window + longest lead + 1 months apart; training blocks need not."""
    need = window + longest + 1
    for (before, a), (after, b) in splits.neighbours():
        if before.startswith("train") and after.startswith("train"):
            continue
        end, start = _months_of(a)[1], _months_of(b)[0]
        gap = int((start - end).astype(int)) - 1
        if gap < need:
            raise EarthSSLError(
                f"expected at least {need} months (window {window} + longest lead {longest} + 1) between the "
                f"{before} block's end {end} and the {after} block's start {start}, "
                f"got {gap}; move a block, or shorten the window or the longest lead"
            )


def sst_variable(names: Sequence[str], where: object) -> str:
    """Return the name of the SST variable among a store's, its anomaly first.

    Raises:
        EarthSSLError: If there is none, saying what `where` holds.
    """
    for name in ("ssta", "sst"):
        if name in names:
            return name
    raise EarthSSLError(
        f"expected the variable sst or ssta (for Niño 3.4), {where} holds {', '.join(names)}.{nearest('sst', names)}"
    )


def _months(time: np.ndarray) -> np.ndarray:
    if not np.issubdtype(time.dtype, np.datetime64) or len(time) < 3:
        raise EarthSSLError(
            f"expected a record of at least 3 datetime64 months, got {len(time)} times of type {time.dtype}"
        )
    months = time.astype("datetime64[M]")
    wrong = np.flatnonzero(np.diff(months).astype(int) != 1)
    if len(wrong):
        first, second = time[wrong[0] : wrong[0] + 2].astype("datetime64[D]")
        raise EarthSSLError(
            f"expected one field a month without gaps, got {first} followed by {second}; take monthly means "
            "first: dataset.resample(time='MS').mean()"
        )
    return months

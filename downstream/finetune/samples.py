"""LabelSamples: labels beside the windows of a store that they belong to, block by block, and their own climatology."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError, check_known
from ...ssl.fields.splits import DAY, PARTS, Splits, gap_days, is_monthly, window_starts
from ...ssl.store.store import Store
from ..heads.distribution import UNITS, unit_numbers
from ..metrics.classes import frequencies
from ..metrics.paired_bootstrap import FEWEST_UNITS
from ..metrics.seasonal import valid_mean
from .labels import Labels

FEWEST = {"train": 20, "val": 8, "test": 8}
FEWEST_OF_A_MONTH = 5  # labels of every calendar month, or the climatology is one for the whole year
ENOUGH = 8  # units of test, or the next shorter one is taken


@dataclass(frozen=True, eq=False)
class Base:
    """Climatology of the labels of the training block: what every row departs from.

    Attributes:
        monthly: Whether there is one for each calendar month, or one for all.
        values: Mean (group, target) or (group, row, column), or frequency (group, class); 12 groups or 1.
        scale: Standard deviation of the departures in training, of each target; 1 for classes.
    """

    monthly: bool
    values: np.ndarray
    scale: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Cells (or targets) that were ever observed in training, bool, (row, column)."""
        return np.isfinite(self.values).any(0)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the climatology at times (datetime64), (time, …)."""
        return self.values[climatology_group(times, self.monthly)]


@dataclass(frozen=True, eq=False)
class LabelSamples:
    """Every label that has a whole window inside its block.

    Attributes:
        labels: As read.
        classes: Words of the classes, those of training, sorted; () for numbers.
        rows: Which of the labels are samples, (sample,).
        last: Index in the store of each sample's last input step, (sample,).
        parts: Positions among the samples, by block.
        past: Which label is the latest known at the last input step, at the same place, (sample,); -1 for none.
        target: Numbers (sample, target), classes (sample,), or fields (sample, row, column).
        base: Climatology of the training labels.
        window, lead: Steps.
        left_out: Labels that are no samples, by why.
    """

    labels: Labels
    classes: tuple[str, ...]
    rows: np.ndarray
    last: np.ndarray
    parts: dict[str, np.ndarray]
    past: np.ndarray
    target: np.ndarray
    base: Base
    window: int
    lead: int
    left_out: dict[str, int]

    @property
    def kind(self) -> str:
        """regression, classification or field."""
        return self.labels.kind

    @property
    def times(self) -> np.ndarray:
        """Time of each sample's label, datetime64[s]."""
        return self.labels.times[self.rows]

    @property
    def places(self) -> np.ndarray | None:
        """Latitude and longitude of each sample, (sample, 2)."""
        return None if self.labels.places is None else self.labels.places[self.rows]

    @property
    def counts(self) -> dict[str, int]:
        """Samples in each block."""
        return {part: len(rows) for part, rows in self.parts.items()}

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Samples of each class, by block."""
        return {
            part: {word: int((self.target[rows] == k).sum()) for k, word in enumerate(self.classes)}
            for part, rows in self.parts.items()
        }

    def departures(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples' departures from climatology in units of `base.scale`; numbers and fields only."""
        return (self.target[rows] - self.base.at(self.times[rows])) / self.base.scale

    def past_values(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the latest label known to each sample (whatever where there is none), and its time."""
        past = self.past[rows]
        values = self.labels.values[past]
        if self.kind == "classification":
            # A class that training lacks is left to the climatology, as one that is not known.
            index = {word: k for k, word in enumerate(self.classes)}
            values = np.asarray([index.get(str(word), -1) for word in values])
        return values, self.labels.times[past]

    @classmethod
    def match(cls, labels: Labels, store: Store, window: int, lead: int) -> LabelSamples:
        """Return the samples: a label belongs to the window that ends `lead` steps before it.

        Window and label lie inside one block of the store's splits, wholly.

        Raises:
            EarthSSLError: If labels and store do not fit together, or a block has too few.
        """
        check_gaps(store.splits, store.times, window, lead)
        numbers, steps = step_numbers(labels.times, store.times), step_numbers(store.times, store.times)
        wanted = numbers - lead * _stride(store.times)
        found = np.minimum(np.searchsorted(steps, wanted), len(steps) - 1)
        there = steps[found] == wanted
        if not there.any():
            raise EarthSSLError(
                f"{labels.where}: expected labels {lead} steps after times of {store.path}, which go from "
                f"{store.times[0]} to {store.times[-1]}, got {labels.times[0]} to {labels.times[-1]}, none of which "
                "fits; label the store's own steps, or change finetune.lead"
            )
        same = labels.twice(numbers)
        if same:
            (a, first), (b, second) = ((labels.times[k], labels.line(k)) for k in same)
            raise EarthSSLError(
                f"{labels.where}: expected one label a step of the store, got {a} ({first}) and {b} ({second}) in the "
                "same one; keep one, or average them"
            )
        part_of = np.full(len(labels), "", dtype=object)
        fine = store.times.astype("datetime64[ns]")
        for part in PARTS:
            ends = window_starts(fine, store.splits, part, window) + window - 1
            inside = store.splits.inside(labels.times.astype("datetime64[ns]"), part)
            part_of[there & inside & np.isin(found, ends)] = part
        rows = np.flatnonzero(part_of != "")
        parts = {part: np.flatnonzero(part_of[rows] == part) for part in PARTS}
        left_out = {"without a value": labels.dropped, "at no step of the store": int((~there).sum()),
                    "outside the blocks, or without a whole window inside": int(there.sum()) - len(rows)}  # fmt: skip
        _refuse_few(labels, store, parts, left_out)
        target, classes = _targets(labels, rows, parts)
        # At lead 0 the label of the last input step is the sample itself.
        past = _past(labels, numbers, rows, steps[found[rows]] - (not lead))
        base = _base(labels.kind, target, labels.times[rows], parts["train"], len(classes))
        return cls(labels, classes, rows, found[rows], parts, past, target, base, window, lead, left_out)


def climatology_group(times: np.ndarray, monthly: bool) -> np.ndarray:
    """Return which climatology each time belongs to: that of its calendar month, 0 to 11, or the only one."""
    return times.astype("datetime64[M]").astype(np.int64) % 12 if monthly else np.zeros(len(times), int)


def unit_of(times: np.ndarray, unit: str) -> tuple[str, np.ndarray]:
    """Return the unit that is drawn as a whole, and which one each time belongs to.

    Args:
        times: Of the test labels.
        unit: year, month, week or day; auto takes the longest of which there are eight.

    Raises:
        EarthSSLError: If the unit is unknown, or there are fewer than four of it.
    """
    check_known("finetune.unit", [unit], ("auto", *UNITS))
    if unit == "auto":
        unit = next((name for name in UNITS if len(np.unique(unit_numbers(times, name))) >= ENOUGH), "day")
    found = unit_numbers(times, unit)
    count = len(np.unique(found))
    if count < FEWEST_UNITS:
        raise EarthSSLError(
            f"finetune.unit: expected at least {FEWEST_UNITS} {unit}s with test labels for intervals, got {count}; "
            "lengthen the test block or choose a shorter unit"
        )
    return unit, found


def step_numbers(times: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return times as whole numbers that agree where a label belongs to a step: months, days, else seconds.

    Monthly data are matched by calendar month and daily ones by day (UTC), others to the second.
    """
    if is_monthly(steps):
        return times.astype("datetime64[M]").astype(np.int64)
    if _typical(steps) == DAY:
        return times.astype("datetime64[D]").astype(np.int64)
    return times.astype("datetime64[s]").astype(np.int64)


def later(times: np.ndarray, steps: np.ndarray, lead: int) -> np.ndarray:
    """Return the times `lead` steps after times of a store with such steps, datetime64[s]."""
    if is_monthly(steps):
        month = times.astype("datetime64[M]")
        rest = times.astype("datetime64[s]") - month.astype("datetime64[s]")
        return (month + lead).astype("datetime64[s]") + rest
    return times.astype("datetime64[s]") + lead * _typical(steps)


def _typical(steps: np.ndarray) -> np.timedelta64:
    return np.sort(np.diff(steps))[(len(steps) - 1) // 2]


def _stride(steps: np.ndarray) -> int:
    """Return how far apart the numbers of two steps are."""
    return 1 if is_monthly(steps) or _typical(steps) == DAY else int(_typical(steps) / np.timedelta64(1, "s"))


def check_gaps(splits: Splits, times: np.ndarray, window: int, lead: int) -> None:
    """Raise an EarthSSLError unless the gaps between the blocks hold a window and the lead."""
    if lead < 0:
        raise EarthSSLError(f"finetune.lead: expected steps from 0 (the window's last step), got {lead}")
    need = (window - 1 + lead) * float(np.median(np.diff(times)) / DAY)
    for (before, a), (after, b) in splits.neighbours():
        gap = gap_days(a, b)
        if gap < need:
            raise EarthSSLError(
                f"splits: expected at least {need:.0f} days (window of {window} steps and lead {lead}) between "
                f"{before} and {after}, got {gap:.0f}; prepare the store with wider gaps"
            )


def _refuse_few(labels: Labels, store: Store, parts: dict[str, np.ndarray], left_out: dict[str, int]) -> None:
    for part, least in FEWEST.items():
        if len(parts[part]) < least:
            first, last = getattr(store.splits, part)
            why = "; ".join(f"{count} {words}" for words, count in left_out.items() if count)
            raise EarthSSLError(
                f"{labels.where}: expected at least {least} labels in the {part} block {first:.10}…{last:.10}, got "
                f"{len(parts[part])} of {len(labels)} (left out: {why or 'none'}); add labels, or move the block"
            )


def _targets(labels: Labels, rows: np.ndarray, parts: dict[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    values = labels.values[rows]
    if labels.kind != "classification":
        for k, name in enumerate(labels.names):
            own = values[parts["train"]] if labels.kind == "field" else values[parts["train"], k]
            if not np.nanstd(own.astype(np.float64)) > 1e-9 * max(1e-30, float(np.nanmax(np.abs(own)))):
                raise EarthSSLError(
                    f"{labels.where}: expected training labels of '{name}' that vary, got {len(own)} times the same"
                )
        return values, ()
    classes = tuple(sorted(set(values[parts["train"]]), key=_class_order))
    if len(classes) < 2:
        raise EarthSSLError(
            f"{labels.where}: expected at least two classes among the training labels, got only '{classes[0]}'; "
            "lengthen the training block"
        )
    if len(classes) > max(20, len(parts["train"]) // 5):
        raise EarthSSLError(
            f"{labels.where}: expected a few classes, got {len(classes)} among {len(parts['train'])} training labels; "
            "for numbers set kind: regression"
        )
    for part in ("val", "test"):
        unseen = [k for k in parts[part] if values[k] not in classes]
        if unseen:
            raise EarthSSLError(
                f"{labels.where}, {labels.line(int(rows[unseen[0]]))}: expected the classes of training "
                f"({', '.join(classes)}) in {part}, got '{values[unseen[0]]}' ({len(unseen)} such labels); leave them "
                "out, join classes, or move the blocks"
            )
    index = {word: k for k, word in enumerate(classes)}
    return np.asarray([index.get(word, -1) for word in values]), classes


def _class_order(word: str) -> tuple[int, float, str]:
    try:
        return 0, float(word), word
    except ValueError:
        return 1, 0.0, word


def _past(labels: Labels, numbers: np.ndarray, rows: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return the latest label of each sample's place with a number up to its limit; -1 for none."""
    known = pd.DataFrame({"at": numbers, "place": labels.place, "label": np.arange(len(labels))})
    asked = pd.DataFrame({"at": limit, "place": labels.place[rows], "sample": np.arange(len(rows))})
    found = pd.merge_asof(asked.sort_values("at"), known.sort_values("at"), on="at", by="place")
    return found.sort_values("sample")["label"].fillna(-1).to_numpy(int)


def _base(kind: str, target: np.ndarray, times: np.ndarray, train: np.ndarray, classes: int) -> Base:
    """Return the climatology of the training labels, by calendar month where there are enough of each."""
    group = climatology_group(times, True)
    monthly = bool((np.bincount(group[train], minlength=12)[np.unique(group)] >= FEWEST_OF_A_MONTH).all())
    group, groups = climatology_group(times[train], monthly), 12 if monthly else 1
    if kind == "classification":
        return Base(monthly, frequencies(target[train], classes, group, groups), np.ones(1))
    own = target[train].astype(np.float64)
    values = np.stack([valid_mean(own[group == g], 0) for g in range(groups)])
    values = np.where(np.isnan(values), valid_mean(own, 0), values)
    scale = np.atleast_1d(np.sqrt(np.nanmean((own - values[group]) ** 2, axis=None if kind == "field" else 0)))
    return Base(monthly, values, np.where(scale > 0, scale, 1.0))

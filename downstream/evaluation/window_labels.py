"""WindowLabels: what is to be told of each window of a store, and which windows belong to which block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.splits import PARTS, period, unbroken_starts
from ...ssl.store.store import Store
from ..heads.base import Samples


@dataclass(frozen=True, eq=False)
class WindowLabels:
    """The labels of one target.

    Attributes:
        name: Of the target.
        values: A number (time, 1), or one-hot classes (time, class), at each last input step; anything where unknown.
        rows: Last input steps of the samples of each block: train, val, test; and fit, those of a refit, where they
            are not just train and val.
        units: Independent unit (year …) of each last step, (time,).
        climatology: What the climatology of the labels says of the test samples, (sample, output).
        classes: Names of the classes; empty for a number.
        steps: Time step of each sample, where samples are not the steps of the store themselves.
    """

    name: str
    values: np.ndarray
    rows: Mapping[str, np.ndarray]
    units: np.ndarray
    climatology: np.ndarray
    classes: tuple[str, ...] = ()
    steps: np.ndarray | None = None

    @property
    def refit_rows(self) -> np.ndarray:
        """Last input steps of the samples of a refit."""
        return self.rows["fit"] if "fit" in self.rows else np.concatenate([self.rows["train"], self.rows["val"]])

    def samples(self, features: np.ndarray, block: str) -> Samples:
        """Return the samples of a block with features given at all steps, (time, …)."""
        rows = self.rows[block]
        return Samples(features[rows], self.values[rows], self.steps_of(rows))

    def steps_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the time steps of samples."""
        return rows if self.steps is None else self.steps[rows]


def of_same_samples(labels: Sequence[WindowLabels]) -> list[list[WindowLabels]]:
    """Return the labels, those of the same samples together."""
    groups: dict[tuple[tuple[str, bytes], ...], list[WindowLabels]] = {}
    for label in labels:
        groups.setdefault(tuple((part, own.tobytes()) for part, own in label.rows.items()), []).append(label)
    return list(groups.values())


def labelled_times(store: Store, name: str, dates: Sequence[str | int] | None) -> np.ndarray:
    """Return which steps of a store's training block have labels that may be read, bool (time,); of other blocks all.

    Args:
        store: Any.
        name: Of the setting, for errors.
        dates: First and last, as in `splits` ("1983" is the whole year); None for all of the training block.

    Raises:
        EarthSSLError: If they are no dates, or none lies in the training block.
    """
    times = store.times.astype("datetime64[ns]")
    train = store.splits.inside(times, "train")
    if dates is None:
        return np.ones(len(times), bool)
    first, last = period(name, dates)
    own = (times >= first) & (times <= last)
    if not (own & train).any():
        blocks = ["{} … {}".format(*np.datetime_as_string(block, "D")) for block in store.splits.train_blocks]
        raise EarthSSLError(
            f"{name}: expected dates within the training block ({', '.join(blocks)}), got {list(dates)}; choose "
            "dates of it, or leave the setting out for all of it"
        )
    return np.asarray(own | ~train)


def block_rows(store: Store, window: int, lead: int, known: np.ndarray) -> dict[str, np.ndarray]:
    """Return the last input steps of each block's samples.

    train: window and target in one training block. val (test): target in the validation (test) block, no step of the
    window in another part; it may begin in the gap before the block.

    Args:
        store: Any.
        window: Steps of the longest input.
        lead: Steps from the last input step to the target.
        known: Whether the target at each step is known, (time,).

    Raises:
        EarthSSLError: If a block has no sample.
    """
    times = store.times.astype("datetime64[ns]")
    last = unbroken_starts(times, window + lead) + window - 1
    first, target = last - window + 1, last + lead
    block = store.splits.block_of(times, "train")
    usable = {"train": (block[first] >= 0) & (block[first] == block[target])}
    for part in PARTS[1:]:
        others = np.any([store.splits.inside(times, other) for other in PARTS if other != part], axis=0)
        before = np.concatenate([[0], np.cumsum(others)])
        usable[part] = store.splits.inside(times, part)[target] & (before[last + 1] == before[first])
    rows = {part: last[own & known[target]] for part, own in usable.items()}
    for part, own in rows.items():
        if not len(own):
            raise EarthSSLError(
                f"expected labels in the {part} block with windows of {window} steps and a lead of {lead}, got none; "
                "lengthen the block, or shorten the window or the lead"
            )
    return rows

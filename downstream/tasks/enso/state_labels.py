"""StateLabels: El Niño, neutral or La Niña by season, and which sample belongs to which block.

A season is three consecutive months; it is El Niño (La Niña) where the mean Niño 3.4 anomaly over it is at
least +0.5 K (at most -0.5 K). Anomalies are departures from the calendar-month means of the *training* years,
so that labels do not move when validation years join the fit. This is the threshold of the ONI, not the ONI: that
takes 30-year base periods that move every 5 years, rounds to 0.1 K, and calls an event only after five such
seasons in a row; here each season stands for itself.

Lead: months from the last input month to the *last* month of the season. At lead 0 the inputs hold the whole
season: diagnosis, solved by the index itself. (Ham et al. 2019 count to the central month: one less.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.splits import PARTS
from ....ssl.model.encoder import EncoderConfig
from ....ssl.store.store import Store
from ...features.anomalies import monthly_anomaly
from ...features.eof import lagged
from ...metrics.classes import frequencies
from .labels import EnsoLabels, sst_variable

STATES = ("La Niña", "neutral", "El Niño")

SEASON = 3  # months


@dataclass(frozen=True, eq=False)
class StateLabels:
    """The labels and their blocks.

    A sample is a month i, its last input month. `train`: inputs and season inside the train block. `val`
    (`test`): season inside the validation (test) block, inputs after the end of train (validation); they may
    lie in the gap before the block.

    Attributes:
        enso: Months, Niño 3.4 and blocks.
        leads: Months from the last input month to the last month of the season, ascending.
        window: Most input months of any row.
        threshold: K.
        season: Mean anomaly over each month and the two before it, K, (time,); NaN where unknown.
        classes: 0, 1, 2 as in `STATES`; -1 where unknown, (time,).
    """

    enso: EnsoLabels
    leads: tuple[int, ...]
    window: int
    threshold: float
    season: np.ndarray
    classes: np.ndarray

    @classmethod
    def from_store(
        cls, store: Store, leads: Sequence[int] = (0,), window: int = 12, threshold: float = 0.5
    ) -> StateLabels:
        """Return the labels of a monthly store with SST.

        Raises:
            EarthSSLError: If leads or threshold make no sense, the gaps between blocks are too short, or a
                block lacks samples, or training a class.
        """
        ordered = tuple(sorted({int(lead) for lead in leads}))
        if not ordered or ordered[0] < 0 or not threshold > 0:
            raise EarthSSLError(
                f"states: expected leads ≥ 0 months and a threshold > 0 K, got {list(leads)} and {threshold}"
            )
        data = store.dataset([sst_variable(store.variables, store.path)])
        enso = EnsoLabels.from_dataset(data, store.splits, [max(1, ordered[-1])], max(window, SEASON))
        index = monthly_anomaly(enso.index, enso.month, enso.within("train"))
        season = np.full(len(index), np.nan)
        season[SEASON - 1 :] = np.lib.stride_tricks.sliding_window_view(index, SEASON).mean(axis=1)
        classes = np.where(season >= threshold, 2, np.where(season <= -threshold, 0, 1))
        labels = cls(enso, ordered, max(window, SEASON), threshold, season, np.where(np.isfinite(season), classes, -1))
        labels._check()
        return labels

    def rows(self, block: str, lead: int) -> np.ndarray:
        """Return the months (indices of the record) that are samples of "train", "val" or "test" at a lead."""
        n = len(self.enso.time)
        i = np.arange(self.window - 1, n - lead)
        first, last = i - (self.window - 1), i + lead
        inside = self.enso.within(block)
        season = inside[last] & inside[last - (SEASON - 1)]
        if block == "train":
            usable = season & inside[first]
        else:
            before = self.enso.blocks["train" if block == "val" else "fit"][1]  # one block each: `several_blocks`
            usable = season & (self.enso.time[first] > before)
        known = self.classes[last] >= 0
        # Persistence needs the season before, which the inputs of a short window may not hold.
        return i[usable & known & (self.classes[self.known(i, lead)] >= 0)]

    def known(self, rows: np.ndarray, lead: int) -> np.ndarray:
        """Return the last month of the latest season that is over and not the target's own."""
        return np.maximum(rows if lead else rows - SEASON, 0)

    def target(self, rows: np.ndarray, lead: int) -> np.ndarray:
        """Return the class of each sample's season, (n,)."""
        return self.classes[rows + lead]

    def years(self, rows: np.ndarray, lead: int) -> np.ndarray:
        """Return the year of the central month of each sample's season, (n,)."""
        return self.enso.time[rows + lead - 1].astype("datetime64[Y]").astype(int) + 1970

    def season_features(self) -> np.ndarray:
        """Return two harmonics of the calendar month, (time, 4)."""
        phase = 2 * np.pi * self.enso.month / 12
        return np.stack([f(k * phase) for k in (1, 2) for f in (np.cos, np.sin)], axis=1)

    def index_features(self) -> np.ndarray:
        """Return Niño 3.4 of the last three months, the season, and the last month's index times it, (time, 11)."""
        index = monthly_anomaly(self.enso.index, self.enso.month, self.enso.within("train"))
        season = self.season_features()
        return np.concatenate([lagged(index[:, None], SEASON), season, season * index[:, None]], axis=1)

    def baselines(self, lead: int) -> dict[str, np.ndarray]:
        """Return the probabilities of the rows without features for the test samples, each (n, 3).

        climatology: frequencies by season over train and validation; majority: their most frequent class;
        persistence: the class of the latest season that is over and not the target's own (at lead 0 the
        three months before it); damped persistence: how often each class followed that one.
        """
        rows, n = self.rows("test", lead), len(STATES)
        fit = np.concatenate([self.rows("train", lead), self.rows("val", lead)])
        past, labels = self.classes[self.known(fit, lead)], self.target(fit, lead)
        now = self.classes[self.known(rows, lead)]
        month = self.enso.month
        return {
            "climatology": frequencies(labels, n, month[fit + lead], 12)[month[rows + lead]],
            "majority": np.tile(np.eye(n)[np.bincount(labels, minlength=n).argmax()], (len(rows), 1)),
            "persistence": np.eye(n)[now],
            "damped persistence": frequencies(labels, n, past, n)[now],
        }

    def _check(self) -> None:
        for lead in self.leads:
            for block in PARTS:
                if not len(self.rows(block, lead)):
                    start, end = self.enso.blocks[block]
                    raise EarthSSLError(
                        f"states: expected labels in the {block} block {start}…{end} at lead {lead}, got none; "
                        f"lengthen the block, or shorten the window ({self.window} months) or the lead"
                    )
            counts = np.bincount(self.target(self.rows("train", lead), lead), minlength=len(STATES))
            if (counts > 0).sum() < 2:
                raise EarthSSLError(
                    f"states: expected at least two classes in training at lead {lead}, got only "
                    f"{STATES[int(counts.argmax())]} ({counts.max()} seasons); lower the threshold "
                    f"of {self.threshold:g} K"
                )


def check_window(labels: StateLabels | EnsoLabels, shape: EncoderConfig, task: str = "states") -> None:
    """Raise an EarthSSLError if an encoder wants a longer window than the samples have."""
    if shape.window > labels.window:
        raise EarthSSLError(
            f"{task}: expected encoders with a window of at most {labels.window} months, got {shape.window}; "
            f"raise {task}.window (the gaps between the blocks must hold it)"
        )

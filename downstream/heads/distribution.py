"""Distributions around what a tuned network says: conformal intervals, quantiles, and calibrated chances.

All of them come from the validation block, by whole blocks of time (years, months …), as neighbouring labels are no
independent ones; test is read once, for their scores. Validation also chose the step of the network, so that they may
be a little narrow: the coverage on the test block says how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import scoringrules
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import nn

from .uncertainty import LEVELS, block_weights, conformal_quantile, covered, crps_quantiles

COVERAGES = (0.5, 0.8, 0.9)
UNITS = {"year": "Y", "month": "M", "week": "W", "day": "D"}  # of time, the longest first
COLUMNS = ("target", "coverage", "half_width", "test_coverage", "interval_score", "crps", "crps_climatology")


@dataclass(frozen=True)
class Spread:
    """Distribution of the labels around what a network says, the same for every sample.

    Attributes:
        unit: Blocks of the validation labels that count as exchangeable: year, month, week or day.
        blocks: Their number.
        half_widths: By coverage, of each target, in its units; coverages that the blocks do not carry are left out.
        quantiles: Of the residuals at `LEVELS`, of each target, (target, level), in its units.
    """

    unit: str
    blocks: int
    half_widths: Mapping[float, Sequence[float]]
    quantiles: Sequence[Sequence[float]]

    @classmethod
    def fit(cls, residuals: np.ndarray, block: np.ndarray, unit: str) -> Spread:
        """Return the distribution of residuals (label - prediction) of the validation labels.

        Args:
            residuals: In units, (sample, target).
            block: Which year, month, … each belongs to, (sample,).
            unit: What the blocks are.
        """
        count, weight = len(np.unique(block)), block_weights(block)
        widths = {
            coverage: [conformal_quantile(np.abs(own), 1 - coverage, block) for own in residuals.T]
            for coverage in COVERAGES
            if count >= fewest_blocks(coverage)
        }
        quantiles = [weighted_quantiles(own, weight, LEVELS).tolist() for own in residuals.T]
        return cls(unit, count, widths, quantiles)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        widths = [{"coverage": one, "half_widths": list(own)} for one, own in self.half_widths.items()]
        return {**asdict(self), "half_widths": widths, "levels": list(LEVELS)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Spread:
        """Return what `to_json` gave."""
        widths = {float(one["coverage"]): [float(v) for v in one["half_widths"]] for one in plain["half_widths"]}
        return cls(
            str(plain["unit"]), int(plain["blocks"]), widths, [[float(v) for v in q] for q in plain["quantiles"]]
        )

    def scores(
        self, names: Sequence[str], observed: np.ndarray, predicted: np.ndarray, past: np.ndarray
    ) -> pd.DataFrame:
        """Return the scores on the test block, columns `COLUMNS`.

        Args:
            names: Of the targets.
            observed, predicted: In units, (sample, target).
            past: Departures of the training labels from their climatology and the climatology at the test labels:
                the climatological forecast at `LEVELS`, (sample, target, level).
        """
        rows = []
        for k, name in enumerate(names):
            y, said = observed[:, k], predicted[:, k]
            crps = crps_quantiles(y, said[:, None] + np.asarray(self.quantiles[k])).mean()
            usual = crps_quantiles(y, past[:, k]).mean()
            for coverage, half in self.half_widths.items():
                low, high = said - half[k], said + half[k]
                rows.append((name, coverage, half[k], covered(y, low, high).mean(),
                             scoringrules.interval_score(y, low, high, 1 - coverage).mean(), crps, usual))  # fmt: skip
        return pd.DataFrame(rows, columns=list(COLUMNS))


def fewest_blocks(coverage: float) -> int:
    """Return how many blocks a conformal interval of a coverage takes."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def blocks_of(times: np.ndarray, count: int) -> tuple[str, np.ndarray]:
    """Return the longest unit of which there are so many, else the day, and which one each time belongs to."""
    unit = next((name for name in UNITS if len(np.unique(unit_numbers(times, name))) >= count), "day")
    return unit, unit_numbers(times, unit)


def unit_numbers(times: np.ndarray, unit: str) -> np.ndarray:
    """Return which year, month, week or day each time belongs to."""
    return times.astype(f"datetime64[{UNITS[unit]}]").astype(np.int64)


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return quantiles of a weighted sample: the least value up to which the weights reach each level."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return np.asarray(values[order][np.minimum(np.searchsorted(reached, np.asarray(levels) - 1e-12), len(values) - 1)])


def temperature(logits: np.ndarray, classes: np.ndarray) -> float:
    """Return what logits are to be divided by so that chances say how often a class comes, by the log loss.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599), with a weak prior for 1: ½ (log T)², half a sample's worth.

    Args:
        logits: Of validation samples, (sample, class).
        classes: Theirs, (sample,).
    """

    def loss(log: float) -> float:
        chances = log_softmax(logits / math.exp(log), axis=1)
        return float(-chances[np.arange(len(classes)), classes].sum() + log**2 / 2)

    return math.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x)


def divide_logits(linear: nn.Linear, by: float) -> None:
    """Put a temperature into the linear layer that makes the logits."""
    linear.weight.data.div_(by)
    linear.bias.data.div_(by)

"""The index that an encoder and its ridge head give, as one function of normalised fields that gradients pass through.

Every pooling of the probe (mean, last, principal components) is linear in the tokens, and so is the ridge head:
together they are one weight for each token and feature, and an intercept for each calendar month.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.batch import Batch
from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import patchify
from ...features.frozen_features import Pooled
from ...heads.ridge_path import PENALTIES, RidgePath
from ..enso.state_labels import StateLabels

POOLINGS = ("mean", "last", "pcs", "mean+pcs")


def month_of(windows: Batch) -> Tensor:
    """Return the calendar month of each window's last step, 0 = January, (sample,)."""
    months = windows.times[:, -1].numpy().astype("datetime64[s]").astype("datetime64[M]")
    return torch.from_numpy(months.astype(np.int64) % 12)


@dataclass(frozen=True, eq=False)
class TokenHead:
    """A ridge head as weights on the tokens of one layer, or on the fields themselves.

    Attributes:
        layer: Block whose output it reads, counted from 0.
        weight: K per unit, (token, feature), or (step, variable, row, column).
        intercept: K, by calendar month of the last input step, (12,); NaN for a month without training samples.
        features: Their name.
        penalty: Multiple of the number of samples, chosen with the features on validation.
        validation_rmse: K, of the head fitted on training alone.
        forecast: K, at all steps of the store, from the features, (time,); NaN where no window ends.
    """

    layer: int
    weight: np.ndarray
    intercept: np.ndarray
    features: str
    penalty: float
    validation_rmse: float
    forecast: np.ndarray


class IndexFunction(nn.Module):
    """Normalised fields -> index: patches, encoder, tokens of one layer, head.

    Args:
        encoder: Frozen, in evaluation mode.
        head: Its head.
        windows: Where and when the samples lie, and which cells were observed; this does not change with the values.
    """

    def __init__(self, encoder: Encoder, head: TokenHead, windows: Batch) -> None:
        super().__init__()
        self.encoder, self.head, self.windows = encoder.eval(), head, windows
        self.weight = torch.from_numpy(head.weight).float()
        self.intercept = torch.from_numpy(head.intercept).float()[month_of(windows)]

    def forward(self, values: Tensor, at: Tensor) -> Tensor:
        """Return the index, K, (n,).

        Args:
            values: Normalised anomalies, (n, step, variable, row, column).
            at: Sample of `windows` that each stands in for, (n,).
        """
        w = self.windows
        batch = replace(w, values=values, valid=w.valid[at], times=w.times[at], keys=w.keys[at])
        patches = patchify(batch, self.encoder.config.patch)
        tokens = self.encoder.layers(patches)[self.head.layer]
        return (tokens * self.weight).sum((1, 2)) + self.intercept[at]


def fit_head(
    candidates: Iterable[Pooled],
    rows: np.ndarray,
    labels: StateLabels,
    lead: int,
    unpooled: Callable[[Pooled, np.ndarray], tuple[np.ndarray, float]],
) -> TokenHead:
    """Return the head: features and penalty chosen on validation, refitted on training and validation.

    Args:
        candidates: Features to choose from.
        rows: Last input month of each window of theirs, ascending.
        labels: With the season's index in K.
        lead: Months from the last input month to the last month of the season.
        unpooled: Returns the weights (see `TokenHead`) and the constant that coefficients on features come to.

    Raises:
        EarthSSLError: If a calendar month has no training sample.
    """
    month = labels.enso.month
    train, val = labels.rows("train", lead), labels.rows("val", lead)
    best: tuple[float, Pooled, float] | None = None
    for found in candidates:
        x, x_val = (found.values[np.searchsorted(rows, own)] for own in (train, val))
        path = RidgePath.fit(x, labels.season[train + lead, None], month[train])
        if not np.isfinite(path.target_mean).all() or len(path.target_mean) < 12:
            raise EarthSSLError("explain: expected training samples of every calendar month; lengthen splits.train")
        predicted = path.predict(x_val, PENALTIES, month[val])[..., 0]
        errors = np.sqrt(((predicted - labels.season[val + lead]) ** 2).mean(axis=1))
        k = int(errors.argmin())
        if best is None or errors[k] < best[0]:
            best = float(errors[k]), found, PENALTIES[k]
    if best is None:
        raise EarthSSLError("explain.poolings: expected at least one")
    error, chosen, penalty = best
    fit = np.concatenate([train, val])
    path = RidgePath.fit(chosen.values[np.searchsorted(rows, fit)], labels.season[fit + lead, None], month[fit])
    slope = path.coefficients(penalty)[:, 0]
    constant = path.target_mean[:, 0] - path.feature_mean @ slope
    weight, offset = unpooled(chosen, slope)
    forecast = np.full(len(month), np.nan)
    forecast[rows] = chosen.values @ slope + constant[month[rows]]
    return TokenHead(chosen.layer, weight, constant + offset, chosen.name, penalty, error, forecast)


def on_tokens(final: np.ndarray, features: Pooled, slope: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights on the tokens, (token, feature), and the constant that coefficients on features come to.

    Args:
        final: Which tokens of a window belong to its last step, (token,).
        features: Of an encoder, pooled in one of `POOLINGS`.
        slope: The coefficients, (k,).
    """
    every = np.full(len(final), 1 / len(final))
    if features.eof is None:
        return np.outer(final / final.sum() if features.pooling == "last" else every, slope), 0.0
    width = len(features.eof.weight) // int(final.sum())
    of_mean, own = (slope[:width], slope[width:]) if features.pooling == "mean+pcs" else (np.zeros(width), slope)
    per_value = np.nan_to_num(features.eof.patterns[: len(own)].T @ own) * features.eof.weight
    weight = np.outer(every, of_mean)
    weight[final] += per_value.reshape(-1, width)
    return weight, -float(np.nan_to_num(features.eof.mean) @ per_value)

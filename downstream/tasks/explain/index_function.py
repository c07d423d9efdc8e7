"""The index that an encoder and its ridge head give, as one function of normalised fields that gradients pass through.

Every pooling of the probe (mean, last, principal components) is linear in the tokens, and so is the ridge head:
together they are one weight for each token and feature, and an intercept for each calendar month.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.batch import Batch, from_fields
from ....ssl.fields.grid import LatLonGrid
from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...features.eof import Eof
from ...features.frozen_features import RawFeatures
from ...heads.ridge_path import PENALTIES, RidgePath
from ..enso.state_labels import StateLabels

POOLINGS = ("mean", "last", "pcs", "mean+pcs")


@dataclass(frozen=True, eq=False)
class Windows:
    """Input windows to explain.

    Attributes:
        values: Normalised anomalies, 0 where missing, (sample, step, variable, row, column).
        valid: Where they were observed, same shape.
        times: Seconds since 1970, (sample, step).
        rows: Index in the store of each window's last step, (sample,).
        known: Cells that ever hold a value, (variable, row, column).
        variables, grid: Of the fields.
    """

    values: Tensor
    valid: Tensor
    times: Tensor
    rows: np.ndarray
    known: Tensor
    variables: tuple[str, ...]
    grid: LatLonGrid

    @classmethod
    def read(cls, store: Store, rows: np.ndarray, length: int) -> Windows:
        """Return the windows of `length` steps that end at the rows of a store."""
        steps = np.asarray(rows)[:, None] + np.arange(1 - length, 1)
        fields = torch.from_numpy(store.read(steps.ravel()).reshape(*steps.shape, *store.shape[1:]))
        times = torch.from_numpy(store.times.astype(np.int64)[steps])
        known = torch.from_numpy(np.array(store.statistics.known))
        batch = from_fields(
            fields, times, torch.zeros(len(steps), dtype=torch.int64), known, store.variables, store.grid
        )
        return cls(batch.values, batch.valid, times, np.asarray(rows), known, store.variables, store.grid)

    @property
    def month(self) -> Tensor:
        """Calendar month of each window's last step, 0 = January, (sample,)."""
        last = self.times[:, -1].numpy().astype("datetime64[s]").astype("datetime64[M]")
        return torch.from_numpy(last.astype(np.int64) % 12)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class TokenHead:
    """A ridge head as weights on the tokens of one layer.

    Attributes:
        layer: Block whose output it reads, counted from 0.
        weight: K per unit of token, (token, feature).
        intercept: K, by calendar month of the last input step, (12,); NaN for a month without training samples.
        features: Name of the pooled features.
        penalty: Multiple of the number of samples, chosen with the features on validation.
        validation_rmse: K, of the head fitted on training alone.
        forecast: K, at all steps of the store, from the pooled features, (time,); NaN where no window ends.
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

    def __init__(self, encoder: Encoder, head: TokenHead, windows: Windows) -> None:
        super().__init__()
        self.encoder, self.head, self.windows = encoder.eval(), head, windows
        self.weight = torch.from_numpy(head.weight).float()
        self.intercept = torch.from_numpy(head.intercept).float()[windows.month]

    def forward(self, values: Tensor, at: Tensor) -> Tensor:
        """Return the index, K, (n,).

        Args:
            values: Normalised anomalies, (n, step, variable, row, column).
            at: Sample of `windows` that each stands in for, (n,).
        """
        w = self.windows
        keys = torch.zeros(len(values), dtype=torch.int64)
        batch = Batch(values, w.valid[at], w.times[at], keys, w.known, w.variables, w.grid)
        patches = patchify(batch, self.encoder.config.patch)
        tokens = self.encoder.layers(patches)[self.head.layer]
        return (tokens * self.weight).sum((1, 2)) + self.intercept[at]


@dataclass(frozen=True, eq=False)
class _Pooled:
    """Features, and how coefficients on them become weights on the tokens (token, feature) and a constant."""

    name: str
    layer: int
    values: np.ndarray
    unpool: Callable[[np.ndarray], tuple[np.ndarray, float]]


def fit_head(
    raw: RawFeatures,
    final: np.ndarray,
    labels: StateLabels,
    lead: int,
    layers: Sequence[int],
    poolings: Sequence[str],
    components: Sequence[int],
) -> TokenHead:
    """Return the head: features and penalty chosen on validation, refitted on training and validation.

    Args:
        raw: Features of the encoder at `layers`.
        final: Which tokens of a window belong to its last step, (token,).
        labels: With the season's index in K.
        lead: Months from the last input month to the last month of the season.
        layers: Blocks, counted from 0.
        poolings: Out of `POOLINGS`.
        components: Numbers of principal components.

    Raises:
        EarthSSLError: If a calendar month has no training sample.
    """
    month = labels.enso.month
    train, val = labels.rows("train", lead), labels.rows("val", lead)
    at = np.full(len(month), -1)
    at[raw.rows] = np.arange(len(raw.rows))
    best: tuple[float, _Pooled, float] | None = None
    for found in _pooled(raw, final, labels.enso.within("train"), layers, poolings, components):
        path = RidgePath.fit(found.values[at[train]], labels.season[train + lead, None], month[train])
        if not np.isfinite(path.target_mean).all() or len(path.target_mean) < 12:
            raise EarthSSLError("explain: expected training samples of every calendar month; lengthen splits.train")
        predicted = path.predict(found.values[at[val]], PENALTIES, month[val])[..., 0]
        errors = np.sqrt(((predicted - labels.season[val + lead]) ** 2).mean(axis=1))
        k = int(errors.argmin())
        if best is None or errors[k] < best[0]:
            best = float(errors[k]), found, PENALTIES[k]
    if best is None:
        raise EarthSSLError("explain.poolings: expected at least one")
    error, chosen, penalty = best
    fit = np.concatenate([train, val])
    path = RidgePath.fit(chosen.values[at[fit]], labels.season[fit + lead, None], month[fit])
    slope = path.coefficients(penalty)[:, 0]
    constant = path.target_mean[:, 0] - path.feature_mean @ slope
    weight, offset = chosen.unpool(slope)
    forecast = np.full(len(month), np.nan)
    forecast[raw.rows] = chosen.values @ slope + constant[month[raw.rows]]
    return TokenHead(chosen.layer, weight, constant + offset, chosen.name, penalty, error, forecast)


def _pooled(
    raw: RawFeatures,
    final: np.ndarray,
    training: np.ndarray,
    layers: Sequence[int],
    poolings: Sequence[str],
    components: Sequence[int],
) -> Iterator[_Pooled]:
    fitted, width = training[raw.rows], raw.mean.shape[-1]
    every = np.full(len(final), 1 / len(final))
    last = final / final.sum()
    for k, layer in enumerate(layers):
        where = f"layer {layer + 1}"
        if "mean" in poolings:
            yield _Pooled(f"{where}, mean", layer, raw.mean[k], lambda b: (np.outer(every, b), 0.0))
        if "last" in poolings:
            yield _Pooled(f"{where}, last step's mean", layer, raw.last[k], lambda b: (np.outer(last, b), 0.0))
        if not {"pcs", "mean+pcs"} & set(poolings):
            continue
        flat = raw.tokens[k].reshape(len(raw.rows), -1).astype(np.float32)
        most = min(max(components), int(fitted.sum()) - 1, flat.shape[1])
        eof = Eof.fit(flat[fitted], np.repeat(raw.area, width), most)
        pcs = eof.project(flat)
        for count in (c for c in components if c <= most):
            unpool = _unprojected(eof, count, final, width)
            if "pcs" in poolings:
                yield _Pooled(f"{where}, {count} PCs of last step's tokens", layer, pcs[:, :count], unpool)
            if "mean+pcs" in poolings:
                both = np.concatenate([raw.mean[k], pcs[:, :count]], 1)
                name = f"{where}, mean + {count} PCs of last step's tokens"
                yield _Pooled(name, layer, both, _with_mean(unpool, every, width))


def _unprojected(
    eof: Eof, count: int, final: np.ndarray, width: int
) -> Callable[[np.ndarray], tuple[np.ndarray, float]]:
    def unpool(slope: np.ndarray) -> tuple[np.ndarray, float]:
        per_value = np.nan_to_num(eof.patterns[:count].T @ slope) * eof.weight
        weight = np.zeros((len(final), width))
        weight[final] = per_value.reshape(-1, width)
        return weight, -float(np.nan_to_num(eof.mean) @ per_value)

    return unpool


def _with_mean(
    unpool: Callable[[np.ndarray], tuple[np.ndarray, float]], every: np.ndarray, width: int
) -> Callable[[np.ndarray], tuple[np.ndarray, float]]:
    def both(slope: np.ndarray) -> tuple[np.ndarray, float]:
        weight, offset = unpool(slope[width:])
        return weight + np.outer(every, slope[:width]), offset

    return both

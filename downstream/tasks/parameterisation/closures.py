"""Closures: what a model of the slow variables is told of the fast ones, with or without noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ....ssl.checkpoint.record import Record
from ....ssl.inference.export import READERS, SUFFIXES, export
from ....ssl.inference.frozen_encoder import FrozenEncoder
from ....ssl.model.encoder import Encoder
from ....ssl.sources.lorenz96 import LATITUDES, MEAN, START, UNIT
from ....ssl.store.store import Store
from ...heads.ridge_path import PENALTIES, RidgePath

# Windows of X (member, step, K), the last step now, and the step of the run -> features of each variable (member, K, f).
Reader = Callable[[np.ndarray, int], np.ndarray]
DETERMINISTIC, NOISE, STATE_NOISE = "", ", AR(1)", ", AR(1) by state"  # added to a row's name
LEAST_SPREAD = 0.1  # of the residuals' deviation: a linear fit of spread may fall below 0
ABSOLUTE = math.sqrt(math.pi / 2)  # deviation of Gaussian noise over its mean size
CHUNK = 4096  # windows read at once


@dataclass(frozen=True)
class Closure:
    """U as a linear function of features, and what it leaves unexplained: AR(1) noise.

    Attributes:
        window: Steps of the history that it reads, `interval` of the fields apart.
        reader: Returns the features.
        weight: Of U and of the mean size of the residual, (feature, 2).
        bias: Of both, (2,).
        spread: Standard deviation of the residual.
        phi: Autocorrelation of the residual from one model step to the next: as it is, and over its spread by state.
        factor: Of the spread by state, so that the residual over it has variance 1.
    """

    window: int
    reader: Reader
    weight: np.ndarray
    bias: np.ndarray
    spread: float = 0.0
    phi: tuple[float, float] = (0.0, 0.0)
    factor: float = 1.0

    def __call__(self, history: np.ndarray, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return U and the spread by state, (member, K) each, of windows (member, step, K)."""
        found = self.reader(history, step) @ self.weight + self.bias
        return found[..., 0], self.factor * np.maximum(ABSOLUTE * found[..., 1], LEAST_SPREAD * self.spread)

    def calibrated(self, slow: np.ndarray, subgrid: np.ndarray, stride: int, lag: int) -> Closure:
        """Return the closure with the memory of its residuals.

        Args:
            slow, subgrid: X and U of training members at every model step, (member, step, K).
            stride: Model steps from one field of the history to the next.
            lag: Model steps over which the autocorrelation is measured; its root is that of one step.
        """
        first = (self.window - 1) * stride
        back = np.arange(-first, 1, stride)
        times = np.arange(first, slow.shape[1])
        windows = slow[:, times[:, None] + back].reshape(-1, self.window, slow.shape[2])
        parts = [self(windows[k : k + CHUNK]) for k in range(0, len(windows), CHUNK)]
        mean, spread = (np.concatenate(own).reshape(len(slow), len(times), -1) for own in zip(*parts, strict=True))
        left = subgrid[:, first:] - mean

        def memory(values: np.ndarray) -> float:
            r = float((values[:, lag:] * values[:, :-lag]).mean() / (values**2).mean())
            return max(r, 0.0) ** (1 / lag)

        return replace(self, phi=(memory(left), memory(left / spread)))


def fit(reader: Reader, window: int, features: np.ndarray, subgrid: np.ndarray, penalty: float | None) -> Closure:
    """Return the closure whose head is fitted on samples: ridge for U, and the same for the size of what is left.

    Args:
        reader: Of the features.
        window: Of its history.
        features: Of the samples, (n, feature).
        subgrid: U, (n,).
        penalty: As in `RidgePath`; None for ordinary least squares.
    """
    penalty = PENALTIES[0] * 1e-9 if penalty is None else penalty
    path = RidgePath.fit(features, subgrid[:, None])
    weight = path.coefficients(penalty)
    bias = path.target_mean[0] - path.feature_mean[0] @ weight
    left = subgrid - (features @ weight + bias)[:, 0]
    sizes = RidgePath.fit(features, np.abs(left)[:, None])
    sized = sizes.coefficients(penalty)
    both = np.concatenate([weight, sized], axis=1)
    biases = np.concatenate([bias, sizes.target_mean[0] - sizes.feature_mean[0] @ sized])
    made = Closure(window, reader, both, biases, float(left.std()))
    spread = np.maximum(ABSOLUTE * (features @ both[:, 1] + biases[1]), LEAST_SPREAD * made.spread)
    return replace(made, factor=float(np.sqrt(((left / spread) ** 2).mean())))


def network_closure(reader: Reader, window: int, head: Mapping[str, np.ndarray], subgrid: np.ndarray) -> Closure:
    """Return the closure of a network that was trained whole: its own head, a constant spread.

    Args:
        reader: Of its tokens.
        window: Of its history.
        head: `weight` (feature,) and `bias` (), in units of U, and what it said of training samples, `said` (n,).
        subgrid: U of these, (n,).
    """
    left = subgrid - head["said"]
    weight = np.stack([head["weight"], np.zeros_like(head["weight"])], axis=1)
    bias = np.array([head["bias"], np.abs(left).mean()])
    made = Closure(window, reader, weight, bias, float(left.std()))
    return replace(made, factor=float(made.spread / (ABSOLUTE * bias[1])))


def powers(degree: int) -> Reader:
    """Return the reader of X, X², … of the present; of degree 0 one feature that is 0."""

    def read(history: np.ndarray, step: int) -> np.ndarray:
        now = history[:, -1, :, None]
        return now ** np.arange(1, degree + 1) if degree else np.zeros_like(now)

    return read


def neighbours(history: np.ndarray, step: int = 0) -> np.ndarray:
    """Return the whole window as each variable sees it, round the ring from itself on, (member, K, step × K)."""
    around = (np.arange(history.shape[2])[:, None] + np.arange(history.shape[2])) % history.shape[2]
    return np.moveaxis(history[:, :, around], 1, 2).reshape(len(history), history.shape[2], -1)


class ExportedReader:
    """The tokens of an exported encoder, as a model in another language would call it: raw fields and times in."""

    def __init__(self, encoder: Encoder, store: Store, layer: int, kind: str) -> None:
        """Export the encoder, read the file back and keep it; the export compares the two.

        Args:
            encoder: Frozen.
            store: Whose climatology, scale and grid it was trained with.
            layer: Block whose tokens are read.
            kind: torchscript or onnx.
        """
        frozen = FrozenEncoder(encoder, record_of(encoder, store))
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"encoder{SUFFIXES[kind]}"
            export(frozen, path, kind, pooling="tokens", layer=layer)
            self._program = READERS[kind](path)
        self.steps_a_day = 1
        self._shown = slice(-store.grid.shape[1], None)  # tokens of the last step

    def __call__(self, history: np.ndarray, step: int) -> np.ndarray:
        """Return the tokens of the last step, (member, K, feature)."""
        fields = torch.from_numpy((MEAN + UNIT * history).astype(np.float32))[:, :, None, None]
        fields = fields.expand(-1, -1, 1, len(LATITUDES), -1).contiguous()
        day = START.astype("datetime64[s]").astype(np.int64) + 86400 * (step // self.steps_a_day)
        seconds = torch.from_numpy(day + 86400 * np.arange(history.shape[1])).expand(len(history), -1).contiguous()
        return np.asarray(self._program(fields, seconds)[:, self._shown], dtype=np.float64)


def record_of(encoder: Encoder, store: Store) -> Record:
    """Return what an export must know of an encoder on the store's fields, trained or not."""
    return Record(
        encoder=encoder.config, variables=store.variables, units=tuple(store.manifest["units"]),
        step_days=store.step_days, grid=store.grid, statistics=store.statistics, splits=store.splits,
        fingerprint=store.fingerprint, seed=0, steps=0, config={}, licence="", source=store.manifest["source"],
        versions={}, health={},
    )  # fmt: skip

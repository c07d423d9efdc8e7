"""Closures: what a model of the slow variables is told of the fast ones, with or without noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ....ssl.checkpoint.record import Record
from ....ssl.inference.compare_export import Program
from ....ssl.inference.export import READERS, SUFFIXES, export
from ....ssl.inference.frozen_encoder import FrozenEncoder
from ....ssl.model.encoder import Encoder
from ....ssl.sources.lorenz96 import LATITUDES, MEAN, START, UNIT
from ....ssl.store.store import Store
from ...heads.ridge_path import RidgePath

# Windows of X (member, step, K), the last step now, and the step of the run -> features (member, K, feature).
Reader = Callable[[np.ndarray, int], np.ndarray]
LEAST_SPREAD = 0.1  # of the residuals' deviation: a linear fit of spread may fall below 0
ABSOLUTE = math.sqrt(math.pi / 2)  # deviation of Gaussian noise over its mean size
EXPORTS = ("torchscript", "onnx")
CHUNK = 4096  # windows read at once


@dataclass(frozen=True)
class Closure:
    """U as a linear function of features, and what it leaves unexplained: AR(1) noise.

    Attributes:
        window: Steps of the history that it reads, one field apart.
        reader: Returns the features.
        weight: Of U and of the mean size of the residual, (feature, 2).
        bias: Of both, (2,).
        spread: Standard deviation of the residual.
        factor: Of the spread by state, so that the residual over it has variance 1.
        phi: Autocorrelation from one model step to the next of the residual, and of the residual over its spread by
            state.
    """

    window: int
    reader: Reader
    weight: np.ndarray
    bias: np.ndarray
    spread: float = 0.0
    factor: float = 1.0
    phi: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def fit(cls, reader: Reader, window: int, features: np.ndarray, subgrid: np.ndarray, penalty: float) -> Closure:
        """Return the closure of ridge regressions of U (n,), and of the size of what is left, on features (n, f)."""
        fits, target = [], subgrid
        for _ in range(2):
            path = RidgePath.fit(features, target[:, None])
            weight = path.coefficients(penalty)[:, 0]
            fits.append((weight, path.target_mean[0, 0] - path.feature_mean[0] @ weight))
            left = subgrid - features @ fits[0][0] - fits[0][1]
            target = np.abs(left)
        weights, biases = (np.stack(own, axis=-1) for own in zip(*fits, strict=True))
        made = cls(window, reader, weights, biases, float(left.std()))
        return replace(made, factor=float((left / made._told(features)[1]).std()))

    def __call__(self, history: np.ndarray, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return U and the spread by state, (member, K) each, of windows (member, step, K)."""
        return self._told(self.reader(history, step))

    def _told(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = features @ self.weight + self.bias
        return found[..., 0], self.factor * np.maximum(ABSOLUTE * found[..., 1], LEAST_SPREAD * self.spread)

    def calibrated(self, slow: np.ndarray, subgrid: np.ndarray, stride: int, lag: int) -> Closure:
        """Return the closure with the memory of its residuals.

        Args:
            slow, subgrid: X and U of training members at every model step, (member, step, K).
            stride: Model steps from one field of the history to the next.
            lag: Model steps over which the autocorrelation is measured; its root is that of one step.
        """
        times = np.arange((self.window - 1) * stride, slow.shape[1])
        windows = slow[:, times[:, None] + np.arange(1 - self.window, 1) * stride].reshape(
            -1, self.window, slow.shape[2]
        )
        parts = [self(windows[k : k + CHUNK]) for k in range(0, len(windows), CHUNK)]
        mean, spread = (np.concatenate(own).reshape(len(slow), len(times), -1) for own in zip(*parts, strict=True))
        left = subgrid[:, times] - mean

        def memory(values: np.ndarray) -> float:
            r = float((values[:, lag:] * values[:, :-lag]).mean() / (values**2).mean())
            return max(r, 0.0) ** (1 / lag)

        return replace(self, phi=(memory(left), memory(left / spread)))


def nothing(history: np.ndarray, step: int = 0) -> np.ndarray:
    """Return one feature that is 0: no closure at all."""
    return np.zeros((*history[:, -1].shape, 1))


def linear(history: np.ndarray, step: int = 0) -> np.ndarray:
    """Return X as it is now."""
    return history[:, -1, :, None]


def cubic(history: np.ndarray, step: int = 0) -> np.ndarray:
    """Return X, X² and X³ as they are now (Wilks 2005 took four powers, Arnold et al. 2013 three)."""
    return history[:, -1, :, None] ** np.arange(1, 4)


def neighbours(history: np.ndarray, step: int = 0) -> np.ndarray:
    """Return the whole window as each variable sees it, round the ring from itself on, (member, K, step × K)."""
    return around(history.swapaxes(1, 2))


def around(values: np.ndarray) -> np.ndarray:
    """Return values (member, K, value) of all variables as each sees them round the ring, (member, K, K × value)."""
    ring = np.arange(values.shape[1])
    return values[:, (ring[:, None] + ring) % len(ring)].reshape(*values.shape[:2], -1)


def exported(encoder: Encoder, store: Store, layer: int, kind: str) -> Program:
    """Return an encoder as exported to a file and read back: raw fields and seconds -> tokens.

    Args:
        encoder: Frozen.
        store: Whose climatology, scale and grid it was trained with.
        layer: Block whose tokens are read.
        kind: torchscript or onnx.
    """
    record = Record(
        encoder=encoder.config, variables=store.variables, units=tuple(store.manifest["units"]),
        step_days=store.step_days, grid=store.grid, statistics=store.statistics, splits=store.splits,
        fingerprint=store.fingerprint, seed=0, steps=0, config={}, licence="", source=store.manifest["source"],
        versions={}, health={},
    )  # fmt: skip
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls TorchScript deprecated
        path = Path(folder) / f"encoder{SUFFIXES[kind]}"
        export(FrozenEncoder(encoder, record), path, kind, pooling="tokens", layer=layer)
        return READERS[kind](path)


class ExportedReader:
    """The tokens of an exported encoder, as a model in another language would call it: raw fields and times in."""

    def __init__(self, encoder: Encoder, store: Store, layer: int, kind: str, stride: int, whole: bool) -> None:
        """Export the encoder, and read the file back; the export compares the two.

        Args:
            encoder: Frozen.
            store: Whose climatology, scale and grid it was trained with.
            layer: Block whose tokens are read.
            kind: torchscript or onnx.
            stride: Model steps of a "day".
            whole: Whether each variable sees the tokens of all, round the ring from itself on, or its own.
        """
        self._program = exported(encoder, store, layer, kind)
        self._stride, self._whole, self._shown = stride, whole, slice(-store.grid.shape[1], None)

    def __call__(self, history: np.ndarray, step: int) -> np.ndarray:
        """Return the tokens of the last step, (member, K, feature)."""
        fields = torch.from_numpy((MEAN + UNIT * history).astype(np.float32))[:, :, None, None]
        fields = fields.expand(-1, -1, 1, len(LATITUDES), -1).contiguous()
        days = START.astype(np.int64) + step // self._stride + np.arange(history.shape[1])
        seconds = torch.from_numpy(86400 * days).expand(len(history), -1).contiguous()
        tokens = np.asarray(self._program(fields, seconds)[:, self._shown], dtype=np.float64)
        return around(tokens) if self._whole else tokens

"""Random ReLU features: what a network of random weights makes of its input, without the network."""

from __future__ import annotations

import numpy as np

from ...ssl.common.randomness import key


def random_weights(values: np.ndarray, training: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return W (value, count) and b (count,) of the features max(0, x W + b), float32; standardising is in them.

    Args:
        values, training, count, seed: As for `random_relu`.
    """
    own = values[training].reshape(-1, values.shape[-1])
    own = own[np.isfinite(own).all(axis=1)]
    mean, spread = own.mean(axis=0), own.std(axis=0)
    scale = np.where(spread > 1e-12 * np.abs(own).max(axis=0, initial=0.0), spread, np.inf)
    rng = np.random.default_rng(key(seed, "random features") & (2**63 - 1))
    weight = rng.standard_normal((values.shape[-1], count)) / np.sqrt(values.shape[-1]) / scale[:, None]
    offset = rng.standard_normal(count) - mean @ weight
    return weight.astype(np.float32), offset.astype(np.float32)


def random_relu(values: np.ndarray, training: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return max(0, z W + b), z the values standardised over the training samples, float32 (sample, …, count).

    W has variance 1 / values and b variance 1 (random features, Rahimi & Recht 2007). NaN stays NaN.

    Args:
        values: Shape (sample, …, value).
        training: Samples that set mean and spread, indices or a mask.
        count: Number of features.
        seed: Of the weights.
    """
    weight, offset = random_weights(values, training, count, seed)
    return np.maximum(values @ weight + offset, 0).astype(np.float32)

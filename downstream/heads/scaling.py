"""Scalings of features before a distance is taken in them: as they are, standardised, whitened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .base import standardised

SCALINGS = ("raw", "standardised", "whitened")
MOST_WHITENED = 128  # features; of more, whitening would mostly raise noise
CORRELATED = 0.1  # features with no larger correlation are white once standardised


def scaled(features: np.ndarray, own: np.ndarray, scalings: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield scalings of features, float32 (sample, k): raw (centred), standardised, whitened (all components).

    Whitening is left out of more than 128 features, and of features that are white once standardised.

    Args:
        features: Shape (sample, k).
        own: Those that means, deviations and covariances are of, (sample, k); samples with a NaN are left out.
        scalings: Out of `SCALINGS`.
    """
    own = np.asarray(own[np.isfinite(own).all(axis=1)], dtype=np.float64)
    for scaling in scalings:
        if scaling == "raw":
            yield scaling, (features - own.mean(axis=0)).astype(np.float32)
        elif scaling == "standardised":
            yield scaling, standardised(own, features)[1].astype(np.float32)
        elif (axes := _axes(own)) is not None:
            yield scaling, ((features - own.mean(axis=0)) @ axes).astype(np.float32)


def _axes(own: np.ndarray) -> np.ndarray | None:
    """Return what whitens features (sample, k); None where they are too many, or white once standardised."""
    if own.shape[1] > MOST_WHITENED:
        return None
    spread = own.std(axis=0)
    varies = spread > 0
    correlation = np.atleast_2d(np.corrcoef(own[:, varies], rowvar=False)) if varies.any() else np.eye(1)
    if np.abs(correlation - np.eye(len(correlation))).max() <= CORRELATED:
        return None
    power, basis = np.linalg.eigh(np.cov(own, rowvar=False))
    kept = power > 1e-6 * power.max()
    return np.asarray(basis[:, kept] / np.sqrt(power[kept]))

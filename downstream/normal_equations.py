"""Least squares from its sums: the ridge solution, and the squared error of any coefficients, without the samples."""

from __future__ import annotations

import numpy as np


def solved(gram: np.ndarray, cross: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Return the coefficients (feature, target) that minimise squared error plus Σ ridge × coefficient².

    Args:
        gram: Products of the features, (feature, feature).
        cross: Products of features and targets, (feature, target).
        ridge: Penalty of each feature, 0 for a constant, (feature,).
    """
    return np.asarray(np.linalg.solve(gram + np.diag(ridge), cross))


def squared_error(coefficients: np.ndarray, gram: np.ndarray, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return the summed squared error of each target, (target,); `power` are the sums of their squares, (target,)."""
    b = coefficients
    return np.asarray(power - 2 * (b * cross).sum(axis=0) + (b * (gram @ b)).sum(axis=0))

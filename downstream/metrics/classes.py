"""Scores of probabilities of classes: Brier skill, accuracy, balanced accuracy and log loss."""

from __future__ import annotations

import numpy as np

from ...ssl.common.errors import EarthSSLError
from .paired_bootstrap import Statistic

FLOOR = 1e-3  # least probability that the log loss believes: a row that says 0 pays -ln 0.001, not infinity


def frequencies(labels: np.ndarray, classes: int, group: np.ndarray | None = None, groups: int = 1) -> np.ndarray:
    """Return (count + 1) / (n + classes) of each class in each group (Laplace's rule), shape (groups, classes)."""
    counts = np.zeros((groups, classes))
    np.add.at(counts, (np.zeros(len(labels), dtype=int) if group is None else group, labels), 1.0)
    return (counts + 1) / (counts.sum(axis=1, keepdims=True) + classes)


def statistics(probabilities: np.ndarray, labels: np.ndarray, climatology: np.ndarray) -> dict[str, Statistic]:
    """Return each metric as a function of sample weights (n,), giving one score for each forecast (m,).

    Args:
        probabilities: Of m forecasts, shape (m, n, classes).
        labels: What occurred, shape (n,).
        climatology: Probabilities of the reference of the Brier skill, shape (n, classes).

    Brier skill: 1 - Σ over samples and classes of (p - o)² over that of the climatology. Balanced accuracy: mean over
    the classes that occur (with weight) of the share of their samples that was called right.
    """
    n, classes = probabilities.shape[1:]
    if labels.shape != (n,) or climatology.shape != (n, classes):
        raise EarthSSLError(
            f"expected labels ({n},) and climatology ({n}, {classes}) for probabilities of shape "
            f"{probabilities.shape}, got {labels.shape} and {climatology.shape}"
        )
    if not (np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=-1), 1, atol=1e-6)):
        raise EarthSSLError("expected finite probabilities that sum to 1, got others")
    occurred = one_hot(labels, classes)
    error, reference = squared_error(probabilities, occurred), squared_error(climatology, occurred)
    right = (probabilities.argmax(axis=-1) == labels).astype(float)
    loss = -np.log(np.maximum(np.take_along_axis(probabilities, labels[None, :, None], 2)[..., 0], FLOOR))

    def balanced(w: np.ndarray) -> np.ndarray:
        total = w @ occurred
        return ((right * w) @ occurred)[:, total > 0] @ (1 / total[total > 0]) / (total > 0).sum()

    return {
        "brier_skill": lambda w: 1 - (error @ w) / (reference @ w),
        "accuracy": lambda w: right @ w / w.sum(),
        "balanced_accuracy": balanced,
        "log_loss": lambda w: loss @ w / w.sum(),
    }


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels 0 … classes - 1 as targets, one column a class, float64 (n, classes)."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise EarthSSLError(
            f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}; label every sample"
        )
    return np.eye(classes)[labels]


def squared_error(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the squared error summed over the outputs, shape (…, n): Brier's, for classes."""
    return ((predicted - targets) ** 2).sum(axis=-1)

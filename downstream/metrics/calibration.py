"""Do chances mean what they say? Sums over bins of chance, and what is made of them: Brier, reliability, ECE.

Reliability and resolution: Murphy 1973 (doi 10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2), of chances in ten equal
bins. Expected calibration error: Naeini et al. 2015 (doi 10.1609/aaai.v29i1.9602). Both are above 0 for few samples,
however well calibrated; compare rows on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 10
SUMS = 3 * BINS + 1  # of each bin weight, chance and occurrence; squared error


def chance_sums(chance: np.ndarray, occurred: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return what is summed of the chances of one class, (`SUMS`, sample).

    Args:
        chance: (sample,), or of several places (sample, place).
        occurred: 0 or 1, of the same shape.
        weight: Of the same shape; None: 1.
    """
    p, o = (np.asarray(one, np.float64).reshape(len(one), -1) for one in (chance, occurred))
    w = np.ones_like(p) if weight is None else np.broadcast_to(weight, p.shape)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    inside = [np.where(bins == b, w, 0.0) for b in range(BINS)]
    parts = [(own * part).sum(axis=1) for part in (np.ones_like(p), p, o) for own in inside]
    return np.stack([*parts, (w * (p - o) ** 2).sum(axis=1)])


def _parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return weight, chance and occurrence by bin, (…, bin), and the whole weight, (…,), of sums (…, `SUMS`)."""
    weight, chance, occurred = (sums[..., k * BINS : (k + 1) * BINS] for k in range(3))
    return weight, chance, occurred, weight.sum(axis=-1)


def brier(sums: np.ndarray) -> np.ndarray:
    """Return the mean squared error of the chances, (…,), of sums (…, `SUMS`)."""
    return np.asarray(sums[..., -1] / _parts(sums)[-1])


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """Return the mean difference of chance and frequency by bin, weighted by the bins' samples (ECE), (…,)."""
    _, chance, occurred, total = _parts(sums)
    return np.asarray(np.abs(chance - occurred).sum(axis=-1) / total)


def reliability(sums: np.ndarray) -> np.ndarray:
    """Return the mean squared difference of chance and frequency by bin: 0 is calibrated, (…,)."""
    weight, chance, occurred, total = _parts(sums)
    return np.asarray(((chance - occurred) ** 2 / np.where(weight > 0, weight, 1)).sum(axis=-1) / total)


def resolution(sums: np.ndarray) -> np.ndarray:
    """Return the variance of the frequency over the bins: more is better, (…,)."""
    weight, _, occurred, total = _parts(sums)
    every = (occurred.sum(axis=-1) / total)[..., None]
    apart = (occurred / np.where(weight > 0, weight, 1) - every) ** 2
    return np.asarray((weight * apart).sum(axis=-1) / total)


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "resolution": resolution, "brier": brier, "ece": calibration_error, "reliability": reliability,
}  # fmt: skip

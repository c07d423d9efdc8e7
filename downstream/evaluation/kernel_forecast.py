"""Forecasts of the fields by a kernel, fitted on all training steps: what predictable directions are, not linear.

What a smooth nonlinear function of the present says of the days ahead needs no label. Where it helps labels more than
linear forecasts do, the unlabelled steps hold what a pretrained network can learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..heads.base import Samples, choose
from ..heads.kernel import KernelHead

INPUTS, TARGETS = 100, 40  # principal components of the window that are read, and that are told ahead
WIDTHS = (0.1, 0.3, 1.0)
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-7.0, 0.5, 0.5))
LANDMARKS, STEPS = 2000, 12000
TRIED = 6  # settings are chosen with a sixth of the landmarks and of the steps


def kernel_forecasts(
    components: np.ndarray, training: np.ndarray, validation: np.ndarray, ahead: Sequence[int], wanted: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the leading components of the window some steps on, as the present tells them, (time, k); NaN elsewhere.

    Components keep their own spread, so that the kernel sees what is large. Width and penalty are chosen on the fields
    of the validation block; no label is read. Empty where a block is too short.

    Args:
        components: Principal components of the window that ends at each step, (time, k); NaN where there is none.
        training, validation: Steps of either block.
        ahead: Steps ahead, from 1.
        wanted: Steps that forecasts are made at.
    """
    x = components[:, :INPUTS]
    known = np.isfinite(x).all(axis=1)
    far = max(ahead)

    def samples(rows: np.ndarray, most: int) -> Samples:
        own = rows[known[rows] & np.isin(rows + far, rows)]
        own = own[known[own + far]][:: max(1, -(-len(own) // most))]
        y = np.concatenate([x[own + lead, :TARGETS] for lead in sorted(ahead)], axis=1)
        finite = np.isfinite(y).all(axis=1)
        return Samples(x[own[finite]], y[finite], own[finite])

    few, val = samples(training, STEPS // TRIED), samples(validation, STEPS // TRIED)
    if len(few) < 2 * TRIED or len(val) < 2 * TRIED:
        return {}
    head = KernelHead(WIDTHS, PENALTIES, LANDMARKS // TRIED, standardise=False)
    setting = choose(head, {"x": few}, {"x": val}).setting
    train = samples(training, STEPS)
    own = wanted[known[wanted]]
    asked = Samples(x[own], np.zeros((len(own), train.targets.shape[1])), own)
    best = KernelHead(WIDTHS, PENALTIES, min(LANDMARKS, len(train) // 4), standardise=False)
    told = best.predict(train, asked, [_less_damped(setting)])[0]
    forecast = np.full((len(x), told.shape[1]), np.nan)
    forecast[own] = told
    size = min(TARGETS, x.shape[1])
    both = np.concatenate([forecast[:, -size:], x], axis=1)
    return {
        f"forecast of {size} components": forecast[:, -size:],
        f"forecast of {size} components beside those of the present": both,
    }


def _less_damped(setting: tuple[float, float]) -> tuple[float, float]:
    """Return the setting for `TRIED` times as many samples: the penalty is a multiple of their number."""
    return setting[0], setting[1] / TRIED

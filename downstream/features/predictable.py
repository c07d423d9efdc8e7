"""Directions of the present that predict the fields ahead: canonical correlations, fitted on all training steps.

The strongest linear use of unlabelled data: what a linear inverse model forecasts, as features for few labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ssl.store.store import Store
from .eof import window_components
from .raw_window import raw_window

COMPONENTS = 60  # principal components on either side
DIRECTIONS = (3, 10, 20, 40)
SHRINKAGE = 0.05  # of both covariances towards a multiple of the unit matrix


def predictable_directions(
    store: Store, window: int, leads: Sequence[int], components: Sequence[int] = (COMPONENTS,)
) -> dict[str, np.ndarray]:
    """Return the leading canonical variates of the window with the fields `leads` steps on, (time, k) each.

    Fitted on all steps of a training block whose target lies in the same one, labelled or not. With several numbers of
    components also what a linear model forecasts from them: the fields themselves at the furthest lead, cell by cell.

    Args:
        store: Any.
        window: Steps of the input.
        leads: Steps ahead, from 1; the targets are the principal components of the fields at all of them.
        components: Numbers of principal components on either side to choose from.
    """
    block = store.splits.block_of(store.times.astype("datetime64[ns]"), "train")
    now, single = raw_window(store, window), raw_window(store, 1)
    training = np.flatnonzero((block >= 0) & np.isfinite(now).all(axis=1))
    most = min(max(components), len(training) // 4, now.shape[1], single.shape[1])
    if most < 1:
        return {}
    (every_x,) = window_components(now, training, [most]).values()
    (every_y,) = window_components(single, training, [most]).values()
    far = max(leads)
    rows = training[np.isin(training + far, training)]
    rows = rows[block[rows] == block[rows + far]]
    found: dict[str, np.ndarray] = {}
    for count in sorted({min(most, one) for one in components}):
        x, y = every_x[:, :count], every_y[:, :count]
        ahead = np.concatenate([y[rows + lead] for lead in sorted(leads)], axis=1)
        mean = x[rows].mean(axis=0)
        whiten_x, whiten_y = _whitening(x[rows] - mean), _whitening(ahead - ahead.mean(axis=0))
        cross = whiten_x.T @ ((x[rows] - mean).T @ (ahead - ahead.mean(axis=0)) / len(rows))
        directions = (x - mean) @ (whiten_x @ np.linalg.svd(cross @ whiten_y, full_matrices=False)[0])
        of = f" of {count} components" if len(components) > 1 else ""
        sizes = {*DIRECTIONS, *(() if len(components) == 1 else (count,))}
        found |= {f"{k} directions{of}": directions[:, :k] for k in sorted({min(k, count) for k in sizes})}
        if len(components) > 1:
            covariance = (x[rows] - mean).T @ single[rows + far] / len(rows)
            forecast = (x - mean) @ (whiten_x @ (whiten_x.T @ covariance))
            found[f"fields forecast from {count} components"] = forecast.astype(np.float32)
    return found


def _whitening(centred: np.ndarray) -> np.ndarray:
    """Return W with Wᵀ C W = 1, C the covariance shrunk towards its mean variance."""
    covariance = centred.T @ centred / len(centred)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(
        len(covariance)
    )
    power, basis = np.linalg.eigh(covariance)
    return basis / np.sqrt(power)

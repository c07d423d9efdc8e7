"""Solvers of pretext tasks by a trivial cue that several tasks share: statistics of what is shown, interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..ssl.common.errors import EarthSSLError
from ..ssl.fields.batch import Batch
from ..ssl.fields.grid import LatLonGrid
from ..ssl.training.objective import Cue, over_chance

EARTH_RADIUS_KM = 6371.0


class Statistics(Cue):
    """Logistic regression on a few numbers of what a classifying task shows.

    The task must offer `pose(batch)`: what it shows, and each sample's class; and how many `classes` there are.
    """

    def __init__(self, name: str, features: Callable[[Batch], np.ndarray]) -> None:
        self.name, self.features = name, features
        self._head: Any = None

    def fit(self, objective: Any, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Fit on training windows."""
        posed = [objective.pose(batch) for batch in batches]
        x = np.concatenate([self.features(shown) for shown, _ in posed])
        y = np.concatenate([target.numpy() for _, target in posed])
        found = len(np.unique(y))
        if found < 2:
            raise EarthSSLError(
                f"cue '{self.name}': expected several classes to fit on, got {found}; raise audit.fit_batches"
            )
        self._head = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(x, y)

    def skill(self, objective: Any, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the skill over chance."""
        shown, target = objective.pose(batch)
        accuracy = float((self._head.predict(self.features(shown)) == target.numpy()).mean())
        return float(over_chance(torch.tensor(accuracy, dtype=torch.float64), objective.classes))


def frame_statistics(batch: Batch) -> np.ndarray:
    """Return mean and log variance of each step and variable over its valid cells, (batch, numbers)."""
    weight = batch.valid * torch.from_numpy(batch.grid.area).to(batch.values)
    total = weight.sum((-1, -2)).clamp(min=1e-12)
    mean = (batch.values * weight).sum((-1, -2)) / total
    variance = (weight * (batch.values - mean[..., None, None]) ** 2).sum((-1, -2)) / total
    return np.concatenate([mean.flatten(1).numpy(), (variance + 1e-6).log().flatten(1).numpy()], 1)


def gradient_statistics(batch: Batch) -> np.ndarray:
    """Return mean gradients along rows and columns, and the log variance in each half, (batch, numbers)."""
    x = torch.where(batch.valid, batch.values, torch.zeros(()))
    rows, columns = x.shape[-2:]
    south, east = (x[..., 1:, :] - x[..., :-1, :]).mean((-1, -2)), (x[..., 1:] - x[..., :-1]).mean((-1, -2))
    halves = (x[..., : rows // 2, :], x[..., rows // 2 :, :], x[..., : columns // 2], x[..., columns // 2 :])
    spread = [((half**2).mean((-1, -2)) + 1e-6).log() for half in halves]
    return torch.cat([part.flatten(1) for part in (south, east, *spread)], 1).numpy()


class Interpolation(Cue):
    """Rebuilds hidden cells by a weighted mean of the visible ones, near in space and time.

    Weights fall off as exp(-(d/L)²/2) with distance and exp(-|dt|/T) with time; L, T and a damping factor per
    variable are chosen on training windows. The task must offer `hidden(batch, patch)`: the cells its loss is
    scored on, and those an encoder may see, (batch, step, variable, row, column) each.
    """

    name = "interpolation in space and time"
    LENGTHS_KM = (300.0, 800.0, 2000.0)
    TIMES_STEPS = (0.3, 1.0, 3.0)

    def __init__(self) -> None:
        self._chosen: tuple[float, float] | None = None
        self._damping: Tensor | None = None

    def fit(self, objective: Any, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Choose the scales by the error on the hidden cells of training windows."""
        posed = [(batch, *objective.hidden(batch, patch)) for batch in batches]
        best = np.inf
        for length in self.LENGTHS_KM:
            for time in self.TIMES_STEPS:
                moments = torch.zeros(3, len(posed[0][0].variables), dtype=torch.float64)
                for batch, scored, seen in posed:
                    guess = interpolate(batch, seen, length, time)
                    moments += _moments(guess, batch, scored)
                damping = moments[1] / moments[0].clamp(min=1e-12)
                error = moments[2] - 2 * damping * moments[1] + damping**2 * moments[0]
                loss = float((error / moments[2].clamp(min=1e-12)).mean())
                if loss < best:
                    best, self._chosen, self._damping = loss, (length, time), damping

    def skill(self, objective: Any, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - error / power on the hidden cells."""
        if self._chosen is None or self._damping is None:
            raise EarthSSLError("expected an interpolation fitted on training windows, got none; call fit first")
        scored, seen = objective.hidden(batch, patch)
        guess = interpolate(batch, seen, *self._chosen)
        square, product, power = _moments(guess, batch, scored)
        error = power - 2 * self._damping * product + self._damping**2 * square
        some = power > 0
        return float((1 - error[some] / power[some]).mean())


def _moments(guess: Tensor, batch: Batch, scored: Tensor) -> Float[Tensor, "moment variable"]:
    """Return Σ guess², Σ guess·truth, Σ truth² over the scored cells, area-weighted, for each variable."""
    weight = scored * torch.from_numpy(batch.grid.area)
    return torch.stack(
        [
            (weight * a.double() * b.double()).sum((0, 1, 3, 4))
            for a, b in ((guess, guess), (guess, batch.values), (batch.values, batch.values))
        ]
    )


def interpolate(batch: Batch, seen: Tensor, length_km: float, time_steps: float) -> Tensor:
    """Return the kernel-weighted mean of the seen cells at every cell, 0 where nothing is near."""
    along_time, rows, columns = _kernels(batch.grid, batch.values.shape[1], length_km, time_steps)

    def spread(x: Tensor) -> Tensor:
        x = torch.einsum("rcd,btvrd->btvrc", columns, x)
        x = torch.einsum("qr,btvrc->btvqc", rows, x)
        return torch.einsum("st,btvrc->bsvrc", along_time, x)

    mask = seen.float()
    total = spread(mask)
    return torch.where(total > 1e-6, spread(batch.values * mask) / total.clamp(min=1e-6), torch.zeros(()))


def _kernels(grid: LatLonGrid, steps: int, length_km: float, time_steps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights between steps, between rows, and between columns in each row."""
    lat, lon = np.deg2rad(grid.lat), np.deg2rad(grid.lon)
    north = EARTH_RADIUS_KM * np.abs(lat[:, None] - lat[None, :])
    turn = np.abs(lon[:, None] - lon[None, :])
    turn = np.minimum(turn, 2 * np.pi - turn)
    east = EARTH_RADIUS_KM * np.cos(lat)[:, None, None] * turn[None]
    apart = np.abs(np.arange(steps)[:, None] - np.arange(steps)[None, :])
    weights = (
        np.exp(-apart / time_steps),
        np.exp(-((north / length_km) ** 2) / 2),
        np.exp(-((east / length_km) ** 2) / 2),
    )
    return tuple(torch.from_numpy(w).float() for w in weights)  # type: ignore[return-value]

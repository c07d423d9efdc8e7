"""Distance in time: how many steps lie between these two states?

Trivial cues and how they are closed: shared steps (the states never overlap; the distance is counted from the last
step of one to the first of the other); the season (fields are anomalies, no time of year is given); trend and
drift of the observing system (every step loses its area mean); gaps and coastlines (only cells observed in both
states are shown). Each state is encoded by itself, and nothing tells which was earlier unless it is asked for. What
remains is how far the pattern has moved on: the audit sets its plain distance and correlation beside the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder, EncoderConfig
from ...ssl.model.tokens import SEASON, patchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig, Outcome

NAME = "distance"
SCALES = ("log", "linear")


@dataclass(frozen=True)
class DistanceConfig(ObjectiveConfig):
    """Settings of the distance in time.

    Attributes:
        weight: Weight of the loss.
        max_lag: Greatest distance in steps; distances are drawn uniformly from 1 to it.
        frames: Steps in each state; 0 takes the encoder's window.
        scale: What is regressed: "log" (log of 1 + steps) or "linear" (steps); either way normalised.
        signed: Whether to ask for the sign too: positive where the second state shown is the later one.
        hidden: Width of the head's hidden layer.
    """

    weight: float = 1.0
    max_lag: int = 12
    frames: int = 1
    scale: str = "log"
    signed: bool = False
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise EarthSSLError(
                f"{NAME}.scale: expected {' or '.join(SCALES)}, got '{self.scale}'." + nearest(self.scale, SCALES)
            )
        least = 1 if self.signed else 2
        if self.max_lag < least or self.frames < 0 or self.hidden < 1:
            raise EarthSSLError(
                f"{NAME}: expected max_lag ≥ {least}, frames ≥ 0 and hidden ≥ 1, got {self.max_lag}, {self.frames}, "
                f"{self.hidden}"
            )

    def build(self, context: Context) -> Distance:
        """Return the objective.

        Raises:
            EarthSSLError: If a state is longer than the encoder's window, or no whole number of patches.
        """
        shape = context.encoder.config
        if self.frames > shape.window or self.frames % shape.patch[0]:
            raise EarthSSLError(
                f"{NAME}.frames: expected 0 to {shape.window} (encoder.window), a multiple of the patch's "
                f"{shape.patch[0]} steps, got {self.frames}"
            )
        return Distance(self, context)

    def length(self, encoder: EncoderConfig) -> int:
        """Return the steps in each state."""
        return self.frames or encoder.window

    def span(self, encoder: EncoderConfig) -> int:
        """Return the steps of two states at the greatest distance."""
        return 2 * self.length(encoder) - 1 + self.max_lag


def targets(config: DistanceConfig) -> Float[Tensor, " lag"]:
    """Return what is regressed for the distances 1 … max_lag: mean 0 and variance 1 over the draws.

    With a sign they are magnitudes, and the draws are both signs of each.
    """
    steps = torch.arange(1, config.max_lag + 1, dtype=torch.float64)
    found = steps.log1p() if config.scale == "log" else steps
    if not config.signed:
        found = found - found.mean()
    return (found / found.square().mean().sqrt()).float()


class Distance(Objective):
    """Regress the distance in time between two states that are encoded one by one."""

    targets: Tensor

    def __init__(self, config: DistanceConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.frames = config.length(context.encoder.config)
        self.register_buffer("targets", targets(config), persistent=False)
        self.head = nn.Sequential(
            nn.Linear(3 * context.encoder.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1)
        )

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the squared error of the normalised distance, with skill over its mean and correlation."""
        first, second, target = self.pose(batch)
        both = replace(
            first,
            values=torch.cat([first.values, second.values]),
            valid=torch.cat([first.valid, second.valid]),
            times=torch.cat([first.times, second.times]),
            keys=first.keys.repeat(2),
        )
        a, b = encoder(patchify(both, encoder.config.patch), hide=frozenset({SEASON})).chunk(2)
        # Where they differ is lost in a mean over places, so the difference is squared before.
        pooled = [reduce(x, "b n d -> b d", "mean") for x in (a, b, (a - b).square())]
        guess = self.head(torch.cat(pooled, 1))[:, 0].float()
        loss = nn.functional.mse_loss(guess, target)
        found = guess.detach()
        return Outcome(loss, {"skill": over_mean(found, target), "correlation": correlation(found, target)})

    def pose(self, batch: Batch) -> tuple[Batch, Batch, Float[Tensor, " batch"]]:
        """Return the two states as they are shown and the normalised distances, by the samples' keys."""
        drawn = uniform(fold(batch.keys, key(0, NAME)), 3)
        lag = 1 + (drawn[:, 0] * self.config.max_lag).long()
        start = (drawn[:, 1] * (self.config.max_lag - lag + 1)).long()
        return self.show(batch, start, lag, drawn[:, 2] < 0.5)

    def show(
        self, batch: Batch, start: Int[Tensor, " batch"], lag: Int[Tensor, " batch"], turned: Bool[Tensor, " batch"]
    ) -> tuple[Batch, Batch, Float[Tensor, " batch"]]:
        """Return the states and the normalised distances.

        Args:
            batch: Windows.
            start: First step of the earlier state.
            lag: Steps from its last to the first of the later one.
            turned: Whether the later one is shown first.
        """
        earlier = batch.cut(start, self.frames)
        later = batch.cut(start + self.frames - 1 + lag, self.frames)
        valid = (earlier.valid & later.valid).all(1, keepdim=True).expand(-1, self.frames, -1, -1, -1)
        earlier, later = (replace(x, values=_centred(x, valid), valid=valid) for x in (earlier, later))
        target = self.targets[lag - 1]
        if self.config.signed:
            target = torch.where(turned, -target, target)
        return _either(turned, later, earlier), _either(turned, earlier, later), target

    def cues(self) -> list[Cue]:
        """Return how far apart and how alike the two patterns are, and both of every variable together."""
        return [
            Pattern(
                "distance of the patterns",
                lambda a, b: differences(a, b).square().mean(1).sqrt(),
                IsotonicRegression(increasing=True, out_of_bounds="clip"),
            ),
            Pattern(
                "correlation of the patterns",
                lambda a, b: likeness(a, b).mean(1),
                IsotonicRegression(increasing=False, out_of_bounds="clip"),
            ),
            Pattern(
                "distance and correlation of each variable",
                lambda a, b: torch.cat([differences(a, b), likeness(a, b)], 1),
                LinearRegression(),
            ),
        ]


def _centred(state: Batch, valid: Tensor) -> Float[Tensor, "batch time variable row column"]:
    """Return the values less the area mean of each step, 0 where not valid."""
    area = torch.from_numpy(state.grid.area).to(state.values) * valid
    mean = (state.values * area).sum((-1, -2), keepdim=True) / area.sum((-1, -2), keepdim=True).clamp(min=1e-12)
    return (state.values - mean) * valid


def _either(which: Bool[Tensor, " batch"], yes: Batch, no: Batch) -> Batch:
    """Return the samples of one batch where `which`, of the other elsewhere; what is valid is the same in both."""
    values = torch.where(which[:, None, None, None, None], yes.values, no.values)
    return replace(yes, values=values, times=torch.where(which[:, None], yes.times, no.times))


def over_mean(guess: Float[Tensor, " batch"], target: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the skill: what the error is below that of always answering the mean, over the variance of all draws.

    As targets have mean 0 and variance 1 over the draws, that is the mean of target² - error²: exactly 0 for the mean
    whatever was drawn, and bounded in the smallest batch, unlike 1 - error over the batch's own variance. The truth
    scores the mean of target², 1 over many draws.
    """
    return (target.square() - (guess - target).square()).mean()


def correlation(a: Float[Tensor, " batch"], b: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return Pearson's correlation, 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp(min=1e-12)


def differences(first: Batch, second: Batch) -> Float[Tensor, "batch variable"]:
    """Return the area-weighted RMS difference of the two states in each variable, over all frames."""
    area = torch.from_numpy(first.grid.area).to(first.values) * first.valid
    square = (area * (first.values - second.values) ** 2).sum((1, 3, 4))
    return (square / area.sum((1, 3, 4)).clamp(min=1e-12)).sqrt()


def likeness(first: Batch, second: Batch) -> Float[Tensor, "batch variable"]:
    """Return the area-weighted pattern correlation of the two states in each variable, over all frames."""
    area = torch.from_numpy(first.grid.area).to(first.values)
    product, a, b = (
        (area * x.values * y.values).sum((1, 3, 4)) for x, y in ((first, second), (first, first), (second, second))
    )
    return product / (a * b).sqrt().clamp(min=1e-12)


class Pattern(Cue):
    """Reads the distance in time off numbers of the two patterns, by a regression fitted on training windows."""

    def __init__(self, name: str, measure: Callable[[Batch, Batch], Tensor], regression: Any) -> None:
        self.name, self._measure, self._regression = name, measure, regression
        self._fitted = False

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Fit on training windows."""
        posed = [self._numbers(objective, batch) for batch in batches]
        self._regression.fit(*(np.concatenate(part) for part in zip(*posed, strict=True)))
        self._fitted = True

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the skill over the mean distance."""
        if not self._fitted:
            raise EarthSSLError("expected a regression fitted on training windows, got none; call fit first")
        x, target = self._numbers(objective, batch)
        return float(over_mean(torch.from_numpy(self._regression.predict(x)), torch.from_numpy(target)))

    def _numbers(self, objective: Objective, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(objective, Distance)
        first, second, target = objective.pose(batch)
        return self._measure(first, second).numpy().astype(np.float64), target.numpy()

"""Linear residual: what does the best linear forecast leave over, some steps after the window?

A linear forecast is fitted once, on training windows, before the first step: a regression of the fields ahead on
principal components of the window (a linear inverse model with an operator of its own for each lead: Penland &
Sardeshmukh 1995, doi 10.1175/1520-0442(1995)008<1999:TOGOTS>2.0.CO;2), or of each cell on its own last steps. The task
is the rest, divided by its spread at each cell: the loss of the linear forecast is 1, of the truth 0, so that audit and
training speak one number. Of linear Gaussian fields nothing can be told, and the loss stays at 1.

Trivial cues and how they are closed: the climatology, persistence, damped persistence and every other linear forecast
that the components reach (they are taken off the target); overlap and coastline as in lead_time. A regression of the
rest at each point on the point's last values and their squares stands beside the task in the audit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.data.augmentation import EVERY
from ...ssl.data.windows import Windows
from ...ssl.fields.batch import Batch
from ...ssl.fields.reduced_space import components
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import patchify
from ...ssl.training.objective import Context, Cue, Objective, Outcome
from .field_scores import mean_over, score
from .lead_time import LeadsConfig, LeadTime
from .pointwise_regression import Pointwise, predict

NAME = "linear_residual"
COMPONENTS, POINT = "components", "point"
READ = 64  # windows read at a time for the fit
LARGEST = 2**28  # numbers in memory during the fit
HELD_OUT = 0.25  # share of the training windows, the last ones, that choose the number of components
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
FILLS = 5  # times that missing targets are filled by the regression, which is then fitted again
LEAST = 1e-2  # of the variable's spread: a cell whose rest is smaller is divided by this share


@dataclass(frozen=True)
class LinearResidualConfig(LeadsConfig):
    """Settings of the linear residual.

    Attributes:
        hidden: Width of the head's hidden layer; 0 for a linear head.
        cue: The linear forecast: components (regression on principal components of the window) or point (of each cell
            on its own last steps).
        components: Components at most; the last quarter of the training windows chooses how many, for each lead.
        fit: Training windows, evenly spaced, that the linear forecast is fitted on, at most.
    """

    name = NAME

    hidden: int = 64
    cue: str = COMPONENTS
    components: int = 64
    fit: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = (COMPONENTS, POINT)
        if self.cue not in kinds:
            raise EarthSSLError(
                f"{NAME}.cue: expected {' or '.join(kinds)}, got '{self.cue}'." + nearest(self.cue, kinds)
            )
        if self.components < 1 or self.fit < 2 * self.components:
            raise EarthSSLError(
                f"{NAME}: expected components ≥ 1 and at least two windows for each of them, got {self.components} "
                f"components and {self.fit} windows"
            )

    def build(self, context: Context) -> LinearResidual:
        """Return the objective."""
        return LinearResidual(self, context)


class LinearResidual(LeadTime):
    """Predict the rest of a linear forecast from the tokens of the window's last step.

    Until `settle` has fitted the forecast it is the climatology. It is part of the state: a resumed run and a loaded
    one have that which it was begun with.
    """

    # The linear forecast is fitted on windows as they are: of changed ones it would leave over what it did not know.
    bars: ClassVar[tuple[str, ...]] = EVERY
    constrained = False  # what it scores is no field, but what is left of one
    config: LinearResidualConfig
    patterns: Tensor
    coefficients: Tensor
    spread: Tensor
    root: Tensor

    def __init__(self, config: LinearResidualConfig, context: Context) -> None:
        super().__init__(config, context)
        self.grid, self.variables = context.grid, context.variables
        self.shape = (len(context.variables), *context.grid.shape)
        cells, leads = context.grid.shape[0] * context.grid.shape[1] * len(context.variables), len(config.leads)
        if config.cue == COMPONENTS:
            self.register_buffer("patterns", torch.zeros(config.components, self.window * cells))
            self.register_buffer("coefficients", torch.zeros(leads, config.components, cells))
        else:
            self.register_buffer("coefficients", torch.zeros(leads, *self.shape, self.window + 1))
        self.register_buffer("spread", torch.ones(leads, *self.shape))
        area = torch.from_numpy(context.grid.area).float()
        root = (area / area.mean()).clamp(min=1e-6).sqrt()
        self.register_buffer("root", root.expand(self.window, *self.shape).flatten(), persistent=False)

    def settle(self, windows: Windows) -> None:
        """Fit the linear forecast on training windows.

        Raises:
            EarthSSLError: If the windows do not fit the memory, or are too few.
        """
        chosen = torch.linspace(0, len(windows) - 1, min(self.config.fit, len(windows))).long().unique()
        numbers = windows.length * self.shape[0] * self.shape[1] * self.shape[2]
        if len(chosen) * numbers > LARGEST:
            raise EarthSSLError(
                f"{NAME}: expected at most {LARGEST} numbers to fit the linear forecast on, got {len(chosen)} windows "
                f"of {numbers}; lower {NAME}.fit to {LARGEST // numbers}, or take a coarser grid or a shorter window"
            )
        batches = [windows.batch(part).to("cpu") for part in chosen.split(READ)]
        with torch.no_grad():
            if self.config.cue == POINT:
                self._fit_points(batches)
            else:
                apart = windows.starts[chosen.numpy()]
                first = len(chosen) - max(1, int(HELD_OUT * len(chosen)))
                clear = int((apart + self.window - 1 + max(self.config.leads) < apart[first]).sum())
                if clear < 2:
                    raise EarthSSLError(
                        f"{NAME}: expected training windows of which the last quarter can choose the components, apart "
                        f"from those before, got {len(chosen)}; take more data, or cue {POINT}"
                    )
                self._fit_components(batches, clear, first)
            self._fit_spread(batches)

    def _fit_points(self, batches: Sequence[Batch]) -> None:
        for k, lead in enumerate(self.config.leads):
            regression, step = Pointwise(), self.window - 1 + lead
            for batch in batches:
                regression.add(self._past(batch), batch.values[:, step], batch.valid[:, step])
            self.coefficients[k].copy_(regression.solve().float())

    def _fit_components(self, batches: Sequence[Batch], clear: int, first: int) -> None:
        """Choose the number of components on the windows from `first` on, fitted on the `clear` ones before them."""
        rows = torch.cat([self.rows(batch) for batch in batches])
        known = batches[0].known.flatten()
        area = torch.from_numpy(self.grid.area).float().expand(self.shape)
        counts = [count for count in (*COUNTS, self.config.components) if count <= self.config.components]
        early = torch.from_numpy(components(rows[:clear].numpy(), self.config.components)[0]).float()
        whole = torch.from_numpy(components(rows.numpy(), self.config.components)[0]).float()
        self.patterns.copy_(whole)
        for k, lead in enumerate(self.config.leads):
            step = self.window - 1 + lead
            target = torch.cat([(batch.values * batch.valid)[:, step].flatten(1) for batch in batches])
            valid = torch.cat([batch.valid[:, step].flatten(1) for batch in batches])
            gaps = bool((known & ~valid).any())
            slope = regressed(rows[:clear] @ early.T, target[:clear], valid[:clear], gaps)
            scores = rows[first:] @ early.T
            truth, weight = (x[first:].unflatten(1, self.shape)[:, None] for x in (target, valid))
            errors = [1.0]
            for count in counts:
                guess = (scores[:, :count] @ slope[:count]).unflatten(1, self.shape)[:, None]
                errors.append(1 - float(score(guess, truth, weight * area).skill))
            best = [0, *counts][int(torch.tensor(errors).argmin())]
            found = regressed(rows @ whole[:best].T, target, valid, gaps)
            self.coefficients[k].zero_()
            self.coefficients[k, :best].copy_(found)

    def _fit_spread(self, batches: Sequence[Batch]) -> None:
        """Keep the root mean square of what is left over at each cell, not less than a share of its variable's."""
        picks = [self._every(batch) for batch in batches]
        rest = [self._rest(batch, pick) for batch, pick in zip(batches, picks, strict=True)]
        leads = len(self.config.leads)
        count, power = torch.zeros(leads, *self.shape), torch.zeros(leads, *self.shape)
        for one in rest:
            valid = one.valid[:, 0].unflatten(0, (-1, leads))
            count += valid.sum(0)
            power += (one.values[:, 0].unflatten(0, (-1, leads)).square() * valid).sum(0)
        usual = (power.sum((-1, -2), keepdim=True) / count.sum((-1, -2), keepdim=True).clamp(min=1)).sqrt()
        spread = (power / count.clamp(min=1)).sqrt()
        self.spread.copy_(torch.where(count > 0, torch.maximum(spread, LEAST * usual), usual).clamp(min=1e-12))

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the error on what the linear forecast leaves over, over its power: mean over the variables.

        The linear forecast itself is 1, the truth 0. Terms are the skill, 1 - loss, of each variable and of each lead.
        """
        picks = self.picks(batch)
        rest = self.residual(batch, picks)
        found, terms = self.judged(self.guess(encoder, batch, picks), rest, picks)
        return Outcome(mean_over(1 - found.skills, found.power > 0), terms)

    def guess(
        self, encoder: Encoder, batch: Batch, picks: Int[Tensor, "batch asked"]
    ) -> Float[Tensor, "batch_asked token variable cell"]:
        """Return the predicted rest at the picked leads, in units of its spread."""
        return super().raw(encoder, batch, picks)

    def raw(
        self, encoder: Encoder, batch: Batch, picks: Int[Tensor, "batch asked"]
    ) -> Float[Tensor, "batch_asked token variable cell"]:
        """Return the predicted fields at the picked leads as patches: the linear forecast and the predicted rest."""
        last = self.last(batch, picks)
        base, scale = (
            patchify(replace(last, values=x[:, None]), self.patch).values
            for x in (self.cue(batch, picks), self.spread[picks.flatten()])
        )
        return base + scale * self.guess(encoder, batch, picks)

    def residual(self, batch: Batch, picks: Int[Tensor, "batch asked"]) -> Batch:
        """Return what the linear forecast leaves over at the picked leads, in units of its spread, as `truth` does.

        Raises:
            EarthSSLError: If the batch lies on another grid or has other variables, or ends before the longest lead.
        """
        rest = self._rest(batch, picks)
        return replace(rest, values=rest.values / self.spread[picks.flatten()][:, None])

    def _rest(self, batch: Batch, picks: Int[Tensor, "batch asked"]) -> Batch:
        truth = self.truth(batch, picks)
        with torch.no_grad():
            return replace(truth, values=(truth.values - self.cue(batch, picks)[:, None]) * truth.valid)

    def cue(self, batch: Batch, picks: Int[Tensor, "batch asked"]) -> Float[Tensor, "batch_asked variable row column"]:
        """Return the linear forecast at the picked leads.

        Raises:
            EarthSSLError: If the batch lies on another grid or has other variables.
        """
        if batch.values.shape[2:] != self.shape or batch.variables != self.variables:
            raise EarthSSLError(
                f"{NAME}: expected {', '.join(self.variables)} on the grid {self.grid}, which the linear forecast was "
                f"fitted on, got {', '.join(batch.variables)} on {batch.grid}; leave the data or the task out"
            )
        with torch.autocast(batch.values.device.type, enabled=False):
            if self.config.cue == POINT:
                past = self._past(batch)
                every = torch.stack([predict(own, past) for own in self.coefficients], 1)
            else:
                scores = self.rows(batch) @ self.patterns.T
                every = torch.einsum("bk,lkc->blc", scores, self.coefficients).unflatten(2, self.shape)
        return every[torch.arange(len(batch), device=picks.device)[:, None], picks].flatten(0, 1)

    def rows(self, batch: Batch) -> Float[Tensor, "batch cell"]:
        """Return the windows as rows, each cell times the root of its area; 0 where missing."""
        window = batch.cut(0, self.window)
        return (window.values.float() * window.valid).flatten(1) * self.root

    def _past(self, batch: Batch) -> Tensor:
        """Return the window's steps and a one, (batch, predictor, variable, row, column)."""
        past = batch.cut(0, self.window).values.float()
        return torch.cat([past, torch.ones_like(past[:, :1])], 1)

    def _every(self, batch: Batch) -> Int[Tensor, "batch asked"]:
        """Return all leads for every sample."""
        return torch.arange(len(self.config.leads)).expand(len(batch), -1)

    def cues(self) -> list[Cue]:
        """Return the regression of the rest on each point's own last values and their squares."""
        return [OwnSquares()]


def regressed(
    scores: Float[Tensor, "sample component"],
    target: Float[Tensor, "sample cell"],
    valid: Tensor,
    gaps: bool,
) -> Float[Tensor, "component cell"]:
    """Return the slopes of a regression of every cell on scores that are uncorrelated in these samples.

    Where observations are missing, the regression fills them, and is fitted again: what that comes to is the least
    squares over the observations.
    """
    power = scores.double().square().sum(0)
    inverse = torch.where(power > 0, 1 / power.clamp(min=1e-30), 0.0)[:, None]
    slope = (inverse * (scores.double().T @ target.double())).float()
    for _ in range(FILLS if gaps else 0):
        filled = torch.where(valid, target, scores @ slope)
        slope = (inverse * (scores.double().T @ filled.double())).float()
    return slope


class OwnSquares(Cue):
    """Regresses the rest at each cell on the cell's own last steps, their squares and a one, for each lead."""

    name = "regression of the rest on own last steps and squares"

    def __init__(self) -> None:
        self._found: Tensor | None = None

    @staticmethod
    def _predictors(objective: LinearResidual, batch: Batch) -> Tensor:
        past = batch.cut(0, objective.window).values
        return torch.cat([past, past.square(), torch.ones_like(past[:, :1])], 1)

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Fit every lead on every window."""
        assert isinstance(objective, LinearResidual)
        leads = len(objective.config.leads)
        regressions = [Pointwise() for _ in range(leads)]
        for batch in batches:
            rest = objective.residual(batch, objective._every(batch))
            values, valid = (x[:, 0].unflatten(0, (-1, leads)) for x in (rest.values, rest.valid))
            for k, regression in enumerate(regressions):
                regression.add(self._predictors(objective, batch), values[:, k], valid[:, k])
        self._found = torch.stack([regression.solve() for regression in regressions])

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - error / power at the leads that the task asks for."""
        assert isinstance(objective, LinearResidual)
        if self._found is None:
            raise EarthSSLError("expected a regression fitted on training windows, got none; call fit first")
        picks, x = objective.picks(batch), self._predictors(objective, batch)
        rest = objective.residual(batch, picks)
        every = torch.stack([predict(own, x) for own in self._found], 1)
        guess = every[torch.arange(len(batch))[:, None], picks].flatten(0, 1)[:, None]
        return float(score(guess, rest.values, rest.valid * torch.from_numpy(batch.grid.area).to(guess)).skill)

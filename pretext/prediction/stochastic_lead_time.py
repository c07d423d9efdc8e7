"""Stochastic lead time: a few draws of the fields some steps after the window, scored as an ensemble.

Past the limit of predictability a squared error is least for the mean, and says nothing of how sure it is. Here the
head is given noise, and draws several forecasts from the same features; the loss is the fair continuous ranked
probability score of these members at each cell (Ferro 2014, doi 10.1002/qj.2270), which is least, in expectation, where
they are drawn from what may come. It is divided by that of the climatology, quantiles of training at each cell: the
climatology is 1.

Trivial cues and how they are closed: the climatology (skill is over it); persistence, damped persistence and each
cell's own past (regression on them, dressed with the spread of its errors, stands beside the task in the audit);
overlap and coastline as in lead_time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.data.windows import Windows
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import patchify
from ...ssl.runtime.distributed import averaged
from ...ssl.training.objective import Context, Cue, Objective, Outcome
from .field_scores import FieldScore, by_variable, every_head, mean_over
from .lead_time import LeadsConfig, LeadTime, OwnPast

NAME = "stochastic_lead_time"
READ = 64  # windows read at a time for the quantiles
LARGEST = 2**28  # numbers in memory during the fit
LEVELS = 16  # quantiles of the climatology at each cell


@dataclass(frozen=True)
class StochasticLeadTimeConfig(LeadsConfig):
    """Settings of stochastic forecasting.

    Attributes:
        hidden: Width of the head's hidden layer; 0 for a linear head.
        members: Forecasts drawn of each sample, from 2.
        noise: Random numbers that each is drawn with.
        fit: Training windows, evenly spaced, that the climatology is fitted on, at most.
    """

    name = NAME

    hidden: int = 64
    members: int = 4
    noise: int = 8
    fit: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting, least in (("members", 2), ("noise", 1), ("fit", LEVELS)):
            if getattr(self, setting) < least:
                raise EarthSSLError(f"{NAME}.{setting}: expected at least {least}, got {getattr(self, setting)}")

    def build(self, context: Context) -> StochasticLeadTime:
        """Return the objective."""
        return StochasticLeadTime(self, context)


class StochasticLeadTime(LeadTime):
    """Draw forecasts of every field some steps after the window from the tokens of its last step and noise.

    Until `settle` has fitted the climatology it is the standard normal distribution; it is part of the state.
    """

    config: StochasticLeadTimeConfig
    quantiles: Tensor

    def __init__(self, config: StochasticLeadTimeConfig, context: Context) -> None:
        super().__init__(config, context)
        width = context.encoder.width
        self.grid, self.variables = context.grid, context.variables
        # Random from the start: of members that are all alike, none knows which way to part.
        self.disturb = nn.Sequential(nn.Linear(config.noise, width), nn.GELU(), nn.Linear(width, 2 * width))
        shape = (len(context.variables), *context.grid.shape)
        levels = torch.special.ndtri((torch.arange(LEVELS) + 0.5) / LEVELS)
        self.register_buffer("quantiles", levels[:, None, None, None].repeat(1, *shape))

    def settle(self, windows: Windows) -> None:
        """Fit the quantiles of each cell on the first steps of training windows.

        Raises:
            EarthSSLError: If the windows do not fit the memory.
        """
        chosen = torch.linspace(0, len(windows) - 1, min(self.config.fit, len(windows))).long().unique()
        size = self.quantiles[0].numel()
        if len(chosen) * size > LARGEST:
            raise EarthSSLError(
                f"{NAME}: expected at most {LARGEST} numbers to fit the climatology on, got {len(chosen)} fields of "
                f"{size}; lower {NAME}.fit to {LARGEST // size}"
            )
        firsts = [windows.batch(part).to("cpu").cut(0, 1) for part in chosen.split(READ)]
        values = torch.cat([torch.where(one.valid, one.values, torch.inf)[:, 0] for one in firsts])
        self.quantiles.copy_(cell_quantiles(values, LEVELS))

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the fair score of the members over the climatology's: mean over the variables, by area, valid cells.

        Terms are the skill, 1 - loss, of each variable and of each lead, and how the members' spread stands to the
        error of their mean: 1 where they are as unsure as they must be.

        Raises:
            EarthSSLError: If the batch lies on another grid or has other variables, or ends before the longest lead.
        """
        picks = self.picks(batch)
        truth = self.truth(batch, picks)
        usual = self.usual(truth)
        members, penalty, held = self.hold_members(self.members(encoder, batch, picks), batch, picks, truth)
        target = patchify(truth, self.patch)
        weight = target.valid * target.area[:, None]
        points = fair_crps(members, target.values)
        found = self.scored(points, usual, weight, self.training)
        terms = found.terms(batch.variables)
        with torch.no_grad():
            for k, lead in enumerate(self.config.leads):
                own = (picks.flatten() == k)[:, None, None, None]
                terms[f"skill_lead{lead}"] = self.scored(points, usual, weight * own).skill
            spread = by_variable(members.var(1), weight) * (1 + 1 / self.config.members)
            error = by_variable((members.mean(1) - target.values).square(), weight)
            terms["spread_over_error"] = mean_over((spread / error.clamp(min=1e-12)).sqrt(), found.weight > 0)
        return Outcome(mean_over(1 - found.skills, found.power > 0) + penalty, {**terms, **held})

    @staticmethod
    def scored(points: Tensor, usual: Tensor, weight: Tensor, joined: bool = False) -> FieldScore:
        """Return scores of points beside those of the climatology, third axis the variable; `joined` as in `score`."""
        total = weight.expand(points.shape).sum([axis for axis in range(points.ndim) if axis != 2])
        power = by_variable(usual, weight, joined)
        return FieldScore(by_variable(points, weight, joined), averaged(power) if joined else power, total)

    def usual(self, truth: Batch) -> Float[Tensor, "batch_asked token variable cell"]:
        """Return the score of the climatology at every cell of patches.

        Raises:
            EarthSSLError: If the batch lies on another grid or has other variables.
        """
        if truth.values.shape[2:] != self.quantiles.shape[1:] or truth.variables != self.variables:
            raise EarthSSLError(
                f"{NAME}: expected {', '.join(self.variables)} on the grid {self.grid}, whose climatology was fitted, "
                f"got {', '.join(truth.variables)} on {truth.grid}; leave the data or the task out"
            )
        points = climatology_crps(self.quantiles, truth.values)
        return patchify(replace(truth, values=points), self.patch).values

    def members(
        self, encoder: Encoder, batch: Batch, picks: Int[Tensor, "batch asked"]
    ) -> Float[Tensor, "batch_asked member token variable cell"]:
        """Return the drawn patches at the picked leads; the noise of a member is that of its whole field."""
        states, count = self.states(encoder, batch, picks), self.config.members
        asked = picks.shape[1]
        numbers = uniform(fold(batch.keys, key(0, "noise")), asked * count * self.config.noise)
        noise = torch.special.ndtri(numbers.clamp(2.0**-25, 1 - 2.0**-24)).to(states.dtype)
        noise = rearrange(noise, "b (k m z) -> (b k) m z", k=asked, m=count)
        factor, shift = self.disturb(noise)[:, :, None].chunk(2, -1)
        x = rearrange(states[:, None] * (1 + factor) + shift, "s m n d -> (s m) n d")
        drawn = every_head(self.heads, self.body(x), batch.variables).float()
        return rearrange(drawn, "(s m) n v c -> s m n v c", m=count)

    def predict(
        self,
        encoder: Encoder,
        batch: Batch,
        picks: Int[Tensor, "batch asked"],
        times: Int[Tensor, "batch_asked 1"] | None = None,
    ) -> Float[Tensor, "batch_asked token variable cell"]:
        """Return the mean of the members as patches, each of them behind the layers of the constraints."""
        return self.hold_members(self.members(encoder, batch, picks), batch, picks, times=times)[0].mean(1)

    def hold_members(
        self,
        members: Float[Tensor, "batch_asked member token variable cell"],
        batch: Batch,
        picks: Int[Tensor, "batch asked"],
        truth: Batch | None = None,
        times: Int[Tensor, "batch_asked 1"] | None = None,
    ) -> tuple[Float[Tensor, "batch_asked member token variable cell"], Tensor | float, dict[str, Tensor]]:
        """Return what `hold` does, for every member."""
        if self.constraints is None:
            return members, 0.0, {}
        made = [self.hold(one, batch, picks, truth, times) for one in members.unbind(1)]
        terms = {name: torch.stack([one[2][name] for one in made]).mean() for name in made[0][2]}
        penalty = torch.stack([torch.as_tensor(one[1]) for one in made]).mean()
        return torch.stack([one[0] for one in made], 1), penalty, terms

    def cues(self) -> list[Cue]:
        """Return the regression of each cell on its own last steps, with the spread of its errors."""
        return [DressedOwnPast()]


def fair_crps(
    members: Float[Tensor, "sample member token variable cell"], truth: Float[Tensor, "sample token variable cell"]
) -> Float[Tensor, "sample token variable cell"]:
    """Return the mean distance of the members from the truth, less half the mean distance of two of them.

    Two different ones, so that few members have the expectation of many: what they are drawn from is scored.
    """
    count = members.shape[1]
    points = (members - truth[:, None]).abs().mean(1)
    for gap in range(1, count):
        points = points - (members[:, gap:] - members[:, :-gap]).abs().sum(1) / (count * (count - 1))
    return points


def cell_quantiles(values: Float[Tensor, sample * cell], levels: int) -> Float[Tensor, level * cell]:
    """Return the quantiles (k + 1/2) / levels of every cell's finite values, by nearest rank; 0 where it has none."""
    ordered = values.sort(0).values
    count = values.isfinite().sum(0)
    share = (torch.arange(levels) + 0.5) / levels
    rank = (share.view(-1, *[1] * count.ndim) * count).long().clamp(max=len(values) - 1)
    found = ordered.gather(0, rank)
    return torch.where(found.isfinite(), found, torch.zeros(()))


def climatology_crps(
    quantiles: Float[Tensor, "level variable row column"], truth: Float[Tensor, "sample time variable row column"]
) -> Float[Tensor, "sample time variable row column"]:
    """Return the score of the distribution that has its mass in equal parts at the quantiles."""
    levels = len(quantiles)
    # Half the mean distance of two draws, of ordered values: sum of (2k - L + 1) q_k / L².
    order = (2.0 * torch.arange(levels, device=quantiles.device) - levels + 1) / levels**2
    apart = (order[:, None, None, None] * quantiles).sum(0)
    points = torch.zeros_like(truth)
    for one in quantiles:
        points += (truth - one).abs() / levels
    return points - apart


def gaussian_crps(mean: Tensor, spread: Tensor, truth: Tensor) -> Tensor:
    """Return the score of normal distributions (Gneiting et al. 2005, doi 10.1175/MWR2904.1)."""
    z = (truth - mean) / spread
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return spread * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


class DressedOwnPast(OwnPast):
    """A normal distribution about the regression of each cell on its own last steps, as wide as its errors."""

    name = "per-point regression on own last steps, with the spread of its errors"

    def __init__(self) -> None:
        super().__init__()
        self._spread: dict[int, Tensor] = {}

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Fit every lead on every window, and the spread of what is left."""
        assert isinstance(objective, LeadTime)
        batches = list(batches)
        super().fit(objective, batches, patch)
        for lead in objective.config.leads:
            step = objective.window - 1 + lead
            power, count = torch.zeros(()), torch.zeros(())
            for batch in batches:
                rest = batch.values[:, step] - self.forecast(batch.cut(0, objective.window), lead)
                power, count = (
                    power + (rest.square() * batch.valid[:, step]).sum(0),
                    count + batch.valid[:, step].sum(0),
                )
            self._spread[lead] = (power / count.clamp(min=1)).sqrt().clamp(min=1e-6)

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - score / that of the climatology, at the leads asked for."""
        assert isinstance(objective, StochasticLeadTime)
        picks = objective.picks(batch)
        truth, past = objective.truth(batch, picks), batch.cut(0, objective.window)
        leads, rows = objective.config.leads, torch.arange(len(batch))[:, None]
        guess = torch.stack([self.forecast(past, lead) for lead in leads], 1)[rows, picks].flatten(0, 1)
        spread = torch.stack([self._spread[lead] for lead in leads])[picks.flatten()]
        points = gaussian_crps(guess[:, None], spread[:, None], truth.values)
        usual = climatology_crps(objective.quantiles, truth.values)
        area = torch.from_numpy(batch.grid.area).to(guess)
        return float(objective.scored(points, usual, truth.valid * area).skill)

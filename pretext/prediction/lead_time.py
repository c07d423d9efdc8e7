"""Forecasting as a pretext task: what do the fields look like some steps after the window?
(The lead is a number that one head takes: Nguyen et al. 2023, ClimaX, arXiv 2301.10343.)

Trivial cues and how they are closed: the climatology (fields are anomalies, so that outputting it scores zero skill);
persistence, whole or damped, and what each cell's own last steps give (they are the cues that the audit sets
beside the task; with `residual` the head starts from persistence instead of learning it); overlap (leads begin
after the window's last step); the coastline (loss on valid cells only).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder, EncoderConfig
from ...ssl.model.tokens import patchify, unpatchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig, Outcome
from .field_scores import FieldScore, every_head, score
from .pointwise_regression import Pointwise, predict

NAME = "lead_time"
DRAWS = ("one", "all")
MONTH_S = 28 * 86400  # steps as long as this, or longer, are calendar months


@dataclass(frozen=True)
class LeadsConfig(ObjectiveConfig):
    """Settings that all forecasts of fields share.

    Attributes:
        weight: Weight of the loss.
        leads: Steps after the window's last one.
        draw: "one" (each sample is asked for one of the leads) or "all".
        hidden: Width of the head's hidden layer; 0 for a linear head.
    """

    name: ClassVar[str] = NAME

    weight: float = 1.0
    leads: list[int] = field(default_factory=lambda: [1, 3])
    draw: str = "one"
    hidden: int = 0

    def __post_init__(self) -> None:
        if not self.leads or min(self.leads) < 1 or len(set(self.leads)) < len(self.leads):
            raise EarthSSLError(f"{self.name}.leads: expected different steps ≥ 1, at least one, got {self.leads}")
        if self.draw not in DRAWS:
            raise EarthSSLError(
                f"{self.name}.draw: expected {' or '.join(DRAWS)}, got '{self.draw}'." + nearest(self.draw, DRAWS)
            )
        if self.hidden < 0:
            raise EarthSSLError(f"{self.name}.hidden: expected a width ≥ 1, or 0 for a linear head, got {self.hidden}")

    def span(self, encoder: EncoderConfig) -> int:
        """Return the encoder's window and the longest lead."""
        return encoder.window + max(self.leads)


@dataclass(frozen=True)
class LeadTimeConfig(LeadsConfig):
    """Settings of forecasting.

    Attributes:
        residual: Whether the head gives the change since the last step instead of the field. The last step is then
            added outside the encoder: in an audit even a blind solver has persistence.
    """

    residual: bool = False

    def build(self, context: Context) -> LeadTime:
        """Return the objective."""
        return LeadTime(self, context)


class LeadTime(Objective):
    """Predict every field some steps after the window from the tokens of its last step."""

    leads: Tensor
    forecasts = True
    constrained = True

    def __init__(self, config: LeadsConfig, context: Context) -> None:
        super().__init__()
        rows, columns = context.encoder.config.patch[1:]
        width = context.encoder.width
        self.constraints = context.constraints if self.constrained else None
        self.config, self.window, self.patch = config, context.encoder.config.window, (1, rows, columns)
        self.register_buffer("leads", torch.tensor(config.leads), persistent=False)
        # A factor and a shift for every feature: a shift alone, in a linear head, could not damp with the lead.
        self.lead = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, 2 * width))
        for last in self.lead[2].parameters():
            nn.init.zeros_(last)
        self.body = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU()) if config.hidden else nn.Identity()
        entering = config.hidden or width
        self.heads = nn.ModuleDict({name: nn.Linear(entering, rows * columns) for name in context.variables})

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the mean over the variables of the area-weighted squared error of valid cells.

        Terms are the skill over the climatology, overall, of each variable and of each lead, and of constraints.
        """
        picks = self.picks(batch)
        truth, raw = self.truth(batch, picks), self.raw(encoder, batch, picks)
        guess, penalty, held = self.hold(raw, batch, picks, truth)
        found, terms = self.judged(guess, truth, picks)
        return Outcome(found.loss + penalty, {**terms, **held})

    def judged(
        self, guess: Float[Tensor, "batch_asked token variable cell"], truth: Batch, picks: Int[Tensor, "batch asked"]
    ) -> tuple[FieldScore, dict[str, Tensor]]:
        """Return the score of predicted patches, and its terms: overall, of each variable and of each lead."""
        target = patchify(truth, self.patch)
        weight = target.valid * target.area[:, None]
        found = score(guess, target.values, weight, joined=self.training)
        terms = found.terms(truth.variables)
        with torch.no_grad():
            for k, lead in enumerate(self.config.leads):
                own = (picks.flatten() == k)[:, None, None, None]
                terms[f"skill_lead{lead}"] = score(guess, target.values, weight * own).skill
        return found, terms

    def picks(self, batch: Batch) -> Int[Tensor, "batch asked"]:
        """Return which of the leads each sample is asked for, by its key."""
        count = len(self.config.leads)
        if self.config.draw == "all":
            return torch.arange(count, device=batch.keys.device).expand(len(batch), -1)
        return (uniform(fold(batch.keys, key(0, NAME)), 1) * count).long()

    def truth(self, batch: Batch, picks: Int[Tensor, "batch asked"]) -> Batch:
        """Return the fields at the picked leads as windows of one step, those of a sample following one another.

        Raises:
            EarthSSLError: If the batch ends before the longest lead.
        """
        batch = batch.cut(0, self.window + max(self.config.leads))
        rows = torch.arange(len(batch), device=picks.device).repeat_interleave(picks.shape[1])
        steps = self.window - 1 + self.leads[picks].flatten()
        values, valid, times = (x[rows, steps][:, None] for x in (batch.values, batch.valid, batch.times))
        return replace(batch, values=values, valid=valid, times=times, keys=batch.keys[rows])

    def last(self, batch: Batch, picks: Int[Tensor, "batch asked"]) -> Batch:
        """Return the last steps of the windows, each as often as it is asked for a lead, in the order of `truth`."""
        one = batch.cut(self.window - 1, 1)
        rows = torch.arange(len(batch), device=picks.device).repeat_interleave(picks.shape[1])
        values, valid, times, keys = (x[rows] for x in (one.values, one.valid, one.times, one.keys))
        return replace(one, values=values, valid=valid, times=times, keys=keys)

    def predict(
        self,
        encoder: Encoder,
        batch: Batch,
        picks: Int[Tensor, "batch asked"],
        times: Int[Tensor, "batch_asked 1"] | None = None,
    ) -> Float[Tensor, "batch_asked token variable cell"]:
        """Return the predicted patches at the picked leads, in the order of `truth`; later steps are not looked at.

        Args:
            encoder: Of the windows.
            batch: Whose first steps are the windows.
            picks: Which of the leads.
            times: Of what is predicted, seconds since 1970, for the constraints; None: see `times`.
        """
        return self.hold(self.raw(encoder, batch, picks), batch, picks, times=times)[0]

    def fields(self, encoder: Encoder, batch: Batch, lead: int) -> Float[Tensor, "batch variable row column"]:
        """Return the predicted fields at one of the leads; steps after the windows are not looked at.

        Raises:
            EarthSSLError: If it is none of the leads.
        """
        if lead not in self.config.leads:
            raise EarthSSLError(f"{self.config.name}: expected one of the leads {self.config.leads}, got {lead}")
        picks = torch.full((len(batch), 1), self.config.leads.index(lead), device=batch.keys.device)
        made = self.predict(encoder, batch, picks).float()
        return unpatchify(made, patchify(self.last(batch, picks), self.patch), self.patch)[:, 0]

    def raw(
        self, encoder: Encoder, batch: Batch, picks: Int[Tensor, "batch asked"]
    ) -> Float[Tensor, "batch_asked token variable cell"]:
        """Return the predicted patches before any constraint."""
        guess = every_head(self.heads, self.body(self.states(encoder, batch, picks)), batch.variables).float()
        if isinstance(self.config, LeadTimeConfig) and self.config.residual:
            last = patchify(batch.cut(self.window - 1, 1), self.patch).values
            guess = guess + repeat(last, "b n v c -> (b k) n v c", k=picks.shape[1])
        return guess

    def hold(
        self,
        guess: Float[Tensor, "batch_asked token variable cell"],
        batch: Batch,
        picks: Int[Tensor, "batch asked"],
        truth: Batch | None = None,
        times: Int[Tensor, "batch_asked 1"] | None = None,
    ) -> tuple[Float[Tensor, "batch_asked token variable cell"], Tensor | float, dict[str, Tensor]]:
        """Return patches behind the layers of the constraints, the penalty and the terms; some need the truth.

        Without constraints the patches are returned as they are. `times` are those of the patches; None: see `times`.
        """
        if self.constraints is None:
            return guess, 0.0, {}
        last, times = self.last(batch, picks), self.times(batch, picks) if times is None else times
        like = replace(last, times=times)
        fields = torch.nan_to_num(unpatchify(guess.float(), patchify(like, self.patch), self.patch))
        true, seen = (None, None) if truth is None else (truth.values, truth.valid)
        scene = self.constraints.scene(times, true, seen, start=(last.values, last.valid, last.times))
        held = self.constraints.hold(fields, scene, self.training)
        return patchify(replace(like, values=held.values), self.patch).values, held.penalty, held.terms

    def times(self, batch: Batch, picks: Int[Tensor, "batch asked"]) -> Int[Tensor, "batch_asked 1"]:
        """Return the times at the picked leads; of a batch that ends before, by the spacing of its first two steps.

        Steps of 28 days or more are counted in calendar months: a year of steps of 31 days is no year.
        """
        ahead = self.leads[picks]
        if batch.values.shape[1] >= self.window + max(self.config.leads):
            return batch.times.gather(1, self.window - 1 + ahead).reshape(-1, 1)
        if batch.times.shape[1] < 2:
            raise EarthSSLError(
                f"{self.config.name}: expected two steps, whose spacing tells the times ahead, got one; give the times"
            )
        return later(batch.times[:, :1], batch.times[:, 1:2], batch.times[:, self.window - 1 : self.window], ahead)

    def states(
        self, encoder: Encoder, batch: Batch, picks: Int[Tensor, "batch asked"]
    ) -> Float[Tensor, "batch_asked token width"]:
        """Return the features of the last step's tokens, told the lead by a factor and a shift."""
        patches = patchify(batch.cut(0, self.window), encoder.config.patch)
        features = encoder(patches)[:, -(patches.count // patches.shape[0]) :]
        lead = self.leads[picks].to(features.dtype)[..., None] / max(self.config.leads)
        factor, shift = self.lead(lead)[:, :, None].chunk(2, -1)
        return rearrange(features[:, None] * (1 + factor) + shift, "b k n d -> (b k) n d")

    def cues(self) -> list[Cue]:
        """Return persistence, damped persistence and the regression of each cell on its own last steps."""
        return [Persistence(), DampedPersistence(), OwnPast()]


def later(
    first: Int[Tensor, "batch 1"],
    second: Int[Tensor, "batch 1"],
    last: Int[Tensor, "batch 1"],
    ahead: Int[Tensor, "batch asked"],
) -> Int[Tensor, "batch_asked 1"]:
    """Return times some steps after the last one, seconds since 1970; a step is what lies between first and second.

    Steps of 28 days or more that reach another month are counted in months, and keep the time within the month.
    """
    even = last + ahead * (second - first)
    one, two, end = (x.cpu().numpy().astype("datetime64[s]") for x in (first, second, last))
    begun = end.astype("datetime64[M]")
    months = two.astype("datetime64[M]") - one.astype("datetime64[M]")
    target = begun + ahead.cpu().numpy() * months
    longest = (target + 1).astype("datetime64[s]") - target.astype("datetime64[s]") - np.timedelta64(1, "s")
    within = np.minimum(end - begun.astype("datetime64[s]"), longest)
    counted = torch.from_numpy((target.astype("datetime64[s]") + within).astype(np.int64)).to(even)
    by_month = (second - first >= MONTH_S) & torch.from_numpy(months.astype(np.int64) > 0).to(even.device)
    return torch.where(by_month, counted, even).reshape(-1, 1)


class Forecast(Cue):
    """A forecast without an encoder, scored as the task is."""

    @abstractmethod
    def forecast(self, past: Batch, lead: int) -> Float[Tensor, "batch variable row column"]:
        """Return the fields `lead` steps after the last step of the windows."""

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - error / power at the leads that the task asks for."""
        assert isinstance(objective, LeadTime)
        picks = objective.picks(batch)
        truth = objective.truth(batch, picks)
        past = batch.cut(0, objective.window)
        ways = torch.stack([self.forecast(past, lead) for lead in objective.config.leads], 1)
        guess = ways[torch.arange(len(batch))[:, None], picks].flatten(0, 1)[:, None]
        area = torch.from_numpy(batch.grid.area).to(guess)
        return float(score(guess, truth.values, truth.valid * area).skill)


class Persistence(Forecast):
    """Repeats the last step; no anomaly where it is missing."""

    name = "persistence"

    def forecast(self, past: Batch, lead: int) -> Float[Tensor, "batch variable row column"]:
        """Return the last step."""
        return past.values[:, -1]


class Fitted(Forecast):
    """A regression of each cell on numbers of its own past, fitted for each lead."""

    def __init__(self) -> None:
        self._found: dict[int, Tensor] = {}

    @abstractmethod
    def predictors(self, past: Batch) -> Float[Tensor, "batch predictor variable row column"]:
        """Return what each cell is regressed on."""

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Fit every lead on every window."""
        assert isinstance(objective, LeadTime)
        window, regressions = objective.window, {lead: Pointwise() for lead in objective.config.leads}
        for batch in batches:
            x = self.predictors(batch.cut(0, window))
            for lead, regression in regressions.items():
                regression.add(x, batch.values[:, window - 1 + lead], batch.valid[:, window - 1 + lead])
        self._found = {lead: regression.solve() for lead, regression in regressions.items()}

    def forecast(self, past: Batch, lead: int) -> Float[Tensor, "batch variable row column"]:
        """Return the regression's prediction."""
        if lead not in self._found:
            raise EarthSSLError(f"expected a regression fitted for lead {lead}, got none; call fit first")
        return predict(self._found[lead], self.predictors(past))


class DampedPersistence(Fitted):
    """Repeats the last step times the cell's lag autocorrelation."""

    name = "damped persistence"

    def predictors(self, past: Batch) -> Float[Tensor, "batch predictor variable row column"]:
        """Return the last step."""
        return past.values[:, -1:]


class OwnPast(Fitted):
    """Regresses each cell on all steps of the window at that cell, with an intercept."""

    name = "per-point regression on own last steps"

    def predictors(self, past: Batch) -> Float[Tensor, "batch predictor variable row column"]:
        """Return the window's steps and a one."""
        return torch.cat([past.values, torch.ones_like(past.values[:, :1])], 1)

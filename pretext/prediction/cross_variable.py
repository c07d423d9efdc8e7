"""Cross-variable prediction: what do the variables that are shown say of those that are hidden?
(Colour from grey: Zhang et al. 2016, arXiv 1603.08511; both ways, split-brain: Zhang et al. 2017, arXiv 1611.09842.)

Trivial cues and how they are closed: near-copies (whole groups of redundant variables are hidden together, see
ssl/fields/variables.py); a safe grey average (the loss is the likelihood of a distribution, and a mean of no anomaly
scores zero skill); the relation at a point, such as a regression of each cell on itself (it is the cue that the audit
sets beside the task); the coastline (loss on valid cells only).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from scipy.stats import norm, truncnorm
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.fields.variables import GROUPS, grouped, lookup
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, patchify, unpatchify
from ...ssl.runtime.distributed import averaged
from ...ssl.training.objective import Context, Cue, Example, Objective, ObjectiveConfig, Outcome
from .field_scores import by_variable, mean_over, score
from .pointwise_regression import Pointwise, predict

NAME = "cross_variable"
LOSSES = ("gaussian", "bins")
WIDEST = 8.0  # bound of the log variance: deviations from 0.02 to 55 of a field's own


@dataclass(frozen=True)
class CrossVariableConfig(ObjectiveConfig):
    """Settings of cross-variable prediction.

    Attributes:
        weight: Weight of the loss.
        groups: Groups of variables that are hidden together, as names of the store or names without level ("z" is z
            at all levels); variables in none are always shown. Empty: the table of redundant variables.
        loss: "gaussian" (a mean and a variance for each cell) or "bins" (a chance for each bin of values).
        bins: Number of bins, equally frequent under a normal distribution.
        edges: Edges between bins instead, ascending, in deviations of the field.
    """

    weight: float = 1.0
    groups: list[list[str]] = field(default_factory=list)
    loss: str = "gaussian"
    bins: int = 16
    edges: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise EarthSSLError(
                f"{NAME}.loss: expected {' or '.join(LOSSES)}, got '{self.loss}'." + nearest(self.loss, LOSSES)
            )
        if self.bins < 2:
            raise EarthSSLError(f"{NAME}.bins: expected at least 2, got {self.bins}")
        ascending = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not ascending or not all(math.isfinite(edge) for edge in self.edges):
            raise EarthSSLError(f"{NAME}.edges: expected finite numbers, each above the last, got {self.edges}")
        if not all(self.groups):
            raise EarthSSLError(f"{NAME}.groups: expected names in every group, got {self.groups}")

    def build(self, context: Context) -> CrossVariable:
        """Return the objective.

        Raises:
            EarthSSLError: If a group names what the store does not hold or what another has, or if there are fewer
                than two groups.
        """
        return CrossVariable(self, context)

    def partition(self, variables: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the groups as names of the store's variables; see `build`."""
        groups = self._named(variables) if self.groups else list(grouped(variables).values())
        if len(groups) < 2:
            what = "in groups" if self.groups else f"in the groups {'; '.join(GROUPS)}"
            raise EarthSSLError(
                f"{NAME}: expected variables of at least two groups, one to be predicted from the other, but "
                f"{', '.join(variables)} are one {what}; add variables, or set {NAME}.groups to lists of them"
            )
        return groups

    def _named(self, variables: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the configured groups, names without level written out."""
        bases = {name: lookup(name).base for name in variables}
        groups: list[tuple[str, ...]] = []
        for words in self.groups:
            for word in words:
                if word not in bases and word not in bases.values():
                    raise EarthSSLError(
                        f"{NAME}.groups: expected variables out of {', '.join(variables)}, got '{word}'; leave it out."
                        + nearest(word, variables)
                    )
            groups.append(tuple(name for name in variables if name in words or bases[name] in words))
        twice = [name for name in variables if sum(name in group for group in groups) > 1]
        if twice:
            raise EarthSSLError(f"{NAME}.groups: expected each variable in one group, got {twice[0]} in two")
        return groups


class Gaussian(nn.Module):
    """A normal distribution for each cell: its mean and, softly bounded, the log of its variance."""

    numbers = 2

    def nll(self, raw: Float[Tensor, "*cell 2"], truth: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
        """Return the negative log likelihood of the truth, in nats."""
        mean, log_variance = raw[..., 0], WIDEST * torch.tanh(raw[..., 1] / WIDEST)
        return 0.5 * (math.log(2 * math.pi) + log_variance + (truth - mean) ** 2 * torch.exp(-log_variance))

    def mean(self, raw: Float[Tensor, "*cell 2"]) -> Float[Tensor, "*cell"]:
        """Return the mean."""
        return raw[..., 0]


class Bins(nn.Module):
    """A chance for each bin of values; bin k holds what lies above edge k - 1 and not above edge k."""

    edges: Tensor
    centres: Tensor

    def __init__(self, bins: int, edges: Sequence[float]) -> None:
        """Take the edges, or the quantiles of a normal distribution that make `bins` equally frequent bins."""
        super().__init__()
        inner = list(edges) or [float(norm.ppf(k / bins)) for k in range(1, bins)]
        self.numbers = len(inner) + 1
        # The mean of a normal distribution within the bin: finite for the outermost bins too.
        centres = truncnorm.mean([-math.inf, *inner], [*inner, math.inf])
        self.register_buffer("edges", torch.tensor(inner, dtype=torch.float32), persistent=False)
        self.register_buffer("centres", torch.from_numpy(centres).float(), persistent=False)

    def nll(self, raw: Float[Tensor, "*cell bin"], truth: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
        """Return the cross-entropy of the truth's bin, in nats."""
        which = torch.bucketize(truth.contiguous(), self.edges)
        return nn.functional.cross_entropy(raw.flatten(0, -2), which.flatten(), reduction="none").view(truth.shape)

    def mean(self, raw: Float[Tensor, "*cell bin"]) -> Float[Tensor, "*cell"]:
        """Return the expectation."""
        return (raw.softmax(-1) * self.centres).sum(-1)


class CrossVariable(Objective):
    """Predict the hidden groups of variables at every cell from the others, over the whole map and window."""

    def __init__(self, config: CrossVariableConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.groups = config.partition(context.variables)
        self.likelihood = Gaussian() if config.loss == "gaussian" else Bins(config.bins, config.edges)
        cells = math.prod(context.encoder.config.patch)
        asked = [name for group in self.groups for name in group]
        width, numbers = context.encoder.width, cells * self.likelihood.numbers
        self.heads = nn.ModuleDict({name: nn.Linear(width, numbers) for name in asked})

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the mean over the variables of the area-weighted negative log likelihood of hidden, valid cells."""
        patches = patchify(batch, encoder.config.patch)
        hidden = self.hidden(batch)
        raw = self.predict(encoder, patches, hidden)
        asked = [patches.variables.index(name) for name in self.heads]
        truth = patches.values[:, :, asked]
        weight = (patches.valid & hidden[:, None, :, None])[:, :, asked] * patches.area[:, None]
        nll = by_variable(self.likelihood.nll(raw, truth), weight, joined=self.training)
        asked_of = weight.sum((0, 1, 3))
        loss = mean_over(nll, (averaged(asked_of) if self.training else asked_of) > 0)
        with torch.no_grad():
            found = score(self.likelihood.mean(raw), truth, weight)
        return Outcome(loss, found.terms(list(self.heads)))

    def hidden(self, batch: Batch) -> Bool[Tensor, "batch variable"]:
        """Return the variables hidden from each sample, by its key: from one group to all but one.

        A set of groups is drawn as often as the set of all others: each half predicts the other.
        """
        count = len(self.groups)
        drawn = uniform(fold(batch.keys, key(0, NAME)), count + 1)
        how_many = 1 + (drawn[:, :1] * (count - 1)).long()
        chosen = drawn[:, 1:].argsort(1).argsort(1) < how_many
        members = torch.tensor([[name in group for name in batch.variables] for group in self.groups])
        return (chosen[:, :, None] & members.to(chosen.device)).any(1)

    def predict(
        self, encoder: Encoder, patches: Patches, hidden: Bool[Tensor, "batch variable"]
    ) -> Float[Tensor, "batch token asked cell number"]:
        """Return the parameters of each cell's distribution, for the variables of the groups in their order."""
        features = encoder(patches.without(hidden))
        raw = torch.stack([head(features) for head in self.heads.values()], 2).float()
        return rearrange(raw, "b n v (c k) -> b n v c k", k=self.likelihood.numbers)

    @torch.no_grad()
    def example(self, encoder: Encoder, batch: Batch) -> Example:
        """Return the first window with its hidden variables predicted from the others."""
        patches = patchify(batch, encoder.config.patch)
        hidden = self.hidden(batch)
        mean = self.likelihood.mean(self.predict(encoder, patches, hidden))
        rebuilt = patches.values.clone()
        rebuilt[:, :, [patches.variables.index(name) for name in self.heads]] = mean
        away = hidden[:, None, :, None]
        nothing = torch.full_like(rebuilt, math.nan)
        fields = {
            "truth": torch.where(patches.valid, patches.values, nothing),
            "shown": torch.where(patches.valid & ~away, patches.values, nothing),
            "rebuilt": torch.where(patches.valid, torch.where(away, rebuilt, patches.values), nothing),
        }
        size = encoder.config.patch
        return Example(**{name: unpatchify(values, patches, size)[0] for name, values in fields.items()})

    def cues(self) -> list[Cue]:
        """Return the regression on the shown variables at the same point."""
        return [SamePoint()]


class SamePoint(Cue):
    """Regresses each hidden variable on the shown ones at the same cell and step, with an intercept."""

    name = "per-point regression on the shown variables"

    def __init__(self) -> None:
        self._found: list[Pointwise] = []

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Add up the normal equations of every variable on all of them; which are shown is chosen later."""
        for batch in batches:
            self._found = self._found or [Pointwise() for _ in batch.variables]
            x, values, valid = _predictors(batch), batch.values.flatten(0, 1), batch.valid.flatten(0, 1)
            for k, regression in enumerate(self._found):
                regression.add(x, values[:, k], valid[:, k])

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - error / power on what the task hides."""
        assert isinstance(objective, CrossVariable)
        if not self._found:
            raise EarthSSLError("expected a regression fitted on training windows, got none; call fit first")
        hidden = objective.hidden(batch)
        guess = torch.zeros_like(batch.values)
        for pattern in hidden.unique(dim=0):
            own = (hidden == pattern).all(1)
            shown = [*(~pattern).nonzero()[:, 0].tolist(), len(batch.variables)]
            x = _predictors(batch)[own.repeat_interleave(batch.values.shape[1])][:, shown]
            for k in pattern.nonzero()[:, 0].tolist():
                guess[own, :, k] = predict(self._found[k].solve(shown), x).unflatten(0, (-1, batch.values.shape[1]))
        area = torch.from_numpy(batch.grid.area).to(guess)
        return float(score(guess, batch.values, (batch.valid & hidden[:, None, :, None, None]) * area).skill)


def _predictors(batch: Batch) -> Float[Tensor, "sample predictor row column"]:
    """Return every step's variables, 0 where missing, and a one."""
    x = batch.values.flatten(0, 1)
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)

"""Temporal latent prediction: guess how the encoder itself will see a later window, without a teacher
(after joint-embedding prediction of physical fields, arXiv 2603.13227; the terms against collapse are VICReg's,
Bardes et al. 2022, arXiv 2105.04906).

Both windows go through the same encoder, and gradients flow into both. What keeps the features from becoming constant
is that every feature must vary over the batch about its mean at each token, on the mean over the tokens, and that no
two features may say the same.

Trivial cues and how they are closed: constant features (the variance term; skill 0); place (variances and skill count
from the mean of each token over the batch); season (not given, on neither side); overlap (the later window begins after
the earlier one's last step). Not closed: what lasts, such as a trend, is easily foreseen; damped persistence of the
features stands beside the task in the audit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder, EncoderConfig, fuse_attention, transformer
from ...ssl.model.tokens import SEASON, Encodings, Patches, patchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig, Outcome
from ..redundancy import across_ranks, departures, parts
from .latent import explained
from .masks import Mask

NAME = "temporal_latent"
HIDE = frozenset({SEASON})


@dataclass(frozen=True)
class TemporalLatentConfig(ObjectiveConfig):
    """Settings of temporal latent prediction.

    Attributes:
        weight: Weight of the loss.
        leads: Steps from the window's last one to the first of the later window; one is drawn for each sample.
        prediction: Weight of the squared error of the predicted features.
        variance: Weight of the shortfall of each feature's deviation from 1.
        covariance: Weight of the squared covariances between features.
        predictor_width: Width of the predictor's tokens.
        predictor_depth: Number of its blocks.
        predictor_heads: Attention heads in each.
    """

    weight: float = 1.0
    leads: list[int] = field(default_factory=lambda: [1, 3])
    prediction: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    predictor_width: int = 64
    predictor_depth: int = 2
    predictor_heads: int = 4

    def __post_init__(self) -> None:
        if not self.leads or min(self.leads) < 1 or len(set(self.leads)) < len(self.leads):
            raise EarthSSLError(f"{NAME}.leads: expected different steps ≥ 1, at least one, got {self.leads}")
        if not (0 < self.prediction < float("inf") and 0 < self.variance < float("inf")):
            raise EarthSSLError(
                f"{NAME}: expected weights prediction > 0 and variance > 0 (without it the features collapse), got "
                f"{self.prediction} and {self.variance}"
            )
        if not 0 <= self.covariance < float("inf"):
            raise EarthSSLError(f"{NAME}.covariance: expected a weight ≥ 0, got {self.covariance}")
        if self.predictor_depth < 1 or self.predictor_heads < 1 or self.predictor_width % self.predictor_heads:
            raise EarthSSLError(
                f"{NAME}: expected predictor_depth ≥ 1 and a predictor_width that {self.predictor_heads} heads divide, "
                f"got {self.predictor_depth} and {self.predictor_width}"
            )

    def build(self, context: Context) -> TemporalLatent:
        """Return the objective."""
        return TemporalLatent(self, context)

    def span(self, encoder: EncoderConfig) -> int:
        """Return the steps from the window's first to the last of the later window at the longest lead."""
        return 2 * encoder.window - 1 + max(self.leads)


class TemporalLatent(Objective):
    """Prediction of the tokens' features in a later window by a small transformer."""

    # An encoder that sees a cue only makes other targets, which tell nothing of these.
    censors: ClassVar[tuple[str, ...]] = ()
    compares = True
    leads: Tensor

    def __init__(self, config: TemporalLatentConfig, context: Context) -> None:
        super().__init__()
        width = config.predictor_width
        self.config, self.window = config, context.encoder.config.window
        self.register_buffer("leads", torch.tensor(config.leads), persistent=False)
        self.enter = nn.Linear(context.encoder.width, width)
        # A factor and a shift for every feature, as in lead_time; neither at the start.
        self.lead = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, 2 * width))
        for last in self.lead[2].parameters():
            nn.init.zeros_(last)
        self.encodings = Encodings(width)
        self.blocks = transformer(width, config.predictor_depth, config.predictor_heads)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, context.encoder.width)

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the weighted sum of the three terms; with them, the share of the later features' variance explained.

        Variance and covariance are summed over the two windows; in training they are those of the joined batch of all
        ranks.
        """
        picks = self.picks(batch)
        now, later = self.pose(batch, encoder.config.patch, picks)
        features = torch.stack([encoder(patches, hide=HIDE).float() for patches in (now, later)])
        guess = self.predict(features[0], now, picks).float()
        error = nn.functional.mse_loss(guess, features[1])
        _, variance, covariance = parts(departures(across_ranks(features) if self.training else features).flatten(1, 2))
        c = self.config
        loss = c.prediction * error + c.variance * variance + c.covariance * covariance
        terms = {"prediction": error, "variance": variance, "covariance": covariance}
        found = variance_explained(guess.detach(), features[1].detach())
        return Outcome(loss, {name: term.detach() for name, term in terms.items()} | found)

    def picks(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Return which of the leads each sample is asked for, by its key."""
        return (uniform(fold(batch.keys, key(0, NAME)), 1)[:, 0] * len(self.leads)).long()

    def pose(self, batch: Batch, patch: tuple[int, int, int], picks: Int[Tensor, " batch"]) -> tuple[Patches, Patches]:
        """Return the patches of the windows and of those that begin at the picked leads after their last steps.

        Raises:
            EarthSSLError: If the batch ends before the later window.
        """
        batch = batch.cut(0, 2 * self.window - 1 + max(self.config.leads))
        later = batch.cut(self.window - 1 + self.leads[picks], self.window)
        return patchify(batch.cut(0, self.window), patch), patchify(later, patch)

    def predict(
        self, features: Float[Tensor, "batch token width"], patches: Patches, picks: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch token width"]:
        """Return the predicted features of the later window's tokens, from those of the window."""
        lead = self.leads[picks].to(features.dtype)[:, None] / max(self.config.leads)
        factor, shift = self.lead(lead)[:, None].chunk(2, -1)
        x = self.enter(features) * (1 + factor) + shift + self.encodings(patches, None, HIDE)
        fuse_attention(self.blocks, x)
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x))

    def cues(self) -> list[Cue]:
        """Return damped persistence of the features."""
        return [FeaturePersistence()]


def variance_explained(
    guess: Float[Tensor, "batch token width"], truth: Float[Tensor, "batch token width"]
) -> dict[str, Float[Tensor, ""]]:
    """Return the skill of predicted features, 0 for the mean of each token over the batch, and their spread."""
    everything = torch.arange(truth.shape[1], device=truth.device).expand(len(truth), -1)
    return explained(guess, truth, Mask(everything, 0))


class FeaturePersistence(Cue):
    """Repeats the features' departures from the mean of their token, damped for each feature and lead."""

    name = "damped persistence of the features"

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._damping = torch.zeros(0)

    def _features(self, objective: TemporalLatent, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return both windows' features and which lead lies between them."""
        encoder = self.encoder
        if encoder is None:
            raise EarthSSLError(f"cue '{self.name}': expected the trained encoder, got none; audit in a new folder")
        picks = objective.picks(batch)
        now, later = objective.pose(batch, encoder.config.patch, picks)
        return encoder(now, hide=HIDE).float(), encoder(later, hide=HIDE).float(), picks

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Learn the mean of each token, and the damping of each feature at each lead, from training windows."""
        assert isinstance(objective, TemporalLatent)
        now, later, picks = (
            torch.cat(part) for part in zip(*(self._features(objective, batch) for batch in batches), strict=True)
        )
        self._mean = later.mean(0)
        self._damping = torch.zeros(len(objective.leads), now.shape[2])
        for k in range(len(objective.leads)):
            a, b = now[picks == k] - self._mean, later[picks == k] - self._mean
            self._damping[k] = (a * b).sum((0, 1)) / a.square().sum((0, 1)).clamp(min=1e-12)

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the share of the variance explained."""
        assert isinstance(objective, TemporalLatent)
        if self._mean is None:
            raise EarthSSLError("expected a persistence fitted on training windows, got none; call fit first")
        now, later, picks = self._features(objective, batch)
        guess = self._mean + self._damping[picks][:, None] * (now - self._mean)
        return float(variance_explained(guess, later)["skill"])

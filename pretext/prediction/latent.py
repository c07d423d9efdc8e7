"""Latent prediction: guess how a teacher that sees the whole window encodes the hidden tokens
(after I-JEPA: Assran et al. 2023, arXiv 2301.08243).

Trivial cues and how they are closed: season (not given, neither to the student nor to the teacher); trend and level
(every step loses its area mean, for both: with it, next to nothing but the trend was learnt on the planet in 250
steps, and predictions of later years were worse than none); place
(the skill counts from the mean of each token over the batch, so what a teacher makes of the place alone is worth
nothing); neighbours (caps on the sphere through all steps; see masks.py: every sample hides equally many
tokens, ranked by distance, so that no row or column is favoured by the order of the tokens).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder, fuse_attention, transformer
from ...ssl.model.tokens import SEASON, Encodings, Patches, gather, patchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig, Outcome
from ..teacher import Teacher
from .masks import Mask, MaskConfig, check, draw, thin

HIDE = frozenset({SEASON})
FLOOR = 1e-3  # variance of the targets (1 over their features) below which there is nothing to be predicted


@dataclass(frozen=True)
class LatentConfig(ObjectiveConfig):
    """Settings of latent prediction.

    Attributes:
        weight: Weight of the loss.
        mask: What is hidden from the student.
        targets: Share of the hidden tokens that is predicted in training, drawn anew for each sample;
            validation predicts them all.
        tau: Share of its own weights that the teacher keeps at a step, at the start; it rises to 1.
        predictor_width: Width of the predictor's tokens.
        predictor_depth: Number of its blocks.
        predictor_heads: Attention heads in each.
    """

    weight: float = 1.0
    mask: MaskConfig = field(default_factory=lambda: MaskConfig("block", ratio=0.5, blocks=6))
    targets: float = 0.5
    tau: float = 0.99
    predictor_width: int = 64
    predictor_depth: int = 2
    predictor_heads: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.targets <= 1:
            raise EarthSSLError(f"latent.targets: expected a share in (0, 1], got {self.targets}")
        if self.predictor_depth < 1 or self.predictor_heads < 1 or self.predictor_width % self.predictor_heads:
            raise EarthSSLError(
                f"latent: expected predictor_depth ≥ 1 and a predictor_width that {self.predictor_heads} heads divide, "
                f"got {self.predictor_depth} and {self.predictor_width}"
            )

    def build(self, context: Context) -> Latent:
        """Return the objective.

        Raises:
            EarthSSLError: If `tau` is no share in [0, 1).
        """
        return Latent(self, context)


class Latent(Objective):
    """Prediction of a teacher's features of hidden tokens by a small transformer."""

    # A student that sees a cue only would train a teacher of its own: other targets, which tell nothing of this one's.
    censors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: LatentConfig, context: Context) -> None:
        super().__init__()
        width = config.predictor_width
        self.config = config
        self.teacher = Teacher(context.encoder, config.tau)
        self.enter = nn.Linear(context.encoder.width, width)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.encodings = Encodings(width)
        self.blocks = transformer(width, config.predictor_depth, config.predictor_heads)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, context.encoder.width)

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the smooth-L1 distance of the predictions, with the share of the targets' variance explained."""
        patches, mask = self.pose(batch, encoder.config.patch)
        prediction = self.predict(encoder, patches, mask).float()
        everything = self.targets(patches)
        target = gather(everything, mask.hidden)
        loss = nn.functional.smooth_l1_loss(prediction, target)
        terms = explained(prediction.detach(), everything, mask)
        return Outcome(loss, terms | {"tau": torch.tensor(self.teacher.tau, device=loss.device)})

    def pose(self, batch: Batch, patch: tuple[int, int, int]) -> tuple[Patches, Mask]:
        """Return the patches of a batch and what is hidden and asked for, by the samples' keys."""
        patches = patchify(levelled(batch), patch)
        check(self.config.mask, patches)
        mask = draw(self.config.mask, patches, batch.keys)
        return patches, thin(mask, self.config.targets if self.training else 1.0, batch.keys)

    def targets(self, patches: Patches) -> Float[Tensor, "batch token width"]:
        """Return the teacher's features of all tokens, each normalised over its features."""
        features = self.teacher(patches, hide=HIDE).float()
        return nn.functional.layer_norm(features, features.shape[-1:])

    def predict(self, encoder: Encoder, patches: Patches, mask: Mask) -> Float[Tensor, "batch hidden width"]:
        """Return the predicted features of the hidden tokens that are asked for."""
        visible = self.enter(encoder(mask.shown(patches), mask.keep, hide=HIDE))
        queries = self.query.to(visible.dtype).expand(len(visible), mask.hidden.shape[1], -1)
        x = torch.cat([visible, queries], 1) + self.encodings(patches, mask.order, HIDE)
        fuse_attention(self.blocks, x)
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x[:, mask.visible :]))

    def after_step(self, encoder: Encoder, progress: float, taken: Tensor | float = 1.0) -> None:
        """Let the teacher follow."""
        self.teacher.follow(encoder, progress, taken)

    def cues(self) -> list[Cue]:
        """Return the blend of the nearest visible tokens."""
        return [Neighbours()]


def levelled(batch: Batch) -> Batch:
    """Return the batch without the area mean of each step and variable over its valid cells."""
    area = torch.from_numpy(batch.grid.area).to(batch.values) * batch.valid
    mean = (batch.values * area).sum((-1, -2), keepdim=True) / area.sum((-1, -2), keepdim=True).clamp(min=1e-12)
    return replace(batch, values=(batch.values - mean) * batch.valid)


@torch.no_grad()
def explained(
    prediction: Float[Tensor, "batch hidden width"], everything: Float[Tensor, "batch token width"], mask: Mask
) -> dict[str, Float[Tensor, ""]]:
    """Return the skill of a prediction: 0 for the mean of each token over the batch, 1 for a perfect one.

    A teacher that encodes the place only, or nothing, leaves no variance to be explained: skill 0.

    Returns:
        skill: (variance - error) / variance of the targets about the mean of their token over the other samples.
        spread: Square root of that variance; 1 at most, 0 where the teacher has collapsed.
    """
    samples = len(everything)
    error = ((prediction - gather(everything, mask.hidden)) ** 2).mean()
    # Over the mean of all samples the variance would be too small by (n - 1) / n.
    apart = (everything - everything.mean(0)) * (samples / max(samples - 1, 1)) ** 0.5
    power = (gather(apart, mask.hidden) ** 2).mean()
    skill = torch.where(power > FLOOR, 1 - error / power.clamp(min=FLOOR), torch.zeros_like(power))
    return {"skill": skill, "spread": power.sqrt()}


class Neighbours(Cue):
    """Blends the teacher's features of the visible tokens of the same step, by their distance, damped.

    What is blended is the departure from the token's mean over training windows. The weight of a token at an angle a
    is exp(cos(a) / sharpness); the sharpness, down to a copy of the nearest token, is the one that explains most on
    training windows.
    """

    name = "blend of the nearest visible tokens"
    SHARPNESS = (1e-4, 0.003, 0.01, 0.03, 0.1, 0.3)  # 1e-4 copies the nearest; .01 blends over some 600 km

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._sharpness = self._damping = 0.0

    def fit(self, objective: Any, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Learn the mean of each token, the sharpness and the damping from training windows."""
        posed = [objective.pose(batch, patch) for batch in batches]
        features = [objective.targets(patches) for patches, _ in posed]
        self._mean = torch.cat(features).mean(0)
        best = -1.0
        for sharpness in self.SHARPNESS:
            product = power = 0.0
            for (patches, mask), everything in zip(posed, features, strict=True):
                apart = everything - self._mean
                blended, truth = self._blend(apart, patches, mask, sharpness), gather(apart, mask.hidden)
                product += float((blended * truth).sum())
                power += float((blended**2).sum())
            gained = max(product, 0.0) ** 2 / max(power, 1e-12)  # of the squared error, at the best damping
            if gained > best:
                best, self._sharpness, self._damping = gained, sharpness, product / max(power, 1e-12)

    def skill(self, objective: Any, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the share of the variance explained."""
        if self._mean is None:
            raise EarthSSLError("expected a blend fitted on training windows, got none; call fit first")
        patches, mask = objective.pose(batch, patch)
        everything = objective.targets(patches)
        blended = self._blend(everything - self._mean, patches, mask, self._sharpness)
        return float(explained(self._damping * blended + self._mean[mask.hidden], everything, mask)["skill"])

    @staticmethod
    def _blend(
        apart: Float[Tensor, "batch token width"], patches: Patches, mask: Mask, sharpness: float
    ) -> Float[Tensor, "batch hidden width"]:
        """Return what the visible tokens make of each hidden one; other steps count only where a step shows none."""
        points = patches.place[:, :3]
        near = points @ points.T - 4.0 * (patches.step[:, None] - patches.step).abs()
        weights = (near[mask.hidden[:, :, None], mask.keep[:, None, :]] / sharpness).softmax(2)
        return weights @ gather(apart, mask.keep)

"""Variance: no feature constant, no two the same; to stand beside other tasks (VICReg's terms without views: Bardes et
al. 2022, arXiv 2105.04906).

It asks nothing of its own: an encoder that copies the mean of its window solves it. Beside a task it keeps features
from narrowing, which early training does before it builds any. What must vary is each token's feature about its mean
over the batch, and the mean feature of the window; the season is not shown, so that it is not what varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import SEASON, patchify
from ...ssl.training.objective import Context, Objective, ObjectiveConfig, Outcome
from ..redundancy import EPSILON, across_ranks, departures, spread_terms

NAME = "variance"
TOKENS, POOLED = "tokens", "pooled"
HIDE = frozenset({SEASON})


@dataclass(frozen=True)
class VarianceConfig(ObjectiveConfig):
    """Settings of the variance term.

    Attributes:
        weight: Weight of the loss.
        variance: Weight of the shortfall of each feature's deviation from 1.
        covariance: Weight of the squared covariances between features.
        of: What must vary: tokens (each token's features), pooled (the mean over the tokens), or both.
    """

    weight: float = 0.1
    variance: float = 1.0
    covariance: float = 0.04
    of: list[str] = field(default_factory=lambda: [TOKENS, POOLED])

    def __post_init__(self) -> None:
        if not (0 < self.variance < float("inf") and 0 <= self.covariance < float("inf")):
            raise EarthSSLError(
                f"{NAME}: expected weights variance > 0 and covariance ≥ 0, got {self.variance} and {self.covariance}"
            )
        kinds = (TOKENS, POOLED)
        bad = [one for one in self.of if one not in kinds]
        if bad or not self.of or len(set(self.of)) < len(self.of):
            hint = nearest(bad[0], kinds) if bad else ""
            raise EarthSSLError(f"{NAME}.of: expected some of {', '.join(kinds)}, each once, got {self.of}.{hint}")

    def build(self, context: Context) -> Variance:
        """Return the objective."""
        return Variance(self, context)


class Variance(Objective):
    """Variance and covariance of the encoder's features over the batch of all ranks."""

    # It is no task: an encoder that sees a cue only may vary as well.
    censors: ClassVar[tuple[str, ...]] = ()
    compares = True

    def __init__(self, config: VarianceConfig, context: Context) -> None:
        super().__init__()
        self.config, self.window = config, context.encoder.config.window

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the weighted terms, means over what must vary; the skill is 0 for constant features, 1 if all vary."""
        patches = patchify(batch.cut(0, self.window), encoder.config.patch)
        features = encoder(patches, hide=HIDE).float()[None]
        apart = departures(across_ranks(features) if self.training else features)
        terms = {kind: spread_terms(rows) for kind, rows in self._kinds(apart).items()}
        variance, covariance = (_mean([both[k] for both in terms.values()]) for k in (0, 1))
        loss = self.config.variance * variance + self.config.covariance * covariance
        found = {f"variance_{kind}": both[0].detach() for kind, both in terms.items()}
        skill = 1 - variance.detach() / (1 - EPSILON**0.5)
        return Outcome(loss, {"skill": skill, "covariance": covariance.detach(), **found})

    def _kinds(self, apart: Tensor) -> dict[str, Tensor]:
        """Return rows of features, (1, row, width), of all that must vary."""
        kinds = {TOKENS: apart.flatten(1, 2), POOLED: apart.mean(2)}
        return {kind: kinds[kind] for kind in self.config.of}


def _mean(numbers: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(numbers)).mean()

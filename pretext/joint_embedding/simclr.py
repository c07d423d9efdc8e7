"""SimCLR: find a window's state some steps later among those of the same season in other years
(Chen et al. 2020, arXiv 2002.05709).

Trivial cues and how they are closed: season, trend, place and near copies; see views.py and
retrieval.py. Batches of one season (training.batches: season) give the most negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.training.objective import Context, Outcome
from .retrieval import cosines, retrieval
from .views import TwoViews, TwoViewsConfig


@dataclass(frozen=True)
class SimCLRConfig(TwoViewsConfig):
    """Settings of SimCLR.

    Attributes:
        weight: Weight of the loss.
        views: How the views are drawn.
        hidden: Width of the projector's hidden layer.
        out: Width of the embeddings that are compared.
        temperature: What cosines are divided by.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise EarthSSLError(f"simclr.temperature: expected a number > 0, got {self.temperature}")

    def build(self, context: Context) -> SimCLR:
        """Return the objective."""
        return SimCLR(self, context)


class SimCLR(TwoViews):
    """Cross-entropy of the other view against the fair negatives of the batch."""

    def __init__(self, config: SimCLRConfig, context: Context) -> None:
        super().__init__(config, context)
        self.temperature = config.temperature

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return NT-Xent, with accuracy and skill of retrieval and the number of negatives."""
        views = self.draw(batch)
        likeness = cosines(self.projector(self.features(encoder, views, encoder.config.patch)))
        allowed = self.rivals(views)
        return Outcome(nt_xent(likeness, allowed, self.temperature), retrieval(likeness, allowed))


def nt_xent(
    likeness: Float[Tensor, "row candidate"], allowed: Bool[Tensor, "row candidate"], temperature: float
) -> Float[Tensor, ""]:
    """Return the mean over the rows of -log softmax of the other view; 0 where no row has a negative.

    As a cross-entropy with what is not allowed at -inf: nothing is exponentiated that does not count, so loss
    and gradients stay finite at any temperature.

    Args:
        likeness: Cosines, rows in the order (view, sample).
        allowed: The fair negatives of each row.
        temperature: What cosines are divided by.
    """
    rows = torch.arange(len(likeness), device=likeness.device)
    target = rows.roll(len(rows) // 2)
    counted = allowed.clone()
    counted[rows, target] = True
    logits = (likeness / temperature).masked_fill(~counted, -torch.inf)
    losses = nn.functional.cross_entropy(logits, target, reduction="none")
    # A row without negatives has a loss of 0 whatever its embedding is: it takes no part in the mean either.
    return losses.sum() / allowed.any(1).sum().clamp(min=1)

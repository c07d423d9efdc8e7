"""BYOL: predict how a slow copy of the network sees the other view (Grill et al. 2020, arXiv 2006.07733).

Trivial cues and how they are closed: see pretext/views.py. There are no negatives in the loss; the skill is that
of retrieval among the same fair negatives as in SimCLR (pretext/retrieval.py), so that a collapse shows as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..ssl.batch import Batch
from ..ssl.encoder import Encoder
from ..ssl.objective import Context, Outcome
from .retrieval import cosines, retrieval
from .teacher import Teacher
from .views import TwoViews, TwoViewsConfig, head


@dataclass(frozen=True)
class BYOLConfig(TwoViewsConfig):
    """Settings of BYOL.

    Attributes:
        weight: Weight of the loss.
        views: How the views are drawn.
        hidden: Width of the hidden layers of projector and predictor.
        out: Width of the embeddings that are compared.
        tau: Share of its own weights that the target network keeps at a step, at the start; it rises to 1.
    """

    tau: float = 0.99

    def build(self, context: Context) -> BYOL:
        """Return the objective.

        Raises:
            EarthSSLError: If `tau` is no share in [0, 1).
        """
        return BYOL(self, context)


class BYOL(TwoViews):
    """Cosine between the prediction from one view and the target network's embedding of the other."""

    def __init__(self, config: BYOLConfig, context: Context) -> None:
        super().__init__(config, context)
        self.predictor = head(config.out, config.hidden, config.out)
        self.teacher = Teacher(context.encoder, config.tau)
        self.teacher_projector = Teacher(self.projector, config.tau)

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return 2 - 2 cos, both ways, with the skill of retrieval between the online embeddings."""
        views, patch = self.draw(batch), encoder.config.patch
        z = torch.stack([self.projector(self.pooled(encoder, view, patch)) for view in views])
        target = torch.stack([self.teacher_projector(self.pooled(self.teacher, view, patch)) for view in views])
        loss = disagreement(self.predictor(z), target.flip(0))
        joined, allowed = self.join(z.detach(), views)
        tau = torch.tensor(self.teacher.tau, device=loss.device)
        return Outcome(loss, retrieval(cosines(joined), allowed) | {"tau": tau})

    def after_step(self, encoder: Encoder, progress: float) -> None:
        """Let the target network follow."""
        self.teacher.follow(encoder, progress)
        self.teacher_projector.follow(self.projector, progress)


def disagreement(
    prediction: Float[Tensor, "2 sample width"], target: Float[Tensor, "2 sample width"]
) -> Float[Tensor, ""]:
    """Return the mean of 2 - 2 cos over the samples, summed over the two directions, in single precision."""
    with torch.autocast(prediction.device.type, enabled=False):
        cosine = nn.functional.cosine_similarity(prediction.float(), target.float(), 2, eps=1e-6)
        return (2 - 2 * cosine).mean(1).sum()

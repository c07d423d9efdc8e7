"""BYOL: predict how a slow copy of the network sees the other view (Grill et al. 2020, arXiv 2006.07733).

Trivial cues and how they are closed: see views.py. There are no negatives in the loss; the skill is that
of retrieval among the same fair negatives as in SimCLR (retrieval.py), so that a collapse shows as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.training.objective import Context, Outcome
from ..teacher import Teacher
from .retrieval import cosines, retrieval
from .views import TwoViews, TwoViewsConfig, head


@dataclass(frozen=True)
class BYOLConfig(TwoViewsConfig):
    """Settings of BYOL. It wants a lower learning rate than the other tasks, such as 5e-4.

    Attributes:
        weight: Weight of the loss.
        views: How the views are drawn.
        hidden: Width of the hidden layers of projector and predictor.
        out: Width of the embeddings that are compared.
        tau: Share of its own weights that the target network keeps at a step, at the start; it rises to 1. Hundreds
            of steps want .9, hundreds of thousands .996.
        pace: How many times as fast as the rest the predictor learns: one that is not near its best at every step
            pulls the embeddings together (Tian et al. 2021, arXiv 2102.06810).
    """

    tau: float = 0.9
    pace: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.pace < float("inf"):
            raise EarthSSLError(f"byol.pace: expected a number > 0, got {self.pace}")

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
        self.predictor = head(config.out, config.hidden, config.out, partial(Paced, pace=config.pace))
        self.teacher = Teacher(context.encoder, config.tau)
        self.teacher_projector = Teacher(self.projector, config.tau)

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return 2 - 2 cos, both ways, with the skill of retrieval between the online embeddings."""
        views, patch = self.draw(batch), encoder.config.patch
        z = self.projector(self.features(encoder, views, patch))
        target = self.teacher_projector(self.features(self.teacher, views, patch))
        loss = disagreement(self.predictor(z), target.roll(len(target) // 2, 0))
        terms = retrieval(cosines(z.detach()), self.rivals(views))
        return Outcome(loss, terms | {"tau": torch.tensor(self.teacher.tau, device=loss.device)})

    def after_step(self, encoder: Encoder, progress: float, taken: Tensor | float = 1.0) -> None:
        """Let the target network follow."""
        self.teacher.follow(encoder, progress, taken)
        self.teacher_projector.follow(self.projector, progress, taken)


def disagreement(prediction: Float[Tensor, "row width"], target: Float[Tensor, "row width"]) -> Float[Tensor, ""]:
    """Return 2 - 2 cos, its means over the samples added for both views, in single precision."""
    with torch.autocast(prediction.device.type, enabled=False):
        cosine = nn.functional.cosine_similarity(prediction.float(), target.float(), 1, eps=1e-6)
        return 2 * (2 - 2 * cosine).mean()


class Paced(nn.Linear):
    """A linear layer that learns `pace` times as fast as others under Adam, whose steps do not scale with gradients."""

    def __init__(self, inputs: int, outputs: int, pace: float) -> None:
        super().__init__(inputs, outputs)
        self.pace = pace
        with torch.no_grad():
            for p in self.parameters():
                p.div_(pace)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the weights, which are `pace` times what is trained."""
        return nn.functional.linear(x, self.pace * self.weight, self.pace * self.bias)

"""VICReg: two views alike, every feature spread out, no two features the same (Bardes et al. 2022, arXiv 2105.04906).

Trivial cues and how they are closed: see views.py. There are no negatives in the loss; the skill is that
of retrieval among the same fair negatives as in SimCLR (retrieval.py), so that a collapse shows as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.training.objective import Context, Outcome
from ..redundancy import parts
from .retrieval import cosines, retrieval
from .views import TwoViews, TwoViewsConfig


@dataclass(frozen=True)
class VICRegConfig(TwoViewsConfig):
    """Settings of VICReg.

    Attributes:
        weight: Weight of the loss.
        views: How the views are drawn.
        hidden: Width of the expander's hidden layer.
        out: Width of the embeddings that are compared.
        invariance: Weight of the squared difference between the views.
        variance: Weight of the shortfall of each feature's deviation from 1.
        covariance: Weight of the squared covariances between features.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("invariance", "variance", "covariance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise EarthSSLError(f"vicreg.{name}: expected a weight ≥ 0, got {getattr(self, name)}")

    def build(self, context: Context) -> VICReg:
        """Return the objective."""
        return VICReg(self, context)


class VICReg(TwoViews):
    """Invariance, variance and covariance of the embeddings of two views."""

    def __init__(self, config: VICRegConfig, context: Context) -> None:
        super().__init__(config, context)
        self.config = config

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the weighted sum of the three terms, with each of them and the skill of retrieval."""
        views = self.draw(batch)
        z = self.projector(self.features(encoder, views, encoder.config.patch))
        invariance, variance, covariance = parts(z.unflatten(0, (2, -1)))
        c = self.config
        loss = c.invariance * invariance + c.variance * variance + c.covariance * covariance
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        found = retrieval(cosines(z.detach()), self.rivals(views))
        return Outcome(loss, {name: term.detach() for name, term in terms.items()} | found)

"""The pretext tasks, by name: a new one is one file, one line here, one config and one test."""

from __future__ import annotations

from ..ssl.training.objective import ObjectiveConfig
from .joint_embedding.byol import BYOLConfig
from .joint_embedding.simclr import SimCLRConfig
from .joint_embedding.variance import VarianceConfig
from .joint_embedding.vicreg import VICRegConfig
from .prediction.cross_variable import CrossVariableConfig
from .prediction.eof_masking import EOFMaskingConfig
from .prediction.interpolation_residual import InterpolationResidualConfig
from .prediction.latent import LatentConfig
from .prediction.lead_time import LeadTimeConfig
from .prediction.linear_residual import LinearResidualConfig
from .prediction.masking import MaskingConfig
from .prediction.stochastic_lead_time import StochasticLeadTimeConfig
from .prediction.temporal_latent import TemporalLatentConfig
from .spatial.jigsaw import JigsawConfig
from .spatial.orientation import OrientationConfig
from .spatial.relative_position import RelativePositionConfig
from .temporal.distance import DistanceConfig
from .temporal.order import OrderConfig

TASKS: dict[str, type[ObjectiveConfig]] = {
    "masking": MaskingConfig,
    "order": OrderConfig,
    "distance": DistanceConfig,
    "orientation": OrientationConfig,
    "relative_position": RelativePositionConfig,
    "jigsaw": JigsawConfig,
    "cross_variable": CrossVariableConfig,
    "lead_time": LeadTimeConfig,
    "simclr": SimCLRConfig,
    "byol": BYOLConfig,
    "vicreg": VICRegConfig,
    "latent": LatentConfig,
    "eof_masking": EOFMaskingConfig,
    "temporal_latent": TemporalLatentConfig,
    "linear_residual": LinearResidualConfig,
    "interpolation_residual": InterpolationResidualConfig,
    "stochastic_lead_time": StochasticLeadTimeConfig,
    "variance": VarianceConfig,
}

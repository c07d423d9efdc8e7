"""The pretext tasks, by name: a new one is one file, one line here, one config and one test."""

from __future__ import annotations

from ..ssl.objective import ObjectiveConfig
from .byol import BYOLConfig
from .cross_variable import CrossVariableConfig
from .distance import DistanceConfig
from .jigsaw import JigsawConfig
from .latent import LatentConfig
from .lead_time import LeadTimeConfig
from .masking import MaskingConfig
from .order import OrderConfig
from .orientation import OrientationConfig
from .relative_position import RelativePositionConfig
from .simclr import SimCLRConfig
from .vicreg import VICRegConfig

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
}

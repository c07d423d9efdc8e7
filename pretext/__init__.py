"""The pretext tasks, by name: a new one is one file, one line here, one config and one test."""

from __future__ import annotations

from ..ssl.objective import ObjectiveConfig
from .jigsaw import JigsawConfig
from .masking import MaskingConfig
from .order import OrderConfig
from .orientation import OrientationConfig
from .relative_position import RelativePositionConfig

TASKS: dict[str, type[ObjectiveConfig]] = {
    "masking": MaskingConfig,
    "order": OrderConfig,
    "orientation": OrientationConfig,
    "relative_position": RelativePositionConfig,
    "jigsaw": JigsawConfig,
}

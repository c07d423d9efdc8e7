"""The control that data were made from, as the attributes of a store record it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..planet.options import recorded_options
from ..planet.recorded import CONTROL
from .controls import Control, ControlConfig


def recorded_control(attributes: Mapping[str, Any]) -> Control:
    """Return the control that data were made from.

    Args:
        attributes: Of the data, as the manifest of a store holds them.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    return Control(ControlConfig(**recorded_options(attributes, CONTROL, "a control", "controls")))

"""The control that data were made from, as the attributes of a store record it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...common.errors import EarthSSLError
from ..planet.recorded import CONTROL
from .controls import Control, ControlConfig


def recorded_control(attributes: Mapping[str, Any]) -> Control:
    """Return the control that data were made from.

    Args:
        attributes: Of the data, as the manifest of a store holds them.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    known = json.loads(attributes.get("planet", "{}"))
    if known.get("dynamics") != CONTROL:
        raise EarthSSLError(
            f"expected a store of a control, got {attributes.get('source', 'other data')}; prepare one with source: "
            "controls"
        )
    return Control(ControlConfig(**{name: value for name, value in known.items() if name != "dynamics"}))

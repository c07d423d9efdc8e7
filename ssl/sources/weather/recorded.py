"""The weather planet that data were made from, as the attributes of a store record it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..planet.options import recorded_options
from ..planet.recorded import DYNAMICS
from .weather import Weather, WeatherConfig


def of_weather(attributes: Mapping[str, Any]) -> bool:
    """Return whether data were made from the weather planet.

    Args:
        attributes: Of the data, as the manifest of a store holds them.
    """
    return bool(json.loads(attributes.get("planet", "{}")).get("dynamics") == DYNAMICS)


def recorded_weather(attributes: Mapping[str, Any], cache: str | None = None) -> Weather:
    """Return the weather planet that data were made from; its states are made again where the cache lacks them.

    Args:
        attributes: Of the data, as the manifest of a store holds them.
        cache: Folder for the states; None is the usual one.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    options = recorded_options(attributes, DYNAMICS, "the weather planet", "weather")
    options.pop("parameters", None)
    return Weather(WeatherConfig(**options, cache=cache))

"""The synthetic planet that data were made from, as the attributes of a store record it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...common.errors import EarthSSLError
from ...common.files import digest
from .planet import Planet, PlanetConfig

# What other synthetic planets write among their options: the weather planet, the controls, Lorenz '96.
DYNAMICS, CONTROL, LORENZ96 = "quasi-geostrophic", "control", "lorenz96"
IDENTITY = {
    DYNAMICS: ("seed", "world", "truncation"),
    CONTROL: ("seed", "design", "amplitude"),
    LORENZ96: ("dynamics", "seed", "slow", "fast", "forcing"),
}


def recorded_planet(attributes: Mapping[str, Any]) -> Planet:
    """Return the synthetic planet that data were made from.

    Args:
        attributes: Of the data, as the manifest of a store holds them.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    known = json.loads(attributes.get("planet", "null"))
    if known is None or known.get("dynamics") in IDENTITY:
        raise EarthSSLError(
            f"expected a store of the synthetic planet, got {attributes.get('source', 'other data')}; for storms of "
            "the Earth set tracks to ibtracs or a table"
        )
    return Planet(PlanetConfig(**{**known, "shape": tuple(known["shape"])}))


def recorded_seed(attributes: Mapping[str, Any]) -> int | None:
    """Return the seed of the synthetic planet; None for other data.

    Of the weather planet and of a control, a number that differs for every seed and world, and from other planets'.
    """
    try:
        known = json.loads(attributes["planet"])
        if known.get("dynamics") in IDENTITY:
            return int(digest({name: known[name] for name in IDENTITY[known["dynamics"]]})[:8], 16)
        return int(known["seed"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def seed_record(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return what a checkpoint's record says of the planet; nothing for other data."""
    seed = recorded_seed(attributes)
    return {} if seed is None else {"planet_seed": seed}

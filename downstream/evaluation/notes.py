"""Notes that every table may need: few sets of random features, encoders of another climatology."""

from __future__ import annotations

from collections.abc import Sequence

from ..results.row import Row
from .encoders import Contender
from .equal_input import FEWEST_RANDOM, RAW


def few_seeds(rows: Sequence[Row], seeds: int) -> list[str]:
    """Return a note where a table with a raw input has fewer sets of random features than the rule asks for."""
    if seeds >= FEWEST_RANDOM or not any(row.name.startswith(RAW) for row in rows):
        return []
    return [f"Random features of the raw window: {seeds} sets, fewer than {FEWEST_RANDOM}; their mean score is rough."]


def others(encoders: Sequence[Contender]) -> list[str]:
    """Return a note where encoders were trained on data of another climatology."""
    sources = sorted({one.source["other_statistics"] for one in encoders if "other_statistics" in one.source})
    if not sources:
        return []
    return [f"Encoders were trained on {', '.join(sources)} of another climatology and scale (other_statistics): they "
            "are given this store's anomalies by its own."]  # fmt: skip

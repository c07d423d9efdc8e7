"""Row: one method of a downstream table with one seed, and what it says of the test block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Role(StrEnum):
    """What a row is in the comparison; "known" rows read a hidden truth that no forecaster has."""

    BASELINE = "baseline"
    PRETRAINED = "pretrained"
    UNTRAINED = "untrained"
    SCRATCH = "scratch"
    TUNED = "tuned"
    KNOWN = "known"


SUBTRACTED = (Role.BASELINE, Role.UNTRAINED, Role.SCRATCH)


@dataclass(frozen=True, eq=False)
class Row:
    """One method with one seed.

    Attributes:
        name: Of the method; rows of one name are its seeds, and its score is the mean of theirs.
        role: What it is in the comparison.
        forecast: What it says of the test samples, by the name of the target; the shape is the target's affair.
        seed: None where nothing is random.
        chosen: What validation chose, plain values for the record.
        reference: Whether it is subtracted from every row; None: by its role. False keeps a baseline, such as the
            climatology, from it.
        threshold: From which chance on the row calls an event, by target and the score that is best by it; see
            `event_metrics.call_metric`.
        calls: Whether it only says yes or no.
        features: What its head chose to read, by candidate (infilling: by kind of gaps), where the label curve needs
            it again; see `Task.fitted`.
        width: How wide the distribution of each test sample is by its head, relative to the others', (sample,), by
            target; nothing: all alike.
        fields: What it says in some cells, (sample, cell), by target, where `forecast` holds sums.
    """

    name: str
    role: Role
    forecast: Mapping[str, np.ndarray]
    seed: int | str | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    reference: bool | None = None
    threshold: Mapping[tuple[str, str], float] = field(default_factory=dict)
    calls: bool = False
    features: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    width: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    fields: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def subtracted(self) -> bool:
        """Whether other rows are compared with it."""
        return self.role in SUBTRACTED if self.reference is None else self.reference


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return the distinct names in the order they came."""
    return list(dict.fromkeys(row.name for row in rows))


def over_seeds(rows: Sequence[Row]) -> np.ndarray:
    """Return the matrix that takes scores of rows to those of their names, the mean over seeds, (name, row)."""
    own = np.array([[float(row.name == name) for row in rows] for name in names_of(rows)])
    return own / own.sum(axis=1, keepdims=True)

"""What an encoder must beat at filling gaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fillers import (
    Climatology,
    Dineof,
    Filler,
    InverseDistance,
    MeanOfObserved,
    Nearest,
    OptimalInterpolation,
    OrdinaryKriging,
    PcaRegression,
)
from .gappy import Anomalies
from .gaps import Places
from .held_out import ChosenInterpolation, ReducedSpaceInterpolation


def baselines(anomalies: Anomalies, ranks: Sequence[int] = (15, 40)) -> list[Filler]:
    """Return what an encoder must beat, learnt from the fit period where there is something to learn."""
    places, fit = anomalies.places, anomalies.fit
    most = min(len(fit) - 2, len(places))
    patterns = [PcaRegression(places, fit, k) for k in sorted({min(k, most) for k in ranks})]
    return [
        Climatology(),
        MeanOfObserved(places),
        Nearest(places),
        InverseDistance(places),
        OrdinaryKriging(places),
        *patterns,
        Dineof(places, fit),
        OptimalInterpolation(places, fit),
        ChosenInterpolation(places, fit),
        ReducedSpaceInterpolation(places, fit),
    ]


# Whose covariances or patterns may be learnt from fewer fields.
LEARN = (OptimalInterpolation, ChosenInterpolation, ReducedSpaceInterpolation, PcaRegression)


def learnt_from(filler: Filler, places: Places, fields: np.ndarray) -> Filler:
    """Return a filler that learns from fields (`LEARN`), learnt from other ones, (time, cells)."""
    if isinstance(filler, PcaRegression):
        most = min(len(fields) - 2, len(places))
        return PcaRegression(places, fields, max(1, min(len(filler.patterns), most)))
    assert isinstance(filler, (OptimalInterpolation, ChosenInterpolation, ReducedSpaceInterpolation))
    return type(filler)(places, fields)

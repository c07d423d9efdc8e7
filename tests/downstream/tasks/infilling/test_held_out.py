"""Settings chosen on training fields kept out, seen through the same gaps."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.tasks.infilling.fillers import OptimalInterpolation
from earthssl.downstream.tasks.infilling.gaps import Places
from earthssl.downstream.tasks.infilling.held_out import ChosenInterpolation, ReducedSpaceInterpolation
from earthssl.ssl.common.errors import EarthSSLError

rng = np.random.default_rng(0)
PLACES = Places(np.rad2deg(np.arcsin(rng.uniform(-1, 1, 30))), rng.uniform(0, 360, 30), rng.uniform(0.5, 2, 30))
PATTERNS = rng.normal(size=(3, 30))


def fields(times: int, seed: int) -> np.ndarray:
    """Three patterns that know no distance, and a little noise."""
    draws = np.random.default_rng(seed)
    return draws.normal(size=(times, 3)) @ PATTERNS + 0.1 * draws.normal(size=(times, 30))


@pytest.mark.parametrize("kind", [ChosenInterpolation, ReducedSpaceInterpolation])
def test_far_places_speak_for_one_another_where_training_says_so(
    kind: type[ChosenInterpolation] | type[ReducedSpaceInterpolation],
) -> None:
    """The published settings, which distrust them, fill much worse; what is observed stays."""
    truth = fields(20, 1)
    gappy = np.where(np.arange(30) < 12, truth, np.nan)
    made = kind(PLACES, fields(200, 0)).fill(gappy)
    assert np.array_equal(made[:, :12], truth[:, :12])
    usual = OptimalInterpolation(PLACES, fields(200, 0)).fill(gappy)
    errors = [float(((one - truth)[:, 12:] ** 2).mean()) for one in (made, usual)]
    assert errors[0] < 0.5 * errors[1]
    assert np.array_equal(made, kind(PLACES, fields(200, 0)).fill(gappy))


def test_what_is_chosen_is_learnt_from_all_of_training_and_judged_on_its_end() -> None:
    """The end speaks of other patterns than the start: settings follow the end, the start alone would not do."""
    late = np.roll(fields(100, 2), 7, 1)
    method = ReducedSpaceInterpolation(PLACES, np.concatenate([fields(100, 0), late]))
    assert method.early == 150
    assert (method.judged >= 150).all()
    truth = np.roll(fields(20, 3), 7, 1)
    gappy = np.where(np.arange(30) < 12, truth, np.nan)
    error = ((method.fill(gappy) - truth)[:, 12:] ** 2).mean()
    before = ReducedSpaceInterpolation(PLACES, fields(100, 0))
    assert error < 0.5 * ((before.fill(gappy) - truth)[:, 12:] ** 2).mean()


def test_training_with_gaps_or_of_three_fields_is_refused() -> None:
    for bad in (fields(3, 0), np.where(np.arange(30) < 29, fields(10, 0), np.nan)):
        with pytest.raises(EarthSSLError, match="at least 4 training fields without gaps"):
            ReducedSpaceInterpolation(PLACES, bad)

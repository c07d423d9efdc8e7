"""Samples of forecasts: blocks, leaks, units of measure and of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.store.store import Store


def test_initial_steps_of_the_blocks_by_hand(small_store: Path) -> None:
    """Months from 1981-01: train ends at step 239, val is 252 … 299, test 312 … 359; window 3, lead 2."""
    samples = ForecastSamples.of(Store(small_store), [2, 5], 3)
    assert samples.inits("train", 2).tolist() == list(range(2, 238))
    assert samples.inits("val", 2).tolist() == list(range(250, 298))  # inputs may lie in the gap
    assert samples.inits("test", 2).tolist() == list(range(310, 358))
    assert samples.joint("test").tolist() == list(range(310, 355))


def test_targets_lie_in_their_block_and_inputs_in_no_other(small_store: Path) -> None:
    store = Store(small_store)
    samples = ForecastSamples.of(store, [1, 4, 9], 4)
    times = store.times.astype("datetime64[ns]")
    for block in ("train", "val", "test"):
        others = [part for part in ("train", "val", "test") if part != block]
        for lead in samples.leads:
            inits = samples.inits(block, lead)
            assert store.splits.inside(times[inits + lead], block).all()
            for back in range(4):
                for other in others:
                    assert not store.splits.inside(times[inits - back], other).any()
                if block == "train":
                    assert store.splits.inside(times[inits - back], block).all()


def test_every_target_of_a_block_is_forecast_at_every_lead(daily_store: Path) -> None:
    samples = ForecastSamples.of(Store(daily_store), [1, 10], 3)
    for block in ("val", "test"):
        assert np.array_equal(samples.inits(block, 1) + 1, samples.inits(block, 10) + 10)


def test_fields_come_back_in_units(small_store: Path, small_data: Any) -> None:
    samples = ForecastSamples.of(Store(small_store), [3], 2, ["v10", "sst"])
    inits = samples.inits("test", 3)[:5]
    fields, climatology = samples.in_units(samples.truth(inits, 3), inits, 3)
    for k, name in enumerate(("v10", "sst")):
        expected = small_data[name].values[inits + 3]
        np.testing.assert_allclose(fields[:, k], expected, rtol=1e-5, atol=1e-5)
    statistics = samples.store.statistics
    direct = statistics.climatology(samples.times[inits + 3].astype("datetime64[ns]"))
    np.testing.assert_allclose(climatology[:, 1], direct[:, 0])
    assert (samples.weight[1][1:5, 2:5] == 0).all()  # land
    assert samples.weight[0].sum() == pytest.approx(1)


def test_small_units_are_shown_in_powers_of_ten(wave_store: Path) -> None:
    samples = ForecastSamples.of(Store(wave_store), [1], 1)
    assert samples.unit("u10") == "m s-1"
    assert samples.unit("vo850") == "1e-05 s-1"
    inits = samples.inits("test", 1)[:3]
    fields, _ = samples.in_units(samples.truth(inits, 1), inits, 1)
    assert np.abs(fields[:, 1]).max() == pytest.approx(3, rel=0.02)


def test_errors_are_area_means_over_valid_cells(small_store: Path) -> None:
    samples = ForecastSamples.of(Store(small_store), [1], 1, ["sst"])
    inits = samples.inits("val", 1)[:4]
    truth = samples.truth(inits, 1)
    off = np.nan_to_num(truth) + np.where(np.isfinite(truth), 0.5, 99.0).astype(np.float32)
    np.testing.assert_allclose(samples.squared_errors(off, inits, 1), 0.25, rtol=1e-5)
    off[:, :, :1] += 1  # the northern polar cap
    share = samples.weight[0, 0].sum() / samples.weight[0].sum()
    np.testing.assert_allclose(samples.squared_errors(off, inits, 1), 0.25 + share * 2, rtol=1e-5)
    off[0, 0, 0, 0] = np.nan
    with pytest.raises(EarthSSLError, match="wherever there is truth"):
        samples.squared_errors(off, inits, 1)


def test_units_of_time(small_store: Path, daily_store: Path) -> None:
    monthly, daily = ForecastSamples.of(Store(small_store), [1], 1), ForecastSamples.of(Store(daily_store), [2], 1)
    assert set(monthly.units(monthly.inits("test", 1), 1)) == {2007, 2008, 2009, 2010}
    weeks = daily.units(daily.inits("test", 2), 2)
    assert weeks[:15].tolist() == [0] * 7 + [1] * 7 + [2]
    assert len(np.unique(daily.units(daily.inits("test", 2), 2, "month"))) == 24
    assert (monthly.label(2), daily.label(2), daily.step_hours) == ("2 mo", "2 d", 24)


@pytest.mark.parametrize(
    ("leads", "window", "variables", "words"),
    [
        ([0], 1, None, "steps ahead from 1"),
        ([], 1, None, "steps ahead from 1"),
        ([1], 1, ["sts"], "Did you mean 'sst'"),
        ([1], 1, ["sst", "sst"], "each once"),
        ([11], 3, None, "window 3 \\+ longest lead 11 = 14 steps apart, got 13 from train to val"),
    ],
)
def test_bad_requests_are_refused(
    small_store: Path, leads: list[int], window: int, variables: list[str] | None, words: str
) -> None:
    with pytest.raises(EarthSSLError, match=words):
        ForecastSamples.of(Store(small_store), leads, window, variables)


def test_a_lead_longer_than_a_block_is_refused(daily_store: Path) -> None:
    """The gap from validation to test is 22 days; with the gaps wide enough the blocks themselves are the limit."""
    store = Store(daily_store)
    with pytest.raises(EarthSSLError, match="steps apart"):
        ForecastSamples.of(store, [30], 1)
    samples = ForecastSamples.of(store, [1], 1)
    with pytest.raises(EarthSSLError, match=r"fits in splits\.train"):
        samples.inits("train", 3000)

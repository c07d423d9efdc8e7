"""Scores of forecast rows: range of a conditional mean, paired verdicts, every form beside the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.metrics import weatherbench as wb
from earthssl.downstream.results.figures import style
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.tasks.forecast.baselines import Damped, anomaly_persistence, calendar_climatology
from earthssl.downstream.tasks.forecast.figures import error_by_lead, one_forecast, spectra
from earthssl.downstream.tasks.forecast.linear import States, linear_direct
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.downstream.tasks.forecast.scores import (
    Scored,
    dynamic_range,
    forecast_targets,
    forms_table,
    range_sums,
    score,
    spectrum_table,
    target_name,
)
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.store.store import Store

Made = dict[tuple[str, int | None], Scored]


def score_table(
    scored: Made, samples: ForecastSamples, references: list[str], unit: str = "auto", block: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = [
        Row(name, Role.BASELINE, {target_name(*at, samples): sums for at, sums in one.sums.items()}, seed)
        for (name, seed), one in scored.items()
    ]
    return tables(forecast_targets(samples, unit, block), rows, draws=1000, references=references)


FORMS = ("wb1_rmse", "wb1_rmse_paper", "wb1_acc", "wb2_rmse", "wb2_rmse_sqrt_before_time_avg", "wb2_acc")
RANGE = ("r", "std_ratio", "slope", "val_over_test_rmse", "half_power_wavenumber", "half_power_km")


def range_of(*anomalies: np.ndarray) -> dict[str, float]:
    return dynamic_range(range_sums(*anomalies).sum(axis=1))


@pytest.fixture(scope="module")
def daily(daily_store: Path) -> ForecastSamples:
    return ForecastSamples.of(Store(daily_store), [1, 4], 1)


@pytest.fixture(scope="module")
def scored(daily: ForecastSamples) -> Made:
    noise = np.random.default_rng(0).normal(size=daily.fields.shape).astype(np.float32)

    def shaken(inits: np.ndarray, lead: int) -> np.ndarray:
        return anomaly_persistence(daily)(inits, lead) + noise[inits]

    rows = {
        ("persistence", None): anomaly_persistence(daily), ("damped", None): Damped.fit(daily),
        ("climatology", None): calendar_climatology(daily),
        ("noisy", 0): shaken, ("noisy", 1): anomaly_persistence(daily),
    }  # fmt: skip
    return {own: score(forecast, daily) for own, forecast in rows.items()}


def test_range_of_a_conditional_mean_and_of_anomaly_persistence(scored: Made) -> None:
    """Red noise of damping .8: the conditional mean has std ratio r = .8^lead and slope 1; persistence 1 and r."""
    for lead in (1, 4):
        r = 0.8**lead
        numbers = {name: one.numbers["t2m", lead] for (name, _), one in scored.items()}
        assert numbers["damped"]["std_ratio"] == pytest.approx(r, abs=0.04)
        assert numbers["damped"]["slope"] == pytest.approx(1, abs=0.12)
        assert numbers["persistence"]["std_ratio"] == pytest.approx(1, abs=0.02)
        assert numbers["persistence"]["slope"] == pytest.approx(r, abs=0.05)
        assert numbers["damped"]["r"] == pytest.approx(r, abs=0.05)
        assert numbers["climatology"]["std_ratio"] == 0
        assert np.isnan(numbers["climatology"]["slope"])
        assert numbers["damped"]["val_over_test_rmse"] == pytest.approx(1, abs=0.1)
        assert numbers["damped"]["wb2_rmse"] == pytest.approx(2 * np.sqrt(1 - r * r), rel=0.05)  # 2 K of red noise


def test_dynamic_range_by_hand() -> None:
    truth = np.array([1.0, -1.0])[:, None, None] * np.ones((2, 2, 2))
    area = np.array([[3.0, 1.0], [1.0, 1.0]])
    assert range_of(0.5 * truth + 9, truth, area) == pytest.approx({"r": 1, "std_ratio": 0.5, "slope": 2})
    assert range_of(-truth, truth, area) == pytest.approx({"r": -1, "std_ratio": 1, "slope": -1})
    land = truth.copy()
    land[:, 0, 0] = np.nan
    wild = 0.5 * truth
    wild[:, 0, 0] = 1e9
    assert range_of(wild, land, area) == pytest.approx({"r": 1, "std_ratio": 0.5, "slope": 2})


def test_the_tables_hold_the_formulas_values(daily: ForecastSamples, scored: Made) -> None:
    scores, differences = score_table(scored, daily, ["persistence"])
    inits = daily.inits("test", 4)
    f, climatology = daily.in_units(anomaly_persistence(daily)(inits, 4), inits, 4)
    o, _ = daily.in_units(daily.truth(inits, 4), inits, 4)
    grid = daily.store.grid
    found = scores[(scores.row == "persistence") & (scores.target == "t2m 4 d")].set_index("metric").value
    assert found["rmse"] == pytest.approx(wb.wb2_rmse(f[:, 0], o[:, 0], grid))
    power = wb.wb2_squared_error(climatology[:, 0], o[:, 0], grid)
    assert found["skill"] == pytest.approx(1 - found["rmse"] ** 2 / power.mean())
    assert found["acc"] == pytest.approx(wb.wb2_acc(f[:, 0], o[:, 0], climatology[:, 0], grid))
    forms = forms_table(scored, daily)
    assert set(FORMS) | set(RANGE) <= set(forms.columns)
    line = forms[(forms.row == "persistence") & (forms.lead == "4 d")].iloc[0]
    assert line.wb1_rmse == pytest.approx(wb.wb1_rmse(f[:, 0], o[:, 0], grid.lat))
    assert line.wb1_rmse_paper < line.wb1_rmse
    assert line.wb2_rmse_sqrt_before_time_avg < line.wb2_rmse == pytest.approx(found["rmse"])
    said = differences[(differences.target == "t2m 4 d") & (differences.metric == "rmse")].set_index("row").verdict
    assert said["damped"] == "better"
    assert said["noisy"] == "worse"
    acc = differences[(differences.target == "t2m 4 d") & (differences.metric == "acc")].set_index("row").verdict
    assert acc["climatology"] == "worse"


def test_a_row_of_seeds_scores_their_mean_and_shows_each(daily: ForecastSamples, scored: Made) -> None:
    scores, _ = score_table(scored, daily, [])
    own = (
        scores[(scores.row == "noisy") & (scores.target == "t2m 1 d") & (scores.metric == "rmse")]
        .set_index("seed")
        .value
    )
    assert own[""] == pytest.approx((own["0"] + own["1"]) / 2)
    assert own["0"] > own["1"]
    assert scores[scores.row == "damped"].seed.eq("").all()
    assert scores["value"].dtype == float


def test_too_few_units_are_refused(daily: ForecastSamples, scored: Made, small_store: Path) -> None:
    small = ForecastSamples.of(Store(small_store), [1], 1, ["u10"])
    row: Made = {("persistence", None): score(anomaly_persistence(small), small)}
    assert len(score_table(row, small, [])[0]) == 5  # four years will do
    # Too few for blocks of three: years are drawn one by one.
    alone, blocks = (score_table(row, small, [], unit="year", block=block)[0] for block in (1, 3))
    pd.testing.assert_frame_equal(alone, blocks)
    with pytest.raises(EarthSSLError, match="at least 4 independent units"):
        tables(
            [replace(one, units=one.units // 2) for one in forecast_targets(small, "year", 1)],
            [Row("persistence", Role.BASELINE, {"u10 1 mo": row["persistence", None].sums["u10", 1]})], draws=1000,
        )  # fmt: skip


def test_a_spectrum_of_a_wave_and_of_half_its_amplitude(wave_store: Path) -> None:
    """Damped by ½ a wave has ¼ of its power, at its wavenumber, 2, and so it is lost there; land has no spectrum."""
    samples = ForecastSamples.of(Store(wave_store), [9], 1, ["u10"])
    direct = linear_direct(samples, States.of(samples), {"anomaly": calendar_climatology(samples)})
    whole = score(direct, samples)
    half = score(lambda inits, lead: 0.5 * direct(inits, lead), samples)
    both: Made = {("whole", None): whole, ("half", None): half}
    assert whole.spectrum["u10", 9][2] == pytest.approx(1, abs=1e-3)
    assert half.spectrum["u10", 9][2] == pytest.approx(0.25, abs=1e-3)
    assert half.numbers["u10", 9]["half_power_wavenumber"] == 2
    assert half.numbers["u10", 9]["half_power_km"] == pytest.approx(2 * np.pi * 6371 * 0.5**0.5 / 2)
    assert np.isnan(whole.numbers["u10", 9]["half_power_wavenumber"])
    table = spectrum_table(both, samples)
    assert len(table) == 2 * 9
    assert spectra(both, samples) is not None


def test_fields_with_land_have_no_spectrum_and_figures_say_nothing_of_it(small_store: Path) -> None:
    samples = ForecastSamples.of(Store(small_store), [1], 1, ["sst"])
    one = score(anomaly_persistence(samples), samples)
    assert len(one.spectrum["sst", 1]) == 0
    assert spectrum_table({("persistence", None): one}, samples).empty
    assert spectra({("persistence", None): one}, samples) is None


def test_without_forms_the_sums_are_the_same(daily: ForecastSamples) -> None:
    whole, bare = (score(Damped.fit(daily), daily, forms=forms) for forms in (True, False))
    assert not bare.numbers
    for at, sums in whole.sums.items():
        assert np.array_equal(sums, bare.sums[at])


def test_figures_show_every_row_and_the_truth(daily: ForecastSamples, scored: Made) -> None:
    scores, _ = score_table(scored, daily, [])
    drawn = error_by_lead(scores, daily)
    assert [line.get_label() for line in drawn.axes[0].lines] == ["persistence", "damped", "climatology", "noisy"]
    assert len({style(k) for k in range(32)}) == 32
    init = int(daily.inits("test", 4)[10])
    fields = {"truth": daily.fields[init + 4, 0], "persistence": daily.fields[init, 0]}
    maps = one_forecast(fields, daily, init, 4)
    assert [axes.get_title(loc="left") for axes in maps.axes[:2]] == ["truth", "persistence"]
    shown = maps.axes[0].collections[0].get_array()
    scale = daily.store.statistics.scale[0]
    np.testing.assert_allclose(np.asarray(shown).reshape(4, 6), daily.fields[init + 4, 0] * scale)

"""Radiation of columns: heating by hand, columns that close, the split, scores of a known error, the whole task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.cli.main import main
from earthssl.downstream.evaluation.task import run as run_task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.tasks.radiation.fluxes import (
    GRAVITY,
    HEAT_CAPACITY,
    STEFAN_BOLTZMANN,
    Band,
    heat_content,
    heating,
    unclosed,
)
from earthssl.downstream.tasks.radiation.task import FREE, MEAN, Radiation, RadiationConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

SPLITS = SplitsConfig(*((day, day) for day in ("1900-01-01", "1900-01-03", "1900-01-05")), 1)  # type: ignore[misc]
STATISTICS = StatisticsConfig("month", 0, "cell")
OPTIONS: dict[str, Any] = {"train": 6, "val": 2, "held_out": ["4xCO2"]}


@pytest.fixture(scope="module")
def store(columns_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("radiation") / "store"
    return prepare(PrepareConfig("columns", str(out), SPLITS, {"path": str(columns_file), **OPTIONS}, STATISTICS))


@pytest.fixture(scope="module")
def config(store: Path) -> RadiationConfig:
    short = ScratchConfig(1, 20, 16, check_every=10)
    return RadiationConfig(
        str(store), mlp=short, scratch=short, hidden=8, trees=False, draws=1000, untrained_seeds=1, random_seeds=1,
        fractions=[0.5], label_draws=1, encoder=EncoderConfig("pico", 1, (1, 2, 3)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def task(config: RadiationConfig) -> Radiation:
    return Radiation(config, Store(config.store))


# ---- Heating -------------------------------------------------------------------------------------------------


def test_a_net_flux_that_falls_linearly_with_pressure_warms_evenly() -> None:
    """100 W m-2 stay in 1000 hPa: 100 × g / (cp × 1e5 Pa) × 86400 s = .843 K a day, in layers of any depth."""
    pressure = np.array([0.0, 1e4, 1.5e4, 6e4, 1e5])
    down = 300 - 100 * pressure / 1e5
    rates = heating(np.zeros(5), down, heat_content(pressure))
    np.testing.assert_allclose(rates, 100 * GRAVITY / (HEAT_CAPACITY * 1e5) * 86_400)
    assert rates[0] == pytest.approx(0.843, abs=1e-3)
    assert (heating(np.full(5, 7.0), np.full(5, 9.0), heat_content(pressure)) == 0).all()


def test_a_grey_isothermal_atmosphere_cools_to_space_as_its_depth_says() -> None:
    """Over a black surface of its own temperature only σT⁴ e^-τ leaves: heating -g/cp σT⁴ e^-τ dτ/dp, integrated."""
    pressure = np.linspace(0, 1e5, 401)
    tau, emitted = 3 * pressure / 1e5, STEFAN_BOLTZMANN * 280.0**4
    rates = heating(np.full(401, emitted), emitted * (1 - np.exp(-tau)), heat_content(pressure))
    middle = (tau[1:] + tau[:-1]) / 2
    exact = -GRAVITY / HEAT_CAPACITY * emitted * np.exp(-middle) * 3 / 1e5 * 86_400
    np.testing.assert_allclose(rates, exact, rtol=1e-5)
    total = (rates * heat_content(pressure)).sum()
    assert total == pytest.approx(-emitted * (1 - np.exp(-3)))


# ---- Columns that close --------------------------------------------------------------------------------------


def test_whatever_is_learnt_the_column_closes_and_its_edges_hold(task: Radiation) -> None:
    rows = np.arange(len(task.beside))
    for band in task.bands:
        scaling = band.scaling(rows)
        numbers = 3 * torch.randn(len(rows), band.outputs(False), dtype=torch.float64)
        up, rates, down = band.parts(band.told(numbers, rows, scaling).numpy())
        assert np.abs(unclosed(up, rates, down, band.content)).max() < 1e-9 * max(1, np.abs(down).max())
        np.testing.assert_allclose(-np.diff(down - up) / band.content, rates, atol=1e-9 * max(1, np.abs(rates).max()))
        np.testing.assert_allclose(down[:, 0], band.top, atol=1e-9)
        np.testing.assert_allclose(up[:, -1], band.emitted + band.reflected * down[:, -1], rtol=1e-9, atol=1e-9)
        free = torch.randn(len(rows), band.outputs(True), dtype=torch.float64)
        up, rates, down = band.parts(band.told(free, rows, scaling, free=True).numpy())
        assert np.abs(unclosed(up, rates, down, band.content))[band.lit].min() > 1e-3
    night = ~task.bands[1].lit
    assert night.any()
    numbers = torch.randn(len(rows), task.bands[1].outputs(False), dtype=torch.float64)
    assert np.abs(task.bands[1].told(numbers, rows, task.bands[1].scaling(rows)).numpy()[night]).max() < 1e-4


def test_what_is_learnt_of_the_truth_is_the_truth(task: Radiation) -> None:
    for band in task.bands:
        rows = np.flatnonzero(band.lit)
        scaling = band.scaling(rows)
        told = band.told(torch.from_numpy(band.learnt(rows, scaling)), rows, scaling)
        np.testing.assert_allclose(told.numpy(), band.truth[rows], rtol=1e-6, atol=1e-6)
        assert float(band.loss(told, rows, scaling).max()) < 1e-12
        mean = band.loss(torch.zeros_like(told) + torch.from_numpy(band.truth[rows].mean(0)), rows, scaling).mean()
        assert float(mean) == pytest.approx(2, abs=0.1)  # fluxes and rates, each over its variance


def test_few_sites_all_in_the_dark_leave_something_finite() -> None:
    shape = (3, 4)
    band = Band("shortwave", np.zeros(shape), np.zeros(shape), np.ones((3, 3)), np.full(3, 1e-9), np.zeros(3),
                np.zeros(3), np.full(3, 0.3), np.zeros(3, bool))  # fmt: skip
    scaling = band.scaling(np.arange(3))
    assert np.isfinite(band.told(torch.ones(3, 7), np.arange(3), scaling).numpy()).all()


# ---- Scores --------------------------------------------------------------------------------------------------


def test_scores_of_a_known_error(task: Radiation) -> None:
    """3 W m-2 more at every interface both ways: rmse 3, biases 3, heating right, closed; the mean: no skill."""
    targets = {target.name: target for target in task.targets()}
    assert list(targets) == ["longwave", "longwave, unseen experiments", "shortwave", "shortwave, unseen experiments"]
    truth = {band.name: band.truth for band in task.bands}
    off = {}
    for band in task.bands:
        up, rates, down = band.parts(band.truth)
        off[band.name] = np.concatenate([up + 3, rates, down + 3], axis=1)
    perfect, shifted = (Row("it", Role.BASELINE, task.forecast(told)) for told in (truth, off))
    for name, target in targets.items():
        weights = np.ones(len(target.units))
        scores = {one.name: one.statistic([perfect, shifted, task.mean_row()])(weights) for one in target.metrics}
        assert scores["flux_skill"][[0, 2]] == pytest.approx([1, 0], abs=1e-9), name
        assert scores["heating_skill"] == pytest.approx([1, 1, 0], abs=1e-9)
        assert scores["flux_rmse"][:2] == pytest.approx([0, 3], abs=1e-9)
        for edge in ("top", "surface"):
            assert scores[f"{edge}_bias"][:2] == pytest.approx([0, 3], abs=1e-9)
            assert scores[f"{edge}_rmse"][:2] == pytest.approx([0, 3], abs=1e-9)
        assert scores["unclosed"][:2] == pytest.approx([0, 0], abs=1e-9)
        assert len(np.unique(target.units)) >= 4


def test_test_sites_stand_in_no_other_block_and_night_has_no_shortwave(task: Radiation) -> None:
    known, test = task.known_as, set(task.known_as.site[task.inside("test")])
    assert not test & set(known.site[task.inside("train") | task.inside("val")])
    late = task.groups[", unseen experiments"]
    assert {task.names[k] for k in known.experiment[late]} == {"4xCO2"}
    assert not (late & task.groups[""]).any()
    short = task.bands[1]
    assert (short.lit == (task.data.solar_zenith_angle.values[known.site] < 90)).all()


# ---- Rows ----------------------------------------------------------------------------------------------------


def test_a_head_that_reads_the_answer_finds_it_and_one_on_few_sites_reads_no_other(task: Radiation) -> None:
    long = task.bands[0]
    answer = {"answer": long.learnt(np.arange(len(long.up)), task.scalings()["longwave"])}
    rows = [task.fitted("it [ridge]", Role.BASELINE, own) for own in (answer, {"nothing": np.zeros((len(long.up), 1))})]
    target = task.targets()[0]
    told, nothing = target.metrics[0].statistic(rows)(np.ones(len(target.units)))  # 18 columns for 24 numbers
    assert told > 0.9 > nothing + 0.1
    few = task.label_units()[:3]
    first = task.fitted("it [ridge]", Role.BASELINE, answer, units=few)
    spoilt = Radiation(task.config, task.store)
    others = spoilt.inside("train") & ~spoilt.inside("train", few)
    for band in spoilt.bands:
        band.up[others] += 1e3
    again = spoilt.fitted("it [ridge]", Role.BASELINE, answer, units=few)
    for name, told in first.forecast.items():
        np.testing.assert_array_equal(told, again.forecast[name])


@pytest.mark.slow
def test_the_whole_task(config: RadiationConfig, tmp_path: Path) -> None:
    own = replace(config, out=str(tmp_path / "out"), trees=True, scratch_draws=1)
    out = run_task(Radiation(own, Store(config.store)))
    scores, apart = pd.read_csv(out / "scores.csv"), pd.read_csv(out / "experiments.csv")
    closed = scores[scores["metric"] == "unclosed"].groupby("row")["value"].max()
    assert {MEAN, FREE, "raw window [MLP]", "raw window [ridge]", "untrained [MLP]", "untrained [ridge]",
            "same network from scratch", "boosted trees on the raw column"} <= set(closed.index)  # fmt: skip
    assert (closed.drop([MEAN, FREE]) < 1e-9).all()
    assert closed[FREE] > 1e-2
    assert np.isfinite(scores["value"]).all()
    told = apart[(apart["row"] == MEAN) & (apart["band"] == "longwave")].set_index("experiment")
    assert told["unseen"].to_dict() == {"Present day (PD)": False, "+4K": False, "PI": False, "4xCO2": True}
    assert told.loc["4xCO2", "forcing, reference"] > 0 > told.loc["PI", "forcing, reference"]
    assert (told["forcing"] == 0).all()  # one profile for all experiments
    assert json.loads((out / "result.json").read_text())["unseen"] == ["4xCO2"]


# ---- What is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": 0}, "hidden ≥ 1"),
        ({"mlp": ScratchConfig(0)}, "mlp.seeds ≥ 1"),
        ({"token_components": []}, "numbers from 1"),
        ({"token_components": [0]}, "numbers from 1"),
        ({"reference": ["nowhere.nc"]}, "expected a NetCDF file of columns, got 'nowhere.nc'"),
        ({"encoder": EncoderConfig("pico", 2, (1, 2, 3))}, "a window of 1 step"),
        ({"encoder": EncoderConfig("pico", 1, (1, 1, 3))}, r"set encoder.window to 1 and encoder.patch to \[1, 2, 3\]"),
        ({"layers": [7]}, "probe.layers: expected -2 to 1, got 7"),
        ({"fractions": [2.0]}, r"fractions in \(0, 1\]"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"checkpoints": ["a", "a"]}, "checkpoints each once"),
        ({"task": "radiations"}, "expected radiation, got 'radiations'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(
    config: RadiationConfig, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(EarthSSLError, match=said) as caught:
        Radiation(replace(config, **settings), Store(config.store)).encoders()
    assert "\n" not in str(caught.value)


def test_stores_and_files_that_do_not_fit_end_with_status_2(
    config: RadiationConfig, columns_file: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = SplitsConfig(SPLITS.val, SPLITS.train, SPLITS.test, 1)
    wrong = prepare(
        PrepareConfig("columns", str(tmp_path / "wrong"), swapped, {"path": str(columns_file), **OPTIONS}, STATISTICS)
    )
    with xr.open_dataset(columns_file) as data:
        data.load().drop_vars("rsd").to_netcdf(tmp_path / "dark.nc")
        data.assign(rsd=2 * data["rsd"]).to_netcdf(tmp_path / "other.nc")
    for store, words, said in (
        (small_store, [], "expected a store of the source columns"),
        (wrong, [], "set splits.train to ['1900-01-01', '1900-01-01']"),
        (config.store, ["--reference", f"[{tmp_path / 'dark.nc'}]"], "expected 'rsd'"),
        (config.store, ["--reference", f"[{tmp_path / 'other.nc'}]"], "expected the files that the store was made of"),
    ):
        capsys.readouterr()
        assert main(["probe", "--task", "radiation", "--store", str(store), "--out", str(tmp_path / "x"), *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert len(error.splitlines()) == 1

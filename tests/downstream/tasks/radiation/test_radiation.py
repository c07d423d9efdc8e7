"""Radiation of columns: heating by hand, columns that close, the split, scores of a known error, the whole task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run as run_task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.tasks.radiation.fluxes import (
    GRAVITY,
    HEAT_CAPACITY,
    STEFAN_BOLTZMANN,
    Band,
    bands_of,
    heat_content,
    heating,
    unclosed,
)
from earthssl.downstream.tasks.radiation.task import FREE, LEFT_OUT, MEAN, PENALTIES, Radiation, RadiationConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources.columns.rfmip import FLUXES, WITH_FLUXES, read_columns
from earthssl.ssl.store.store import Store
from sklearn.model_selection import GroupKFold

SEED = 1  # both validation sites lie in the day
SPLITS = SplitsConfig(*((day, day) for day in ("1900-01-01", "1900-01-03", "1900-01-05")), 1)  # type: ignore[misc]
STATISTICS = StatisticsConfig("month", 0, "cell")
OPTIONS: dict[str, Any] = {"train": 6, "val": 2, "held_out": ["4xCO2"], "seed": SEED}


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


def test_a_penalty_is_chosen_by_leaving_whole_sites_out(task: Radiation) -> None:
    """As by hand, of both bands: training and validation sites, six groups of them; the fit is of training sites."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(task.beside), 3))
    inputs = np.concatenate([task.ready(values), task.ready(task.beside)], axis=1)
    row = task.fitted("it [ridge]", Role.BASELINE, {"drawn": values})
    total = 0.0
    for band, count in zip(task.bands, (8, task_sites(task, task.bands[1])), strict=True):
        scaling = task.scalings()[band.name]
        pool = np.flatnonzero((task.inside("train") | task.inside("val")) & band.lit)
        assert len(np.unique(task.known_as.site[pool])) == count
        losses = np.zeros(len(PENALTIES))
        folds = list(GroupKFold(min(6, count)).split(pool, groups=task.known_as.site[pool]))
        for kept, left in folds:
            assert not set(task.known_as.site[pool[kept]]) & set(task.known_as.site[pool[left]])
            centre, wanted = inputs[pool[kept]].mean(0), band.learnt(pool[kept], scaling)
            own = inputs[pool[kept]] - centre
            for k, penalty in enumerate(PENALTIES):
                gram = own.T @ own + penalty * len(own) * np.eye(own.shape[1])
                weights = np.linalg.solve(gram, own.T @ (wanted - wanted.mean(0)))
                numbers = (inputs[pool[left]] - centre) @ weights + wanted.mean(0)
                told = band.told(torch.from_numpy(numbers), pool[left], scaling)
                losses[k] += float(band.loss(told, pool[left], scaling).sum()) / len(pool)
        assert row.chosen[f"penalty, {band.name}"] == PENALTIES[int(losses.argmin())]
        total += losses.min()
    assert row.chosen[LEFT_OUT] == pytest.approx(total, rel=1e-4)


def task_sites(task: Radiation, band: Band) -> int:
    """Return how many training and validation sites a band has something to be told at."""
    zenith = task.data["solar_zenith_angle"].values[task.known_as.site]
    chosen = (task.inside("train") | task.inside("val")) & (zenith < 90)
    assert band.lit[chosen].all()
    return len(np.unique(task.known_as.site[chosen]))


def test_networks_stop_by_validation_sites_by_day_too(task: Radiation) -> None:
    """What validation says of a network changes with the shortwave fluxes of its sites, and it is a number."""
    raw = {"raw": task.raw(1)}
    first = task.fitted("it [MLP]", Role.BASELINE, raw, 0).chosen["validation loss"]
    spoilt = Radiation(task.config, task.store)
    spoilt.bands[1].up[spoilt.inside("val")] += 1000
    again = spoilt.fitted("it [MLP]", Role.BASELINE, raw, 0).chosen["validation loss"]
    assert np.isfinite([first, again]).all()
    assert again > first + 0.01


def test_the_dark_is_refused_in_every_block(config: RadiationConfig, columns_file: Path, tmp_path: Path) -> None:
    """Where no site of a block has a day, a shortwave choice would be made of nothing."""
    seen = set()
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(14)
        blocks = dict(zip(("train", "val", "test"), np.split(order, [2, 3]), strict=True))
        dark = [block for block, own in blocks.items() if (own > 9).all()]  # 90° lies between sites 9 and 10
        if not dark or dark[0] in seen:
            continue
        seen.add(dark[0])
        options = {**OPTIONS, "path": str(columns_file), "train": 2, "val": 1, "seed": seed}
        out = str(tmp_path / str(seed))
        prepare(PrepareConfig("columns", out, SPLITS, options, STATISTICS))
        said = f"expected a {dark[0]} site by day, got none for the shortwave; .* anew .options.seed"
        with pytest.raises(EarthSSLError, match=said) as caught:
            Radiation(replace(config, store=out), Store(out))
        assert "\n" not in str(caught.value)
    assert seen == {"train", "val"}


def _turned(data: xr.Dataset, along: str) -> xr.Dataset:
    return data.assign({name: (data[name].dims, data[name].isel({along: slice(None, None, -1)}).values)
                        for name in FLUXES})  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: _turned(data, "level"), "'rld' at the top to be 0.0 W m-2"),
        (lambda data: _turned(data, "site"), "'rlu' at the surface to be"),
        (lambda data: data.assign(rsd=data.rsu, rsu=data.rsd), "'rsd' at the top|'rsu' at the surface"),
        (lambda data: data.assign(rld=data.rlu, rlu=data.rld), "'rld' at the top to be 0.0"),
        (lambda data: data.assign(rsd=1e-3 * data.rsd, rsu=1e-3 * data.rsu), "'rsd' at the top to be"),
        (lambda data: data.assign(surface_albedo=data.surface_albedo + 0.05), "'rsu' at the surface"),
        (lambda data: data.assign(surface_temperature=data.surface_temperature + 1), "'rlu' at the surface"),
    ],
)
def test_fluxes_of_other_columns_are_refused(
    columns_file: Path, tmp_path: Path, spoil: Callable[[xr.Dataset], xr.Dataset], said: str
) -> None:
    with xr.open_dataset(columns_file) as data:
        spoil(data.load()).to_netcdf(tmp_path / "wrong.nc")
    found = read_columns([str(tmp_path / "wrong.nc")], WITH_FLUXES)
    with pytest.raises(EarthSSLError, match=f"expected .*({said}).*; give fluxes of the same columns") as caught:
        bands_of(found, np.tile(np.arange(14), 4), np.repeat(np.arange(4), 14))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_encoder_of_another_deal_is_refused(config: RadiationConfig, columns_file: Path, tmp_path: Path) -> None:
    """Pretrained where this store's test sites trained, or begun from such an encoder; whatever else is said."""
    options = {**OPTIONS, "path": str(columns_file), "seed": SEED + 1, "held_out": []}
    other = prepare(PrepareConfig("columns", str(tmp_path / "other"), SPLITS, options, STATISTICS))
    words = ["--objectives", "{masking: {}}", "--encoder.size", "pico", "--encoder.window", "1", "--encoder.patch",
             "[1, 2, 3]", "--training.steps", "2", "--training.batch_size", "4", "--training.warmup_steps", "1",
             "--training.val_every", "2", "--training.save_every", "2"]  # fmt: skip
    runs = {name: str(tmp_path / name) for name in ("there", "then_here", "here")}
    for name, store, more in (("there", str(other), []), ("here", config.store, []),
                              ("then_here", config.store, ["--start_from", runs["there"]])):  # fmt: skip
        assert main(["pretrain", "--store", store, "--out", runs[name], *words, *more]) == 0
    for name, run in runs.items():
        own = replace(config, checkpoints=[run], other_statistics=True, layers=[-1])
        task = Radiation(own, Store(config.store))
        if name == "here":
            assert [one.kind for one in task.encoders()] == ["pretrained", "untrained"]
            continue
        with pytest.raises(EarthSSLError, match="dealt out otherwise"):
            task.encoders()


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
    options = {**OPTIONS, "path": str(tmp_path / "other.nc")}
    twice = prepare(PrepareConfig("columns", str(tmp_path / "twice"), SPLITS, options, STATISTICS))
    for store, words, said in (
        (small_store, [], "expected a store of the source columns"),
        (wrong, [], "set splits.train to ['1900-01-01', '1900-01-01']"),
        (twice, [], "expected 'rsd' at the top to be"),
        (config.store, ["--reference", f"[{tmp_path / 'dark.nc'}]"], "expected 'rsd'"),
        (config.store, ["--reference", f"[{tmp_path / 'other.nc'}]"], "expected the files that the store was made of"),
    ):
        capsys.readouterr()
        assert main(["probe", "--task", "radiation", "--store", str(store), "--out", str(tmp_path / "x"), *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert len(error.splitlines()) == 1

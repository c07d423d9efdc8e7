"""Downscaling: heads, links and scores by hand, a world that is told exactly, few labels, the whole task, bad input."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scoringrules
import xarray as xr
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run as run_task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.tasks.downscaling.baselines import group_means, quantile_mapped
from earthssl.downstream.tasks.downscaling.heads import with_static
from earthssl.downstream.tasks.downscaling.labels import Link
from earthssl.downstream.tasks.downscaling.samples import FineSamples
from earthssl.downstream.tasks.downscaling.scores import QUANTILES, Scorer
from earthssl.downstream.tasks.downscaling.task import (
    CLIMATOLOGY,
    COARSE,
    MAPPING,
    MEAN_BIAS,
    MOS,
    OROGRAPHY,
    Downscaling,
    DownscalingConfig,
)
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.nesting import nesting
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

DIMS = ("time", "lat", "lon")
SPLITS = SplitsConfig(("1981", "1990"), ("1992", "1994"), ("1996", "2000"), 365)
SHORT = ScratchConfig(1, 4, 16, check_every=2)


def world() -> xr.Dataset:
    """t2m and rain, months, 6 × 8 cells: a coarse cell's red noise times 1 + what the height of each fine cell says.

    The area mean of that is the noise itself, so the fine field is a linear function of the coarse one at each place,
    and the same one of noise times height at all places.
    """
    rng = np.random.default_rng(3)
    times = np.arange("1981-01", "2001-01", dtype="datetime64[M]").astype("datetime64[ns]")
    lat, lon = np.arange(12.5, -13, -5.0), np.arange(102.5, 140, 5.0)
    grid = LatLonGrid(lat, lon)
    nest = nesting(grid, LatLonGrid(np.arange(10.0, -11, -10), np.arange(105.0, 140, 10)), "world")
    height = rng.normal(size=grid.shape)
    height -= nest.repeated(nest.means(height))
    noise = nest.repeated(rng.normal(size=(len(times), *nest.coarse.shape)))
    t2m = 290 + 8 * np.cos(2 * np.pi * np.arange(len(times)) / 12)[:, None, None] + 2 * noise * (1 + height)
    rain = np.exp(0.5 * noise + 0.3 * rng.normal(size=noise.shape) + height)
    return xr.Dataset(
        {
            "t2m": (DIMS, t2m, {"units": "K"}),
            "tp24h": (DIMS, rain, {"units": "mm"}),
            "height": (DIMS[1:], 500 * height, {"units": "m"}),
        },
        {"time": times, "lat": lat, "lon": lon},
        {"title": "world"},
    )


def stored(folder: Path, data: xr.Dataset, name: str, **options: Any) -> Path:
    """Write data as NAME.nc and return a store of it."""
    data.to_netcdf(folder / f"{name}.nc")
    given = {"path": str(folder / f"{name}.nc"), "variables": ["t2m", "tp24h"], **options}
    statistics = StatisticsConfig("month", 0, "variable")
    return prepare(PrepareConfig("files", str(folder / f"{name}-store"), SPLITS, given, statistics))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("downscaling")
    stored(made, world(), "fine", coarsen=2)
    return made


@pytest.fixture(scope="module")
def config(folder: Path) -> DownscalingConfig:
    return DownscalingConfig(
        str(folder / "fine-store"), labels=str(folder / "fine.nc"), variables=["t2m", "tp24h"],
        links={"tp24h": "log1p"}, static=["height"], encoder=EncoderConfig("pico", 1, (1, 1, 1)), scratch=SHORT,
        components=[5, 10], untrained_seeds=1, random_seeds=1, fractions=[], draws=1000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def task(config: DownscalingConfig) -> Downscaling:
    return Downscaling(config, Store(config.store))


def scored(task: Downscaling, rows: list[Row], name: str) -> dict[str, np.ndarray]:
    """Return the scores of rows at one target."""
    target = next(one for one in task.targets() if one.name == name)
    ones = np.ones(len(target.units))
    return {one.name: one.statistic([row for row in rows if one.takes(row)])(ones) for one in target.metrics}


# ---- Pieces ------------------------------------------------------------------------------------------------------


def test_a_link_is_undone_and_rain_is_never_negative() -> None:
    rain = np.array([0.0, 0.1, 3.0, 140.0])
    link = Link("log1p", 4.0)
    np.testing.assert_allclose(link.back(link.of(rain)), rain)
    assert link.of(np.array([4.0]))[0] == pytest.approx(np.log(2))
    assert (link.back(np.array([-2.0, 0.0])) == 0).all()
    assert Link("identity", 1.0).back(np.array([-2.0]))[0] == -2


def test_quantile_mapping_takes_ranks_to_ranks_and_goes_on_beyond_them() -> None:
    """Forecasts 1, 2, 3 were followed by 10, 20, 40: 2.5 is 30, and 4 is one more than 40; each group by itself."""
    x, y = np.array([3.0, 1, 2, 2.5, 4, 0, 7])[:, None], np.array([20.0, 40, 10, 0, 0, 0, 5])[:, None]
    train, group = np.array([0, 1, 2, 6]), np.array([0, 0, 0, 0, 0, 0, 1])
    found = quantile_mapped(x, y, train, group, np.array([3, 4, 5]))
    np.testing.assert_allclose(found[:, 0], [30, 41, 9])
    np.testing.assert_allclose(group_means(y, train, group)[[3, 6], 0], [70 / 3, 5])


def test_the_head_of_all_places_is_least_squares_on_the_products() -> None:
    rng = np.random.default_rng(0)
    x, static = rng.normal(size=(40, 3, 2)), np.stack([np.ones((3, 4)), rng.normal(size=(3, 4))], axis=-1)
    y, weight = rng.normal(size=(40, 3, 1, 4)), rng.uniform(0.5, 1, size=(3, 4))
    train, group = np.arange(30), np.arange(40) % 2
    found = with_static(x, y, train, group, static, weight)(np.arange(40), [0.0])[0]
    centred = x - group_means(x, train, group)
    products = np.einsum("npf,pcs->npcfs", centred, static).reshape(40, 12, 4)
    root = np.sqrt(np.broadcast_to(weight, (40, 3, 4)).reshape(40, 12))
    b = np.linalg.lstsq(
        (products * root[..., None])[train].reshape(-1, 4),
        (y[:, :, 0].reshape(40, 12) * root)[train].ravel(),
        rcond=None,
    )[0]
    np.testing.assert_allclose(found[:, :, 0].reshape(40, 12), products @ b, atol=1e-6)


def test_the_head_of_all_places_says_nothing_where_every_sample_is_a_group_of_its_own() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3, 2)), rng.normal(size=(12, 3, 1, 4))
    every = np.arange(12)
    found = with_static(x, y, every, every, np.ones((3, 4, 1)), np.full((3, 4), 1 / 12))(every, [1e-7, 1.0])
    np.testing.assert_array_equal(found, np.zeros((2, *y.shape)))


def test_scores_of_known_errors() -> None:
    """Perfect; 1 K too warm everywhere; no detail at all; and the CRPS of quantiles of a normal distribution."""
    nest = nesting(*(LatLonGrid(world_grid[0], world_grid[1]) for world_grid in (
        (np.arange(12.5, -13, -5.0), np.arange(102.5, 140, 5.0)), (np.arange(10.0, -11, -10), np.arange(105.0, 140, 10))
    )), "grids")  # fmt: skip
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(5, *nest.fine.shape))
    known = np.ones(nest.fine.shape, bool)
    scorer = Scorer(truth, np.zeros_like(truth), nest, known, Link("identity", 1.0))
    perfect, warm = scorer.parts(truth, None), scorer.parts(truth + 1, None)
    smooth = scorer.parts(nest.repeated(nest.means(truth)), None)
    np.testing.assert_allclose(perfect[:, [0, 1, 2]], 0, atol=1e-12)
    np.testing.assert_allclose(perfect[:, 4], perfect[:, 6])
    np.testing.assert_allclose(warm[:, [0, 1, 2]], 1)
    np.testing.assert_allclose(warm[:, 4:], perfect[:, 4:])
    np.testing.assert_allclose(smooth[:, [4, 5]], 0, atol=1e-12)
    normal = np.quantile(rng.normal(size=200_000), QUANTILES)
    parts = scorer.parts(np.zeros_like(truth), np.broadcast_to(normal[:, None, None], (15, *nest.fine.shape)))
    exact = scoringrules.crps_normal(truth, 0.0, 1.0)
    np.testing.assert_allclose(parts[:, 1], (exact * scorer.weight).sum(axis=(1, 2)), rtol=0.03)
    inside = (truth >= normal[1]) & (truth <= normal[13])
    np.testing.assert_allclose(parts[:, 3], (inside * scorer.weight).sum(axis=(1, 2)))


# ---- The world ---------------------------------------------------------------------------------------------------


def test_fields_are_cut_into_places_and_put_together_again(task: Downscaling) -> None:
    own = task.own
    fields = np.random.default_rng(0).normal(size=(2, 3, 6, 8))
    cells = own.cells(fields)
    assert cells.shape == (2, 3, 12, 4)
    np.testing.assert_array_equal(cells[0, 0, 1], fields[0, 0, :2, 2:4].ravel())
    np.testing.assert_array_equal(own.fields(cells), fields)
    assert own.weight.sum() == pytest.approx(1)


def test_a_field_linear_in_the_coarse_one_is_told_by_place_and_by_height(task: Downscaling) -> None:
    rows = {row.name: row for row in task.baselines(1)}
    assert list(rows) == [CLIMATOLOGY, COARSE, MEAN_BIAS, MAPPING, MOS, OROGRAPHY]
    scores = scored(task, list(rows.values()), "t2m")
    skill = dict(zip(rows, scores["skill"], strict=True))
    assert skill[MEAN_BIAS] == pytest.approx(0, abs=1e-9)
    assert skill[MOS] > 0.95  # inputs are anomalies of ten Januaries, …; by month it would be all
    assert skill[OROGRAPHY] > 0.85  # the bilinear field differs within a coarse cell, whatever the height
    assert skill[MAPPING] > 0.2  # each cell has a spread of its own
    assert max(skill[COARSE], skill[CLIMATOLOGY]) < 0.1  # no bias to take off here: heights are 0 on average
    assert scores["detail_r"][-2:].min() > 0.94
    assert rows[OROGRAPHY].chosen["t2m"]["form"] == "all places, static fields"
    rain = scored(task, list(rows.values()), "tp24h")
    assert dict(zip(rows, rain["skill"], strict=True))[MOS] > 0.05  # half of it is noise of the fine cell
    assert (np.abs(rain["coverage_80"] - 0.8) < 0.1).all()
    assert COARSE not in {row.name for row in rows.values() if task.targets()[0].metrics[5].takes(row)}


def test_few_labels_read_no_other_years(task: Downscaling, config: DownscalingConfig) -> None:
    few = task.label_units()[:2]
    near = {"nine patches": task.own.near(1)}
    spoilt = Downscaling(config, task.store)
    others = spoilt.own.train[~np.isin(spoilt.own.year[spoilt.own.train], few)]
    spoilt.own.truth[others] += 50
    for name in (MOS, MEAN_BIAS, MAPPING):
        first, again = (
            one.refitted(Row(name, Role.BASELINE, {}, features=near), few) for one in (task, spoilt)
        )  # fmt: skip
        np.testing.assert_allclose(first.forecast["t2m"], again.forecast["t2m"], rtol=1e-9)
    every = task.refitted(Row(MAPPING, Role.BASELINE, {}), task.label_units())
    assert not np.array_equal(every.forecast["t2m"], first.forecast["t2m"])


def test_an_untrained_network_says_the_mean_bias(config: DownscalingConfig, task: Downscaling) -> None:
    still = Downscaling(replace(config, scratch=replace(SHORT, lr=1e-12)), task.store)
    network = next(iter(still.trained(still.encoders())))
    for name, told in task._mean_bias(None).forecast.items():
        np.testing.assert_allclose(network.forecast[name], told, rtol=1e-5, atol=1e-6)


def test_on_the_same_grid_a_bias_by_month_and_cell_is_taken_off(folder: Path, tmp_path: Path) -> None:
    """The store's fields are the labels less a bias of each month and cell: the mean bias tells all, raw misses it."""
    data = world()
    bias = np.random.default_rng(5).normal(size=(12, 6, 8))
    wrong = data.assign(t2m=data.t2m - bias[np.arange(240) % 12])
    store = stored(tmp_path, wrong, "forecast")
    config = DownscalingConfig(str(store), labels=str(folder / "fine.nc"), encoder=EncoderConfig("pico", 1, (1, 1, 1)),
                               untrained_seeds=1)  # fmt: skip
    task = Downscaling(config, Store(store))
    assert task.own.nest.factor == (1, 1)
    (target,) = task.targets()
    assert not {"detail_r", "detail_std"} & {one.name for one in target.metrics}
    scores = scored(task, list(task.baselines(1))[1:3], "t2m")
    assert scores["rmse"][0] == pytest.approx(np.sqrt((bias**2).mean()), rel=0.05)
    assert scores["rmse"][1] < 1e-4


def test_cells_that_never_have_a_value_count_nowhere(folder: Path, tmp_path: Path, config: DownscalingConfig) -> None:
    data = world()
    data["t2m"][:, 0, 0] = np.nan
    data["t2m"].to_netcdf(tmp_path / "sea.nc")
    own = replace(config, labels=str(tmp_path / "sea.nc"), variables=["t2m"], links={}, static=[])
    task = Downscaling(own, Store(config.store))
    assert task.own.weight[0, 0] == 0
    assert float(task.own.off().split()[1]) < 3  # K: a mean with 0 in the cell's place would be 21 off
    assert task.own.fine.said == ("1 of 48 cells never have a value: left out.",)
    skill = scored(task, list(task.baselines(1)), "t2m")["skill"]
    assert skill[4] > 0.95


@pytest.mark.slow
def test_the_whole_task(config: DownscalingConfig, tmp_path: Path) -> None:
    own = replace(config, out=str(tmp_path / "out"), fractions=[0.2, 1.0], label_draws=1)
    out = run_task(Downscaling(own, Store(config.store)))
    scores, curve = pd.read_csv(out / "scores.csv"), pd.read_csv(out / "label_curve.csv")
    skill = scores[(scores.metric == "skill") & (scores.target == "t2m")].groupby("row")["value"].mean()
    assert skill["untrained [ridge, beside the coarse cells]"] > 0.95
    assert {"untrained [ridge]", "random features of the raw window [ridge]", "same network from scratch",
            "PCA of the window [ridge]", "raw window [ridge]"} <= set(skill.index)  # fmt: skip
    assert {MOS, OROGRAPHY, MEAN_BIAS, MAPPING} <= set(curve["row"])
    ends = curve[(curve.asked == 1) & (curve.target == "t2m")].set_index("row")["value"]
    assert ends[MOS] == pytest.approx(skill[MOS], abs=1e-9)
    assert (out / "maps.png").is_file()


# ---- What is refused -----------------------------------------------------------------------------------------------


def _spoilt(folder: Path, path: Path, kind: str) -> None:
    data = world()
    if kind == "shifted":
        data = data.assign_coords(lat=data.lat * 1.1)
    elif kind == "part":
        data = data.isel(lon=slice(2, None))
    elif kind == "later":
        data = data.assign_coords(time=data.time + np.timedelta64(40 * 365, "D"))
    elif kind == "gaps":
        data["t2m"][5, 2, 3] = np.nan
    elif kind == "holes":
        data["height"][0, 0] = np.nan
    elif kind == "moving":
        data["height"] = data["t2m"]
    data.to_netcdf(path)


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        ("", ["--labels", ""], "downscaling.labels: expected a file with the fine fields"),
        ("", ["--labels", "absent.nc"], "downscaling.labels: .*absent.nc"),
        ("", ["--variables", "[t2m, msl]"], "expected variables of the store, t2m, tp24h, got 'msl'"),
        ("", ["--variables", "[t2m, t2m]", "--links", "{}"], "expected variables each once"),
        ("", ["--links", "{t2m: sqrt}"], "expected links out of identity, log1p"),
        ("", ["--links", "{msl: log1p}"], "expected links of t2m, tp24h"),
        ("", ["--static", "[hight]"], "expected the static field 'hight', got .*height"),
        ("moving", [], r"expected 'height' with dimensions \(lat, lon\) alone, got \(time, lat, lon\)"),
        ("holes", [], "expected 'height' in every cell with labels, got none in 1"),
        ("", ["--options", "{coarsen: 2}"], "downscaling.options: expected one of rename, .* got 'coarsen'"),
        ("", ["--labelled", "[2050, 2060]"], "dates within the training block"),
        ("", ["--encoder.patch", "[1, 2, 2]"], "that divide the store's 3 × 4 cells, got 2 × 2"),
        ("shifted", [], "the grids do not nest"),
        ("part", [], "expected labels that cover the store's cells, 100° to 140° of longitude"),
        ("later", [], "expected labels at times of the store"),
        ("gaps", [], "a value at every time, or at none, got 1 with gaps, the first at 2.5°, 117.5°"),
        ("", ["--components", "[0]"], "expected components ≥ 1"),
    ],
)
def test_bad_input_ends_in_one_line(
    config: DownscalingConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: str,
    words: list[str], said: str,
) -> None:  # fmt: skip
    labels = str(folder / "fine.nc")
    if spoil:
        labels = str(tmp_path / "spoilt.nc")
        _spoilt(folder, Path(labels), spoil)
    given = ["--labels", labels, "--variables", "[t2m, tp24h]", "--static", "[height]", "--encoder.size", "pico",
             "--out", str(tmp_path / "out")]  # fmt: skip
    status = main(["probe", "--task", "downscaling", "--store", config.store, *given, *words])
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert len(error.splitlines()) == 1
    assert re.search(said, error), error


def test_a_link_of_rain_takes_no_negative_labels(task: Downscaling) -> None:
    fine = replace(task.own.fine, values=task.own.fine.values - 400)
    with pytest.raises(EarthSSLError, match=r"links.t2m: expected labels that are never negative for log1p, got -"):
        FineSamples(task.store, fine, {"t2m": "log1p"}, None, 1, (1, 1))

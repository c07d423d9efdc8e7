"""Columns as fields: what a field holds, how sites and experiments are dealt out, and what the source refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.columns.columns import COLUMNS, dealt_otherwise, dew_point, recorded_columns
from earthssl.ssl.sources.columns.rfmip import read_columns

OPTIONS: dict[str, Any] = {"train": 6, "val": 2, "held_out": ["4xCO2"]}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns on pressure levels from 900 to 100 hPa: T = 200 K + ln p, vapour pressure 1 % of p."""
    level = np.array([900.0, 700, 500, 300, 100])
    t = np.broadcast_to(200 + np.log(100 * level)[None, :, None, None], (3, 5, 2, 2)).copy()
    q = np.full(t.shape, 0.622 * 0.01 / (1 - 0.378 * 0.01))
    t[0, :, 0, 0] = np.nan  # land
    arrays = {
        "t": (("month", "level", "lat", "lon"), t, {"units": "K"}),
        "q": (("month", "level", "lat", "lon"), 1e3 * q, {"units": "g/kg"}),
        "msl": (("month", "lat", "lon"), np.full((3, 2, 2), 1000.0), {"units": "hPa"}),
    }
    file = tmp_path_factory.mktemp("profiles") / "profiles.nc"
    xr.Dataset(arrays, {"level": level}).to_netcdf(file)
    return file


def test_a_dew_point_gives_its_vapour_pressure_back() -> None:
    """0 °C over water is 611.2 Pa; Bolton's formula at 20 °C is 23.37 hPa."""
    np.testing.assert_allclose(dew_point(np.array([611.2, 2337.0])), [273.15, 293.15], atol=0.02)


def test_a_field_is_a_column_from_the_top(columns_file: Path) -> None:
    data, known = open_source("columns", path=str(columns_file), **OPTIONS), read_columns([str(columns_file)])
    samples = recorded_columns(data.attrs)
    assert dict(data.sizes) == {"time": 6 * 3 + 2 * 3 + 6 * 4, "lat": 2, "lon": 12}
    for k in (0, 20, 47):
        own = data.isel(time=int(samples.step[k]))
        here = {"expt": int(samples.experiment[k]), "site": int(samples.site[k])}
        for row in (0, 1):
            np.testing.assert_allclose(own.t500[row], known.temp_layer[here], rtol=1e-6)
        share = known.water_vapor[here].values / (1 + known.water_vapor[here].values)
        np.testing.assert_allclose(own.d2m[0], dew_point(share * known.pres_layer[here["site"]].values), rtol=1e-6)
    days = data.time.values.astype("datetime64[D]").astype(str)
    assert np.unique(days).tolist() == ["1900-01-01", "1900-01-03", "1900-01-05"]


def test_no_site_and_no_held_out_experiment_stands_on_both_sides(columns_file: Path) -> None:
    for seed in (0, 1):
        data = open_source("columns", path=str(columns_file), seed=seed, **OPTIONS)
        samples = recorded_columns(data.attrs)
        sites = {block: set(samples.site[samples.block == block]) for block in ("train", "val", "test")}
        assert [len(own) for own in sites.values()] == [6, 2, 6]
        assert len(set.union(*sites.values())) == 14
        late = samples.experiment == 1
        assert (samples.held_out == late).all()
        assert set(samples.block[late]) == {"test"}
        pairs = list(zip(samples.site, samples.experiment, strict=True))
        assert len(set(pairs)) == len(pairs)


def test_unlabelled_columns_join_the_training_block_alone(columns_file: Path, profiles: Path) -> None:
    """T is linear in ln p, so what is interpolated is exact; above the top it is missing, below the lowest it stays."""
    options = {**OPTIONS, "path": str(columns_file), "unlabelled": str(profiles)}
    data, without = open_source("columns", **options), open_source("columns", path=str(columns_file), **OPTIONS)
    samples = recorded_columns(data.attrs)
    assert samples.steps == data.sizes["time"] == without.sizes["time"] + 11
    assert samples.times("train") == (np.datetime64("1900-01-01"), 18 + 11)
    labelled = data.isel(time=samples.step)
    np.testing.assert_array_equal(labelled.t500.values, without.t500.values)
    more = data.isel(time=slice(18, 29))
    assert set(more.time.values.astype("datetime64[D]").astype(str)) == {"1900-01-01"}
    sigma = np.linspace(0, 1, 13) ** 1.5
    pressure = 1 + (1e5 - 1) * (sigma[1:] + sigma[:-1]) / 2
    expected = np.where(pressure < 1e4, np.nan, 200 + np.log(np.minimum(pressure, 9e4)))
    np.testing.assert_allclose(more.t500[0, 0], expected, rtol=1e-6)
    inside = (pressure > 1e4) & (pressure < 9e4)
    np.testing.assert_allclose(more.d2m[0, 0][inside], dew_point(0.01 * pressure[inside]), rtol=1e-5)
    few = open_source("columns", **options, unlabelled_columns=3)
    assert json.loads(few.attrs[COLUMNS])["unlabelled"] == 3


def test_what_a_store_says_of_its_source_tells_deals_apart(columns_file: Path, profiles: Path, tmp_path: Path) -> None:
    """The same sites and experiments in the same blocks fit, whatever else; another deal, or one unknown, does not."""

    def source(**options: Any) -> str:
        return str(open_source("columns", **{"path": str(columns_file), **OPTIONS, **options}).attrs["source"])

    home = source()
    with xr.open_dataset(columns_file) as data:
        data.load().drop_vars("rsd").to_netcdf(tmp_path / "no_fluxes.nc")
        data.assign(temp_layer=data.temp_layer + 1).to_netcdf(tmp_path / "warmer.nc")
    for other in (home, source(unlabelled=str(profiles)), source(path=str(tmp_path / "no_fluxes.nc"))):
        assert dealt_otherwise(other, home) == dealt_otherwise(home, other) == ""
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"held_out": []}, {"held_out": ["4xCO2", "PI"]}, {"val": 3}, {"path": str(tmp_path / "warmer.nc")},
    ]  # fmt: skip
    for own in changes:
        assert "dealt out otherwise" in dealt_otherwise(source(**own), home)
    assert "deal unknown" in dealt_otherwise("RFMIP-IRF columns", home)
    assert dealt_otherwise("RFMIP-IRF columns", "RFMIP-IRF columns")
    assert dealt_otherwise("files: ERA5", home) == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pth": "x"}, "every option to be one of path, .*Did you mean 'path'"),
        ({"path": ""}, "path to be a file, or a list of files"),
        ({"path": []}, "path to be a file, or a list of files"),
        ({"path": "nowhere.nc"}, "a NetCDF file of columns, got 'nowhere.nc'. It cannot be read"),
        ({"train": 0}, "train to be a whole number within 1"),
        ({"val": 1.5}, "val to be a whole number"),
        ({"train": 12}, r"train \+ val to be at most 10 of the 14 sites, got 14"),
        ({"seed": -1}, "seed to be a whole number"),
        ({"unlabelled_columns": 0}, "unlabelled_columns to be a whole number"),
        ({"held_out": ["4xCO"]}, "held_out to be out of Present day .*Did you mean '4xCO2'"),
        ({"held_out": ["+4K", "+4K"]}, "held_out to be labels, each once"),
        ({"held_out": ["Present day (PD)", "4xCO2", "+4K", "PI"]}, "fewer than the 4 experiments"),
        ({"unlabelled": "nowhere.nc"}, "unlabelled to be a NetCDF file of t, q"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(
    columns_file: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(EarthSSLError, match=said) as caught:
        open_source("columns", **{"path": str(columns_file), **OPTIONS, **options})
    assert "\n" not in str(caught.value)


def _hole(data: xr.Dataset) -> xr.Dataset:
    data["temp_layer"][0, 0, 0] = np.nan
    return data


def _in_hectopascals(data: xr.Dataset) -> xr.Dataset:
    return data.assign({name: data[name] / 100 for name in ("pres_layer", "pres_level")})


def _named_twice(data: xr.Dataset) -> xr.Dataset:
    return data.assign(expt_label=("expt", ["Present day (PD)", "4xCO2", "4xCO2", "PI"]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.drop_vars("ozone"), "expected 'ozone' .* got no such variable"),
        (lambda data: data.rename(water_vapor="water_vapour"), "'water_vapor'.*Did you mean 'water_vapour'"),
        (lambda data: data.rename(layer="lev"), "expected 'pres_layer' .* got dims"),
        (_hole, "a value in every 'temp_layer'"),
        (lambda data: data.isel(layer=slice(None, None, -1), level=slice(None, None, -1)), "from the top down"),
        (lambda data: data.isel(level=slice(0, 12)), "12 layers and 12 levels"),
        (lambda data: data.assign(temp_layer=data.temp_layer - 273.15), "'temp_layer' within 120…350, .* in K"),
        (lambda data: data.assign(water_vapor=0 * data.water_vapor), "'water_vapor' .* as a mole fraction above 0"),
        (lambda data: data.assign(ozone=1e6 * data.ozone), "'ozone' .* as a mole fraction"),
        (_in_hectopascals, r"'pres_level' within 40000…110000 Pa, got 9\d\d.*…1\d\d\d.*; give pressures in Pa"),
        (lambda data: data.assign(surface_albedo=100 * data.surface_albedo), "'surface_albedo' .* as a share of 1"),
        (
            lambda data: data.assign(surface_albedo=0 * data.surface_albedo + 1),
            "'surface_albedo' within 0…0.99, got 1",
        ),
        (lambda data: data.assign(surface_emissivity=98 + 0 * data.surface_emissivity), "'surface_emissivity' within"),
        (lambda data: data.assign(solar_zenith_angle=np.deg2rad(data.solar_zenith_angle)), "radians; give it in deg"),
        (lambda data: data.assign(solar_zenith_angle=data.solar_zenith_angle.assign_attrs(units="radian")), "radians"),
        (lambda data: data.assign(solar_zenith_angle=3 * data.solar_zenith_angle), "'solar_zenith_angle' within 0…180"),
        (lambda data: data.assign(total_solar_irradiance=0 * data.total_solar_irradiance), "irradiance' .* in W m-2"),
        (lambda data: data.assign(carbon_dioxide_GM=0 * data.carbon_dioxide_GM), "'carbon_dioxide_GM' .* above 0"),
        (lambda data: data.assign(carbon_dioxide_GM=1e-6 * data.carbon_dioxide_GM), "'carbon_dioxide_GM' .* in ppm"),
        (lambda data: data.assign(methane_GM=-data.methane_GM), "'methane_GM' within 0"),
        (_named_twice, "every 'expt_label' once, got 4xCO2 twice"),
        (lambda data: data.drop_vars("expt_label"), "the names of the experiments"),
    ],
)
def test_a_file_that_does_not_hold_columns_is_refused_in_one_line(
    columns_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[xr.Dataset], xr.Dataset], said: str,
) -> None:  # fmt: skip
    with xr.open_dataset(columns_file) as data:
        spoil(data.load()).to_netcdf(tmp_path / "bad.nc")
    with pytest.raises(EarthSSLError, match=said):
        open_source("columns", path=str(tmp_path / "bad.nc"), **OPTIONS)
    blocks = [word for block, day in (("train", 1), ("val", 3), ("test", 5))
              for word in (f"--splits.{block}", f"[1900-01-0{day}, 1900-01-0{day}]")]  # fmt: skip
    words = ["prepare", "--source", "columns", "--options.path", str(tmp_path / "bad.nc"), *blocks,
             "--splits.embargo_days", "1", "--out", str(tmp_path / "x")]  # fmt: skip
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.drop_vars("msl"), "t, q .* and msl"),
        (lambda data: data.assign(q=data.q.assign_attrs(units="%")), "'q' in g/kg or"),
        (lambda data: data.assign(t=np.nan * data.t.assign_attrs(units="K")), "a column without gaps"),
    ],
)
def test_unlabelled_columns_that_do_not_fit_are_refused(
    columns_file: Path, profiles: Path, tmp_path: Path, spoil: Callable[[xr.Dataset], xr.Dataset], said: str
) -> None:
    with xr.open_dataset(profiles) as data, xr.set_options(keep_attrs=True):
        spoil(data.load()).to_netcdf(tmp_path / "bad.nc")
    with pytest.raises(EarthSSLError, match=said) as caught:
        open_source("columns", path=str(columns_file), unlabelled=str(tmp_path / "bad.nc"), **OPTIONS)
    assert "\n" not in str(caught.value)


def test_a_store_of_other_data_is_no_store_of_columns() -> None:
    with pytest.raises(EarthSSLError, match="expected a store of the source columns, got elsewhere"):
        recorded_columns({"source": "elsewhere"})

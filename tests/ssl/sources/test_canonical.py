"""Canonical form: whatever way round the file is, the same dataset comes out, or a line that says why not."""

from __future__ import annotations

from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.canonical import canonicalise
from earthssl.ssl.sources.metadata.calendars import gregorian
from earthssl.ssl.sources.regrid import coarsened

LAT = np.arange(80.0, -81, -20)
LON = np.arange(0.0, 360, 30)
TIME = np.arange("2000-01", "2001-01", dtype="datetime64[M]").astype("datetime64[ns]")


def planet(**attrs: str) -> xr.Dataset:
    """Return one year of SST in °C, distinct in every cell, land NaN."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 30, (len(TIME), len(LAT), len(LON))).astype(np.float32)
    values[:, 2, 3] = np.nan
    ds = xr.Dataset({"sst": (("time", "lat", "lon"), values, {"units": "degC"} | attrs)})
    return ds.assign_coords(time=TIME, lat=LAT, lon=LON)


def levels() -> xr.Dataset:
    """Return ERA5-like winds and geopotential on three levels, in the dimension order of WeatherBench 2."""
    rng = np.random.default_rng(1)
    hpa, heights = np.array([500, 850, 1000]), np.array([55e3, 14e3, 1e3])
    shape = (len(TIME), len(hpa), len(LON), len(LAT))
    dims = ("time", "level", "longitude", "latitude")
    ds = xr.Dataset(
        {
            "u_component_of_wind": (dims, rng.normal(size=shape), {"units": "m s**-1"}),
            "geopotential": (dims, heights[:, None, None] + rng.uniform(-1e3, 1e3, shape), {"units": "m**2 s**-2"}),
            "2m_temperature": (("time", "longitude", "latitude"), rng.uniform(270, 280, (12, 12, 9)), {"units": "K"}),
        },
        {"time": TIME, "level": hpa, "longitude": LON, "latitude": LAT},
    )
    return ds.isel(latitude=slice(None, None, -1))


def saved(ds: xr.Dataset, path: Path, **kwargs) -> Path:
    ds.to_netcdf(path, **kwargs)
    return path


def test_canonical_form(tmp_path):
    ds = open_source("files", path=str(saved(planet(), tmp_path / "a.nc")))
    assert ds.sst.dims == ("time", "lat", "lon")
    assert ds.sst.dtype == np.float32
    assert ds.sst.attrs == {
        "units": "K", "long_name": "sea surface temperature", "standard_name": "sea_surface_temperature"
    }  # fmt: skip
    assert ds.time.dtype == "datetime64[ns]"
    assert ds.lat.dtype == ds.lon.dtype == np.float64
    assert {"source", "licence", "citation", "files"} <= set(ds.attrs)
    np.testing.assert_allclose(ds.sst.values, planet().sst.values + 273.15, rtol=1e-6)
    assert np.isnan(ds.sst.values[:, 2, 3]).all()


def _turned(ds: xr.Dataset, how: str) -> xr.Dataset:
    if how == "latitude ascending":
        return ds.isel(lat=slice(None, None, -1))
    if how == "longitude -180…180":
        return ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon")
    if how == "unsorted times":
        return ds.isel(time=np.random.default_rng(3).permutation(len(TIME)))
    if how == "other names and order":
        return ds.rename(lat="latitude", lon="longitude", time="valid_time", sst="sea_surface_temperature").transpose(
            "longitude", "latitude", "valid_time"
        )
    if how == "cyclic column":
        return xr.concat([ds, ds.isel(lon=[0]).assign_coords(lon=[360.0])], "lon")
    if how == "kelvin":
        return ds.assign(sst=(ds.sst.astype(np.float64) + 273.15).assign_attrs(units="K"))
    if how == "float32 axes with noise":
        lon = ds.lon.values.astype(np.float32)
        lon[0] = -1e-6
        return ds.assign_coords(lat=ds.lat.astype(np.float32), lon=lon)
    if how == "no-leap calendar":
        times = [cftime.DatetimeNoLeap(2000, month, 1) for month in range(1, 13)]
        return ds.assign_coords(time=times)
    if how == "a pressure level of no meaning":
        return ds.expand_dims(level=[1000])
    if how == "a level and an expver of length one":
        return ds.expand_dims(depth=[0.0], expver=[1])
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how",
    [
        "latitude ascending",
        "longitude -180…180",
        "unsorted times",
        "other names and order",
        "cyclic column",
        "kelvin",
        "float32 axes with noise",
        "no-leap calendar",
        "a level and an expver of length one",
        "a pressure level of no meaning",
    ],
)
def test_however_it_is_turned_the_same_comes_out(tmp_path, how):
    expected = canonicalise(planet())
    got = open_source("files", path=str(saved(_turned(planet(), how), tmp_path / "turned.nc")))
    xr.testing.assert_allclose(got, expected, rtol=1e-6)
    for axis in ("time", "lat", "lon"):
        np.testing.assert_array_equal(got[axis].values, expected[axis].values)
    assert LatLonGrid(got.lat.values, got.lon.values).periodic


@pytest.mark.parametrize("how", ["latitude ascending", "longitude -180…180", "unsorted times"])
def test_lazy_equals_eager(tmp_path, how):
    path = str(saved(_turned(planet(), how), tmp_path / "turned.nc"))
    lazy = open_source("files", path=path, eager_bytes=0)
    assert lazy.sst.chunks is not None
    xr.testing.assert_equal(lazy.compute(), open_source("files", path=path))


def test_duplicate_times_are_refused():
    ds = xr.concat([planet(), planet().isel(time=[4])], "time")
    with pytest.raises(EarthSSLError, match=r"every time once, got 2000-05-01 00:00:00 2 times"):
        canonicalise(ds)


def test_calendars(tmp_path):
    times = [cftime.Datetime360Day(2000, 2, day) for day in range(19, 31)]
    path = saved(planet().assign_coords(time=times), tmp_path / "a.nc")
    with pytest.raises(EarthSSLError, match=r"calendar.*got '360_day'.*convert_calendar"):
        open_source("files", path=str(path))
    with pytest.raises(EarthSSLError, match=r"times of 1678…2261"):
        gregorian(np.array([cftime.DatetimeGregorian(1500, 1, 1)]), "x")


def test_times_with_a_zone_become_utc():
    import pandas as pd

    noon = pd.Timestamp("2000-01-01T12:00", tz="America/New_York").to_pydatetime()
    assert gregorian(np.array([noon], object), "x")[0] == np.datetime64("2000-01-01T17:00")


def test_time_selection():
    def times(**options):
        return canonicalise(planet(), **options).time.values.astype("datetime64[M]").astype(str).tolist()

    assert times(time=("2000-03", "2000-05")) == ["2000-03", "2000-04", "2000-05"]
    assert len(times(time=(2000, None))) == 12
    assert times(time=(None, "2000-02-01T02:00+02:00")) == ["2000-01", "2000-02"]
    with pytest.raises(EarthSSLError, match=r"no step is left.*holds 2000-01-01"):
        times(time=("2010", "2011"))
    with pytest.raises(EarthSSLError, match=r"first time before the last"):
        times(time=("2011", "2010"))
    with pytest.raises(EarthSSLError, match="got an axis of time without any"):
        canonicalise(planet().isel(time=slice(0, 0)))


def test_every_does_not_depend_on_where_the_data_start():
    hours = np.arange("2000-01-01T01", "2000-01-01T13", dtype="datetime64[h]").astype("datetime64[ns]")
    ds = canonicalise(planet().assign_coords(time=hours), every="6h")
    assert ds.time.values.astype("datetime64[h]").astype(str).tolist() == ["2000-01-01T06", "2000-01-01T12"]
    with pytest.raises(EarthSSLError, match=r"option every"):
        canonicalise(planet(), every="often")


def test_levels_become_fields():
    raw = levels()
    ds = canonicalise(raw, variables=["z500", "u", "t2m"], levels=None)
    assert list(ds.data_vars) == ["z500", "u500", "u850", "u1000", "t2m"]
    expected = raw.geopotential.sel(level=500).transpose("time", "latitude", "longitude").values[:, ::-1]
    np.testing.assert_allclose(ds.z500.values, expected, rtol=1e-6)
    assert ds.u850.attrs["long_name"] == "eastward wind at 850 hPa"
    assert list(canonicalise(raw, variables=["geopotential"], levels=[850, 500]).data_vars) == ["z850", "z500"]
    in_pascal = raw.assign_coords(level=("level", [50000.0, 85000.0, 100000.0], {"units": "Pa"})).rename(level="plev")
    xr.testing.assert_equal(canonicalise(in_pascal, variables=["z500"]), ds[["z500"]])


def test_a_single_level_as_a_label():
    raw = levels().sel(level=850)
    assert list(canonicalise(raw).data_vars) == ["u850", "z850", "t2m"]
    with pytest.raises(EarthSSLError, match=r"expected a pressure level for 'u_component_of_wind'"):
        canonicalise(raw.drop_vars("level"))


def test_absent_levels():
    with pytest.raises(EarthSSLError, match=r"no level 300 hPa; there are 500, 850, 1000"):
        canonicalise(levels(), variables=["z300"])
    with pytest.raises(EarthSSLError, match=r"no variable taken is on levels"):
        canonicalise(planet(), levels=[500])


def test_ensembles_need_a_member():
    ds = xr.concat([planet(), planet() + 1], xr.IndexVariable("number", [0, 7]), combine_attrs="override")
    ds.sst.attrs["units"] = "degC"
    with pytest.raises(EarthSSLError, match=r"ensemble of 2 members.*option member, as in member: 0; there are 0, 7"):
        canonicalise(ds)
    with pytest.raises(EarthSSLError, match=r"no ensemble member '3'"):
        canonicalise(ds, member=3)
    np.testing.assert_allclose(canonicalise(ds, member=7).sst, canonicalise(planet()).sst + 1, rtol=1e-6)
    with pytest.raises(EarthSSLError, match=r"no ensemble dimension"):
        canonicalise(planet(), member=0)


def test_an_unknown_dimension_is_named():
    with pytest.raises(EarthSSLError, match=r"got also 'step' of length 2"):
        canonicalise(xr.concat([planet(), planet()], xr.IndexVariable("step", [0, 6])))


def test_units_missing_and_mended():
    ds = planet()
    del ds.sst.attrs["units"]
    with pytest.raises(EarthSSLError, match=r"here.nc: units of 'sst'.*found none"):
        canonicalise(ds, where="here.nc")
    xr.testing.assert_equal(canonicalise(ds, units={"sst": "degC"}).sst, canonicalise(planet()).sst)
    with pytest.raises(EarthSSLError, match=r"names 'ssst', which is not taken. Did you mean 'sst'"):
        canonicalise(ds, units={"ssst": "degC"})
    with pytest.raises(EarthSSLError, match=r"got 'parsec'"):
        canonicalise(planet(units="parsec"))


def test_units_that_lie_are_noticed():
    with pytest.raises(EarthSSLError, match=r"expected 'sst' within 250…330 K, got .*ssta"):
        canonicalise(planet(units="K"))


def test_absent_and_unknown_variables():
    with pytest.raises(EarthSSLError, match=r"'ssta' is not there. Did you mean 'sst'\? There are: sst"):
        canonicalise(planet(), variables=["ssta"])
    with pytest.raises(EarthSSLError, match=r"names 'sea_temp'.*There are: sst"):
        canonicalise(planet(), variables=["sea_temp"])
    with pytest.raises(EarthSSLError, match=r"none of its gridded variables is known"):
        canonicalise(planet().rename(sst="chlorophyll"))
    with pytest.raises(EarthSSLError, match=r"option rename names 'sss'"):
        canonicalise(planet(), rename={"sss": "sst"})


def test_rename_and_what_is_left_out():
    ds = planet().assign(chlorophyll=planet().sst).rename(sst="field")
    got = canonicalise(ds, rename={"field": "sst"})
    xr.testing.assert_equal(got.sst, canonicalise(planet()).sst)
    assert got.attrs["left_out"] == "chlorophyll"


def test_a_variable_without_values_is_refused():
    ds = planet().assign(tos=planet().sst * np.nan)
    ds = ds.rename(sst="t2m", tos="sst")
    ds.sst.attrs["units"] = ds.t2m.attrs["units"] = "degC"
    with pytest.raises(EarthSSLError, match=r"'sst' holds no value at all"):
        canonicalise(ds)
    assert list(canonicalise(ds, variables=["t2m"]).data_vars) == ["t2m"]
    ds.sst[3, 4, 5] = 20.0  # not among the steps that are looked at first
    assert float(canonicalise(ds).sst.sum()) == pytest.approx(293.15)


def test_undeclared_fill_values_and_infinities_are_missing():
    ds = planet()
    ds.sst[0, 0, 0], ds.sst[0, 0, 1], ds.sst[0, 0, 2] = 1e20, np.inf, -9.96921e36
    assert np.isnan(canonicalise(ds).sst.values[0, 0, :3]).all()


def test_not_gridded():
    with pytest.raises(EarthSSLError, match=r"not gridded data.*got \(time\)"):
        canonicalise(planet().isel(lat=0, lon=0))
    ds = planet().rename(lat="y", lon="x").drop_vars(["x", "y"])
    curvilinear = ds.assign_coords(lat=(("y", "x"), np.zeros((9, 12))), lon=(("y", "x"), np.zeros((9, 12))))
    with pytest.raises(EarthSSLError, match=r"vary along both axes"):
        canonicalise(curvilinear)
    with pytest.raises(EarthSSLError, match=r"expected a time axis"):
        canonicalise(planet().isel(time=0, drop=True))
    with pytest.raises(EarthSSLError, match=r"within ±90°"):
        canonicalise(planet().assign_coords(lat=LAT * 2))


def test_region():
    ds = canonicalise(planet(), region=(-40, 40, -150, -60))
    assert ds.lat.values.tolist() == [40, 20, 0, -20, -40]
    assert ds.lon.values.tolist() == [210, 240, 270, 300]
    with pytest.raises(EarthSSLError, match=r"does not cross 0°E"):
        canonicalise(planet(), region=(-40, 40, -60, 60))
    with pytest.raises(EarthSSLError, match=r"at least 2×2 cells"):
        canonicalise(planet(), region=(1, 5, 0, 360))
    atlantic = planet().assign_coords(lon=(planet().lon + 180) % 360 - 180).sortby("lon").sel(lon=slice(-60, 60))
    with pytest.raises(EarthSSLError, match=r"without a gap"):
        canonicalise(atlantic)


def test_coarsen_keeps_the_area_mean():
    ds = canonicalise(planet()).fillna(280.0)
    coarse = coarsened(ds.isel(lat=slice(0, 8)), 2, "x")
    assert coarse.sst.shape == (12, 4, 6)
    fine_area = LatLonGrid(ds.lat.values[:8], ds.lon.values).area
    weights = fine_area.reshape(4, 2, 6, 2)
    brute = (ds.sst.values[:, :8].reshape(12, 4, 2, 6, 2) * weights).sum((2, 4)) / weights.sum((1, 3))
    np.testing.assert_allclose(coarse.sst.values, brute, rtol=1e-6)
    assert coarse.lon.values.tolist() == [15, 75, 135, 195, 255, 315]


def test_coarsen_and_missing_cells():
    ds = canonicalise(planet())
    ds.sst[:, 0:2, 0:1] = np.nan  # half of the first block, and then more than half
    half = coarsened(ds.isel(lat=slice(0, 8)), 2, "x").sst.values
    assert np.isfinite(half[:, 0, 0]).all()
    ds.sst[:, 1, 1] = np.nan
    assert np.isnan(coarsened(ds.isel(lat=slice(0, 8)), 2, "x").sst.values[:, 0, 0]).all()
    assert canonicalise(planet(), coarsen=2).sst.shape == (12, 4, 6)  # the ninth row is left over
    with pytest.raises(EarthSSLError, match=r"must divide the 12 columns"):
        canonicalise(planet(), coarsen=5)


def test_unknown_sources_and_options():
    with pytest.raises(EarthSSLError, match="write --source=NAME, with ="):
        open_source(True)  # type: ignore[arg-type]  # what a command line makes of `--source` before another word
    with pytest.raises(EarthSSLError, match=r"unknown source 'erst'. Did you mean 'ersst'"):
        open_source("erst")
    with pytest.raises(EarthSSLError, match=r"no option 'variable'. Did you mean 'variables'"):
        open_source("files", path="x", variable="sst")
    with pytest.raises(EarthSSLError, match=r"needs the option 'path'"):
        open_source("files")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"region": [1, 2]}, "option region"),
        ({"region": [10, -10, 0, 90]}, "south < north"),
        ({"coarsen": 0}, "option coarsen"),
        ({"levels": [500.5]}, "option levels"),
        ({"variables": []}, "option variables"),
        ({"variables": ["sst", "sst"]}, "each once"),
        ({"time": "2000"}, "option time"),
        ({"time": ["soon", None]}, "option time"),
        ({"units": "K"}, "option units"),
    ],
)
def test_options_are_checked(options, match):
    with pytest.raises(EarthSSLError, match=match):
        canonicalise(planet(), **options)


def test_planet_is_a_source():
    ds = open_source("planet", years=1)
    assert ds.sst.dims == ("time", "lat", "lon")
    LatLonGrid(ds.lat.values, ds.lon.values)


def one(name: str, units: str, middle: float, **attrs: str) -> xr.Dataset:
    """Return a year of one field of a name and attributes; on 500 hPa where the name is one of fields on levels."""
    values = middle * (1 + 0.01 * np.random.default_rng(2).uniform(-1, 1, (len(TIME), len(LAT), len(LON))))
    ds = xr.Dataset({name: (("time", "lat", "lon"), values.astype(np.float32), {"units": units} | attrs)})
    ds = ds.assign_coords(time=TIME, lat=LAT, lon=LON)
    if len(name) > 1:
        return ds
    return ds.expand_dims(level=[500]).assign_coords(level=("level", [500], {"units": "hPa"}))


WIND, KELVIN = ("m s-1", 5.0), ("K", 280.0)


@pytest.mark.parametrize(
    ("ds", "said"),
    [
        (one("U10", *WIND, long_name="10m wind speed"), "long_name"),
        (one("u", *WIND, long_name="wind speed"), "long_name"),
        (one("v10", *WIND, long_name="10 metre wind gust"), "long_name"),
        (one("t2m", *KELVIN, cell_methods="time: mean realization: standard_deviation"), "cell_methods"),
        (one("t", "K", 250.0, cell_methods="time: mean ensemble: variance"), "cell_methods"),
        (one("t2m", *KELVIN, cell_methods="lat: lon: range"), "cell_methods"),
        (one("tp", "m", 0.004, cell_methods="time: mean"), "cell_methods are 'time: mean', a mean .*tp24h"),
        (one("tp", "m", 0.004, cell_methods="time: sum within days time: mean over days"), "cell_methods"),
        (one("ttr", "J m-2", -2e7, cell_methods="time: mean"), "cell_methods are 'time: mean', .* another period;"),
        (one("t2m", *KELVIN, cell_methods="time: minimum (interval: 1 hour)"), "cell_methods"),
        (one("vo", "s-1", 1e-5, standard_name="atmosphere_absolute_vorticity"), "standard_name"),
        (one("vo", "s-1", 1e-5, long_name="Absolute vorticity"), "long_name"),
        (one("T", "K", 300.0, long_name="Potential temperature"), "long_name"),
        (one("t2m", *KELVIN, long_name="Wet-bulb temperature"), "long_name"),
        (one("tp", "m", 0.01, long_name="Convective precipitation"), "long_name"),
        (one("w", "Pa s-1", 0.1, long_name="omega increment"), "long_name"),
        (one("tas", *KELVIN, long_name="Bias of near-surface air temperature"), "long_name"),
        (one("t2m", *KELVIN, standard_name="sea_water_potential_temperature"), "standard_name"),
    ],
)
def test_what_contradicts_a_name_is_refused(ds, said):
    with pytest.raises(EarthSSLError, match=f"by its name, but its {said}"):
        canonicalise(ds)


@pytest.mark.parametrize(
    ("ds", "name"),
    [
        (one("U10", *WIND, long_name="eastward wind speed at 10 m"), "u10"),
        (one("u", *WIND, long_name="wind speed, u-component"), "u500"),
        (one("t2m", *KELVIN, cell_methods="area: mean time: mean (comment: not the realization: variance)"), "t2m"),
        (one("t2m", *KELVIN, cell_methods="realization: maximum"), "t2m"),
        (one("tp", "m", 0.004, cell_methods="time: mean within hours time: sum over days"), "tp"),
        (one("tp", "m", 0.004, cell_methods="time: sum lat: lon: mean"), "tp"),
        (one("w", "Pa s-1", 0.1, long_name="Pressure tendency (omega)"), "w500"),
        (one("w", "Pa s-1", 0.1, standard_name="lagrangian_tendency_of_air_pressure",
             long_name="Lagrangian tendency of air pressure"), "w500"),
        (one("tas", *KELVIN, long_name="Bias-corrected near-surface air temperature"), "t2m"),
        (one("tp", "m", 0.01, long_name="Total (convective and large-scale) precipitation"), "tp"),
        (one("thetao_surface", *KELVIN, standard_name="sea_water_potential_temperature",
             long_name="Sea Water Potential Temperature"), "sst"),
    ],
)  # fmt: skip
def test_what_does_not_contradict_a_name_is_taken(ds, name):
    assert list(canonicalise(ds)) == [name]


def test_a_level_that_merging_hung_on_all_fields_is_of_none():
    ds = xr.merge([one("z500", "m2 s-2", 55e3), one("t850", "K", 280.0)]).assign_coords(
        level=((), 500, {"units": "hPa"})
    )
    assert list(canonicalise(ds)) == ["z500", "t850"]
    with pytest.raises(EarthSSLError, match="its level is 500 hPa"):
        canonicalise(ds[["t850"]])

"""Files that people really have: the field comes back as it was meant, or one line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source

LAT, LON = np.arange(60.0, -61, -20), np.arange(0.0, 360, 30)


def field(value: float = 280.0, n: int = 24, name: str = "t2m", units: Any = "K", freq: str = "MS",
          start: str = "1980-01-01") -> xr.Dataset:  # fmt: skip
    """Return a field that differs in every cell and step, around a value."""
    rng = np.random.default_rng(len(name) + n)
    spread = 1.0 if value > 100 else 0.01 * value
    values = (value + spread * rng.uniform(-1, 1, (n, len(LAT), len(LON)))).astype(np.float32)
    time = pd.date_range(start, periods=n, freq=freq)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values, {"units": units})}, {"time": time, "lat": LAT, "lon": LON}
    )


def opened(*parts: xr.Dataset, folder: Path, encoding: dict[str, Any] | None = None, **options: Any) -> xr.Dataset:
    paths = []
    for k, part in enumerate(parts):
        paths.append(str(folder / f"part{k}.nc"))
        part.to_netcdf(paths[-1], encoding=encoding)
    return open_source("files", path=paths if len(paths) > 1 else paths[0], **options).load()


def refused(words: str, *parts: xr.Dataset, folder: Path, **options: Any) -> None:
    with pytest.raises(EarthSSLError, match=words):
        opened(*parts, folder=folder, **options)


# metadata are those of each file

UNITS = [
    ("tp", 0.004, "m", "mm", 1000.0, 0.0),
    ("t2m", 280.0, "K", "degC", 1.0, -273.15),
    ("msl", 101325.0, "Pa", "hPa", 0.01, 0.0),
    ("u10", 5.0, "m s-1", "knots", 3600 / 1852, 0.0),
    ("z500", 55000.0, "m2 s-2", "gpm", 1 / 9.80665, 0.0),
    ("siconc", 0.5, "1", "%", 100.0, 0.0),
    ("q850", 0.005, "kg kg-1", "g kg-1", 1000.0, 0.0),
    ("tcwv", 20.0, "kg m-2", "mm", 1.0, 0.0),
]


@pytest.mark.parametrize(("name", "value", "units", "other", "scale", "offset"), UNITS)
@pytest.mark.parametrize("first", [True, False])
def test_each_file_has_its_own_units(name, value, units, other, scale, offset, first, tmp_path):
    a, b = field(value, name=name, units=units), field(value, name=name, units=units, start="1982-01-01")
    turned = b if first else a
    turned[name].values[:] = turned[name].values * scale + offset
    turned[name].attrs["units"] = other
    got = opened(a, b, folder=tmp_path)[name].values
    expected = field(value, name=name)[name].values
    np.testing.assert_allclose(got, np.concatenate([expected, expected]), rtol=2e-6)


def test_a_file_without_units_among_others_is_refused(tmp_path):
    bare = field(start="1982-01-01")
    del bare.t2m.attrs["units"]
    refused(r"part1.nc.*units of 't2m'", field(), bare, folder=tmp_path)
    assert opened(field(), bare, folder=tmp_path, units={"t2m": "K"}).sizes["time"] == 48


def test_an_anomaly_does_not_follow_a_state(tmp_path):
    anomaly = field(0.5, start="1982-01-01")
    anomaly.t2m.attrs["long_name"] = "2 m temperature anomaly"
    refused("t2ma", field(), anomaly, folder=tmp_path)


def test_units_option_holds_for_all_files(tmp_path):
    a, b = field(6.85, units="?"), field(6.85, units="C", start="1982-01-01")
    np.testing.assert_allclose(opened(a, b, folder=tmp_path, units={"t2m": "degC"}).t2m.mean(), 280.0, atol=0.1)


@pytest.mark.parametrize("units", [np.int32(1), np.float64(1.0), b"1", np.array([1], "i4"), "1", "0-1"])
def test_units_that_are_no_text(units, tmp_path):
    ds = field(0.5, name="siconc")
    ds.siconc.attrs["units"] = units
    np.testing.assert_allclose(open_in_memory(ds).siconc, field(0.5, name="siconc").siconc, rtol=1e-6)


@pytest.mark.parametrize("units", [np.array([1.0, 2.0]), np.array([]), 3.5])
def test_units_of_no_meaning_are_refused(units):
    with pytest.raises(EarthSSLError, match="units of 'siconc'"):
        open_in_memory(field(0.5, name="siconc", units=units))


def open_in_memory(ds: xr.Dataset, **options: Any) -> xr.Dataset:
    from earthssl.ssl.sources.canonical import canonicalise

    return canonicalise(ds, **options)


def test_units_option_takes_the_number_one(tmp_path):
    ds = field(0.5, name="siconc")
    del ds.siconc.attrs["units"]
    assert opened(ds, folder=tmp_path, units={"siconc": 1}).siconc.attrs["units"] == "1"


# levels are what they say


def levelled(values: list[float], name: str = "level", **attrs: Any) -> xr.Dataset:
    ds = field(250.0, name="t").expand_dims({name: len(values)}).assign_coords({name: (name, values, attrs)})
    return ds.transpose("time", name, "lat", "lon")


@pytest.mark.parametrize(
    ("values", "attrs"),
    [
        ([300, 315, 330], {"units": "K"}),
        ([300, 500, 1000], {"units": "m"}),
        ([2, 3, 4], {"units": "PVU"}),
        ([0.3, 0.5, 0.85], {"units": "1"}),
        ([10, 20, 137], {"units": "level"}),
        ([1, 2, 3, 4, 5], {}),
        ([300, 500, 850], {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate"}),
        ([300, 500, 850], {"long_name": "model level number"}),
        ([5, 15, 25], {"standard_name": "depth", "units": "m"}),
        ([100, 500, 850], {"units": "dbar", "standard_name": "sea_water_pressure"}),
        ([300, 350, 400], {"standard_name": "air_potential_temperature"}),
    ],
)
@pytest.mark.parametrize("name", ["level", "lev", "plev"])
def test_levels_that_are_no_pressure_are_refused(values, attrs, name, tmp_path):
    refused("level|lev", levelled(values, name, **attrs), folder=tmp_path)


@pytest.mark.parametrize(
    ("units", "scale"),
    [("hPa", 1), ("Pa", 100), ("kPa", 0.1), ("mbar", 1), ("millibars", 1), ("mb", 1), ("hectopascals", 1), ("", 1)],
)
def test_levels_in_any_pressure_units(units, scale, tmp_path):
    ds = levelled([300 * scale, 500 * scale, 850 * scale], **({"units": units} if units else {}))
    assert list(opened(ds, folder=tmp_path).data_vars) == ["t300", "t500", "t850"]


def test_levels_of_the_files_of_one_source_may_have_different_units(tmp_path):
    other = levelled([30000, 50000], units="Pa").assign_coords(time=field(start="1982-01-01").time)
    assert opened(levelled([300, 500], units="hPa"), other, folder=tmp_path).sizes["time"] == 48


@pytest.mark.parametrize(("units", "scale"), [("hPa", 1), ("Pa", 100)])
@pytest.mark.parametrize("files", [1, 2])
def test_levels_that_are_not_whole_are_left_out_and_said(files, units, scale, tmp_path):
    ds = levelled([850 * scale, 500 * scale, 0.7 * scale, 0.4 * scale], units=units)
    later = ds.assign_coords(time=field(start="1982-01-01").time)
    got = opened(*[ds, later][:files], folder=tmp_path)
    assert list(got) == ["t850", "t500"]
    np.testing.assert_array_equal(got.t500[:24], ds.t[:, 1])
    assert got.attrs["remarks"] == "t850: levels that are not whole hPa are left out (0.7, 0.4 hPa)"
    assert list(opened(ds, folder=tmp_path, levels=[500])) == ["t500"]
    refused(r"got 0.7, 0.4; .*cdo intlevel", ds.isel(level=[2, 3]), folder=tmp_path)


# experiments


def test_final_and_preliminary_data_are_joined(tmp_path):
    ds = field()
    final, early = ds.copy(deep=True), ds.copy(deep=True)
    final.t2m[20:], early.t2m[:20] = np.nan, np.nan
    both = xr.concat([final, early], pd.Index([1, 5], name="expver"))
    both.t2m.attrs["units"] = "K"
    np.testing.assert_allclose(opened(both, folder=tmp_path).t2m, ds.t2m, rtol=1e-6)
    turned = both.isel(expver=[1, 0])
    turned.t2m[0, 3] = 200.0  # preliminary where the final one is there too: the final one counts
    np.testing.assert_allclose(opened(turned, folder=tmp_path).t2m, ds.t2m, rtol=1e-6)


# CF attributes of values


@pytest.mark.parametrize(
    "attrs",
    [
        {"valid_range": [200.0, 330.0]},
        {"valid_min": 200.0},
        {"valid_max": 330.0},
        {"valid_min": 200.0, "valid_max": 330.0},
    ],
)
def test_values_outside_the_valid_range_are_missing(attrs, tmp_path):
    ds = field()
    bad = 999.0 if "valid_min" not in attrs else -99.0
    ds.t2m.values[3, 2, 1] = bad
    ds.t2m.attrs |= {key: np.array(value, "f4") for key, value in attrs.items()}
    got = opened(ds, folder=tmp_path).t2m
    assert np.isnan(got[3, 2, 1])
    assert int(got.isnull().sum()) == 1


def test_a_valid_range_of_packed_values(tmp_path):
    ds = field()
    ds.t2m.attrs["valid_range"] = np.array([-10000, 10000], "i2")
    ds.t2m.values[5, 0, 0] = 280 + 150.0
    packed = {"t2m": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32767}}
    got = opened(ds, folder=tmp_path, encoding=packed).t2m
    assert np.isnan(got[5, 0, 0])
    assert int(got.isnull().sum()) == 1


def test_a_valid_range_of_one_file_is_not_that_of_another(tmp_path):
    a, b = field(), field(start="1982-01-01")
    a.t2m.attrs["valid_max"], b.t2m.attrs["valid_max"] = np.float32(330), np.float32(280.0)
    got = opened(a, b, folder=tmp_path).t2m
    assert not got[:24].isnull().any()
    assert got[24:].isnull().any()


def test_values_that_mean_missing_are_told_by_an_option(tmp_path):
    ds = field(6.85, units="degC")
    ds.t2m[7] = -9999
    ds.t2m[8] = -888
    refused(r"t2m.*1980-08.*-9999|t2m.*-9999.*1980-08|missing: \{t2m", ds, folder=tmp_path)
    got = opened(ds, folder=tmp_path, missing={"t2m": [-9999, -888]}).t2m
    assert got[7].isnull().all()
    assert got[8].isnull().all()
    assert not got[:7].isnull().any()


@pytest.mark.parametrize("said", [np.float64(-9999.9), "-9999.9", [-9999.9, -888.0]])
def test_a_value_that_means_missing_may_be_of_another_type(said, tmp_path):
    """Compared in double precision, -9999.9 is not the single one; as text it is no number at all."""
    path = tmp_path / "a.nc"
    field().to_netcdf(path)
    with netCDF4.Dataset(path, "a") as handle:
        handle["t2m"].setncattr("missing_value", np.array(said) if isinstance(said, list) else said)
        handle["t2m"][3, 2, 1] = -9999.9
    got = open_source("files", path=str(path)).load().t2m
    assert np.isnan(got[3, 2, 1])
    assert int(got.isnull().sum()) == 1


@pytest.mark.parametrize("name", ["t", "day", "month of the data"])
def test_dates_as_numbers_on_an_axis_of_any_name(name, tmp_path):
    ds = field().assign_coords(time=[int(f"{y}{m:02d}01") for y in (1980, 1981) for m in range(1, 13)])
    ds.time.attrs = {"standard_name": "time", "units": "day as %Y%m%d.%f"}
    got = opened(ds.rename(time=name), folder=tmp_path)
    np.testing.assert_array_equal(got.time, field().time)


# axes


def test_axes_in_radians(tmp_path):
    ds = field()
    ds = ds.assign_coords(
        lat=("lat", np.deg2rad(LAT), {"units": "radians"}), lon=("lon", np.deg2rad(LON), {"units": "radian"})
    )
    got = opened(ds, folder=tmp_path)
    np.testing.assert_allclose(got.lat, LAT, atol=1e-6)
    np.testing.assert_allclose(got.lon, LON, atol=1e-6)


@pytest.mark.parametrize("units", ["degs", "Degs", "deg", "degrees"])
def test_the_plural_of_degrees_is_no_south(units, tmp_path):
    ds = field().assign_coords(lat=("lat", LAT, {"units": units}), lon=("lon", LON, {"units": units}))
    got = opened(ds, folder=tmp_path)
    np.testing.assert_allclose(got.t2m.sel(lat=LAT), field().t2m, rtol=1e-6)


def test_standard_names_in_capitals_are_the_same(tmp_path):
    ds = field().assign_coords(lat=("lat", LAT, {"standard_name": "Latitude", "units": "degrees_north"}))
    np.testing.assert_allclose(opened(ds, folder=tmp_path).lat, LAT)


def test_longitudes_counted_to_the_west(tmp_path):
    ds = field().assign_coords(lon=("lon", (-LON) % 360, {"units": "degrees_west"}))
    np.testing.assert_allclose(opened(ds, folder=tmp_path).t2m, field().t2m, rtol=1e-6)


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (
            {"standard_name": "grid_latitude", "units": "degrees"},
            {"standard_name": "grid_longitude", "units": "degrees"},
        ),
        ({"standard_name": "projection_y_coordinate"}, {"standard_name": "projection_x_coordinate"}),
        ({"units": "m"}, {"units": "m"}),
        ({"units": "km"}, {"units": "km"}),
        ({"units": "degrees_east"}, {"units": "degrees_north"}),
        ({"units": "1"}, {"units": "1"}),
    ],
)
def test_axes_that_are_not_latitude_and_longitude_are_refused(lat, lon, tmp_path):
    ds = field().assign_coords(lat=("lat", LAT, lat), lon=("lon", LON, lon))
    refused("latitude|axis", ds, folder=tmp_path)


@pytest.mark.parametrize("name", ["rotated_latitude_longitude", "lambert_conformal_conic", "polar_stereographic"])
def test_a_grid_mapping_that_is_no_plain_one_is_refused(name, tmp_path):
    ds = field().assign(crs=((), 0, {"grid_mapping_name": name}))
    ds.t2m.attrs["grid_mapping"] = "crs"
    refused(name, ds, folder=tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_a_left_over_grid_mapping_of_true_axes(named, tmp_path):
    ds = field().assign(rotated_pole=((), 0, {"grid_mapping_name": "rotated_latitude_longitude"}))
    for axis, standard_name in (("lat", "latitude"), ("lon", "longitude")):
        ds[axis].attrs = {"standard_name": standard_name, "units": "degrees"}
    if named:
        ds.t2m.attrs["grid_mapping"] = "rotated_pole"
        refused("got axes of rotated_latitude_longitude", ds, folder=tmp_path)
    else:
        assert "t2m" in opened(ds, folder=tmp_path)


def test_a_plain_grid_mapping_is_taken(tmp_path):
    ds = field().assign(crs=((), 0, {"grid_mapping_name": "latitude_longitude"}))
    ds.t2m.attrs["grid_mapping"] = "crs"
    assert "t2m" in opened(ds, folder=tmp_path)


@pytest.mark.parametrize("last", [359.99997, 360.0, 360.00003, 359.9999])
def test_a_cyclic_column_is_taken_once(last, tmp_path):
    ds = field()
    ds = xr.concat([ds, ds.isel(lon=[0]).assign_coords(lon=[last])], "lon")
    got = opened(ds, folder=tmp_path)
    np.testing.assert_allclose(got.lon, LON)
    np.testing.assert_allclose(got.t2m, field().t2m, rtol=1e-6)


@pytest.mark.parametrize("noise", [1e-5, 1e-4])
def test_axes_that_differ_by_rounding_between_files(noise, tmp_path):
    a = field().assign_coords(lat=LAT + 0.1)
    b = field(start="1982-01-01").assign_coords(lat=(LAT + 0.1 + noise).astype("f4"), lon=LON.astype("f4"))
    assert opened(a, b, folder=tmp_path).sizes == {"time": 48, "lat": 7, "lon": 12}


def test_fields_in_a_group(tmp_path):
    path = tmp_path / "g.nc"
    field().to_netcdf(path, group="data")
    with pytest.raises(EarthSSLError, match=r"option group.*data"):
        open_source("files", path=str(path))
    assert "t2m" in open_source("files", path=str(path), group="data")
    with pytest.raises(EarthSSLError, match=r"no group 'date'.*data"):
        open_source("files", path=str(path), group="date")


# Zarr


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("fill", [None, 0, -1, "nan"])
def test_zeros_of_zarr_are_values(form, fill, tmp_path):
    ds = field(0.5, name="siconc", units="1")
    ds.siconc[:, :3] = 0
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=form)
    days = ((ds.time.values - np.datetime64("1980-01-01")) // np.timedelta64(1, "D")).astype("i8")
    for name, values, dims, attrs in [
        ("time", days, ["time"], {"units": "days since 1980-01-01"}),
        ("lat", LAT, ["lat"], {}),
        ("lon", LON, ["lon"], {}),
        ("siconc", ds.siconc.values, ["time", "lat", "lon"], {"units": "1"}),
    ]:
        own = {"fill_value": float(fill)} if fill is not None and name == "siconc" else {}
        if form == 3:
            own["dimension_names"] = dims
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, **own)
        array[...] = values
        array.attrs.update({"_ARRAY_DIMENSIONS": dims, **attrs})
    got = open_source("files", path=str(tmp_path / "a.zarr")).load()
    np.testing.assert_allclose(got.siconc, ds.siconc, rtol=1e-6)


@pytest.mark.parametrize(("kind", "zero"), [("i2", 50.0), ("u2", np.nan), ("f4", 50.0)])
def test_zeros_of_packed_zarr(kind, zero, tmp_path):
    """Signed numbers lie on both sides of the 0 that writers put by default; below unsigned ones lies nothing."""
    stored = np.arange(24 * 7 * 12).reshape(24, 7, 12) % 90
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name, values, dims, attrs in [
        ("time", np.arange(24), ["time"], {"units": "days since 1980-01-01"}),
        ("lat", LAT, ["lat"], {}),
        ("lon", LON, ["lon"], {}),
        ("siconc", stored.astype(kind), ["time", "lat", "lon"],
         {"units": "%", "scale_factor": 0.5, "add_offset": 50.0, "missing_value": 91}),
    ]:  # fmt: skip
        array = group.create_array(name, shape=values.shape, dtype=values.dtype)
        array[...] = values
        array.attrs.update({"_ARRAY_DIMENSIONS": dims, **attrs})
    got = open_source("files", path=str(tmp_path / "a.zarr")).load()
    expected = np.where(stored == 0, zero, 50 + 0.5 * stored) / 100
    np.testing.assert_allclose(got.siconc, expected, rtol=1e-6)


# values


@pytest.mark.parametrize(
    ("name", "units", "value"),
    [
        ("z500", "m2 s-2", 5500.0), ("z10", "m2 s-2", 31000.0), ("z1000", "m2 s-2", 50000.0), ("t500", "K", 330.0),
        ("t300", "K", 300.0), ("q300", "kg kg-1", 0.03), ("t100", "K", 290.0), ("z200", "m2 s-2", 12000.0),
        ("u850", "m s-1", 180.0), ("z850", "m2 s-2", -9999.0),
    ],
)  # fmt: skip
def test_the_possible_range_knows_the_level(name, units, value, tmp_path):
    refused(f"expected '{name}' within", field(value, name=name, units=units), folder=tmp_path)


@pytest.mark.parametrize(
    "place", [(7, slice(None), slice(None)), (11, 0, 0), (slice(None), 0, slice(None)), (23, 6, 11)]
)
@pytest.mark.parametrize("value", [-9999.0, 999.0, 1e10, -32768.0, 0.0])
def test_an_undeclared_fill_value_is_found_wherever_it_stands(place, value, tmp_path):
    ds = field()
    ds.t2m[place] = value
    refused(r"t2m.*missing: \{t2m: ", ds, folder=tmp_path)


def test_the_file_time_and_place_of_a_value_are_named(tmp_path):
    b = field(start="1982-01-01")
    b.t2m[5, 2, 3] = -9999
    refused(r"part1\.nc.*1982-06-01.*20°N.*90°E.*-9999", field(), b, folder=tmp_path)


@pytest.mark.parametrize("eager_bytes", [0, 1 << 28])
def test_an_undeclared_fill_in_files_of_other_units_is_missing(tmp_path, eager_bytes):
    for k, (units, shift) in enumerate((("K", 0.0), ("degC", -273.15))):
        values = np.full((3, 4, 6), 280 + shift, np.float32)
        values[1, 2, 3] = 1e20
        coords: dict[str, np.ndarray] = {
            "time": np.datetime64(f"200{k}-01-01", "ns") + np.arange(3) * np.timedelta64(1, "D")
        }
        coords |= {"lat": np.linspace(60, -60, 4), "lon": np.arange(6) * 60.0}
        ds = xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": units})}, coords)
        ds.to_netcdf(tmp_path / f"{k}.nc", encoding={"t2m": {"_FillValue": None}})
    got = open_source("files", path=str(tmp_path / "*.nc"), eager_bytes=eager_bytes).load()
    assert int(got.t2m.isnull().sum()) == 2
    np.testing.assert_allclose(got.t2m.values[~np.isnan(got.t2m.values)], 280, atol=1e-3)

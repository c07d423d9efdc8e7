"""Every remedy that a refusal prints is typed as it stands there, and the fault is gone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.prepare.check import check_source
from earthssl.ssl.sources import open_source

LAT, LON = np.arange(60.0, -61, -20), np.arange(0.0, 360, 30)
# Variable, its middle in canonical units, and what the file holds: units, scale, offset.
KINDS = [
    ("t2m", 280.0, "K", 1.0, 0.0), ("t2m", 280.0, "degC", 1.0, -273.15), ("t2m", 280.0, "degF", 1.8, -459.67),
    ("tp", 0.004, "mm", 1000.0, 0.0), ("msl", 101325.0, "hPa", 0.01, 0.0), ("u10", 5.0, "knots", 3600 / 1852, 0.0),
    ("z500", 55000.0, "gpm", 1 / 9.80665, 0.0), ("siconc", 0.5, "%", 100.0, 0.0),
    ("q850", 0.005, "g kg-1", 1000.0, 0.0),
]  # fmt: skip
SENTINELS = [-9999.0, -999.0, -32768.0, 32767.0, -99999.5, 1e10, -123456.7]


def field(name: str = "t2m", value: float = 280.0, units: str = "K", start: str = "1980-01-01") -> xr.Dataset:
    """Return 24 months that differ everywhere."""
    values = value * (1 + 0.01 * np.random.default_rng(1).uniform(-1, 1, (24, len(LAT), len(LON))))
    time = pd.date_range(start, periods=24, freq="MS")
    data = (("time", "lat", "lon"), values.astype(np.float32), {"units": units})
    return xr.Dataset({name: data}, {"time": time, "lat": LAT, "lon": LON})


def advice(text: str) -> dict[str, Any]:
    """Return the options that a message advises with "as in", as YAML reads them."""
    found = re.findall(r"as in (\w+: (?:\{.*?\}|[\w./-]+))", text)
    assert found, text
    return dict(item for one in found for item in yaml.safe_load(one).items())


def typed(path: Any, tries: int = 1, **options: Any) -> xr.Dataset:
    """Open what is refused, with what the refusals advise: so many of them, each with one remedy more."""
    for _ in range(tries):
        with pytest.raises(EarthSSLError) as refused:
            open_source("files", path=path, **options).load()
        options |= advice(str(refused.value))
    return open_source("files", path=path, **options).load()


@pytest.mark.parametrize("sentinel", SENTINELS)
@pytest.mark.parametrize(("name", "value", "units", "scale", "offset"), KINDS)
def test_a_value_that_means_missing(name, value, units, scale, offset, sentinel, tmp_path):
    """Advised in the file's units, whatever they are and however it is read, and masked by that."""
    eager_bytes = [2**28, 1][len(units) % 2]
    ds = field(name, value)
    ds[name].values[:] = ds[name].values * scale + offset
    ds[name].attrs["units"] = units
    ds[name].values[7, 2, 3] = sentinel
    ds.to_netcdf(tmp_path / "a.nc")
    got = typed(str(tmp_path / "a.nc"), eager_bytes=eager_bytes)[name]
    assert np.isnan(got[7, 2, 3])
    assert int(got.isnull().sum()) == 1
    np.testing.assert_allclose(got[0], field(name, value)[name][0], rtol=1e-5)


@pytest.mark.parametrize("eager_bytes", [2**28, 1])
@pytest.mark.parametrize("files", [1, 2])
def test_several_values_that_mean_missing(files, eager_bytes, tmp_path):
    """All that are seen are advised together; one seen later is advised beside those typed before."""
    ds = field()
    ds.t2m.values[3, 1], ds.t2m.values[3, 2], ds.t2m.values[20, 4] = -9999, -888, -77
    if files == 2:
        ds.isel(time=slice(12)).to_netcdf(tmp_path / "a.nc")
        later = ds.isel(time=slice(12, 24))
        later.t2m.values[:] -= 273.15
        later.t2m.values[8, 4] = -777
        later.t2m.attrs["units"] = "degC"
        later.to_netcdf(tmp_path / "b.nc")
        got = typed([str(tmp_path / "a.nc"), str(tmp_path / "b.nc")], 2, eager_bytes=eager_bytes)
    else:
        ds.to_netcdf(tmp_path / "a.nc")
        got = typed(str(tmp_path / "a.nc"), eager_bytes=eager_bytes)
    assert int(got.t2m.isnull().sum()) == 3 * len(LON)


@pytest.mark.parametrize("option", [{"coarsen": 2}, {"resolution": 60}])
@pytest.mark.parametrize("eager_bytes", [2**28, 1])
def test_a_value_is_seen_before_it_is_averaged(option, eager_bytes, tmp_path):
    """999 m/s in one cell of many would be a plausible mean."""
    ds = field("u10", 5.0, "m s-1").isel(lat=slice(6))
    ds.u10.values[7, 2, 3] = 200
    ds.to_netcdf(tmp_path / "a.nc")
    got = typed(str(tmp_path / "a.nc"), eager_bytes=eager_bytes, **option).u10
    assert float(got.max()) < 6


@pytest.mark.parametrize("eager_bytes", [2**28, 1])
def test_cells_outside_the_region_are_not_looked_at(eager_bytes, tmp_path):
    ds = field()
    ds.t2m.values[:, -1] = -9999
    ds.to_netcdf(tmp_path / "a.nc")
    got = open_source("files", path=str(tmp_path / "a.nc"), region=[-41, 61, 0, 360], eager_bytes=eager_bytes)
    assert not bool(got.t2m.isnull().any())
    assert float(got.t2m.min()) > 200


@pytest.mark.parametrize("units", [None, "furlongs", "degrees of frost"])
@pytest.mark.parametrize(("name", "value"), [("t2m", 280.0), ("msl", 101325.0), ("siconc", 0.5), ("tp", 0.004)])
def test_units_that_are_missing_or_unknown(name, value, units, tmp_path):
    """The canonical units are advised; the values of the file are in them."""
    ds = field(name, value)
    if units is None:
        del ds[name].attrs["units"]
    else:
        ds[name].attrs["units"] = units
    ds.to_netcdf(tmp_path / "a.nc")
    np.testing.assert_allclose(typed(str(tmp_path / "a.nc"))[name], field(name, value)[name], rtol=1e-6)


def _ensemble() -> xr.Dataset:
    return xr.concat([field(), field() + 1], pd.Index([3, 7], name="number"), combine_attrs="override").assign(
        t2m=lambda ds: ds.t2m.assign_attrs(units="K")
    )


RENAMED = {
    "an unknown name": (field().rename(t2m="tmp"), ["t2m"]),
    "an unknown name on a level": (
        field("air", 250.0).expand_dims(level=[500]).assign_coords(level=("level", [500.0], {"units": "millibar"})),
        ["t500"],
    ),
    "no level": (field("t", 250.0), ["t500"]),
    "a wind without a level": (field("u", 5.0, "m s-1"), ["u500"]),
    "several heights of one field": (
        field().expand_dims(level=[1000, 850]).assign_coords(level=("level", [1000, 850], {"units": "hPa"})),
        ["t1000", "t850"],
    ),
    "a standard name of several": (
        field().rename(t2m="x").assign(x=lambda ds: ds.x.assign_attrs(standard_name="air_temperature")), ["t2m"],
    ),
    "an ensemble": (_ensemble(), ["t2m"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", RENAMED)
def test_names_levels_and_members(fault, tmp_path):
    ds, names = RENAMED[fault]
    ds.to_netcdf(tmp_path / "a.nc")
    assert sorted(map(str, typed(str(tmp_path / "a.nc")).data_vars)) == sorted(names)


def test_an_anomaly_under_the_name_of_a_temperature(tmp_path):
    field("t2m", 0.5).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError) as refused:
        open_source("files", path=str(tmp_path / "a.nc"))
    found = yaml.safe_load(re.findall(r"for an anomaly: (rename: \{.*?\})", str(refused.value))[0])
    assert "t2ma" in open_source("files", path=str(tmp_path / "a.nc"), **found)


def test_fields_in_a_group(tmp_path):
    field().to_netcdf(tmp_path / "a.nc", group="fields/monthly")
    assert "t2m" in typed(str(tmp_path / "a.nc"))


@pytest.mark.parametrize("every", ["6", "12"])
def test_a_step_without_a_unit(every, tmp_path):
    ds = field().assign_coords(time=pd.date_range("2000-01-01", periods=24, freq="h"))
    ds.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError) as refused:
        open_source("files", path=str(tmp_path / "a.nc"), every=every)
    advised = re.findall(r"'(\d+h)'", str(refused.value))[-1]
    assert open_source("files", path=str(tmp_path / "a.nc"), every=advised).sizes["time"] == 24 // int(every)


def test_forecasts_that_overlap(tmp_path):
    """The Python that is advised runs as it is printed."""
    ds = field().isel(time=slice(4)).assign_coords(time=pd.date_range("2000-01-01", periods=4, freq="6h"))
    ds = xr.concat([ds, ds], pd.Index(np.array([6, 12]), name="step")).transpose("time", "step", ...)
    ds["step"].attrs["units"], ds.t2m.attrs["units"] = "hours", "K"
    ds.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError) as refused:
        open_source("files", path=str(tmp_path / "a.nc"))
    advised = re.findall(r"as in (ds\.isel\(.*?\))", str(refused.value))[0]
    with xr.open_dataset(tmp_path / "a.nc", decode_timedelta=False) as opened:
        eval(advised, {"ds": opened}).to_netcdf(tmp_path / "b.nc")
    assert open_source("files", path=str(tmp_path / "b.nc"))["time"].values[0] == np.datetime64("2000-01-01T06")


@pytest.mark.parametrize("option", [{"member": 1}, {"levels": [500]}])
def test_an_option_to_leave_out(option, tmp_path):
    field().to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError, match=f"option {next(iter(option))} is given.*leave it out"):
        open_source("files", path=str(tmp_path / "a.nc"), **option)
    assert "t2m" in open_source("files", path=str(tmp_path / "a.nc"))


@pytest.mark.parametrize("eager_bytes", [2**28, 1])
def test_the_remedy_is_typed_at_check(eager_bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As words of the command line, in the file's units and by its name for the variable."""
    ds = field().rename(t2m="tas")
    ds.tas.values[:] -= 273.15
    ds.tas.attrs["units"] = "degC"
    ds.tas.values[9, 0] = -9999
    ds.to_netcdf(tmp_path / "a.nc")
    words = ["check", str(tmp_path / "a.nc"), "--options.eager_bytes", str(eager_bytes)]
    assert main(words) == 2
    said = advice(capsys.readouterr().err)
    assert said == {"missing": {"tas": -9999}}
    assert main([*words, "--options.missing", "{tas: -9999}"]) == 0
    table = check_source("files", {"path": str(tmp_path / "a.nc"), "eager_bytes": eager_bytes, **said})
    assert table["missing"][0][1] == pytest.approx(1 / len(LAT))


# What is renamed to what, with which attributes, and what is said of it; "" for nothing.
DOUBTED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "a standard name": ("x", "t2m", {"standard_name": "sea_surface_temperature"}, "its standard_name is 'sea_surf"),
    "a long name": ("x", "t2m", {"long_name": "Soil temperature level 1"}, "its long_name is 'Soil temp"),
    "its own name": ("sst", "t2m", {}, r"its own name means sea surface temperature \('sst'\)"),
    "a deviation": ("t2m", "t2m", {"cell_methods": "time: standard_deviation"}, "its cell_methods are"),
    "nothing": ("x", "t2m", {}, ""),
    "the same": ("air", "t2m", {"standard_name": "air_temperature"}, ""),
    "at a level": ("t", "t500", {"standard_name": "air_temperature"}, ""),
    "sums of a day": ("tp", "tp24h", {"GRIB_stepType": "avgad"}, ""),
    "an anomaly": ("tas", "t2ma", {"standard_name": "air_temperature"}, ""),
}


@pytest.mark.parametrize("case", DOUBTED)
def test_what_speaks_against_rename_is_said_once(case, tmp_path, capsys) -> None:
    """Taken as typed: the file may be wrong; `check` says it, and keeps it with the values."""
    raw_name, name, attrs, words = DOUBTED[case]
    value, units = {"t2ma": (0.5, "K"), "tp24h": (0.004, "m")}.get(name, (280.0, "K"))
    ds = field(value=value).rename(t2m=raw_name)
    ds[raw_name].attrs.update({"units": units, **attrs})
    ds.to_netcdf(tmp_path / "a.nc")
    assert main(["check", str(tmp_path / "a.nc"), "--options.rename", f"{{{raw_name}: {name}}}"]) == 0
    said = capsys.readouterr().out
    text = f"the option rename takes '{raw_name}' for '{name}', but {words}"
    assert len(re.findall(text, said)) == bool(words)
    assert ("rename" in said) == bool(words)

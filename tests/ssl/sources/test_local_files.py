"""Local files of every kind, whole and broken, and the real samples."""

from __future__ import annotations

import warnings
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.canonical import canonicalise
from earthssl.ssl.sources.formats.netcdf3 import expected_bytes


def sample(name: str = "msl", units: str = "hPa", start: str = "2000-01-01", steps: int = 8) -> xr.Dataset:
    times = np.datetime64(start, "ns") + np.arange(steps) * np.timedelta64(6, "h")
    rng = np.random.default_rng(len(name))
    values = rng.uniform(950, 1040, (steps, 10, 20)).astype(np.float32)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values, {"units": units})},
        {"time": times, "lat": np.arange(81.0, -90, -18), "lon": np.arange(0.0, 360, 18)},
    )


def written(path: Path, kind: str, unlimited: tuple[str, ...]) -> None:
    """Write the sample and a variable of odd length; xarray does not write all the kinds."""
    ds = sample()
    with netCDF4.Dataset(path, "w", format=kind) as file:
        for dim, size in ds.sizes.items():
            file.createDimension(dim, None if dim in unlimited else size)
        for name in ("lat", "lon"):
            file.createVariable(name, "f8", (name,))[:] = ds[name].values
        time = file.createVariable("time", "f8", ("time",))
        time.units = "hours since 2000-01-01"
        file.createVariable("odd", "i2", ("time",))[:] = np.arange(8)
        msl = file.createVariable("msl", "f4", ("time", "lat", "lon"))
        msl.units = "hPa"
        time[:] = np.arange(8) * 6.0
        msl[:] = ds.msl.values


@pytest.mark.parametrize("unlimited", [(), ("time",)])
@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF3_64BIT_DATA"])
def test_truncated_netcdf(tmp_path, kind, unlimited):
    path = tmp_path / "a.nc"
    written(path, kind, unlimited)
    assert open_source("files", path=str(path)).msl.shape == (8, 10, 20)
    whole = path.read_bytes()
    if kind != "NETCDF4":
        assert len(whole) - 4 <= expected_bytes(path) <= len(whole)  # the end may be padded to four bytes
    for share in (0.02, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(EarthSSLError, match=r"truncated") as caught:
            open_source("files", path=str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_told(tmp_path):
    path = tmp_path / "a.nc"
    sample(steps=50).to_netcdf(path, encoding={"msl": {"zlib": True, "chunksizes": (5, 10, 20), "fletcher32": True}})
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 2000] = bytes(2000)
    path.write_bytes(bytes(damaged))
    with pytest.raises(EarthSSLError, match=r"cannot be read"):
        open_source("files", path=str(path))


def test_missing_empty_and_foreign_files(tmp_path):
    (tmp_path / "empty.nc").touch()
    (tmp_path / "page.nc").write_text("<!doctype html><title>404</title>")
    (tmp_path / "notes.txt").write_text("sst = 20")
    (tmp_path / "folder").mkdir()
    for name, match in (
        ("empty.nc", "an empty file"),
        ("page.nc", "got a web page or XML"),
        ("notes.txt", "expected NetCDF, GRIB or Zarr"),
        ("folder", "a folder without one"),
        ("emty.nc", "no such file.*Did you mean 'empty.nc'"),
        ("*.grib", "no file matches"),
    ):
        with pytest.raises(EarthSSLError, match=match):
            open_source("files", path=str(tmp_path / name))
    with pytest.raises(EarthSSLError, match=r"empty list"):
        open_source("files", path=[])
    with pytest.raises(EarthSSLError, match=r"option engine"):
        open_source("files", path=str(tmp_path / "page.nc"), engine="netcdf")


def test_grib_without_cfgrib(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.grib").write_bytes(b"GRIB\x00\x00\x00\x01rest")
    with pytest.raises(EarthSSLError, match=r"pip install earthssl\[grib\]"):
        open_source("files", path=str(tmp_path / "a.grib"))


@pytest.mark.filterwarnings("ignore")  # eccodes and cfgrib warn of their own affairs
def test_grib(tmp_path):
    eccodes = pytest.importorskip("eccodes", reason="the extra grib is not installed")
    pytest.importorskip("cfgrib", reason="the extra grib is not installed")
    whole, mixed, cut = (tmp_path / name for name in ("a.grib", "mixed.grib", "cut.grib"))

    def message(template: str, **keys: object) -> bytes:
        handle = eccodes.codes_grib_new_from_samples(template)
        value = keys.pop("value")
        for key, text in keys.items():
            eccodes.codes_set(handle, key, text)
        eccodes.codes_set_values(handle, np.full(eccodes.codes_get(handle, "numberOfValues"), value))
        return eccodes.codes_get_message(handle)

    pressure = [
        message(
            "regular_ll_pl_grib2", shortName="t", level=level, dataDate=20200100 + day, value=200.0 + level / 10 + day
        )
        for day in (1, 2)
        for level in (500, 850)
    ]
    whole.write_bytes(b"".join(pressure))
    mixed.write_bytes(b"".join([*pressure, message("regular_ll_sfc_grib2", shortName="2t", value=270.0)]))
    cut.write_bytes(whole.read_bytes()[:-100])
    ds = open_source("files", path=str(whole))
    assert sorted(ds.data_vars) == ["t500", "t850"]
    np.testing.assert_allclose(ds.t850.values[:, 0, 0], [286, 287])
    assert list(tmp_path.iterdir()) == [*tmp_path.glob("*.grib")]  # no index file is left
    with pytest.raises(EarthSSLError, match=r"truncated or not GRIB"):
        open_source("files", path=str(cut))
    assert sorted(open_source("files", path=str(mixed), variables=["t2m"])) == ["t2m"]
    with pytest.raises(EarthSSLError, match=r"do not fit together.*option variables"):
        open_source("files", path=str(mixed))  # the times of the fields differ
    assert list(open_source("files", path=str(mixed), grib_filter={"typeOfLevel": "heightAboveGround"})) == ["t2m"]


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path, version):
    store = tmp_path / "a.zarr"
    sample().to_zarr(store, zarr_format=version, consolidated=False)
    got = open_source("files", path=str(store))
    xr.testing.assert_equal(got, canonicalise(sample()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr: consolidated metadata are not part of format 3 yet
        sample().to_zarr(tmp_path / "b.zarr", zarr_format=version, consolidated=True)
    xr.testing.assert_equal(open_source("files", path=str(tmp_path / "b.zarr")), got)


@pytest.mark.parametrize("eager_bytes", [0, 1 << 28])
def test_files_side_by_side_and_one_after_the_other(tmp_path, eager_bytes):
    for start in ("2000-01-03", "2000-01-01"):
        for name in ("msl", "sp"):
            sample(name, start=start).to_netcdf(tmp_path / f"{name}_{start}.nc")
    got = open_source("files", path=str(tmp_path / "*.nc"), variables=["sp", "msl"], eager_bytes=eager_bytes)
    assert list(got.data_vars) == ["sp", "msl"]
    expected = canonicalise(xr.concat([sample("sp"), sample("sp", start="2000-01-03")], "time"))
    np.testing.assert_array_equal(got.sp.values, expected.sp.values)
    assert (np.diff(got.time.values) == np.timedelta64(6, "h")).all()
    assert got.attrs["files"].count("bytes") == 4


def test_files_that_do_not_fit(tmp_path):
    sample().to_netcdf(tmp_path / "a.nc")
    sample(start="2000-01-03").isel(lat=slice(0, 5)).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(EarthSSLError, match=r"do not fit together"):
        open_source("files", path=str(tmp_path / "*.nc"))
    sample(start="2000-01-02").to_netcdf(tmp_path / "b.nc")
    with pytest.raises(EarthSSLError, match=r"every time once, got 2000-01-02"):
        open_source("files", path=str(tmp_path / "*.nc"))


def test_times_that_cannot_be_decoded(tmp_path):
    ds = sample()
    ds["time"] = ("time", np.arange(8.0) / 3, {"units": "months since 2000-01-01"})
    ds.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError, match=r"times cannot be decoded"):
        open_source("files", path=str(tmp_path / "a.nc"))


def test_real_kaplan(shared_data):
    ds = open_source("files", path=str(shared_data / "kaplan_sst_anom_tropacific_5deg_monthly_1856-2014.nc"))
    assert list(ds.data_vars) == ["ssta"]
    assert ds.ssta.shape == (1906, 12, 22)
    assert (ds.lat.values[0], ds.lon.values[0]) == (27.5, 182.5)
    assert float(ds.ssta.isnull().mean()) == pytest.approx(0.045, abs=0.001)
    assert abs(float(ds.ssta.mean())) < 0.5  # °C of anomaly are K of anomaly


def test_real_ersst(shared_data):
    ds = open_source("files", path=str(shared_data / "ersstv5_global_2deg_monthly_2010-2020.nc"), time=[2011, 2012])
    assert ds.sst.shape == (24, 89, 180)
    nino34 = ds.sst.sel(lat=slice(5, -5), lon=slice(190, 240)).mean()
    assert 298 < float(nino34) < 302


def test_real_era5(shared_data):
    ds = open_source("files", path=str(shared_data / "era5_msl_vo850_global_2.5deg_6h_djf2025-26.nc"))
    assert list(ds.data_vars) == ["msl", "vo850"]
    assert ds.msl.shape == (360, 73, 144)
    assert float(ds.msl.mean()) == pytest.approx(1.01e5, rel=0.01)
    assert ds.vo850.attrs["units"] == "s-1"


def test_real_ensemble(shared_data):
    path = str(shared_data / "era5_eda10_z_t_500_850_global_3deg_201701.nc")
    with pytest.raises(EarthSSLError, match=r"10 members"):
        open_source("files", path=path)
    ds = open_source("files", path=path, member=3, variables=["z", "t850"], levels=[500])
    assert list(ds.data_vars) == ["z500", "t850"]
    with xr.open_dataset(path) as raw:
        height = raw.z.sel(number=3, level=500)
        np.testing.assert_allclose(ds.z500.values, height.values * 9.80665, rtol=1e-5)


def test_real_hadcrut(shared_data):
    path = str(shared_data / "hadcrut4_two_months_gappy.nc")
    with pytest.raises(EarthSSLError, match=r"rename: \{tas: t2ma\}"):
        open_source("files", path=path)
    ds = open_source("files", path=path, rename={"tas": "t2ma"})
    assert np.isnan(ds.t2ma.values).mean(axis=(1, 2)) == pytest.approx([0.77, 0.69], abs=0.01)
    assert ds.lat.values[0] == 87.5


def test_real_series_are_not_gridded(shared_data):
    with pytest.raises(EarthSSLError, match=r"not gridded data"):
        open_source("files", path=str(shared_data / "XRO_indices_oras5.nc"))

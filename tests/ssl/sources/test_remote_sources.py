"""Remote sources against a server on the loopback: download, resume, verify, refuse; lazy cloud stores."""

from __future__ import annotations

import http.server
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import cache_folder
from earthssl.ssl.remote import download
from earthssl.ssl.sources import open_source


@dataclass
class Server:
    """What is served, where, and what was asked for."""

    folder: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    cut_after: int | None = None  # bytes, after which the connection breaks off
    version: str = '"1"'


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    state = Server(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send(body=False)

        def do_GET(self) -> None:
            self._send(body=True)

        def _send(self, *, body: bool) -> None:
            asked = self.headers.get("Range", "")
            state.asked.append((self.path, asked))
            file = state.folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data, status, span = file.read_bytes(), 200, ""
            if asked and self.headers.get("If-Range", state.version) == state.version:
                first, last = asked.removeprefix("bytes=").split("-")
                size = len(data)
                data, status = data[int(first) : int(last) + 1 if last else None], 206
                span = f"bytes {first}-{int(first) + len(data) - 1}/{size}"
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", state.version)
            if span:
                self.send_header("Content-Range", span)
            self.end_headers()
            if body:
                self.wfile.write(data[: state.cut_after])

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def ersst_file(server) -> Path:
    """Serve two months in the schema of the agency's file."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 30, (2, 89, 180)).astype(np.float32)
    values[:, 40:45, 50:60] = np.nan
    ds = xr.Dataset(
        {"sst": (("time", "lat", "lon"), values, {"units": "degC", "long_name": "Monthly Means of SST"})},
        {
            "lat": ("lat", np.arange(88, -89, -2, dtype=np.float32), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0, 360, 2, dtype=np.float32), {"units": "degrees_east"}),
        },
    )
    fill = np.float32(-9.96921e36)
    ds = ds.fillna(fill).assign_coords(time=("time", [19723.0, 19754.0], {"units": "days since 1800-1-1 00:00:00"}))
    ds.sst.attrs["missing_value"] = fill
    path = server.folder / "sst.mnmean.nc"
    ds.to_netcdf(path, encoding={"sst": {"_FillValue": None}})
    return path


def test_ersst_is_downloaded_once_and_verified(server, ersst_file, tmp_path):
    url, cache = f"{server.url}/sst.mnmean.nc", tmp_path / "cache"
    ds = open_source("ersst", url=url, cache=str(cache))
    assert ds.sst.shape == (2, 89, 180)
    assert (ds.lat.values[0], ds.lat.values[-1], ds.lon.values[-1]) == (88, -88, 358)
    assert np.isnan(ds.sst.values).mean() == pytest.approx(50 / (89 * 180))
    assert str(ds.time.values[1])[:10] == "1854-02-01"
    assert 272 < float(ds.sst.min()) < float(ds.sst.max()) < 304
    assert ds.attrs["url"] == url
    assert len(ds.attrs["sha256"]) == 64
    assert "no constraints" in ds.attrs["licence"]
    again = open_source("ersst", url=url, cache=str(cache), time=["1854-02", None])
    assert again.sizes["time"] == 1
    assert len(server.asked) == 1
    left = [path.name for path in cache.rglob("*") if path.is_file()]
    assert sorted(left) == ["sst.mnmean.nc", "sst.mnmean.nc.sha256"]


def test_ersst_damaged_in_the_cache_is_fetched_again(server, ersst_file, tmp_path):
    url, cache = f"{server.url}/sst.mnmean.nc", tmp_path / "cache"
    first = open_source("ersst", url=url, cache=str(cache))
    (file,) = cache.rglob("sst.mnmean.nc")
    file.write_bytes(file.read_bytes()[:-100])
    xr.testing.assert_equal(open_source("ersst", url=url, cache=str(cache)), first)
    assert len(server.asked) == 2
    open_source("ersst", url=url, cache=str(cache), refresh=True)
    assert len(server.asked) == 3


@pytest.mark.parametrize("replaced", [False, True])
def test_ersst_goes_on_where_it_broke_off(server, ersst_file, tmp_path, replaced, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)
    url, cache = f"{server.url}/sst.mnmean.nc", tmp_path / "cache"
    server.cut_after = 40_000
    with pytest.raises(EarthSSLError, match=r"cannot download.*broke off.*before the announced end.*what came is kept"):
        open_source("ersst", url=url, cache=str(cache))
    assert not list(cache.rglob("sst.mnmean.nc"))
    server.cut_after = None
    if replaced:  # then the half at hand must not be glued to the new file
        with xr.open_dataset(ersst_file) as old:
            new = old.load() + 1
        new.sst.attrs["units"] = "degC"
        new.to_netcdf(ersst_file)
        server.version = '"2"'
    ds = open_source("ersst", url=url, cache=str(cache))
    assert server.asked[-1][1] == "bytes=40000-"
    (file,) = cache.rglob("sst.mnmean.nc")
    assert file.read_bytes() == ersst_file.read_bytes()
    assert ds.sizes["time"] == 2


def test_ersst_something_else_at_the_url(server, tmp_path):
    (server.folder / "sst.mnmean.nc").write_text("<html>moved</html>")
    with pytest.raises(EarthSSLError, match=r"expected a NetCDF file"):
        open_source("ersst", url=f"{server.url}/sst.mnmean.nc", cache=str(tmp_path))
    with pytest.raises(EarthSSLError, match=r"cannot download.*the server has none"):
        open_source("ersst", url=f"{server.url}/other.nc", cache=str(tmp_path))
    assert not list(tmp_path.rglob("*.part"))


def test_ersst_tries_again_by_itself(server, ersst_file, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    server.cut_after = 40_000  # each time; the file has some 130 000 bytes
    ds = open_source("ersst", url=f"{server.url}/sst.mnmean.nc", cache=str(tmp_path / "cache"))
    assert ds.sizes["time"] == 2
    assert [asked for _, asked in server.asked] == ["", "bytes=40000-", "bytes=80000-", "bytes=120000-"]


def test_ersst_without_network(dead_url, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    with pytest.raises(EarthSSLError, match=r"cannot download.*source files") as caught:
        open_source("ersst", url=f"{dead_url}/sst.mnmean.nc", cache=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("EARTHSSL_CACHE", "somewhere")
    assert cache_folder() == Path("somewhere")
    assert cache_folder("else") == Path("else")
    monkeypatch.delenv("EARTHSSL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "xdg")
    assert cache_folder() == Path("xdg/earthssl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "earthssl"


def weatherbench(**attrs: str) -> xr.Dataset:
    """Return two days in the schema of WeatherBench 2: (time, [level], longitude, latitude), south first."""
    rng = np.random.default_rng(5)
    times = np.datetime64("1999-12-31", "ns") + np.arange(24) * np.timedelta64(6, "h")
    coords = {
        "time": times,
        "longitude": np.arange(0, 360, 22.5),
        "latitude": np.arange(-84.375, 90, 11.25 * 2),
        "level": np.array([500, 850]),
    }
    flat, deep = ("time", "longitude", "latitude"), ("time", "level", "longitude", "latitude")
    geopotential = np.array([4e4, 0], np.float32)[:, None, None]  # at 500 and 850 hPa

    def draw(dims: tuple[str, ...], low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, [len(coords[dim]) for dim in dims]).astype(np.float32)

    ds = xr.Dataset(
        {
            "2m_temperature": (flat, draw(flat, 250, 300), {"units": "K"}),
            "10m_u_component_of_wind": (flat, draw(flat, -9, 9)),
            "10m_v_component_of_wind": (flat, draw(flat, -9, 9)),
            "mean_sea_level_pressure": (flat, draw(flat, 9.8e4, 1.03e5)),
            "sea_surface_temperature": (flat, draw(flat, 1, 2) * np.nan),
            "geopotential": (deep, draw(deep, 1e4, 2e4) + geopotential, {"units": "m**2 s**-2"}),
            "temperature": (deep, draw(deep, 230, 290)),
            "land_sea_mask": (("longitude", "latitude"), np.zeros((16, 8), np.float32)),
        },
        coords,
        attrs,
    )
    return ds


@pytest.fixture
def store(server) -> Path:
    path = server.folder / "era5.zarr"
    weatherbench().to_zarr(path, zarr_format=2, consolidated=True)
    return path


def test_weatherbench2_local(store):
    ds = open_source("weatherbench2", url=str(store))
    assert list(ds.data_vars) == ["t2m", "u10", "v10", "msl", "z500", "t850"]
    assert all(var.chunks for var in ds.data_vars.values())
    assert ds.lat.values[0] == 73.125
    raw = weatherbench()
    expected = raw.geopotential.sel(level=500).transpose("time", "latitude", "longitude").values[:, ::-1]
    np.testing.assert_array_equal(ds.z500.values, expected)
    assert ds.attrs["source"] == "ERA5 by WeatherBench 2"
    daily = open_source("weatherbench2", url=str(store), variables=["t2m"], every="1D", time=["2000-01-02", None])
    assert daily.sizes["time"] == 4
    assert (daily.time.dt.hour == 0).all()


def test_weatherbench2_sea_surface_temperature_is_refused_by_name(store):
    with pytest.raises(EarthSSLError, match=r"'sst' holds no value at all"):
        open_source("weatherbench2", url=str(store), variables=["t2m", "sst"])


def test_weatherbench2_over_http(server, store):
    ds = open_source("weatherbench2", url=f"{server.url}/era5.zarr", variables=["z"], levels=[850])
    local = open_source("weatherbench2", url=str(store), variables=["z850"])
    assert list(ds.data_vars) == ["z850"]
    np.testing.assert_array_equal(ds.z850.values, local.z850.values)
    assert not any("temperature/" in path for path, _ in server.asked)
    with pytest.raises(EarthSSLError, match=r"'sst' holds no value at all .the 12 steps"):
        open_source("weatherbench2", url=f"{server.url}/era5.zarr", variables=["sst"])


def test_arco_takes_only_the_times_that_hold_data(tmp_path):
    ds = weatherbench(valid_time_start="2000-01-01", valid_time_stop="2000-01-03")
    outside = (ds.time < np.datetime64("2000-01-01")) | (ds.time >= np.datetime64("2000-01-04"))
    ds.where(~outside).to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=True)
    got = open_source("arco-era5", url=str(tmp_path / "a.zarr"), variables=["t2m"], coarsen=2)
    assert got.t2m.shape == (12, 4, 8)
    assert not np.isnan(got.t2m.values).any()
    assert got.attrs["source"] == "ARCO-ERA5"


@pytest.mark.parametrize("source", ["weatherbench2", "arco-era5"])
def test_stores_out_of_reach(server, dead_url, source, monkeypatch):
    start = time.monotonic()
    with pytest.raises(EarthSSLError, match=r"cannot be reached.*network"):
        open_source(source, url=f"{dead_url}/era5.zarr", timeout=5)
    assert time.monotonic() - start < 5
    with pytest.raises(EarthSSLError, match=r"expected a Zarr store"):
        open_source(source, url=f"{server.url}/nothing.zarr")
    with pytest.raises(EarthSSLError, match=r"no such file"):
        open_source(source, url="nowhere.zarr")
    with pytest.raises(EarthSSLError, match=r"expected https"):
        open_source(source, url="ftp://example.org/era5.zarr")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EarthSSLError, match=r"pip install earthssl\[gcs\], or give.*storage.googleapis.com/bucket/a"):
        open_source(source, url="gs://bucket/a.zarr")


def test_a_store_in_format_3_over_http(server):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr: consolidated metadata are not part of format 3 yet
        weatherbench().to_zarr(server.folder / "b.zarr", zarr_format=3, consolidated=True)
    ds = open_source("weatherbench2", url=f"{server.url}/b.zarr", variables=["msl"])
    np.testing.assert_array_equal(
        ds.msl.values,
        weatherbench().mean_sea_level_pressure.transpose("time", "latitude", "longitude").values[:, ::-1],
    )

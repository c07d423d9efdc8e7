"""Store: one truth through xarray, through the memory map and back in units; damage is named."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store import store as store_module
from earthssl.ssl.store.chunks import Template, chunk_file
from earthssl.ssl.store.store import Store
from earthssl.ssl.store.writing import close, create, open_fields

SPLITS = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
VARIABLES = ["sst", "u10", "v10"]


@pytest.fixture
def copy(small_store: Path, tmp_path: Path) -> Path:
    """A copy of the small store, to be damaged."""
    return Path(shutil.copytree(small_store, tmp_path / "copy"))


def made(data: xr.Dataset, folder: Path, **settings: Any) -> Store:
    """Prepare the data in a folder of their own."""
    folder.mkdir()
    data.to_netcdf(folder / "data.nc")
    options = {"path": str(folder / "data.nc"), "variables": VARIABLES}
    config = PrepareConfig(
        "files", str(folder / "store"), **{"splits": SPLITS, "chunk_mb": 0.05, **settings}, options=options
    )
    return Store(prepare(config))


def test_xarray_the_memory_map_and_the_bytes_are_the_same_numbers(small_store: Path) -> None:
    store = Store(small_store)
    fields = xr.open_zarr(small_store)["fields"]  # as it stands, and without a warning
    assert fields.dims == ("time", "variable", "lat", "lon")
    mapped = store.read(np.arange(len(store.times)))
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(fields.values, mapped)
    np.testing.assert_array_equal(store.read_all(), mapped)
    size = np.fromfile(chunk_file(small_store, 1), np.float32).reshape(-1, *store.shape[1:])
    np.testing.assert_array_equal(size, mapped[len(size) : 2 * len(size)])
    steps = [359, 0, 17, 17, 18, 358]
    np.testing.assert_array_equal(store.read(steps), mapped[steps])
    assert store.read([]).shape == (0, 3, 7, 12)


def test_the_axes_and_statistics_can_be_read_with_xarray(small_store: Path, small_data: xr.Dataset) -> None:
    plain, store = xr.open_zarr(small_store), Store(small_store)
    np.testing.assert_array_equal(plain.time.values, small_data.time.values)
    np.testing.assert_array_equal(store.times.astype("datetime64[ns]"), small_data.time.values)
    np.testing.assert_array_equal(plain.lat.values, store.grid.lat)
    np.testing.assert_array_equal(plain.climatology.values, store.statistics.coefficients)
    assert plain.fields.attrs["variables"] == VARIABLES
    # The rest by hand, as somebody without this package would do it.
    march = plain.fields.isel(time=2) * plain.scale + plain.climatology.isel(key=2, basis=0)
    np.testing.assert_allclose(march.values[1], small_data.u10.values[2], rtol=1e-5, atol=1e-5)


def test_what_comes_out_in_units_is_what_went_in(small_store: Path, small_data: xr.Dataset) -> None:
    again = Store(small_store).dataset()
    assert list(again.data_vars) == VARIABLES
    for name in VARIABLES:
        assert again[name].dims == ("time", "lat", "lon")
        assert again[name].attrs["units"] == small_data[name].attrs["units"]
        np.testing.assert_allclose(again[name].values, small_data[name].values, rtol=2e-6, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(again.sst.values), np.isnan(small_data.sst.values))
    xr.testing.assert_identical(Store(small_store).dataset(["v10"]).v10, again.v10)
    with pytest.raises(
        EarthSSLError, match=r"expected variables out of sst, u10, v10, got 'v100'\. Did you mean 'v10'"
    ):
        Store(small_store).dataset(["v100"])


def test_training_anomalies_are_of_mean_0_and_unit_spread(small_store: Path) -> None:
    store = Store(small_store)
    train = store.read_all()[store.splits.inside(store.times, "train")].astype(np.float64)
    known = store.statistics.known
    np.testing.assert_allclose(train.mean(0)[known], 0, atol=1e-4)
    np.testing.assert_allclose((train**2).mean(0)[known], 1, rtol=1e-4)
    assert np.isnan(train[:, ~known]).all()
    assert (~known).sum() == 12  # the land of sst


def test_float16_is_half_the_size_within_its_rounding(
    small_data: xr.Dataset, small_store: Path, tmp_path: Path
) -> None:
    half, full = made(small_data, tmp_path / "half", dtype="float16"), Store(small_store).read_all()
    values = half.read_all()
    assert values.dtype == np.float32
    assert np.fromfile(chunk_file(half.path, 0), np.float16).dtype == np.float16
    np.testing.assert_array_equal(np.isnan(values), np.isnan(full))
    difference = np.abs(values - full)[np.isfinite(full)]
    assert (difference <= 2.0**-11 * np.abs(full[np.isfinite(full)]) + 2.0**-25).all()
    assert np.sqrt(np.mean(difference**2)) < 3e-4
    assert xr.open_zarr(half.path).fields.dtype == np.float16
    assert half.fingerprint != Store(small_store).fingerprint


def test_the_fingerprint_belongs_to_the_data_not_to_the_folder(
    small_data: xr.Dataset, small_store: Path, tmp_path: Path
) -> None:
    same = made(small_data, tmp_path / "elsewhere")
    assert same.path != small_store
    assert same.fingerprint == Store(small_store).fingerprint
    one = small_data.copy(deep=True)
    one.v10[350, 3, 3] += 0.01  # in the test block: the statistics stay
    changed = made(one, tmp_path / "changed")
    np.testing.assert_array_equal(changed.statistics.scale, same.statistics.scale)
    assert changed.fingerprint != same.fingerprint
    moved = SplitsConfig(("1981", "2000"), ("2002", "2004"), ("2007", "2010"), 365)
    assert made(small_data, tmp_path / "moved", splits=moved).fingerprint != same.fingerprint


def test_a_whole_store_verifies(small_store: Path) -> None:
    Store(small_store).verify()


@pytest.mark.parametrize("file", ["fields/c/3/0/0/0", "climatology/c/0/0/0/0/0", "scale/c/0/0/0", "time/c/0"])
def test_verify_names_what_was_damaged(copy: Path, file: str) -> None:
    content = bytearray((copy / file).read_bytes())
    content[100] ^= 1  # a single bit
    (copy / file).write_bytes(content)
    with pytest.raises(EarthSSLError) as caught:
        Store(copy).verify()
    assert f": {file} differ" in str(caught.value)


def test_verify_sees_a_manifest_that_was_edited(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["units"][0] = "degC"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EarthSSLError, match=r"manifest\.json differ"):
        Store(copy).verify()


@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_chunk_that_is_gone_or_cut_is_named(copy: Path, how: str) -> None:
    file = chunk_file(copy, 2)
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(EarthSSLError, match="fields/c/2/0/0/0: the chunk is missing or cut short"):
        Store(copy).read_all()
    with pytest.raises(EarthSSLError, match="fields/c/2/0/0/0 differ"):
        Store(copy).verify()


def test_statistics_that_are_gone_are_not_read_as_zeros(copy: Path) -> None:
    shutil.rmtree(copy / "climatology" / "c")
    with pytest.raises(EarthSSLError, match="the values of climatology are missing"):
        Store(copy)


def test_what_is_no_store_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match="found none; make one with `earthssl prepare`"):
        Store(tmp_path / "nothing")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(EarthSSLError, match="expected store format 1 or 2, got 99"):
        Store(copy)
    (copy / "manifest.json").write_text("{half")
    with pytest.raises(EarthSSLError, match="cannot be parsed"):
        Store(copy)


def test_an_unfinished_store_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(EarthSSLError, match="found none"):
        Store(copy)
    copy.rename(copy.with_name("late.partial"))
    with pytest.raises(EarthSSLError, match=r"late\.partial was not finished: run its `earthssl prepare` again"):
        Store(copy.with_name("late"))


def test_a_step_that_is_not_there_is_not_read_as_missing(small_store: Path) -> None:
    for step in (-1, 360):
        with pytest.raises(IndexError, match="within 0…359"):
            Store(small_store).read([step])


def tiny(folder: Path, values: np.ndarray, chunk_steps: int) -> Store:
    """Write values (steps, 1, 2, 3) as they are: the climatology is 0, the scale 1."""
    times = np.datetime64("2000-01-01", "s") + np.arange(len(values)) * np.timedelta64(1, "D")
    splits = SplitsConfig(("2000", "2000"), ("2001", "2001"), ("2002", "2002"), 0).build()
    template = Template(("t2m",), LatLonGrid([1, 0], [0, 1, 2]), times, splits, "float32", chunk_steps)
    create(
        folder,
        template,
        Statistics("hour", (0,), 0, np.zeros((1, 1, 1, 2, 3), np.float32), np.ones((1, 2, 3), np.float32)),
    )
    fields = open_fields(folder)
    for first, last in template.chunks():
        fields[first:last] = values[first:last]
    close(folder, template, {"source": "by hand"})
    return Store(folder)


def test_the_layout_is_the_array_itself(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.float32).reshape(5, 1, 2, 3)
    store = tiny(tmp_path / "store", values, 2)
    assert [np.fromfile(chunk_file(store.path, k), np.float32)[0] for k in range(3)] == [0, 12, 24]
    assert np.isnan(np.fromfile(chunk_file(store.path, 2), np.float32)[6:]).all()  # filled up behind the last step
    np.testing.assert_array_equal(store.read_all(), values)
    zeros = tiny(tmp_path / "zeros", np.zeros_like(values), 2)  # Zarr would leave out chunks of zeros
    np.testing.assert_array_equal(zeros.read_all(), 0)
    zeros.verify()


def _most_open() -> int:
    folder = Path("/proc/self/fd")
    return max((int(one.name) for one in folder.iterdir()), default=0) if folder.is_dir() else 0


def test_more_chunks_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(300, 1, 2, 3)).astype(np.float32)
    store = tiny(tmp_path / "store", values, 1)
    monkeypatch.setattr(store_module, "MAPS", 16)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as file:  # what other tests left open counts too
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(file.fileno(), _most_open()) + 100, limits[1]))
    try:
        order = np.random.default_rng(1).permutation(300)
        np.testing.assert_array_equal(store.read(order), values[order])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

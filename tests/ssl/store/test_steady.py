"""Variables without gaps that come and go are read without looking for any: the same bits, and never a gap missed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json, write_json
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.data.loading import Loading
from earthssl.ssl.data.resident import Resident
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.chunks import MANIFEST
from earthssl.ssl.store.encoding import DTYPES
from earthssl.ssl.store.store import Store

NAMES = ["u10", "sst", "v10", "msl"]


@pytest.fixture(scope="module")
def gappy(small_data: xr.Dataset) -> xr.Dataset:
    """Wind that is never missing, SST without land, v10 with a gap in one month of one cell, pressure on a half."""
    data = small_data.copy(deep=True)
    data["msl"] = data["u10"].where(data["lat"] > 0) * 100 + 1e5
    data["msl"].attrs["units"] = "Pa"
    data["v10"][100, 3, 4] = np.nan
    return data


def made(data: xr.Dataset, folder: Path, dtype: str = "float32", **settings: Any) -> Store:
    """The store of the data."""
    file = folder / f"{len(data.time)}.nc"
    data.to_netcdf(file)
    last = str(data.time.values[-1])[:4]
    splits = SplitsConfig(("1981", "1995"), ("1997", "2000"), ("2002", last), 365)
    options = {"path": str(file), "variables": NAMES}
    config = PrepareConfig("files", str(folder / "store"), splits, options, dtype=dtype, chunk_mb=0.05, workers=1)
    return Store(prepare(replace(config, **settings)))


def batches(store: Store, mode: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Values and validity of some batches, and of all windows in order."""
    windows = Windows(store, "train", 3, 0, Loading(mode))
    shuffled = islice(TrainLoader(windows, 16, seed=0), 5)
    return [(batch.values, batch.valid) for batch in (*shuffled, windows.batch(np.arange(len(windows))))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("only", [None, ["sst", "msl", "u10"]])
def test_batches_are_the_same_bits_with_and_without_the_shortcut(
    gappy: xr.Dataset, tmp_path: Path, dtype: str, only: list[str] | None
) -> None:
    store = made(gappy, tmp_path, dtype, options={"path": str(tmp_path / "360.nc"), "variables": only or NAMES})
    assert store.manifest["steady"] == [name for name in store.variables if name != "v10"]
    store.verify()
    old = shutil.copytree(store.path, tmp_path / "old")
    plain = read_json(old / MANIFEST, "the manifest")
    del plain["steady"]  # a store of before
    write_json(old / MANIFEST, plain)
    before = Store(old)
    assert not before.steady.any()
    assert before.fingerprint == store.fingerprint
    for mode in ("resident", "streaming"):
        for (values, valid), (expected, where) in zip(batches(store, mode), batches(before, mode), strict=True):
            assert torch.equal(values, expected)
            assert torch.equal(valid, where)
    held, steps = Resident(store, 0, 200), np.arange(90, 110)
    for one, two in zip(held.gathered(steps, 3), held.windows(steps, 3), strict=True):  # the way of an accelerator
        assert torch.equal(one, two)
    # values were missing, and only where the data miss them
    _, valid = batches(store, "streaming")[-1]
    for k, name in enumerate(store.variables):
        truth = gappy[name].notnull().values
        np.testing.assert_array_equal(valid[:, 0, k].numpy(), truth[: len(valid)])
    assert (only is not None) == (valid.stride()[0] == 0)  # shown many times, held once


def test_only_a_store_without_any_gap_skips_everything(small_data: xr.Dataset, tmp_path: Path) -> None:
    store = made(small_data[["u10"]], tmp_path, options={"path": str(tmp_path / "360.nc"), "variables": ["u10"]})
    (values, valid), *_ = batches(store, "streaming")
    assert store.steady.all()
    assert valid.all()
    with pytest.raises(RuntimeError):  # one cell stands for many: nobody can write to it
        valid[0, 0, 0, 0, 0].logical_not_(), valid.logical_not_()
    values, valid = Resident(store, 0, 200).gathered(np.arange(50), 3)
    assert torch.equal(values, Resident(store, 0, 200).windows(np.arange(50), 3)[0])
    assert valid.all()


def test_an_append_that_brings_a_gap_clears_the_flag(gappy: xr.Dataset, tmp_path: Path) -> None:
    data = gappy.copy(deep=True)
    data["u10"][350, 2, 2] = np.nan
    store = made(data.isel(time=slice(0, 312)), tmp_path)
    assert store.manifest["steady"] == ["u10", "sst", "msl"]
    store = made(data.isel(time=slice(0, 340)), tmp_path, append=str(store.path))
    assert store.manifest["steady"] == ["u10", "sst", "msl"]
    store = made(data, tmp_path, append=str(store.path))
    assert store.manifest["steady"] == ["sst", "msl"]
    store.verify()
    windows = Windows(store, "test", 1, 0, Loading("streaming"))
    valid = windows.batch(np.arange(len(windows))).valid[:, 0, 0]
    assert valid.numel() - int(valid.sum()) == 1


def test_an_append_to_a_store_of_before_notes_nothing(gappy: xr.Dataset, tmp_path: Path) -> None:
    store = made(gappy.isel(time=slice(0, 312)), tmp_path)
    plain = read_json(store.path / MANIFEST, "the manifest")
    del plain["steady"]  # whether its old steps have gaps is not known
    write_json(store.path / MANIFEST, plain)
    store = made(gappy, tmp_path, append=str(store.path))
    assert store.manifest["steady"] == []


def test_a_flag_that_the_steps_belie_is_found(gappy: xr.Dataset, tmp_path: Path) -> None:
    store = made(gappy, tmp_path)
    write_json(store.path / MANIFEST, {**store.manifest, "steady": NAMES})
    with pytest.raises(EarthSSLError, match=r"manifest\.json \(steady\) differ"):
        Store(store.path).verify()

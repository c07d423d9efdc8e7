"""Appending: later times, the statistics kept, the store whole at any moment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare import append as append_module
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.describe import describe
from earthssl.ssl.store.store import Store

VARIABLES = ["sst", "u10", "v10"]
STEP_MB = 3 * 7 * 12 * 4 / 2**20
OLD = 312  # to the end of 2006


def splits(last: str) -> SplitsConfig:
    """Blocks whose test ends in this year."""
    return SplitsConfig(("1981", "1995"), ("1997", "2000"), ("2002", last), 365)


@pytest.fixture
def whole(small_data: xr.Dataset, tmp_path: Path) -> Path:
    """All the small data as a file."""
    small_data.to_netcdf(tmp_path / "whole.nc")
    return tmp_path / "whole.nc"


@pytest.fixture(scope="module")
def begun(small_data: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the years to 2006: 312 months in chunks of 5, so that the last is not full."""
    folder = tmp_path_factory.mktemp("begun")
    small_data.isel(time=slice(0, OLD)).to_netcdf(folder / "old.nc")
    return prepare(config(folder / "old.nc", folder / "store", "2006"))


@pytest.fixture
def store(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(begun, tmp_path / "store"))


def config(source: Path, out: Path, last: str = "2010", **settings: Any) -> PrepareConfig:
    """Prepare in chunks of five steps."""
    options = {"path": str(source), "variables": VARIABLES}
    return PrepareConfig(
        "files", str(out), splits(last), **{"options": options, "chunk_mb": 5.2 * STEP_MB, "workers": 2, **settings}
    )


def test_an_appended_store_is_that_of_the_whole_series_with_another_fingerprint(
    whole: Path, store: Path, tmp_path: Path
) -> None:
    before = Store(store)
    at_once = Store(prepare(config(whole, tmp_path / "at once")))
    assert prepare(config(whole, tmp_path / "unused", append=str(store))) == store
    after = Store(store)
    assert not (tmp_path / "unused").exists()
    np.testing.assert_array_equal(after.times, at_once.times)
    np.testing.assert_array_equal(after.read_all(), at_once.read_all())
    np.testing.assert_array_equal(after.statistics.scale, before.statistics.scale)
    assert len({after.fingerprint, before.fingerprint, at_once.fingerprint}) == 3
    (said,) = after.manifest["appended"]
    assert said["parent"] == before.fingerprint
    assert (said["first"], said["steps"]) == ("2007-01-01T00:00:00", 48)
    assert "not fitted again" in said["statistics"]
    assert after.manifest["split_proof"]["blocks"]["test"]["last"].startswith("2010-12")
    assert "2007-01-01T00:00:00 … 2010-12-01T00:00:00, 48 steps, statistics kept" in describe(store)
    after.verify()
    plain = xr.open_zarr(store)
    np.testing.assert_array_equal(plain.fields.values, after.read_all())
    np.testing.assert_array_equal(plain.time.values, after.times)
    assert not [file for file in store.rglob("*") if "partial" in file.name or file.name.startswith("append")]
    with pytest.raises(EarthSSLError, match="nothing to append"):
        prepare(config(whole, tmp_path / "unused", append=str(store)))


def test_months_appended_one_after_the_other_keep_the_line_of_parents(
    small_data: xr.Dataset, store: Path, tmp_path: Path
) -> None:
    parents = [Store(store).fingerprint]
    for last in (315, 316, 330):  # within a chunk, to its end, beyond
        source = tmp_path / f"{last}.nc"
        small_data.isel(time=slice(len(Store(store).times), last)).to_netcdf(source)  # the new months alone
        prepare(config(source, store, append=str(store)))
        made = Store(store)
        made.verify()
        assert [said["parent"] for said in made.manifest["appended"]] == parents
        parents.append(made.fingerprint)
    np.testing.assert_allclose(made.dataset().u10.values, small_data.u10.values[:330], atol=1e-4)
    assert len(made.manifest["appends"]) == 3


KILLED = """
import os, signal
from earthssl.ssl.prepare import append
from earthssl.ssl.prepare import tasks
from earthssl.ssl.prepare import prepare as module
from earthssl.ssl.fields.splits import SplitsConfig
left = [{left}]
def dying(function, at):
    def call(*arguments):
        if left[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(left[0], int):
            left[0] -= 1
        return function(*arguments)
    return call
tasks.write_chunk = dying(tasks.write_chunk, 0)
append.grow = dying(append.grow, "grow")
append.close = dying(append.close, "close")
splits = SplitsConfig(("1981", "1995"), ("1997", "2000"), ("2002", "2010"), 365)
options = {{"path": {source!r}, "variables": ["sst", "u10", "v10"]}}
module.prepare(module.PrepareConfig("files", "x", splits, options, chunk_mb={chunk_mb!r}, workers=1, append={store!r}))
"""


@pytest.mark.parametrize("at", ["4", "'close'"])
def test_killed_in_the_middle_the_old_store_is_whole_and_appending_again_finishes_it(
    whole: Path, store: Path, begun: Path, tmp_path: Path, at: str
) -> None:
    body = KILLED.format(left=at, source=str(whole), chunk_mb=5.2 * STEP_MB, store=str(store))
    assert subprocess.run([sys.executable, "-c", body], stderr=subprocess.DEVNULL).returncode == -9
    old = Store(store)
    old.verify()
    assert old.fingerprint == Store(begun).fingerprint
    np.testing.assert_array_equal(old.read_all(), Store(begun).read_all())
    kept = store / "fields" / "c" / "64" / "0" / "0" / "0"
    stamp = kept.stat().st_mtime_ns
    time.sleep(0.01)
    prepare(config(whole, tmp_path, append=str(store)))
    assert kept.stat().st_mtime_ns == stamp  # what was written is not written again
    Store(store).verify()
    other = Path(shutil.copytree(begun, tmp_path / "other"))
    prepare(config(whole, tmp_path, append=str(other)))
    assert Store(store).fingerprint == Store(other).fingerprint


def content(store: Path) -> dict[Path, bytes]:
    """Return every file of a store but the empty lock that stays."""
    return {file: file.read_bytes() for file in store.rglob("*") if file.is_file() and file.name != ".lock"}


def refused(store: Path, message: str, settings: PrepareConfig) -> None:
    """Check that an append is refused and changes nothing."""
    before = content(store)
    with pytest.raises(EarthSSLError, match=message):
        prepare(replace(settings, append=str(store)))
    assert content(store) == before


def test_what_does_not_go_on_from_the_store_is_refused(
    small_data: xr.Dataset, whole: Path, store: Path, tmp_path: Path
) -> None:
    def saved(data: xr.Dataset) -> Path:
        path = tmp_path / "other.nc"
        path.unlink(missing_ok=True)
        data.to_netcdf(path)
        return path

    new = small_data.isel(time=slice(OLD, None))
    refused(store, "a gap between 2006-12.* and 2007-02", config(saved(new.isel(time=slice(1, None))), tmp_path))
    refused(store, "expected the grid of", config(saved(new.isel(lon=slice(0, 6))), tmp_path))
    revised = small_data.copy(deep=True)
    revised["u10"][OLD - 1] += 1
    refused(store, "holds other values than the store", config(saved(revised), tmp_path))
    fewer = {"path": str(whole), "variables": ["sst"]}
    refused(
        store, r"made with variables \['sst', 'u10', 'v10'\], got \['sst'\]", config(whole, tmp_path, options=fewer)
    )
    refused(store, "made with dtype float32, got float16", config(whole, tmp_path, dtype="float16"))
    moved = replace(splits("2010"), val=("1997", "1999"))
    refused(store, "expected the splits of", replace(config(whole, tmp_path), splits=moved))
    daily = new.assign_coords(time=np.datetime64("2007-01-01", "ns") + np.arange(48) * np.timedelta64(1, "D"))
    refused(store, "expected months", config(saved(daily), tmp_path))


def test_a_gap_is_appended_where_it_is_allowed(small_data: xr.Dataset, store: Path, tmp_path: Path) -> None:
    small_data.isel(time=slice(OLD + 6, None)).to_netcdf(tmp_path / "late.nc")
    prepare(config(tmp_path / "late.nc", tmp_path, append=str(store), allow_gap=True))
    assert len(Store(store).times) == OLD + 42


def test_an_append_that_was_given_up_leaves_nothing_behind_in_the_next(
    whole: Path, small_data: xr.Dataset, store: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(append_module, "grow", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(whole, tmp_path, append=str(store)))
    monkeypatch.undo()
    changed = small_data.isel(time=slice(OLD, OLD + 12)).copy(deep=True)
    changed["v10"] += 1
    changed.to_netcdf(tmp_path / "changed.nc")
    prepare(config(tmp_path / "changed.nc", tmp_path, append=str(store)))
    other = Path(shutil.copytree(begun, tmp_path / "other"))
    prepare(config(tmp_path / "changed.nc", tmp_path, append=str(other)))
    assert Store(store).fingerprint == Store(other).fingerprint
    assert sorted(str(f.relative_to(store)) for f in store.rglob("*")) == sorted(
        str(f.relative_to(other)) for f in other.rglob("*")
    )

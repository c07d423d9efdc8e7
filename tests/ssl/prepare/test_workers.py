"""prepare side by side: the same bytes whoever does the work, within memory and disk, killed or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Calendar
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare import memory_budget
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.memory_budget import plan
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.prepare.tasks import Job, opened, piece_steps
from earthssl.ssl.runtime.workers import Workers
from earthssl.ssl.sources import canonical, open_source
from earthssl.ssl.store.chunks import Template
from earthssl.ssl.store.describe import describe
from earthssl.ssl.store.store import Store

SPLITS = SplitsConfig(("2000", "2002"), ("2003-02", "2003-06"), ("2003-08", "2003-12"), 20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four years of 6-hourly fields on 6×8 cells as Zarr in chunks of 50 steps: t2m and, with gaps, sst."""
    times = np.arange("2000-01-01", "2004-01-01", dtype="datetime64[h]")[::6].astype("datetime64[ns]")
    rng = np.random.default_rng(0)
    fields = 280 + rng.normal(size=(2, len(times), 6, 8)).astype(np.float32)
    fields[1][rng.random(fields[1].shape) < 0.2] = np.nan
    axes = {"time": times, "lat": np.linspace(75, -75, 6), "lon": np.arange(0.0, 360, 45)}
    dims, units = ("time", "lat", "lon"), {"units": "K"}
    data = xr.Dataset({"t2m": (dims, fields[0], units), "sst": (dims, fields[1], units)}, axes)
    path = tmp_path_factory.mktemp("source") / "source.zarr"
    data.chunk({"time": 50}).to_zarr(path, consolidated=False, zarr_format=2)
    return path


def config(source: Path, out: Path, **settings: Any) -> PrepareConfig:
    """Prepare the source in float16, in chunks of 218 steps."""
    options = {"path": str(source), "variables": ["t2m", "sst"], **settings.pop("options", {})}
    return PrepareConfig("files", str(out), SPLITS, options, **{"dtype": "float16", "chunk_mb": 0.04, **settings})


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that one worker makes."""
    return prepare(config(source, tmp_path_factory.mktemp("alone") / "store", workers=1))


def bytes_of(store: Path) -> dict[str, bytes]:
    """Every file but the manifest, which says who made it."""
    files = (file for file in store.rglob("*") if file.is_file() and file.name != "manifest.json")
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def same(out: Path, alone: Path) -> None:
    """Check that two stores have the same bytes."""
    assert bytes_of(out) == bytes_of(alone)
    assert Store(out).fingerprint == Store(alone).fingerprint
    Store(out).verify()


def test_the_bytes_do_not_depend_on_the_number_of_workers(alone: Path, source: Path, tmp_path: Path) -> None:
    same(prepare(config(source, tmp_path / "store", workers=3)), alone)


def test_a_scheduler_given_by_address_makes_the_same_store(alone: Path, source: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        out = prepare(config(source, tmp_path / "store", scheduler=cluster.scheduler_address))
    same(out, alone)
    assert Store(out).manifest["run"]["workers"] == 2


@pytest.mark.slow
def test_processes_make_the_same_store(alone: Path, source: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    same(prepare(config(source, tmp_path / "local", workers=2, scheduler="processes")), alone)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        same(prepare(config(source, tmp_path / "cluster", scheduler=cluster.scheduler_address)), alone)


def test_no_scheduler_at_the_address_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match=r"prepare\.scheduler: expected threads, processes or an address"):
        config(source, tmp_path / "store", scheduler="thread")
    Workers.timeout_s = 1
    try:
        with pytest.raises(EarthSSLError, match=r"expected a dask\.distributed scheduler with workers at tcp://"):
            prepare(config(source, tmp_path / "store", scheduler="tcp://127.0.0.1:1"))
    finally:
        Workers.timeout_s = 20
    assert not (tmp_path / "store.partial").exists()


def test_the_fingerprint_does_not_depend_on_the_chunks(alone: Path, source: Path, tmp_path: Path) -> None:
    other = Store(prepare(config(source, tmp_path / "store", chunk_mb=0.2)))
    assert other.manifest["chunk_steps"] != Store(alone).manifest["chunk_steps"]
    assert other.fingerprint == Store(alone).fingerprint
    np.testing.assert_array_equal(other.read_all(), Store(alone).read_all())


def test_chunks_end_where_those_of_the_source_do(
    alone: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "CHUNK_BYTES", 500 * 48 * 4)
    lazy = {"eager_bytes": 0}
    large = Store(prepare(config(source, tmp_path / "large", options=lazy, chunk_mb=0.2)))
    assert large.manifest["chunk_steps"] == 1000
    small = Store(prepare(config(source, tmp_path / "small", options=lazy, chunk_mb=0.04)))
    assert small.manifest["chunk_steps"] == 167  # a third of what is read together
    assert large.fingerprint == small.fingerprint
    normal = Store(alone)
    np.testing.assert_allclose(large.statistics.scale, normal.statistics.scale, rtol=1e-6)
    np.testing.assert_allclose(large.read_all(), normal.read_all(), atol=2e-3)


def test_the_manifest_says_what_it_took(alone: Path) -> None:
    memory = Store(alone).manifest["run"]["memory_mb"]
    assert 0 < memory["planned"] <= memory["allowed"]
    assert memory["peak"] > 50
    assert "peak memory" in describe(alone)


def test_memory_that_cannot_hold_one_task_is_refused_with_the_arithmetic(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match=r"prepare\.memory_mb: expected at least \d+ MiB, got 20: \d+ held \+ "):
        prepare(config(source, tmp_path / "store", memory_mb=20))
    assert list(tmp_path.iterdir()) == []


def quarter_degree() -> Template:
    """40 years of 6-hourly steps of 20 variables at 0.25°."""
    times = np.arange("1980-01-01", "2020-01-01", dtype="datetime64[h]")[::6].astype("datetime64[s]")
    splits = SplitsConfig(("1980", "2010"), ("2012", "2014"), ("2016", "2019"), 30).build()
    grid = LatLonGrid(np.linspace(90, -90, 721), np.arange(0, 360, 0.25))
    return Template(tuple(f"v{k}" for k in range(20)), grid, times, splits, "float16", 1)


def test_what_runs_at_once_follows_from_the_memory() -> None:
    template, calendar = quarter_degree(), Calendar("hour", (0, 6, 12, 18), 4)

    def planned(memory_mb: float, workers: tuple[int, int] = (8, 8)) -> memory_budget.MemoryPlan:
        return plan(template, calendar, 28, 7, workers, memory_mb, 250)

    large, middle, small = planned(64_000), planned(16_000), planned(5_000)
    assert (large.writes, large.bands) == (8, 1)
    assert 1 <= middle.writes < 8 or middle.fits < 8
    assert small.bands > 1
    for memory_mb, found in ((64_000, large), (16_000, middle), (5_000, small)):
        assert found.needed_mb <= memory_mb
    assert planned(16_000, (64, 1)).writes == 64  # each in a process of its own
    with pytest.raises(EarthSSLError, match="2931 statistics"):
        planned(3_000)


def test_a_full_disk_is_seen_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2**20))  # type: ignore[attr-defined]
    with pytest.raises(EarthSSLError, match=r"the store takes [1-9]\d* MiB more on disk, but .* has 1 MiB free"):
        prepare(config(source, tmp_path / "store", dtype="float32"))
    assert list(tmp_path.iterdir()) == []


def test_a_piece_is_whole_chunks_of_the_source(source: Path) -> None:
    data = xr.open_zarr(source, consolidated=False).chunk({"time": 50})
    assert piece_steps(data, 48) == 1000  # 20 of them, about 1024 steps
    assert piece_steps(data.load(), 48) == 1024
    assert piece_steps(xr.open_zarr(source, consolidated=False).chunk({"time": 50}), 2**40) == 50


def test_a_worker_that_sees_another_source_is_refused(source: Path, alone: Path, tmp_path: Path) -> None:
    data = open_source("files", path=str(source), variables=["t2m", "sst"])
    job = Job(tmp_path / "job.json", alone, data, Store(alone).declared())
    name = job.announce("files", {"path": source, "variables": ["t2m", "sst"]})
    job.forget()
    record = json.loads(job.file.read_text())
    again = opened(name)
    assert again is not job
    np.testing.assert_array_equal(again.read(3, 7, 1), job.read(3, 7, 1))
    again.forget()
    job.file.write_text(json.dumps({**record, "seen": "other"}))
    with pytest.raises(EarthSSLError, match="a worker sees another source"):
        opened(name)
    job.file.unlink()
    with pytest.raises(EarthSSLError, match="shared file system"):
        opened(name)


@pytest.mark.slow
def test_a_killed_run_with_many_workers_goes_on_to_the_same_bytes(alone: Path, source: Path, tmp_path: Path) -> None:
    body = f"""
import time
from earthssl.ssl.prepare import tasks
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.fields.splits import SplitsConfig
read = tasks.read_variable
tasks.read_variable = lambda *a: (time.sleep(0.02), read(*a))[1]
splits = SplitsConfig(("2000", "2002"), ("2003-02", "2003-06"), ("2003-08", "2003-12"), 20)
options = {{"path": {str(source)!r}, "variables": ["t2m", "sst"]}}
prepare(PrepareConfig("files", {str(tmp_path / "store")!r}, splits, options, dtype="float16", chunk_mb=0.04, workers=3))
"""
    process = subprocess.Popen([sys.executable, "-c", body], stderr=subprocess.DEVNULL)
    chunks = tmp_path / "store.partial" / "store" / "fields" / "c"
    end = time.monotonic() + 60
    while len(list(chunks.glob("*/0/0/0"))) < 5 and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    assert not (tmp_path / "store").exists()
    assert bytes_of(prepare(config(source, tmp_path / "store", workers=2))) == bytes_of(alone)

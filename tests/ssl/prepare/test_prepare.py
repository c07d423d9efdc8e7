"""prepare: killed, out of space, or fed by a source that changed; and bounded in memory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare import tasks as job_module
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.describe import describe
from earthssl.ssl.store.store import Store

SPLITS = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
VARIABLES = ["sst", "u10", "v10"]
STEP_MB = 3 * 7 * 12 * 4 / 2**20


@pytest.fixture
def source(small_data: xr.Dataset, tmp_path: Path) -> Path:
    """The small data as a file."""
    small_data.to_netcdf(tmp_path / "small.nc")
    return tmp_path / "small.nc"


def config(source: Path | str, out: Path, **settings: Any) -> PrepareConfig:
    """Prepare the small file in chunks of three steps."""
    options = {"path": str(source), "variables": VARIABLES}
    return PrepareConfig("files", str(out), SPLITS, **{"options": options, "chunk_mb": 3.2 * STEP_MB, **settings})


def script(body: str, source: Path, out: Path) -> list[str]:
    """A command that runs the body with `config` (as above) and `prepare` at hand."""
    head = f"""
        from earthssl.ssl.prepare import prepare as module
        from earthssl.ssl.prepare.config import PrepareConfig
        from earthssl.ssl.prepare.prepare import prepare
        from earthssl.ssl.fields.splits import SplitsConfig
        splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
        options = {{"path": {str(source)!r}, "variables": {VARIABLES!r}}}
        config = PrepareConfig("files", {str(out)!r}, splits, options=options, chunk_mb={3.2 * STEP_MB!r})
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


def content(store: Path) -> dict[str, str]:
    """Digest of every file of a store; of the manifest without the moment it was made."""
    found = {}
    for file in sorted(store.rglob("*")):
        if file.is_file():
            found[str(file.relative_to(store))] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest = json.loads((store / "manifest.json").read_text())
    return {**found, "manifest.json": json.dumps({**manifest, "created": "", "run": ""})}


def killed(source: Path, out: Path, ready: Callable[[], bool]) -> None:
    """Run prepare slowly in a process of its own and kill it, past all handlers, when `ready`."""
    slow = """
        import pathlib, time
        from earthssl.ssl.prepare import tasks
        read, store = tasks.read_variable, pathlib.Path(config.out + ".partial", "store")
        tasks.read_variable = lambda *a: (time.sleep(0.02), read(*a))[1]
        prepare(config)
    """
    process = subprocess.Popen(script(slow, source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, "it finished before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_run_goes_on_where_it_stopped(source: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    def chunks() -> list[Path]:
        return [file for file in (partial / "store" / "fields" / "c").rglob("0") if file.is_file()]

    killed(source, out, lambda: (partial / "recipe.json").exists())  # while the statistics are fitted
    assert not out.exists()
    killed(source, out, lambda: len(chunks()) >= 7)
    with pytest.raises(EarthSSLError, match="was not finished"):
        Store(out)
    torn = chunks()[0].with_name("0.of-a-killed-run.partial")  # what Zarr leaves where it is killed while writing
    torn.write_bytes(b"half")
    before = {f.relative_to(partial / "store"): (f.stat().st_mtime_ns, f.stat().st_ino) for f in chunks()}
    assert 7 <= len(before) < 60
    assert prepare(config(source, out)) == out
    assert {f: ((out / f).stat().st_mtime_ns, (out / f).stat().st_ino) for f in before} == before
    assert not partial.exists()
    assert content(out) == content(prepare(config(source, tmp_path / "whole")))
    Store(out).verify()


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int) -> None:
    """Let writing fail after some chunks."""
    write, left = job_module.write_chunk, iter(range(after))

    def failing(*arguments: Any) -> None:
        if next(left, None) is None:
            raise error
        write(*arguments)

    monkeypatch.setattr(job_module, "write_chunk", failing)


def test_a_chunk_that_is_not_whole_is_written_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=5)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(source, tmp_path / "out"))
    monkeypatch.undo()
    cut = tmp_path / "out.partial/store/fields/c/2/0/0/0"
    cut.write_bytes(cut.read_bytes()[:50])
    assert content(prepare(config(source, tmp_path / "out"))) == content(prepare(config(source, tmp_path / "whole")))


@pytest.mark.parametrize("named", ["file", "glob"])
def test_a_source_that_changed_meanwhile_is_refused(
    source: Path, small_data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    path = source if named == "file" else tmp_path / "small*.nc"
    interrupt(monkeypatch, KeyboardInterrupt(), after=3)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(path, tmp_path / "out"))
    monkeypatch.undo()
    other = small_data.copy(deep=True)
    other.u10[0, 0, 0] += 1
    stamp = source.stat().st_mtime_ns
    other.to_netcdf(source)  # the same size, times and attributes
    os.utime(source, ns=(stamp + 10**9, stamp + 10**9))
    with pytest.raises(
        EarthSSLError, match=r"out\.partial is the unfinished store of another recipe or of a source that changed"
    ):
        prepare(config(path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_recipe_does_not_go_on_with_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=3)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(source, tmp_path / "out"))
    monkeypatch.undo()
    for changed in ({"statistics": StatisticsConfig(scale="variable")}, {"dtype": "float16"}, {"chunk_mb": 1.0}):
        with pytest.raises(EarthSSLError, match="another recipe"):
            prepare(config(source, tmp_path / "out", **changed))


def test_a_full_disk_is_one_clear_line_and_the_run_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), after=4)
    with pytest.raises(
        EarthSSLError, match=r"no space left while writing .*free space and run the same command again"
    ) as caught:
        prepare(config(source, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert content(prepare(config(source, tmp_path / "out"))) == content(prepare(config(source, tmp_path / "whole")))


@pytest.mark.parametrize(
    ("most", "what"), [(6_000, "statistics"), pytest.param(20_000, "store.new|store", marks=pytest.mark.slow)]
)
def test_a_write_that_the_system_refuses(source: Path, tmp_path: Path, most: int, what: str) -> None:
    body = f"""
        import resource, sys
        from earthssl.ssl.common.errors import EarthSSLError
        resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
        try:
            prepare(config)
        except EarthSSLError as error:
            print(error)
            sys.exit(2)
    """
    out = tmp_path / "out"
    # chunks larger than the statistics, so that either can be what does not fit
    command = script(
        body.replace("prepare(config)", "import dataclasses; prepare(dataclasses.replace(config, chunk_mb=0.1))"),
        source,
        out,
    )
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2, found.stderr
    assert len(found.stdout.strip().splitlines()) == 1
    assert "no space left while writing" in found.stdout
    assert any(word in found.stdout for word in what.split("|"))
    assert not out.exists()
    large = {"chunk_mb": 0.1}
    assert content(prepare(config(source, out, **large))) == content(
        prepare(config(source, tmp_path / "whole", **large))
    )


def test_results_are_never_overwritten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    prepare(config(source, out))  # an empty folder is as good as none
    before = content(out)
    with pytest.raises(EarthSSLError, match="expected an empty or new folder for the store"):
        prepare(config(source, out))
    assert content(out) == before
    (tmp_path / "note").write_text("mine")
    with pytest.raises(EarthSSLError, match="expected an empty or new folder"):
        prepare(config(source, tmp_path / "note"))


def test_a_split_that_does_not_fit_writes_nothing(source: Path, tmp_path: Path) -> None:
    late = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2015", "2016"), 365)
    with pytest.raises(EarthSSLError, match=r"splits\.test .* holds no time"):
        prepare(PrepareConfig("files", str(tmp_path / "out"), late, {"path": str(source), "variables": VARIABLES}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.nc"]


def test_the_manifest_says_where_everything_is_from(source: Path, tmp_path: Path) -> None:
    # Paths may be given as such.
    store = Store(prepare(config(source, tmp_path / "out", options={"path": source, "variables": VARIABLES})))
    m = store.manifest
    assert m["variables"] == VARIABLES
    assert m["units"] == ["K", "m s-1", "m s-1"]
    assert m["valid_share"] == {"sst": pytest.approx(72 / 84), "u10": 1, "v10": 1}
    assert m["split_proof"]["disjoint"] is True
    assert m["split_proof"]["blocks"]["train"]["steps"] == 240
    assert m["recipe"]["config"]["options"]["path"] == str(source)
    assert m["recipe"]["files"][str(source)][0] == source.stat().st_size
    assert m["steps"] == 360
    assert len(m["chunks_sha256"]) == 120
    lines = describe(store.path)
    for part in ("360 steps (UTC)", "sst 85.7 %", "month climatology", "365 days)", store.fingerprint, "7×12"):
        assert part in lines


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"dtype": "float64"}, "float32, float16, int16, got 'float64'"), ({"chunk_mb": 0}, "positive size")],
)
def test_settings_that_mean_nothing_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message):
        PrepareConfig("files", "out", SPLITS, **setting)


def peak_mib(days: int, folder: Path) -> float:
    """Most memory (MiB) that preparing so many days of fields takes, made when they are read, 64 days at once."""
    body = f"""
        import dask.array as da
        import numpy as np
        import xarray as xr
        from earthssl.ssl.prepare import tasks
        from earthssl.ssl.prepare import prepare as module
        from earthssl.ssl.fields.splits import SplitsConfig

        tasks.PIECE_BYTES = 2**20
        times = np.datetime64("2000-01-01", "ns") + np.arange({days}) * np.timedelta64(1, "D")
        axes = {{"time": times, "lat": np.linspace(88, -88, 45), "lon": np.arange(0.0, 360, 4)}}
        noise = da.random.default_rng(0).standard_normal(({days}, 45, 90), dtype="f4", chunks=(64, 45, 90))
        data = xr.Dataset({{"t2m": (("time", "lat", "lon"), 280 + noise)}}, axes)
        module.open_source = lambda source: data
        day = [str(times[k].astype("datetime64[D]")) for k in (0, -301, -250, -200, -150, -1)]
        splits = SplitsConfig(tuple(day[:2]), tuple(day[2:4]), tuple(day[4:]), 30)
        module.prepare(module.PrepareConfig("made up", {str(folder / str(days))!r}, splits, chunk_mb=2))
        # of this process alone: what getrusage says counts its parent's memory too
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(body)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return float(found.stdout) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of a process from /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_series(tmp_path: Path) -> None:
    short, long = peak_mib(1500, tmp_path), peak_mib(6000, tmp_path)
    assert long < 1.1 * short, f"{short:.0f} MiB for 23 MiB of fields, {long:.0f} MiB for 93 MiB"


def _months(folder: Path, change: Any) -> dict[str, Any]:
    """Return settings of `prepare` for twelve years of two variables, changed and saved."""
    rng = np.random.default_rng(5)
    values = (280 + rng.normal(0, 3, (144, 5, 8))).astype(np.float32)
    coords = {"time": pd.date_range("1980-01-01", periods=144, freq="MS"), "lat": np.arange(60, -61, -30.0),
              "lon": np.arange(0, 360, 45.0)}  # fmt: skip
    ds = xr.Dataset(
        {n: (("time", "lat", "lon"), values + k, {"units": "K"}) for k, n in enumerate(["t2m", "sst"])}, coords
    )
    change(ds)
    ds.to_netcdf(folder / "a.nc")
    blocks = SplitsConfig(train=(1980, 1987), val=(1989, 1989), test=(1991, 1991), embargo_days=300)
    return {"source": "files", "out": str(folder / "store"), "splits": blocks,
            "options": {"path": str(folder / "a.nc"), "eager_bytes": 1}}  # fmt: skip


@pytest.mark.parametrize("step", [7, 130, 143])
def test_prepare_looks_at_every_value(step, tmp_path):
    def change(ds):
        ds.sst[step, 2, 3] = -9999

    time = np.datetime64("1980-01") + step
    with pytest.raises(EarthSSLError, match=rf"'sst' within .* got -9999 at {time}-01 00:00:00, 0°N 135°E.*missing"):
        prepare(PrepareConfig(**_months(tmp_path, change)))
    assert not (tmp_path / "store").exists()


def test_what_is_odd_is_kept_in_the_manifest(tmp_path, capsys):
    def change(ds):
        ds.sst[20] = ds.sst[19]

    store = prepare(PrepareConfig(**_months(tmp_path, change)))
    found = json.loads((store / "manifest.json").read_text())["quality"]
    assert found["t2m"]["findings"] == []
    assert found["t2m"]["valid"] == [1.0, 1.0]
    assert found["sst"]["findings"] == ["1 of 144 steps (at 1981-09-01) equal to the one before (longest stretch 1)"]
    assert capsys.readouterr().err.count("prepare: sst: 1 of 144 steps") == 1


def test_a_variable_that_training_never_sees_is_refused(tmp_path):
    def change(ds):
        ds.sst[:100] = np.nan

    with pytest.raises(
        EarthSSLError, match=r"expected values of sst in the training block \(1980-01-01 … 1987-12-31\)"
    ):
        prepare(PrepareConfig(**_months(tmp_path, change)))

"""Cells on a dask.distributed cluster: order, errors, workers that die or do not fit, addresses that do not answer."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import waited_for
from earthssl.ssl.runtime import cluster as module
from earthssl.ssl.runtime.cluster import LOCKS, Cell, Cluster


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two workers within this process: quick to start."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as made:
        yield made.scheduler_address


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A study that has begun."""
    file = tmp_path / "begun.json"
    file.write_text("{}")
    return file


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "timeout_s", 1.0)
    monkeypatch.setattr(Cluster, "look_s", 0.2)


def add(folder: Path, name: str, number: int) -> int:
    """Leave a file, after that of the cell before it."""
    if number:
        assert (folder / f"{name}{number - 1}").is_file()
    (folder / f"{name}{number}").touch()
    return number


def test_cells_return_in_order_and_wait_for_those_before(address: str, marker: Path) -> None:
    folder = marker.parent
    cells = [
        Cell(f"{name}{k}", add, (folder, name, k), (f"{name}{k - 1}",) if k else ()) for name in "ab" for k in range(3)
    ]
    with Cluster(address, "matrix") as cluster:
        assert cluster.count == 2
        assert cluster.run(cells, marker) == [0, 1, 2, 0, 1, 2]


def test_an_error_in_a_cell_is_that_of_the_study(address: str, marker: Path) -> None:
    """As it was raised, with cells that depend on it."""

    def bad() -> None:
        raise EarthSSLError("matrix.tasks: expected a task, got none")

    with Cluster(address, "matrix") as cluster, pytest.raises(EarthSSLError, match=r"^matrix\.tasks: expected a task"):
        cluster.run([Cell("bad", bad, ()), Cell("next", print, (), ("bad",))], marker)


def test_a_cell_that_another_worker_is_at_is_waited_for(address: str, marker: Path) -> None:
    """Such as one of a study that was ended, whose worker went on."""
    held, done = threading.Event(), threading.Event()
    lock = module.hashlib.sha256(b"one").hexdigest()[:16]

    def hold() -> None:
        with waited_for(marker.parent / LOCKS / f"{lock}.lock"):
            held.set()
            done.wait(1)
            (marker.parent / "first").touch()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with Cluster(address, "matrix") as cluster:
        assert cluster.run([Cell("one", (marker.parent / "first").is_file, ())], marker) == [True]
    thread.join()


def test_workers_that_do_not_fit_are_refused(address: str, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other files, without the folder that the command was started in, with other software, of several threads."""
    from distributed import LocalCluster

    cells = [Cell("one", print, ())]

    def refused(words: str) -> None:
        with Cluster(address, "matrix") as cluster, pytest.raises(EarthSSLError, match=words):
            cluster.run(cells, marker)

    study = module._Study
    for change, words in (
        ({"digest": "0"}, "expected the study's folder .* on the shared file system"),
        ({"started_in": "/nowhere/at/all"}, "expected the folder /nowhere/at/all on every worker"),
        ({"versions": {"torch": "1.0"}}, r"expected the same versions on every worker, .* has torch .*, not 1\.0"),
    ):
        made = lambda *own, change=change: study(**{**dict(zip(study.__match_args__, own, strict=True)), **change})  # noqa: E731
        monkeypatch.setattr(module, "_Study", made)
        refused(words)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as wide,
        pytest.raises(EarthSSLError, match=r"workers of one thread each, got one of 2: .* --nthreads 1"),
    ):
        Cluster(wide.scheduler_address, "audit")


def test_addresses_that_do_not_answer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, somebody else there, no workers, no package."""
    from distributed import LocalCluster

    expected = r"audit\.scheduler: expected a dask\.distributed scheduler with workers at .*, found none within 1 s"
    with pytest.raises(EarthSSLError, match=expected):
        Cluster("tcp://127.0.0.1:1", "audit")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(EarthSSLError, match=expected):
            Cluster(f"tcp://127.0.0.1:{silent.getsockname()[1]}", "audit")
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        pytest.raises(EarthSSLError, match=expected),
    ):
        Cluster(empty.scheduler_address, "audit")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EarthSSLError, match=r"needs the package distributed: pip install 'earthssl\[cluster\]'"):
        Cluster("tcp://127.0.0.1:1", "audit")


def test_workers_that_are_lost_end_the_study(marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that kills every worker it gets, as often as the scheduler allows; and workers that do not come back."""
    import dask
    from distributed import LocalCluster

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Cluster, "timeout_s", 60.0)
    monkeypatch.setattr(Cluster, "patience_s", 0.5)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as made,
    ):
        with (
            Cluster(made.scheduler_address, "matrix") as cluster,
            pytest.raises(EarthSSLError, match="the cell 'bad' was begun 1 times, and each time its worker died"),
        ):
            cluster.run([Cell("bad", killed, ())], marker)
        with Cluster(made.scheduler_address, "matrix") as cluster:
            made.scale(0)
            while cluster._client.nthreads():
                time.sleep(0.05)
            with pytest.raises(EarthSSLError, match=r"lost them \(none has been there for 0\.5 s\)"):
                cluster.run([Cell("two", print, ())], marker)

"""Studies on a dask.distributed cluster of two processes: the files that one process makes, a worker killed or not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli.studies import audit, matrix
from earthssl.downstream.studies.matrix import MatrixConfig
from earthssl.pretext.audit import AuditConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import locked
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.runtime.cluster import Cluster
from earthssl.ssl.training.budget import StudyTraining

TRAINING = StudyTraining(steps=6, batch_size=8, warmup_steps=1, val_every=3, save_every=1, accelerator="cpu")
WORK = "_pretrained"  # what the worker to be killed is at
ENCODER = EncoderConfig("nano", 3, (1, 2, 3))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processes of one thread on loopback."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as made:
        yield made


def config(store: Path, out: Path, **more: Any) -> MatrixConfig:
    """One pretraining, the untrained encoder, one downstream task with its references, one layer."""
    settings = {"recipes": {"arrow of time": {"order": {}}}, "training": TRAINING, **more}
    tasks = {"enso": {"leads": [1], "poolings": ["mean"], "components": [2]}}
    return MatrixConfig(str(store), str(out), tasks=tasks, encoder=ENCODER, layers=[2], draws=1000, **settings)


def results(out: Path) -> dict[str, bytes]:
    """Every file that holds a result: tables, pictures, weights; not what says when and where it was made."""
    kinds = {".csv", ".safetensors", ".txt"}
    files = (file for file in out.rglob("*") if file.suffix in kinds and file.name != "history.csv")
    return {str(file.relative_to(out)): file.read_bytes() for file in files if file.is_file()}


class Killer(threading.Thread):
    """Kills, once, the worker that is at a cell when a file of the study appears."""

    def __init__(self, address: str, awaited: Path) -> None:
        super().__init__(daemon=True)
        self.address, self.awaited, self.killed = address, awaited, ""

    def run(self) -> None:
        """Wait for the file, and kill whoever is at the pretraining."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            processes = client.run(os.getpid)
            end = time.monotonic() + 200
            while not self.awaited.is_file() and time.monotonic() < end:
                time.sleep(0.005)
            busy = [
                worker
                for worker, cells in client.call_stack().items()
                for frames in cells.values()
                if WORK in str(frames)
            ]
            if len(busy) == 1 and not (self.awaited.parent / "checkpoint").exists():
                os.kill(processes[busy[0]], signal.SIGKILL)
                self.killed = busy[0]


@pytest.mark.slow
def test_a_matrix_is_the_same_on_two_workers_one_of_which_is_killed(
    cluster: Any, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of a pretraining, which goes on elsewhere from its last saved step; paths are relative."""
    monkeypatch.chdir(tmp_path)
    long = {"training": replace(TRAINING, steps=60, val_every=30, save_every=4)}
    matrix(config(small_store, Path("alone"), **long))
    spread = config(small_store, Path("spread"), **long, scheduler=cluster.scheduler_address)
    killer = Killer(cluster.scheduler_address, tmp_path / "spread/recipes/arrow-of-time/seed0/last.ckpt")
    killer.start()
    matrix(spread)
    killer.join()
    assert killer.killed
    assert results(tmp_path / "spread") == results(tmp_path / "alone")
    # The folder is held by the command, not by its workers; what is finished is only looked at.
    cells = tmp_path / "spread" / "cells"
    times = {file: file.stat().st_mtime_ns for file in cells.iterdir()}
    with locked(Path("spread")), pytest.raises(EarthSSLError, match="in use by another process"):
        matrix(spread)
    matrix(spread)
    assert {file: file.stat().st_mtime_ns for file in cells.iterdir()} == times


@pytest.mark.slow
def test_an_audit_is_the_same_on_two_workers(cluster: Any, small_store: Path, tmp_path: Path) -> None:
    tasks = {"order": {"kind": "order"}, "orientation": {}}
    made = {}
    for name, address in (("alone", ""), ("spread", cluster.scheduler_address)):
        out = tmp_path / name
        audit(AuditConfig(str(small_store), str(out), tasks, ENCODER, TRAINING, eval_batch=5, fit_batches=4, draws=200,
                          scheduler=address))  # fmt: skip
        made[name] = results(out)
    assert made["spread"] == made["alone"]


def test_nothing_is_begun_where_no_scheduler_answers(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "timeout_s", 1.0)
    own = config(small_store, tmp_path / "m", scheduler="tcp://127.0.0.1:1")
    with pytest.raises(
        EarthSSLError, match=r"matrix\.scheduler: expected a dask\.distributed scheduler with workers at"
    ):
        matrix(own)
    assert not (tmp_path / "m").exists()
    with pytest.raises(EarthSSLError, match=r"matrix\.scheduler: expected the address .* got 'here'"):
        replace(own, scheduler="here")
    with pytest.raises(EarthSSLError, match=r"audit\.scheduler: expected the address .* got 'here'"):
        AuditConfig("s", "o", {"order": {}}, scheduler="here")

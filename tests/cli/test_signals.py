"""The command line as real processes that are stopped, or lose their store, in the middle of the work."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from earthssl.cli.main import main
from earthssl.ssl.runtime.launch import launch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Long enough to be met in the middle: a state is saved at every step, so that the first one says that it trains.
TRAINING: dict[str, Any] = {
    "steps": 30, "batch_size": 8, "warmup_steps": 2, "val_every": 15, "save_every": 1, "log_every": 2, "ema": 0.9,
    "accelerator": "cpu", "precision": "32-true",
}  # fmt: skip
PRETRAIN: dict[str, Any] = {
    "encoder": {"size": "nano", "window": 3, "patch": [1, 2, 3], "drop_path": 0.2},
    "objectives": {"masking": {}},
    "training": TRAINING,
}


def command(folder: Path, content: dict[str, Any], verb: str, *words: str) -> list[str]:
    """Write a config and return the words of the command line that reads it."""
    (folder / "it.yaml").write_text(yaml.safe_dump(content))
    return [verb, "--config", str(folder / "it.yaml"), *words]


def meet(words: list[str], when: Callable[[], bool], act: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
    """Start the command line, act on it as soon as `when` holds, and return its status and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "earthssl", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 600
        while not when():
            if process.poll() is not None:
                raise AssertionError(
                    f"it ended by itself with {process.returncode}: {process.communicate()[1][-3000:]}"
                )
            assert time.monotonic() < deadline, "it never came to the moment"
            time.sleep(0.01)
        act(process)
        _, said = process.communicate(timeout=300)
        return process.returncode, said
    finally:
        process.kill()
        process.wait()


def terminate(process: subprocess.Popen[str]) -> None:
    """Send SIGTERM to the process that was started, as a scheduler does."""
    process.send_signal(signal.SIGTERM)


def step(run: Path) -> int:
    """Return the step of a run's last saved state, which must be whole."""
    return int(torch.load(run / "last.ckpt", weights_only=True)["global_step"])


def weights(run: Path) -> tuple[bytes, ...]:
    """Return the bytes of a finished run's weights."""
    return tuple((run / "checkpoint" / f"{part}.safetensors").read_bytes() for part in ("encoder", "heads"))


def validations(run: Path) -> list[tuple[str, ...]]:
    """Return the lines of a run's history that a stop does not change: means of training begin anew after it."""
    with open(run / "history.csv", newline="") as handle:
        return [tuple(row.values()) for row in csv.DictReader(handle) if row["name"].startswith(("val/", "health/"))]


def test_two_processes_are_stopped_and_go_on(small_store: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher: both save together, it ends with 143, and --resume comes to the same weights."""
    content = {"pretrain": {**PRETRAIN, "training": {**TRAINING, "devices": 2, "batch_size": 4}}}
    run = tmp_path / "run"
    words = command(tmp_path, content, "pretrain", "--store", str(small_store), "--out", str(run))
    status, said = meet(words, (run / "last.ckpt").is_file, terminate)
    assert status == 128 + signal.SIGTERM, said
    stopped = step(run)
    assert f"earthssl pretrain: saved at step {stopped}; --resume goes on" in said
    assert 0 < stopped < TRAINING["steps"]
    assert not (run / "checkpoint").exists()

    def work() -> Path:
        from dataclasses import replace

        from earthssl.pretext import TASKS
        from earthssl.ssl.common.config import build
        from earthssl.ssl.training.pretrain import PretrainConfig, pretrain

        own = {**content["pretrain"], "store": str(small_store)}
        pretrain(build(PretrainConfig, {**own, "out": str(tmp_path / "whole")}, "pretrain"), TASKS)
        return pretrain(replace(build(PretrainConfig, {**own, "out": str(run)}, "pretrain"), resume=True), TASKS)

    assert launch(work, 2, 2) == run / "checkpoint"
    assert weights(run) == weights(tmp_path / "whole")
    assert validations(run) == validations(tmp_path / "whole")


def test_run_is_stopped_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """In training and then in the probe: what is finished stays, and the scores are those of a run left alone."""
    content = {
        "prepare": {
            "source": "planet",
            "options": {"years": 60, "variables": ["sst", "u10"]},
            "splits": {"train": ["1900-01", "1931-12"], "val": ["1934-01", "1944-12"], "test": ["1947-01", "1959-12"],
                       "embargo_days": 365},
        },
        "pretrain": {**PRETRAIN, "encoder": {**PRETRAIN["encoder"], "patch": [1, 8, 8]}, "licence": "none"},
        "probe": {"leads": [1, 3], "poolings": ["mean"], "components": [5], "untrained_seeds": 1, "draws": 1000,
                  "scratch": {"seeds": 1, "steps": 10, "check_every": 5}},
        "report": {"title": "A test"},
    }  # fmt: skip
    out, run = tmp_path / "out", tmp_path / "out" / "pretrain-seed0"
    words = command(tmp_path, content, "run", "--out", str(out))
    status, said = meet(words, (run / "last.ckpt").is_file, terminate)
    assert status == 128 + signal.SIGTERM, said
    assert f"earthssl run: saved at step {step(run)}; the same command goes on" in said
    assert 0 < step(run) < TRAINING["steps"]
    store = (out / "store" / "manifest.json").stat().st_mtime_ns
    status, said = meet(words, (run / "checkpoint").exists, terminate)
    assert status == 128 + signal.SIGTERM, said
    assert "the same command goes on" in said
    assert not (out / "report.html").exists()
    trained = (run / "checkpoint" / "encoder.safetensors").stat().st_mtime_ns
    assert main(words) == 0
    assert (out / "store" / "manifest.json").stat().st_mtime_ns == store
    assert (run / "checkpoint" / "encoder.safetensors").stat().st_mtime_ns == trained
    assert main(command(tmp_path, content, "run", "--out", str(tmp_path / "whole"))) == 0
    whole = tmp_path / "whole" / "pretrain-seed0"
    assert weights(run) == weights(whole)
    assert validations(run) == validations(whole)
    assert (out / "probe" / "scores.csv").read_bytes() == (tmp_path / "whole" / "probe" / "scores.csv").read_bytes()


def test_matrix_is_stopped_and_the_same_command_goes_on(small_store: Path, tmp_path: Path) -> None:
    """Encoders trained side by side are saved, no cell is half done, and the cells are those of one left alone."""
    content = {
        "matrix": {
            "recipes": {"masking": {"masking": {}}, "order": {"order": {"frames": 3}}},
            "tasks": {"forecast": {"leads": [1]}},
            "encoder": PRETRAIN["encoder"],
            "training": {name: value for name, value in TRAINING.items() if name != "ema"},
            "layers": [0, 2],
            "draws": 1000,
            "jobs": 2,
        }
    }
    out = tmp_path / "out"
    runs = [out / "recipes" / name / "seed0" for name in ("masking", "order")]
    words = command(tmp_path, content, "matrix", "--store", str(small_store), "--out", str(out))
    status, said = meet(words, lambda: any((run / "last.ckpt").is_file() for run in runs), terminate)
    assert status == 128 + signal.SIGTERM, said
    assert "the same command goes on" in said
    begun = [run for run in runs if (run / "last.ckpt").is_file()]
    assert begun
    reached = [step(run) for run in begun]  # 0 where the signal came before the first step
    assert 0 <= min(reached) <= max(reached) < TRAINING["steps"]
    assert not (out / "report").exists()
    assert main([*words, "--jobs", "1"]) == 0
    assert (
        main(command(tmp_path, content, "matrix", "--store", str(small_store), "--out", str(tmp_path / "whole"))) == 0
    )
    for run in runs:
        whole = tmp_path / "whole" / "recipes" / run.parent.name / "seed0"
        assert weights(run) == weights(whole)
    mine, theirs = (sorted((folder / "cells").iterdir()) for folder in (out, tmp_path / "whole"))
    assert [file.name for file in mine] == [file.name for file in theirs]
    assert len(mine) >= 4
    for one, other in zip(mine, theirs, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_finetune_is_killed_and_the_same_command_goes_on(
    small_store: Path, small_run: Path, small_data: Any, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a training: every table and the weights are those of one left alone."""
    days = small_data["time"].dt.strftime("%Y-%m-%d").values
    wind = small_data["u10"][:, 2:5, 0:3].mean(("lat", "lon")).values
    lines = ["time,wind", *(f"{day},{value}" for day, value in zip(days, wind, strict=True))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    content = {
        "finetune": {
            "checkpoint": str(small_run), "store": str(small_store), "labels": str(tmp_path / "labels.csv"),
            "target": "wind", "compare": ["last"], "steps": 40, "check_every": 2, "warmup_steps": 4, "seeds": 1,
            "scratch_seeds": 1, "untrained_seeds": 0, "random_seeds": 0, "layers": [-1], "fractions": [0.2, 1.0],
            "label_draws": 1, "unit": "month",
        }
    }  # fmt: skip
    out, left = tmp_path / "out", tmp_path / "out.unfinished"
    words = command(tmp_path, content, "finetune", "--out", str(out))
    status, _ = meet(words, (left / "full-seed0.state.pt").is_file, lambda process: process.kill())
    assert status == -signal.SIGKILL
    assert (left / "scratch-seed0.pt").is_file()
    assert not out.exists()
    begun = (left / "scratch-seed0.pt").stat().st_mtime_ns
    status, said = meet(words, (left / "last-seed0.pt").is_file, lambda process: process.kill())
    assert status == -signal.SIGKILL, said
    assert "going on: 1 networks are done" in said
    assert (left / "scratch-seed0.pt").stat().st_mtime_ns == begun
    assert main(words) == 0
    assert not left.exists()
    whole = tmp_path / "whole"
    assert main(command(tmp_path, content, "finetune", "--out", str(whole))) == 0
    names = ["scores.csv", "differences.csv", "label_curve.csv", "distribution.csv"]
    for name in [*names, "checkpoint/encoder.safetensors", "checkpoint/task.safetensors"]:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_audit_is_killed_and_the_same_command_goes_on(small_store: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a solver: it goes on from its last state, and every table is that of one left alone."""
    content = {
        "audit": {
            "objectives": {"order": {"frames": 3}},
            "encoder": PRETRAIN["encoder"],
            "training": {name: value for name, value in TRAINING.items() if name != "ema"},
            "eval_batch": 5,
            "draws": 200,
        }
    }
    out = tmp_path / "out"
    solvers = out / "solvers" / "order"
    words = command(tmp_path, content, "audit", "--store", str(small_store), "--out", str(out))
    status, said = meet(words, (solvers / "position-run" / "last.ckpt").is_file, lambda process: process.kill())
    assert status == -signal.SIGKILL, said
    first = (solvers / "task.csv").stat().st_mtime_ns
    assert 0 < step(solvers / "position-run") < TRAINING["steps"]
    assert main(words) == 0
    assert (solvers / "task.csv").stat().st_mtime_ns == first
    assert main(command(tmp_path, content, "audit", "--store", str(small_store), "--out", str(tmp_path / "whole"))) == 0
    for name in ("scores", "differences", "excess", "budget"):
        assert (out / "report" / f"{name}.csv").read_bytes() == (
            tmp_path / "whole" / "report" / f"{name}.csv"
        ).read_bytes(), name


@pytest.mark.parametrize("lost", ["a chunk", "the folder"])
def test_a_store_that_vanishes_ends_the_run_clearly(lost: str, small_store: Path, tmp_path: Path) -> None:
    """Status 2 and one line that names the file; the last state is whole, and with the store back the run goes on."""
    store, run = tmp_path / "store", tmp_path / "run"
    shutil.copytree(small_store, store)
    chunks = sorted(file for file in (store / "fields").rglob("*") if file.is_file() and file.name != "zarr.json")
    assert len(chunks) > 3
    content = {"pretrain": {**PRETRAIN, "training": {**TRAINING, "data": "streaming"}}}
    words = command(tmp_path, content, "pretrain", "--store", str(store), "--out", str(run))

    def lose(process: subprocess.Popen[str]) -> None:
        if lost == "a chunk":
            os.unlink(chunks[1])
        else:
            shutil.rmtree(store)

    status, said = meet(words, (run / "last.ckpt").is_file, lose)
    assert status == 2, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("earthssl pretrain: ")
    assert str(store) in last
    assert "restore the store and resume the run" in last
    reached = step(run)
    assert 0 < reached < TRAINING["steps"]
    assert not (run / "checkpoint").exists()
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(small_store, store)
    assert main([*words, "--resume", "true"]) == 0
    assert main([*words[:-1], str(tmp_path / "whole")]) == 0
    assert weights(run) == weights(tmp_path / "whole")


def test_what_was_heard_is_not_forgotten_by_work_in_another_thread() -> None:
    def other() -> None:
        with heard():
            pass

    with deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested() == signal.SIGTERM
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert requested() == signal.SIGTERM
    assert not requested()

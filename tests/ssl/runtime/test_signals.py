"""SIGTERM and SIGUSR1 save at the next step, end with a status of their own, and the run goes on to the same bytes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli import main
from earthssl.pretext import TASKS
from earthssl.pretext.audit import AuditConfig, _Solvers, audit_task
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.runtime.parallel import run_jobs
from earthssl.ssl.runtime.signals import Stopped, between_steps, deferred, heard, requested
from earthssl.ssl.training.budget import StudyTraining


def weights(checkpoint: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the encoder's and the heads' weights."""
    return (checkpoint / "encoder.safetensors").read_bytes(), (checkpoint / "heads.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("signum", "batch", "step", "more"),
    [
        (signal.SIGTERM, 4, 4, {}),  # batches are fetched one ahead
        (signal.SIGUSR1, 11, 6, {"accumulate": 2, "ema": 0.9, "patience": 3}),  # in half a step; 6 validates
    ],
)
def test_a_signal_saves_and_ends(
    signum: int, batch: int, step: int, more: dict[str, Any],
    small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Sent while a batch is fetched; Lightning's own handler, which would lose the work, is not the one that runs."""
    whole = small_pretrain(tmp_path / "whole", save_every=100, **more)
    get = TrainLoader.get

    def sending(self: TrainLoader, number: int) -> Any:
        if number == batch:
            os.kill(os.getpid(), signum)
        return get(self, number)

    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "get", sending)
        with pytest.raises(Stopped, match=f"saved at step {step}") as stopped:
            small_pretrain(tmp_path / "run", save_every=100, **more)
    assert stopped.value.status == 128 + signum
    assert signal.getsignal(signum) == before
    assert not requested()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert weights(small_pretrain(tmp_path / "run", save_every=100, resume=True, **more)) == weights(whole)


def test_outside_training_a_signal_ends_at_once() -> None:
    """Not so inside `deferred`, where the work asks; what was heard inside is known outside; nothing is left over."""
    with pytest.raises(Stopped), heard():
        os.kill(os.getpid(), signal.SIGTERM)
    with heard():
        between_steps()
        with deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert requested() == signal.SIGUSR1
        with pytest.raises(Stopped) as stopped:
            between_steps()
    assert stopped.value.status == 138
    assert not requested()  # or a training that is called from Python next would end before its first step


def test_a_study_called_from_python_saves_and_goes_on_in_the_same_process(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing around its trainings listens: they do, and forget."""
    training = StudyTraining(steps=4, batch_size=8, val_every=2, accelerator="cpu")
    shape = EncoderConfig("nano", 3, (1, 2, 3))
    config = AuditConfig(str(small_store), str(tmp_path), {"order": {}}, shape, training, 5, draws=200)
    get, solvers = TrainLoader.get, _Solvers.all
    monkeypatch.setattr(_Solvers, "all", lambda self: islice(solvers(self), 1))  # the task itself

    def sending(self: TrainLoader, number: int) -> Any:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return get(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "get", sending)
        with pytest.raises(Stopped, match="saved at step 3"):
            audit_task("order", TASKS["order"](), config)
    assert len(audit_task("order", TASKS["order"](), config)) > 1


def test_the_command_line_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status and message."""

    def stopping(*_: Any) -> None:
        raise Stopped(signal.SIGTERM, "saved at step 5")

    monkeypatch.setattr(main, "_run", stopping)
    assert main.main(["pretrain", "--config", "x.yaml"]) == 143
    assert "earthssl pretrain: saved at step 5; --resume goes on" in capsys.readouterr().err
    assert main.main(["run", "--config", "x.yaml"]) == 143
    assert "earthssl run: saved at step 5; the same command goes on" in capsys.readouterr().err


def test_pieces_side_by_side_end_in_their_own_way(tmp_path: Path) -> None:
    """A signal to the parent reaches the processes at work; the rest is not begun."""

    def signalled(parent: int, number: int) -> int:
        with deferred():
            (tmp_path / str(number)).touch()
            if number == 1:
                while not (tmp_path / "0").exists():  # both are at work
                    time.sleep(0.02)
                os.kill(parent, signal.SIGTERM)
            for _ in range(1000):
                time.sleep(0.02)
                if requested():
                    raise Stopped(requested(), "saved")
        return number

    with pytest.raises(Stopped, match="saved") as stopped:
        run_jobs(signalled, [(os.getpid(), number) for number in range(4)], 2)
    assert stopped.value.signum == signal.SIGTERM
    assert not (tmp_path / "3").exists()

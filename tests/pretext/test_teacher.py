"""The teacher: an average by hand, never trained, a function of the run's progress, in a run as on paper."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from earthssl.pretext.teacher import Teacher
from earthssl.ssl.common.errors import EarthSSLError
from torch import nn


def network() -> nn.Sequential:
    """Return a network with weights, running statistics and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def moved(student: nn.Module, seed: int) -> None:
    """Change all weights and buffers as a step of training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in [*student.parameters(), *(b for b in student.buffers() if b.is_floating_point())]:
            x.add_(torch.randn(x.shape, generator=generator))


def test_the_average_by_hand() -> None:
    """One weight, 0 at first; the student at 1: after each step τ w + (1 - τ), τ = 1 - (1 - .5)(1 + cos πp)/2."""
    student = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(student.weight)
    teacher = Teacher(student, 0.5)
    nn.init.ones_(student.weight)
    weight = 0.0
    # Progress 1/3, 2/3, 1: cosines 1/2, -1/2, -1.
    for progress, tau in ((1 / 3, 0.625), (2 / 3, 0.875), (1.0, 1.0)):
        teacher.follow(student, progress)
        weight = tau * weight + 1 - tau
        assert teacher.tau == pytest.approx(tau)
        assert float(teacher.network.weight.detach()) == pytest.approx(weight)


def test_it_starts_as_the_student_and_shares_nothing() -> None:
    """Equal outputs at first; training the student leaves it alone."""
    student = network()
    teacher = Teacher(student, 0.9)
    before = copy.deepcopy(teacher.state_dict())
    x = torch.randn(5, 3)
    torch.testing.assert_close(teacher(x), student.eval()(x))
    student.train()
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=1.0)
    (student(x) ** 2).mean().backward()
    optimizer.step()
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())


def test_it_is_never_trained() -> None:
    """No gradients, no training mode whatever is asked of the parent, no dropout, statistics untouched."""
    parent = nn.Module()
    parent.teacher = Teacher(network(), 0.9)
    parent.train()
    teacher: Teacher = parent.teacher
    assert not any(part.training for part in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    x = torch.randn(6, 3, requires_grad=True)
    before = copy.deepcopy(teacher.state_dict())
    assert not teacher(x).requires_grad
    assert torch.equal(teacher(x), teacher(x))
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())


def test_buffers_are_copied_and_weights_averaged() -> None:
    """Running statistics, and the count of batches, are the student's; weights lie in between."""
    student = network()
    teacher = Teacher(student, 0.9)
    old = copy.deepcopy(teacher.state_dict())
    student.train()(torch.randn(8, 3))
    moved(student, 1)
    teacher.follow(student, 0.5)
    new, tau = teacher.network.state_dict(), teacher.tau
    for name, value in student.state_dict().items():
        if name in dict(student.named_buffers()):
            assert torch.equal(new[name], value)
        else:
            torch.testing.assert_close(new[name], tau * old[f"network.{name}"] + (1 - tau) * value)
    assert int(new["1.num_batches_tracked"]) == 1


def test_it_goes_on_from_its_state() -> None:
    """Saved and loaded in the middle equals in one go, bit for bit; nothing but the weights has to be saved."""
    student = network()
    teacher = Teacher(student, 0.9)
    saved = None
    for step in range(1, 11):
        moved(student, step)
        teacher.follow(student, step / 10)
        if step == 4:
            saved = copy.deepcopy((student.state_dict(), teacher.state_dict()))
    assert saved is not None
    other = network()
    again = Teacher(other, 0.9)
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for step in range(5, 11):
        moved(other, step)
        again.follow(other, step / 10)
    assert again.tau == teacher.tau == 1.0
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Progress and τ of every step at which a teacher of an encoder follows, from now on."""
    found: list[tuple[float, float]] = []
    follow = Teacher.follow

    def noting(self: Teacher, student: nn.Module, progress: float, taken: Any) -> None:
        follow(self, student, progress, taken)
        if type(student).__name__ == "Encoder":
            found.append((progress, self.tau))

    monkeypatch.setattr(Teacher, "follow", noting)
    return found


@pytest.mark.slow
def test_in_a_run_it_follows_once_a_step(
    followed: list[tuple[float, float]], small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """With four batches a step, endless data and no number of epochs: τ rises step by step to exactly 1.

    Interrupted and resumed, it goes on to the same bytes.
    """
    tasks: dict[str, Any] = {"byol": {"tau": 0.9}, "latent": {"tau": 0.9}}
    options = {"accumulate": 4, "steps": 5, "val_every": 5, "save_every": 2, "batch_size": 4}
    whole = small_pretrain(tmp_path / "whole", tasks, **options)
    assert [progress for progress, _ in followed] == [step / 5 for step in range(1, 6) for _ in range(2)]
    taus = [tau for _, tau in followed]
    assert taus == sorted(taus)
    assert taus[-1] == 1.0
    assert max(taus[:-2]) < 1
    followed.clear()
    stop = pytest.MonkeyPatch()
    with stop.context() as patch:
        patch.setattr("earthssl.ssl.training.module.Pretraining.on_train_batch_start", _stop_at_step(3))
        with pytest.raises(InterruptedError):
            small_pretrain(tmp_path / "run", tasks, **options)
    followed.clear()
    resumed = small_pretrain(tmp_path / "run", tasks, resume=True, **options)
    assert [progress for progress, _ in followed] == [step / 5 for step in (3, 4, 5) for _ in range(2)]
    for name in ("encoder.safetensors", "heads.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def _stop_at_step(step: int) -> Callable[..., None]:
    from earthssl.ssl.training.module import Pretraining

    start = Pretraining.on_train_batch_start

    def stopping(self: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step >= step:
            raise InterruptedError
        start(self, batch, batch_idx)

    return stopping


def test_bad_input_is_refused() -> None:
    """Shares and progress out of range, another network."""
    for tau in (1.0, -0.1, float("nan")):
        with pytest.raises(EarthSSLError, match="tau"):
            Teacher(network(), tau)
    teacher = Teacher(network(), 0.9)
    for progress in (0.0, 1.01, float("nan")):
        with pytest.raises(EarthSSLError, match="progress"):
            teacher.follow(network(), progress)
    for other in (nn.Linear(3, 4), nn.Sequential(*list(network())[:3]), network().append(nn.BatchNorm1d(2))):
        with pytest.raises(EarthSSLError, match="other parameters or buffers"):
            teacher.follow(other, 0.5)

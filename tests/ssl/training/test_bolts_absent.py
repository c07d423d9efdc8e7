"""Without lightning-bolts the same pieces come from torch and timm: the same numbers, step by step.

The tests beside each other need Bolts; those without it run everywhere.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from earthssl.ssl.training import lightning_bolts
from earthssl.ssl.training.lightning_bolts import (
    WarmupCosine,
    WeightUpdate,
    lars,
    linear_classifier,
    warmup_cosine,
    weight_update,
)
from torch import nn

needs_bolts = pytest.mark.skipif(importlib.util.find_spec("pl_bolts") is None, reason="lightning-bolts is an extra")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Calls something as if Bolts were not installed."""

    def call(make: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(lightning_bolts, "_piece", lambda *_: None)
            return make()

    return call


def network(seed: int = 0) -> nn.Sequential:
    """Return a network with weights, zero biases and a norm with running statistics."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    nn.init.zeros_(made[0].bias)
    return made


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Take a step on a batch that belongs to its number."""
    x = torch.randn(16, 7, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    (net(x) ** 2).mean().backward()
    optimizer.step()


@needs_bolts
def test_bolts_is_taken_where_it_is(without: Any) -> None:
    """So that the comparisons below compare two things."""
    optimizer = torch.optim.SGD(network().parameters(), lr=1.0)
    makers: list[Callable[[], Any]] = [
        lambda: warmup_cosine(optimizer, 1, 2),
        lambda: lars(network().parameters(), 0.1, 1e-4),
        lambda: linear_classifier(2, 2),
        lambda: weight_update(0.9)._bolts,  # type: ignore[attr-defined]
    ]
    for make in makers:
        assert any(kind.__module__.startswith("pl_bolts") for kind in type(make()).__mro__)
    assert type(without(makers[0])) is WarmupCosine
    assert type(without(makers[1])).__module__.startswith("timm")
    assert type(without(makers[2])) is nn.Sequential
    assert type(without(lambda: weight_update(0.9))) is WeightUpdate


def test_a_piece_that_no_longer_imports_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It wants what a later torch or Lightning does not have."""

    def gone(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(lightning_bolts.importlib, "import_module", gone)
    assert type(weight_update(0.9)) is WeightUpdate


@needs_bolts
@pytest.mark.parametrize(("warmup", "total"), [(1, 2), (1, 50), (2, 3), (10, 100), (40, 200), (99, 100), (300, 2000)])
def test_the_schedules_are_equal_to_the_bit(warmup: int, total: int, without: Any) -> None:
    """Every step of two groups, to beyond the end."""
    first, second = (
        torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.3, 1e-3)]) for _ in range(2)
    )
    theirs = warmup_cosine(first, warmup, total)
    ours = without(lambda: warmup_cosine(second, warmup, total))
    for step in range(total + 10):
        assert [g["lr"] for g in first.param_groups] == [g["lr"] for g in second.param_groups], step
        assert theirs.get_last_lr() == ours.get_last_lr()
        for optimizer, schedule in ((first, theirs), (second, ours)):
            optimizer.step()
            schedule.step()


@needs_bolts
@pytest.mark.parametrize("stop", [1, 4, 5, 17])
def test_a_schedule_goes_on_from_the_others_state(stop: int, without: Any) -> None:
    """Saved with Bolts and loaded without it, and the other way round: the rates of one go."""

    def start(absent: bool) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
        make = partial(warmup_cosine, optimizer, 5, 30)
        return optimizer, without(make) if absent else make()

    def rates(optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    whole = rates(*start(False), 35)
    for absent in (False, True):
        optimizer, schedule = start(absent)
        before = rates(optimizer, schedule, stop)
        state = pickle.loads(pickle.dumps([optimizer.state_dict(), schedule.state_dict()]))
        optimizer, schedule = start(not absent)
        optimizer.load_state_dict(state[0])
        schedule.load_state_dict(state[1])
        assert before + rates(optimizer, schedule, 35 - stop) == whole


@needs_bolts
def test_lars_is_equal_step_by_step(without: Any) -> None:
    """Thirty steps with rates that change, two groups, biases that begin at 0: weights and momenta to rounding."""
    nets, optimizers = [], []
    for absent in (False, True):
        net = network()
        groups = [{"params": net[0].parameters()}, {"params": net[1:].parameters(), "weight_decay": 1e-2}]
        make = partial(lars, groups, lr=0.2, weight_decay=1e-4)
        nets.append(net)
        optimizers.append(without(make) if absent else make())
    schedules = [warmup_cosine(optimizer, 5, 30) for optimizer in optimizers]
    for step in range(30):
        for net, optimizer, schedule in zip(nets, optimizers, schedules, strict=True):
            descend(net, optimizer, step)
            schedule.step()
        for (name, first), second in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(first, second, rtol=2e-6, atol=1e-7, msg=f"{name} at step {step}")
            momenta = (own.state[p]["momentum_buffer"] for own, p in zip(optimizers, (first, second), strict=True))
            torch.testing.assert_close(*momenta, rtol=1e-5, atol=1e-7)


@needs_bolts
@pytest.mark.parametrize("taken", [1.0, torch.tensor(1), torch.tensor(0)])
def test_the_weight_updates_are_equal_to_the_bit(taken: Any, without: Any) -> None:
    """τ, parameters and buffers after every one of twenty steps, those that were skipped on the device too."""
    online = network(1)
    optimizer = torch.optim.SGD(online.parameters(), lr=0.5)
    first, second = copy.deepcopy(network(2)), copy.deepcopy(network(2))
    theirs, ours = weight_update(0.8), without(lambda: weight_update(0.8))
    for step in range(1, 21):
        descend(online, optimizer, step)
        for update, target in ((theirs, first), (ours, second)):
            update.follow(online, target, step / 20, taken)
        assert theirs.current_tau == ours.current_tau
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), (name, step)
    assert ours.current_tau == 1.0


@needs_bolts
def test_the_linear_heads_are_equal_to_the_bit(without: Any) -> None:
    """The same start, the same dropout, the same weights after each of fifty steps, the same answers."""
    trained = []
    for absent in (False, True):
        torch.manual_seed(3)
        head = without(lambda: linear_classifier(7, 4)) if absent else linear_classifier(7, 4)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        seen = []
        for step in range(50):
            descend(head, optimizer, step)
            seen.append([p.detach().clone() for p in head.parameters()])
        trained.append((seen, head.eval()(torch.ones(3, 7)).detach()))
    (first, answers), (second, others) = trained
    for step, (own, other) in enumerate(zip(first, second, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True)), step
    assert torch.equal(answers, others)


@needs_bolts
def test_a_run_has_the_same_bytes_with_and_without(
    small_pretrain: Callable[..., Path], tmp_path: Path, without: Any
) -> None:
    """A whole pretraining with teachers, and one that stops with Bolts and goes on without it."""
    tasks: dict[str, Any] = {"byol": {}, "masking": {}}

    def weights(checkpoint: Path) -> tuple[bytes, bytes]:
        return (checkpoint / "encoder.safetensors").read_bytes(), (checkpoint / "heads.safetensors").read_bytes()

    whole = small_pretrain(tmp_path / "with", tasks)
    assert weights(without(lambda: small_pretrain(tmp_path / "without", tasks))) == weights(whole)

    class Stopped(Exception):
        """At step 6."""

    from earthssl.ssl.training.callbacks import SaveLast

    end = SaveLast.on_train_batch_end

    def stopping(self: Any, trainer: Any, *rest: Any) -> None:
        end(self, trainer, *rest)
        if trainer.global_step == 7:
            raise Stopped

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SaveLast, "on_train_batch_end", stopping)
        with pytest.raises(Stopped):
            small_pretrain(tmp_path / "half", tasks)
    resumed = without(lambda: small_pretrain(tmp_path / "half", tasks, resume=True))
    assert weights(resumed) == weights(whole)


def test_the_schedule_is_the_closed_form_without_bolts(without: Any) -> None:
    """Linear to the peak at step 9 and 10, then 0.3 × (1 + cos) / 2 to 0 at 50, and 0 after it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = without(lambda: warmup_cosine(optimizer, 10, 50))
    found = []
    for _ in range(60):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    steps = torch.arange(60.0)
    expected = 0.15 * (1 + torch.cos(torch.pi * ((steps - 10) / 40).clamp(0, 1)))
    expected[:10] = 0.3 * steps[:10] / 9
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-6)
    assert found[50:] == [0.0] * 10


def test_following_without_bolts(without: Any) -> None:
    """By hand: τ0 .5 at half the run is .75; a quarter of the way from 0 to 4 is 1."""
    online, target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(online.weight, 4)
    nn.init.zeros_(target.weight)
    update = without(lambda: weight_update(0.5))
    update.follow(online, target, 0.5)
    assert update.current_tau == pytest.approx(0.75)
    assert target.weight.item() == pytest.approx(1)

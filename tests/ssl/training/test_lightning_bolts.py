"""The pieces of lightning-bolts and those that stand in for it: right where they are used, every known trap closed."""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.training import lightning_bolts
from earthssl.ssl.training.lightning_bolts import _make, _piece, lars, linear_classifier, warmup_cosine, weight_update
from timm.optim import Lars
from torch import nn

INSTALLED = importlib.util.find_spec("pl_bolts") is not None
needs_bolts = pytest.mark.skipif(not INSTALLED, reason="lightning-bolts is an extra")


@pytest.fixture(autouse=True, params=[pytest.param("bolts", marks=needs_bolts), "torch and timm"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test twice: with Bolts, and as where it is not installed."""
    if request.param != "bolts":
        monkeypatch.setattr(lightning_bolts, "_piece", lambda *_: None)


def rates(warmup: int, total: int, steps: int, lr: float = 0.3) -> list[float]:
    """Return the rate of every step."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=lr)
    schedule = warmup_cosine(optimizer, warmup, total)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


@pytest.mark.parametrize(("warmup", "total"), [(1, 2), (1, 50), (10, 100), (40, 200), (99, 100)])
def test_schedule_is_the_closed_form(warmup: int, total: int) -> None:
    """Linear to the peak, then 0.3 × (1 + cos) / 2, to 1e-5 of the peak; 0 at the end and ever after."""
    found = rates(warmup, total, 3 * total)
    for step, rate in enumerate(found):
        if step < warmup:
            expected = step / max(warmup - 1, 1)
        else:
            expected = (1 + math.cos(math.pi * min((step - warmup) / (total - warmup), 1))) / 2
        assert rate / 0.3 == pytest.approx(expected, abs=1e-5)
    assert max(found) == pytest.approx(0.3, rel=1e-6)
    assert all(rate == 0 for rate in found[total:])


def test_two_groups_keep_their_ratio() -> None:
    """Each group follows its own peak."""
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.4)]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(optimizer, 5, 20)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second / first == pytest.approx(4)


def test_a_schedule_goes_on_from_its_state() -> None:
    """Saved and loaded in the middle, it gives the same rates as in one go."""

    def start() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
        return optimizer, warmup_cosine(optimizer, 5, 30)

    optimizer, schedule = start()
    for _ in range(11):
        optimizer.step()
        schedule.step()
    state = pickle.loads(pickle.dumps([optimizer.state_dict(), schedule.state_dict()]))
    optimizer, schedule = start()
    optimizer.load_state_dict(state[0])
    schedule.load_state_dict(state[1])
    found = []
    for _ in range(19):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == rates(5, 30, 30)[11:]


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (2.5, 10), (10, 10), (2, 10.0), (-1, 10)])
def test_schedules_that_would_go_wrong_are_refused(warmup: Any, total: Any) -> None:
    """Warm-up 0 stays at 0 for ever, a fractional one overshoots."""
    with pytest.raises(EarthSSLError, match="whole numbers with 1 ≤ warmup_steps < steps"):
        warmup_cosine(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), warmup, total)


def test_lars_is_timms() -> None:
    """Ten steps on a small network with weight decay 1e-4: the same weights."""
    results = []
    for make in (
        lambda p: lars(p, lr=0.2, weight_decay=1e-4),
        lambda p: Lars(p, lr=0.2, weight_decay=1e-4, momentum=0.9),
    ):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
        optimizer = make(net.parameters())
        for step in range(10):
            x = torch.randn(16, 7, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (net(x) ** 2).mean().backward()
            optimizer.step()
        results.append([p.detach() for p in net.parameters()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_lars_without_decay_is_refused() -> None:
    """There it would be plain SGD: for all parameters, or in one group."""
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(EarthSSLError, match="weight_decay > 0"):
        lars([parameter], lr=0.1, weight_decay=0.0)
    groups = [{"params": [parameter], "weight_decay": 0.0}]
    with pytest.raises(EarthSSLError, match="every group"):
        lars(groups, lr=0.1, weight_decay=1e-4)


def test_the_classifier_is_linear() -> None:
    """In evaluation f(a + b) - f(b) = f(a) - f(0); one weight matrix and one bias."""
    head = linear_classifier(6, 3).eval()
    a, b = torch.randn(2, 4, 6)
    zero = torch.zeros(4, 6)
    torch.testing.assert_close(head(a + b) - head(b), head(a) - head(zero))
    assert sorted(tuple(p.shape) for p in head.parameters()) == [(3,), (3, 6)]


def followed(steps: int, follow: Any) -> list[tuple[float, float]]:
    """Return τ and the target's weight after each step; the online weight is the step's number."""
    online, target = (nn.Linear(1, 1, bias=False) for _ in range(2))
    nn.init.zeros_(target.weight)
    found = []
    for step in range(1, steps + 1):
        nn.init.constant_(online.weight, step)
        found.append((follow(online, target, step), float(target.weight.detach())))
    return found


@needs_bolts
def test_the_weight_update_is_bolts_in_the_plain_case() -> None:
    """One batch a step, all batches of every epoch: Bolts' own τ after each step, and its average with that τ."""
    # The name in this file is the function itself, whichever way the test runs.
    piece = _make(_piece("callbacks.byol_updates", "BYOLMAWeightUpdate"), 0.9)
    ours = weight_update(0.9)

    def bolts(online: nn.Module, target: nn.Module, step: int) -> float:
        trainer = SimpleNamespace(train_dataloader=range(5), max_epochs=4)
        returned = piece.update_tau(SimpleNamespace(global_step=step), trainer)
        piece.current_tau = piece.current_tau if returned is None else returned  # 0.5.0 returns it
        piece.update_weights(online, target)
        return float(piece.current_tau)

    def corrected(online: nn.Module, target: nn.Module, step: int) -> float:
        ours.follow(online, target, step / 20)
        return ours.current_tau

    for (tau, weight), (expected_tau, expected) in zip(followed(20, corrected), followed(20, bolts), strict=True):
        assert tau == pytest.approx(expected_tau, abs=1e-12)
        assert weight == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 1000])
def test_the_weight_update_ends_at_one(steps: int) -> None:
    """τ rises from the start's to exactly 1 at the last step, whatever number of steps; then nothing moves."""
    ours = weight_update(0.8)

    def corrected(online: nn.Module, target: nn.Module, step: int) -> float:
        ours.follow(online, target, step / steps)
        return ours.current_tau

    found = followed(steps, corrected)
    taus = [tau for tau, _ in found]
    assert taus == sorted(taus)
    assert taus[-1] == 1.0
    assert steps < 2 or 0.8 <= taus[0] < 1
    assert steps < 30 or taus[0] == pytest.approx(0.8, abs=0.01)
    assert steps < 2 or found[-1][1] == found[-2][1]


def test_the_weight_update_copies_buffers_and_refuses_strangers() -> None:
    """Running statistics are the online network's, where Bolts leaves them alone; other structures are an error."""
    online, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    online(torch.randn(8, 3))
    before = copy.deepcopy(target.state_dict())
    if INSTALLED:
        _make(_piece("callbacks.byol_updates", "BYOLMAWeightUpdate"), 0.9).update_weights(online, target)
    assert torch.equal(target.state_dict()["running_mean"], before["running_mean"])
    weight_update(0.9).follow(online, target, 0.5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(target.state_dict()[name], online.state_dict()[name])
    with pytest.raises(EarthSSLError, match="other parameters or buffers"):
        weight_update(0.9).follow(nn.BatchNorm1d(4), target, 0.5)
    for progress in (0.0, 1.0 + 1e-9, float("nan")):
        with pytest.raises(EarthSSLError, match="progress"):
            weight_update(0.9).follow(online, target, progress)
    for tau in (1.0, -0.1, 2.0):
        with pytest.raises(EarthSSLError, match="tau"):
            weight_update(tau)


@needs_bolts
def test_the_package_itself_is_not_run() -> None:
    """Its parents are stand-ins without a file, and pieces load again and again, with no warning."""
    for _ in range(3):
        assert _piece("models.self_supervised.evaluator", "SSLEvaluator") is not None
        linear_classifier(2, 2)
        rates(1, 3, 1)
    package = sys.modules["pl_bolts"]
    assert getattr(package, "__file__", None) is None
    assert not hasattr(package, "__version__")
    assert package.__spec__ is not None

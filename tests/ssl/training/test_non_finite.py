"""Steps whose loss or gradient is not finite change nothing, are counted and named; too many end the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from earthssl.pretext.prediction.masking import Masking
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.training import callbacks
from earthssl.ssl.training.non_finite import Guard, moving_buffers
from earthssl.ssl.training.objective import Outcome
from torch import Tensor, nn


class Small(nn.Module):
    """A layer and a running statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("table", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


def made(guard: Guard, model: Small, optimizer: Any, batch: Batch, x: Tensor, step: int, scaler: Any = None) -> None:
    """Make one step as the engine does."""
    guard.begin(model, batch)
    loss = model(x).square().sum() + model.layer.weight.sum()
    (loss if scaler is None else scaler.scale(loss)).backward()
    guard.clip(optimizer, list(model.parameters()), 0.5, scaler)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    guard.settle(step)


def everything(model: nn.Module, optimizer: Any) -> list[Tensor]:
    """Return copies of all weights, buffers and moments, and the counts of steps."""
    state = [value for own in optimizer.state.values() for value in own.values()]
    return [value.clone() for value in [*model.state_dict().values(), *state]]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_bad_step_changes_nothing(scaled: bool, small_windows: Callable[..., Any]) -> None:
    """Weights, moments, count and running statistics stay; good steps equal clipping as torch does it."""
    batch = small_windows("train").batch([0, 1, 2, 3])
    torch.manual_seed(0)
    model, twin = Small(), Small()
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    other = torch.optim.AdamW(twin.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    guard = Guard(3)
    assert len(moving_buffers(model)) == 3  # mean, variance, count; the table is no state
    good, bad = torch.randn(4, 3), torch.randn(4, 3)
    bad[2, 1] = torch.nan
    made(guard, model, optimizer, batch, good, 1, scaler)
    before = everything(model, optimizer)
    made(guard, model, optimizer, batch, bad, 2, scaler)
    assert float(guard.taken) == 0
    for old, new in zip(before, everything(model, optimizer), strict=True):
        assert torch.equal(old, new)
    assert scaler is None or scaler.get_scale() == 4.0
    made(guard, model, optimizer, batch, good, 3, scaler)
    for _ in range(2):
        (twin(good).square().sum() + twin.layer.weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        other.step()
        other.zero_grad()
    for old, new in zip(everything(twin, other), everything(model, optimizer), strict=True):
        torch.testing.assert_close(old, new, rtol=1e-6 if scaled else 0, atol=1e-7 if scaled else 0)
    guard.read()
    found = guard.news()
    assert [one["step"] for one in found] == [2]
    ends = batch.times[:, -1].numpy().astype("datetime64[s]")
    assert found[0]["windows_end"] == [str(end) for end in ends]
    guard.read()
    assert guard.news() == []


def test_too_many_in_a_row_end_it(small_windows: Callable[..., Any]) -> None:
    """Bad steps count in a row, across reads and a restart; a good one starts the count anew."""
    batch = small_windows("train").batch([0, 1])

    def run(guard: Guard, good: list[bool], step: int) -> None:
        for taken in good:
            guard._times, guard.taken = [batch.times[:, -1]], torch.tensor(float(taken))
            guard.settle(step := step + 1)

    guard = Guard(3)
    run(guard, [False, False, True, False, False], 0)
    guard.read()
    assert [one["step"] for one in guard.news()] == [1, 2, 4, 5]
    again = Guard(3)
    again.restore(json.loads(json.dumps(guard.state())))
    run(again, [False], 5)
    with pytest.raises(EarthSSLError, match=r"training\.max_skipped: 3 steps in a row, the last of them 6.*1981"):
        again.read()
    run(guard, [False], 5)
    guard.read(slack=1)
    assert [one["step"] for one in guard.news()] == [6]


def test_in_a_run(small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped steps move neither weights nor average nor teacher, and stand in history and record with their times."""
    forward, calls, seen = Masking.forward, [0], []

    def broken(self: Any, encoder: Any, batch: Batch) -> Outcome:
        outcome = forward(self, encoder, batch)
        calls[0] += self.training
        # Infinite, with finite gradients: no reason to step.
        return Outcome(outcome.loss + (torch.inf if self.training and calls[0] in (3, 4) else 0), outcome.terms)

    end = callbacks.SaveLast.on_train_batch_end

    def noting(self: Any, trainer: Any, module: Any, *rest: Any) -> None:
        average = next(call for call in trainer.callbacks if isinstance(call, callbacks.Average))._average_model
        both = [*module.state_dict().values(), *(average.state_dict().values() if average else [])]
        seen.append([value.clone() for value in both])
        end(self, trainer, module, *rest)

    monkeypatch.setattr(Masking, "forward", broken)
    monkeypatch.setattr(callbacks.SaveLast, "on_train_batch_end", noting)
    tasks: dict[str, Any] = {"masking": {}, "latent": {}, "vicreg": {}}
    small_pretrain(tmp_path / "run", tasks, steps=6, ema=0.5, val_every=6, drop_path=0.0)

    def same(a: int, b: int) -> bool:
        return all(torch.equal(old, new) for old, new in zip(seen[a - 1], seen[b - 1], strict=True))

    assert [same(step, step + 1) for step in range(1, 6)] == [False, True, True, False, False]
    skipped = json.loads((tmp_path / "run" / "run.json").read_text())["skipped_steps"]
    assert [one["step"] for one in skipped] == [3, 4]
    assert all(len(one["windows_end"]) == 8 and one["windows_end"][0] < "2001" for one in skipped)
    assert "\n4,skipped_steps,2" in (tmp_path / "run" / "history.csv").read_text()


def test_the_last_good_state_stays(
    small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends for too many skipped steps can be gone on with: its state holds finite weights."""
    forward = Masking.forward

    def broken(self: Any, encoder: Any, batch: Batch) -> Outcome:
        outcome = forward(self, encoder, batch)
        return Outcome(outcome.loss * (torch.nan if self.training and broken.armed else 1), outcome.terms)  # type: ignore[attr-defined]

    monkeypatch.setattr(Masking, "forward", broken)
    broken.armed = True  # type: ignore[attr-defined]
    with pytest.raises(EarthSSLError, match="max_skipped: 4 steps in a row"):
        small_pretrain(tmp_path / "run", max_skipped=4, save_every=2)
    broken.armed = False  # type: ignore[attr-defined]
    assert small_pretrain(tmp_path / "run", max_skipped=4, save_every=2, resume=True).is_dir()

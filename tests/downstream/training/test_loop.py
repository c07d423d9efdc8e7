"""The one optimiser loop: against AdamW by hand, its rates, its order of the samples, and what validation keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.downstream.training.from_scratch import ScratchConfig, learn
from earthssl.downstream.training.loop import (
    Looks,
    Schedule,
    Training,
    best_on_validation,
    by_decay,
    constant,
    warmup_and_half_cosine,
)
from earthssl.ssl.common.errors import EarthSSLError
from torch import Tensor, nn


def line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


X = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))


def training(network: nn.Module, seen: list[np.ndarray] | None = None, **more: Any) -> Training:
    def loss(rows: np.ndarray) -> Tensor:
        if seen is not None:
            seen.append(rows)
        return ((network(X[rows]) - X[rows].sum(1, keepdim=True)) ** 2).mean()

    schedule = Schedule(**{"steps": 9, "batch_size": 4, **more})
    return Training(network, by_decay(network.parameters(), 0.1, 0.5), loss, np.arange(10), schedule, (0, "order"))


@pytest.mark.parametrize("clip", [None, 0.3])
def test_it_is_adamw_on_the_batches_that_it_drew(clip: float | None) -> None:
    mine, theirs = line(), line()
    share, seen = warmup_and_half_cosine(9, 3, after_warmup=True), []
    assert list(training(mine, seen, share=share, clip=clip)) == list(range(1, 10))
    groups = [{"params": [theirs.weight], "weight_decay": 0.5}, {"params": [theirs.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    for step, rows in enumerate(seen):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * share(step)
        optimizer.zero_grad()
        ((theirs(X[rows]) - X[rows].sum(1, keepdim=True)) ** 2).mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        optimizer.step()
    assert torch.equal(mine.weight, theirs.weight)
    assert torch.equal(mine.bias, theirs.bias)


def test_an_epoch_takes_no_sample_twice_and_every_epoch_has_its_own_order() -> None:
    seen: list[np.ndarray] = []
    list(training(line(), seen))
    epochs = [np.concatenate(seen[k : k + 2]) for k in range(0, 8, 2)]  # two whole batches of four out of ten
    assert all(len(set(rows)) == 8 for rows in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    again: list[np.ndarray] = []
    list(training(line(), again))
    assert np.array_equal(np.concatenate(seen), np.concatenate(again))
    whole: list[np.ndarray] = []
    list(training(line(), whole, batch_size=64))
    assert all(sorted(rows) == list(range(10)) for rows in whole)


def half_cosine(past: float) -> float:
    return (1 + math.cos(math.pi * past)) / 2


def test_rates_rise_linearly_and_fall_as_a_half_cosine() -> None:
    after = warmup_and_half_cosine(20, 5, after_warmup=True)
    assert [after(k) for k in range(5)] == pytest.approx(np.arange(1, 6) / 5)
    assert [after(k) for k in range(4, 20)] == pytest.approx([half_cosine(k / 15) for k in range(16)])
    at_once = warmup_and_half_cosine(20, 2, after_warmup=False)
    assert [at_once(k) for k in range(3)] == pytest.approx([0.5, half_cosine(1 / 20), half_cosine(2 / 20)])
    assert constant(7) == 1


@pytest.mark.parametrize(
    ("scores", "patience", "ends", "best", "looks"),
    [
        ([3, 1, 2, 0.5], 0, False, 8, [2, 4, 6, 8]),
        ([3, 1, 2, 5], 2, False, 4, [2, 4, 6, 8]),
        ([1, 2, 3], 2, True, 0, [0, 2, 4]),
        ([5, 4, 3, 2, 1, 0], 1, True, 9, [0, 2, 4, 6, 8, 9]),
        ([2, math.nan, 3, 1], 0, False, 8, [2, 4, 6, 8]),
    ],
)
def test_the_best_look_is_kept(scores: list[float], patience: int, ends: bool, best: int, looks: list[int]) -> None:
    network, states, given = line(), [], iter(scores)

    def score() -> float:
        assert not network.training
        assert not torch.is_grad_enabled()
        states.append(copy.deepcopy(network.state_dict()))
        return next(given)

    found = best_on_validation(training(network), score, Looks(2, patience=patience, ends=ends))
    assert found is not None
    assert found.steps == best
    assert [steps for steps, _ in found.history] == looks
    kept = states[looks.index(best)]
    assert all(torch.equal(value, kept[name]) for name, value in found.weights.items())


def test_early_looks_do_not_count_for_patience() -> None:
    given = iter([1.0, 2, 3, 4, 5, 6])
    found = best_on_validation(training(line()), lambda: next(given), Looks(4, early=(1, 2), patience=2, ends=True))
    assert found is not None
    assert [steps for steps, _ in found.history] == [0, 1, 2, 4, 8]


def test_the_mean_of_the_weights_is_the_running_mean_and_is_taken_only_where_it_helps() -> None:
    """By hand: w0, then d · mean + (1 - d) · w; a score that prefers the weights themselves never takes the mean."""
    network = line()
    own, wanted = training(network), []

    def score() -> float:
        wanted.append(network.weight.detach().clone())
        return 1.0 / len(wanted)  # every later judgement is better

    found = best_on_validation(own, score, Looks(1, ends=True, average=0.75))
    assert found is not None
    assert found.averaged  # the last judgement of the last look is that of the mean
    mean = wanted[0]
    for step in range(1, 1 + (len(wanted) - 1) // 2):
        mean = 0.75 * mean + 0.25 * wanted[2 * step - 1]
        assert torch.allclose(wanted[2 * step], mean, atol=1e-7), step
    assert torch.equal(found.weights["weight"], wanted[-1])
    worse = iter([3.0, 2.0, 9.0, 1.0, 9.0, 2.0, 9.0, 2.0, 9.0, 2.0, 9.0])
    found = best_on_validation(training(line()), lambda: next(worse), Looks(2, ends=True, average=0.75))
    assert found is not None
    assert (found.averaged, found.score, found.steps) == (False, 1.0, 4)
    assert [score for _, score in found.history] == [3, 2, 1, 2, 2, 2]


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    """Stopped at any look, and once between two: weights, history and choice are those of one left alone."""

    def go(file: Path | None, most: int = 99) -> Any:
        network, judged = line(), []

        def score() -> float:
            if len(judged) >= most:
                raise KeyboardInterrupt
            judged.append(1)
            return float(((network(X) - 1) ** 2).mean())

        return best_on_validation(training(network), score, Looks(2, (1,), ends=True, average=0.5), file)

    whole = go(None)
    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        go(file, 2 * stop)
    again = go(file)
    assert again.history == whole.history
    assert (again.steps, again.score, again.averaged) == (whole.steps, whole.score, whole.averaged)
    assert all(torch.equal(value, again.weights[name]) for name, value in whole.weights.items())
    file.write_bytes(b"broken")
    with pytest.raises(EarthSSLError, match=r"cannot be read .* remove it"):
        go(file)


def test_no_finite_score_is_no_best_one() -> None:
    assert best_on_validation(training(line()), lambda: math.nan, Looks(2)) is None
    seen: list[np.ndarray] = []
    assert best_on_validation(training(line(), seen), lambda: math.nan, Looks(2, ends=True)) is None
    assert not seen
    with pytest.raises(EarthSSLError, match="expected training samples, got none"):
        Training(line(), by_decay(line().parameters(), 1, 0), lambda r: X.sum(), np.arange(0), Schedule(1, 1), (0, "x"))


def learnt(fit: np.ndarray | None, seen: list[np.ndarray], scores: list[float]) -> Callable[[], nn.Module]:
    given = iter(scores)

    def loss(network: nn.Module, rows: np.ndarray) -> Tensor:
        seen.append(rows)
        return ((network(X[rows]) - 1) ** 2).mean()

    config = ScratchConfig(1, steps=6, batch_size=4, check_every=2)
    found = learn(line, loss, lambda network: next(given), np.arange(8), fit, config, 0)
    assert found.steps == 4
    return lambda: found.network


def test_from_scratch_the_best_is_kept_or_trained_anew_for_as_long() -> None:
    seen: list[np.ndarray] = []
    kept = learnt(None, seen, [3.0, 1.0, 2.0])()
    assert len(seen) == 6
    anew = learnt(np.arange(8), again := [], [3.0, 1.0, 2.0])()
    assert len(again) == 6 + 4
    assert {int(row) for rows in again[6:] for row in rows} == set(range(8))
    assert not torch.equal(kept.weight, anew.weight)  # the order of the second training is its own
    with pytest.raises(EarthSSLError, match="diverged"):
        learnt(None, [], [math.nan] * 3)

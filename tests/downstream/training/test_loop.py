"""The one optimiser loop: against AdamW by hand, its rates, its order of the samples, and what validation keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.downstream.training.from_scratch import ScratchConfig, learn
from earthssl.downstream.training.loop import (
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

    found = best_on_validation(training(network), score, 2, patience=patience, ends_compete=ends)
    assert found is not None
    assert found.steps == best
    assert [steps for steps, _ in found.history] == looks
    kept = states[looks.index(best)]
    assert all(torch.equal(value, kept[name]) for name, value in found.weights.items())


def test_no_finite_score_is_no_best_one() -> None:
    assert best_on_validation(training(line()), lambda: math.nan, 2) is None
    seen: list[np.ndarray] = []
    assert best_on_validation(training(line(), seen), lambda: math.nan, 2, ends_compete=True) is None
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

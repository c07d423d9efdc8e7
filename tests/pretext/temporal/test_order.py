"""Temporal order: classes, trivial cues closed, chance on noise and not on a travelling wave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.temporal.order import Order, OrderConfig, arrangements, classes
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")


def make(grid: LatLonGrid, config: OrderConfig, window: int = 5, names: tuple[str, ...] = NAMES) -> tuple[Any, Order]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", window, (1, 2, 3)).build(names)
    return encoder, config.build(Context(encoder, names, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Six windows of 5 months; a box of u10 is missing in one month of two of them."""
    made = small_windows("train", 5).batch([0, 30, 60, 90, 120, 150])
    valid = made.valid.clone()
    valid[:2, 2, 1, 3:5, 6:9] = False
    return replace(made, valid=valid, values=made.values * valid)


@pytest.mark.parametrize(("frames", "expected"), [(3, 3), (4, 12), (5, 60)])
def test_a_sequence_and_its_reversal_are_one_class(frames: int, expected: int) -> None:
    """n!/2 classes of two arrangements each: what a film shows, and what it shows run backwards."""
    table = arrangements("order", frames)
    found = classes("order", table).tolist()
    assert sorted(set(found)) == list(range(expected))
    for row, name in zip(table.tolist(), found, strict=True):
        mates = [other for other, its in zip(table.tolist(), found, strict=True) if its == name]
        assert sorted(mates) == sorted([row, [frames - 1 - frame for frame in row]])


def test_arrow_has_two_classes() -> None:
    """Forward is class 0, backward class 1."""
    table = arrangements("arrow", 4)
    assert table.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert classes("arrow", table).tolist() == [0, 1]


def test_the_steps_shown_are_the_ones_drawn(batch: Batch) -> None:
    """Equally spaced steps from the drawn start, in the drawn arrangement; backward is forward turned round."""
    _, task = make(batch.grid, OrderConfig(kind="arrow", frames=2, spacing=2))
    where = torch.tensor([0.0, 0.34, 0.99] * 2)
    which = torch.tensor([0.0] * 3 + [0.99] * 3)
    doubled = replace(batch, values=batch.values[:3].repeat(2, 1, 1, 1, 1), valid=batch.valid[:3].repeat(2, 1, 1, 1, 1),
                      times=batch.times[:3].repeat(2, 1))  # fmt: skip
    shown, picks = task.show(doubled, where, which)
    assert picks.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(shown.values[:3], shown.values[3:].flip(1))
    for sample, first in enumerate([0, 1, 2]):
        for frame in range(2):
            raw, back = doubled.values[sample, first + 2 * frame, 2], shown.values[sample, frame, 2]
            difference = (raw - back)[shown.valid[sample, frame, 2]]
            assert float(difference.std()) < 1e-6
        assert torch.equal(shown.times[sample], doubled.times[sample, [first, first + 2]])
    assert torch.equal(shown.times[:3], shown.times[3:])


@pytest.mark.parametrize("kind", ["arrow", "order"])
def test_trivial_cues_are_closed(batch: Batch, kind: str) -> None:
    """Area means are zero, masks the same in all frames, and a trend or offset of the whole map changes nothing."""
    _, task = make(batch.grid, OrderConfig(kind=kind, frames=3))
    where, which = torch.linspace(0, 0.99, 6), torch.linspace(0, 0.99, 6)
    shown, _ = task.show(batch, where, which)
    area = torch.from_numpy(batch.grid.area).float()
    means = (shown.values * area * shown.valid).sum((-1, -2)) / (area * shown.valid).sum((-1, -2))
    assert float(means.abs().max()) < 1e-6
    for frame in range(1, 3):
        assert torch.equal(shown.valid[:, frame], shown.valid[:, 0])
    assert not shown.valid[0, 0, 1, 3:5, 6:9].any()
    assert (shown.values[~shown.valid] == 0).all()
    drift = (3.0 + 2.0 * torch.arange(5.0)[:, None, None, None]) * torch.tensor([1.0, -2, 5])[:, None, None]
    other, _ = task.show(replace(batch, values=(batch.values + drift) * batch.valid), where, which)
    torch.testing.assert_close(other.values, shown.values, atol=2e-5, rtol=0)


def test_the_time_of_year_is_not_given(batch: Batch) -> None:
    """Other dates, same fields: the same loss."""
    encoder, task = make(batch.grid, OrderConfig())
    later = replace(batch, times=batch.times + 86400 * 100)
    assert torch.equal(task(encoder, batch).loss, task(encoder, later).loss)


def test_draws_are_a_function_of_the_keys(batch: Batch) -> None:
    """The same keys give the same loss, others another."""
    encoder, task = make(batch.grid, OrderConfig(kind="order", frames=4))
    first, again = task(encoder, batch), task(encoder, batch)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)
    assert float(first.terms["skill"]) == pytest.approx((float(first.terms["accuracy"]) - 1 / 12) * 12 / 11)
    assert task.example(encoder, batch) is None


def accuracy_after_training(moving: bool, steps: int) -> float:
    """Train the arrow of time on noise, or on a wave that travels west, and return accuracy on new samples."""
    rng = np.random.default_rng(1)
    grid = LatLonGrid(np.array([30.0, -30.0]), np.arange(6.0) * 60)
    encoder, task = make(grid, OrderConfig(kind="arrow", frames=2), window=2, names=("sst",))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
    known, right = torch.ones(1, 2, 6, dtype=torch.bool), []
    for number in range(steps):
        if moving:
            phase = rng.uniform(0, 2 * np.pi, (64, 1, 1, 1, 1)) + np.arange(2)[:, None, None, None]
            fields = np.cos(np.deg2rad(grid.lon) + phase) * np.ones((2, 1))
        else:
            fields = rng.normal(size=(64, 2, 1, 2, 6))
        keys, times = fold(torch.arange(64), number), torch.zeros(64, 2, dtype=torch.int64)
        outcome = task(encoder, from_fields(torch.from_numpy(fields), times, keys, known, ("sst",), grid, number))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        right.append(float(outcome.terms["accuracy"]))  # before it learns from this batch: the samples are new
    return float(np.mean(right[-20:]))


def test_noise_has_no_arrow_and_a_wave_has() -> None:
    """White noise is the same backwards: accuracy stays at chance (4 standard errors); a wave is told at once."""
    assert accuracy_after_training(False, 50) == pytest.approx(0.5, abs=4 * 0.5 / (20 * 64) ** 0.5)
    assert accuracy_after_training(True, 110) > 0.9


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    """Kinds, frames, spans and patches."""
    with pytest.raises(EarthSSLError, match="arrow or order"):
        OrderConfig(kind="forwards")
    for bad in ({"kind": "order", "frames": 2}, {"frames": 6}, {"spacing": 0}, {"frames": 1}):
        with pytest.raises(EarthSSLError, match="frames and spacing"):
            OrderConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match="span 9 steps"):
        make(batch.grid, OrderConfig(frames=3, spacing=4))
    encoder = EncoderConfig("nano", 4, (2, 2, 3)).build(NAMES)
    with pytest.raises(EarthSSLError, match="patches of 1 step"):
        OrderConfig().build(Context(encoder, NAMES, batch.grid))

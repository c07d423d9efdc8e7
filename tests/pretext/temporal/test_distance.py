"""Distance in time: the states drawn, the trivial cues closed, the normalised target, and who solves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.temporal.distance import (
    Distance,
    DistanceConfig,
    correlation,
    differences,
    likeness,
    over_mean,
    targets,
)
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)


def make(
    grid: LatLonGrid, config: DistanceConfig, window: int = 2, names: tuple[str, ...] = NAMES
) -> tuple[Any, Distance]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", window, PATCH).build(names)
    return encoder, config.build(Context(encoder, names, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Six windows of 7 months with land in sst; a box of u10 is missing in one month of two of them."""
    made = small_windows("train", 7).batch([0, 30, 60, 90, 120, 150])
    valid = made.valid.clone()
    valid[:2, 1, 1, 3:5, 6:9] = False
    return replace(made, valid=valid, values=made.values * valid)


def windows(x: np.ndarray, number: int = 0) -> Batch:
    """Return fields (sample, step, row, column) of sst as a batch."""
    keys, known = fold(torch.arange(len(x)), number), torch.ones(1, 4, 6, dtype=torch.bool)
    times = 86400 * torch.arange(x.shape[1]).expand(len(x), -1)
    return from_fields(torch.from_numpy(x)[:, :, None], times, keys, known, ("sst",), GRID, number)


START, LAG = torch.tensor([0, 1, 0, 2, 0, 1]), torch.tensor([4, 2, 1, 2, 3, 3])
TURNED = torch.tensor([False, True] * 3)


@pytest.mark.parametrize("frames", [1, 2])
def test_the_states_are_the_steps_drawn(batch: Batch, frames: int) -> None:
    """Times tell which they are; the distance counts from the end of one to the beginning of the other."""
    config = DistanceConfig(max_lag=4, frames=frames)
    _, task = make(batch.grid, config)
    start = START.clamp(max=7 - 2 * frames + 1 - LAG)
    first, second, target = task.show(batch, start, LAG, TURNED)
    assert config.span(EncoderConfig("nano", 2, PATCH)) == 2 * frames - 1 + 4
    for k in range(6):
        earlier, later = (second, first) if TURNED[k] else (first, second)
        begin, then = int(start[k]), int(start[k] + frames - 1 + LAG[k])
        assert torch.equal(earlier.times[k], batch.times[k, begin : begin + frames])
        assert torch.equal(later.times[k], batch.times[k, then : then + frames])
        assert earlier.times[k].max() < later.times[k].min()
        assert target[k] == targets(config)[LAG[k] - 1]
        for state, step in ((earlier, begin), (later, then)):
            valid = state.valid[k, 0, 2]
            difference = (state.values[k, 0, 2] - batch.values[k, step, 2])[valid]
            assert float(difference.std()) < 1e-5


def test_draws_stay_in_the_window_and_are_uniform() -> None:
    """Every distance and, at a distance of 1, every start is as frequent as the others; either is shown first."""
    batch = windows(np.zeros((6000, 5, 4, 6)))
    _, task = make(GRID, DistanceConfig(max_lag=4, scale="linear", signed=True), names=("sst",))
    first, second, target = task.pose(batch)
    steps = (second.times - first.times)[:, 0] // 86400
    lags, counts = steps.unique(return_counts=True)
    assert lags.tolist() == [-4, -3, -2, -1, 1, 2, 3, 4]
    assert (counts / 6000).tolist() == pytest.approx([1 / 8] * 8, abs=5 * (7 / 64 / 6000) ** 0.5)
    starts = torch.minimum(first.times, second.times)[steps.abs() == 1] // 86400
    assert starts.unique().tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(target, steps.float() * task.targets[0])
    assert float(target.square().mean()) == pytest.approx(1, abs=0.05)


def test_targets_by_hand() -> None:
    """Mean 0 and variance 1 over the draws; with a sign, mean square 1 of both signs together."""
    root = 1.5**0.5
    assert targets(DistanceConfig(max_lag=3, scale="linear")).tolist() == pytest.approx([-root, 0, root])
    signed = targets(DistanceConfig(max_lag=3, scale="linear", signed=True))
    assert signed.tolist() == pytest.approx([k / (14 / 3) ** 0.5 for k in (1, 2, 3)])
    found = targets(DistanceConfig(max_lag=7))
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.square().mean()) == pytest.approx(1, rel=1e-6)
    # log of 1 + steps: 1, 3 and 7 steps are equally far apart
    assert float(found[2] - found[0]) == pytest.approx(float(found[6] - found[2]), rel=1e-5)


def test_trivial_cues_are_closed(batch: Batch) -> None:
    """Area means are zero, both masks the same, and a drift of the whole map changes nothing; nor does the order."""
    _, task = make(batch.grid, DistanceConfig(max_lag=3, frames=2))
    start, lag = START.clamp(max=1), LAG.clamp(max=3)
    first, second, target = task.show(batch, start, lag, TURNED)
    area = torch.from_numpy(batch.grid.area).float()
    for state in (first, second):
        means = (state.values * area * state.valid).sum((-1, -2)) / (area * state.valid).sum((-1, -2))
        assert float(means.abs().max()) < 1e-6
        assert (state.values[~state.valid] == 0).all()
        assert torch.equal(state.valid, first.valid[:, :1].expand_as(state.valid))
    assert not first.valid[0, :, 1, 3:5, 6:9].any()
    drift = (3.0 + 2.0 * torch.arange(7.0)[:, None, None, None]) * torch.tensor([1.0, -2, 5])[:, None, None]
    moved = task.show(replace(batch, values=(batch.values + drift) * batch.valid), start, lag, TURNED)
    for state, other in ((first, moved[0]), (second, moved[1])):
        torch.testing.assert_close(other.values, state.values, atol=3e-5, rtol=0)
    swapped = task.show(batch, start, lag, ~TURNED)
    assert torch.equal(swapped[0].values, second.values)
    assert torch.equal(swapped[2], target)


def test_the_time_of_year_is_not_given_and_draws_are_of_the_keys(batch: Batch) -> None:
    """Other dates, same fields: the same loss. Other keys: another."""
    encoder, task = make(batch.grid, DistanceConfig(max_lag=6))
    loss = task(encoder, batch).loss
    assert torch.equal(loss, task(encoder, replace(batch, times=batch.times + 86400 * 100)).loss)
    assert not torch.equal(loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)


def test_the_truth_scores_one_and_the_mean_nothing() -> None:
    """The mean exactly, in the smallest batch; the truth over all draws together; half of it 1 - 1/4."""
    every = targets(DistanceConfig(max_lag=5))
    for factor, skill in ((1.0, 1.0), (0.5, 0.75), (0.0, 0.0)):
        assert float(over_mean(factor * every, every)) == pytest.approx(skill, abs=1e-6)
    batch = windows(np.random.default_rng(0).normal(size=(3, 6, 4, 6)))
    encoder, task = make(GRID, DistanceConfig(max_lag=5), names=("sst",))
    for parameter in task.head[2].parameters():
        torch.nn.init.zeros_(parameter)
    outcome = task(encoder, batch)
    assert outcome.loss.item() == pytest.approx(float(task.pose(batch)[2].square().mean()))
    assert float(outcome.terms["skill"]) == 0
    assert float(outcome.terms["correlation"]) == 0


def test_correlation_against_numpy() -> None:
    a, b = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    assert float(correlation(a, b)) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
    assert float(correlation(a, 2 * a + 1)) == pytest.approx(1)
    assert float(correlation(a, torch.ones(30))) == 0


def test_distances_of_patterns_by_hand(batch: Batch) -> None:
    """A state is 0 from itself and twice its RMS from its opposite; correlations are 1 and -1; gaps count nowhere."""
    state = batch.cut(0, 2)
    opposite = replace(state, values=-state.values)
    assert float(differences(state, state).abs().max()) == 0
    area = batch.grid.area * state.valid[0, :, 1].numpy()
    rms = ((area * state.values[0, :, 1].numpy() ** 2).sum() / area.sum()) ** 0.5
    assert float(differences(state, opposite)[0, 1]) == pytest.approx(2 * rms, rel=1e-5)
    torch.testing.assert_close(likeness(state, state), torch.ones(6, 3))
    torch.testing.assert_close(likeness(state, opposite), -torch.ones(6, 3))


def walk(number: int, size: int = 64, independent: bool = False) -> Batch:
    """Return random walks of a pattern (or independent noise), 7 steps."""
    noise = np.random.default_rng(number).normal(size=(size, 7, 4, 6))
    return windows(noise if independent else noise.cumsum(1), number)


def test_cues_solve_a_random_walk_and_not_noise() -> None:
    """A walk leaves its start behind step by step: its distance tells the time; independent states tell nothing."""
    _, task = make(GRID, DistanceConfig(max_lag=6), names=("sst",))
    for independent, low, high in ((False, 0.5, 1.0), (True, -0.3, 0.1)):
        apart, alike, both = task.cues()
        for cue in (apart, alike, both):
            cue.fit(task, [walk(number, 128, independent) for number in range(5)], PATCH)
        found = [cue.skill(task, walk(9, 512, independent), PATCH) for cue in (apart, alike, both)]
        assert low < found[0] < high
        assert low < found[2] < high
        assert found[1] < high
    with pytest.raises(EarthSSLError, match="call fit first"):
        task.cues()[0].skill(task, walk(0), PATCH)


@pytest.mark.parametrize(("signed", "frames"), [(False, 2), (True, 1)])
def test_a_steady_change_is_learnt(signed: bool, frames: int) -> None:
    """A fixed pattern grows step by step, from anywhere: the change of it tells how long it took, and which way."""
    rng = np.random.default_rng(2)
    pattern = np.cos(np.deg2rad(GRID.lon)) * np.ones((4, 1))
    config = DistanceConfig(max_lag=4, frames=frames, scale="linear", signed=signed)
    encoder, task = make(GRID, config, names=("sst",))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=3e-3)
    skills = []
    for number in range(60):
        amount = rng.uniform(-2, 2, (32, 1, 1, 1)) + 0.5 * np.arange(8)[:, None, None]
        outcome = task(encoder, windows(amount * pattern, number))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        skills.append(float(outcome.terms["skill"]))
    assert skills[0] < 0.3
    assert np.mean(skills[-10:]) > 0.8


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    for bad, said in (
        ({"scale": "square"}, "log or linear"),
        ({"max_lag": 1}, "max_lag ≥ 2"),
        ({"max_lag": 0, "signed": True}, "max_lag ≥ 1"),
        ({"frames": -1}, "frames ≥ 0"),
        ({"hidden": 0}, "hidden ≥ 1"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            DistanceConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match=r"distance.frames: expected 0 to 2"):
        make(batch.grid, DistanceConfig(frames=3))
    encoder = EncoderConfig("nano", 4, (2, 2, 3)).build(NAMES)
    with pytest.raises(EarthSSLError, match="multiple of the patch's 2 steps"):
        DistanceConfig(frames=1).build(Context(encoder, NAMES, batch.grid))
    whole = DistanceConfig(frames=0, max_lag=3)
    assert whole.span(encoder.config) == 10
    assert whole.build(Context(encoder, NAMES, batch.grid)).frames == 4

"""Trivial solvers: each solves what it should, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.cues import Interpolation, Statistics, frame_statistics, gradient_statistics, interpolate
from earthssl.pretext.spatial.orientation import OrientationConfig
from earthssl.pretext.temporal.order import ChainSorter, OrderConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context, Objective

PATCH = (1, 2, 3)


def context(batch: Batch, window: int = 3) -> Context:
    return Context(EncoderConfig("nano", window, PATCH).build(batch.variables), batch.variables, batch.grid)


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    found: Batch = small_windows("train", 4).batch(torch.arange(0, 237, 2))
    return replace(found, keys=fold(torch.arange(len(found)), 5))


def drifting(batch: Batch) -> Batch:
    """A pattern of which every step adds as much as the last."""
    torch.manual_seed(1)
    start, change = torch.randn(2, len(batch), 1, *batch.values.shape[2:])
    steps = torch.arange(batch.values.shape[1])[None, :, None, None, None]
    valid = torch.ones_like(batch.valid)
    return replace(batch, values=start + steps * change, valid=valid)


def test_the_chain_sorts_a_drift_and_not_noise(batch: Batch) -> None:
    """Steady change is sorted without error up to reversal; of independent frames nothing is known."""
    order: Any = OrderConfig(kind="order", frames=4).build(context(batch, 4))
    assert ChainSorter().skill(order, drifting(batch), PATCH) == 1
    noise = replace(batch, values=torch.randn(batch.values.shape), valid=torch.ones_like(batch.valid))
    assert abs(ChainSorter().skill(order, noise, PATCH)) < 0.12
    arrow: Any = OrderConfig(kind="arrow", frames=3).build(context(batch, 4))
    assert abs(ChainSorter().skill(arrow, drifting(batch), PATCH)) < 0.25  # a chain has no direction


def test_statistics_find_what_grows_and_nothing_in_noise(batch: Batch) -> None:
    """Variance that rises with time tells which way time runs."""
    arrow: Any = OrderConfig(kind="arrow", frames=3).build(context(batch, 4))
    torch.manual_seed(2)
    noise = torch.randn(batch.values.shape)
    growing = noise * (1 + torch.arange(4.0))[None, :, None, None, None]
    for values, low, high in ((growing, 0.9, 1.01), (noise, -0.35, 0.35)):
        made = replace(batch, values=values, valid=torch.ones_like(batch.valid))
        cue = Statistics("growth", frame_statistics)
        cue.fit(arrow, [replace(made, keys=fold(made.keys, k)) for k in range(4)], PATCH)
        fresh = replace(made, keys=fold(made.keys, 9))
        assert low < cue.skill(arrow, fresh, PATCH) < high


def test_gradients_tell_which_way_is_north(batch: Batch) -> None:
    """A map that rises to the south and to the east is put the right way up by its mean gradients alone."""
    task: Any = OrientationConfig().build(context(batch, 4))
    rows, columns = batch.grid.shape
    slope = torch.arange(rows)[:, None] + 0.5 * torch.arange(columns)[None, :]
    made = replace(batch, values=slope.expand_as(batch.values).float(), valid=torch.ones_like(batch.valid))
    made = (
        made
        if "u10" not in batch.variables
        else replace(made, values=made.values * torch.tensor([1.0, 0, 0])[:, None, None])
    )
    cue = Statistics("gradients", gradient_statistics)
    cue.fit(task, [made], PATCH)
    assert cue.skill(task, replace(made, keys=fold(made.keys, 3)), PATCH) == 1


def test_chance_is_that_of_the_tasks_classes_whichever_were_drawn(batch: Batch) -> None:
    """Fitted on two of three classes and never right, the skill is that of accuracy 0 among three: -1/2."""

    class Three:
        classes = 3

        def __init__(self, answers: list[int]) -> None:
            self.answers = torch.tensor(answers)

        def pose(self, batch: Batch) -> tuple[Batch, torch.Tensor]:
            """Return the batch, and fixed answers."""
            return batch, self.answers

    four = replace(batch, **{name: getattr(batch, name)[:4] for name in ("values", "valid", "times", "keys")})
    cue = Statistics("what there is", lambda shown: np.array([[0.0], [0], [1], [1]]))
    cue.fit(Three([0, 0, 1, 1]), [four], PATCH)
    assert cue.skill(Three([2, 2, 2, 2]), four, PATCH) == pytest.approx(-0.5)
    assert cue.skill(Three([0, 0, 1, 2]), four, PATCH) == pytest.approx((0.75 - 1 / 3) * 3 / 2)
    with pytest.raises(EarthSSLError, match="several classes to fit on, got 1"):
        cue.fit(Three([1, 1, 1, 1]), [four], PATCH)


class Holes(Objective):
    """A task that hides fixed cells."""

    def __init__(self, scored: torch.Tensor) -> None:
        super().__init__()
        self.scored = scored

    def forward(self, encoder: Any, batch: Any) -> Any:
        raise NotImplementedError

    def hidden(self, batch: Batch, patch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the fixed cells, and the others that hold a value."""
        return self.scored & batch.valid, ~self.scored & batch.valid


def test_interpolation_fills_smooth_fields_and_not_noise(batch: Batch) -> None:
    """A wave of a third of the globe: nearly all; independent cells: nothing; a hidden value is never used."""
    lon = torch.deg2rad(torch.from_numpy(batch.grid.lon).float())
    phase = torch.arange(len(batch))[:, None, None, None, None] * 1.0
    smooth = torch.cos(2 * lon + phase).expand(-1, 4, 3, 7, -1)
    scored = torch.zeros(batch.values.shape, dtype=torch.bool)
    scored[..., ::2, ::4] = True
    task = Holes(scored)
    everywhere = torch.ones_like(batch.valid)
    wave = replace(batch, values=smooth.clone(), valid=everywhere)
    cue = Interpolation()
    with pytest.raises(EarthSSLError, match="call fit first"):
        cue.skill(task, wave, PATCH)
    cue.fit(task, [wave], PATCH)
    assert cue.skill(task, wave, PATCH) > 0.7
    torch.manual_seed(0)
    noise = replace(wave, values=torch.randn(batch.values.shape))
    cue.fit(task, [noise], PATCH)
    assert abs(cue.skill(task, replace(noise, values=torch.randn(batch.values.shape)), PATCH)) < 0.05
    seen = ~scored
    changed = replace(wave, values=torch.where(scored, 99.0, wave.values))
    assert torch.equal(interpolate(wave, seen, 800.0, 1.0), interpolate(changed, seen, 800.0, 1.0))


def test_interpolation_of_a_constant_is_that_constant(batch: Batch) -> None:
    """Weights sum to one, over gaps and round the date line."""
    seen = batch.valid & (torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    made = replace(batch, values=torch.full_like(batch.values, 3.5))
    filled = interpolate(made, seen, 2000.0, 1.0)
    assert np.allclose(filled[filled != 0], 3.5, atol=1e-4)

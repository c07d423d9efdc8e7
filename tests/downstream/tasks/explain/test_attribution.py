"""Attributions of linear functions are known; missing cells get none; longitude wraps; the checks tell maps apart."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.downstream.tasks.explain.attribution import (
    integrated_gradients,
    lime,
    occlusion,
    optimal_input,
    sliding_blocks,
    superpixels,
)
from earthssl.downstream.tasks.explain.checks import (
    FRACTIONS,
    curves,
    enrichment,
    randomised,
    rank_correlations,
    weighted_correlation,
)
from earthssl.downstream.tasks.explain.references import random_maps
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from torch import Tensor

GLOBE = LatLonGrid(np.linspace(75, -75, 6), np.arange(0.0, 360, 45))
BOX = LatLonGrid(np.linspace(25, -25, 6), np.arange(120.0, 280, 20))
SHAPE = (2, 2, 6, 8)  # steps, variables, rows, columns


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def samples(draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Three samples, which they are, and where they were observed: not on a continent of the first variable."""
    valid = torch.ones(3, *SHAPE, dtype=torch.bool)
    valid[:, :, 0, 2:4, 1:3] = False
    values = torch.randn(3, *SHAPE, generator=draw) * valid
    return values, torch.arange(3), valid


@pytest.fixture
def weight(draw: torch.Generator) -> Tensor:
    return torch.randn(*SHAPE, generator=draw)


def linear(weight: Tensor) -> Any:
    """A function with another intercept for each sample."""
    return lambda values, at: (values * weight).flatten(1).sum(1) + 0.5 + at


def bent(weight: Tensor) -> Any:
    return lambda values, at: torch.tanh((values * weight).flatten(1).sum(1)) + values.flatten(1)[:, 0] ** 2


def test_integrated_gradients_of_a_linear_function_are_weight_times_input(samples: Any, weight: Tensor) -> None:
    values, at, _ = samples
    found = integrated_gradients(linear(weight), values, at, steps=2)
    assert found.attribution.numpy() == pytest.approx((values * weight).numpy(), abs=1e-5)
    assert found.gap < 1e-5


def test_integrated_gradients_take_the_points_they_need(samples: Any, weight: Tensor) -> None:
    values, at, _ = samples
    function = bent(weight)
    found = integrated_gradients(function, values, at, steps=2, tolerance=1e-3)
    change = function(values, at) - function(torch.zeros_like(values), at)
    assert found.steps > 2
    assert found.attribution.flatten(1).sum(1).numpy() == pytest.approx(change.numpy(), abs=2e-3)


def test_integrated_gradients_that_do_not_add_up_are_refused(samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earthssl.downstream.tasks.explain.attribution.MOST_STEPS", 8)

    def step(values: Tensor, at: Tensor) -> Tensor:
        """Has a jump on the way, which no gradient shows."""
        return (values.flatten(1).sum(1) * 0) + (values.flatten(1).abs().sum(1) > 10).float() * 3

    with pytest.raises(EarthSSLError, match=r"add up to f\(x\) - f\(climatology\) within 0.01"):
        integrated_gradients(step, samples[0], samples[1], steps=4)


def test_occlusion_of_single_cells_of_a_linear_function_is_weight_times_input(samples: Any, weight: Tensor) -> None:
    values, at, valid = samples
    found = occlusion(linear(weight), values, at, valid, sliding_blocks(GLOBE, 2, (1, 1), (1, 1)))
    column = (values * weight).sum(1)
    assert found.sum(1).numpy() == pytest.approx(column.numpy(), abs=1e-5)
    assert (found[~valid] == 0).all()


def test_occlusion_by_brute_force_across_the_seam(samples: Any, weight: Tensor) -> None:
    values, at, valid = samples
    function = bent(weight)
    found = occlusion(function, values, at, valid, sliding_blocks(GLOBE, 2, (2, 3), (1, 2)))
    total, count = np.zeros(SHAPE), np.zeros(SHAPE[1:])
    for v in range(2):
        for top in range(5):
            for left in range(0, 8, 2):
                rows, columns = [top, top + 1], [(left + k) % 8 for k in range(3)]
                hidden = values[1:2].clone()
                hidden[0][np.ix_([0, 1], [v], rows, columns)] = 0
                loss = float(function(values[1:2], at[1:2]) - function(hidden, at[1:2]))
                seen = int(valid[1][np.ix_([0, 1], [v], rows, columns)].sum())
                count[np.ix_([v], rows, columns)] += 1
                if seen:
                    total[np.ix_([0, 1], [v], rows, columns)] += loss / seen
    assert found[1].numpy() == pytest.approx(np.where(valid[1], total / count, 0), abs=1e-5)
    assert sliding_blocks(GLOBE, 1, (2, 3), (1, 2))[:, 0, :, [7, 0]].all(-1).any()


def test_occlusion_without_a_seam_is_captums(draw: torch.Generator, weight: Tensor) -> None:
    from captum.attr import Occlusion

    values, at = torch.randn(1, *SHAPE, generator=draw), torch.zeros(1, dtype=torch.int64)
    own = occlusion(bent(weight), values, at, torch.ones_like(values).bool(), sliding_blocks(BOX, 2, (2, 4), (2, 2)))
    theirs = Occlusion(bent(weight)).attribute(values, (2, 1, 2, 4), (2, 1, 2, 2), additional_forward_args=(at,))
    assert (own * 2 * 2 * 4).numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_lime_of_a_linear_function(samples: Any, weight: Tensor) -> None:
    """A superpixel's coefficient is the sum of weight times input over its cells."""
    values, at, valid = samples
    regions = superpixels(GLOBE, 2, (3, 4))
    found, fidelity = lime(linear(weight), values, at, valid, regions, 60, seed=0)
    column, own = (values * weight).sum(1).numpy(), found.sum(1).numpy()
    for region in np.unique(regions):
        inside = regions == region
        assert own[:, inside].sum(1) == pytest.approx(column[:, inside].sum(1), abs=0.02)
    assert (found[~valid] == 0).all()
    assert fidelity.min() > 0.999
    again, _ = lime(linear(weight), values, at, valid, regions, 60, seed=0)
    assert torch.equal(found, again)
    assert not torch.equal(found, lime(linear(weight), values, at, valid, regions, 60, seed=1)[0])


def test_lime_wants_more_inputs_than_superpixels(samples: Any, weight: Tensor) -> None:
    values, at, valid = samples
    with pytest.raises(EarthSSLError, match=r"lime_samples: expected more than the 8 superpixels, got 9"):
        lime(linear(weight), values, at, valid, superpixels(GLOBE, 2, (3, 4)), 9, seed=0)


def test_the_optimal_input_of_a_linear_function_follows_its_weights(samples: Any, weight: Tensor) -> None:
    _, at, valid = samples
    wanted = torch.tensor([2.0, -1.5, 1.0])
    function = linear(weight)
    found = optimal_input(function, at, valid, wanted, penalty=0.1)
    shown = weight * valid
    for one, own in zip(found, shown, strict=True):
        cosine = torch.nn.functional.cosine_similarity(one.flatten(), own.flatten(), dim=0)
        assert abs(float(cosine)) > 0.9999
    assert (found[~valid] == 0).all()
    # What a quadratic with a small penalty must reach, from its own minimum in closed form.
    power = (shown**2).flatten(1).sum(1)
    size = 0.1 * wanted**2 / valid.flatten(1).sum(1)
    start = 0.5 + at
    expected = start + power * (wanted - start) / (power + size)
    assert function(found, at).numpy() == pytest.approx(expected.numpy(), abs=1e-3)
    assert torch.equal(found, optimal_input(function, at, valid, wanted, penalty=0.1))


def test_captum_missing_is_said(samples: Any, weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(EarthSSLError, match=r"pip install 'earthssl\[explain\]'"):
        integrated_gradients(linear(weight), samples[0], samples[1])


def test_the_true_order_is_the_best_for_a_linear_function(samples: Any, weight: Tensor) -> None:
    values, at, valid = samples
    function = linear(weight)
    true = (values * weight).sum(1).numpy()
    single = superpixels(GLOBE, 2, (1, 1))
    found = {name: curves(function, values, at, valid, maps, single) for name, maps in
             (("true", true), ("false", -true), ("random", random_maps(3, SHAPE[1:], 0).numpy()))}  # fmt: skip
    assert (found["true"].area("deletion") < found["random"].area("deletion")).all()
    assert (found["random"].area("deletion") < found["false"].area("deletion")).all()
    assert (found["true"].area("insertion") > found["random"].area("insertion")).all()
    for one in found.values():
        assert one.deletion[:, 0] == pytest.approx(one.change, abs=1e-5)
        assert one.insertion[:, -1] == pytest.approx(one.change, abs=1e-5)
        assert one.deletion[:, -1] == pytest.approx(0, abs=1e-5)
    # For a linear function what is left without some columns and what these give alone add up.
    both = found["true"].deletion + found["true"].insertion
    assert both == pytest.approx(np.repeat(found["true"].change[:, None], len(FRACTIONS), 1), abs=1e-4)


def test_whole_blocks_are_taken_in_the_order_of_their_sums(samples: Any) -> None:
    """A function of one block alone: taking any other away changes nothing."""
    values, at, valid = samples
    regions = superpixels(GLOBE, 2, (3, 4))
    inside = torch.from_numpy(regions == 5)
    maps = (values.sum(1) * inside).numpy()

    def function(x: Tensor, at: Tensor) -> Tensor:
        return (x * inside).flatten(1).sum(1)

    found = curves(function, values, at, valid, maps, regions)
    assert len(np.unique(regions)) == 8
    gone = FRACTIONS * 8 > 0.5
    assert found.deletion[:, gone] == pytest.approx(0, abs=1e-5)
    assert found.insertion[:, gone] == pytest.approx(np.repeat(found.change[:, None], gone.sum(), 1), abs=1e-5)
    assert found.insertion[:, ~gone] == pytest.approx(0, abs=1e-5)


def test_weights_are_drawn_anew_from_the_block_that_is_read() -> None:
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, (1, 2, 2)).build(("sst", "u10")).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    stages = dict(randomised(encoder, 1, seed=0))
    assert list(stages) == ["block 2", "blocks 1–2", "all weights"]

    def same(stage: str, part: str) -> bool:
        """Whether the weights of a part are the old ones; of a block, its queries, keys and values."""
        now = stages[stage].state_dict()
        names = [name for name in now if name.startswith(part) and name.endswith("weight")]
        return all(torch.equal(now[n], before[n]) for n in names if "qkv" in n or "blocks" not in n)

    assert not same("block 2", "blocks.1.")
    assert same("block 2", "blocks.0.")
    assert same("blocks 1–2", "encodings.")
    assert not same("all weights", "encodings.")
    assert same("all weights", "blocks.2."), "the head does not read it"
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    again = dict(randomised(encoder, 1, seed=0))["all weights"].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in stages["all weights"].state_dict().items())


def test_comparisons_of_maps_by_hand() -> None:
    known = np.ones((1, 1, 4), dtype=bool)
    a, b = np.array([[[[1.0, -2, 3, -4]]]]), np.array([[[[10.0, 20, -30, 40]]]])
    assert rank_correlations(a, b, known) == pytest.approx(1)
    assert (rank_correlations(a, np.zeros_like(a), known) == 0).all()
    weight = np.array([1.0, 1, 2])
    assert weighted_correlation(np.array([0.0, 1, 3]), np.array([5.0, 1, 2]), weight) == pytest.approx(
        np.corrcoef([0, 1, 3, 3], [5, 1, 2, 2])[0, 1]
    )
    # Half of the size on a fifth of the area.
    assert enrichment(np.array([2.0, -1, 1]), np.array([True, False, False]), np.array([1.0, 2, 2])) == pytest.approx(
        2.5
    )

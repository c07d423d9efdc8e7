"""Jigsaw: permutations far from one another, tiles in the order of the class, and nothing else to tell it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.spatial.jigsaw import NAME, Jigsaw, JigsawConfig, arrangements
from earthssl.pretext.spatial.tiles import Tiling
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context
from scipy.ndimage import gaussian_filter

VARIABLES = ("u10", "v10")
PATCH = (1, 2, 2)
GLOBE = LatLonGrid(np.linspace(84.375, -84.375, 16), np.arange(24) * 15.0)  # 12 rows within 70°
CONFIG = JigsawConfig(tiles=Tiling((2, 3), (2, 2)), permutations=30)


def make(config: JigsawConfig, grid: LatLonGrid = GLOBE) -> tuple[Any, Jigsaw]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 1, PATCH).build(VARIABLES)
    return encoder, config.build(Context(encoder, VARIABLES, grid))


def windows(x: np.ndarray, grid: LatLonGrid = GLOBE, number: int = 0) -> Batch:
    """Return fields (sample, variable, row, column) as a batch of one step."""
    known, size = torch.ones(x.shape[1:], dtype=torch.bool), len(x)
    times, keys = torch.zeros(size, 1, dtype=torch.int64), fold(torch.arange(size), number)
    return from_fields(torch.from_numpy(x)[:, None], times, keys, known, VARIABLES, grid, number)


def noise(size: int, number: int = 0) -> Batch:
    """Return independent cells."""
    return windows(np.random.default_rng(number).normal(size=(size, 2, *GLOBE.shape)), number=number)


def least_distance(table: np.ndarray) -> int:
    """Return the least number of places in which two rows differ."""
    return min(int((one != other).sum()) for k, one in enumerate(table) for other in table[:k])


def test_few_tiles_take_all_permutations() -> None:
    """n! classes, each once, the identity first."""
    for tiles in (2, 3, 4):
        table = arrangements(tiles, 100)
        assert {tuple(row) for row in table.tolist()} == set(permutations(range(tiles)))
        assert len(table) == factorial(tiles)
        assert table[0].tolist() == list(range(tiles))


@pytest.mark.parametrize(
    # Known bounds: n permutations can differ everywhere, n(n-1) in all places but one where n is a prime power.
    ("tiles", "count", "least"),
    [
        (3, 3, 3),
        (4, 4, 4),
        (4, 12, 3),
        (5, 5, 5),
        (6, 6, 6),
        (8, 56, 7),
        (9, 9, 9),
        (9, 100, 6),
        (12, 12, 12),
        (12, 100, 9),
    ],
)
def test_many_tiles_take_permutations_far_from_one_another(tiles: int, count: int, least: int) -> None:
    """As far as can be for the small ones; always permutations, distinct, and the same again."""
    table = arrangements(tiles, count)
    assert table.shape == (count, tiles)
    assert (np.sort(table, 1) == np.arange(tiles)).all()
    assert least_distance(table) >= least
    arrangements.cache_clear()
    np.testing.assert_array_equal(arrangements(tiles, count), table)


def test_the_set_is_far_better_than_a_random_one() -> None:
    """40 of 6 tiles: drawn at random, some two are next to equal."""
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.permutation(6) for _ in range(40)])
    assert least_distance(drawn) <= 2
    assert least_distance(arrangements(6, 40)) >= 4


def test_tiles_are_shown_in_the_order_of_the_class() -> None:
    """Tile table[c][s] of the map stands at place s."""
    _, task = make(CONFIG)
    batch = noise(30)
    straight, _ = task.tiling.show(batch, torch.arange(6).expand(30, -1), NAME)
    shown, _ = task.tiling.show(batch, task.which(batch, torch.arange(30)), NAME)
    one, other = straight.values.unflatten(0, (30, 6)), shown.values.unflatten(0, (30, 6))
    for k in range(30):
        for place, tile in enumerate(task.table[k].tolist()):
            assert torch.equal(other[k, place], one[k, tile])


def test_every_class_is_drawn_equally_often() -> None:
    """30 classes, 5 standard errors."""
    _, task = make(CONFIG)
    shown, target = task.pose(noise(6000))
    assert len(shown) == 6 * 6000
    counts = np.bincount(target.numpy(), minlength=30)
    assert len(counts) == 30
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200)


@pytest.mark.parametrize("one", [False, True])
def test_the_mask_does_not_tell_the_class(one: bool) -> None:
    """The same cells are shown in the same places whatever the order; blank maps look alike for all classes."""
    _, task = make(replace(CONFIG, tiles=replace(CONFIG.tiles, one_variable=one)))
    batch = noise(5)
    valid = torch.from_numpy(np.random.default_rng(5).random(batch.valid.shape) > 0.06)
    blank = replace(batch, valid=valid, values=torch.zeros_like(batch.values))
    batch = replace(batch, valid=valid, values=batch.values * valid)
    for posed, same in ((batch, False), (blank, True)):
        views = [task.tiling.show(posed, task.which(posed, torch.full((5,), k)), NAME)[0] for k in range(30)]
        assert not views[0].valid.all()
        assert all(torch.equal(view.valid, views[0].valid) for view in views)
        assert all(torch.equal(view.values, views[0].values) == same for view in views[1:])


def test_loss_and_skill() -> None:
    """A function of the keys; skill is the excess over one in the number of classes."""
    encoder, task = make(CONFIG)
    batch = noise(32)
    outcome = task(encoder, batch)
    assert torch.equal(outcome.loss, task(encoder, batch).loss)
    assert not torch.equal(outcome.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)
    assert float(outcome.terms["skill"]) == pytest.approx((float(outcome.terms["accuracy"]) - 1 / 30) / (29 / 30))
    moved = replace(batch, grid=LatLonGrid(GLOBE.lat, GLOBE.lon + 7), times=batch.times + 86400 * 100)
    assert torch.equal(task(encoder, moved).loss, outcome.loss)
    assert task.classes == 30
    assert make(replace(CONFIG, tiles=Tiling((2, 2), (2, 2))))[1].classes == 24
    assert "table" not in task.state_dict()


def test_a_map_with_places_is_learnt_and_noise_is_not() -> None:
    """Four tiles in 24 orders of a pattern that fixes the place; noise stays at chance (4 standard errors)."""
    grid = LatLonGrid(np.linspace(40, -40, 14), 100 + np.arange(14) * 5.0)
    pattern = gaussian_filter(np.random.default_rng(3).normal(size=(2, *grid.shape)), (0, 1.5, 1.5))
    pattern = 4 * pattern / pattern.std()
    accuracy = {}
    for strength in (0.0, 1.0):
        encoder, task = make(JigsawConfig(tiles=Tiling((2, 2), (4, 4))), grid)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
        right = []
        for number in range(60):
            x = np.random.default_rng(number).normal(size=(24, 2, *grid.shape)) + strength * pattern
            outcome = task(encoder, windows(x, grid, number))
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
            right.append(float(outcome.terms["accuracy"]))
        accuracy[strength] = float(np.mean(right[-20:]))
    assert accuracy[0.0] == pytest.approx(1 / 24, abs=4 * (1 / 24 * 23 / 24 / 480) ** 0.5)
    assert accuracy[1.0] > 0.5


def test_borders_solve_a_smooth_field_without_gaps_and_not_noise() -> None:
    """What the gap is for: without one the borders of a smooth field tell the order."""
    far = Tiling((2, 2), (4, 4), jitter=0, poles=90.0)
    _, task = make(replace(CONFIG, tiles=far))

    def smooth(number: int) -> Batch:
        x = np.random.default_rng(number).normal(size=(256, 2, *GLOBE.shape))
        x = gaussian_filter(x, (0, 0, 1.5, 1.5), mode=("nearest", "nearest", "nearest", "wrap"))
        return windows(x, number=number)

    (cue,) = task.cues()
    skill = {}
    for task.tiling in (far, replace(far, gap=(0, 0))):
        cue.fit(task, [smooth(k) for k in range(10, 14)], PATCH)
        skill[task.tiling.gaps[0]] = cue.skill(task, smooth(1), PATCH)
    assert skill[0] > 0.85
    assert skill[4] < 0.4
    cue.fit(task, [noise(256, k) for k in range(1, 5)], PATCH)
    assert abs(cue.skill(task, noise(1024), PATCH)) < 4 * (1 / 24 * 23 / 24 / 1024) ** 0.5


def test_border_mismatch_by_brute_force() -> None:
    """The sum over neighbours of the map, put together tile by tile for each class; "level" comes first."""
    _, task = make(CONFIG)
    shown, _ = task.pose(noise(3))
    got = task.mismatch(shown)
    tiles = shown.values.unflatten(0, (3, 6))[:, :, 0]
    for sample in range(3):
        for k, order in enumerate(task.table.tolist()):
            at = {tile: tiles[sample, place] for place, tile in enumerate(order)}
            east = [(at[t][..., -1] - at[t + 1][..., 0]).square().mean() for t in (0, 1, 3, 4)]
            south = [(at[t][..., -1, :] - at[t + 3][..., 0, :]).square().mean() for t in (0, 1, 2)]
            assert float(got[sample, k, 0]) == pytest.approx(float(sum(east)), rel=1e-4)
            assert float(got[sample, k, 4]) == pytest.approx(float(sum(south)), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"permutations": 1}, r"jigsaw\.permutations: expected 2 to 10000, got 1"),
        ({"permutations": 10_001}, r"jigsaw\.permutations"),
        ({"hidden": 0}, r"jigsaw\.hidden: expected a width ≥ 1, got 0"),
        ({"tiles": Tiling((9, 8), (2, 2))}, r"jigsaw\.tiles\.shape: expected at most 64 tiles"),
        ({"tiles": Tiling((2, 2), (2, 2), gap=(0, 0))}, r"jigsaw\.tiles\.gap: expected at least one tile"),
        ({"tiles": Tiling((3, 3), (4, 4))}, r"jigsaw\.tiles: 3 rows of tiles of 4 cells .* raise poles"),
        ({"tiles": Tiling((2, 2), (2, 3))}, r"jigsaw\.tiles\.tile: expected a multiple of the patch's 2 columns"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    """One line each, naming the setting."""
    with pytest.raises(EarthSSLError, match=message):
        make(JigsawConfig(**settings))

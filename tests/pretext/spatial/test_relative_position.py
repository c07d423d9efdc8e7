"""Relative position: neighbours that lie where the class says, and nothing but their content to tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.spatial.relative_position import DIRECTIONS, NAME, RelativePosition, RelativePositionConfig
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
# Just large enough for 3×3 tiles of 4×4 cells, gaps of 4 and jitter 1.
REGION = LatLonGrid(np.linspace(57, -57, 23), 100 + np.arange(23) * 5.0)
CONFIG = RelativePositionConfig(tiles=Tiling(tile=(2, 2), jitter=0))
WIDE = RelativePositionConfig(tiles=Tiling(tile=(4, 4)))
PICKS = torch.arange(8)


def make(grid: LatLonGrid, config: RelativePositionConfig) -> tuple[Any, RelativePosition]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 1, PATCH).build(VARIABLES)
    return encoder, config.build(Context(encoder, VARIABLES, grid))


def windows(x: np.ndarray, grid: LatLonGrid, number: int = 0) -> Batch:
    """Return fields (sample, variable, row, column) as a batch of one step."""
    known, size = torch.ones(x.shape[1:], dtype=torch.bool), len(x)
    times, keys = torch.zeros(size, 1, dtype=torch.int64), fold(torch.arange(size), number)
    return from_fields(torch.from_numpy(x)[:, None], times, keys, known, VARIABLES, grid, number)


def noise(grid: LatLonGrid, size: int, number: int = 0) -> Batch:
    """Return independent cells."""
    rng = np.random.default_rng(number)
    return windows(rng.normal(size=(size, 2, *grid.shape)), grid, number)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (3, 2), (2, 2)])
def test_the_second_tile_lies_where_the_class_says(shape: tuple[int, int]) -> None:
    """By the rows and columns of the map, for every class and every tiling; on the globe the short way round."""
    tiling = Tiling(shape, (2, 2), jitter=0 if shape[0] == 3 else 1)
    _, task = make(GLOBE, RelativePositionConfig(tiles=tiling))
    batch = noise(GLOBE, 4000)
    picks = torch.arange(4000) % 8
    which = task.which(batch, picks)
    tops, lefts = (x.gather(1, which) for x in tiling.place(GLOBE, batch.keys))
    south, east = (x[:, 1] - x[:, 0] for x in (tops, lefts))
    for axis, moved in enumerate((south, east)):
        for k, way in enumerate(DIRECTIONS):
            steps = set(moved[picks == k].tolist())
            j = tiling.jitter
            if way[axis] == 0:
                assert steps == set(range(-j, j + 1))
            else:
                assert {way[axis] * step for step in steps} == set(range(4, 4 + 2 * j + 1))
    if shape == (3, 3):
        assert (which[:, 0] == 4).all()  # the first tile is the same whatever the class
    assert set(which.flatten().tolist()) == set(range(tiling.count))


def test_every_class_is_drawn_equally_often() -> None:
    """Eight classes, one in eight (5 standard errors), whatever the place."""
    _, task = make(GLOBE, CONFIG)
    shown, target = task.pose(noise(GLOBE, 4096))
    assert len(shown) == 2 * 4096
    counts = np.bincount(target.numpy(), minlength=8)
    assert len(counts) == 8
    assert np.abs(counts - 512).max() < 5 * np.sqrt(4096 / 8 * 7 / 8)


@pytest.mark.parametrize("one", [False, True])
def test_the_mask_does_not_tell_the_class(one: bool) -> None:
    """The same cells are shown whichever class is picked: a blank map gives the same logits for all."""
    _, task = make(GLOBE, replace(CONFIG, tiles=replace(CONFIG.tiles, one_variable=one)))
    batch = noise(GLOBE, 6)
    valid = torch.from_numpy(np.random.default_rng(5).random(batch.valid.shape) > 0.06)
    batch = replace(batch, valid=valid, values=batch.values * valid)
    views = [task.tiling.show(batch, task.which(batch, torch.full((6,), k)), NAME)[0] for k in range(8)]
    assert not views[0].valid.all()
    assert all(torch.equal(view.valid, views[0].valid) for view in views)
    assert not torch.equal(views[0].values, views[7].values)
    blank = replace(batch, values=torch.zeros_like(batch.values))
    views = [task.tiling.show(blank, task.which(blank, torch.full((6,), k)), NAME)[0] for k in range(8)]
    assert all(torch.equal(view.values, views[0].values) for view in views)


def test_place_season_and_level_are_not_given() -> None:
    """The same map elsewhere, at another time, brighter and of more contrast gives the same loss."""
    encoder, task = make(GLOBE, CONFIG)
    batch = noise(GLOBE, 8)
    loss = task(encoder, batch).loss
    moved = replace(batch, grid=LatLonGrid(GLOBE.lat, GLOBE.lon + 7), times=batch.times + 86400 * 100)
    assert torch.equal(task(encoder, moved).loss, loss)
    torch.testing.assert_close(task(encoder, replace(batch, values=5 + 3 * batch.values)).loss, loss, rtol=1e-4, atol=0)


def test_it_is_a_function_of_the_keys() -> None:
    """The same twice, other tiles and classes with other keys; skill is the excess over 1/8."""
    encoder, task = make(GLOBE, CONFIG)
    batch = noise(GLOBE, 32)
    outcome = task(encoder, batch)
    assert torch.equal(outcome.loss, task(encoder, batch).loss)
    assert not torch.equal(outcome.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)
    assert float(outcome.terms["skill"]) == pytest.approx((float(outcome.terms["accuracy"]) - 0.125) / 0.875)
    outcome.loss.backward()
    assert all(p.grad is not None for p in task.parameters())


def test_windows_without_cells_are_left_out() -> None:
    """They count neither in the loss nor in the accuracy."""
    encoder, task = make(GLOBE, CONFIG)
    batch = noise(GLOBE, 4)
    valid = batch.valid.clone()
    valid[1] = False
    some = replace(batch, valid=valid, values=batch.values * valid)
    shown, target = task.pose(some)
    _, whole = task.pose(batch)
    assert target.tolist() == [whole[k].item() for k in (0, 2, 3)]
    assert len(shown) == 6
    assert torch.isfinite(task(encoder, some).loss)


def test_a_map_with_places_is_learnt_and_noise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that fixes the place is learnt, noise stays at chance; shuffling the cells of each tile kills it."""
    rng = np.random.default_rng(3)
    pattern = gaussian_filter(rng.normal(size=(2, *REGION.shape)), (0, 1.5, 1.5))
    pattern = 4 * pattern / pattern.std()

    def maps(strength: float, number: int, size: int = 24) -> Batch:
        x = np.random.default_rng(number).normal(size=(size, 2, *REGION.shape)) + strength * pattern
        return windows(x, REGION, number)

    accuracy = {}
    for strength in (0.0, 1.0):
        encoder, task = make(REGION, WIDE)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
        right = []
        for number in range(60):
            outcome = task(encoder, maps(strength, number))
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
            right.append(float(outcome.terms["accuracy"]))
        accuracy[strength] = float(np.mean(right[-20:]))
    assert accuracy[0.0] == pytest.approx(0.125, abs=4 * (0.125 * 0.875 / 480) ** 0.5)
    assert accuracy[1.0] > 0.5

    tiles, target = task.pose(maps(1.0, 1000, 512))
    cells = torch.from_numpy(rng.permuted(tiles.values.flatten(3).numpy(), axis=3)).view_as(tiles.values)
    monkeypatch.setattr(task, "pose", lambda batch: (replace(tiles, values=cells), target))
    shuffled = float(task(encoder, maps(1.0, 1000, 512)).terms["accuracy"])
    assert shuffled == pytest.approx(0.125, abs=0.08)


def test_borders_tell_a_smooth_field_without_gaps_and_not_noise() -> None:
    """What the gap is for: adjoining borders betray the class of smooth fields, a gap of one tile mostly not."""
    far = Tiling((2, 2), (4, 4), jitter=0, poles=90.0)
    _, task = make(GLOBE, RelativePositionConfig(tiles=far))

    def smooth(number: int) -> Batch:
        x = np.random.default_rng(number).normal(size=(256, 2, *GLOBE.shape))
        x = gaussian_filter(x, (0, 0, 1.5, 1.5), mode=("nearest", "nearest", "nearest", "wrap"))
        return windows(x, GLOBE, number)

    chance = 4 * (0.125 * 0.875 / 1024) ** 0.5 / 0.875
    for cue in task.cues():
        skill = {}
        for task.tiling in (far, replace(far, gap=(0, 0))):
            cue.fit(task, [smooth(k) for k in range(10, 16)], PATCH)
            skill[task.tiling.gaps[0]] = cue.skill(task, smooth(1), PATCH)
        assert skill[0] > 0.4
        assert skill[4] < skill[0] - 0.2
        cue.fit(task, [noise(GLOBE, 256, k) for k in range(1, 7)], PATCH)
        assert abs(cue.skill(task, noise(GLOBE, 1024), PATCH)) < chance


def test_mismatch_of_the_true_direction() -> None:
    """Two pieces of a plane without a gap: slopes and levels half way agree in the direction they were cut in."""
    _, task = make(GLOBE, RelativePositionConfig(tiles=Tiling((2, 2), (2, 2), jitter=0)))
    y, x = np.meshgrid(np.arange(16.0), np.arange(24.0), indexing="ij")
    plane = torch.from_numpy(np.stack([x + 2 * y, 3 * x - y])).float()
    for k, (south, east) in enumerate(DIRECTIONS):
        places = [(6, 10), (6 + 4 * south, 10 + 4 * east)]
        tiles = torch.stack([plane[:, row : row + 4, column : column + 4] for row, column in places])[:, None]
        shown = replace(noise(LatLonGrid(GLOBE.lat[:4], GLOBE.lon[:4]), 2), values=tiles)
        found = task.mismatch(shown)[0].unflatten(-1, (3, 4))[..., 2].sum(-1)  # extrapolated half a cell
        assert found[k] == pytest.approx(0, abs=1e-4)
        assert (found > 1).sum() == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiles": Tiling((1, 3), (2, 2))}, r"relative_position\.tiles\.shape: expected 3×3 tiles"),
        ({"tiles": Tiling((3, 4), (2, 2))}, r"relative_position\.tiles\.shape"),
        ({"hidden": 0}, r"relative_position\.hidden: expected a width ≥ 1, got 0"),
        ({"tiles": Tiling((2, 2), (2, 2), gap=(1, 2))}, "expected at least one tile"),
        ({"tiles": Tiling((3, 3), (4, 2))}, r"relative_position\.tiles: 3 rows of tiles of 4 cells"),
        # even where no gap of a tile fits
        ({"tiles": Tiling((3, 3), (4, 2), gap=(0, 2), jitter=0)}, "expected at least one tile"),
        ({"tiles": Tiling((2, 2), (2, 2), frames=2)}, r"relative_position\.tiles\.frames: expected 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    """One line each, naming the setting."""
    with pytest.raises(EarthSSLError, match=message):
        make(GLOBE, RelativePositionConfig(**settings))

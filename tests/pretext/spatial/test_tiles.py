"""Tiles: whole across the date line, apart as asked, without level or spread, and with a mask that tells nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.spatial import tiles
from earthssl.pretext.spatial.jigsaw import JigsawConfig
from earthssl.pretext.spatial.relative_position import RelativePositionConfig
from earthssl.pretext.spatial.tiles import Tiling, normalise, nowhere
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
GLOBE = LatLonGrid(np.linspace(84.375, -84.375, 16), np.arange(24) * 15.0)  # 12 rows within 70°
REGION = LatLonGrid(np.linspace(33, -33, 14), 100 + np.arange(20) * 5.0)
SMALL = Tiling((2, 3), (2, 4), jitter=1)
PAIRS = Tiling((2, 2), (2, 2), jitter=1)
KEYS = fold(torch.arange(3000), 1)


def fields(grid: LatLonGrid, number: int = 0, size: int = 4, steps: int = 2, holes: float = 0.0) -> Batch:
    """Return windows of noise with missing cells here and there."""
    rng = np.random.default_rng(number)
    x = 3 + 2 * rng.normal(size=(size, steps, 3, *grid.shape))
    x[rng.random(x.shape) < holes] = np.nan
    known = torch.ones(3, *grid.shape, dtype=torch.bool)
    times = torch.arange(steps).expand(size, -1) * 86400
    return from_fields(torch.from_numpy(x), times, fold(torch.arange(size), number), known, NAMES, grid, number)


def context(grid: LatLonGrid, patch: tuple[int, int, int] = (1, 2, 2), window: int = 2) -> Context:
    """Return what a task is built from."""
    return Context(EncoderConfig("nano", window, patch).build(NAMES), NAMES, grid)


def test_a_tile_across_the_date_line_is_the_tile_of_the_rolled_field() -> None:
    """Cutting where the columns wrap and cutting the field rolled until they do not is the same."""
    batch = fields(GLOBE)
    samples, tops = torch.arange(4), torch.full((4, 1), 3)
    for left in range(24):
        tile = SMALL.cut(batch.values, samples, tops, torch.full((4, 1), left))
        rolled = batch.values.roll(5 - left, -1)
        assert torch.equal(tile, SMALL.cut(rolled, samples, tops, torch.full((4, 1), 5)))
        assert torch.equal(tile[:, 0], rolled[..., 3:5, 5:9])


def test_tilings_go_round_the_globe_and_keep_off_the_poles() -> None:
    """Every column and every usable row begins a tiling, equally often; no row beyond 70° is touched."""
    tops, lefts = SMALL.place(GLOBE, KEYS)
    counts = np.bincount((lefts[:, 0] % 24).numpy(), minlength=24)
    assert counts.min() > 0.7 * 3000 / 24
    assert counts.max() < 1.3 * 3000 / 24
    used = {int(top) + k for top in tops.unique() for k in range(2)}
    assert used == {row for row in range(16) if abs(GLOBE.lat[row]) <= 70}
    everywhere = replace(SMALL, poles=90.0).place(GLOBE, KEYS)[0]
    assert {int(top) + k for top in everywhere.unique() for k in range(2)} == set(range(16))


def test_tilings_stay_inside_a_region() -> None:
    """Where the grid ends, so do the tiles; each edge is reached."""
    tiling = Tiling((3, 2), (2, 4), jitter=1)
    tops, lefts = tiling.place(REGION, KEYS)
    assert (int(tops.min()), int(tops.max()) + 2) == (0, 14)
    assert (int(lefts.min()), int(lefts.max()) + 4) == (0, 20)


@pytest.mark.parametrize(("gap", "jitter"), [((2, 4), 1), ((3, 5), 0), ((0, 1), 2)])
def test_gap_and_jitter_are_kept_exactly(gap: tuple[int, int], jitter: int) -> None:
    """Between neighbours lie gap … gap + 2 jitter cells, all of them drawn; abreast they shift by ± jitter."""
    tiling = Tiling((2, 2), (2, 4), gap, jitter)
    tops, lefts = (x.unflatten(1, (2, 2)) for x in tiling.place(GLOBE, KEYS))
    assert set((tops[:, 1] - tops[:, 0] - 2).flatten().tolist()) == set(range(gap[0], gap[0] + 2 * jitter + 1))
    assert set((lefts[:, :, 1] - lefts[:, :, 0] - 4).flatten().tolist()) == set(range(gap[1], gap[1] + 2 * jitter + 1))
    assert set((tops[:, :, 1] - tops[:, :, 0]).flatten().tolist()) == set(range(-jitter, jitter + 1))
    # extent() is exactly what the tiling can take.
    assert int((tops.flatten(1).amax(1) - tops.flatten(1).amin(1)).max()) + 2 == tiling.extent(0)
    assert int((lefts.flatten(1).amax(1) - lefts.flatten(1).amin(1)).max()) + 4 == tiling.extent(1)


def test_normalised_tiles_have_mean_0_and_deviation_1() -> None:
    """Over the valid cells, by area, for each tile and variable; the rest stays 0."""
    batch = fields(GLOBE, holes=0.3)
    area = torch.from_numpy(GLOBE.area).float().expand(4, 1, 1, -1, -1)
    out = normalise(batch.values, batch.valid, area)
    weights = np.broadcast_to(GLOBE.area, batch.valid.shape) * batch.valid.numpy()
    for sample in range(4):
        for variable in range(3):
            x, w = out[sample, :, variable].double().numpy(), weights[sample, :, variable]
            mean = np.average(x, weights=w)
            assert mean == pytest.approx(0, abs=1e-5)
            assert np.average((x - mean) ** 2, weights=w) == pytest.approx(1, abs=1e-4)
    assert (out[~batch.valid] == 0).all()
    assert torch.allclose(normalise(-7 + 0.3 * batch.values, batch.valid, area), out, atol=1e-4)


def test_flat_and_empty_tiles_are_zero() -> None:
    """No noise is blown up where nothing varies, and nothing is divided by nothing."""
    area = torch.from_numpy(GLOBE.area).float()[None, None]
    flat = torch.full((1, 1, *GLOBE.shape), 2.7)
    assert normalise(flat, torch.ones_like(flat, dtype=torch.bool), area).abs().max() < 1e-2
    assert torch.equal(normalise(flat, torch.zeros_like(flat, dtype=torch.bool), area), torch.zeros_like(flat))


def test_components_of_a_vector_stay_what_they_are() -> None:
    """Tiles are shifted, never turned: a tile of u holds u alone, with its sign, wherever it lies."""
    batch = fields(GLOBE)
    which = torch.tensor([[0, 5]]).expand(4, -1)
    shown, _ = SMALL.show(batch, which, "x")
    other = batch.values.clone()
    other[:, :, 2] = torch.randn(other[:, :, 2].shape, generator=torch.Generator().manual_seed(0))
    swapped, _ = SMALL.show(replace(batch, values=other), which, "x")
    assert torch.equal(shown.values[:, :, 1], swapped.values[:, :, 1])
    assert not torch.equal(shown.values[:, :, 2], swapped.values[:, :, 2])
    turned = batch.values * torch.tensor([1.0, -1, -1])[:, None, None]
    torch.testing.assert_close(
        SMALL.show(replace(batch, values=turned), which, "x")[0].values[:, :, 1:], -shown.values[:, :, 1:]
    )


def test_shown_tiles_are_the_normalised_cells_of_the_last_frames() -> None:
    """The whole path against a plain loop over cells."""
    batch = fields(GLOBE, steps=3)
    which = torch.tensor([[4, 1], [0, 2], [3, 3], [5, 0]])
    shown, samples = replace(SMALL, frames=2).show(batch, which, "x")
    assert samples.tolist() == [0, 1, 2, 3]
    assert shown.values.shape == (8, 2, 3, 2, 4)
    assert torch.equal(shown.times, batch.times[:, 1:].repeat_interleave(2, 0))
    last = batch.cut(1, 2)
    tops, lefts, _ = replace(SMALL, frames=2)._find(last, "x")
    for number in range(8):
        sample, tile = number // 2, int(which[number // 2, number % 2])
        rows = int(tops[sample, tile]) + np.arange(2)
        columns = (int(lefts[sample, tile]) + np.arange(4)) % 24
        x = last.values[sample].double().numpy()[:, :, rows][..., columns]
        w = np.broadcast_to(GLOBE.area[rows][:, columns], x.shape)
        mean = (x * w).sum((0, 2, 3)) / w.sum((0, 2, 3))
        x = x - mean[:, None, None]
        x = x / np.sqrt((x**2 * w).sum((0, 2, 3)) / w.sum((0, 2, 3)))[:, None, None]
        np.testing.assert_allclose(shown.values[number].numpy(), x, atol=1e-4)
    assert replace(SMALL, frames=0).show(batch, which, "x")[0].values.shape[1] == 3


@pytest.mark.parametrize("one", [False, True])
def test_the_mask_is_the_same_whichever_tiles_are_shown(one: bool) -> None:
    """A cell is valid in all tiles of the tiling or in none; blank maps look alike for every choice."""
    batch = fields(GLOBE, holes=0.05)
    tiling = replace(SMALL, one_variable=one)
    views = [tiling.show(batch, torch.tensor([pair]).expand(4, -1), "x")[0] for pair in ((0, 1), (5, 2), (3, 4))]
    for view in views:
        assert torch.equal(view.valid, views[0].valid)
        assert view.known.all()
        assert (view.values[~view.valid] == 0).all()
        assert view.grid is views[0].grid
    assert not torch.equal(views[0].values, views[1].values)
    assert views[0].valid.any()
    assert not views[0].valid.all()
    blank = replace(batch, values=batch.valid.float())
    shown = [tiling.show(blank, torch.tensor([pair]).expand(4, -1), "x")[0].values for pair in ((0, 1), (5, 2))]
    assert torch.equal(shown[0], shown[1])


def test_one_variable_a_tile() -> None:
    """Exactly one of those that have enough cells is left in each tile, drawn for each, each of them at times."""
    batch = fields(GLOBE, size=64)
    valid = batch.valid.clone()
    valid[:, :, 0] = False  # never observed: never drawn
    batch = replace(batch, valid=valid, values=batch.values * valid)
    shown, _ = replace(SMALL, one_variable=True).show(batch, torch.arange(4).expand(64, -1), "x")
    left = shown.valid.flatten(3).any(-1).any(1)
    assert (left.sum(1) == 1).all()
    share = left.float().mean(0)
    assert share[0] == 0
    assert share[1:].tolist() == pytest.approx([0.5, 0.5], abs=0.12)
    first, second = left.unflatten(0, (64, 4))[:, 0, 1], left.unflatten(0, (64, 4))[:, 1, 1]
    assert 10 < int((first != second).sum()) < 54


def test_tilings_on_land_are_drawn_again() -> None:
    """With a sea in one part of the map all tiles lie in it; a variable with too few cells is hidden."""
    batch = fields(GLOBE, size=32)
    valid = batch.valid.clone()
    valid[..., :, 18:] = False
    valid[:, :, 2] = False
    valid[:, :, 2, 8, 4] = True
    batch = replace(batch, valid=valid, values=batch.values * valid)
    tiling = replace(SMALL, cover=1.0, gap=(2, 1), jitter=0)
    shown, samples = tiling.show(batch, torch.arange(6).expand(32, -1), "x")
    assert len(samples) == 32
    assert shown.valid[:, :, :2].all()
    assert not shown.valid[:, :, 2].any()


def test_windows_of_gaps_are_left_out_and_land_everywhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample without cells poses nothing; where no cell of any ever holds a value the error says so."""
    monkeypatch.setattr(tiles, "ATTEMPTS", 20)
    batch = fields(GLOBE)
    valid = batch.valid.clone()
    valid[2] = False
    batch = replace(batch, valid=valid, values=batch.values * valid)
    whole, _ = SMALL.show(fields(GLOBE), torch.arange(2).expand(4, -1), "x")
    shown, samples = SMALL.show(batch, torch.arange(2).expand(4, -1), "x")
    assert samples.tolist() == [0, 1, 3]
    assert torch.equal(shown.values, whole.values[[0, 1, 2, 3, 6, 7]])
    land = replace(batch, valid=torch.zeros_like(valid), known=torch.zeros_like(batch.known))
    with pytest.raises(EarthSSLError, match=r"x: expected tilings of which 0\.25 .* lower tiles\.cover"):
        SMALL.show(land, torch.arange(2).expand(4, -1), "x")


@pytest.mark.parametrize("config", [RelativePositionConfig(tiles=PAIRS), JigsawConfig(tiles=PAIRS)])
def test_a_batch_of_gaps_is_skipped(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss 0 with a gradient of 0 everywhere, all windows counted as left out, and no skill among the terms."""
    monkeypatch.setattr(tiles, "ATTEMPTS", 5)
    own = context(GLOBE)
    task = config.build(own)
    batch = fields(GLOBE)
    gaps = replace(batch, valid=torch.zeros_like(batch.valid), values=torch.zeros_like(batch.values))
    outcome = task(own.encoder, gaps)
    outcome.loss.backward()
    assert not outcome.posed
    assert {name: value.item() for name, value in outcome.terms.items()} == {"left_out": 1.0}
    assert outcome.loss.item() == 0
    assert all((p.grad == 0).all() for p in (*own.encoder.parameters(), *task.parameters()) if p.requires_grad)
    valid = batch.valid.clone()
    valid[1] = False
    some = task(own.encoder, replace(batch, valid=valid, values=batch.values * valid))
    assert some.posed
    assert some.terms["left_out"].item() == 0.25
    assert task(own.encoder, batch).terms["left_out"].item() == 0


def test_draws_are_a_function_of_the_keys() -> None:
    """A sample shows the same tiles whatever stands beside it; other keys and tasks show others."""
    batch = fields(GLOBE, holes=0.1)
    which = torch.arange(2).expand(4, -1)
    shown, _ = SMALL.show(batch, which, "x")
    assert torch.equal(shown.values, SMALL.show(batch, which, "x")[0].values)
    one = replace(batch, values=batch.values[2:3], valid=batch.valid[2:3], times=batch.times[2:3], keys=batch.keys[2:3])
    assert torch.equal(shown.values[4:6], SMALL.show(one, which[:1], "x")[0].values)
    assert not torch.equal(shown.values, SMALL.show(replace(batch, keys=batch.keys + 1), which, "x")[0].values)
    assert not torch.equal(shown.values, SMALL.show(batch, which, "y")[0].values)


def test_a_tile_lies_nowhere() -> None:
    """On the equator from the prime meridian on, with the grid's spacing; one object, for caches."""
    made = nowhere(GLOBE, (2, 4))
    np.testing.assert_allclose(made.lat, [5.625, -5.625])
    np.testing.assert_allclose(made.lon, [0, 15, 30, 45])
    assert nowhere(GLOBE, (2, 4)) is made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (1, 1)}, "at least 2 tiles"),
        ({"shape": (0, 4)}, "at least 2 tiles"),
        ({"tile": (1, 4)}, r"tiles\.tile: expected rows and columns of at least 2"),
        ({"gap": (-1, 0)}, r"tiles\.gap: expected cells ≥ 0"),
        ({"jitter": -1}, "expected jitter and frames ≥ 0, got -1, 1"),
        ({"frames": -1}, "expected jitter and frames ≥ 0, got 1, -1"),
        ({"poles": 0.0}, r"tiles\.poles: expected a latitude in \(0, 90\], got 0"),
        ({"poles": 91.0}, r"tiles\.poles"),
        ({"cover": 0.0}, r"tiles\.cover: expected a share in \(0, 1\]"),
        ({"cover": 1.5}, r"tiles\.cover"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    """One line each, naming the setting."""
    with pytest.raises(EarthSSLError, match=message):
        Tiling(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tiling", "grid", "message"),
    [
        (Tiling((2, 2), (3, 4)), GLOBE, "multiple of the patch's 2 rows of cells, got 3"),
        (Tiling((2, 2), (2, 3)), GLOBE, "multiple of the patch's 2 columns of cells, got 3"),
        (Tiling((2, 2), (2, 2), frames=3), GLOBE, r"here\.frames: expected 0 to 2"),
        # room for a gap of a tile, but a smaller one was set
        (
            Tiling((2, 2), (2, 2), gap=(1, 2)),
            GLOBE,
            r"here\.gap: expected at least one tile \(2 rows of cells\), got 1",
        ),
        (Tiling((2, 2), (2, 2), gap=(2, 0)), GLOBE, r"here\.gap: expected at least one tile \(2 columns"),
        # rows: 3·(4+1) + 2·4 = 23 > 12 within 70°, 3·(2+1) + 2·2 = 13 > 12 too; no gap fits 3·(4+1) = 15 either
        (
            Tiling((3, 2), (4, 2)),
            GLOBE,
            "3 rows of tiles of 4 cells .* 12 rows within 70° .*; raise poles, or take fewer",
        ),
        (
            Tiling((3, 2), (4, 2), jitter=0),
            GLOBE,
            "take tiles of 2 cells, or set gap to 0 along the rows, or raise poles",
        ),
        # columns round the globe: 2·(6+1) + 6 = 20, and the way back of 4 < 6 + 2·1
        (Tiling((1, 2), (2, 6)), GLOBE, "24 columns that go round the globe; take tiles of 4 cells, or set gap to 3"),
        (Tiling((1, 3), (2, 4), jitter=2), REGION, "20 columns; take tiles of 2 cells, or set gap to 1"),
        (Tiling((2, 2), (2, 2), poles=2.0), GLOBE, "do not fit the 0 rows within 2°"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(tiling: Tiling, grid: LatLonGrid, message: str) -> None:
    """The error names the axis, the room there is, and the largest tile or gap that fits."""
    with pytest.raises(EarthSSLError, match=message):
        tiling.check(context(grid), "here")


def test_what_the_errors_advise_is_accepted() -> None:
    """The remedies of the test above, taken; and a strict task takes no gap below a tile."""
    globe, region = context(GLOBE), context(REGION)
    Tiling((3, 2), (2, 2), jitter=0).check(globe, "here")
    Tiling((3, 2), (4, 2), gap=(0, 2), jitter=0).check(globe, "here")
    Tiling((1, 2), (2, 4)).check(globe, "here")
    Tiling((1, 2), (2, 6), gap=(2, 3)).check(globe, "here")
    Tiling((1, 3), (2, 2), jitter=2).check(region, "here")
    Tiling((1, 3), (2, 4), gap=(2, 1), jitter=2).check(region, "here")
    with pytest.raises(EarthSSLError, match=r"here\.gap: expected at least one tile \(6 columns of cells\), got 3"):
        Tiling((1, 2), (2, 6), gap=(2, 3)).check(globe, "here", strict=True)
    with pytest.raises(EarthSSLError, match="take tiles of 4 cells, or take fewer columns"):
        Tiling((1, 2), (2, 6)).check(globe, "here", strict=True)

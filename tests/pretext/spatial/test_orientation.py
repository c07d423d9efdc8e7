"""Orientation: a group of turns, winds that stay winds, and no class to be read from a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.spatial.orientation import Orientation, OrientationConfig, crop
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.reflections import FLIPS, TURNS
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")


def make(grid: LatLonGrid, config: OrientationConfig, names: tuple[str, ...] = NAMES) -> tuple[Any, Orientation]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(names)
    return encoder, config.build(Context(encoder, names, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows of the small store, with a gap that lies askew."""
    made = small_windows("train").batch(list(range(0, 160, 20)))
    valid = made.valid.clone()
    valid[:, :, 2, 0, 1:4] = False
    return replace(made, valid=valid, values=made.values * valid, number=5)


@pytest.mark.parametrize("side", [0, 4])
def test_the_mask_does_not_tell_the_class(batch: Batch, side: int) -> None:
    """Validity and land are the same whichever turn is taken, and the same turned again: nothing to learn."""
    _, task = make(batch.grid, OrientationConfig(crop=side))
    views = [task.show(batch, torch.full((8,), k)) for k in range(4)]
    for view in views:
        assert torch.equal(view.valid, views[0].valid)
        assert torch.equal(view.known, views[0].known)
        assert view.grid.shape == ((4, 4) if side else (7, 12))
        assert torch.equal(view.valid, view.valid.flip((-1, -2)))
        assert (view.values[~view.valid] == 0).all()
    assert not torch.equal(views[0].values, views[1].values)
    # A network that gets the mask alone gets the same input for all four classes.
    blank = [task.show(replace(batch, values=batch.valid.float()), torch.full((8,), k)).values.abs() for k in range(4)]
    assert all(torch.equal(blank[0], other) for other in blank)


def test_place_and_season_are_not_given(batch: Batch) -> None:
    """The same map elsewhere on the globe and at another time gives the same loss."""
    encoder, task = make(batch.grid, OrientationConfig())
    moved = LatLonGrid(batch.grid.lat, batch.grid.lon + 7)
    other = replace(batch, grid=moved, times=batch.times + 86400 * 100)
    assert torch.equal(task(encoder, batch).loss, task(encoder, other).loss)


def test_the_last_frames_are_shown(batch: Batch) -> None:
    """One by default, all with 0."""
    first = torch.zeros(8, dtype=torch.int64)
    _, task = make(batch.grid, OrientationConfig())
    shown = task.show(batch, first)
    assert shown.values.shape[1] == 1
    seen = shown.valid
    assert torch.equal(shown.values[seen], batch.values[:, -1:][seen])
    _, task = make(batch.grid, OrientationConfig(frames=0))
    assert task.show(batch, first).values.shape[1] == 3


def test_crops_wrap_in_longitude(batch: Batch) -> None:
    """On a periodic grid every column is a left edge at times, and a crop across 0°E is one unbroken piece."""
    columns = torch.arange(12.0).expand(8, 3, 3, 7, 12)
    rows = torch.arange(7.0)[:, None].expand(8, 3, 3, 7, 12)
    everywhere = torch.ones_like(batch.known)
    lefts, tops = set(), set()
    for number in range(200):
        here = replace(batch, number=number, known=everywhere)
        piece = crop(replace(here, values=columns.contiguous()), 4)
        steps = piece.values[0, 0, 0, 0].diff()
        assert set(steps.tolist()) <= {1.0, -11.0}
        lefts.add(int(piece.values[0, 0, 0, 0, 0]))
        tops.add(int(crop(replace(here, values=rows.contiguous()), 4).values[0, 0, 0, 0, 0]))
        assert piece.grid.shape == (4, 4)
        np.testing.assert_allclose(np.diff(piece.grid.lon), 30)
    assert lefts == set(range(12))
    assert tops == set(range(4))


def test_crops_stay_inside_a_region(batch: Batch) -> None:
    """Where the grid does not go round the globe, no crop crosses its edge."""
    region = LatLonGrid(batch.grid.lat, np.arange(12) * 10.0)
    columns = torch.arange(12.0).expand(8, 3, 3, 7, 12).contiguous()
    lefts = set()
    for number in range(200):
        here = replace(batch, grid=region, values=columns, number=number, known=torch.ones_like(batch.known))
        piece = crop(here, 4)
        assert (piece.values[0, 0, 0, 0].diff() == 1).all()
        lefts.add(int(piece.values[0, 0, 0, 0, 0]))
    assert lefts == set(range(9))


def test_crops_keep_off_land(batch: Batch) -> None:
    """With values in one corner of the map only, every crop holds some of them; with too few, one line says so."""
    known = torch.zeros_like(batch.known)
    known[:, :2, :3] = True
    for number in range(50):
        piece = crop(replace(batch, known=known, number=number), 2)
        assert piece.known.any()
    lonely = torch.zeros_like(batch.known)
    lonely[:, 0, 0] = True
    with pytest.raises(EarthSSLError, match="take a larger crop"):
        crop(replace(batch, known=lonely), 2)


def test_all_classes_are_drawn_and_scored(batch: Batch) -> None:
    """Four classes, equally often; loss, accuracy and excess over 1/4; a function of the keys."""
    encoder, task = make(batch.grid, OrientationConfig(crop=4))
    outcome = task(encoder, batch)
    assert torch.equal(outcome.loss, task(encoder, batch).loss)
    assert float(outcome.terms["skill"]) == pytest.approx((float(outcome.terms["accuracy"]) - 0.25) / 0.75)
    assert outcome.loss.requires_grad
    assert task.kinds == TURNS
    assert make(batch.grid, OrientationConfig())[1].kinds == FLIPS
    assert task.example(encoder, batch) is None


def test_noise_has_no_way_round_and_a_jet_has() -> None:
    """Isotropic noise stays at chance (4 standard errors); a westerly jet in the north is told at once."""
    results = {}
    for jet in (0.0, 1.5):
        rng = np.random.default_rng(2)
        grid = LatLonGrid(np.array([45.0, 15, -15, -45]), np.arange(6.0) * 60)
        names = ("u10", "v10")
        encoder, task = make(grid, OrientationConfig(), names)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
        known, right = torch.ones(2, 4, 6, dtype=torch.bool), []
        for number in range(60):
            fields = rng.normal(size=(64, 1, 2, 4, 6))
            fields[:, :, 0, :2] += jet
            keys, times = fold(torch.arange(64), number), torch.zeros(64, 1, dtype=torch.int64)
            outcome = task(encoder, from_fields(torch.from_numpy(fields), times, keys, known, names, grid, number))
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
            right.append(float(outcome.terms["accuracy"]))
        results[jet] = float(np.mean(right[-20:]))
    assert results[0.0] == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / (20 * 64)) ** 0.5)
    assert results[1.5] > 0.9


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    """Crops larger than the grid, frames outside the window, a component without its partner."""
    for side in (8, 1):
        with pytest.raises(EarthSSLError, match="expected 2 to 7 cells"):
            make(batch.grid, OrientationConfig(crop=side))
    with pytest.raises(EarthSSLError, match=r"orientation\.frames"):
        make(batch.grid, OrientationConfig(frames=4))
    with pytest.raises(EarthSSLError, match="u10 has no partner"):
        make(batch.grid, OrientationConfig(crop=4), ("sst", "u10"))
    make(batch.grid, OrientationConfig(), ("sst", "u10"))

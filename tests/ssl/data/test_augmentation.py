"""Augmentations: off by default, true to the physics, with the covariance they say, refused where they would lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.linear_residual import LinearResidual
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.data.augmentation import (
    AugmentConfig,
    augmented,
    check_augmentation,
    mirrored,
    noisy,
    region,
    rolled,
)
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.tokens import season_features
from earthssl.ssl.store.store import Store

GRID = LatLonGrid(np.linspace(84, -84, 15), np.arange(0.0, 360, 15))
FLOW = ("z500", "u500", "v500", "vo500")


def fields(x: torch.Tensor, names: tuple[str, ...] = FLOW, grid: LatLonGrid = GRID, number: int = 0) -> Batch:
    """Return fields (sample, step, variable, row, column) as a batch, everything known."""
    keys = fold(torch.arange(len(x)), 7)
    times = 86400 * (10 + 31 * torch.arange(len(x))[:, None] + torch.arange(x.shape[1]))
    known = torch.ones(x.shape[2:], dtype=torch.bool)
    return from_fields(x, times, keys, known, names, grid, number)


def flow() -> Batch:
    """Return smooth streamfunctions with their winds and vorticity by centred differences on the sphere."""
    rng = np.random.default_rng(0)
    y, x = np.deg2rad(GRID.lat)[:, None], np.deg2rad(GRID.lon)
    waves = [rng.normal(size=(6, 1, 1)) * np.cos(k * x + rng.uniform(0, 6, (6, 1, 1))) * np.cos(y) ** 3 * np.sin(m * y)
             for k in (1, 2, 3) for m in (1, 2)]  # fmt: skip
    psi = np.sum(waves, 0)
    u, v = -ahead(psi, -2), ahead(psi, -1) / np.cos(y)
    return fields(torch.from_numpy(np.stack([psi, u, v, curl(u, v)], 1)[:, None]).float())


def ahead(x: np.ndarray, axis: int) -> np.ndarray:
    """Return the centred difference northwards (rows run south) or eastwards, by radian; rows at the ends are rough."""
    if axis == -1:
        return (np.roll(x, -1, -1) - np.roll(x, 1, -1)) / (2 * np.deg2rad(15))  # type: ignore[no-any-return]
    return -np.gradient(x, np.deg2rad(12), axis=-2)  # type: ignore[no-any-return]


def curl(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the vertical vorticity, radius 1."""
    cos = np.cos(np.deg2rad(GRID.lat))[:, None]
    return (ahead(v, -1) - ahead(u * cos, -2)) / cos  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["mirror", "roll"])
def test_vorticity_is_still_the_curl_of_the_winds(kind: str) -> None:
    """On the mirrored and on the turned planet, cell by cell; so signs and places belong together."""
    batch = flow()
    changed = mirrored(batch) if kind == "mirror" else rolled(batch, 5)
    assert not torch.allclose(changed.values, batch.values, atol=0.1)
    u, v, vorticity = (changed.values[:, 0, k].double().numpy() for k in (1, 2, 3))
    assert vorticity == pytest.approx(curl(u, v), abs=1e-4 * np.abs(vorticity).max())
    area = torch.from_numpy(GRID.area)
    for k, sign in enumerate((1, 1, -1, -1) if kind == "mirror" else (1, 1, 1, 1)):  # means of the whole globe
        mean = (batch.values[:, 0, k] * area).sum((-1, -2))
        assert (changed.values[:, 0, k] * area).sum((-1, -2)).numpy() == pytest.approx(sign * mean.numpy(), abs=1e-5)


def test_twice_mirrored_is_as_it_was_but_a_year_on() -> None:
    """The seasons of the mirror image are the opposite ones; northern rows are southern ones, gaps along."""
    batch = flow()
    valid = batch.valid.clone()
    valid[0, 0, 0, :3] = False
    batch = replace(batch, valid=valid, values=batch.values * valid)
    once = mirrored(batch)
    assert torch.equal(once.valid[0, 0, 0], batch.valid[0, 0, 0].flip(0))
    year = season_features(batch.times)[..., :2]
    assert season_features(once.times)[..., :2].numpy() == pytest.approx(-year.numpy(), abs=0.01)
    assert torch.equal(season_features(once.times)[..., 4:], season_features(batch.times)[..., 4:])  # time of day
    assert torch.equal(mirrored(once).values, batch.values)
    assert torch.equal(mirrored(once).valid, batch.valid)


def test_noise_has_the_covariance_of_the_fields() -> None:
    """Over many keys: size² times the mean product of the other samples; nothing after the window, nothing in gaps."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.randn(8, 8, generator=rng)
    grid = LatLonGrid(np.array([30.0, -30.0]), np.array([0.0, 180.0]))
    names = ("sst",)
    x = (torch.randn(24, 8, generator=rng) @ basis).view(24, 2, 1, 2, 2)
    x = torch.cat([x, torch.randn(24, 1, 1, 2, 2, generator=rng)], 1)
    batch = fields(x, names, grid)
    found = torch.zeros(8, 8)
    draws = 300
    for number in range(draws):
        changed = noisy(replace(batch, keys=fold(batch.keys, number)), 0.5, 2)
        noise = (changed.values - batch.values)[:, :2].flatten(1)
        found += noise.T @ noise / (24 * draws)
    rows = x[:, :2].flatten(1)
    expected = 0.25 * rows.T @ rows / 24  # of the 23 others, the mean over the samples
    size = float(expected.diagonal().mean())
    assert found.numpy() == pytest.approx(expected.numpy(), abs=0.12 * size)
    assert torch.equal(changed.values[:, 2], batch.values[:, 2])
    valid = batch.valid.clone()
    valid[:, 0, 0, 0, 0] = False
    gappy = replace(batch, valid=valid, values=batch.values * valid)
    assert not noisy(gappy, 0.5, 2).values[:, 0, 0, 0, 0].any()
    one = replace(batch, **{name: getattr(batch, name)[:1] for name in ("values", "valid", "times", "keys")})
    assert noisy(one, 0.5, 2) is one


def test_steps_are_left_out_and_one_stays() -> None:
    """At the stated rate but for the one that stays, in the window alone, every cell of a step or none."""
    batch = fields(torch.randn(2000, 5, 1, 2, 2), ("sst",), LatLonGrid(np.array([30.0, -30.0]), np.array([0.0, 180.0])))
    changed = augmented(AugmentConfig(step_dropout=0.5), batch, 3)
    gone = ~changed.valid.flatten(2)
    assert torch.equal(gone.any(2), gone.all(2))
    assert not gone[:, 3:].any()
    assert not gone[:, :3].all(1).any()
    share = (3 * 0.5 - 0.5**3) / 3  # of three, the last that would go stays
    assert float(gone[:, :3].float().mean()) == pytest.approx(share, abs=5 * (0.25 / 6000) ** 0.5)
    assert not changed.values[~changed.valid].any()
    assert torch.equal(changed.values[changed.valid], batch.values[changed.valid])


def test_a_region_is_a_cap_of_the_stated_area() -> None:
    """Its cells are the nearest to one of them; their area is the share to a cell; centres are drawn by area."""
    keys = fold(torch.arange(300), 3)
    caps = region(GRID, keys, 0.1)
    area = torch.from_numpy(GRID.area)
    covered = (caps * area).sum((1, 2)) / area.sum()
    assert float(covered.max()) <= 0.1 + 1e-9
    assert float(covered.min()) > 0.1 - float(area.max() / area.sum()) - 1e-9
    lat, lon = np.deg2rad(np.meshgrid(GRID.lat, GRID.lon, indexing="ij"))
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    for cap in caps[:20].numpy():
        near = points[cap] @ points.reshape(-1, 3).T  # from every cell inside to every cell
        inside, outside = near[:, cap.ravel()].min(1), near[:, ~cap.ravel()].max(1)
        assert (inside > outside - 1e-9).any()  # of the centre, all inside are nearer than any outside
    batch = flow()
    changed = augmented(AugmentConfig(region_dropout=1.0, region=0.2), replace(batch, keys=keys[:6]), 1)
    assert torch.equal(~changed.valid[:, 0, 0], region(GRID, keys[:6], 0.2))
    assert torch.equal(changed.valid[:, 0, 0], changed.valid[:, 0, 3])
    half = augmented(AugmentConfig(region_dropout=0.5), fields(torch.randn(600, 1, 1, 15, 24), ("z500",)), 1)
    lost = (~half.valid).flatten(1).any(1)
    assert float(lost.float().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 600**0.5)


def test_nothing_by_default_and_draws_come_back() -> None:
    """The very batch; each one alone changes it; mirrors come at the stated rate, the same for a whole batch."""
    batch = flow()
    assert augmented(AugmentConfig(), batch, 1) is batch
    for one in ({"mirror": 1.0}, {"roll": True}, {"noise": 0.3}, {"region_dropout": 1.0}):
        config = AugmentConfig(**one)  # type: ignore[arg-type]
        changed = augmented(config, batch, 1)
        assert not torch.equal(changed.values, batch.values)
        assert torch.equal(changed.values, augmented(config, batch, 1).values)
    half = AugmentConfig(mirror=0.5)
    times = [augmented(half, replace(batch, number=number), 1).times[0, 0] for number in range(400)]
    assert np.mean([int(time != batch.times[0, 0]) for time in times]) == pytest.approx(0.5, abs=0.125)
    turns = {int((augmented(AugmentConfig(roll=True), replace(batch, number=k), 1).values[0, 0, 0]
                  - batch.values[0, 0, 0]).abs().sum() < 1e-6) for k in range(40)}  # fmt: skip
    assert turns == {0, 1}  # some are not turned, most are


def test_what_would_be_untrue_is_refused(small_store: Path) -> None:
    """Land, a grid off the equator, a region, the sun, mountains in the mean state: each says what is in the way."""
    small = Store(small_store)
    shape = small.statistics.coefficients.shape
    flat = replace(small.statistics, coefficients=np.zeros(shape, np.float32))
    north = LatLonGrid(np.linspace(70, 10, 7), np.arange(0.0, 360, 30))
    west = LatLonGrid(np.linspace(90, -90, 7), np.arange(0.0, 120, 10))
    mountains = np.zeros(shape, np.float32)
    mountains[:, 0, 1] = 0.5 * small.statistics.scale[1] * np.cos(2 * np.deg2rad(small.grid.lon))  # half of it squared

    class Like(Store):
        def __init__(self, **changes: Any) -> None:
            self.__dict__.update({**small.__dict__, "statistics": flat, **changes})

        @property
        def step_days(self) -> float:
            return float(self.__dict__.get("days", 30.0))

    def attempt(said: str, asked: AugmentConfig, **changes: Any) -> None:
        store = Like(**changes)
        if not said:
            check_augmentation(asked, store)
            return
        with pytest.raises(EarthSSLError, match=said):
            check_augmentation(asked, store)

    mirror, roll = AugmentConfig(mirror=0.5), AugmentConfig(roll=True)
    attempt("", mirror)
    attempt("", roll)
    attempt(r"expected land and sea alike .*\(sst\)", mirror, statistics=small.statistics)
    attempt(r"expected no land mask.*\(sst\)", roll, statistics=small.statistics)
    attempt("the same on both sides of the equator", mirror, grid=north)
    attempt("", roll, grid=north)
    attempt("goes round the globe", roll, grid=west)
    attempt("the sun would stay behind", roll, days=0.25)
    attempt("got u10 with 12% of the variance", roll, statistics=replace(flat, coefficients=mountains))
    attempt("", mirror, statistics=replace(flat, coefficients=mountains))
    warm_north = np.zeros(shape, np.float32)
    warm_north[:, 0, 1] = (
        small.statistics.scale[1] * np.sin(np.deg2rad(small.grid.lat))[:, None]
    )  # a third squared, of coarse cells less
    attempt("hemispheres of like climates, got u10 with 29%", mirror, statistics=replace(flat, coefficients=warm_north))
    attempt("", roll, statistics=replace(flat, coefficients=warm_north))
    with pytest.raises(EarthSSLError, match=r"augment.noise: .*untrue"):
        check_augmentation(AugmentConfig(noise=0.3), Like(), LinearResidual.bars)
    attempt("", AugmentConfig(noise=0.3, step_dropout=0.1, region_dropout=0.1), statistics=small.statistics)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mirror": 1.5}, "augment.mirror"),
        ({"step_dropout": 1.0}, "augment.step_dropout"),
        ({"noise": -1.0}, "augment.noise"),
        ({"region": 0.0}, "augment.region"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        AugmentConfig(**settings)  # type: ignore[arg-type]


def test_a_run_refuses_before_it_begins(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match=r"augment.roll"):
        small_pretrain(tmp_path / "run", augment=AugmentConfig(roll=True))
    with pytest.raises(EarthSSLError, match="how the map was turned"):
        small_pretrain(tmp_path / "run", {"orientation": {}}, augment=AugmentConfig(mirror=0.5))
    assert not (tmp_path / "run").exists()

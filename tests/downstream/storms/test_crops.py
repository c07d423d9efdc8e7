"""Crops around storms: the right cells, winds turned as vectors, true places, and what cannot be shown is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.downstream.storms.crops import HALF_YEAR, CropConfig, StormCrops, at_true_places, crop_features, crop_pca
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import Splits
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import patchify, token_places
from earthssl.ssl.store.chunks import Template
from earthssl.ssl.store.store import Store
from earthssl.ssl.store.writing import close, create, open_fields
from scipy.ndimage import maximum_filter

GRID = LatLonGrid(87.5 - 5 * np.arange(36), 5.0 * np.arange(72))
TIMES = np.datetime64("2001-01-01", "s") + np.timedelta64(6, "h") * np.arange(60)
NAMES = ("u10", "v10", "msl", "vo850")

Maker = Callable[..., Store]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Maker of a store of normalised fields (time, variable, row, column)."""

    def store(
        fields: np.ndarray,
        variables: tuple[str, ...] = NAMES,
        grid: LatLonGrid = GRID,
        times: np.ndarray = TIMES,
        scale: np.ndarray | float = 1.0,
    ) -> Store:
        path = tmp_path_factory.mktemp("store") / "store"
        splits = Splits.from_json(
            {"train": ["2001-01-01", "2001-01-05"], "val": ["2001-01-07", "2001-01-08"],
             "test": ["2001-01-10", "2001-01-31"], "embargo_days": 1}
        )  # fmt: skip
        template = Template(variables, grid, times, splits, "float32", 8)
        known = np.isfinite(fields).any(0)
        shape = (len(variables), *grid.shape)
        statistics = Statistics(
            "month", (1,), 0, np.where(known, 0, np.nan).astype(np.float32)[None, None],
            np.broadcast_to(np.float32(scale), shape).copy(),
        )  # fmt: skip
        create(path, template, statistics)
        open_fields(path)[:] = fields.astype(np.float32)
        close(path, template, {"source": "test", "attributes": {}})
        return Store(path)

    return store


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(TIMES), len(NAMES), *GRID.shape))


@pytest.fixture(scope="module")
def store(make: Maker, noise: np.ndarray) -> Store:
    return make(noise)


def table(*rows: tuple[Any, ...], **more: Any) -> pd.DataFrame:
    """Samples of (step, lat, lon)."""
    step, lat, lon = (np.array(column) for column in zip(*rows, strict=True))
    return pd.DataFrame({"storm": 1, "time": TIMES[step], "lat": lat, "lon": lon, **more})


def one(crops: StormCrops) -> Any:
    (crop,) = list(crops)
    return crop


# ---- boxes of the grid ---------------------------------------------------------------------------------------


def test_a_crop_is_the_box_round_the_storm(store: Store, noise: np.ndarray) -> None:
    crops = StormCrops(store, table((10, 21.0, 151.0)), 3, CropConfig(12.5))
    crop = one(crops)
    assert crops.shape == (5, 5)
    assert crop.batch.values.shape == (1, 3, 4, 5, 5)
    row, column = 13, 30  # 22.5 N, 150 E are the nearest centres
    expected = noise[8:11, :, row - 2 : row + 3, column - 2 : column + 3].astype(np.float32)
    np.testing.assert_array_equal(crop.batch.values[0].numpy(), expected)
    np.testing.assert_array_equal(crop.batch.times[0].numpy(), TIMES[8:11].astype(np.int64))
    np.testing.assert_array_equal(crop.batch.grid.lat, GRID.lat[row - 2 : row + 3])
    np.testing.assert_allclose(crop.batch.grid.lon + crop.west, GRID.lon[column - 2 : column + 3])
    assert crops.fields().shape == (1, 3, 4, 5, 5)
    assert crops.moved == 0


def test_a_crop_across_the_edge_is_that_of_the_rolled_field(store: Store, make: Maker, noise: np.ndarray) -> None:
    rolled = make(np.roll(noise, 30, -1))
    here = StormCrops(store, table((10, 15.0, 1.0), (11, 15.0, 357.0)), 2)
    there = StormCrops(rolled, table((10, 15.0, 151.0), (11, 15.0, 147.0)), 2)
    np.testing.assert_array_equal(here.fields(), there.fields())
    # also where longitudes are written the other way
    west = StormCrops(store, table((10, 15.0, 1.0), (11, 15.0, -3.0)), 2)
    np.testing.assert_array_equal(here.fields(), west.fields())


def test_a_southern_crop_is_the_northern_crop_of_the_mirrored_world(
    store: Store, make: Maker, noise: np.ndarray
) -> None:
    """The grid is its own mirror; v and the vorticity change their sign."""
    mirrored = noise[..., ::-1, :] * np.array([1, -1, 1, -1])[:, None, None]
    other = make(mirrored)
    # 17.5 is a row, so that with six rows the middle is a tie
    north, south = table((9, 17.5, 40.0), (20, 11.0, 358.0)), table((9, -17.5, 40.0), (20, -11.0, 358.0))
    a, b = StormCrops(store, north, 2), StormCrops(other, south, 2)
    np.testing.assert_array_equal(a.fields(), b.fields())
    for mine, its in zip(*(sorted(crops, key=lambda crop: crop.samples[0]) for crops in (a, b)), strict=True):
        assert mine.samples == its.samples
        np.testing.assert_array_equal(mine.batch.grid.lat, its.batch.grid.lat)
        assert mine.west == its.west
        assert (its.batch.times - mine.batch.times).unique().tolist() == [HALF_YEAR]
    plain = StormCrops(other, south, 2, CropConfig(mirrored=False))
    turned_back = plain.fields()[..., ::-1, :] * np.array([1, -1, 1, -1], np.float32)[:, None, None]
    np.testing.assert_array_equal(turned_back, b.fields())


def test_near_the_pole_the_box_is_moved_inside(store: Store, noise: np.ndarray) -> None:
    crops = StormCrops(store, table((5, 86.0, 100.0), (5, 40.0, 100.0)), 1, CropConfig(12.5))
    assert crops.moved == 1
    np.testing.assert_array_equal(crops.fields()[0, 0], noise[5, :, :5, 18:23].astype(np.float32))


def test_crops_hold_whole_patches_at_their_true_places(store: Store) -> None:
    samples = table((5, 15.0, 2.0), (6, 15.0, 2.0), (7, -20.0, 200.0))
    crops = StormCrops(store, samples, 2, CropConfig(15.0), (4, 4))
    assert crops.shape == (8, 8)
    every = list(crops)
    assert [crop.samples.tolist() for crop in every] == [[0, 1], [2]]
    for crop, lat0, lon0 in zip(every, (15, 20), (2, 200), strict=True):
        patches = at_true_places(patchify(crop.batch, (1, 4, 4)), crop.west)
        lat, lon = token_places(patches)
        assert len(lat) == 8
        assert np.abs(lat - lat0).max() < 14
        assert np.abs((lon - lon0 + 180) % 360 - 180).max() < 14


def test_the_place_of_a_patch_is_that_of_the_whole_map(store: Store) -> None:
    """A crop that coincides with patches of the map has their features of place, area included."""
    config, patch = CropConfig(10.0, mirrored=False), (1, 4, 4)
    # rows 12–15 and columns 20–23: their middle is 20 N, 107.5 E
    crop = one(StormCrops(store, table((5, 20.0, 107.5)), 1, config, (4, 4)))
    own = at_true_places(patchify(crop.batch, patch), crop.west)
    steps = torch.from_numpy(TIMES[5:6].astype(np.int64))[None]
    whole = patchify(
        type(crop.batch)(
            torch.from_numpy(store.read([5]))[None], torch.ones(1, 1, 4, *GRID.shape, dtype=torch.bool), steps,
            torch.zeros(1, dtype=torch.int64), torch.from_numpy(store.statistics.known), NAMES, GRID,
        ),
        patch,
    )  # fmt: skip
    position = 3 * 18 + 5
    torch.testing.assert_close(own.place[0], whole.place[position], atol=1e-5, rtol=0)
    torch.testing.assert_close(own.values[0, 0], whole.values[0, position])
    torch.testing.assert_close(own.area[0], whole.area[position])


def test_missing_cells_stay_missing(make: Maker, noise: np.ndarray) -> None:
    fields = noise.copy()
    fields[:, 2, 14, 40] = np.nan  # land
    fields[10, 0, 13, 41] = np.nan  # a gap
    crop = one(StormCrops(make(fields), table((10, 17.5, 200.0)), 1, CropConfig(12.5)))
    valid = crop.batch.valid[0, 0]
    assert (~valid).sum() == 2
    assert not valid[2, 2, 2]
    assert not valid[0, 1, 3]
    assert not crop.batch.known[2, 2, 2]
    assert crop.batch.known[0].all()
    assert crop.batch.values[0, 0, 2, 2, 2] == 0


# ---- turned into the motion ----------------------------------------------------------------------------------


def test_the_wind_round_a_storm_looks_the_same_whatever_its_motion(make: Maker) -> None:
    """Solid turning about the storm, and a shear along its motion: crops of all headings agree."""
    fine = LatLonGrid(45.5 - np.arange(92.0), np.arange(360.0))
    y, x = np.meshgrid(fine.lat, fine.lon, indexing="ij")
    centre = 20.0, 359.0
    sine = np.deg2rad(x - centre[1])
    east = np.sin(sine) * np.cos(np.deg2rad(centre[0]))
    north = np.sin(np.deg2rad(y)) * np.cos(np.deg2rad(centre[0])) * np.cos(sine)
    north = north - np.cos(np.deg2rad(y)) * np.sin(np.deg2rad(centre[0]))
    fields = np.zeros((len(TIMES), 4, *fine.shape))
    fields[:, 0], fields[:, 1], fields[:, 2] = -north / 2.0, east / 4.0, np.hypot(east, north)
    scale = np.array([2.0, 4.0, 1.0, 1.0])[:, None, None]  # of u and v, unequal: in m/s the wind is round
    store = make(fields, grid=fine, scale=scale)
    samples = table(*[(5, *centre)] * 4, heading=[0.0, 90.0, 200.0, 345.0])
    crop = one(StormCrops(store, samples, 1, CropConfig(8.0, rotated=True)))
    assert crop.west is None
    assert crop.batch.valid.all()
    u, v, height = crop.batch.values[:, 0, :3].numpy().transpose(1, 0, 2, 3)
    for k in (1, 2, 3):
        np.testing.assert_allclose(u[k], u[0], atol=2e-3)
        np.testing.assert_allclose(v[k], v[0], atol=2e-3)
        np.testing.assert_allclose(height[k], height[0], atol=3e-3)
    # still cyclonic: to the right of the storm it blows ahead
    assert (v[:, :, -1] > 0).all()
    assert (u[:, 0] < 0).all()
    # the curl is that of the unturned wind, and there is no divergence
    step = np.deg2rad(1.0)
    spin = np.gradient(v, step, axis=2) + np.gradient(u, step, axis=1)
    outflow = np.gradient(u, step, axis=2) - np.gradient(v, step, axis=1)
    common = np.sqrt((2.0**2 + 4.0**2) / 2)
    middle = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(spin[middle] * common, 2, atol=0.05)
    np.testing.assert_allclose(outflow[middle] * common, 0, atol=0.05)


def test_a_rotated_southern_storm_is_the_northern_one_of_the_mirrored_world(
    store: Store, make: Maker, noise: np.ndarray
) -> None:
    mirrored = noise[..., ::-1, :] * np.array([1, -1, 1, -1])[:, None, None]
    north = table((9, 18.3, 40.0), (20, 11.0, 358.0), heading=[300.0, 20.0])
    south = table((9, -18.3, 40.0), (20, -11.0, 358.0), heading=[240.0, 160.0])
    config = CropConfig(15.0, rotated=True)
    a, b = StormCrops(store, north, 2, config).fields(), StormCrops(make(mirrored), south, 2, config).fields()
    np.testing.assert_allclose(a, b, atol=1e-5)


# ---- features ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", 2, (1, 4, 4)).build(NAMES).eval()


def test_features_are_those_of_each_crop_alone(store: Store, encoder: Encoder) -> None:
    """In the order of the samples, whatever boxes they share."""
    samples = table((5, 15.0, 2.0), (7, -20.0, 200.0), (6, 15.0, 2.0), (0, 10.0, 50.0), (30, -21.0, 201.0))
    found = crop_features(encoder, store, samples, [0, 2], batch_size=2)
    assert found.kept.tolist() == [0, 1, 2, 4]
    assert sum(found.dropped.values()) == 1
    for position, k in enumerate(found.kept):
        alone = crop_features(encoder, store, samples.iloc[[k]], [0, 2])
        for layer in (0, 2):
            np.testing.assert_allclose(alone.values[layer][0], found.values[layer][position], atol=1e-5)
    crop = one(StormCrops(store, samples.iloc[[1]], 2, None, (4, 4)))
    with torch.no_grad():
        features = encoder.layers(at_true_places(patchify(crop.batch, (1, 4, 4)), crop.west))[2]
    np.testing.assert_allclose(found.values[2][1], features.mean(1)[0], atol=1e-5)
    last = crop_features(encoder, store, samples.iloc[[1]], [2], pooling="last")
    np.testing.assert_allclose(last.values[2][0], features[0, 4:].mean(0), atol=1e-5)


def test_rotated_crops_have_features_without_a_place(store: Store, encoder: Encoder) -> None:
    samples = table((5, 15.0, 2.0), (5, 15.0, 2.0), heading=[0.0, np.nan])
    found = crop_features(encoder, store, samples, [1], CropConfig(rotated=True))
    assert found.kept.tolist() == [0]
    assert found.dropped["no motion known"] == 1
    assert found.values[1].shape == (1, 64)


def test_nearby_features_are_means_of_the_whole_maps_tokens(store: Store, encoder: Encoder) -> None:
    samples = table((5, 20.0, 107.5), (9, 0.0, 0.0), (5, -70.0, 10.0))
    found = crop_features(encoder, store, samples, [2], CropConfig(25.0), "nearby")
    fields = torch.from_numpy(store.read([4, 5]))[None]
    crop = one(StormCrops(store, samples.iloc[[0]], 2))
    batch = type(crop.batch)(
        fields, torch.ones_like(fields, dtype=torch.bool), torch.from_numpy(TIMES[4:6].astype(np.int64))[None],
        torch.zeros(1, dtype=torch.int64), torch.from_numpy(store.statistics.known), NAMES, GRID,
    )  # fmt: skip
    patches = patchify(batch, (1, 4, 4))
    with torch.no_grad():
        features = encoder.layers(patches)[2][0].numpy()
    lat, lon = token_places(patches)
    y, y0 = np.deg2rad(lat), np.deg2rad(20.0)
    arc = np.arccos(np.sin(y) * np.sin(y0) + np.cos(y) * np.cos(y0) * np.cos(np.deg2rad(lon - 107.5)))
    chosen = (np.rad2deg(arc) <= 25) & (patches.step.numpy() == 1)
    assert 3 < chosen.sum() < 12
    np.testing.assert_allclose(found.values[2][0], features[chosen].mean(0), atol=1e-5)
    # a radius that holds no centre takes the nearest token
    tiny = crop_features(encoder, store, samples, [2], CropConfig(0.5), "nearby")
    nearest = (patches.step.numpy() == 1) & (arc == arc.min())
    np.testing.assert_allclose(tiny.values[2][0], features[nearest].mean(0), atol=1e-5)


def test_components_find_the_pattern_of_the_training_storms(make: Maker, noise: np.ndarray) -> None:
    """A dipole rides with every storm, its strength known: the first component is that strength."""
    rng = np.random.default_rng(1)
    strength = rng.standard_normal(50)
    fields, rows = 0.01 * noise, []
    for k in range(50):
        row, column = 15, int(rng.integers(0, 72))
        fields[k + 5, 2, row, (column + 1) % 72] += strength[k]
        fields[k + 5, 2, row, column - 1] -= strength[k]
        rows.append((k + 5, GRID.lat[row], GRID.lon[column]))
    crops = StormCrops(make(fields), table(*rows), 1, CropConfig(12.5))
    train = np.arange(50) < 30
    components = crop_pca(crops, train, 2)
    assert components.shape == (50, 2)
    assert abs(np.corrcoef(components[~train, 0], strength[~train])[0, 1]) > 0.99
    # what lies outside the training rows does not change the components
    again = crop_pca(crops, np.arange(50) < 29, 1)
    assert not np.allclose(again, components[:, :1], atol=1e-6)


# ---- what cannot be shown ------------------------------------------------------------------------------------


def test_samples_without_a_crop_are_dropped_and_counted(make: Maker, noise: np.ndarray) -> None:
    gap = np.r_[0:20, 24:60]
    store = make(noise[gap], times=TIMES[gap])
    samples = table((30, 10.0, 50.0), (0, 10.0, 50.0), (22, 10.0, 50.0), (24, 10.0, 50.0), (25, 10.0, 50.0))
    samples.loc[len(samples)] = [1, TIMES[30] + np.timedelta64(3, "h"), 10.0, 50.0]
    samples.loc[len(samples)] = [1, TIMES[-1] + np.timedelta64(6, "h"), 10.0, 50.0]
    crops = StormCrops(store, samples, 2)
    assert crops.kept.tolist() == [0, 4]
    assert list(crops.dropped.values()) == [3, 2, 0]
    assert len(crops) == 2


def test_a_region_drops_the_storms_beside_it(make: Maker, noise: np.ndarray) -> None:
    part = LatLonGrid(GRID.lat[10:24], GRID.lon[10:40])
    store = make(noise[..., 10:24, 10:40], grid=part)
    samples = table((5, 10.0, 100.0), (5, 10.0, 10.0), (5, 60.0, 100.0), (5, 11.0, 196.0), (5, -29.0, 190.0))
    crops = StormCrops(store, samples, 1, CropConfig(12.5, mirrored=False))
    assert crops.kept.tolist() == [0, 3, 4]
    assert crops.dropped["outside the grid"] == 2
    assert crops.moved == 2
    np.testing.assert_array_equal(crops.fields()[1, 0], noise[5, :, 13:18, 35:40].astype(np.float32))
    with pytest.raises(EarthSSLError, match=r"none of 1: .*1 outside the grid"):
        StormCrops(store, samples.iloc[[1]], 1)


def test_mistakes_are_one_line(store: Store, encoder: Encoder, make: Maker, noise: np.ndarray) -> None:
    samples = table((5, 10.0, 100.0))
    with pytest.raises(EarthSSLError, match="none of 1: 1 time not in the store"):
        StormCrops(store, samples.assign(time=np.datetime64("1999-01-01")), 1)
    with pytest.raises(EarthSSLError, match="add lat"):
        StormCrops(store, samples.drop(columns="lat"), 1)
    with pytest.raises(EarthSSLError, match="add heading"):
        StormCrops(store, samples, 1, CropConfig(rotated=True))
    with pytest.raises(EarthSSLError, match="take a smaller radius"):
        StormCrops(store, samples, 1, CropConfig(60.0), (40, 40))
    with pytest.raises(EarthSSLError, match=r"radius_deg in \(0, 60\]"):
        CropConfig(0.0)
    alone = make(noise[:, 1:3], ("v10", "msl"))
    with pytest.raises(EarthSSLError, match="v10 without u10"):
        StormCrops(alone, samples.assign(heading=0.0), 1, CropConfig(rotated=True))
    with pytest.raises(EarthSSLError, match="the encoder knows"):
        crop_features(EncoderConfig("nano", 2, (1, 4, 4)).build(("u10", "sst")), store, samples, [0])
    with pytest.raises(EarthSSLError, match="expected some of 0 to 2"):
        crop_features(encoder, store, samples, [3])
    with pytest.raises(EarthSSLError, match="Did you mean 'mean'"):
        crop_features(encoder, store, samples, [0], pooling="meen")
    with pytest.raises(EarthSSLError, match="set rotated to false"):
        crop_features(encoder, store, samples.assign(heading=0.0), [0], CropConfig(rotated=True), "nearby")


# ---- centres of real fields ----------------------------------------------------------------------------------


def test_real_summer_centres_can_be_cropped(shared_data: Path, make: Maker) -> None:
    """Austral summer: cyclonic centres lie mostly in the south, and low pressure lies in the middle of their crops."""
    with xr.open_dataset(shared_data / "era5_msl_vo850_global_2.5deg_6h_djf2025-26.nc") as opened:
        dataset = opened.isel(time=slice(0, 120)).load()
    grid = LatLonGrid(dataset.lat.values, dataset.lon.values)
    cyclonic = dataset.vo850.values * np.sign(grid.lat)[:, None]
    cyclonic[:, (np.abs(grid.lat) < 5) | (np.abs(grid.lat) > 25)] = -np.inf
    highest = maximum_filter(cyclonic, size=(1, 7, 7), mode=("nearest", "nearest", "wrap"))
    step, row, column = np.nonzero((cyclonic == highest) & (cyclonic >= 1.5e-4))
    found = pd.DataFrame(
        {
            "storm": np.arange(len(step)),
            "time": dataset.time.values[step],
            "lat": grid.lat[row],
            "lon": grid.lon[column],
        }
    )
    assert len(found) > 50
    assert (found.lat < 0).mean() > 0.5
    fields = np.stack([dataset.msl.values, dataset.vo850.values], 1)
    fields = (fields - fields.mean(0)) / fields.std(0)
    store = make(fields, ("msl", "vo850"), grid, dataset.time.values.astype("datetime64[s]"))
    crops = StormCrops(store, found, 2, CropConfig(11.25))
    mean = np.nanmean(crops.fields()[:, -1], axis=0)
    assert mean[1, 4, 4] == mean[1].max()
    assert mean[1, 4, 4] > 1
    ring = np.concatenate([mean[0, 0], mean[0, -1], mean[0, :, 0], mean[0, :, -1]])
    assert mean[0, 3:6, 3:6].mean() < ring.mean() - 0.2

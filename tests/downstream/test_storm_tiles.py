"""Storm present in tile: positions by hand, tiles numbered as tokens are, and a planted signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.downstream.storm_tiles import BOTH, CLIMATOLOGY, TOKEN, last_tiles, storm_labels, tile_probe
from earthssl.ssl.batch import from_fields
from earthssl.ssl.errors import EarthSSLError
from earthssl.ssl.grid import LatLonGrid
from earthssl.ssl.tokens import patchify

GLOBE = LatLonGrid(np.array([75.0, 45, 15, -15, -45, -75]), np.arange(0.0, 360, 30))  # cells of 30°
TIMES = np.arange("2000-01-01", "2000-01-03", np.timedelta64(6, "h"), dtype="datetime64[h]")


def tracks(*points: tuple[str, float, float]) -> pd.DataFrame:
    when, lat, lon = zip(*points, strict=True)
    return pd.DataFrame({"storm": 1, "time": np.array(when, dtype="datetime64[ns]"), "lat": lat, "lon": lon})


@pytest.mark.parametrize(
    ("lat", "lon", "row", "column"),
    [
        (20.0, 61.0, 1, 1),  # cell (2, 2)
        (89.0, 0.0, 0, 0),
        (90.0, 0.0, 0, 0),  # both poles lie in a cell
        (-90.0, 0.0, 2, 0),
        (10.0, 350.0, 1, 0),  # the first column's cell reaches west of 0°
        (10.0, -10.0, 1, 0),
        (10.0, 344.9, 1, 5),
        (30.0, 45.0, 1, 1),  # on two edges: the cell south-east of it
        (30.1, 44.9, 0, 0),
    ],
)
def test_positions_by_hand(lat: float, lon: float, row: int, column: int) -> None:
    found = storm_labels(tracks(("2000-01-01T06", lat, lon)), TIMES, GLOBE, (2, 2))
    assert found.shape == (8, 3 * 6)
    assert np.argwhere(found).tolist() == [[1, row * 6 + column]]


def test_only_centres_at_the_very_time_count_and_two_in_a_tile_are_one() -> None:
    points = tracks(("2000-01-01T05", 20, 61), ("2000-01-01T12", 20, 61), ("2000-01-01T12", 21, 80))
    found = storm_labels(points, TIMES, GLOBE, (2, 2))
    assert np.argwhere(found).tolist() == [[2, 7]]


def test_centres_outside_a_region_are_left_out() -> None:
    region = LatLonGrid(np.array([15.0, 5, -5]), np.array([100.0, 110, 120]))
    points = tracks(
        *[("2000-01-01T00", lat, lon) for lat, lon in ((14, 101), (21, 101), (14, 90), (14, 126), (-11, 110))]
    )
    found = storm_labels(points, TIMES, region, (2, 2))  # padded to 4×4: two by two tiles
    assert np.argwhere(found).tolist() == [[0, 0]]


def test_tiles_are_numbered_as_tokens_are() -> None:
    """A field that is 1 where the storm is: the token that sees it is the labelled one, beside land and padding."""
    grid = LatLonGrid(np.linspace(60, -60, 5), np.arange(0.0, 360, 30))
    rng = np.random.default_rng(0)
    fields = torch.zeros(4, 2, 1, 5, 12)
    known = torch.ones(1, 5, 12, dtype=torch.bool)
    known[0, 2:4, 3:6] = False  # one whole tile of land
    fields[:, :, ~known] = torch.nan
    points = []
    for k in range(4):
        row, column = rng.integers(0, 2), rng.integers(0, 12)
        fields[k, 1, 0, row, column] = 1
        points.append((str(TIMES[k]), float(grid.lat[row]), float(grid.lon[column])))
    times = torch.from_numpy(TIMES[:4].astype("datetime64[s]").astype(np.int64))[:, None].repeat(1, 2)
    batch = from_fields(fields, times, torch.zeros(4, dtype=torch.int64), known, ("sst",), grid)
    patches = patchify(batch, (1, 2, 3))
    seen = patches.values[:, patches.step == 1].amax((2, 3)) == 1
    labels = storm_labels(tracks(*points), TIMES[:4], grid, (2, 3))
    tiles = last_tiles(patches)
    assert len(tiles) == 3 * 4 - 1
    assert np.array_equal(labels[:, tiles], seen.numpy())
    assert labels[:, tiles].sum() == 4


def world(signal: float, years: int = 12) -> tuple[Any, ...]:
    """A storm in one of six tiles one day in five, more often in tile 0; the token's third feature tells."""
    rng = np.random.default_rng(0)
    times = np.arange("2000-01-01", f"{2000 + years}-01-01", dtype="datetime64[D]")[::5]
    chance = np.where(np.arange(6) == 0, 0.6, 0.1)
    labels = rng.random((len(times), 6)) < chance
    tokens = rng.normal(size=(*labels.shape, 4))
    tokens[..., 2] += signal * labels
    tokens[..., 3] = np.arange(6) == 0
    year = times.astype("datetime64[Y]").astype(int) + 1970
    blocks = {"train": year < 2006, "val": (year >= 2006) & (year < 2008), "test": year >= 2008}
    return tokens, labels, times, blocks


def test_a_planted_signal_beats_the_climatology_and_noise_does_not() -> None:
    scores, differences, chances = tile_probe(*world(3.0), draws=50)
    own = scores[scores.row == TOKEN].set_index("metric")["value"]
    assert own["auc"] > 0.97
    assert own["average_precision"] > 0.9
    assert own["brier_skill"] > 0.5
    assert set(differences.verdict) == {"better"}
    assert chances[CLIMATOLOGY].shape == chances[TOKEN].shape == chances[BOTH].shape
    tokens, *rest = world(0.0)
    noise = tile_probe(tokens[..., :2], *rest, draws=50)[1]
    assert (noise[noise.row == BOTH]["value"].abs() < 0.03).all()
    assert (noise[noise.row == TOKEN]["value"] < -0.1).all()


def test_beside_the_climatology_a_token_need_not_know_its_place() -> None:
    """Without the feature that tells the tile, the token alone loses what the climatology knows; both have all."""
    tokens, labels, times, blocks = world(1.5)
    scores = tile_probe(tokens[..., :3], labels, times, blocks, draws=50)[0]
    skill = scores[scores.metric == "average_precision"].set_index("row")["value"]
    assert skill[BOTH] > skill[TOKEN] + 0.05
    assert skill[BOTH] > skill[CLIMATOLOGY] + 0.05


def test_the_climatology_is_the_frequency_of_tile_and_month() -> None:
    tokens, labels, times, blocks = world(0.0)
    chances = tile_probe(tokens, labels, times, blocks, draws=50)[2][CLIMATOLOGY]
    month = times.astype("datetime64[M]").astype(int) % 12
    train = labels[blocks["train"] & (month == 4)]
    expected = (train.sum(0) + labels[blocks["train"]].mean()) / (len(train) + 1)
    first = int(np.flatnonzero(month[blocks["test"]] == 4)[0])
    assert chances[first] == pytest.approx(expected)


def test_fewer_training_times_are_spread_over_the_block() -> None:
    few = tile_probe(*world(3.0), draws=50, most=300)[0]
    assert few[(few.metric == "auc") & (few.row == TOKEN)]["value"].item() > 0.95


def test_mistakes_are_said() -> None:
    good = tracks(("2000-01-01T06", 20, 61))
    with pytest.raises(EarthSSLError, match="'storm' is missing"):
        storm_labels(good.drop(columns="storm"), TIMES, GLOBE, (2, 2))
    with pytest.raises(EarthSSLError, match="none that coincides"):
        storm_labels(tracks(("1999-01-01T06", 20, 61)), TIMES, GLOBE, (2, 2))
    with pytest.raises(EarthSSLError, match="latitudes within ±90"):
        storm_labels(tracks(("2000-01-01T06", 91, 61)), TIMES, GLOBE, (2, 2))
    tokens, labels, times, blocks = world(1.0)
    with pytest.raises(EarthSSLError, match=r"in the test block, got 0 of"):
        tile_probe(tokens, labels & ~blocks["test"][:, None], times, blocks)
    with pytest.raises(EarthSSLError, match=r"tokens \(time, tile, feature\)"):
        tile_probe(tokens[:, :5], labels, times, blocks)

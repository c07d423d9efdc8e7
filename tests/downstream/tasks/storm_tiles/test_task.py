"""Storm present in tile: positions by hand, tiles numbered as tokens are, planted signals, and the whole task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from earthssl.cli.run import run_all
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.features.patches import PatchGrid, raw_cells
from earthssl.downstream.features.store_windows import StoreWindows
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.tasks.storm_tiles.labels import (
    AP,
    AUC,
    BALANCED,
    BAND,
    BSS,
    CALLS,
    TileLabels,
    storm_labels,
)
from earthssl.downstream.tasks.storm_tiles.rows import (
    BASE_RATE,
    EXTREMES,
    PCA,
    climatology_rows,
    component_features,
    extreme_features,
    logistic_row,
    scratch_rows,
)
from earthssl.downstream.tasks.storm_tiles.task import StormTiles, StormTilesConfig
from earthssl.downstream.training.from_scratch import SCRATCH, ScratchConfig
from earthssl.downstream.training.patch_network import PatchNetwork
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.store.store import Store

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
    tiles = patches.cell[patches.step == 1]
    assert len(tiles) == 3 * 4 - 1
    assert np.array_equal(labels[:, tiles], seen.numpy())
    assert labels[:, tiles].sum() == 4


def world(signal: float, years: int = 12) -> tuple[TileLabels, np.ndarray]:
    """A storm in one of six tiles one day in five, more often in tile 0; the token's third feature tells."""
    rng = np.random.default_rng(0)
    times = np.arange("2000-01-01", f"{2000 + years}-01-01", dtype="datetime64[D]")[::5].astype("datetime64[s]")
    chance = np.where(np.arange(6) == 0, 0.6, 0.1)
    storms = rng.random((len(times), 6)) < chance
    tokens = rng.normal(size=(*storms.shape, 3))
    tokens[..., 2] += signal * storms
    year = times.astype("datetime64[Y]").astype(int) + 1970
    part = np.where(year < 2006, "train", np.where(year < 2008, "val", "test"))
    return TileLabels(np.arange(len(times)), times, part, storms, np.arange(6) // 2), tokens


def test_flat_samples_are_tiles_at_times_in_order() -> None:
    labels, _ = world(1.0)
    flat = labels.flat()
    assert np.array_equal(flat.values[:, 1].reshape(labels.storms.shape) > 0, labels.storms)
    k = int(flat.rows["test"][17])
    assert labels.part[k // 6] == "test"
    assert flat.steps_of(np.array([k])).tolist() == [labels.steps[k // 6]]
    assert flat.units[k] == labels.week[k // 6]
    assert flat.samples(np.arange(labels.storms.size)[:, None], "val").features[0, 0] == flat.rows["val"][0]
    chance = labels.climatologies(labels.inside("train", "val"))[BAND][labels.inside("test")]
    assert np.array_equal(flat.climatology[:, 1], chance.ravel())


def test_seasons_and_frequencies_by_hand() -> None:
    times = np.array(["2000-01-05", "2000-12-31", "2001-02-28", "2001-03-01", "2001-07-01"], "datetime64[s]")
    storms = np.array([[1, 0], [1, 0], [0, 0], [0, 1], [0, 0]], bool)
    labels = TileLabels(np.arange(5), times, np.array(["train"] * 4 + ["test"]), storms, np.array([0, 1]))
    assert labels.season.tolist() == [0, 0, 0, 1, 2]
    found = labels.climatologies(labels.inside("train"))
    rate = 3 / 8
    assert found["base rate"] == pytest.approx(np.full((5, 2), (3 + rate) / 9))
    assert found[BAND][0] == pytest.approx([(2 + rate) / 4, rate / 4])
    assert found[BAND][3] == pytest.approx([rate / 2, (1 + rate) / 2])
    assert found[BAND][4] == pytest.approx([rate, rate])  # a season that training has not seen
    month = found["climatology of tile and month"]
    assert month[0] == pytest.approx([(1 + rate) / 2, rate / 2])


def scored(rows: list[Row], labels: TileLabels, references: list[str] | None = None) -> tuple[Any, Any]:
    return tables([labels.target(2)], rows, draws=50, references=references)


def test_a_planted_signal_beats_the_climatology_and_noise_does_not() -> None:
    labels, tokens = world(3.0)
    rows = [*climatology_rows(labels), logistic_row(labels, {"tokens": tokens}, [1e-2, 1.0], "token", Role.UNTRAINED)]
    scores, differences = scored(rows, labels, [BAND])
    own = scores[scores.row == "token"].set_index("metric")["value"]
    assert own[AUC] > 0.97
    assert own[AP] > 0.9
    assert own[BSS] > 0.5
    assert own[BALANCED] > 0.9
    assert set(differences[differences.row == "token"].verdict) == {"better"}
    labels, tokens = world(0.0)
    rows = [*climatology_rows(labels), logistic_row(labels, {"tokens": tokens}, [1e-4, 1.0], "noise", Role.UNTRAINED)]
    noise = scored(rows, labels, [BAND])[1]
    assert (noise[noise.row == "noise"]["value"].abs() < 0.03).all()


def test_scores_by_hand() -> None:
    """Two tiles of one row, two times; the climatology of training and validation, one tile in two, says .5."""
    times = np.arange("2000-01-01", "2000-01-05", dtype="datetime64[D]").astype("datetime64[s]")
    storms = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    labels = TileLabels(np.arange(4), times, np.array(["train", "val", "test", "test"]), storms, np.zeros(2, int))
    target = labels.target(1)
    chances = ([[0.9, 0.4], [0.6, 0.1]], [[0.5, 0.5], [0.5, 0.5]])
    rows = [Row(str(k), Role.BASELINE, {labels.name: np.array(one)}, threshold={(labels.name, CALLS): 0.5})
            for k, one in enumerate(chances)]  # fmt: skip
    found = {metric.name: metric.statistic(rows) for metric in target.metrics}
    assert found[BSS](np.ones(4)) == pytest.approx([1 - (0.01 + 0.36 + 0.36 + 0.01), 0])
    assert found[AUC](np.ones(4)) == pytest.approx([0.75, 0.5])
    assert found[BALANCED](np.ones(4)) == pytest.approx([0.5, 0.5])
    assert found[BALANCED](np.array([3.0, 1, 1, 4]))[0] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert target.errors is not None
    assert target.errors(rows[0]).sum() == pytest.approx(0.74)
    assert target.reference_errors == pytest.approx(np.full(4, 0.25))


def test_the_score_of_several_seeds_is_the_mean_of_theirs() -> None:
    labels, tokens = world(2.0)
    one = logistic_row(labels, {"tokens": tokens}, [1.0], "twin", Role.UNTRAINED, 0)
    turned = replace(one, seed=1, forecast={labels.name: 1 - one.forecast[labels.name]})
    scores = scored([*climatology_rows(labels), one, turned], labels, [BAND])[0]
    auc = scores[(scores.metric == AUC) & (scores.row == "twin")].set_index("seed")["value"]
    assert list(auc.index) == ["", "0", "1"]
    assert auc["0"] + auc["1"] == pytest.approx(1)
    assert auc[""] == pytest.approx(0.5)


def test_few_weeks_read_no_label_of_the_others() -> None:
    """Labels of weeks that were not drawn change nothing; weeks without a storm give Laplace's rule."""
    labels, tokens = world(2.0)
    train = labels.inside("train")
    weeks = np.unique(labels.week[train])[:20]
    outside = train & ~labels.training(weeks)
    other = replace(labels, storms=np.where(outside[:, None], ~labels.storms, labels.storms))
    first, second = (
        logistic_row(one, {"tokens": tokens}, [1.0], "token", Role.UNTRAINED, None, weeks) for one in (labels, other)
    )
    assert np.array_equal(first.forecast[labels.name], second.forecast[labels.name])
    every = logistic_row(labels, {"tokens": tokens}, [1.0], "token", Role.UNTRAINED)
    assert not np.array_equal(first.forecast[labels.name], every.forecast[labels.name])
    calm = replace(labels, storms=labels.storms & ~labels.training(weeks)[:, None])
    constant = logistic_row(calm, {"tokens": tokens}, [1.0], "token", Role.UNTRAINED, None, weeks)
    assert constant.forecast[labels.name] == pytest.approx(1 / (labels.training(weeks).sum() * 6 + 2))


def test_raw_cells_and_extremes_are_those_of_the_tile(small_store: Path) -> None:
    store = Store(small_store)
    fields, grid, steps = store.read(np.arange(20)), PatchGrid(store, (2, 3)), np.array([5, 12])
    tiles = grid.tiles
    cells = raw_cells(fields, grid, steps, 2).reshape(2, len(tiles), 2, len(store.variables), 6)
    found = extreme_features(fields, grid, steps).reshape(2, len(tiles), 4, len(store.variables))
    place = int(np.flatnonzero(tiles == 5)[0])  # rows 2–3, columns 3–5: half land
    own = fields[12][:, 2:4, 3:6].reshape(len(store.variables), -1)
    assert cells[1, place, 1] == pytest.approx(np.nan_to_num(own))
    assert cells[1, place, 0] == pytest.approx(np.nan_to_num(fields[11][:, 2:4, 3:6].reshape(len(own), -1)))
    observed = [values[np.isfinite(values)] for values in own]  # SST is land here, all of it: 0 throughout
    expected = [[f(values) if len(values) else 0 for values in observed] for f in (np.min, np.max, np.mean, np.std)]
    assert found[1, place] == pytest.approx(np.array(expected), abs=1e-5)


def planted(store: Store) -> TileLabels:
    """ "Storms" where the mean of u10 over a tile of the small store is high: what a network can see."""
    tiles = PatchGrid(store, SHAPE.patch[1:]).tiles
    cells = np.nan_to_num(PatchGrid(store, (2, 3)).cut(store.read(np.arange(len(store.times)))))
    u10 = cells.reshape(len(cells), len(tiles), len(store.variables), -1)[:, :, 1].mean(-1)
    part = np.full(len(store.times), "", "<U5")
    for name in ("train", "val", "test"):
        part[store.splits.inside(store.times.astype("datetime64[ns]"), name)] = name
    steps = np.flatnonzero((part != "") & (np.arange(len(part)) >= SHAPE.window))
    return TileLabels(steps, store.times[steps], part[steps], (u10 > 0.8)[steps], tiles // 4)


SHAPE = EncoderConfig("nano", 1, (1, 2, 3))


@pytest.mark.slow
def test_a_network_from_scratch_starts_at_the_climatology_and_finds_what_is_in_the_tile(small_store: Path) -> None:
    store = Store(small_store)
    labels, windows = planted(store), StoreWindows(store, SHAPE.window)
    assert not windows.outputs(PatchNetwork(SHAPE.build(store.variables), 1), labels.steps[:3]).any()
    config = ScratchConfig(1, steps=60, batch_size=16, lr=3e-3, check_every=20)
    (row,) = scratch_rows(config, SHAPE, windows, labels, 1)
    scores = scored([*climatology_rows(labels), row], labels, [])[0].set_index(["row", "metric"])["value"]
    assert scores[SCRATCH, AUC] > max(0.95, scores[BAND, AUC] + 0.05)
    assert scores[SCRATCH, BSS] > 0.3
    assert row.chosen["steps"] in (20, 40, 60)


def test_no_row_knows_the_test_labels(small_store: Path) -> None:
    store = Store(small_store)
    labels = planted(store)
    other = replace(labels, storms=np.where(labels.inside("test")[:, None], ~labels.storms, labels.storms))
    grid = PatchGrid(store, (2, 3))
    fields = store.read(np.arange(len(store.times)))
    features = component_features(
        raw_cells(fields, grid, labels.steps, 1), grid, labels, PatchGrid(store, SHAPE.patch[1:]).tiles, [3]
    )
    train = labels.inside("train")
    assert np.array_equal(labels.log_odds(train), other.log_odds(train))
    first, second = (logistic_row(one, features, [1e-2], PCA, Role.BASELINE) for one in (labels, other))
    for one, two in zip([first, *climatology_rows(labels)], [second, *climatology_rows(other)], strict=True):
        assert np.array_equal(one.forecast[labels.name], two.forecast[labels.name])
        assert one.threshold == two.threshold


# ---- The whole task, and mistakes ------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "prepare": {
        "source": "planet",
        "options": {"years": 1, "step": "6-hourly", "storms": 300, "shape": [8, 16], "variables": ["msl", "u850"]},
        "splits": {"train": ["1900-01", "1900-06"], "val": ["1900-08", "1900-09"], "test": ["1900-11", "1900-12"],
                   "embargo_days": 28},
        "statistics": {"scale": "variable"},
    },
    "pretrain": {
        "encoder": {"size": "nano", "window": 1, "patch": [1, 2, 4]},
        "objectives": {"masking": {"decoder_depth": 1}},
        "training": {"steps": 4, "batch_size": 8, "warmup_steps": 2, "val_every": 4, "save_every": 4},
        "licence": "CC0-1.0",
    },
    "probe": {
        "task": "storm_tiles", "untrained_seeds": 1, "random_seeds": 1, "draws": 1000, "layers": [0, 2],
        "costs": [0.01], "pca_components": [3], "fractions": [0.3, 1.0], "label_draws": 2,
        "scratch": {"seeds": 1, "steps": 4, "batch_size": 8, "check_every": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "tiles.yaml").write_text(yaml.safe_dump(CONFIG))
    run_all(folder / "tiles.yaml", str(folder / "out"), [], lambda said: None, "earthssl run")
    return folder / "out"


def test_every_row_and_score_is_there(whole: Path) -> None:
    scores = pd.read_csv(whole / "probe/scores.csv", keep_default_na=False)
    rows = {BASE_RATE, BAND, "climatology of tile and month", EXTREMES, PCA, "raw window [logistic]",
            "random features of the raw window [logistic]", "PCA of the window [logistic]", "pretrained [logistic]",
            "untrained [logistic]", SCRATCH}  # fmt: skip
    assert set(scores.row) == rows
    assert len(scores) == len(rows) * 4
    value = scores.set_index(["row", "metric"])["value"].astype(float)
    assert value[BAND, BSS] == pytest.approx(0, abs=1e-12)
    assert value["base rate", AUC] == value["base rate", BALANCED] == pytest.approx(0.5)
    assert value[EXTREMES, AUC] > value["base rate", AUC]
    differences = pd.read_csv(whole / "probe/differences.csv")
    own = differences[differences.row == "pretrained [logistic]"]
    assert set(own.reference) == rows - {"base rate", "pretrained [logistic]"}
    assert (own.low <= own.high).all()


def test_the_folder_holds_pictures_page_table_and_record(whole: Path) -> None:
    out = whole / "probe"
    assert {"roc.png", "mean_chance_by_tile.png", "scores.png", "label_curve.png", "report.html", "samples.csv",
            "label_curve.csv"} <= {one.name for one in out.iterdir()}  # fmt: skip
    curve = pd.read_csv(out / "label_curve.csv")
    assert set(curve.row) == {"pretrained [logistic]", "untrained [logistic]", "raw window [logistic]", SCRATCH}
    assert curve.used.unique().tolist() == pytest.approx([8 / 27, 1.0])
    assert "base rate" in (out / "table.txt").read_text(encoding="utf-8")
    record = json.loads((out / "result.json").read_text())
    assert record["synthetic"] is True
    assert record["split_proof"]["disjoint"] is True
    assert record["samples"]["test"]["times"] >= 55
    assert record["samples"]["test"]["samples"] == 16 * record["samples"]["test"]["times"]


def made(whole: Path, points: pd.DataFrame, **more: Any) -> TileLabels:
    tracks = points.assign(wind_kt=more.pop("wind", 50.0))
    shape = more.pop("shape", EncoderConfig("nano", 1, (1, 2, 4)))
    return TileLabels.from_store(Store(whole / "store"), tracks, shape, more.pop("spacing", 24), 34.0)


GOOD = (("1900-02-01", 10, 100), ("1900-08-10", 10, 100), ("1900-11-10", -20, 200))


def apart(*points: tuple[str, float, float]) -> pd.DataFrame:
    return tracks(*points).assign(storm=[str(k) for k in range(len(points))])


def test_labels_of_a_store_by_hand(whole: Path) -> None:
    """Only times between the first and the last record are known; every other tile of theirs is without."""
    labels = made(whole, apart(*GOOD))
    assert str(labels.times[0])[:10] == "1900-02-01"
    assert str(labels.times[-1])[:10] == "1900-11-10"
    assert labels.unknown == 31 + 51
    assert {part: int(labels.storms[labels.part == part].sum()) for part in ("train", "val", "test")} == {
        "train": 1, "val": 1, "test": 1,
    }  # fmt: skip
    assert labels.row.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert np.argwhere(labels.storms)[0].tolist() == [0, 1 * 4 + 1]


def test_what_cannot_work_is_refused(whole: Path, small_store: Path, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match=r"with and without storms of 34 kt or more in the test block, got 0 of"):
        made(whole, apart(*GOOD[:2], ("1900-12-01T06", -20, 200)))  # the test block's only storm, between samples
    with pytest.raises(EarthSSLError, match="34 kt or more in the tracks, got none"):
        made(whole, apart(*GOOD), wind=20.0)
    with pytest.raises(EarthSSLError, match="none that coincides"):
        made(whole, apart(*((when.replace("1900", "1950"), lat, lon) for when, lat, lon in GOOD)))
    with pytest.raises(EarthSSLError, match=r"got 1 in both train and val"):
        made(whole, apart(*GOOD).assign(storm=["a", "a", "b"]))
    with pytest.raises(EarthSSLError, match="multiples of 100000 h, got none"):
        made(whole, apart(*GOOD), spacing=100_000)
    with pytest.raises(EarthSSLError, match="in the train block, got 1 of 1 with one"):
        made(whole, apart(("1900-06-30", 0, 0), *GOOD[1:]), shape=EncoderConfig("nano", 1, (1, 8, 16)))
    with pytest.raises(EarthSSLError, match="steps of 24 h at most, got 31 days"):
        TileLabels.from_store(Store(small_store), apart(*GOOD).assign(wind_kt=50.0), SHAPE, 24, 34.0)
    with pytest.raises(EarthSSLError, match="expected a store of the synthetic planet"):
        StormTiles(StormTilesConfig(str(small_store), str(tmp_path / "out"), encoder=SHAPE), Store(small_store))
    assert not (tmp_path / "out").exists()
    config = StormTilesConfig(str(whole / "store"), str(whole / "probe"), encoder=EncoderConfig("nano", 1, (1, 2, 4)))
    with pytest.raises(EarthSSLError, match="is not empty"):
        run(StormTiles(config, Store(whole / "store")))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("task", "states"), ("spacing_hours", 0), ("least_wind_kt", -1.0), ("costs", []), ("costs", [0.0]),
     ("pca_components", [0]), ("layers", []), ("draws", 10), ("block", 0), ("label_draws", 0), ("untrained_seeds", -1)],
)  # fmt: skip
def test_bad_settings_are_refused_before_any_work(name: str, wrong: Any) -> None:
    with pytest.raises(EarthSSLError, match=name):
        StormTilesConfig(**{"store": "s", "out": "o", name: wrong})


def test_mistakes_in_the_tracks_are_said() -> None:
    with pytest.raises(EarthSSLError, match="none that coincides"):
        storm_labels(tracks(("1999-01-01T06", 20, 61)), TIMES, GLOBE, (2, 2))

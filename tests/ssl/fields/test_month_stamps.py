"""Months stamped anywhere are those of training; what is no month, or near enough, stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from earthssl.ssl.fields.month_stamps import stamp_of, stamped
from earthssl.ssl.inference.load import load_encoder

SMALL = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


def seconds(*days: str) -> np.ndarray:
    return np.array(days, "datetime64[s]").astype(np.int64)


def test_stamps_by_hand() -> None:
    first, last = seconds("1969-02-01", "2000-02-01"), seconds("1969-02-28", "2000-02-29T18")
    np.testing.assert_array_equal(stamped(last, stamp_of(first)), first)
    middle = seconds("2001-01-16T12", "2001-02-15", "2001-03-16T12", "2001-04-16")
    assert stamp_of(middle) == 15.25 * 86400  # of 15.5, 14, 15.5 and 15
    np.testing.assert_array_equal(stamped(middle, stamp_of(middle)), middle)
    moved = stamped(seconds("2001-01-01", "2001-02-01"), stamp_of(middle))
    np.testing.assert_array_equal(moved, seconds("2001-01-16T06", "2001-02-16T06"))
    assert stamped(first, None) is first
    assert stamp_of(np.zeros((0, 3), np.int64)) is None


def test_features_do_not_depend_on_the_day_that_months_are_stamped_on() -> None:
    """They did by more than half of their deviation in time."""
    frozen = load_encoder(SMALL)
    record = frozen.record
    assert record.stamp_s == 0
    times = np.arange("1930-01", "1932-01", dtype="datetime64[M]").astype("datetime64[ns]")
    fields = record.statistics.climatology(times)
    arrays = {
        name: (("time", "lat", "lon"), fields[:, k], {"units": unit})
        for k, (name, unit) in enumerate(zip(record.variables, record.units, strict=True))
    }
    ds = xr.Dataset(arrays, {"time": times, "lat": record.grid.lat, "lon": record.grid.lon})
    expected = frozen.embed(ds)
    later = ds.assign_coords(time=times + np.timedelta64(27, "D"))
    found = frozen.embed(later)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found["time"].values, later["time"].values[2:])

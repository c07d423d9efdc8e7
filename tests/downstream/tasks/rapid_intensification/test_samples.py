"""Samples of rapid intensification: which records count, what is known of them, blocks and base rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.storms.best_tracks import tidy
from earthssl.downstream.tasks.rapid_intensification.samples import (
    Predictors,
    base_rates,
    parts_by_season,
    parts_by_time,
    proof,
    samples_of,
)
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig


def track(records: int = 12, **columns: Any) -> pd.DataFrame:
    """One storm, every 6 h: 40 kt, gaining 2 kt and going a degree north each time."""
    k = np.arange(records)
    plain = {
        "storm": "one", "basin": "NA", "time": np.datetime64("2001-09-01", "ns") + k * np.timedelta64(6, "h"),
        "lat": 10.0 + k, "lon": 300.0, "wind_kt": 40.0 + 2 * k, "category": 0, "over_water": True,
    }  # fmt: skip
    return tidy(pd.DataFrame({**plain, **columns}))


# ---- samples ---------------------------------------------------------------------------------------------------


def test_a_sample_needs_24_h_of_records_after_it() -> None:
    found = samples_of(track(12))
    assert len(found) == 8
    assert (found["change_kt"] == 8).all()
    assert list(found["wind_kt"]) == list(40.0 + 2 * np.arange(8))


@pytest.mark.parametrize(
    ("column", "record", "value", "left"),
    [
        ("over_water", 6, False, [0, 1, 7]),  # records 2 to 6 meet land within 24 h
        ("category", 6, -4, [0, 1, 7]),
        ("category", 6, -2, list(range(8))),  # subtropical counts
        ("wind_kt", 6, np.nan, [0, 1, 3, 4, 5, 7]),  # unknown at one end: at 2 + 4, and at 6
        ("wind_kt", 3, 24.0, [0, 1, 2, 4, 5, 6, 7]),  # too weak at the time itself only
    ],
)
def test_what_spoils_a_sample(column: str, record: int, value: Any, left: list[int]) -> None:
    one = track(12)
    one.loc[record, column] = value
    np.testing.assert_array_equal(samples_of(one)["time"], one["time"][left])


def test_a_gap_in_the_records_is_no_24_h_and_storms_are_not_joined() -> None:
    found = samples_of(track(12).drop(index=6))
    assert list(found["wind_kt"]) == [40, 42, 54]  # records 0, 1 and 7
    assert np.isnan(found["change6"].iloc[-1])
    assert found["change12"].iloc[-1] == 4
    two = tidy(pd.concat([track(5), track(5, storm="two", time=track(5)["time"] + pd.Timedelta(days=1.25))]))
    assert len(samples_of(two)) == 2


def test_changes_and_motion_by_hand() -> None:
    found = samples_of(track(12))
    assert found[["change6", "change12", "change24"]].iloc[4].tolist() == [2, 4, 8]
    assert found[["change6", "change12", "change24"]].iloc[1].isna().tolist() == [False, True, True]
    assert found["poleward"].iloc[1] == pytest.approx(111.2e3 / 21600)
    assert found["east"].iloc[1] == 0
    assert found["age_h"].tolist() == [6.0 * k for k in range(8)]
    south = samples_of(track(12, basin="SI", lat=-10.0 - np.arange(12), lon=(359.5 + 0.5 * np.arange(12)) % 360))
    assert south["poleward"].iloc[1] == pytest.approx(111.2e3 / 21600)
    assert south["east"].iloc[1] == pytest.approx(111.2e3 / 21600 / 2 * np.cos(np.deg2rad(11)))
    wind = np.array([40.0, 60, 50, 45, *[30] * 8])
    assert samples_of(track(12, wind_kt=wind))["most_kt"].tolist() == [40, *[60] * 7]


def test_predictors_do_not_look_ahead() -> None:
    """Whatever comes after a sample changes its label and whether it counts, never what was known of it."""
    one, other = track(14), track(14)
    later = one.index >= 9
    other.loc[later, "wind_kt"] += 33
    other.loc[later, ["lat", "lon"]] += 4
    first, second = (samples_of(t) for t in (one, other))
    for name in ("season", "track", "place"):
        a, b = (getattr(Predictors.of(t, ["NA"], {}), name) for t in (first, second))
        np.testing.assert_array_equal(a[:9], b[:9])
        assert (a[9:] != b[9:]).any()
    assert (first["change_kt"] != second["change_kt"]).any()


def test_southern_seasons_are_half_a_year_apart() -> None:
    north = samples_of(track(12))
    south = samples_of(
        track(12, basin="SI", lat=-10.0 - np.arange(12), time=track(12)["time"] - pd.Timedelta(days=182.5))
    )
    a, b = (Predictors.of(t, ["NA"], {}).season for t in (north, south))
    np.testing.assert_allclose(a[:, 3:7], b[:, 3:7], atol=0.03)


def test_no_sample_is_an_error() -> None:
    with pytest.raises(EarthSSLError, match="got none in 12 records of 1 storms"):
        samples_of(track(12, over_water=False))


# ---- blocks ----------------------------------------------------------------------------------------------------


def test_blocks_of_seasons_share_no_storm() -> None:
    later = [track(storm=str(year), time=track()["time"] + pd.Timedelta(days=365 * (year - 2001)), season=year)
             for year in range(2001, 2005)]  # fmt: skip
    samples = samples_of(tidy(pd.concat(later)))
    part = parts_by_season(samples, {"train": (2001, 2001), "val": (2002, 2002), "test": (2003, 2003)})
    assert [(part == name).sum() for name in ("train", "val", "test", "")] == [8, 8, 8, 8]
    shown = proof(samples, part)
    assert shown["storms_in_two_blocks"] == 0
    assert shown["left_out"] == 8
    assert shown["blocks"]["val"]["samples"] == 8
    # from the end of the last sample's 24 h (7 records and a day after the first) to the first of the next year
    assert shown["gaps_h"] == {"train–val, north": 365 * 24 - 42 - 24.0, "val–test, north": 365 * 24 - 42 - 24.0}
    part[0] = "test"
    assert proof(samples, part)["storms_in_two_blocks"] == 1


def test_blocks_of_time_hold_whole_storms_to_the_end_of_their_last_day() -> None:
    one = samples_of(track(12))  # samples to 09-02 18:00, labels to 09-03 18:00
    for last, inside in (("2001-09-03T18", True), ("2001-09-03T17", False)):
        splits = SplitsConfig(
            ("2001-09-01", last), ("2001-10-01", "2001-10-02"), ("2001-11-01", "2001-11-02"), 3
        ).build()
        assert set(parts_by_time(one, splits)) == {"train" if inside else ""}


def test_base_rates_by_hand() -> None:
    slow, fast = track(8), track(8, storm="two", basin="WP", wind_kt=40.0 + 8 * np.arange(8))
    found = samples_of(tidy(pd.concat([slow, fast]).drop(columns="season")))
    rates = base_rates(found, np.where(found["storm"] == "one", "train", "test"), [8, 30]).set_index("group")
    assert rates.loc["all", ["n", "storms", "≥8 kt", "≥30 kt", "storms_with"]].tolist() == [8, 2, 100, 50, 50]
    assert rates.loc["NA", ["n", "≥8 kt", "≥30 kt", "p95_kt"]].tolist() == [4, 100, 0, 8]
    assert rates.loc["test", "≥30 kt"] == rates.loc["WP", "≥30 kt"] == 100
    assert rates.loc["2000–2004", "n"] == 8

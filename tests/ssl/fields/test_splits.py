"""Splits: what is refused, what is proved, and windows against a count by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import Splits, SplitsConfig, follows, gap_days, is_monthly, window_starts

MONTHS = np.arange("1980-01", "2000-01", dtype="datetime64[M]").astype("datetime64[ns]")


def splits(
    train: Any = ("1980", "1989"), val: Any = ("1991", "1993"), test: Any = ("1995", "1999"), days: float = 360
) -> Splits:
    """Three blocks with a year between them."""
    return SplitsConfig(train, val, test, days).build()


def test_an_end_in_words_means_the_end_of_its_period() -> None:
    last_ns = np.timedelta64(1, "ns")
    assert splits().train == (np.datetime64("1980-01-01", "ns"), np.datetime64("1990-01-01", "ns") - last_ns)
    assert splits(train=("1980-02", "1988-02")).train[1] == np.datetime64("1988-03-01", "ns") - last_ns
    assert splits(train=("1980", "1988-02-28")).train[1] == np.datetime64("1988-02-29", "ns") - last_ns
    assert splits(train=("1980", "1988-02-28T06")).train[1] == np.datetime64("1988-02-28T07", "ns") - last_ns
    assert splits(train=(1980, 1989)).train == splits().train  # years in YAML are numbers


def test_the_embargo_counts_days_between_the_last_and_the_first_instant() -> None:
    # 1988 is a leap year: 31 days of January and 29 of February lie between.
    near = {"train": ("1980", "1987"), "val": ("1988-03", "1993")}
    assert splits(**near, days=60).embargo_days == 60
    with pytest.raises(EarthSSLError, match=r"train ends 1987-12-31 and val starts 1988-03-01, 60 days apart.* 61;"):
        splits(**near, days=61)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"train": ("1980", "1992")}, "train ends 1992-12-31 and val starts 1991-01-01"),
        ({"train": ("1980", "1996")}, "train ends"),
        ({"val": ("1982", "1983")}, "train ends 1989-12-31 and val starts 1982"),
        ({"val": ("1980", "1989")}, "days apart"),
        ({"test": ("1993", "1999")}, "val ends 1993-12-31 and test starts 1993-01-01"),
    ],
)
def test_blocks_that_share_a_time_are_refused_whatever_the_embargo(blocks: dict[str, Any], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message):
        splits(**blocks, days=0)


@pytest.mark.parametrize("days", [-1.0, -5000.0, float("nan")])
def test_an_embargo_that_would_let_blocks_overlap_is_refused(days: float) -> None:
    with pytest.raises(EarthSSLError, match="embargo_days: expected days from 0"):
        splits(train=("1980", "1996"), days=days)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (("1980-13", "1989"), "expected two dates such as 1983-12"),
        (("1980", "1985", "1989"), "expected two dates"),
        (("1980",), "expected two dates"),
        (("", "1989"), "expected two dates"),
        (("1989", "1980"), "starts 1989 after its end 1980; swap"),
        (("0001", "1989"), "within 1678…2261"),
        (("1980", "9999"), "within 1678…2261"),
    ],
)
def test_dates_that_mean_nothing_are_refused_in_one_line(train: Any, message: str) -> None:
    with pytest.raises(EarthSSLError, match=r"splits\.train: .*" + message) as caught:
        splits(train=train)
    assert "\n" not in str(caught.value)


def test_blocks_may_come_in_any_order() -> None:
    early = splits(train=("1995", "1999"), val=("1991", "1993"), test=("1980", "1989"))
    assert early.inside(MONTHS, "test")[:120].all()
    assert early.fit == (early.val[0], early.train[1])
    between = splits(train=("1980", "1984"), val=("1995", "1999"), test=("1986", "1993"))
    with pytest.raises(EarthSSLError, match="test block lies between train and val"):
        _ = between.fit


def test_the_parts_of_the_data_are_disjoint() -> None:
    chosen = [splits().inside(MONTHS, part) for part in ("train", "val", "test")]
    assert [int(mask.sum()) for mask in chosen] == [120, 36, 60]
    assert np.stack(chosen).sum(0).max() == 1
    assert splits().inside(MONTHS, "fit").sum() == 168  # with the embargo between the two
    with pytest.raises(EarthSSLError, match="Did you mean 'train'"):
        splits().inside(MONTHS, "trian")


def test_the_proof_says_what_the_blocks_hold_and_how_far_apart_they_are() -> None:
    proof = splits().proof(MONTHS)
    assert json.loads(json.dumps(proof)) == proof
    assert proof["blocks"]["val"]["steps"] == 36
    assert proof["blocks"]["val"]["first"][:10] == "1991-01-01"
    assert proof["blocks"]["val"]["last"][:10] == "1993-12-01"
    assert proof["gaps_days"] == {"train–val": 31 + 365, "val–test": 31 + 365}  # from the last month's stamp
    assert proof["disjoint"] is True
    assert proof["embargo_days"] == 360


def test_a_block_outside_the_data_is_refused() -> None:
    with pytest.raises(
        EarthSSLError, match=r"splits\.test .* holds no time of the data, which go from 1980-01-01 to 1999"
    ):
        splits(test=("2005", "2010")).proof(MONTHS)
    with pytest.raises(EarthSSLError, match=r"splits\.train"):
        splits(train=("1960", "1970")).proof(MONTHS)


def test_json_and_back_are_the_same_blocks() -> None:
    record = json.loads(json.dumps(splits().to_json()))
    assert Splits.from_json(record) == splits()


def test_months_are_told_from_fixed_steps() -> None:
    assert is_monthly(MONTHS)
    assert is_monthly(MONTHS[MONTHS.astype("datetime64[M]").astype(int) % 12 < 3])  # winters only
    for unit in ("D", "h"):
        assert not is_monthly(np.arange(100).astype(f"datetime64[{unit}]").astype("datetime64[ns]"))
    assert not is_monthly(MONTHS[:1])


def test_a_missing_step_is_a_break() -> None:
    assert follows(MONTHS).all()
    assert follows(np.delete(MONTHS, 5)).tolist().count(False) == 1
    hours = np.datetime64("2000-01-01", "ns") + np.arange(20) * np.timedelta64(6, "h")
    assert not follows(np.delete(hours, [3, 4]))[2]
    assert follows(np.delete(hours, [3, 4])).sum() == 16
    assert len(follows(MONTHS[:1])) == 0


def by_hand(times: np.ndarray, blocks: Splits, part: str, length: int, step: np.timedelta64 | None) -> list[int]:
    """Every window, looked at step by step; `step` None for calendar months."""
    first, last = getattr(blocks, part)
    found = []
    for start in range(len(times) - length + 1):
        window = times[start : start + length]
        months = window.astype("datetime64[M]").astype(int)
        gaps = np.diff(months) == 1 if step is None else np.diff(window) == step
        if gaps.all() and all(first <= t <= last for t in window):
            found.append(start)
    return found


@pytest.mark.parametrize("part", ["train", "val", "test", "fit"])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_windows_never_cross_a_gap_or_the_edge_of_a_block(part: str, length: int) -> None:
    rng = np.random.default_rng(3)
    gappy = np.delete(MONTHS, rng.choice(len(MONTHS), 12, replace=False))
    assert window_starts(gappy, splits(), part, length).tolist() == by_hand(gappy, splits(), part, length, None)
    days = np.arange("1989-06-01", "1995-04-01", dtype="datetime64[D]").astype("datetime64[ns]")
    days = np.delete(days, rng.choice(len(days), 60, replace=False))
    step = np.timedelta64(1, "D")
    assert window_starts(days, splits(), part, length).tolist() == by_hand(days, splits(), part, length, step)


def test_whole_blocks_have_all_their_windows() -> None:
    assert window_starts(MONTHS, splits(), "train", 12).tolist() == list(range(109))
    assert window_starts(MONTHS, splits(), "val", 36).tolist() == [132]


@pytest.mark.parametrize("length", [37, 1000])
def test_a_window_longer_than_its_block_is_refused(length: int) -> None:
    with pytest.raises(EarthSSLError, match=rf"no window of {length} steps fits in splits\.val, which holds 36 steps"):
        window_starts(MONTHS, splits(), "val", length)


def test_blocks_of_centuries_are_as_far_apart_as_they_are() -> None:
    long, later = splits(train=("1700", "2079"), val=("2083", "2099"), test=("2103", "2110")).train, ("2083", "2099")
    held = splits(train=("1700", "1710"), val=later, test=("2103", "2110")).val
    years = 3 * 365.25  # nanoseconds wrap round after 292 years: 185 years were seen between these
    assert gap_days(long, held) == gap_days(held, long) == pytest.approx(years, abs=1)
    assert gap_days(long, splits(train=("1700", "1710"), val=("2070", "2080"), test=("2103", "2110")).val) < 0

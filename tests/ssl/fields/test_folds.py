"""Folds: five by hand, what every fold owes the others, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.folds import FoldsConfig
from earthssl.ssl.fields.splits import PARTS

MONTHS = np.arange("1980-01", "2021-01", dtype="datetime64[M]").astype("datetime64[ns]")


def test_the_five_folds_of_the_satellite_years_by_hand() -> None:
    found = FoldsConfig("1980-01", "2020-12", 25).splits()
    assert [(one.train, one.val, one.test) for one in found] == [
        (("1990-02", "2012-11"), ("2015-01", "2020-12"), ("1980-01", "1987-12")),
        ([("1980-01", "1985-11"), ("1998-02", "2012-11")], ("2015-01", "2020-12"), ("1988-01", "1995-12")),
        ([("1980-01", "1993-11"), ("2007-02", "2012-11")], ("2015-01", "2020-12"), ("1996-01", "2004-12")),
        ([("1988-02", "2002-11"), ("2015-02", "2020-12")], ("1980-01", "1985-12"), ("2005-01", "2012-12")),
        (("1988-02", "2010-11"), ("1980-01", "1985-12"), ("2013-01", "2020-12")),
    ]


@pytest.mark.parametrize("config", [
    FoldsConfig("1980-01", "2020-12", 25), FoldsConfig("1980-03", "2020-11", 25, count=7, val_months=60),
    FoldsConfig("1980-01", "2020-12", 6, count=2),
])  # fmt: skip
def test_every_month_is_tested_once_and_the_rest_is_far_away(config: FoldsConfig) -> None:
    blocks = [one.build() for one in config.splits()]
    assert len(blocks) == config.count
    tested = np.sum([one.inside(MONTHS, "test") for one in blocks], axis=0)
    first, last = (np.datetime64(month) for month in (config.first, config.last))
    months = MONTHS.astype("datetime64[M]")
    np.testing.assert_array_equal(tested, (months >= first) & (months <= last))
    for one in blocks:
        at = {part: np.flatnonzero(one.inside(MONTHS, part)) for part in PARTS}
        for a, b in (("train", "val"), ("val", "test"), ("train", "test")):
            assert np.abs(at[a][:, None] - at[b]).min() == config.gap_months + 1 or (a, b) == ("val", "test")
            assert np.abs(at[a][:, None] - at[b]).min() > config.gap_months
        assert len(at["val"]) == config.val_months
        assert one.proof(MONTHS)["disjoint"]


@pytest.mark.parametrize(("more", "said"), [
    ({"count": 1}, "folds.count: expected at least 2, got 1"),
    ({"gap_months": 3}, "folds.gap_months: expected at least 4, got 3"),
    ({"val_months": 6}, "folds.val_months: expected at least 12, got 6"),
    ({"count": 30}, "at least two years a test block, got 30 blocks of 492 months"),
    ({"last": "1979"}, "folds: starts 1980-01 after its end 1979"),
    ({"first": "soon"}, "folds: expected two dates"),
    ({"val_months": 400}, "fold 1, tested .*1980-01.*1987-12.*no room for 400 months of validation and 25 of training"),
    ({"gap_months": 150, "count": 2}, "fold 1.*take more and shorter test blocks"),
])  # fmt: skip
def test_what_has_no_room_is_refused_in_words(more: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        FoldsConfig(**{"first": "1980-01", "last": "2020-12", "gap_months": 25, **more}).splits()

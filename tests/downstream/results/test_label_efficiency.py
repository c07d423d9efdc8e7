"""Label efficiency against hand answers: a skill that grows with the logarithm of the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.results.label_efficiency import curve_means, efficiency_words, fewer_labels
from earthssl.downstream.results.summary import Summary

SHARES = (0.1, 0.2, 0.4, 0.8, 1.0)
MAIN = [("a", "skill"), ("b", "skill")]


def curve(**rows: list[float]) -> pd.DataFrame:
    """Two targets, one .1 above and one .1 below the given means, and a metric that is not asked for."""
    made = [
        {"row": row, "target": target, "metric": metric, "asked": share, "used": share, "value": value + shift}
        for row, values in rows.items()
        for share, value in zip(SHARES, values, strict=True)
        for target, metric, shift in (("a", "skill", 0.1), ("b", "skill", -0.1), ("a", "r", 9.0))
    ]
    return pd.DataFrame(made).assign(low=np.nan, high=np.nan)


LOG = [float(np.log(share / 0.05)) for share in SHARES]


def test_means_are_over_the_main_targets() -> None:
    means = curve_means(curve(pretrained=LOG, raw=[0.0] * 5), MAIN)
    assert list(means.index) == ["pretrained", "raw"]
    assert list(means.columns) == list(SHARES)
    np.testing.assert_allclose(means.loc["pretrained"], LOG)


def test_a_row_without_one_of_the_targets_has_no_mean() -> None:
    """A mean over fewer targets is of something else."""
    table = curve(pretrained=LOG, raw=LOG)
    means = curve_means(table[~((table["row"] == "raw") & (table["target"] == "b"))], MAIN)
    assert means.loc["raw"].isna().all()
    assert fewer_labels(means, "pretrained", "raw") is None


@pytest.mark.parametrize("factor", [1.0, 1.25, 3.0, 7.0])
def test_a_row_that_needs_so_many_times_fewer(factor: float) -> None:
    """Skill log(n × factor) beside log(n): the factor, also between the shares."""
    raw = [value - np.log(factor) for value in LOG]
    means = curve_means(curve(pretrained=LOG, raw=raw), MAIN)
    found = fewer_labels(means, "pretrained", "raw")
    assert found == (pytest.approx(factor), False)
    backwards = fewer_labels(means, "raw", "pretrained")
    assert backwards is None if factor > 1 else backwards == (pytest.approx(1.0), False)


def test_above_at_the_smallest_share_is_a_bound() -> None:
    means = curve_means(curve(pretrained=LOG, raw=[0.01] * 5), MAIN)
    assert fewer_labels(means, "pretrained", "raw") == (pytest.approx(10.0), True)
    words = efficiency_words(means, "pretrained", ["raw", "absent"])
    assert words.endswith("(along the mean curve, no interval): raw: ≥ 10.0×.")


def test_a_score_that_does_not_last_does_not_count() -> None:
    """Above the goal at a fifth of the labels, below it at two: counted from where it stays above."""
    means = curve_means(curve(pretrained=[0.2, 0.31, 0.25, 0.32, 0.33], raw=[0.1, 0.1, 0.2, 0.2, 0.3]), MAIN)
    found = fewer_labels(means, "pretrained", "raw")
    assert found is not None
    assert 1 < found[0] < 2.5


def test_the_screen_shows_the_curve_and_the_share_of_what_can_be_known() -> None:
    """Labels counted in units; skill .3 of .6 is half; where next to nothing can be known there is no share."""
    scores = pd.DataFrame(
        [(row, "", target, "skill", value) for row, values in (("pretrained", (0.3, 0.01)), ("raw", (0.2, 0.0)),
         ("truth", (0.6, 0.02))) for target, value in zip("ab", values, strict=True)],
        columns=["row", "seed", "target", "metric", "value"],
    ).assign(low=np.nan, high=np.nan)  # fmt: skip
    differences = pd.DataFrame({"row": ["pretrained"] * 2, "reference": ["raw"] * 2, "target": ["a", "b"],
                                "metric": ["skill"] * 2, "value": [0.1, 0.01], "low": [0.05, 0.001],
                                "high": [0.15, 0.02], "verdict": ["better"] * 2})  # fmt: skip
    raw = [value - np.log(4) for value in LOG]
    made = Summary(
        "test", "A test", "", scores, differences, {}, tables={"label_curve": curve(pretrained=LOG, raw=raw)},
        reachable="truth", unit=(20, "year"),
    )  # fmt: skip
    text = made.text()
    lines = text.splitlines()
    (share,) = (line for line in lines if "share of reachable" in line)
    assert share.split()[-2:] == ["50%", "–"]
    k = next(k for k, line in enumerate(lines) if "training years with labels, mean over 2 target" in line)
    assert lines[k + 1].split() == ["2", "4", "8", "16", "20"]
    assert lines[k + 2].split() == ["pretrained", "0.693", "1.386", "2.079", "2.773", "2.996"]
    assert "raw: 4.0×" in " ".join(text.split())
    unsure = replace(made, differences=differences.assign(verdict=["better", "undecided"]))
    assert "Fewer labels" not in unsure.text()  # not beaten at every target

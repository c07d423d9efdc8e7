"""Label fractions of rapid intensification: nested, no storm split, and with all labels the rows themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.tasks.rapid_intensification.label_curve import curve_rows, label_curve
from earthssl.downstream.tasks.rapid_intensification.models import (
    TRACK,
    Problem,
    SampleFeatures,
    feature_rows,
    logistic,
)
from earthssl.downstream.tasks.rapid_intensification.samples import Predictors
from earthssl.downstream.tasks.rapid_intensification.scores import BSS, ranked
from earthssl.ssl.common.errors import EarthSSLError

SEASONS, STORMS, RECORDS = 10, 12, 6


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Ten training seasons and one each of validation and test; whether it intensifies is a coin of odds e^(2h)."""
    count = (SEASONS + 2) * STORMS * RECORDS
    rng = np.random.default_rng(0)
    season = np.arange(count) // (STORMS * RECORDS)
    hidden = rng.standard_normal(count)
    samples = pd.DataFrame({
        "storm": np.arange(count) // RECORDS, "season": 2000 + season, "basin": "NA", "hidden": hidden,
        "change_kt": np.where(rng.uniform(size=count) < 1 / (1 + np.exp(1 - 2 * hidden)), 30.0, 0.0),
    })  # fmt: skip
    part = np.array(["train"] * SEASONS + ["val", "test"])[season]
    track = np.stack([hidden, *rng.standard_normal((3, count))], 1)
    return Problem(samples, part, Predictors(track, track, {}, np.zeros((count, 2))), ["NA"], 30.0)


def test_all_labels_give_the_row_itself_and_fewer_give_less(problem: Problem) -> None:
    rows = {TRACK: [(None, problem.predictors.track)]}
    curve = label_curve(problem, rows, [0.01, 0.3, 1.0], draws=3, resamples=100)
    whole = logistic(problem, TRACK, problem.predictors.track).test
    test = problem.inside("test")
    expected = ranked(whole[None], problem.event[test], problem.basin[test])[BSS](np.ones(test.sum()))[0]
    means = curve.means.set_index("asked")
    assert means.loc[1.0, "value"] == pytest.approx(expected)
    assert means.loc[0.01, "value"] < means.loc[0.3, "value"] < expected + 0.02
    assert (means["low"] < means["value"]).all()
    by_share = curve.draws.groupby("asked")
    assert by_share.size().to_dict() == {0.01: 3, 0.3: 3, 1.0: 1}
    assert by_share["units"].unique().map(list).to_dict() == {0.01: [1], 0.3: [3], 1.0: [10]}
    assert by_share["labels"].unique().map(list).to_dict() == {0.01: [72], 0.3: [216], 1.0: [720]}
    assert by_share[BSS].mean().to_dict() == pytest.approx(means["value"].to_dict())


def test_storms_are_drawn_whole_and_differences_are_paired(problem: Problem) -> None:
    noise = np.random.default_rng(1).standard_normal((len(problem.event), 20))
    rows = {TRACK: [(None, problem.predictors.track)], "untrained encoder + track": [(0, noise), (1, noise)]}
    curve = label_curve(problem, rows, [0.25], unit="storm", draws=2, resamples=100)
    assert (curve.draws["labels"] == 30 * RECORDS).all()
    assert len(curve.draws) == 2 * 3
    lost = curve.differences.set_index(["row", "reference"]).loc[("untrained encoder + track", TRACK)]
    assert lost["verdict"] == "worse"
    means = curve.means.set_index("row")["value"]
    assert lost["value"] == pytest.approx(means["untrained encoder + track"] - means[TRACK])


def test_one_class_only_is_laplace_s_rule(problem: Problem) -> None:
    still = problem.samples["change_kt"].where(problem.samples["season"] > 2008, 0.0)
    calm = Problem(problem.samples.assign(change_kt=still), problem.part, problem.predictors, ["NA"], 30.0)
    curve = label_curve(calm, {TRACK: [(None, problem.predictors.track)]}, [0.1], draws=4, resamples=100)
    none = curve.draws["events"] == 0
    assert 3 <= none.sum() <= 4
    test = calm.inside("test")
    constant = np.full((1, test.sum()), 1 / (72 + 2))
    expected = ranked(constant, calm.event[test], calm.basin[test])[BSS](np.ones(test.sum()))[0]
    np.testing.assert_allclose(curve.draws[BSS][none], expected)


def test_the_curve_takes_the_variant_that_validation_chose(problem: Problem) -> None:
    hidden = problem.samples["hidden"].to_numpy()
    good, bad = np.stack([hidden, hidden**2], 1), np.zeros((len(hidden), 2))
    features = [
        SampleFeatures("encoder", 3, bad, "pretrained", "layer 1"),
        SampleFeatures("encoder", 3, good, "pretrained", "layer 2"),
    ]
    blind = Problem(problem.samples, problem.part, Predictors(bad, bad, {}, bad), ["NA"], 30.0)
    rows = curve_rows(blind, features, feature_rows(blind, features))
    assert list(rows) == [TRACK, "pretrained encoder + track"]
    ((seed, columns),) = rows["pretrained encoder + track"]
    assert seed == 3
    np.testing.assert_array_equal(columns[:, :2], good)


def test_a_share_out_of_range_is_refused(problem: Problem) -> None:
    with pytest.raises(EarthSSLError, match=r"fractions in \(0, 1\]"):
        label_curve(problem, {TRACK: [(None, problem.predictors.track)]}, [2.0])

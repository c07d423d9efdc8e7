"""Label fractions and few shots: whole years, nested, apart in time, and the same for the same seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from earthssl.downstream.evaluation.label_curve import label_curve
from earthssl.downstream.evaluation.label_fractions import FRACTIONS, few_shot, label_fractions
from earthssl.downstream.heads.base import Samples
from earthssl.downstream.metrics.classes import one_hot
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import class_target
from earthssl.downstream.tasks.states.few_shot import few_labels, shot_curve
from earthssl.ssl.common.errors import EarthSSLError

YEARS = np.repeat(np.arange(1900, 2000), 12)


def test_a_hundred_years_give_the_shares_asked_for() -> None:
    found = label_fractions(YEARS, draws=1)
    assert [len(one.years) for one in found] == [1, 3, 10, 30, 100]
    assert [one.used for one in found] == list(FRACTIONS)
    for one in found:
        assert one.rows(YEARS).sum() == 12 * len(one.years)  # whole years


def test_smaller_sets_are_parts_of_larger_ones_and_draws_differ() -> None:
    found = label_fractions(YEARS, draws=4)
    for draw in range(4):
        sets = [set(one.years) for one in found if one.draw == draw]
        for small, large in pairwise(sets):
            assert small < large
    assert len({tuple(one.years) for one in found if one.asked == 0.1}) == 4
    assert sum(one.asked == 1.0 for one in found) == 1  # all years are one set


def test_few_years_say_what_was_used() -> None:
    found = {one.asked: one for one in label_fractions(np.arange(10), draws=1)}
    assert found[0.01].used == found[0.03].used == found[0.1].used == 0.1


def test_the_seed_decides_the_years() -> None:
    first, again, other = (label_fractions(YEARS, [0.1], draws=2, seed=seed) for seed in (1, 1, 2))
    assert [one.years.tolist() for one in first] == [one.years.tolist() for one in again]
    assert [one.years.tolist() for one in first] != [one.years.tolist() for one in other]


def test_wrong_fractions_are_refused() -> None:
    with pytest.raises(EarthSSLError, match=r"fractions in \(0, 1\]"):
        label_fractions(YEARS, [0.0, 0.5])


@pytest.mark.parametrize("draw", range(5))
def test_shots_are_k_a_class_and_apart(draw: int) -> None:
    rng = np.random.default_rng(0)
    labels, steps = np.repeat(rng.integers(0, 3, 60), 10), np.arange(600)
    chosen = few_shot(labels, steps, 5, separation=20, draw=draw)
    for label in range(3):
        own = np.sort(steps[chosen[labels[chosen] == label]])
        assert len(own) == 5
        assert np.diff(own).min() >= 20
    assert np.array_equal(chosen, few_shot(labels, steps, 5, separation=20, draw=draw))
    assert not np.array_equal(chosen, few_shot(labels, steps, 5, separation=20, draw=draw + 1))


def test_the_largest_set_is_found_where_chance_misses_it() -> None:
    """Steps 0, 10, …, 90 at least 20 apart: five fit, of which a random order mostly takes fewer."""
    labels, steps = np.zeros(10, dtype=int), np.arange(0, 100, 10)
    for draw in range(10):
        chosen = few_shot(labels, steps, 5, separation=20, draw=draw)
        assert np.diff(steps[chosen]).min() >= 20


def test_too_many_shots_say_how_many_there_are() -> None:
    labels, steps = np.zeros(10, dtype=int), np.arange(0, 100, 10)
    with pytest.raises(EarthSSLError, match="6 examples of class 0 at least 20 steps apart, the training block has 5"):
        few_shot(labels, steps, 6, separation=20)


def clouds(n: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 3, -(-n // 4)), 4)[:n]
    return Samples(2 * np.eye(3)[labels] + rng.normal(size=(n, 3)), one_hot(labels, 3), np.arange(n))


def test_the_curve_ends_at_the_head_fitted_on_everything() -> None:
    """Means over draws and seeds with intervals, paired differences, and a network from scratch on some draws."""
    train, val, test = (clouds(n, seed) for n, seed in ((240, 0), (100, 1), (100, 2)))
    years, truth = np.arange(240) // 12, test.targets.argmax(1)
    target = class_target("class", truth, np.full((100, 3), 1 / 3), np.arange(100) // 10)

    def fitted(row: Row, units: np.ndarray) -> Row:
        return Row(row.name, row.role, {"class": few_labels(train.take(np.isin(years, units)), val, test)}, row.seed)

    def scratch(units: np.ndarray) -> list[Row]:
        return [Row("scratch", Role.SCRATCH, {"class": np.full((100, 3), 1 / 3)}, 0)]

    follow = [Row("raw", Role.BASELINE, {}), Row("pretrained", Role.PRETRAINED, {}, 7)]
    shares = label_fractions(years, draws=3)
    curve = label_curve(shares, follow, fitted, scratch, [target], scratch_draws=1, draws=1000)
    means = curve.means.set_index(["row", "asked"])["value"]
    right = few_labels(train, val, test)
    error, reference = ((right - test.targets) ** 2).sum(), ((1 / 3 - test.targets) ** 2).sum()
    assert means["raw", 1.0] == pytest.approx(1 - error / reference)
    assert means["raw"].is_monotonic_increasing
    assert means["scratch"].to_numpy() == pytest.approx(np.zeros(5), abs=1e-12)
    assert set(curve.differences.reference) == {"raw", "scratch"}
    beside = curve.differences.set_index(["row", "reference", "asked"])
    assert beside.loc[("pretrained", "raw", 1.0), "verdict"] == "undecided"
    assert beside.loc[("pretrained", "scratch", 1.0), "verdict"] == "better"
    assert sorted(set(curve.draws.seed[curve.draws.row == "pretrained"])) == [f"draw {k}, seed 7" for k in range(3)]
    assert label_curve([], follow, fitted, scratch, [target], scratch_draws=1, draws=1000).tables() == {}


def test_a_year_of_one_class_gives_laplaces_rule() -> None:
    train, val, test = (clouds(n, seed) for n, seed in ((4, 0), (20, 1), (5, 2)))
    found = few_labels(train, val, test)
    seen = int(train.targets[0].argmax())
    assert found[:, seen] == pytest.approx(np.full(5, 5 / 7))
    assert found.sum(1) == pytest.approx(np.ones(5))


def test_the_shot_curve_ends_where_examples_do() -> None:
    train, val, test = (clouds(n, seed) for n, seed in ((240, 0), (100, 1), (100, 2)))
    clim = np.full((100, 3), 1 / 3)
    curve = shot_curve(train, val, test, clim, [1, 2, 1000], separation=6, draws=2)
    assert sorted(set(curve.asked)) == [1, 2]
    assert (curve.labels == 3 * curve.asked).all()
    with pytest.raises(EarthSSLError, match="1000 examples"):
        shot_curve(train, val, test, clim, [1000], separation=6)


def test_a_network_is_compared_on_the_labels_that_it_was_trained_on() -> None:
    """Both are perfect on the first draw, and the row is worthless on the others, where there is no network."""
    years, truth = np.repeat(np.arange(20), 12), np.tile([0, 1], 50)
    climatology = np.full((100, 2), 0.5)
    target = class_target("class", truth, climatology, np.arange(100) // 10)
    shares = label_fractions(years, [0.1], draws=4)

    def said(units: np.ndarray) -> dict[str, np.ndarray]:
        return {"class": one_hot(truth, 2) if np.array_equal(units, shares[0].years) else climatology}

    curve = label_curve(
        shares,
        [Row("raw", Role.BASELINE, {}), Row("pretrained", Role.PRETRAINED, {})],
        lambda row, units: Row(row.name, row.role, said(units)),
        lambda units: [Row("scratch", Role.SCRATCH, said(units), 0)],
        [target], scratch_draws=1, draws=1000,
    )  # fmt: skip
    assert curve.means.set_index("row")["value"].to_dict() == {"raw": 0.25, "pretrained": 0.25, "scratch": 1.0}
    beside = curve.differences.set_index(["row", "reference"])
    assert len(beside) == 4
    assert beside.loc[("pretrained", "scratch"), ["value", "verdict"]].tolist() == [0.0, "undecided"]
    assert beside.loc[("pretrained", "raw"), ["value", "verdict"]].tolist() == [0.0, "undecided"]

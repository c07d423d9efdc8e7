"""The ridge head against scikit-learn, brute force and limits."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.heads.ridge_path import PENALTIES, RidgePath
from earthssl.downstream.tasks.enso.labels import EnsoLabels
from earthssl.downstream.tasks.enso.monthly_ridge import (
    HeadOptions,
    fixed_head,
    monthly_path,
    refit,
    select,
    select_and_refit,
)
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from sklearn.linear_model import Ridge

LEADS = (1, 3, 6)


@pytest.fixture(scope="module")
def task() -> EnsoLabels:
    """Fifty years of red noise in one place, so that the index can be predicted from itself."""
    months = np.arange("1950-01", "2000-01", dtype="datetime64[M]")
    rng = np.random.default_rng(0)
    index = np.zeros(len(months))
    for t in range(1, len(months)):
        index[t] = 0.9 * index[t - 1] + rng.normal()
    lat, lon = np.arange(8.0, -9.0, -4.0), np.arange(186.0, 246.0, 4.0)
    values = index[:, None, None] + 0.1 * rng.normal(size=(len(months), len(lat), len(lon)))
    dataset = xr.Dataset(
        {"ssta": (("time", "lat", "lon"), values)},
        coords={"time": months.astype("datetime64[ns]"), "lat": lat, "lon": lon},
    )
    splits = SplitsConfig(("1950", "1974"), ("1976", "1983"), ("1985", "1999"), 300).build()
    return EnsoLabels.from_dataset(dataset, splits, LEADS, 3)


def useful(task: EnsoLabels) -> np.ndarray:
    """Features that hold the index."""
    noise = np.random.default_rng(1).normal(size=(len(task.time), 4))
    return np.concatenate([task.index[:, None], noise], axis=1)


def noise(task: EnsoLabels, width: int = 5) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(len(task.time), width))


@pytest.mark.parametrize("width", [7, 90])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_path_equals_sklearn_at_each_penalty(width: int, standardise: bool) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, width)) * rng.uniform(0.5, 3, width) + 2, rng.normal(size=(40, 3)) - 1
    new = rng.normal(size=(5, width))
    path = RidgePath.fit(x, y, standardise=standardise)
    predicted = path.predict(new, PENALTIES)
    scale = x.std(axis=0) if standardise else 1.0
    for j, penalty in enumerate(PENALTIES):
        model = Ridge(alpha=penalty * 40).fit(x / scale, y)
        np.testing.assert_allclose(predicted[j], model.predict(new / scale), atol=1e-9)
        np.testing.assert_allclose(path.coefficients(penalty).T * scale, model.coef_, atol=1e-9)


def test_group_intercepts_equal_unpenalised_dummies() -> None:
    rng = np.random.default_rng(4)
    group = np.arange(60) % 3
    x, y = rng.normal(size=(60, 4)) + group[:, None], rng.normal(size=(60, 2)) + 5 * group[:, None]
    # Brute force: features and three dummies, of which only the features are penalised.
    dummies = np.eye(3)[group]
    design = np.concatenate([x, dummies], axis=1)
    penalty = np.diag([0.5 * 60] * 4 + [0.0] * 3)
    solution = np.linalg.solve(design.T @ design + penalty, design.T @ y)
    path = RidgePath.fit(x, y, group, standardise=False)
    np.testing.assert_allclose(path.coefficients(0.5), solution[:4], atol=1e-9)
    np.testing.assert_allclose(path.predict(x, [0.5], group)[0], design @ solution, atol=1e-9)


def test_limits_of_the_penalty() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 1))
    path = RidgePath.fit(x, y)
    np.testing.assert_allclose(path.predict(x, [1e12])[0], np.broadcast_to(y.mean(), y.shape), atol=1e-9)
    design = np.c_[x, np.ones(30)]
    least_squares = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(path.predict(x, [1e-13])[0], least_squares, atol=1e-9)


def test_a_constant_feature_is_ignored() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 1))
    padded = np.c_[x, np.full(30, 0.1)]
    new = rng.normal(size=(4, 4))
    expected = RidgePath.fit(x, y).predict(new[:, :3], [1.0])
    np.testing.assert_allclose(RidgePath.fit(padded, y).predict(new, [1.0]), expected)


@pytest.mark.parametrize(("months", "neighbours"), [(1, [5]), (3, [4, 5, 6]), (12, range(12))])
def test_pooling_takes_the_neighbouring_calendar_months(task: EnsoLabels, months: int, neighbours) -> None:
    features, wanted = useful(task), task.inits("test")
    path = monthly_path(task, features, "fit", months, [1.0], wanted)
    rows = task.samples("fit")[0] & np.isin(task.month, list(neighbours))
    by_hand = RidgePath.fit(features[rows], task.target.T[rows], task.month[rows])
    served = wanted & (task.month == 5)
    expected = by_hand.predict(features[served], [1.0], task.month[served])[0].T
    np.testing.assert_allclose(path[0][:, served], expected)
    assert np.isnan(path[0][:, ~wanted]).all()


def test_pooling_wraps_from_january_to_december(task: EnsoLabels) -> None:
    features, wanted = useful(task), task.inits("test")
    rows = task.samples("fit")[0] & np.isin(task.month, [11, 0, 1])
    by_hand = RidgePath.fit(features[rows], task.target.T[rows], task.month[rows])
    served = wanted & (task.month == 0)
    path = monthly_path(task, features, "fit", 3, [1.0], wanted)
    np.testing.assert_allclose(path[0][:, served], by_hand.predict(features[served], [1.0], task.month[served])[0].T)


def test_selection_finds_the_useful_features(task: EnsoLabels) -> None:
    candidates = {"noise": noise(task), "useful": useful(task)}
    for options in (HeadOptions(), HeadOptions(criterion="r"), HeadOptions(penalty_per_lead=False)):
        chosen = select(task, candidates, options)
        assert set(chosen.candidate) == {"useful"}
        assert len(set(chosen.months)) == 1
        assert chosen.table.shape == (2, 3, len(PENALTIES), 3)
    assert len(set(select(task, candidates, HeadOptions(penalty_per_lead=False)).penalty)) == 1


def test_the_choice_is_the_best_of_the_table(task: EnsoLabels) -> None:
    candidates = {"noise": noise(task), "useful": useful(task)}
    each = HeadOptions(lead_groups=((1,), (3,), (6,)))
    chosen = select(task, candidates, each)
    np.testing.assert_allclose(chosen.score, chosen.table.max(("candidate", "months", "penalty")))
    shared = select(task, candidates, HeadOptions(penalty_per_lead=False))
    assert np.mean(shared.score) == pytest.approx(float(shared.table.mean("lead").max()))
    per_lead = select(task, candidates, HeadOptions())
    best = per_lead.table.max("penalty").mean("lead").max()
    assert np.mean(per_lead.score) == pytest.approx(float(best))


def test_refit_gives_each_lead_its_own_choice(task: EnsoLabels) -> None:
    candidates = {"noise": noise(task), "useful": useful(task)}
    options = HeadOptions(lead_groups=((1,), (3, 6)))
    selection = select(task, candidates, options)
    row = refit(task, candidates, selection, name="row", seed=3)
    assert (row.name, row.seed) == ("row", 3)
    wanted = task.inits("test")
    for j in range(3):
        path = monthly_path(
            task,
            candidates[selection.candidate[j]],
            "fit",
            selection.months[j],
            [selection.penalty[j]],
            wanted,
        )
        np.testing.assert_allclose(row.forecast[f"lead {LEADS[j]}"], path[0, j, task.tested[j]])
    assert row.chosen["criterion"] == "rmse"


def test_features_far_wider_than_the_samples(task: EnsoLabels) -> None:
    wide = np.concatenate([useful(task), noise(task, 800)], axis=1)
    row = select_and_refit(task, {"wide": wide}, name="wide", options=HeadOptions(months=(1, 12)))
    assert np.isfinite(row.forecast["lead 1"]).sum() == task.samples("test")[0].sum()


def test_selection_never_reads_the_test_block(task: EnsoLabels) -> None:
    features = useful(task)
    scrambled = features.copy()
    scrambled[task.time > task.blocks["fit"][1]] = 1e9
    a, b = select(task, {"x": features}), select(task, {"x": scrambled})
    np.testing.assert_array_equal(a.table, b.table)
    fitted = task.samples("fit")[0]
    np.testing.assert_array_equal(
        monthly_path(task, features, "fit", 1, [1.0], fitted),
        monthly_path(task, scrambled, "fit", 1, [1.0], fitted),
    )


def test_the_validation_block_does_not_enter_the_fit_on_train(task: EnsoLabels) -> None:
    features = useful(task)
    scrambled = features.copy()
    scrambled[task.time > task.blocks["train"][1]] = 1e9
    used = task.samples("train")[0]
    np.testing.assert_array_equal(
        monthly_path(task, features, "train", 3, [1.0], used),
        monthly_path(task, scrambled, "train", 3, [1.0], used),
    )


def test_few_labels_are_all_that_a_head_reads_and_nothing_is_refitted(task: EnsoLabels) -> None:
    features, few = useful(task), np.isin(task.year, [1955, 1960])
    row = select_and_refit(task, {"x": features}, name="few", labelled=few)
    hidden = replace(task)
    hidden.__dict__["target"] = np.where(few | ~task.within("train"), task.target, 50.0)
    again = select_and_refit(hidden, {"x": features}, name="few", labelled=few)
    np.testing.assert_array_equal(row.forecast["lead 3"], again.forecast["lead 3"])
    whole = select_and_refit(task, {"x": features}, name="all")
    assert not np.array_equal(row.forecast["lead 3"], whole.forecast["lead 3"])
    one = select_and_refit(task, {"x": features}, name="one", labelled=np.isin(task.year, [1955]))
    truth = task.of_test(task.target)["lead 1"]
    assert np.corrcoef(one.forecast["lead 1"], truth)[0, 1] > 0.7, (
        "one year of a month each is enough for one intercept"
    )


def test_unfit_features_and_options_are_refused(task: EnsoLabels) -> None:
    gappy = useful(task)
    gappy[30] = np.nan
    with pytest.raises(EarthSSLError, match=r"in 1 of them, first at 1952-07"):
        fixed_head(task, gappy, name="x", penalty=1.0)
    with pytest.raises(EarthSSLError, match="one row a month"):
        fixed_head(task, gappy[:10], name="x", penalty=1.0)
    with pytest.raises(EarthSSLError, match="got none"):
        select(task, {})
    with pytest.raises(EarthSSLError, match="penalties > 0"):
        HeadOptions(penalties=(0.0,))
    with pytest.raises(EarthSSLError, match="poolings"):
        HeadOptions(months=(2,))
    with pytest.raises(EarthSSLError, match="lead groups"):
        select(task, {"x": useful(task)}, HeadOptions(lead_groups=((1, 3),)))
    early = useful(task)
    early[:2] = np.nan  # the first window ends in the third month
    assert fixed_head(task, early, name="x", penalty=1.0).chosen["penalty"] == 1.0

"""ENSO for the matrix: the same errors as the probe's rows, on the same samples for everyone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from earthssl.downstream.features.frozen_features import candidates, extract
from earthssl.downstream.metrics.seasonal import score
from earthssl.downstream.tasks.enso.frozen import EnsoFrozenTask
from earthssl.downstream.tasks.enso.monthly_ridge import HeadOptions, select_and_refit
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store

HEAD = HeadOptions(months=(12,))


@pytest.fixture(scope="module")
def task(small_store: Path) -> EnsoFrozenTask:
    return EnsoFrozenTask(Store(small_store), leads=[1, 3], window=3, poolings=["mean"], head=HEAD)


def test_errors_are_those_of_the_probes_row(task: EnsoFrozenTask) -> None:
    """One layer, one pooling: mean squared error by lead = RMSE² of `select_and_refit`'s row."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(task.store.variables)
    found = task.evaluate(encoder, [2])[2]
    raw = extract(encoder, task.store, [2], "test")
    train = task.store.splits.inside(task.store.times.astype("datetime64[ns]"), "train")
    sets = candidates(raw, len(task.store.times), train, [2], ["mean"], [4])["mean"]
    scored = score(select_and_refit(task.labels, sets, name="x", options=HEAD), task.labels.observed())
    pairs = scored["pairs"].values
    assert len(found.error) == pairs.sum()
    assert found.error.sum() == pytest.approx((scored["rmse"].values ** 2 * pairs).sum())


def test_the_reference_is_the_squared_anomaly_by_target_year(task: EnsoFrozenTask) -> None:
    observed = task.labels.observed()
    for one in task.references().values():
        assert one.reference.sum() == pytest.approx(float((observed**2).sum()))
        assert set(one.units) == {2007, 2008, 2009, 2010}
        first = one.reference[one.units == 2008].sum()
        centre = np.array(
            [[np.datetime64(t, "M") + int(lead) for t in observed.init_time.values] for lead in observed.lead]
        )
        inside = (centre.astype("datetime64[Y]").astype(int) + 1970 == 2008) & np.isfinite(observed.values)
        assert first == pytest.approx((observed.values[inside] ** 2).sum())


def test_references_share_samples_and_persistence_is_worth_something_in_red_noise(task: EnsoFrozenTask) -> None:
    found = task.references()
    assert set(found) == {"damped persistence", "20 PCs × 3 months"}
    damped, pcs = found.values()
    assert np.array_equal(damped.units, pcs.units)
    assert np.array_equal(damped.reference, pcs.reference)
    assert 0 < damped.skill() < 1


def test_each_layer_is_scored_alone(task: EnsoFrozenTask) -> None:
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(task.store.variables)
    both, last = task.evaluate(encoder, [0, 2]), task.evaluate(encoder, [2])
    assert list(both) == [0, 2]
    assert np.array_equal(both[2].error, last[2].error)
    assert not np.array_equal(both[0].error, both[2].error)


def test_a_longer_window_than_declared_is_refused(task: EnsoFrozenTask) -> None:
    encoder = EncoderConfig("nano", 6, (1, 2, 3)).build(task.store.variables)
    with pytest.raises(EarthSSLError, match="a window of at most 3 months, got 6"):
        task.evaluate(encoder, [0])


def test_a_store_without_sst_is_refused(small_data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from earthssl.ssl.fields.splits import SplitsConfig
    from earthssl.ssl.prepare.config import PrepareConfig
    from earthssl.ssl.prepare.prepare import prepare

    small_data[["u10"]].to_netcdf(tmp_path / "wind.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "wind.nc"), "variables": ["u10"]}
    store = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options))
    with pytest.raises(EarthSSLError, match="expected the variable sst or ssta"):
        EnsoFrozenTask(Store(store), leads=[3], window=3)

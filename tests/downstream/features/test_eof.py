"""EOFs against numpy's SVD and known patterns."""

import numpy as np
import pytest
from earthssl.downstream.features.eof import Eof
from earthssl.ssl.common.errors import EarthSSLError


def fields(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)) @ rng.normal(size=(6, 20)) + 0.1 * rng.normal(size=(n, 20)) + 3


@pytest.mark.parametrize("n", [12, 200])
def test_equals_svd_of_the_weighted_anomalies(n: int) -> None:
    data, weight = fields(n), np.random.default_rng(1).uniform(0.5, 2, size=20)
    eof = Eof.fit(data, weight, 5)
    root = np.sqrt(weight / weight.mean())
    u, s, vt = np.linalg.svd((data - data.mean(axis=0)) * root, full_matrices=False)
    sign = np.sign((eof.patterns * root * vt[:5]).sum(axis=1))[:, None]
    np.testing.assert_allclose(eof.patterns, sign * vt[:5] / root, atol=1e-8)
    np.testing.assert_allclose(eof.project(data), (u * s)[:, :5] * sign.T, atol=1e-7)
    np.testing.assert_allclose(eof.std, s[:5] / np.sqrt(n))
    np.testing.assert_allclose(eof.explained, s[:5] ** 2 / (s**2).sum())


def test_a_planted_pattern_is_found_beside_land() -> None:
    pattern = np.array([[0.0, 1.0, 2.0], [np.nan, -1.0, 0.5]])
    series = np.random.default_rng(2).normal(size=50)
    eof = Eof.fit(series[:, None, None] * pattern, np.array([[1.0, 1, 1], [2, 2, 2]]), 1)
    found = eof.patterns[0].reshape(2, 3)
    assert np.isnan(found[1, 0])
    assert eof.weight.reshape(2, 3)[1, 0] == 0
    assert eof.explained == pytest.approx([1])
    ratio = found[np.isfinite(found) & (pattern != 0)] / pattern[np.isfinite(pattern) & (pattern != 0)]
    assert ratio == pytest.approx(ratio[0])
    np.testing.assert_allclose(eof.reconstruct(eof.project(series[:, None, None] * pattern))[:, 0], 0, atol=1e-9)


def test_all_components_reconstruct_the_fields() -> None:
    data = fields(100)[:, :6]
    eof = Eof.fit(data, np.arange(1.0, 7.0), 6)
    np.testing.assert_allclose(eof.reconstruct(eof.project(data)), data, atol=1e-9)
    np.testing.assert_allclose(eof.explained.sum(), 1)


def test_patterns_are_orthonormal_and_the_largest_loading_positive() -> None:
    weight = np.random.default_rng(3).uniform(0.5, 2, size=20)
    eof = Eof.fit(fields(80), weight, 5)
    np.testing.assert_allclose((eof.patterns * eof.weight) @ eof.patterns.T, np.eye(5), atol=1e-9)
    root = np.sqrt(eof.weight)
    assert ((eof.patterns * root).max(axis=1) >= -(eof.patterns * root).min(axis=1)).all()


def test_mean_of_is_the_index_of_a_reconstruction() -> None:
    data = fields(100)
    eof = Eof.fit(data, np.ones(20), 4)
    box = np.zeros(20)
    box[3:7] = [1, 2, 1, 2]
    pcs = eof.project(data)
    expected = (eof.reconstruct(pcs) - eof.mean) @ box / box.sum()
    np.testing.assert_allclose(pcs @ eof.mean_of(box), expected)


def test_missing_cells_count_as_no_departure_and_empty_fields_as_missing() -> None:
    data = fields(60)
    eof = Eof.fit(data, np.ones(20), 3)
    gappy = data[:3].copy()
    gappy[0, 4] = np.nan
    gappy[1] = np.nan
    filled = data[:1].copy()
    filled[0, 4] = eof.mean[4]
    pcs = eof.project(gappy)
    np.testing.assert_allclose(pcs[0], eof.project(filled)[0])
    assert np.isnan(pcs[1]).all()
    np.testing.assert_allclose(pcs[2], eof.project(data[2:3])[0])


def test_many_times_are_projected_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same components, gaps and empty fields included, however many times go together."""
    rng = np.random.default_rng(5)
    fields = rng.normal(size=(23, 4, 5))
    eof = Eof.fit(fields, rng.uniform(0.5, 1, (4, 5)), 6)
    fields[3, 1, 2], fields[8] = np.nan, np.nan
    whole = eof.project(fields)
    monkeypatch.setattr("earthssl.downstream.features.eof.AT_ONCE", 7)
    assert eof.project(fields) == pytest.approx(whole, rel=1e-12, abs=1e-12, nan_ok=True)
    assert np.isnan(whole[8]).all()
    assert np.isfinite(whole[3]).all()


def test_more_eofs_than_the_data_carry_are_refused() -> None:
    with pytest.raises(EarthSSLError, match="between 1 and 4"):
        Eof.fit(fields(5), np.ones(20), 5)
    one = np.random.default_rng(4).normal(size=(50, 1)) * np.arange(1.0, 9.0)
    with pytest.raises(EarthSSLError, match="independent patterns"):
        Eof.fit(one, np.ones(8), 3)
    with pytest.raises(EarthSSLError, match="under the index"):
        Eof.fit(fields(60), np.r_[np.zeros(5), np.ones(15)], 2).mean_of(np.r_[np.ones(5), np.zeros(15)])

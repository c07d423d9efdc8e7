"""Interpolation against hand answers, its own equations and brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from earthssl.downstream.tasks.infilling.fillers import (
    Climatology,
    Filler,
    InverseDistance,
    LinearFiller,
    MeanOfObserved,
    Nearest,
    OptimalInterpolation,
    OrdinaryKriging,
)
from earthssl.downstream.tasks.infilling.gaps import EARTH_RADIUS_KM, Places
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.reduced_space import taper

DEGREE = EARTH_RADIUS_KM * np.pi / 180


def equator(*lon: float) -> Places:
    """Places on the equator, of equal area."""
    return Places(np.zeros(len(lon)), np.array(lon), np.ones(len(lon)))


def scattered(count: int, seed: int = 0) -> Places:
    """Random places, areas unequal."""
    rng = np.random.default_rng(seed)
    lat = np.rad2deg(np.arcsin(rng.uniform(-1, 1, count)))
    return Places(lat, rng.uniform(0, 360, count), rng.uniform(0.5, 2, count))


def training(places: Places, times: int = 30, seed: int = 1) -> np.ndarray:
    """Smooth random fields."""
    rng = np.random.default_rng(seed)
    covariance = np.exp(-places.distance_km / 4000)
    return rng.normal(size=(times, len(places))) @ np.linalg.cholesky(covariance + 1e-9 * np.eye(len(places))).T


def every(places: Places) -> list[LinearFiller]:
    return [
        MeanOfObserved(places), Nearest(places), InverseDistance(places), OrdinaryKriging(places),
        OptimalInterpolation(places, training(places)),
    ]  # fmt: skip


def test_distances_are_great_circles() -> None:
    """A degree, a quarter of the globe, across 0°E, pole to pole, and nothing to itself."""
    places = Places(np.array([0.0, 0, 0, 90, -90]), np.array([359.5, 0.5, 90.5, 0, 123]), np.ones(5))
    d = places.distance_km
    assert d[0, 1] == pytest.approx(DEGREE)
    assert d[1, 2] == pytest.approx(90 * DEGREE)
    assert d[3, 4] == pytest.approx(180 * DEGREE)
    assert d[0, 3] == pytest.approx(90 * DEGREE)
    assert (np.diag(d) == 0).all()
    assert np.array_equal(d, d.T)


def test_mean_nearest_and_inverse_distance_by_hand() -> None:
    """Observations 1 at 0°E and 5 at 30°E; asked for 10°E and 25°E."""
    places = equator(0.0, 30.0, 10.0, 25.0)
    values = np.array([[1.0, 5.0, np.nan, np.nan]])
    assert MeanOfObserved(places).fill(values)[0].tolist() == [1, 5, 3, 3]
    assert Nearest(places).fill(values)[0].tolist() == [1, 5, 1, 5]
    at10 = (1 * 10**-3 + 5 * 20**-3) / (10**-3 + 20**-3)
    at25 = (1 * 25**-3 + 5 * 5**-3) / (25**-3 + 5**-3)
    np.testing.assert_allclose(InverseDistance(places).fill(values)[0], [1, 5, at10, at25], rtol=1e-9)
    np.testing.assert_allclose(InverseDistance(places, 1.0).fill(values)[0, 2], (1 / 10 + 5 / 20) / 0.15, rtol=1e-9)
    assert Climatology().fill(values)[0].tolist() == [1, 5, 0, 0]


def test_the_mean_is_weighted_by_area() -> None:
    """3 to 1."""
    places = Places(np.zeros(3), np.array([0.0, 10, 20]), np.array([3.0, 1, 9]))
    assert MeanOfObserved(places).fill(np.array([[2.0, 6.0, np.nan]]))[0, 2] == 3


def test_kriging_of_two_points_by_hand() -> None:
    """Two observations and one question: the equations with the Lagrange multiplier solved on paper.

    With a = c(1, 2), p = c(0, 1), q = c(0, 2), variance 1 and nugget n: w1 = 1/2 + (p - q) / (2 (1 + n - a)).
    """
    places = equator(0.0, 30.0, 10.0)
    c = np.exp(-np.array([30, 10, 20]) * DEGREE / 1500)
    for nugget in (0.0, 0.1, 1.0):
        found = OrdinaryKriging(places, 1500.0, nugget).weights(np.array([True, True, False]))[2]
        w = 0.5 + (c[1] - c[2]) / (2 * (1 + nugget - c[0]))
        np.testing.assert_allclose(found, [w, 1 - w], rtol=1e-9)


def test_kriging_solves_its_equations() -> None:
    """Σ_j w_j C(i, j) + μ = C(i, 0) for every observation, with one μ, and Σ w = 1; by the bordered system."""
    places = scattered(14)
    seen = np.arange(14) < 9
    method = OrdinaryKriging(places, 3000.0, 0.2)
    weights = method.weights(seen)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-10)
    covariance = np.exp(-places.distance_km / 3000)
    bordered = np.ones((10, 10))
    bordered[:9, :9], bordered[9, 9] = covariance[:9, :9] + 0.2 * np.eye(9), 0
    for cell in range(14):
        expected = np.linalg.solve(bordered, np.append(covariance[:9, cell], 1))[:9]
        np.testing.assert_allclose(weights[cell], expected, atol=1e-10)


def test_kriging_is_exact_without_nugget_and_keeps_constants() -> None:
    """At the data, the data; a constant field stays itself; far away, the generalised least-squares mean."""
    places = scattered(20)
    seen = np.arange(20) < 12
    values = np.random.default_rng(3).normal(size=(4, 12))
    np.testing.assert_allclose(OrdinaryKriging(places, 2000.0, 0.0).predict(values, seen)[:, seen], values, atol=1e-9)
    smooth = OrdinaryKriging(places, 2000.0, 0.5)
    assert abs(smooth.predict(values, seen)[:, seen] - values).max() > 0.1
    np.testing.assert_allclose(smooth.predict(np.full((1, 12), 7.0), seen), 7, rtol=1e-10)
    far = OrdinaryKriging(places, 1e-3, 0.0).predict(values, seen)[:, ~seen]
    np.testing.assert_allclose(far, np.repeat(values.mean(1, keepdims=True), 8, 1), rtol=1e-9)


def test_optimal_interpolation_is_the_conditional_mean() -> None:
    """The Gaussian conditional mean by the inverse of the joint covariance (brute force), cell by cell."""
    places = scattered(10)
    method = OptimalInterpolation(places, training(places), nugget=0.05)
    seen = np.arange(10) < 6
    observed = np.random.default_rng(5).normal(size=(3, 6))
    found = method.predict(observed, seen)
    for cell in range(10):
        # Joint precision of (the truth at the cell, the noisy observations): mean = -Λ_tt⁻¹ Λ_to o.
        joint = np.empty((7, 7))
        joint[0, 0] = method.covariance[cell, cell] + 1e-12
        joint[0, 1:] = joint[1:, 0] = method.covariance[cell, :6]
        joint[1:, 1:] = method.covariance[:6, :6] + method.noise * np.eye(6)
        precision = np.linalg.inv(joint)
        np.testing.assert_allclose(found[:, cell], -observed @ precision[1:, 0] / precision[0, 0], atol=1e-6)


def test_the_learnt_covariance_by_its_parts() -> None:
    """share 0: exponential with the cells' variances; share 1 unlocalised: the sample covariance itself."""
    places = scattered(8)
    fields = training(places) * np.linspace(0.5, 2, 8) + 3.0
    sample = np.cov(fields.T, bias=True)
    spread = np.sqrt(np.diag(sample))
    smooth = spread[:, None] * spread * np.exp(-places.distance_km / 1500)
    np.testing.assert_allclose(OptimalInterpolation(places, fields, share=0.0).covariance, smooth)
    whole = OptimalInterpolation(places, fields, share=1.0, localisation_km=1e9)
    np.testing.assert_allclose(whole.covariance, sample, atol=1e-9)
    assert whole.noise == pytest.approx(0.02 * (spread**2).mean())
    half = OptimalInterpolation(places, fields, localisation_km=4000.0).covariance
    np.testing.assert_allclose(half, (sample * taper(places.distance_km / 4000) + smooth) / 2)


def test_optimal_interpolation_knows_teleconnections_that_kriging_does_not() -> None:
    """Two far places that always agree: one tells the other, beyond what distance would."""
    places = equator(0.0, 35.0)
    fields = np.repeat(np.random.default_rng(0).normal(size=(500, 1)), 2, 1)
    seen = np.array([True, False])
    learnt = OptimalInterpolation(places, fields, nugget=0.0).weights(seen)[1, 0]
    by_distance = np.exp(-35 * DEGREE / 1500)
    assert learnt == pytest.approx(0.5 * taper(np.array(35 * DEGREE / 5000)) + 0.5 * by_distance, rel=1e-6)
    assert learnt > 2 * by_distance


@pytest.mark.parametrize("make", [*range(5)])
def test_every_filler_is_linear_and_keeps_what_is_observed(make: int) -> None:
    """Weights times observations; fields with different gaps in one call equal each alone."""
    places = scattered(15)
    method = every(places)[make]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 15))
    values[:3, 8:] = np.nan
    values[3:, :5] = np.nan
    filled = method.fill(values)
    seen = np.isfinite(values)
    assert np.array_equal(filled[seen], values[seen])
    assert np.isfinite(filled).all()
    for one, alone in zip(filled, values, strict=True):
        np.testing.assert_allclose(method.fill(alone[None])[0], one, atol=1e-10)
    mask = seen[0]
    expected = values[:3][:, mask] @ method.weights(mask).T
    np.testing.assert_allclose(filled[:3][:, ~mask], expected[:, ~mask], atol=1e-10)


@pytest.mark.parametrize(
    "make", [lambda p: Climatology(), MeanOfObserved, OrdinaryKriging, lambda p: OptimalInterpolation(p, training(p))]
)
def test_an_all_gap_field_is_refused(make: Callable[[Places], Filler]) -> None:
    """It says which."""
    values = np.zeros((3, 6))
    values[2] = np.nan
    with pytest.raises(EarthSSLError, match="got none in field 2"):
        make(scattered(6)).fill(values)


def test_training_with_gaps_and_singular_covariances_are_refused() -> None:
    """A covariance needs whole fields that vary; two observations of one point need a nugget."""
    places = scattered(6)
    fields = training(places)
    with pytest.raises(EarthSSLError, match="fields that vary"):
        OptimalInterpolation(places, 0 * fields)
    fields[3, 2] = np.nan
    with pytest.raises(EarthSSLError, match="with 1 missing"):
        OptimalInterpolation(places, fields)
    twice = equator(0.0, 0.0, 10.0)
    with pytest.raises(EarthSSLError, match="raise the nugget"):
        OrdinaryKriging(twice, nugget=0.0).predict(np.ones((1, 2)), np.array([True, True, False]))

"""Spherical harmonics as matrices: against another library, round trips, derivatives, and hand values."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.sources.weather.sphere import Sphere, coupling, legendre
from scipy.special import sph_harm_y


@pytest.fixture(scope="module", params=[21, 42])
def sphere(request: pytest.FixtureRequest) -> Sphere:
    return Sphere(request.param)


def coefficients(sphere: Sphere, seed: int = 0) -> np.ndarray:
    """Random coefficients of the truncation, (component, n)."""
    return sphere.unpacked(np.random.default_rng(seed).normal(size=(sphere.truncation + 1) ** 2))


def test_the_grid_is_that_of_the_other_sources(sphere: Sphere) -> None:
    assert len(sphere.lat) == sphere.shape[0]
    assert (np.diff(sphere.lat) < 0).all()
    assert sphere.lon[0] == 0
    assert sphere.nodes[1].sum() == pytest.approx(1)


def test_harmonics_are_those_of_scipy() -> None:
    """P(n, m) of mean square 1 is √(4π) times scipy's harmonic at longitude 0, but for its sign (-1)^m."""
    sine = np.array([-0.9, -0.2, 0.0, 0.5, 0.99])
    ours = legendre(21, sine)
    for n, m in ((0, 0), (1, 0), (1, 1), (2, 1), (7, 3), (21, 0), (21, 13), (22, 21), (21, 21)):
        theirs = sph_harm_y(n, m, np.arccos(sine), 0.0).real * np.sqrt(4 * np.pi) * (-1) ** m
        np.testing.assert_allclose(ours[m, :, n], theirs, atol=1e-12)


def test_fields_of_the_truncation_go_round_unchanged(sphere: Sphere) -> None:
    given = coefficients(sphere)
    np.testing.assert_allclose(sphere.analysis(sphere.synthesis(given)), given, atol=1e-12)
    np.testing.assert_array_equal(sphere.unpacked(sphere.packed(given)), given)
    single = given.astype(np.float32)
    again = sphere.analysis(sphere.synthesis(single).astype(np.float32))
    np.testing.assert_allclose(again, given, atol=1e-5)


def test_the_mean_square_is_the_sum_of_squares(sphere: Sphere) -> None:
    given = coefficients(sphere)
    square = sphere.synthesis(given) ** 2
    mean = (square.mean(axis=1) * sphere.nodes[1]).sum()
    assert mean == pytest.approx((given**2).sum(), rel=1e-12)


def test_derivatives_are_those_of_finite_differences() -> None:
    """Of one field whose formula is known: cos²(lat) cos(2 lon) (1 + sin(lat))."""
    sphere = Sphere(21)
    sine, lon = sphere.nodes[0][:, None], np.deg2rad(sphere.lon)
    field = (1 - sine**2) * np.cos(2 * lon) * (1 + sine)
    spectrum = sphere.analysis(field)
    east = -2 * (1 - sine**2) * np.sin(2 * lon) * (1 + sine)
    slope = (-2 * sine * (1 + sine) + (1 - sine**2)) * np.cos(2 * lon)
    np.testing.assert_allclose(sphere.synthesis(spectrum, east=True), east, atol=1e-12)
    np.testing.assert_allclose(sphere.synthesis(spectrum, north=True), (1 - sine**2) * slope, atol=1e-12)


def test_the_coupling_by_the_sine_of_latitude() -> None:
    """sin(lat) times P(1, 0) = √3 sin(lat) is 1/√3 P(0, 0) + 2/√15 P(2, 0)."""
    n, m = np.array([1, 2]), np.array([0, 0])
    np.testing.assert_allclose(coupling(n, m), [1 / np.sqrt(3), 2 / np.sqrt(15)])
    assert coupling(np.array(3), np.array(3)) == 0

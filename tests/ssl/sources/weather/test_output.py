"""Fields from stream functions: balance, hydrostatics and winds by hand."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.fields.variables import lookup
from earthssl.ssl.sources.weather.output import (
    GAS,
    GRAVITY,
    NAMES,
    fields,
    level_weights,
    linear_balance,
    slope_weights,
    standard_atmosphere,
)
from earthssl.ssl.sources.weather.sphere import Sphere
from earthssl.ssl.sources.weather.vertical import LEVELS, SPEED

SPHERE = Sphere(21)
SINE = SPHERE.nodes[0][:, None]


def packed(field: np.ndarray) -> np.ndarray:
    return SPHERE.packed(SPHERE.analysis(np.broadcast_to(field, SPHERE.shape)))


def same_on_all_levels(field: np.ndarray) -> np.ndarray:
    return np.stack([packed(field)] * 3)


def test_solid_body_rotation_by_hand() -> None:
    """ψ = -A sin(lat): u = A cos(lat), v = 0; balance without the centrifugal term: Φ = -A Ω sin²(lat) + constant."""
    turn = 0.05
    stream = same_on_all_levels(-turn * SINE)
    cosine = np.sqrt(1 - SINE**2)
    np.testing.assert_allclose(
        fields(SPHERE, stream, "u500"), np.broadcast_to(turn * SPEED * cosine, (32, 64)), atol=1e-9
    )
    np.testing.assert_allclose(fields(SPHERE, stream, "v500"), 0, atol=1e-9)
    height = SPEED**2 * -turn * (SINE**2 - 1 / 3)
    expected = np.broadcast_to(standard_atmosphere(500)[0] + height, (32, 64))
    np.testing.assert_allclose(fields(SPHERE, stream, "z500"), expected, rtol=1e-12)


def test_linear_balance_is_its_equation() -> None:
    """∇²Φ = ∇·(f ∇ψ) = f ∇²ψ + 2Ω cos²(lat) ∂ψ/∂(sin lat), for any stream function a little below the truncation."""
    rng = np.random.default_rng(0)
    n = SPHERE.known[1]
    stream = SPHERE.unpacked(rng.normal(size=len(n)) * (n < 20) * (n > 0))
    by_n = np.arange(22) * np.arange(1, 23.0)
    laplacian = SPHERE.synthesis(-by_n * linear_balance(SPHERE, stream))
    other = 2 * SINE * SPHERE.synthesis(-by_n * stream) + 2 * SPHERE.synthesis(stream, north=True)
    np.testing.assert_allclose(laplacian, other, atol=1e-9)


def test_winds_are_geostrophic_in_middle_latitudes() -> None:
    """A wave of 3 around, on top of none: f v cos(lat) ≈ ∂Φ/∂lon within a quarter at 48°N."""
    stream = np.stack([packed(0.01 * (1 - SINE**2) ** 2 * SINE * np.cos(3 * np.deg2rad(SPHERE.lon)))] * 3)
    v, z = fields(SPHERE, stream, "v500"), fields(SPHERE, stream, "z500")
    row = int(np.abs(SPHERE.lat - 48).argmin())
    slope = SPHERE.synthesis(SPHERE.analysis(z), east=True)[row]
    f = 2 * 7.292e-5 * SPHERE.nodes[0][row]
    geostrophic = slope / (f * 6.371e6 * np.sqrt(1 - SPHERE.nodes[0][row] ** 2))
    assert np.corrcoef(v[row], geostrophic)[0, 1] > 0.999
    assert np.abs(v[row]).max() == pytest.approx(np.abs(geostrophic).max(), rel=0.25)


def test_temperature_is_hydrostatic_with_the_heights() -> None:
    """T at 500 hPa is -1/R dΦ/d(ln p), by differences of heights a little above and below; at 850 hPa too."""
    stream = np.stack([packed(scale * SINE**3 * np.cos(2 * np.deg2rad(SPHERE.lon))) for scale in (0.03, 0.02, 0.01)])

    def departure(hpa: float) -> np.ndarray:
        weights = level_weights(hpa)
        one = np.tensordot(weights, stream, axes=1)
        return SPEED**2 * SPHERE.synthesis(linear_balance(SPHERE, SPHERE.unpacked(one)))

    for hpa in (500, 850):
        by_difference = -(departure(hpa * 1.001) - departure(hpa / 1.001)) / (2 * np.log(1.001)) / GAS
        temperature = fields(SPHERE, stream, f"t{hpa}") - standard_atmosphere(hpa)[1]
        np.testing.assert_allclose(temperature, by_difference, atol=1e-4 * np.abs(by_difference).max())


def test_weights_of_levels() -> None:
    for k, hpa in enumerate(LEVELS):
        np.testing.assert_allclose(level_weights(hpa), np.eye(3)[k], atol=1e-12)
    assert level_weights(850).sum() == pytest.approx(1)
    assert slope_weights(850).sum() == pytest.approx(0, abs=1e-12)
    assert slope_weights(700) @ np.log(LEVELS) == pytest.approx(1)


def test_the_standard_atmosphere() -> None:
    """Known heights of 850, 500 and 200 hPa: 1457, 5574 and 11784 m; 252 K at 500 hPa, 216.65 K at 200 hPa."""
    for hpa, metres in ((850, 1457), (500, 5574), (200, 11784)):
        assert standard_atmosphere(hpa)[0] / GRAVITY == pytest.approx(metres, abs=8)
    assert standard_atmosphere(500)[1] == pytest.approx(251.9, abs=0.2)
    assert standard_atmosphere(200)[1] == pytest.approx(216.65)


def test_every_variable_has_its_name_in_the_table_and_is_plausible() -> None:
    stream = same_on_all_levels(-0.03 * SINE).astype(np.float32)
    for name in NAMES:
        values = fields(SPHERE, stream[None], name)
        assert values.shape == (1, 32, 64)
        assert values.dtype == np.float32
        assert lookup(name).low < values.min()
        assert values.max() < lookup(name).high

"""Lorenz '96 with two scales: its equations by hand, its energy, its integrator, and what the source refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.lorenz96 import (
    GAP,
    MEAN,
    UNIT,
    Lorenz96,
    Lorenz96Config,
    recorded_lorenz96,
    resolved,
    rk4,
    subgrid_of,
    two_scale,
)
from earthssl.ssl.sources.planet.recorded import recorded_seed

SMALL = Lorenz96Config(members=3, samples=10, dt=0.005, spinup=0.5)


def test_the_equations_term_by_term() -> None:
    """h = 1, b = c = 10: the sums written out with indices on both rings."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(5), rng.standard_normal(20)
    dx, dy = two_scale(x, y, 20.0)
    for k in range(5):
        own = sum(y[4 * k + j] for j in range(4))
        assert dx[k] == pytest.approx(-x[k - 1] * (x[k - 2] - x[(k + 1) % 5]) - x[k] + 20 - own)
    for j in range(20):
        expected = -100 * y[(j + 1) % 20] * (y[(j + 2) % 20] - y[j - 1]) - 10 * y[j] + x[j // 4]
        assert dy[j] == pytest.approx(expected)


def test_advection_and_coupling_make_no_energy() -> None:
    """d/dt of half the sum of squares is forcing less damping alone: what X loses to Y, Y gains."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((256, 3))
    dx, dy = two_scale(x, y, 20.0)
    change = (x * dx).sum(axis=0) + (y * dy).sum(axis=0)
    np.testing.assert_allclose(change, (20 * x - x**2).sum(axis=0) - 10 * (y**2).sum(axis=0), rtol=1e-10)
    np.testing.assert_allclose(dx, resolved(x, 20.0) - subgrid_of(y, 8), rtol=1e-12)


def test_the_integrator_is_of_fourth_order() -> None:
    errors = []
    for steps in (10, 20):
        state: tuple[Any, ...] = (np.array([1.0]),)
        for _ in range(steps):
            state = rk4(lambda x: (-x,), state, 1 / steps)
        errors.append(abs(state[0][0] - np.exp(-1)))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)


def test_a_member_is_a_function_of_seed_and_number_alone() -> None:
    few, more = Lorenz96(SMALL), Lorenz96(replace(SMALL, members=4, samples=12))
    np.testing.assert_allclose(few.slow, more.slow[:3, :10], rtol=1e-9)
    assert not np.allclose(few.slow, Lorenz96(replace(SMALL, seed=1)).slow)


def test_a_finer_sampling_is_of_the_same_trajectory() -> None:
    system = Lorenz96(SMALL)
    slow, subgrid = system.sampled(0.01)
    assert slow.shape == (3, 50, 8)
    np.testing.assert_array_equal(slow[:, ::5], system.slow)
    np.testing.assert_array_equal(subgrid[:, ::5], system.subgrid)
    with pytest.raises(EarthSSLError, match=r"multiple of dt \(0.005\) that divides 0.05"):
        system.sampled(0.02)


def test_the_fields_are_x_on_a_ring_and_the_store_can_make_it_again() -> None:
    data = open_source("lorenz96", members=3, samples=10, dt=0.005, spinup=0.5)
    ring = data["z500"].values.reshape(3, 10, 2, 8)
    np.testing.assert_allclose((ring[:, :, 0] - MEAN) / UNIT, Lorenz96(SMALL).slow, atol=1e-4)
    np.testing.assert_array_equal(ring[:, :, 0], ring[:, :, 1])
    days = np.diff(data["time"].values) / np.timedelta64(1, "D")
    assert sorted(set(days)) == [1, GAP + 1]
    assert recorded_lorenz96(data.attrs).config == SMALL
    assert recorded_seed(data.attrs) != recorded_seed(open_source("lorenz96", members=1, samples=10, seed=1, dt=0.005,
                                                                  spinup=0).attrs)  # fmt: skip
    with pytest.raises(EarthSSLError, match="expected a store of Lorenz '96, got elsewhere"):
        recorded_lorenz96({"source": "elsewhere"})


@pytest.mark.slow
def test_the_climate_and_the_cubic_of_the_literature() -> None:
    """K 8, J 32, F 20: X has mean 3.78, deviation 5.07; U = .70 + 1.11 X - .0028 X³, R² .84, residual 1.84."""
    system = Lorenz96(Lorenz96Config(members=30, samples=400))
    x, u = system.slow.ravel(), system.subgrid.ravel()
    assert x.mean() == pytest.approx(3.78, abs=0.1)
    assert x.std() == pytest.approx(5.07, abs=0.1)
    found = np.polyfit(x, u, 3)[::-1]
    away = np.abs(found - [0.70, 1.11, 0.0, -0.0028])
    assert (away < [0.06, 0.03, 0.006, 0.0006]).all()
    left = u - np.polyval(found[::-1], x)
    assert 1 - left.var() / u.var() == pytest.approx(0.84, abs=0.015)
    assert left.std() == pytest.approx(1.84, abs=0.06)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"member": 3}, "every option to be one of members, .*Did you mean 'members'"),
        ({"members": 0}, "members to be a whole number within 1…1000, got 0"),
        ({"members": True}, "members to be a whole number"),
        ({"samples": 5}, "samples to be a whole number within 10"),
        ({"samples": 10.5}, "samples to be a whole number"),
        ({"seed": -1}, "seed to be a whole number"),
        ({"slow": 3}, "slow to be a whole number within 4…360"),
        ({"fast": 2}, "fast to be a whole number within 4"),
        ({"interval": 0}, "interval to be a number above 0"),
        ({"interval": 0.0505, "dt": 0.001}, "interval to be a multiple of dt"),
        ({"dt": 0.01}, "dt to be a number above 0, at most 0.005"),
        ({"dt": float("nan")}, "dt to be a number above 0"),
        ({"forcing": "strong"}, "forcing to be a number above 0"),
        ({"spinup": -1}, "spinup to be a number"),
        ({"members": 1000, "samples": 1000}, "at most 130000 days"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said) as caught:
        open_source("lorenz96", **options)
    assert "\n" not in str(caught.value)


def test_a_mistake_on_the_command_line_ends_with_status_2(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = ["--splits.train", "[1900, 1901]", "--splits.val", "[1903, 1904]", "--splits.test", "[1906, 1907]",
              "--splits.embargo_days", "30"]  # fmt: skip
    words = ["prepare", "--source", "lorenz96", "--options.forcing", "100", *blocks, "--out", str(tmp_path / "x")]
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1

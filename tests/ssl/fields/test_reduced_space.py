"""Reduced-space interpolation against brute force, and what is chosen on fields held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.ssl.fields.reduced_space import (
    EARTH_RADIUS_KM,
    ReducedSpaces,
    conditional_mean,
    great_circle_km,
    noise,
    straight_km,
    taper,
    unit_vectors,
)

CELLS = 12


def fields(times: int, patterns: int, seed: int = 0, rough: float = 0.0) -> np.ndarray:
    """Sums of a few fixed patterns with random amplitudes, and white noise."""
    fixed = np.random.default_rng(99).normal(size=(patterns, CELLS))
    rng = np.random.default_rng(seed)
    return rng.normal(size=(times, patterns)) @ fixed + rough * rng.normal(size=(times, CELLS))


def test_the_conditional_mean_by_brute_force() -> None:
    """Covariance of the modes and noise of the cells: the same as by the inverse of the observations' covariance."""
    rng = np.random.default_rng(0)
    modes, level, values = rng.normal(size=(3, CELLS)), rng.uniform(0.1, 1, CELLS), rng.normal(size=(2, CELLS))
    seen = rng.random((2, CELLS)) < 0.5
    given = (torch.from_numpy(x).float() for x in (modes, level, values))
    found = conditional_mean(*given, seen=torch.from_numpy(seen)).numpy()
    covariance = modes.T @ modes
    for one in range(2):
        own = seen[one]
        observed = covariance[np.ix_(own, own)] + np.diag(level[own])
        expected = covariance[:, own] @ np.linalg.solve(observed, values[one, own])
        np.testing.assert_allclose(found[one], expected, atol=1e-4)


def test_nothing_seen_is_the_climatology_and_what_stands_there_does_not_matter() -> None:
    modes, level = torch.randn(3, CELLS), torch.ones(CELLS)
    nan = torch.full((1, CELLS), float("nan"))
    assert not conditional_mean(modes, level, nan, torch.zeros(1, CELLS, dtype=torch.bool)).any()


def error_on(held_out: np.ndarray, seen: np.ndarray) -> tuple[list[int], object]:
    """Return the numbers of modes that were tried, and the error of filling `held_out`."""
    tried: list[int] = []

    def error(modes: np.ndarray, level: np.ndarray) -> float:
        tried.append(len(modes))
        given = (torch.from_numpy(x).float() for x in (modes, level, held_out))
        made = conditional_mean(*given, seen=torch.from_numpy(np.tile(seen, (len(held_out), 1)))).numpy()
        return float(((made - held_out)[:, ~seen] ** 2).sum() / (held_out[:, ~seen] ** 2).sum())

    return tried, error


def test_as_many_patterns_as_there_are_are_chosen_and_none_of_noise() -> None:
    """Four patterns from eight of twelve cells: told to a few per cent; of white noise nothing can be told."""
    seen = np.arange(CELLS) < 8
    rows = fields(300, 4, rough=0.05)
    tried, error = error_on(rows[200:], seen)
    spaces = ReducedSpaces(rows, 200, np.ones(CELLS), 8)
    found = spaces.choose(error)  # type: ignore[arg-type]
    assert found.count == 4
    assert found.error < 0.02
    assert set(tried) == {2, 4, 8}
    expected = np.linalg.eigvalsh(rows.T @ rows / 300)[::-1][:4]
    modes, level = spaces.learnt((None, None, 4, 0.01))
    np.testing.assert_allclose(np.sort((modes**2).sum(1))[::-1], expected)
    np.testing.assert_allclose(level, noise(modes, (rows**2).mean(0), 0.01))
    white = np.random.default_rng(1).normal(size=(60, CELLS))
    nothing = ReducedSpaces(white, 40, np.ones(CELLS), 8).choose(lambda modes, level: 1.01)
    assert nothing.count == 0
    assert nothing.error == 1
    assert not nothing.modes.any()


def test_late_samples_count_more_where_that_helps_and_some_can_be_left_out() -> None:
    """The patterns change half-way: the later ones are wanted; a sample left out is not looked at."""
    seen = np.arange(CELLS) < 8
    rows = np.concatenate([3 * fields(150, 2, rough=0.1), np.roll(fields(150, 2, seed=1, rough=0.1), 3, 1)])
    _, error = error_on(rows[220:], seen)
    spaces = ReducedSpaces(rows, 220, np.ones(CELLS), 6)
    found = spaces.choose(error)  # type: ignore[arg-type]
    assert found.memory == 0.5
    weights = np.exp(np.arange(300) / 150)
    covariance = (rows.T * weights) @ rows / weights.sum()
    np.testing.assert_allclose((found.modes**2).sum(), np.linalg.eigvalsh(covariance)[-found.count :].sum())
    kept = np.arange(300) >= 150
    modes, level = spaces.learnt((None, None, 2, 0.01), kept)
    other = ReducedSpaces(np.where(kept[:, None], rows, 7.0), 220, np.ones(CELLS), 6).learnt(
        (None, None, 2, 0.01), kept
    )
    assert np.array_equal(modes, other[0])
    assert np.array_equal(level, other[1])


def test_a_wide_localisation_is_none_and_a_narrow_one_leaves_the_variances() -> None:
    """Modes of the covariance itself; and of its diagonal alone, where no two places are near."""
    rows = fields(50, CELLS)
    apart = great_circle_km(np.zeros(CELLS), np.arange(CELLS) * 15.0)
    root = np.sqrt(np.linspace(0.5, 1.5, CELLS))
    plain, wide, narrow = (
        ReducedSpaces(rows, 40, root, CELLS, apart, () if one is None else (one,)).learnt((one, None, CELLS, 0.0))[0]
        for one in (None, 1e9, 100.0)
    )
    np.testing.assert_allclose(plain.T @ plain, wide.T @ wide, atol=1e-8)
    np.testing.assert_allclose(plain.T @ plain, rows.T @ rows / 50, atol=1e-8)
    np.testing.assert_allclose(narrow.T @ narrow, np.diag((rows**2).mean(0)), atol=1e-8)


def test_the_taper() -> None:
    """1 at 0, 5/24 at 1, 0 from 2 on, falling, and positive definite on a line."""
    z = np.linspace(0, 2.5, 101)
    found = taper(z)
    assert found[0] == 1
    assert float(taper(np.array(1.0))) == pytest.approx(5 / 24)
    assert float(taper(np.array(1.0 + 1e-9))) == pytest.approx(5 / 24, abs=1e-7)
    assert (found[z >= 2] == 0).all()
    assert (np.diff(found) <= 1e-12).all()
    line = np.arange(30.0)
    assert np.linalg.eigvalsh(taper(abs(line[:, None] - line) / 5)).min() > -1e-9


def test_wide_tapers_of_straight_distances_are_correlations() -> None:
    """On the whole sphere; those of distances along it are not."""
    rng = np.random.default_rng(0)
    along = great_circle_km(np.rad2deg(np.arcsin(rng.uniform(-1, 1, 200))), rng.uniform(0, 360, 200))
    assert straight_km(along).max() <= 2 * EARTH_RADIUS_KM
    least = [np.linalg.eigvalsh(taper(apart / 12000)).min() for apart in (straight_km(along), along)]
    assert least[0] > -1e-9
    assert least[1] < -1e-3


def test_unit_vectors() -> None:
    """The three axes."""
    found = unit_vectors(np.array([0.0, 0, 90]), np.array([0.0, 90, 7]))
    assert np.allclose(found, np.eye(3), atol=1e-12)

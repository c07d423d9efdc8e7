"""PatchHead against least squares by brute force, with gaps of every cell's own."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.heads.patch_head import Moments, PatchHead
from earthssl.ssl.common.errors import EarthSSLError


def problem(seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 samples of 5 tokens with 4 features; 3 cells a patch, a third of the targets missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 5, 4)) * [1, 2, 0.5, 1] + [0, 5, 0, -1]
    truth = np.random.default_rng(99).normal(size=(4, 3))
    y = x @ truth + [1.0, -2.0, 3.0] + noise * rng.normal(size=(60, 5, 3))
    return x, np.where(rng.random(y.shape) < 1 / 3, np.nan, y), rng.uniform(0.5, 2, size=(5, 3))


def test_without_penalty_it_is_weighted_least_squares() -> None:
    """Each cell by numpy's own solver on its own samples."""
    x, y, w = problem()
    head = PatchHead.fit(Moments.of(x, y, w), 0.0)
    for cell in range(3):
        own = np.isfinite(y[..., cell])
        root = np.sqrt(np.broadcast_to(w[:, cell], own.shape)[own])[:, None]
        design = np.concatenate([np.ones((own.sum(), 1)), x[own]], 1)
        expected = np.linalg.lstsq(design * root, y[..., cell][own] * root[:, 0], rcond=None)[0]
        np.testing.assert_allclose(head.coefficients[cell], expected, atol=1e-9)


def test_the_error_by_moments_is_the_error_of_the_predictions() -> None:
    """No prediction is made to choose a penalty, and yet the sum is the same; sums of parts add up."""
    x, y, w = problem()
    head = PatchHead.fit(Moments.of(*problem(1)), 0.3)
    brute = np.nansum(w * (head.predict(x) - y) ** 2)
    assert Moments.of(x, y, w).error(head) == pytest.approx(brute)
    halves = Moments.of(x[:20], y[:20], w) + Moments.of(x[20:], y[20:], w)
    assert halves.error(head) == pytest.approx(brute)


def test_an_infinite_penalty_leaves_the_mean_and_scale_does_not_matter() -> None:
    """The constant is never shrunk; features in other units give the same predictions."""
    x, y, w = problem()
    flat = PatchHead.fit(Moments.of(x, y, w), 1e12).predict(x)
    weight = np.where(np.isfinite(y), w, 0.0)
    mean = (weight * np.nan_to_num(y)).sum((0, 1)) / weight.sum((0, 1))
    np.testing.assert_allclose(flat, np.broadcast_to(mean, flat.shape), rtol=1e-6)
    units = np.array([100.0, 0.01, 1.0, 7.0])
    one, other = (PatchHead.fit(Moments.of(z, y, w), 0.5).predict(z) for z in (x, x * units))
    np.testing.assert_allclose(one, other, rtol=1e-8)


def test_the_penalty_is_chosen_on_validation() -> None:
    """Clean data want hardly any; pure noise wants much; the refit sees both sets."""
    train, val = (Moments.of(*problem(seed, 0.0)) for seed in (0, 1))
    head, penalty = PatchHead.chosen(train, val, (1e-6, 1.0, 100.0))
    assert penalty == 1e-6
    np.testing.assert_allclose(head.coefficients, PatchHead.fit(train + val, 1e-6).coefficients)
    rng = np.random.default_rng(5)
    noise = [Moments.of(rng.normal(size=(8, 2, 9)), rng.normal(size=(8, 2, 1)), np.ones((2, 1))) for _ in range(2)]
    assert PatchHead.chosen(*noise, (1e-6, 1.0, 100.0))[1] >= 1


def test_cells_never_hidden_and_no_cells_at_all() -> None:
    """A cell without samples gets 0; a head without any is refused."""
    x, y, w = problem()
    y[..., 1] = np.nan
    assert (PatchHead.fit(Moments.of(x, y, w), 0.1).predict(x)[..., 1] == 0).all()
    with pytest.raises(EarthSSLError, match="some hidden cells"):
        PatchHead.fit(Moments.of(x, np.full(y.shape, np.nan), w), 0.1)

"""Health: measures against brute force, and words for each way to collapse."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.health import Health, effective_rank, explained, measure

N, WIDTH, TOKENS = 240, 32, 10
MONTHS = np.arange(N) % 12 + 1
YEARS = np.arange(N) / 12


def health(pooled: np.ndarray, tokens: np.ndarray | None = None) -> Health:
    """Measure with tokens of plain noise where none are given."""
    noise = np.random.default_rng(5).normal(size=(16, TOKENS, WIDTH))
    return measure(pooled, noise if tokens is None else tokens, MONTHS, YEARS)


def noise(seed: int = 0) -> np.ndarray:
    """Isotropic noise, one row a window."""
    return np.random.default_rng(seed).normal(size=(N, WIDTH))


def test_isotropic_noise_is_healthy() -> None:
    """std near 1, nearly all dimensions in use, no direction, no season, trend or place."""
    found = health(noise())
    assert found.std == pytest.approx(1, abs=0.03)
    assert 0.9 * WIDTH < found.effective_rank <= WIDTH
    assert abs(found.mean_cosine) < 0.01
    assert max(found.season_share, found.trend_share, found.place_share) < 0.05
    assert found.warnings(WIDTH) == []


def test_constant_features_have_collapsed() -> None:
    """No spread, one dimension, one direction, and it is said; with tiny noise on top the spread gives it away."""
    constant = np.ones((N, WIDTH))
    found = health(constant)
    assert (found.std, found.effective_rank) == (pytest.approx(0, abs=1e-9), 1)
    assert found.mean_cosine == pytest.approx(1)
    said = " ".join(found.warnings(WIDTH))
    assert "the encoder has collapsed" in said
    assert "dimensional collapse" in said
    assert "all windows point the same way" in said
    nearly = health(constant + 1e-3 * noise())
    assert nearly.effective_rank > 0.9 * WIDTH
    assert any("has collapsed" in words for words in nearly.warnings(WIDTH))


def test_a_seasonal_ring_is_climatological_collapse() -> None:
    """Features that are nothing but the month: a healthy spread, and still a warning."""
    angle = 2 * np.pi * (MONTHS - 1) / 12
    ring = np.zeros((N, WIDTH))
    for k in range(4):
        ring[:, 2 * k], ring[:, 2 * k + 1] = np.cos((k + 1) * angle), np.sin((k + 1) * angle)
    found = health(ring)
    assert found.season_share == pytest.approx(1)
    assert found.std > 0.4
    assert any("season: climatological collapse" in words for words in found.warnings(WIDTH))
    half = health(ring / ring.std() + noise() / noise().std())
    assert half.season_share == pytest.approx(0.5, abs=0.05)
    assert not any("season" in words for words in half.warnings(WIDTH))


def test_a_straight_line_is_trend() -> None:
    """All of it, or the known part of it."""
    line = np.outer(YEARS - YEARS.mean(), np.ones(WIDTH))
    assert health(line).trend_share == pytest.approx(1)
    assert any("trend" in words for words in health(line).warnings(WIDTH))
    mixed = health(line / line.std() + 2 * noise())
    assert mixed.trend_share == pytest.approx(1 / 5, abs=0.03)
    assert health(line).season_share < 0.05


def test_place_share_known_answer() -> None:
    """Tokens = fixed pattern of places × a + noise: share a²/(a² + 1), also from few windows."""
    rng = np.random.default_rng(3)
    for amplitude, windows in ((0.0, 4), (1.0, 4), (2.0, 30)):
        shares = []
        for _ in range(20):
            place = rng.normal(size=(1, TOKENS * 10, WIDTH))
            place = (place - place.mean(1, keepdims=True)) / place.std()
            tokens = amplitude * place + rng.normal(size=(windows, TOKENS * 10, WIDTH))
            shares.append(health(noise(), tokens).place_share)
        assert np.mean(shares) == pytest.approx(amplitude**2 / (amplitude**2 + 1), abs=0.02)
    only = np.broadcast_to(rng.normal(size=(1, TOKENS, WIDTH)), (8, TOKENS, WIDTH))
    assert health(noise(), only).place_share == pytest.approx(1)
    assert health(noise(), only[:1]).place_share == 0  # one window cannot tell


def test_effective_rank_by_brute_force() -> None:
    """exp of the entropy of the singular values' shares; k equal ones give k, none give 1."""
    x = noise()[:, :6] * np.array([5, 3, 1, 0.5, 0.1, 0])
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0))), 0))
    shares = [value / singular.sum() for value in singular if value > 0]
    expected = np.exp(-sum(share * np.log(share) for share in shares))
    padded = np.concatenate([x, np.zeros((N, WIDTH - 6))], 1)
    assert health(padded).effective_rank == pytest.approx(expected, rel=1e-4)
    for k in (1, 3, 7):
        assert effective_rank(np.r_[np.full(k, 2.5), np.zeros(4)]) == pytest.approx(k)
    assert effective_rank(np.zeros(5)) == 1


@pytest.mark.parametrize(("rank", "said"), [(10.1, False), (9.9, True), (6.1, True), (1.9, True)])
def test_half_of_the_starting_rank_must_be_left(rank: float, said: bool) -> None:
    """Of 20 dimensions at the start, 10: the fall that early training brings is said. Alone, only few are too few."""
    start = Health(0.8, 20.0, 0.1, 0.0, 0.0, 0.0)
    later = Health(0.8, rank, 0.1, 0.0, 0.0, 0.0)
    words = " ".join(later.warnings(WIDTH, start))
    assert ("dimensional collapse" in words) == said
    assert ("at the start: std 0.800, rank 20.0" in words) == said
    assert bool(later.warnings(WIDTH)) == (rank < 2)


def test_std_and_cosine_by_brute_force() -> None:
    """The definitions, in loops."""
    x = noise() + 0.5
    unit = np.stack([row / np.sqrt((row**2).sum()) for row in x])
    found = health(x)
    assert found.std == pytest.approx(np.mean([unit[:, k].std() for k in range(WIDTH)]) * WIDTH**0.5)
    pairs = [unit[i] @ unit[j] for i in range(N) for j in range(i + 1, N)]
    assert found.mean_cosine == pytest.approx(np.mean(pairs))


def test_explained_is_corrected_for_its_terms() -> None:
    """Twelve months explain none of noise on average, where plain R² would be 11/239; too few windows explain none."""
    design = np.eye(12)[MONTHS - 1]
    shares = [explained(noise(seed), design) for seed in range(20)]
    assert np.mean(shares) < 0.01
    assert explained(noise()[:10], design[:10]) == 0
    assert explained(np.ones((N, 3)), design) == 0


def test_divergence_is_said_in_words() -> None:
    """Features that are no numbers mean that the training diverged."""
    broken = noise()
    broken[3, 4] = np.nan
    with pytest.raises(EarthSSLError, match=r"diverged; lower training\.lr"):
        health(broken)


def test_scale_does_not_matter() -> None:
    """All measures are the same for features a million times larger."""
    small, large = health(noise() + 1).to_json(), health(1e6 * (noise() + 1)).to_json()
    assert small == pytest.approx(large)


@pytest.mark.parametrize(("std", "rank", "said"), [(0.1, 24, False), (0.1, 9, True), (0.07, 60, True)])
def test_less_spread_in_more_directions_is_no_collapse(std: float, rank: float, said: bool) -> None:
    """As the best encoder of the weather planet: std .49 → .10, rank 11 → 24; nearly nothing left is a collapse."""
    start, later = Health(0.49, 11.0, 0.75, 0.0, 0.0, 0.0), Health(std, rank, 0.987, 0.0, 0.0, 0.0)
    assert ("the encoder has collapsed" in " ".join(later.warnings(WIDTH, start))) == said
    assert ("point the same way" in " ".join(later.warnings(WIDTH, start))) == said

"""Randomness: the published sequence, uniformity, independence, and that nothing but the arguments matters."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from earthssl.ssl.common.randomness import GOLDEN, _mix, fold, key, permutation, uniform
from scipy import stats


def keys(count: int, seed: int = 0) -> torch.Tensor:
    """Keys as batches make them: one key folded with the index of each sample."""
    return fold(torch.full((count,), key(seed, "test")), torch.arange(count))


def test_the_hash_is_splitmix64() -> None:
    # The first numbers of the published generator from the seed 1234567 (Rosetta Code, Splitmix64).
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    found = _mix(torch.tensor([1234567]) + GOLDEN * torch.arange(1, 6))
    assert [int(number) % 2**64 for number in found] == expected


def test_draws_of_one_key_are_uniform() -> None:
    draws = uniform(keys(1), 100_000)[0].numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 0.01
    counts = np.histogram(draws, 256, (0, 1))[0]
    assert stats.chisquare(counts).pvalue > 0.01
    assert len(np.unique(draws)) > 99_000  # 24 random bits: some hundred coincide
    bits = (draws * 2**24).astype(np.int64)
    for bit in range(24):
        assert stats.binomtest(int((bits >> bit & 1).sum()), len(bits)).pvalue > 1e-3


def test_the_same_draw_of_neighbouring_keys_is_uniform() -> None:
    draws = uniform(keys(100_000), 3).numpy()
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
    raw = uniform(torch.arange(100_000), 1)[:, 0].numpy()  # even keys that were never hashed
    assert stats.kstest(raw, "uniform").pvalue > 0.01


def test_draws_are_independent_across_keys_and_within_one() -> None:
    draws = uniform(keys(300), 300).numpy()
    for matrix in (draws, draws.T):
        correlation = np.corrcoef(matrix)[np.triu_indices(300, 1)]
        assert np.abs(correlation).max() < 0.3  # 5 sigma of 300 draws
        assert correlation.std() == pytest.approx(300**-0.5, rel=0.03)
    pairs = np.histogram2d(draws[:, :-1].ravel(), draws[:, 1:].ravel(), 20, ((0, 1), (0, 1)))[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 0.01


def test_a_key_depends_on_every_argument() -> None:
    many = [
        key(0, "a", 1),
        key(1, "a", 1),
        key(0, "b", 1),
        key(0, "a", 2),
        key(0, "a"),
        key(0, "a", 1, 0),
        key(0, "a1"),
    ]
    many += [key(0, "a", 11), key(0, "a", 1, 1), key(-1, "a", 1)]
    assert len(set(many)) == len(many)
    assert all(-(2**63) <= number < 2**63 for number in many)


def test_a_key_is_the_same_whatever_kind_of_integer_asks() -> None:
    assert key(np.int64(3), "a", np.int32(4), torch.tensor(5)) == key(3, "a", 4, 5)


def test_keys_stay_what_they_are_from_release_to_release() -> None:
    # A run that is resumed with a later release must draw the same.
    assert key(0, "train", 3) == 2199844264546870357
    assert fold(torch.tensor([2199844264546870357]), 5).item() == 5062134879152251254
    assert permutation(1, "order", 0, 8).tolist() == [4, 0, 2, 7, 5, 6, 3, 1]


def test_a_batch_draws_what_its_samples_draw_alone() -> None:
    some = keys(7)
    together = uniform(some, 5)
    for index in range(7):
        assert torch.equal(uniform(some[index : index + 1], 5)[0], together[index])
    assert torch.equal(uniform(some, 2), together[:, :2])
    assert torch.equal(uniform(some.flip(0), 5).flip(0), together)
    torch.manual_seed(99)  # torch's own state is neither read
    before = torch.get_rng_state()
    assert torch.equal(uniform(some, 5), together)
    assert torch.equal(torch.get_rng_state(), before)  # nor changed


def test_fold_makes_new_keys() -> None:
    folded = keys(200_000)
    assert len(folded.unique()) == len(folded)
    first = torch.tensor([key(0, "a")])
    assert torch.equal(fold(first, 7), fold(first, torch.tensor([7])))
    assert not torch.equal(fold(fold(first, 1), 2), fold(fold(first, 2), 1))
    assert not torch.equal(fold(first, 0), first)
    # what two purposes draw for the same samples has nothing in common
    masks, turns = uniform(fold(keys(20_000), 1), 1)[:, 0], uniform(fold(keys(20_000), 2), 1)[:, 0]
    assert abs(np.corrcoef(masks, turns)[0, 1]) < 0.03


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_permutation_holds_every_index_once(size: int) -> None:
    assert permutation(0, "order", 0, size).sort().values.tolist() == list(range(size))


def test_a_permutation_depends_on_seed_purpose_and_epoch() -> None:
    found = [permutation(*arguments, 100) for arguments in [(0, "a", 0), (0, "a", 1), (1, "a", 0), (0, "b", 0)]]
    assert len({tuple(order.tolist()) for order in found}) == 4
    assert torch.equal(found[1], permutation(0, "a", 1, 100))
    fixed = [int((permutation(0, "a", epoch, 100) == torch.arange(100)).sum()) for epoch in range(300)]
    assert np.mean(fixed) == pytest.approx(1, abs=0.2)  # one index in its place on average


def test_every_order_is_as_likely() -> None:
    counts = dict.fromkeys(permutations(range(4)), 0)
    for epoch in range(2400):
        counts[tuple(permutation(5, "order", epoch, 4).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 0.01

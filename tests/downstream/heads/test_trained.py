"""Attentive pooling and MLP: limits, what only they can learn, and the same result for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.downstream.heads.base import Samples, choose
from earthssl.downstream.heads.linear import LogisticHead, RidgeHead
from earthssl.downstream.heads.trained import AttentiveHead, AttentivePooling, Mlp, MlpHead
from earthssl.downstream.metrics.classes import one_hot, squared_error
from earthssl.ssl.common.errors import EarthSSLError


def one_token_matters(n: int, seed: int) -> Samples:
    """Six tokens of noise; one of them, anywhere, is marked by its first feature, and its second is the class."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(n, 6, 8))
    labels, place = rng.integers(0, 2, n), rng.integers(0, 6, n)
    tokens[:, :, 0] = -2
    tokens[np.arange(n), place, 0] = 6
    tokens[np.arange(n), place, 1] = np.where(labels == 1, 3, -3)
    return Samples(tokens.astype(np.float32), one_hot(labels, 2), np.arange(n))


def test_attention_sums_to_one_and_zero_queries_take_the_mean() -> None:
    pooling = AttentivePooling(5, 5, 1, torch.Generator().manual_seed(0))
    tokens = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))
    assert pooling.attention(tokens).sum(-1).detach().numpy() == pytest.approx(np.ones((3, 1)), abs=1e-6)
    with torch.no_grad():
        pooling.query.zero_()
        pooling.linear.weight.copy_(torch.eye(5))
        assert pooling(tokens).numpy() == pytest.approx(tokens.mean(1).numpy(), abs=1e-6)


def test_attention_is_that_of_one_learnt_query() -> None:
    """Against torch's attention with the query as the only one and the tokens as keys and values."""
    pooling = AttentivePooling(6, 6, 1, torch.Generator().manual_seed(0))
    tokens = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pooling.linear.weight.copy_(torch.eye(6))
        query = pooling.query.expand(2, 1, 6)
        expected = torch.nn.functional.scaled_dot_product_attention(query, tokens, tokens)[:, 0]
        assert pooling(tokens).numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_attention_finds_the_one_token_that_matters() -> None:
    """The mean of the tokens drowns it in noise; attention reads it."""
    train, val = one_token_matters(300, 0), one_token_matters(200, 1)
    head = AttentiveHead(heads=2, steps=(150,), decays=(0.01,))
    attentive = choose(head, {"t": train}, {"t": val}).error
    mean = [Samples(s.features.mean(1), s.targets, s.steps) for s in (train, val)]
    pooled = choose(LogisticHead(), {"t": mean[0]}, {"t": mean[1]}).error
    assert attentive < 0.1 < pooled


def test_an_mlp_learns_what_no_line_divides() -> None:
    """The exclusive or: .5 is the best Brier score of a linear head."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    data = Samples(x, one_hot(labels, 2), np.arange(400))
    train, val = data.take(np.arange(300)), data.take(np.arange(300, 400))
    assert choose(MlpHead(lr=1e-2), {"x": train}, {"x": val}).error < 0.15
    assert choose(LogisticHead(), {"x": train}, {"x": val}).error > 0.45


def test_an_mlp_regresses_in_the_targets_units() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = np.stack([1000 + 50 * np.abs(x[:, 0]), 1e-3 * x[:, 1]], 1)
    data = Samples(x, y, np.arange(400))
    train, val = data.take(np.arange(300)), data.take(np.arange(300, 400))
    head = MlpHead(classifies=False, lr=1e-2)
    found = head.predict(train, val, [(0.01, 400)])[0]
    assert (((found - val.targets) ** 2).mean(0) < 0.05 * val.targets.var(0)).all()
    linear = RidgeHead().predict(train, val, [1e-2])[0]
    assert squared_error(found, val.targets).mean() < 0.2 * squared_error(linear, val.targets).mean()


@pytest.mark.parametrize("kind", [AttentiveHead, MlpHead])
def test_the_seed_decides_everything(kind: type) -> None:
    train, val = one_token_matters(60, 0), one_token_matters(20, 1)
    if kind is MlpHead:
        train, val = (Samples(s.features[:, 0], s.targets, s.steps) for s in (train, val))
    settings = [(0.3, 10), (0.3, 30)]
    first = kind(seed=1).predict(train, val, settings)
    torch.manual_seed(12345)
    torch.rand(3)
    assert np.array_equal(kind(seed=1).predict(train, val, settings), first)
    assert not np.array_equal(kind(seed=2).predict(train, val, settings), first)
    # A number of steps is the same alone or on the way to more.
    assert np.array_equal(kind(seed=1).predict(train, val, settings[:1])[0], first[0])
    assert first.sum(-1) == pytest.approx(np.ones((2, 20)))


def test_the_random_state_of_the_process_is_left_alone() -> None:
    train = one_token_matters(40, 0)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    AttentiveHead(steps=(2,)).predict(train, train, [(0.01, 2)])
    assert torch.rand(1) == expected


def test_mistakes_are_said() -> None:
    train = one_token_matters(40, 0)
    flat = Samples(train.features[:, 0], train.targets, train.steps)
    with pytest.raises(EarthSSLError, match=r"attentive: expected features of shape \(n, token, feature\)"):
        AttentiveHead().predict(flat, flat, [(0.01, 2)])
    with pytest.raises(EarthSSLError, match="MLP: expected features"):
        MlpHead().predict(train, train, [(0.01, 2)])
    lone = Samples(train.features, one_hot(np.zeros(40, dtype=int), 2), train.steps)
    with pytest.raises(EarthSSLError, match="attentive: expected at least two classes"):
        AttentiveHead().predict(lone, lone, [(0.01, 2)])
    with pytest.raises(EarthSSLError, match=r"MLP\.steps: expected steps ≥ 1"):
        MlpHead(steps=(0,))
    with pytest.raises(EarthSSLError, match="the training diverged; lower lr"):
        MlpHead(lr=1e30, classifies=False).predict(flat, flat, [(0.0, 25)])


def test_an_mlp_starts_at_equal_chances() -> None:
    network = Mlp(4, 3, 8, torch.Generator().manual_seed(0))
    assert (network(torch.ones(2, 4)) == 0).all()

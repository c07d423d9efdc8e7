"""The variance term: its numbers by loops, what a collapse has, and that it changes a run it stands beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.cli.controls import MIXES
from earthssl.pretext import TASKS
from earthssl.pretext.joint_embedding.variance import Variance, VarianceConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.multitask import build_objectives
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import parse_objectives

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)


@pytest.fixture(scope="module")
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Twelve windows of seven months."""
    found: Batch = small_windows("train", 7).batch(torch.arange(0, 180, 15))
    return found


def make(batch: Batch, **settings: Any) -> tuple[Any, Variance]:
    """Return a new encoder of two steps and the objective."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(NAMES)
    return encoder, VarianceConfig(**settings).build(Context(encoder, NAMES, batch.grid))


@pytest.mark.parametrize("of", [["tokens"], ["pooled"], ["tokens", "pooled"]])
def test_the_loss_by_loops(batch: Batch, of: list[str]) -> None:
    """Deviations about each token's mean over the batch, covariances; of the window's mean likewise."""
    encoder, task = make(batch, variance=3.0, covariance=0.5, of=of)
    x = encoder(patchify(batch.cut(0, 2), PATCH), hide=frozenset({"season"})).detach().double().numpy()
    apart = (x - x.mean(0)) * (12 / 11) ** 0.5
    losses = []
    for kind in of:
        found = np.cov((apart.reshape(-1, 64) if kind == "tokens" else apart.mean(1)).T)
        spread, own = np.sqrt(np.diag(found) + 1e-4), (np.diag(found) ** 2).sum()
        losses.append(3 * np.maximum(1 - spread, 0).mean() + 0.5 * ((found**2).sum() - own) / 64)
    assert task(encoder, batch).loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_constant_features_have_no_skill_and_wide_ones_have_it_all(batch: Batch) -> None:
    """Such as tell the place alone are constant too; ten times as wide: no shortfall."""
    encoder, task = make(batch, of=["tokens"])
    with torch.no_grad():
        for block in encoder.embedding.blocks.values():
            block.zero_()
    assert float(task(encoder, batch).terms["skill"]) == pytest.approx(0, abs=1e-3)
    encoder, task = make(batch, of=["tokens"])
    before = float(task(encoder, batch).terms["skill"])
    with torch.no_grad():
        encoder.norm.weight.mul_(30)
    assert 0 < before < float(task(encoder, batch).terms["skill"]) == pytest.approx(1, abs=1e-3)


def test_the_season_is_not_what_varies(batch: Batch) -> None:
    encoder, task = make(batch)
    assert torch.equal(task(encoder, batch).loss, task(encoder, replace(batch, times=batch.times + 86400 * 99)).loss)


def test_following_it_spreads_the_features(batch: Batch) -> None:
    """Twenty steps: features vary more and repeat one another less, tokens and means alike."""
    encoder, task = make(batch)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    first = task(encoder, batch)
    for _ in range(20):
        optimizer.zero_grad()
        task(encoder, batch).loss.backward()
        optimizer.step()
    last = task(encoder, batch)
    assert last.loss.item() < 0.7 * first.loss.item()
    assert float(last.terms["variance_pooled"]) < float(first.terms["variance_pooled"])


@pytest.mark.parametrize("mix", list(MIXES))
def test_it_stands_beside_any_task(batch: Batch, mix: str) -> None:
    """The loss is the sum by the fixed weights, and its gradient reaches the encoder."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(NAMES)
    settings = parse_objectives(MIXES[mix], TASKS)
    mixed = build_objectives(settings, Context(encoder, NAMES, batch.grid))
    assert mixed.compares
    terms = mixed(encoder, batch).terms
    total = sum(float(terms[f"{name}/loss"]) * one.weight for name, one in settings.items())
    assert float(terms["loss"]) == pytest.approx(total, rel=1e-5)
    assert settings["variance"].weight == 0.1
    assert all(one.weight == 1 for name, one in settings.items() if name != "variance")


def test_what_does_not_fit_is_refused() -> None:
    for bad, said in (
        ({"variance": 0.0}, "variance > 0"),
        ({"covariance": -1.0}, "covariance ≥ 0"),
        ({"of": []}, "some of tokens, pooled"),
        ({"of": ["token"]}, "Did you mean 'tokens'"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            VarianceConfig(**bad)  # type: ignore[arg-type]

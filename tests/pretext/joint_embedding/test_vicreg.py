"""VICReg: each term by hand and by loops, and what a collapse looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from earthssl.pretext.joint_embedding.retrieval import Rivals
from earthssl.pretext.joint_embedding.vicreg import VICReg, VICRegConfig
from earthssl.pretext.joint_embedding.views import ViewsConfig
from earthssl.pretext.redundancy import parts
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")


def make(grid: LatLonGrid, config: VICRegConfig) -> tuple[Any, VICReg]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(NAMES)
    return encoder, config.build(Context(encoder, NAMES, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows that end in the same month of different years."""
    return small_windows("train", 8).batch(range(0, 192, 24))  # type: ignore[no-any-return]


def test_terms_by_hand() -> None:
    """Two samples, two features, by hand."""
    z = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.5], [0.0, -0.5]]])
    invariance, variance, covariance = parts(z)
    # Squared differences: (1, 1/4) in both samples.
    assert float(invariance) == pytest.approx(0.625)
    # Variances: 2 and 0 in the first view, 0 and 1/2 in the second.
    empty, half = 1 - 1e-4**0.5, 1 - (0.5 + 1e-4) ** 0.5
    assert float(variance) == pytest.approx((0 + empty) / 2 + (empty + half) / 2, rel=1e-6)
    assert float(covariance) == 0
    # Features that go together: covariances of 2 in the first view, 8 in the second; squared, twice, over 2 features.
    z = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[2.0, 2.0], [-2.0, -2.0]]])
    invariance, variance, covariance = parts(z)
    assert float(covariance) == pytest.approx(4 + 64)
    assert float(variance) == 0
    assert float(invariance) == 1


def test_terms_by_loops() -> None:
    """The definition, cell by cell, in double precision."""
    torch.manual_seed(0)
    z = 0.7 * torch.randn(2, 9, 4)
    x = z.double()
    variance = covariance = 0.0
    for view in x:
        mean = view.mean(0)
        for j in range(4):
            variance += max(0.0, 1 - (float(((view[:, j] - mean[j]) ** 2).sum() / 8) + 1e-4) ** 0.5) / 4
            for k in range(4):
                if j != k:
                    covariance += float(((view[:, j] - mean[j]) * (view[:, k] - mean[k])).sum() / 8) ** 2 / 4
    invariance = sum(float((x[0, i, j] - x[1, i, j]) ** 2) for i in range(9) for j in range(4)) / 36
    for found, expected in zip(parts(z), (invariance, variance, covariance), strict=True):
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_identities() -> None:
    """Order of samples and an offset change nothing; scaling by 3 makes it 9 and 81 times as much."""
    torch.manual_seed(1)
    z = 2 * torch.randn(2, 12, 5)
    before = parts(z)
    for after in (parts(z[:, torch.randperm(12)]), parts(z + torch.randn(5))):
        for one, two in zip(before, after, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    invariance, variance, covariance = parts(3 * z)
    torch.testing.assert_close(invariance, 9 * before[0])
    torch.testing.assert_close(covariance, 81 * before[2])
    assert float(variance) == 0


def test_a_collapse_is_dear_and_finite() -> None:
    """The same embedding for all: invariance and covariance 0, variance at its most, gradients finite."""
    z = torch.full((2, 6, 4), 0.5, requires_grad=True)
    invariance, variance, covariance = parts(z)
    assert float(variance.detach()) == pytest.approx(2 * (1 - 0.01), rel=1e-5)
    assert float(invariance.detach()) == float(covariance.detach()) == 0
    (invariance + variance + covariance).backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    single = parts(torch.randn(2, 1, 4))
    assert all(torch.isfinite(part) for part in single)


def test_half_precision_is_not_used() -> None:
    """Under autocast, and of half-precision embeddings, as in single precision; large ones do not overflow."""
    torch.manual_seed(2)
    z = 300 * torch.randn(2, 16, 8)
    expected = parts(z)
    with torch.autocast("cpu", torch.bfloat16):
        for one, two in zip(parts(z), expected, strict=True):
            torch.testing.assert_close(one, two)
    assert all(torch.isfinite(part) for part in parts(z.half()))


def test_the_loss_is_the_weighted_sum(batch: Batch) -> None:
    """25, 25 and 1 unless told otherwise; skill among the fair negatives; the same again, other keys otherwise."""
    for config in (VICRegConfig(), VICRegConfig(invariance=2.0, variance=0.5, covariance=3.0)):
        encoder, task = make(batch.grid, config)
        outcome = task(encoder, batch)
        expected = sum(
            getattr(config, name) * float(outcome.terms[name]) for name in ("invariance", "variance", "covariance")
        )
        assert float(outcome.loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert torch.equal(outcome.loss, task(encoder, batch).loss)
        assert not torch.equal(outcome.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)
        outcome.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)
    assert (VICRegConfig().invariance, VICRegConfig().variance, VICRegConfig().covariance) == (25, 25, 1)
    assert float(outcome.terms["negatives"]) >= 7


def test_a_collapsed_encoder_has_no_skill(batch: Batch) -> None:
    """All weights of the projector's last layer 0: chance, as it should."""
    encoder, task = make(batch.grid, VICRegConfig(views=ViewsConfig(rivals=Rivals(0.0, None))))
    torch.nn.init.zeros_(task.projector[-1].weight)  # type: ignore[arg-type]
    terms = task(encoder, batch).terms
    assert float(terms["skill"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["accuracy"]) == pytest.approx(1 / 15)
    assert float(terms["variance"]) == pytest.approx(1.98, rel=1e-5)


def test_bad_settings_are_refused() -> None:
    """Negative weights."""
    for name in ("invariance", "variance", "covariance"):
        with pytest.raises(EarthSSLError, match=f"vicreg.{name}"):
            VICRegConfig(**{name: -1.0})

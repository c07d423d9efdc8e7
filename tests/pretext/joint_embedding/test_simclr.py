"""SimCLR: NT-Xent by brute force, its limits, what is masked, and a series that it solves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.joint_embedding.retrieval import Rivals, cosines, retrieval
from earthssl.pretext.joint_embedding.simclr import SimCLR, SimCLRConfig, nt_xent
from earthssl.pretext.joint_embedding.views import ViewsConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context
from torch import nn

GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)
NAMES = ("sst", "msl")


def make(config: SimCLRConfig) -> tuple[Any, SimCLR]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, (1, 2, 2)).build(NAMES)
    return encoder, config.build(Context(encoder, NAMES, GRID))


def windows(size: int, number: int = 0, lasting: float = 0.0) -> Batch:
    """Return noise, with a share of a map that lasts through a window; each window ends in January of its own year."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(size, 6, 2, 4, 6)) + lasting * rng.normal(size=(size, 1, 2, 4, 6))
    ends = np.arange(size).astype("datetime64[Y]").astype("datetime64[M]")[:, None] + np.arange(-5, 1)
    times = torch.from_numpy(ends.astype("datetime64[s]").astype(np.int64))
    known = torch.ones(2, 4, 6, dtype=torch.bool)
    return from_fields(torch.from_numpy(x).float(), times, fold(torch.arange(size), number), known, NAMES, GRID, number)


def everything(rows: int) -> torch.Tensor:
    """Return all other samples' views as negatives."""
    return ~(torch.eye(rows) + torch.eye(rows).roll(rows // 2, 1) > 0)


def test_the_loss_is_the_definition() -> None:
    """-log(exp(s+/τ) / (exp(s+/τ) + Σ exp(s-/τ))) in double precision by loops, with a random set of negatives."""
    torch.manual_seed(1)
    z = torch.randn(2, 7, 5)
    unit = nn.functional.normalize(z.double().flatten(0, 1), dim=1)
    for share in (1.0, 0.4):
        allowed = everything(14) & (torch.rand(14, 14) < share)
        for temperature in (0.05, 0.5):
            losses = []
            for a in range(14):
                if not allowed[a].any():
                    continue
                right = math.exp(float(unit[a] @ unit[(a + 7) % 14]) / temperature)
                wrong = sum(math.exp(float(unit[a] @ unit[c]) / temperature) for c in range(14) if allowed[a, c])
                losses.append(-math.log(right / (right + wrong)))
            found = nt_xent(cosines(z.flatten(0, 1)), allowed, temperature)
            assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_limits() -> None:
    """Views alike and all else orthogonal: log(1 + n e^(-1/τ)); all the same: log(1 + n); opposite: more."""
    z = torch.eye(8)[:, :8].repeat(2, 1, 1)
    for temperature in (0.1, 1.0):
        expected = math.log1p(14 * math.exp(-1 / temperature))
        assert float(nt_xent(cosines(z.flatten(0, 1)), everything(16), temperature)) == pytest.approx(
            expected, abs=1e-6
        )
    same = torch.ones(2, 8, 4)
    assert float(nt_xent(cosines(same.flatten(0, 1)), everything(16), 0.1)) == pytest.approx(math.log(15), rel=1e-6)
    assert float(nt_xent(cosines(torch.cat([same[0], -same[0]])), everything(16), 0.1)) > 20


def test_what_is_no_negative_is_ignored() -> None:
    """No loss and no gradient from it, however alike; what is allowed has both."""
    torch.manual_seed(2)
    z = torch.randn(2, 4, 6)
    allowed = everything(8)
    allowed[:, 3] = allowed[:, 7] = allowed[3] = allowed[7] = False
    z.requires_grad_(True)
    nt_xent(cosines(z.flatten(0, 1)), allowed, 0.1).backward()
    assert z.grad is not None
    assert not z.grad[:, 3].any()  # neither a negative of others nor scored itself
    assert z.grad[:, :3].any(-1).all()
    other = z.detach().clone()
    other[:, 3] = other[:, 0] * 2
    assert torch.equal(
        nt_xent(cosines(z.flatten(0, 1)), allowed, 0.1), nt_xent(cosines(other.flatten(0, 1)), allowed, 0.1)
    )
    assert not torch.equal(
        nt_xent(cosines(z.flatten(0, 1)), everything(8), 0.1), nt_xent(cosines(other.flatten(0, 1)), everything(8), 0.1)
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alike", [True, False])
def test_finite_at_a_temperature_of_a_hundredth(kind: torch.dtype, alike: bool) -> None:
    """Loss not below 0, loss and gradients finite: on equal views, and on views that are wrong throughout."""
    torch.manual_seed(3)
    z = torch.randn(16, 32).to(kind)
    both = torch.cat([z, z if alike else z.roll(1, 0)]).requires_grad_(True)
    loss = nt_xent(cosines(both), everything(32), 0.01)
    loss.backward()
    assert both.grad is not None
    assert both.grad.dtype == kind
    assert torch.isfinite(both.grad).all()
    assert 0 <= float(loss.detach()) < 1e-3 if alike else 50 < float(loss.detach()) < 200


def test_no_negative_at_all() -> None:
    """One year only: the loss is 0, gradients are zeros, and the terms say that every row is alone."""
    encoder, task = make(SimCLRConfig())
    batch = windows(4)
    outcome = task(encoder, replace(batch, times=batch.times[:1].expand(4, -1)))
    outcome.loss.backward()
    assert float(outcome.loss.detach()) == 0
    assert float(outcome.terms["alone"]) == 1
    assert float(outcome.terms["negatives"]) == 0
    assert float(outcome.terms["skill"]) == 0
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients
    assert not any(g.any() for g in gradients)
    single = task(encoder, windows(1))
    assert float(single.loss.detach()) == 0


def test_the_outcome_is_what_the_parts_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and terms from the embeddings of the two drawn views; windows of all seasons are their own rivals."""
    encoder, task = make(SimCLRConfig(temperature=0.3, views=ViewsConfig(rivals=Rivals(200.0, None))))
    batch = windows(9)
    views = task.draw(batch)
    likeness = cosines(task.projector(torch.cat([task.pooled(encoder, view, (1, 2, 2)) for view in views])))
    outcome = task(encoder, batch)
    torch.testing.assert_close(outcome.loss, nt_xent(likeness, everything(18), 0.3))
    expected = retrieval(likeness.detach(), everything(18))
    assert {name: float(term) for name, term in outcome.terms.items()} == {
        name: float(term) for name, term in expected.items()
    }
    assert torch.equal(outcome.loss, task(encoder, batch).loss)
    assert not torch.equal(outcome.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)
    assert task.example(encoder, batch) is None
    outcome.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


def skill_after_training(lasting: float, steps: int) -> float:
    """Train on noise with or without a map that lasts, and return the skill on new windows."""
    config = SimCLRConfig(views=ViewsConfig(keep=0.8, variable_dropout=0.0))
    encoder, task = make(config)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
    found = []
    for number in range(steps):
        outcome = task(encoder, windows(24, number, lasting))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        found.append(float(outcome.terms["skill"]))  # before it learns from this batch: the windows are new
    return float(np.mean(found[-10:]))


def test_noise_has_nothing_to_find_and_a_lasting_map_has() -> None:
    """Independent steps: chance, within 4 standard errors; a map that lasts is found more and more often."""
    assert abs(skill_after_training(0.0, 15)) < 4 * (1 / 47 / 480) ** 0.5
    assert skill_after_training(2.0, 30) > 0.5


def test_bad_settings_are_refused() -> None:
    """Temperatures that are none."""
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(EarthSSLError, match=r"simclr\.temperature"):
            SimCLRConfig(temperature=temperature)

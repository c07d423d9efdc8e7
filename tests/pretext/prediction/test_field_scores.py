"""Scores of predicted fields: limits, hand answers, and what does not count."""

from __future__ import annotations

import pytest
import torch
from earthssl.pretext.prediction.field_scores import every_head, score
from torch import nn


@pytest.fixture
def truth() -> torch.Tensor:
    return torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))


def test_the_truth_scores_one_and_the_climatology_zero(truth: torch.Tensor) -> None:
    """And half of the truth 1 - 1/4, twice the truth 0, minus the truth -3."""
    weight = torch.rand(5)
    for factor, skill in ((1.0, 1.0), (0.0, 0.0), (0.5, 0.75), (2.0, 0.0), (-1.0, -3.0)):
        found = score(factor * truth, truth, weight)
        assert found.skills.tolist() == pytest.approx([skill] * 2, abs=1e-5)
        assert float(found.skill) == pytest.approx(skill, abs=1e-5)
        assert found.loss.item() == pytest.approx((1 - factor) ** 2 * found.power.mean().item(), abs=1e-5)


def test_means_are_weighted_and_by_variable() -> None:
    """Two cells of areas 3 and 1, errors 1 and 2 of the one variable, 0 and 4 of the other."""
    truth, guess = torch.tensor([[[[1.0, 0.0], [2.0, 2.0]]]]), torch.tensor([[[[2.0, 2.0], [2.0, -2.0]]]])
    found = score(guess, truth, torch.tensor([3.0, 1.0]))
    assert found.error.tolist() == [(3 * 1 + 4) / 4, 16 / 4]
    assert found.power.tolist() == [3 / 4, 4.0]
    assert found.loss.item() == pytest.approx((7 / 4 + 4) / 2)
    assert found.skill.item() == pytest.approx(((1 - 7 / 3) + 0) / 2)
    assert set(found.terms(["a", "b"])) == {"skill", "skill_a", "skill_b"}


def test_what_was_not_asked_for_counts_nowhere(truth: torch.Tensor) -> None:
    """A variable without weight changes neither loss nor skill; without any, both are 0 and not NaN."""
    weight = torch.ones(4, 3, 2, 5)
    weight[:, :, 1] = 0
    some, alone = score(0.5 * truth, truth, weight), score(0.5 * truth[:, :, :1], truth[:, :, :1], weight[:, :, :1])
    assert some.loss.item() == pytest.approx(alone.loss.item())
    assert some.skill.item() == pytest.approx(0.75)
    assert some.skills.tolist() == pytest.approx([0.75, 0])
    nothing = score(truth, truth + 1, torch.zeros(5))
    assert nothing.loss.item() == 0
    assert nothing.skill.item() == 0


def test_every_head_is_each_head_by_itself() -> None:
    """In the order asked for, whatever the order of the heads; a subset too."""
    heads = nn.ModuleDict({name: nn.Linear(4, 3) for name in ("a", "b", "c")})
    x = torch.randn(2, 5, 4)
    for names in (("c", "a"), ("b",), ("a", "b", "c")):
        one_by_one = torch.stack([heads[name](x) for name in names], 2)
        torch.testing.assert_close(every_head(heads, x, names), one_by_one)

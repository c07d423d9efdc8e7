"""The sum of objectives: weights, names, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.ssl.batch import Batch
from earthssl.ssl.encoder import Encoder, EncoderConfig
from earthssl.ssl.errors import EarthSSLError
from earthssl.ssl.objective import Context, Objective, Outcome, WeightedSum, build_objectives
from earthssl.ssl.pretrain import parse_objectives
from torch import nn


class Constant(Objective):
    """A loss that is a parameter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, encoder: Any, batch: Any) -> Outcome:
        """Return the parameter, and its square as a term."""
        return Outcome(self.value, {"square": self.value.detach() ** 2})

    def example(self, encoder: Any, batch: Any) -> None:
        """Return None."""


def test_the_sum_is_weighted_and_its_terms_named() -> None:
    """0.5 × 3 + 2 × 4; each task's own loss and terms under its name; gradients are the weights."""
    tasks = {"a": Constant(3.0), "b": Constant(4.0)}
    total = WeightedSum(dict(tasks), {"a": 0.5, "b": 2.0})
    outcome = total(None, None)
    assert outcome.loss.item() == 9.5
    assert {name: value.item() for name, value in outcome.terms.items()} == {
        "loss": 9.5, "a/loss": 3, "a/square": 9, "b/loss": 4, "b/square": 16,
    }  # fmt: skip
    assert not any(value.requires_grad for value in outcome.terms.values())
    outcome.loss.backward()
    assert [tasks[name].value.grad.item() for name in "ab"] == [0.5, 2.0]  # type: ignore[union-attr]


def test_weight_zero_trains_nothing() -> None:
    """The task is logged and gets no gradient."""
    tasks = {"a": Constant(3.0), "b": Constant(4.0)}
    WeightedSum(dict(tasks), {"a": 0.0, "b": 1.0})(None, None).loss.backward()
    assert tasks["a"].value.grad.item() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": float("nan")}, {}])
def test_bad_weights_are_refused(weights: dict[str, float]) -> None:
    """Negative, no number, or none."""
    with pytest.raises(EarthSSLError, match=r"objectives\.a\.weight: expected a number ≥ 0"):
        WeightedSum({"a": Constant(1.0)}, weights)


def test_no_objective_is_refused() -> None:
    """At least one task is needed."""
    with pytest.raises(EarthSSLError, match="at least one pretext task"):
        WeightedSum({}, {})


def test_tasks_are_built_from_settings(small_windows: Callable[..., Any]) -> None:
    """All registered tasks at once: terms of each, a finite loss, gradients in the encoder and every head."""
    batch: Batch = small_windows("train").batch([0, 60, 120, 180])
    configs = parse_objectives({"masking": {}, "order": {"weight": 0.5}, "orientation": None}, TASKS)
    encoder: Encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(batch.variables)
    objectives = build_objectives(configs, Context(encoder, batch.variables, batch.grid))
    assert objectives.weights == {"masking": 1.0, "order": 0.5, "orientation": 1.0}
    outcome = objectives(encoder, batch)
    terms = {name: value.item() for name, value in outcome.terms.items()}
    assert terms["loss"] == pytest.approx(
        terms["masking/loss"] + 0.5 * terms["order/loss"] + terms["orientation/loss"], rel=1e-6
    )
    assert {name.split("/")[0] for name in terms} == {"loss", *TASKS}
    outcome.loss.backward()
    without = [name for name, p in objectives.named_parameters() if p.grad is None]
    assert all("layout" in name for name in without)
    assert all(p.grad is not None for p in encoder.parameters())


def test_unknown_tasks_and_keys_are_refused() -> None:
    """By name, with the nearest valid one."""
    with pytest.raises(EarthSSLError, match="Did you mean 'masking'"):
        parse_objectives({"maskin": {}}, TASKS)
    with pytest.raises(EarthSSLError, match=r"objectives\.order: unknown key 'frame'.*Did you mean 'frames'"):
        parse_objectives({"order": {"frame": 3}}, TASKS)
    with pytest.raises(EarthSSLError, match=r"objectives\.order"):
        parse_objectives({"order": {"frames": "three"}}, TASKS)

"""Several objectives on one encoder: weights, drawing, balancing, cosines, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.training.multitask import Multitask, MultitaskConfig, build_objectives
from earthssl.ssl.training.objective import Context, Objective, Outcome
from earthssl.ssl.training.pretrain import parse_objectives
from torch import nn


class Constant(Objective):
    """A loss that is a parameter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, encoder: Any, batch: Any) -> Outcome:
        """Return the parameter, and its square as a term."""
        return Outcome(self.value, {"square": self.value.detach() ** 2})


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Four windows of the small store."""
    found: Batch = small_windows("train").batch([0, 60, 120, 180])
    return found


def test_the_sum_is_weighted_and_its_terms_named(batch: Batch) -> None:
    """0.5 × 3 + 2 × 4; each task's own loss and terms under its name; gradients are the weights."""
    tasks = {"a": Constant(3.0), "b": Constant(4.0)}
    total = Multitask(dict(tasks), {"a": 0.5, "b": 2.0})
    outcome = total(None, batch)
    assert outcome.loss.item() == 9.5
    assert {name: value.item() for name, value in outcome.terms.items()} == {
        "loss": 9.5, "a/loss": 3, "a/square": 9, "b/loss": 4, "b/square": 16,
    }  # fmt: skip
    assert not any(value.requires_grad for value in outcome.terms.values())
    outcome.loss.backward()
    assert [tasks[name].value.grad.item() for name in "ab"] == [0.5, 2.0]  # type: ignore[union-attr]


def test_weight_zero_trains_nothing(batch: Batch) -> None:
    """The task is logged and gets no gradient."""
    tasks = {"a": Constant(3.0), "b": Constant(4.0)}
    Multitask(dict(tasks), {"a": 0.0, "b": 1.0})(None, batch).loss.backward()
    assert tasks["a"].value.grad.item() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": float("nan")}, {}])
def test_bad_weights_are_refused(weights: dict[str, float]) -> None:
    """Negative, no number, or none."""
    with pytest.raises(EarthSSLError, match=r"objectives\.a\.weight: expected a number ≥ 0"):
        Multitask({"a": Constant(1.0)}, weights)


def test_no_objective_is_refused() -> None:
    """At least one task is needed."""
    with pytest.raises(EarthSSLError, match="at least one pretext task"):
        Multitask({}, {})


def test_tasks_are_built_from_settings(batch: Batch) -> None:
    """Three tasks at once: terms of each, a finite loss, gradients in the encoder and every head."""
    configs = parse_objectives({"masking": {}, "order": {"weight": 0.5}, "orientation": None}, TASKS)
    encoder: Encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(batch.variables)
    objectives = build_objectives(configs, Context(encoder, batch.variables, batch.grid))
    assert objectives.weights == {"masking": 1.0, "order": 0.5, "orientation": 1.0}
    outcome = objectives(encoder, batch)
    terms = {name: value.item() for name, value in outcome.terms.items()}
    assert terms["loss"] == pytest.approx(
        terms["masking/loss"] + 0.5 * terms["order/loss"] + terms["orientation/loss"], rel=1e-6
    )
    assert {name.split("/")[0] for name in terms} == {"loss", "masking", "order", "orientation"}
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


class Linear(Objective):
    """The mean of a fixed multiple of one parameter of the encoder: its gradient is known."""

    def __init__(self, direction: list[float]) -> None:
        super().__init__()
        self.register_buffer("direction", torch.tensor(direction))

    def forward(self, encoder: Any, batch: Any) -> Outcome:
        """Return direction · parameter."""
        loss = (self.direction * encoder.blocks[-1].weight.squeeze(0)).sum() + 5.0
        return Outcome(loss, {"skill": loss.detach()})


def two_numbers() -> nn.Module:
    """An 'encoder' whose last block has two weights."""
    encoder = nn.Module()
    block = nn.Linear(2, 1, bias=False)
    nn.init.ones_(block.weight)
    encoder.blocks = nn.ModuleList([block])
    return encoder


def test_cosine_between_the_tasks_gradients(batch: Batch) -> None:
    """(1, 0) against (3, 4): .6; measured every second batch; at validation never."""
    config = MultitaskConfig(cosine_every=2)
    tasks = Multitask({"a": Linear([1.0, 0.0]), "b": Linear([3.0, 4.0])}, {"a": 1.0, "b": 1.0}, config)
    encoder: Any = two_numbers()
    seen = [tasks(encoder, batch).terms.get("cosine/a~b") for _ in range(4)]
    assert [value is None for value in seen] == [False, True, False, True]
    assert seen[0].item() == pytest.approx(0.6)
    assert "cosine/a~b" not in tasks.eval()(encoder, batch).terms


def test_uncertainty_weights_find_their_optimum(batch: Batch) -> None:
    """exp(-s) L + s is least at s = ln L: the found weight is 1 / L."""
    tasks = Multitask(
        {"a": Constant(4.0), "b": Constant(0.25)}, {"a": 1.0, "b": 1.0}, MultitaskConfig(weighting="uncertainty")
    )
    optimizer = torch.optim.SGD([tasks.log_variance], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        outcome = tasks(None, batch)
        outcome.loss.backward()
        optimizer.step()
    assert outcome.terms["a/weight"].item() == pytest.approx(1 / 4, rel=1e-3)
    assert outcome.terms["b/weight"].item() == pytest.approx(4, rel=1e-3)
    assert tasks.eval()(None, batch).loss.item() == pytest.approx(4.25)  # validation: as configured


def test_gradnorm_evens_out_the_gradients(batch: Batch) -> None:
    """Norms 1 and 9 end with equal weighted norms (weights .9 : .1, their sum kept), losses being constant."""
    config = MultitaskConfig(weighting="gradnorm", gradnorm_lr=0.01)
    tasks = Multitask({"a": Linear([1.0, 0.0]), "b": Linear([0.0, 9.0])}, {"a": 1.0, "b": 1.0}, config)
    encoder: Any = two_numbers()
    for _ in range(300):
        outcome = tasks(encoder, batch)
    a, b = outcome.terms["a/weight"].item(), outcome.terms["b/weight"].item()
    assert a + b == pytest.approx(2, rel=1e-5)
    assert a / b == pytest.approx(9, rel=0.2)
    assert {"balance", "start"} <= set(tasks.state_dict())  # so that a resumed run goes on with them


class Idle(Linear):
    """A task that has nothing to solve in the batch."""

    def forward(self, encoder: Any, batch: Any) -> Outcome:
        """Return nothing."""
        return Outcome(0.0 * encoder.blocks[-1].weight.sum(), {"left_out": torch.tensor(1.0)}, posed=False)


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "gradnorm"])
def test_a_task_that_poses_nothing_moves_no_weight(weighting: str, batch: Batch) -> None:
    """No loss and no skill of its own, no cosine with it, and whatever balances the tasks stays where it is."""
    config = MultitaskConfig(weighting=weighting, cosine_every=1)
    tasks = Multitask({"a": Linear([1.0, 0.0]), "b": Idle([0.0, 1.0])}, {"a": 1.0, "b": 1.0}, config)
    encoder: Any = two_numbers()
    outcome = tasks(encoder, batch)
    outcome.loss.backward()
    names = {"loss", "a/loss", "a/skill", "b/left_out"} | ({"a/weight", "b/weight"} if weighting != "fixed" else set())
    assert set(outcome.terms) == names
    assert encoder.blocks[-1].weight.grad.tolist() == [[1.0, 0.0]]
    if weighting == "uncertainty":
        assert tasks.log_variance.grad[0].item() != 0
        assert tasks.log_variance.grad[1].item() == 0
    if weighting == "gradnorm":
        assert tasks.balance.tolist() == [1, 1]
        assert tasks.start.tolist() == [0, 0]


def test_one_task_a_batch_is_drawn_by_weight(small_windows: Callable[..., Any]) -> None:
    """A function of the batch's number; three batches of four go to the task of three times the weight."""
    windows = small_windows("train")
    tasks = Multitask({"a": Constant(3.0), "b": Constant(4.0)}, {"a": 3.0, "b": 1.0}, MultitaskConfig(sampling="one"))
    drawn = [tasks(None, windows.batch([0], 0, number)).loss.item() for number in range(400)]
    again = [tasks(None, windows.batch([1], 0, number)).loss.item() for number in range(400)]
    assert drawn == again
    assert set(drawn) == {3.0, 4.0}
    assert drawn.count(3.0) / 400 == pytest.approx(0.75, abs=0.06)
    assert tasks.eval()(None, windows.batch([0])).loss.item() == 13.0


def test_each_task_gets_the_steps_it_wants(small_windows: Callable[..., Any]) -> None:
    """Windows as long as the longest; the others see their first steps."""

    class Length(Constant):
        def forward(self, encoder: Any, batch: Any) -> Outcome:
            return Outcome(self.value, {"steps": torch.tensor(float(batch.values.shape[1]))})

    tasks = Multitask({"a": Length(1.0), "b": Length(1.0)}, {"a": 1.0, "b": 1.0}, None, {"a": 3, "b": 5})
    assert tasks.span == 5
    terms = tasks(None, small_windows("train", 5).batch([0])).terms
    assert terms["a/steps"] == 3
    assert terms["b/steps"] == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampling": "both"}, "expected joint, one"),
        ({"weighting": "gradnrm"}, "Did you mean 'gradnorm'"),
        ({"sampling": "one", "cosine_every": 5}, "expected sampling joint"),
        ({"sampling": "one", "weighting": "gradnorm"}, "expected sampling joint"),
        ({"gradnorm_lr": 0.0}, "gradnorm_lr > 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    """Unknown names, and what cannot go together."""
    with pytest.raises(EarthSSLError, match=words):
        MultitaskConfig(**settings)


def test_drawing_needs_a_weight() -> None:
    """All weights 0 leave nothing to draw."""
    with pytest.raises(EarthSSLError, match="a weight above 0"):
        Multitask({"a": Constant(1.0)}, {"a": 0.0}, MultitaskConfig(sampling="one"))

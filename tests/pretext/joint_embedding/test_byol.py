"""BYOL: the loss by hand, what learns and what follows, and a collapse that shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from earthssl.pretext.joint_embedding.byol import BYOL, BYOLConfig, Paced, disagreement
from earthssl.pretext.joint_embedding.retrieval import Rivals
from earthssl.pretext.joint_embedding.views import ViewsConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
CONFIG = BYOLConfig(tau=0.5, views=ViewsConfig(rivals=Rivals(0.0, None)))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows that end in the same month of different years."""
    return small_windows("train", 8).batch(range(0, 192, 24))  # type: ignore[no-any-return]


def make(batch: Batch, config: BYOLConfig = CONFIG) -> tuple[Any, BYOL]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, PATCH).build(NAMES)
    return encoder, config.build(Context(encoder, NAMES, batch.grid))


def test_disagreement_by_hand() -> None:
    """0 for the same direction, 2 for a right angle, 4 for the opposite, of each view; lengths do not count."""
    target = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert float(disagreement(5 * target, target)) == pytest.approx(0, abs=1e-6)
    assert float(disagreement(-target, target)) == pytest.approx(8)
    assert float(disagreement(target.flip(1), target)) == pytest.approx(4)
    first_only = torch.cat([target[:2], target[2:].flip(1)])
    assert float(disagreement(first_only, target)) == pytest.approx(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert disagreement(target.bfloat16(), target.bfloat16()).dtype == torch.float32


def test_each_view_predicts_the_other(batch: Batch) -> None:
    """Cosines between the prediction from one view and the target of the other, both ways, from the parts."""
    encoder, task = make(batch)
    task(encoder, batch)  # so that the running statistics, used below, are some
    encoder.eval()
    task.eval()
    first, second = task.draw(batch)

    def online(view: Batch) -> torch.Tensor:
        return torch.nn.functional.normalize(task.predictor(task.projector(task.pooled(encoder, view, PATCH))), dim=1)

    def target(view: Batch) -> torch.Tensor:
        return torch.nn.functional.normalize(task.teacher_projector(task.pooled(task.teacher, view, PATCH)), dim=1)

    cosine = (online(first) * target(second)).sum(1) + (online(second) * target(first)).sum(1)
    outcome = task(encoder, batch)
    torch.testing.assert_close(outcome.loss, (4 - 2 * cosine).mean())
    swapped = (online(first) * target(first)).sum(1) + (online(second) * target(second)).sum(1)
    assert abs(float((outcome.loss - (4 - 2 * swapped).mean()).detach())) > 1e-4
    assert torch.equal(outcome.loss, task(encoder, batch).loss)
    assert not torch.equal(outcome.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)


def test_the_predictor_learns_at_its_own_pace() -> None:
    """The same function at the start as a layer of the same draws; a step of Adam moves it ten times as far."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(5, 3)
    torch.manual_seed(0)
    paced, x = Paced(5, 3, 10.0), torch.randn(7, 5)
    torch.testing.assert_close(paced(x), plain(x))
    before = plain(torch.eye(5)).detach()
    for layer in (plain, paced):
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        (layer(x) ** 2).mean().backward()
        optimizer.step()
    moved, further = plain(torch.eye(5)).detach() - before, paced(torch.eye(5)).detach() - before
    torch.testing.assert_close(further, 10 * moved, rtol=1e-3, atol=1e-5)


def test_the_target_network_is_not_trained(batch: Batch) -> None:
    """Gradients reach encoder, projector and predictor, and nothing of the teachers; a step leaves them alone."""
    encoder, task = make(batch)
    task.train()
    teachers = {name: p for name, p in task.named_parameters() if name.startswith("teacher")}
    learning = {name: p for name, p in task.named_parameters() if not name.startswith("teacher")}
    before = copy.deepcopy({name: p.detach() for name, p in teachers.items()})
    optimizer = torch.optim.AdamW([*encoder.parameters(), *learning.values()], lr=1e-2)
    task(encoder, batch).loss.backward()
    assert all(p.grad is None for p in teachers.values())
    assert all(p.grad is not None and p.grad.any() for p in learning.values())
    assert sum(p.grad is not None for p in encoder.parameters()) > 20
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in teachers.items())
    assert not any(part.training for part in task.teacher.modules())
    assert task.projector.training


def test_the_target_network_follows(batch: Batch) -> None:
    """At half of the run τ is 1 - (1 - .5)/2 = .75: a quarter of the way, for encoder and projector; then none."""
    encoder, task = make(batch)
    online = {**dict(encoder.named_parameters("e")), **dict(task.projector.named_parameters("p"))}
    slow = {
        **dict(task.teacher.network.named_parameters("e")),
        **dict(task.teacher_projector.network.named_parameters("p")),
    }
    assert online.keys() == slow.keys()
    with torch.no_grad():
        for p in online.values():
            p.add_(4.0)
    before = copy.deepcopy({name: p.detach() for name, p in slow.items()})
    task.after_step(encoder, 0.5)
    slow = {
        **dict(task.teacher.network.named_parameters("e")),
        **dict(task.teacher_projector.network.named_parameters("p")),
    }
    for name, p in slow.items():
        torch.testing.assert_close(p.detach(), before[name] + 1.0)
    middle = copy.deepcopy(task.state_dict())
    task.after_step(encoder, 1.0)
    assert all(torch.equal(value, middle[name]) for name, value in task.state_dict().items())
    assert float(task(encoder, batch).terms["tau"]) == 1


def test_a_collapse_shows(batch: Batch) -> None:
    """Embeddings that are all the same: a loss of 0, which looks perfect, and the skill of chance, which does not."""
    encoder, task = make(batch)
    for projector in (task.projector, task.teacher_projector.network):
        torch.nn.init.zeros_(projector[-1].weight)
        torch.nn.init.ones_(projector[-1].bias)
    torch.nn.init.zeros_(task.predictor[-1].weight)
    torch.nn.init.ones_(task.predictor[-1].bias)
    outcome = task(encoder, batch)
    assert float(outcome.loss.detach()) == pytest.approx(0, abs=1e-5)
    assert float(outcome.terms["skill"]) == pytest.approx(0, abs=1e-6)
    assert float(outcome.terms["accuracy"]) == pytest.approx(1 / 15)


def test_bad_settings_are_refused(batch: Batch) -> None:
    """A teacher that never follows, a predictor that never learns."""
    for tau in (1.0, -0.5):
        with pytest.raises(EarthSSLError, match="tau"):
            make(batch, replace(CONFIG, tau=tau))
    for pace in (0.0, -1.0, float("inf")):
        with pytest.raises(EarthSSLError, match=r"byol\.pace"):
            BYOLConfig(pace=pace)

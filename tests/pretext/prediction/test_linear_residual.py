"""The linear residual: the cue is the best linear forecast, its loss is 1, and only what is not linear gets below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.pretext.prediction.lead_time import LeadTimeConfig
from earthssl.pretext.prediction.linear_residual import LinearResidual, LinearResidualConfig, OwnSquares, regressed
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import load_objectives

NAME = "linear_residual"
NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)


class Series(Windows):
    """Windows of three steps, two and the one that is asked for, of one series of fields (step, row, column)."""

    def __init__(self, fields: torch.Tensor) -> None:
        self.fields_of, self.length = fields, 3
        self.starts = np.arange(len(fields) - 2)

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: Any, epoch: int = 0, number: int = 0) -> Batch:
        chosen = torch.as_tensor(indices)
        steps = chosen[:, None] + torch.arange(3)
        known = torch.ones(1, 4, 6, dtype=torch.bool)
        keys = fold(torch.full_like(chosen, number), chosen)
        return from_fields(self.fields_of[steps][:, :, None], 86400 * steps, keys, known, ("sst",), GRID, number)


def linear(steps: int, seed: int = 0) -> torch.Tensor:
    """A rotating pattern of two places and red noise of its own at every other cell: linear and Gaussian."""
    rng = np.random.default_rng(seed)
    turn = 0.95 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    x, state = np.zeros((steps, 24)), np.zeros(2)
    for k in range(1, steps):
        state = turn @ state + 0.3 * rng.normal(size=2)
        x[k] = 0.5 * x[k - 1] + 0.2 * rng.normal(size=24)
        x[k, :2] = state
    return torch.from_numpy(x.reshape(steps, 4, 6)).float()


def logistic(steps: int, seed: int = 0) -> torch.Tensor:
    """Every cell follows x -> 1 - 2x², which no linear rule foretells (its lag correlations are 0)."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, (1, 4, 6))  # x = cos a goes to -cos 2a
    x = [np.cos(angle)]
    for _ in range(steps - 1):
        x.append(1 - 2 * x[-1] ** 2 + 1e-9 * rng.normal(size=(1, 4, 6)))
    return torch.from_numpy(np.concatenate(x).clip(-1, 1)).float()


def make(fields: torch.Tensor, **settings: Any) -> tuple[Any, LinearResidual]:
    """Return an encoder of two steps and the settled objective."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(("sst",))
    config = LinearResidualConfig(leads=[1], **{"components": 48, **settings})
    task = config.build(Context(encoder, ("sst",), GRID))
    task.settle(Series(fields))
    return encoder, task


@pytest.fixture(scope="module")
def on_land(small_windows: Callable[..., Any]) -> tuple[Any, LinearResidual, Batch]:
    """An encoder and the objective settled on windows of five months, land in sst; eight windows with some gaps."""
    windows = small_windows("train", 5)
    batch = windows.batch(torch.arange(0, 160, 20))
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(NAMES)
    task = LinearResidualConfig(leads=[1, 3], draw="all", components=16).build(Context(encoder, NAMES, batch.grid))
    task.settle(windows)
    valid = batch.valid.clone()
    valid[:2, 1:4, 1, 3:5, 6:9] = False
    return encoder, task, replace(batch, valid=valid, values=batch.values * valid)


def test_the_cue_is_least_squares_on_all_it_may_see() -> None:
    """With as many components as numbers in a window: the same forecast as numpy's."""
    fields = linear(600)
    _, task = make(fields)
    task.coefficients.zero_()
    batch = Series(fields).batch(torch.arange(598))
    rows, target = task.rows(batch), batch.values[:, 2].flatten(1)
    task.coefficients[0].copy_(regressed(rows @ task.patterns.T, target, batch.valid[:, 2].flatten(1), False))
    x = batch.values[:, :2].flatten(1).double().numpy()
    expected = x @ np.linalg.lstsq(x, target.double().numpy(), rcond=None)[0]
    cue = task.cue(batch, task.picks(batch)).flatten(1)
    assert cue.numpy() == pytest.approx(expected, abs=2e-4)


def test_few_components_are_chosen_where_few_say_anything() -> None:
    """White noise: none; the rotating pattern: some, which foretell it as the truth does, to a few per cent."""
    _, task = make(torch.randn(400, 4, 6, generator=torch.Generator().manual_seed(3)))
    assert not task.coefficients.any()
    fields = linear(1500)
    _, task = make(fields)
    batch = Series(linear(1500, seed=1)).batch(torch.arange(1498))
    rest = task.residual(batch, task.picks(batch)).values[:, 0, 0] * task.spread[0, 0]
    noise = torch.full((24,), 0.2)
    noise[:2] = 0.3
    assert rest.square().mean(0).sqrt().flatten().numpy() == pytest.approx(noise.numpy(), rel=0.12)


def test_missing_targets_are_least_squares_over_what_is_there() -> None:
    """A tenth missing: as cell by cell regressions on their own observations."""
    rng = np.random.default_rng(0)
    scores = np.linalg.qr(rng.normal(size=(300, 4)))[0]
    target = scores @ rng.normal(size=(4, 5)) * 10 + 0.1 * rng.normal(size=(300, 5))
    valid = rng.random((300, 5)) > 0.1
    found = regressed(*(torch.from_numpy(x).float() for x in (scores, target)), torch.from_numpy(valid), True)
    for cell in range(5):
        own = valid[:, cell]
        assert found[:, cell].numpy() == pytest.approx(np.linalg.lstsq(scores[own], target[own, cell])[0], abs=1e-3)


def test_a_head_that_says_nothing_is_the_linear_forecast(on_land: tuple[Any, LinearResidual, Batch]) -> None:
    """Loss 1, skill 0, and the forecast fields are the cue's; the truth has loss 0."""
    encoder, task, batch = on_land
    kept = {name: p.clone() for name, p in task.heads.state_dict().items()}
    for parameter in task.heads.parameters():
        torch.nn.init.zeros_(parameter)
    outcome, picks = task(encoder, batch), task.picks(batch)
    assert outcome.loss.item() == pytest.approx(1, abs=1e-6)
    for name in ("skill", "skill_u10", "skill_lead1", "skill_lead3"):
        assert float(outcome.terms[name]) == pytest.approx(0, abs=1e-6)
    made = task.predict(encoder, batch, picks)
    cue = replace(task.truth(batch, picks), values=task.cue(batch, picks)[:, None])
    assert torch.allclose(made, patchify(cue, PATCH).values, atol=1e-5)
    task.heads.load_state_dict(kept)


def test_the_truth_is_solved_and_the_fields_come_back(
    on_land: tuple[Any, LinearResidual, Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, task, batch = on_land
    picks = task.picks(batch)
    truth = patchify(task.residual(batch, picks), PATCH)
    monkeypatch.setattr(task, "guess", lambda *_: truth.values)
    outcome = task(encoder, batch)
    assert outcome.loss.item() == pytest.approx(0, abs=1e-6)
    target = patchify(task.truth(batch, picks), PATCH)
    made = task.predict(encoder, batch, picks)
    assert torch.allclose(made[target.valid], target.values[target.valid], atol=1e-4)


def test_the_rest_has_mean_square_one_and_is_smaller_than_the_field(
    small_windows: Callable[..., Any], on_land: tuple[Any, LinearResidual, Batch]
) -> None:
    """On the windows of the fit; what was scaled is less than the anomalies were."""
    _, task, _ = on_land
    windows = small_windows("train", 5)
    batch = windows.batch(torch.arange(len(windows)))
    picks = task.picks(batch)
    rest, valid = task.residual(batch, picks).values, task.truth(batch, picks).valid
    assert rest.isfinite().all()
    by_cell = (rest.square() * valid).sum((0, 1)) / valid.sum((0, 1)).clamp(min=1)
    assert by_cell[valid.any(0).any(0)].numpy() == pytest.approx(1, abs=1e-3)
    assert (task.spread[:, 1] < 0.9).all()


def test_nothing_after_the_window_is_looked_at(on_land: tuple[Any, LinearResidual, Batch]) -> None:
    encoder, task, batch = on_land
    picks = task.picks(batch)
    before = task.predict(encoder, batch, picks)
    values = batch.values.clone()
    values[:, 2:] = torch.randn_like(values[:, 2:])
    assert torch.equal(before, task.predict(encoder, replace(batch, values=values), picks))
    assert torch.equal(before, task.predict(encoder, batch.cut(0, 2), picks, times=task.truth(batch, picks).times))


def test_what_is_not_linear_is_left_and_the_cue_of_squares_finds_it() -> None:
    """x -> 1 - 2x²: no linear forecast, by components or at the point; squares of the point explain all."""
    train, other = logistic(500), logistic(400, seed=5)
    for kind in ("components", "point"):
        _, task = make(train, cue=kind)
        cue = task.cues()[0]
        with pytest.raises(EarthSSLError, match="call fit first"):
            cue.skill(task, Series(other).batch([0]), PATCH)
        batch = Series(other).batch(torch.arange(398))
        rest = task.residual(batch, task.picks(batch)).values
        assert float(rest.square().mean()) == pytest.approx(1, abs=0.1)
        cue.fit(task, [Series(train).batch(torch.arange(400))], PATCH)
        assert isinstance(cue, OwnSquares)
        assert cue.skill(task, batch, PATCH) > 0.98
        cue.fit(task, [Series(linear(400)).batch(torch.arange(398))], PATCH)


@pytest.mark.slow
def test_linear_fields_stay_at_one_and_others_do_not() -> None:
    """120 steps of training: nothing is won on a linear Gaussian series, most of the rest of one that is not."""
    losses = []
    for fields, other in ((linear(4000), linear(1500, seed=1)), (logistic(4000), logistic(1500, seed=1))):
        encoder, task = make(fields)
        windows = Series(fields)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
        rng = np.random.default_rng(0)
        for number in range(300):
            outcome = task(encoder, windows.batch(rng.integers(0, len(windows), 32), number=number))
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
        encoder.eval(), task.eval()
        with torch.no_grad():
            losses.append(float(task(encoder, Series(other).batch(torch.arange(1498))).loss))
    assert 0.98 < losses[0] < 1.06
    assert losses[1] < 0.6


@pytest.mark.slow
def test_the_fitted_cue_comes_back_with_the_checkpoint(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    folder = small_pretrain(tmp_path / "run", {NAME: {"leads": [1], "components": 16}})
    _, objectives = load_objectives(folder, TASKS)
    task = objectives.tasks()[NAME]
    assert task.coefficients.any()
    assert not torch.allclose(task.spread, torch.ones(()))


def test_what_does_not_fit_is_refused(on_land: tuple[Any, LinearResidual, Batch]) -> None:
    for bad, said in (
        ({"leads": []}, "linear_residual.leads: expected different"),
        ({"cue": "pcs"}, "components or point"),
        ({"components": 0}, "components ≥ 1"),
        ({"components": 64, "fit": 100}, "two windows for each"),
        ({"hidden": -1}, "0 for a linear head"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            LinearResidualConfig(**bad)  # type: ignore[arg-type]
    assert LinearResidualConfig(leads=[3, 1]).span(EncoderConfig("nano", 2, PATCH)) == 5
    assert not hasattr(LinearResidualConfig(), "residual")
    assert LeadTimeConfig().name != LinearResidualConfig.name
    with pytest.raises(EarthSSLError, match="of which the last quarter"):
        make(linear(6))
    many = Series(linear(40))
    many.length = 2**24
    with pytest.raises(EarthSSLError, match=r"numbers to fit the linear forecast on, got 38 windows of .* lower"):
        make(linear(40))[1].settle(many)
    encoder, task, batch = on_land
    with pytest.raises(EarthSSLError, match="expected sst, u10, v10 on the grid"):
        task(encoder, replace(batch, variables=("sst", "u10", "v850")))

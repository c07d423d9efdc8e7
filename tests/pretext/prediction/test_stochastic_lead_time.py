"""Stochastic forecasts: the fair score and its like by scoringrules, the right spread of what cannot be told better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from earthssl.pretext.prediction.stochastic_lead_time import (
    LEVELS,
    DressedOwnPast,
    StochasticLeadTime,
    StochasticLeadTimeConfig,
    cell_quantiles,
    climatology_crps,
    fair_crps,
    gaussian_crps,
)
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)


def make(
    grid: LatLonGrid, config: StochasticLeadTimeConfig, window: int = 2, names: tuple[str, ...] = NAMES
) -> tuple[Any, StochasticLeadTime]:
    """Return a new encoder and the objective, always the same, its climatology the standard normal."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", window, PATCH).build(names)
    return encoder, config.build(Context(encoder, names, grid))


@pytest.fixture(scope="module")
def on_land(small_windows: Callable[..., Any]) -> tuple[Any, StochasticLeadTime, Batch, Windows]:
    """An encoder, the objective settled on windows of five months with land in sst, and eight windows with gaps."""
    windows = small_windows("train", 5)
    batch = windows.batch(torch.arange(0, 160, 20))
    encoder, task = make(batch.grid, StochasticLeadTimeConfig(leads=[1, 3], draw="all"))
    task.settle(windows)
    valid = batch.valid.clone()
    valid[:2, 1:4, 1, 3:5, 6:9] = False
    return encoder, task, replace(batch, valid=valid, values=batch.values * valid), windows


def series(x: torch.Tensor, number: int = 0) -> Batch:
    """Return fields (sample, step, row, column) of sst as a batch."""
    keys, known = fold(torch.arange(len(x)), number), torch.ones(1, 4, 6, dtype=torch.bool)
    times = 86400 * torch.arange(x.shape[1]).expand(len(x), -1)
    return from_fields(x[:, :, None], times, keys, known, ("sst",), GRID, number)


def test_scores_are_those_of_scoringrules() -> None:
    """Fair ensemble score for two to five members, that of a set of quantiles, and that of a normal distribution."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(7, 4, 3, 2))
    for count in (2, 3, 5):
        members = rng.normal(size=(7, count, 4, 3, 2))
        found = fair_crps(torch.from_numpy(members), torch.from_numpy(truth))
        assert found.numpy() == pytest.approx(scoringrules.crps_ensemble(truth, members, m_axis=1, estimator="fair"))
    quantiles = np.sort(rng.normal(size=(LEVELS, 4, 3, 2)), 0)
    usual = climatology_crps(torch.from_numpy(quantiles), torch.from_numpy(truth[:, None]))[:, 0].numpy()
    every = np.broadcast_to(quantiles, (7, *quantiles.shape))
    assert usual == pytest.approx(scoringrules.crps_ensemble(truth, every, m_axis=1, estimator="nrg"))
    mean, spread = rng.normal(size=truth.shape), rng.uniform(0.5, 2, truth.shape)
    normal = gaussian_crps(*(torch.from_numpy(x) for x in (mean, spread, truth)))
    assert normal.numpy() == pytest.approx(scoringrules.crps_normal(truth, mean, spread))


@pytest.mark.parametrize("count", [2, 4])
def test_the_score_is_least_for_the_spread_of_the_truth(count: int) -> None:
    """Truth N(0, 2²), members s z: the least mean score is at s = 2, and it is 2/√π; gradients lead there."""
    rng = torch.Generator().manual_seed(1)
    truth = 2 * torch.randn(200_000, 1, 1, 1, generator=rng)
    noise = torch.randn(200_000, count, 1, 1, 1, generator=rng)
    scores = {s: float(fair_crps(s * noise, truth).mean()) for s in (0.0, 1.0, 1.7, 2.0, 2.3, 3.0)}
    assert min(scores, key=scores.__getitem__) == 2.0
    assert scores[2.0] == pytest.approx(2 / np.pi**0.5, abs=0.01)
    assert scores[0.0] == pytest.approx(2 * (2 / np.pi) ** 0.5, abs=0.01)  # of the mean alone: E|y|
    s = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=0.1)
    for step in range(100):
        part = slice(2000 * step, 2000 * (step + 1))
        optimizer.zero_grad()
        fair_crps(s * noise[part], truth[part]).mean().backward()
        optimizer.step()
    assert s.detach().abs().item() == pytest.approx(2, rel=0.06)


def test_quantiles_by_hand() -> None:
    """Of 0 … 15 each value is one of the sixteen; missing ones count nowhere; a cell without any has 0."""
    values = torch.full((20, 3), torch.inf)
    values[2:18, 0] = torch.arange(16.0).flip(0)
    values[:2, 1] = torch.tensor([5.0, 3.0])
    found = cell_quantiles(values, 16)
    assert found[:, 0].tolist() == list(range(16))
    assert found[:, 1].tolist() == [3.0] * 8 + [5.0] * 8
    assert not found[:, 2].any()


def test_the_climatology_has_loss_one(on_land: tuple[Any, StochasticLeadTime, Batch, Windows]) -> None:
    """The settled quantiles are those of numpy, and sixteen of them stand for a distribution."""
    _, task, _, windows = on_land
    values = torch.cat([windows.batch(part).values[:, 0] for part in torch.arange(len(windows)).split(64)])
    for row, column in ((3, 7), (0, 0), (5, 11)):
        expected = np.quantile(values[:, 1, row, column], (np.arange(LEVELS) + 0.5) / LEVELS)
        assert task.quantiles[:, 1, row, column].numpy() == pytest.approx(expected, abs=0.06)
    assert not task.quantiles[:, 0, 1:5, 2:5].any()
    truth = torch.randn(4000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    normal = torch.special.ndtri((torch.arange(LEVELS) + 0.5) / LEVELS)[:, None, None, None]
    # The score of the normal distribution: 1/√π.
    assert float(climatology_crps(normal, truth).mean()) == pytest.approx(np.pi**-0.5, rel=0.04)


def test_loss_and_skill_against_brute_force(on_land: tuple[Any, StochasticLeadTime, Batch, Windows]) -> None:
    """Means by area over valid cells of each variable, over that of the climatology, then over variables."""
    encoder, task, batch, _ = on_land
    outcome, picks = task(encoder, batch), task.picks(batch)
    truth = task.truth(batch, picks)
    target = patchify(truth, PATCH)
    members = task.members(encoder, batch, picks).detach().double().numpy()
    area = target.area[:, None].expand(target.values.shape[1:]).double().numpy()
    losses = []
    for k in range(3):
        weight = target.valid[:, :, k].numpy() * area[:, k]
        mine = scoringrules.crps_ensemble(
            target.values[:, :, k].double().numpy(), members[:, :, :, k], m_axis=1, estimator="fair"
        )
        every = np.broadcast_to(task.quantiles[:, k].numpy(), (16, LEVELS, 7, 12))
        usual = scoringrules.crps_ensemble(truth.values[:, 0, k].numpy(), every, m_axis=1, estimator="nrg")
        cells = truth.valid[:, 0, k].numpy() * batch.grid.area
        losses.append((weight * mine).sum() / weight.sum() / ((cells * usual).sum() / cells.sum()))
    assert outcome.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(outcome.terms["skill"]) == pytest.approx(1 - np.mean(losses), abs=1e-4)
    assert float(outcome.terms["skill_u10"]) == pytest.approx(1 - losses[1], abs=1e-4)
    both = [float(outcome.terms[f"skill_lead{lead}"]) for lead in (1, 3)]
    assert min(both) < float(outcome.terms["skill"]) < max(both)


def test_draws_follow_the_keys_and_differ(on_land: tuple[Any, StochasticLeadTime, Batch, Windows]) -> None:
    """The same members come back; other keys, other members; samples and leads have their own noise."""
    encoder, task, batch, _ = on_land
    picks = task.picks(batch)
    first = task.members(encoder, batch, picks)
    assert torch.equal(first, task.members(encoder, batch, picks))
    other = replace(batch, keys=batch.keys + 1)
    assert not torch.equal(first, task.members(encoder, other, picks))
    assert not torch.equal(first[:, 0], first[:, 1])
    assert torch.allclose(task.predict(encoder, batch, picks), first.mean(1))
    values = batch.values.clone()
    values[:, 2:] = torch.randn_like(values[:, 2:])
    assert torch.equal(first, task.members(encoder, replace(batch, values=values), picks))
    task(encoder, batch).loss.backward()
    assert float(task.disturb[0].weight.grad.abs().max()) > 0
    encoder.zero_grad(), task.zero_grad()


def wavering(number: int) -> tuple[Batch, torch.Tensor]:
    """Fields of which only how unsure the next one is can be told: noise of spread .3 or 1.5, shown by its sign."""
    rng = np.random.default_rng(number)
    calm = rng.random(32) < 0.5
    past = np.where(calm, 1.0, -1.0)[:, None, None, None] * np.ones((32, 2, 4, 6))
    ahead = np.where(calm, 0.3, 1.5)[:, None, None, None] * rng.normal(size=(32, 1, 4, 6))
    return series(torch.from_numpy(np.concatenate([past, ahead], 1)).float(), number), torch.from_numpy(calm)


@pytest.mark.slow
def test_what_only_its_spread_tells_of_is_learnt() -> None:
    """The mean is 0 whatever was seen; members are as spread as what comes, in either state, to a third."""
    encoder, task = make(GRID, StochasticLeadTimeConfig(leads=[1], members=4), names=("sst",))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
    for number in range(500):
        outcome = task(encoder, wavering(number)[0])
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    encoder.eval(), task.eval()
    members, calm = [], []
    with torch.no_grad():
        for number in range(1000, 1030):
            batch, own = wavering(number)
            members.append(task.members(encoder, batch, task.picks(batch)))
            calm.append(own)
    drawn, still = torch.cat(members), torch.cat(calm)
    for own, spread in ((still, 0.3), (~still, 1.5)):
        assert float(drawn[own].var(1).mean().sqrt()) == pytest.approx(spread, rel=0.3)
        assert float(drawn[own].mean().abs()) < 0.2 * spread


def test_the_dressed_regression_is_right_for_linear_noise() -> None:
    """Half of the last step and noise: its skill is 1 - σ / (σ of the climatology), its spread that of the noise."""

    def walks(number: int) -> Batch:
        rng = np.random.default_rng(number)
        x = [rng.normal(size=(400, 4, 6))]
        for _ in range(2):
            x.append(0.6 * x[-1] + 0.8 * rng.normal(size=x[0].shape))
        return series(torch.from_numpy(np.stack(x, 1)).float(), number)

    _, task = make(GRID, StochasticLeadTimeConfig(leads=[1]), names=("sst",))
    cue = task.cues()[0]
    assert isinstance(cue, DressedOwnPast)
    with pytest.raises(EarthSSLError, match="call fit first"):
        cue.skill(task, walks(0), PATCH)
    cue.fit(task, [walks(number) for number in range(5)], PATCH)
    assert cue.skill(task, walks(9), PATCH) == pytest.approx(0.2, abs=0.03)


def test_what_does_not_fit_is_refused(
    on_land: tuple[Any, StochasticLeadTime, Batch, Windows], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad, said in (
        ({"leads": [0]}, "stochastic_lead_time.leads"),
        ({"members": 1}, "members: expected at least 2"),
        ({"noise": 0}, "noise: expected at least 1"),
        ({"fit": 3}, "fit: expected at least 16"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            StochasticLeadTimeConfig(**bad)  # type: ignore[arg-type]
    encoder, task, batch, windows = on_land
    monkeypatch.setattr("earthssl.pretext.prediction.stochastic_lead_time.LARGEST", 1000)
    with pytest.raises(EarthSSLError, match=r"got \d+ fields of 252; lower stochastic_lead_time.fit to 3"):
        task.settle(windows)
    with pytest.raises(EarthSSLError, match="whose climatology was fitted"):
        task(encoder, replace(batch, variables=("sst", "u10", "v850")))

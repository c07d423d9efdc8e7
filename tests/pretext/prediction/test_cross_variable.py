"""Cross-variable prediction: whole groups hidden from the encoder, likelihoods, skill, the per-point cue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.cross_variable import Bins, CrossVariable, CrossVariableConfig, Gaussian, SamePoint
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify, unpatchify
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
THREE = [["sst"], ["u10"], ["v10"]]


def make(
    grid: LatLonGrid, config: CrossVariableConfig | None = None, names: tuple[str, ...] = NAMES, window: int = 3
) -> tuple[Any, CrossVariable]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", window, PATCH).build(names)
    return encoder, (config or CrossVariableConfig()).build(Context(encoder, names, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows of 3 months with land in sst; a box of u10 is missing in two of them."""
    made = small_windows("train", 3).batch(torch.arange(0, 160, 20))
    valid = made.valid.clone()
    valid[:2, 1, 1, 3:5, 6:9] = False
    return replace(made, valid=valid, values=made.values * valid)


def repeated(batch: Batch, size: int) -> Batch:
    """Return the first window many times, each with a key of its own."""
    values, valid, times = (x[:1].expand(size, *x.shape[1:]) for x in (batch.values, batch.valid, batch.times))
    return replace(batch, values=values, valid=valid, times=times, keys=fold(torch.arange(size), 1))


@pytest.mark.parametrize("loss", ["gaussian", "bins"])
def test_hidden_variables_never_reach_the_encoder(batch: Batch, loss: str) -> None:
    """Other values and gaps of what is hidden change no prediction; of what is shown, they do."""
    encoder, task = make(batch.grid, CrossVariableConfig(loss=loss))
    hidden = task.hidden(batch)
    before = task.predict(encoder, patchify(batch, PATCH), hidden)
    away = hidden[:, None, :, None, None]
    noise, holes = torch.randn(batch.values.shape), torch.rand(batch.values.shape) > 0.5
    for where, same in ((away, True), (~away, False)):
        for other in (
            replace(batch, values=torch.where(where & batch.valid, noise, batch.values)),
            replace(batch, values=batch.values * ~(where & holes), valid=batch.valid & ~(where & holes)),
        ):
            after = task.predict(encoder, patchify(other, PATCH), hidden)
            assert torch.equal(before, after) == same


def test_whole_groups_are_hidden_and_both_halves_are_predicted(batch: Batch) -> None:
    """Winds go together; each half is hidden half the time (5 standard errors); never nothing and never all."""
    many = repeated(batch, 4000)
    hidden = make(batch.grid)[1].hidden(many)
    assert torch.equal(hidden[:, 1], hidden[:, 2])
    assert torch.equal(hidden[:, 0], ~hidden[:, 1])
    assert float(hidden[:, 0].float().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)
    _, counts = make(batch.grid, CrossVariableConfig(groups=THREE))[1].hidden(many).unique(dim=0, return_counts=True)
    assert (counts / 4000).tolist() == pytest.approx([1 / 6] * 6, abs=5 * (5 / 36 / 4000) ** 0.5)
    kept = make(batch.grid, CrossVariableConfig(groups=[["sst"], ["u10"]]))[1]
    assert not kept.hidden(many)[:, 2].any()  # in no group: always shown
    assert list(kept.heads) == ["sst", "u10"]


def test_groups_are_names_with_or_without_a_level() -> None:
    names = ("z500", "z850", "t850", "q850", "sst")
    config = CrossVariableConfig(groups=[["z", "t850"], ["q850"]])
    assert config.partition(names) == [("z500", "z850", "t850"), ("q850",)]
    assert CrossVariableConfig().partition(names) == [("sst",), ("z500", "z850", "t850"), ("q850",)]


def test_gaussian_likelihood_by_hand_and_by_torch() -> None:
    """½ log 2π + ½ at one deviation, log σ more for other deviations; the bound of the variance is soft."""
    gaussian = Gaussian()
    found = gaussian.nll(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]))
    assert float(found) == pytest.approx(0.5 * math.log(2 * math.pi) + 0.5, abs=1e-6)
    raw, truth = torch.randn(50, 2), torch.randn(50)
    spread = (4 * torch.tanh(raw[:, 1] / 8)).exp()
    torch.testing.assert_close(gaussian.nll(raw, truth), -torch.distributions.Normal(raw[:, 0], spread).log_prob(truth))
    assert torch.isfinite(gaussian.nll(torch.tensor([[0.0, -1e4], [0.0, 1e4]]), torch.tensor([3.0, 3.0]))).all()


def test_bins_against_brute_force() -> None:
    """Cross-entropy of the bin that the value falls in, and the mean of the bins' centres."""
    bins = Bins(0, [-1.0, 0.5, 2.0])
    raw, truth = torch.randn(6, 4), torch.tensor([-3.0, -1.0, 0.0, 0.6, 2.0, 9.0])
    which = [0, 0, 1, 2, 2, 3]  # an edge belongs to the bin below it
    chances = np.exp(raw.numpy()) / np.exp(raw.numpy()).sum(1, keepdims=True)
    expected = [-math.log(chances[k, place]) for k, place in enumerate(which)]
    assert bins.nll(raw, truth).tolist() == pytest.approx(expected, rel=1e-5)
    assert bins.mean(raw).tolist() == pytest.approx((chances @ bins.centres.numpy()).tolist(), abs=1e-5)


def test_bins_are_equally_frequent_under_a_normal_distribution() -> None:
    """Two bins have centres ±√(2/π); eight hold an eighth each, centred on the mean of what they hold."""
    assert Bins(2, []).centres.tolist() == pytest.approx([-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)], abs=1e-6)
    bins, drawn = Bins(8, []), torch.randn(200_000, generator=torch.Generator().manual_seed(3))
    which = torch.bucketize(drawn, bins.edges)
    assert (torch.bincount(which) / len(drawn)).tolist() == pytest.approx([1 / 8] * 8, abs=4e-3)
    means = [float(drawn[which == k].mean()) for k in range(8)]
    assert bins.centres.tolist() == pytest.approx(means, abs=0.02)


@pytest.mark.parametrize("loss", ["gaussian", "bins"])
def test_loss_and_skill_against_brute_force_on_the_grid(batch: Batch, loss: str) -> None:
    """Area-weighted means over hidden, valid cells of each variable, then over variables; padding counts nowhere."""
    encoder, task = make(batch.grid, CrossVariableConfig(loss=loss))
    outcome = task(encoder, batch)
    patches, hidden = patchify(batch, PATCH), task.hidden(batch)
    raw = task.predict(encoder, patches, hidden)
    nll = unpatchify(task.likelihood.nll(raw, patches.values), patches, PATCH).detach().numpy().astype(float)
    mean = unpatchify(task.likelihood.mean(raw), patches, PATCH).detach().numpy().astype(float)
    losses, skills = [], []
    for k, name in enumerate(NAMES):
        total = weight = error = power = 0.0
        for s, t, r, c in np.argwhere(batch.valid[:, :, k].numpy() & hidden[:, k, None, None, None].numpy()):
            area, truth = batch.grid.area[r, c], float(batch.values[s, t, k, r, c])
            weight, total = weight + area, total + area * nll[s, t, k, r, c]
            error, power = error + area * (mean[s, t, k, r, c] - truth) ** 2, power + area * truth**2
        losses.append(total / weight)
        skills.append(1 - error / power)
        assert float(outcome.terms[f"skill_{name}"]) == pytest.approx(skills[-1], abs=1e-4)
    assert outcome.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(outcome.terms["skill"]) == pytest.approx(np.mean(skills), abs=1e-4)


def test_no_anomaly_scores_zero(batch: Batch) -> None:
    """Heads that say nothing predict the climatology, in both likelihoods."""
    for loss, nats in (("gaussian", None), ("bins", math.log(16))):
        encoder, task = make(batch.grid, CrossVariableConfig(loss=loss))
        for parameter in task.heads.parameters():
            torch.nn.init.zeros_(parameter)
        outcome = task(encoder, batch)
        assert float(outcome.terms["skill"]) == pytest.approx(0, abs=1e-5)
        if nats:
            assert outcome.loss.item() == pytest.approx(nats, rel=1e-5)


def test_draws_are_a_function_of_the_keys(batch: Batch) -> None:
    encoder, task = make(batch.grid)
    first, again = task(encoder, batch), task(encoder, batch)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)


def test_the_example_shows_what_was_hidden(batch: Batch) -> None:
    """Shown variables are repeated, hidden ones rebuilt where they were observed, gaps stay gaps."""
    encoder, task = make(batch.grid)
    found, hidden = task.example(encoder, batch), task.hidden(batch)[0]
    observed = batch.valid[0]
    for k in range(len(NAMES)):
        assert torch.isnan(found.shown[:, k]).all() == bool(hidden[k])
        assert torch.equal(torch.isfinite(found.rebuilt[:, k]), observed[:, k])
        same = torch.equal(found.rebuilt[:, k][observed[:, k]], found.truth[:, k][observed[:, k]])
        assert same == (not hidden[k])


def planted(size: int, number: int, shift: int) -> Batch:
    """Return fields of which u10 is minus the sst of the same cell, moved by some columns."""
    rng = np.random.default_rng(number)
    grid = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)
    sst = rng.normal(size=(size, 1, 1, 4, 6))
    fields = torch.from_numpy(np.concatenate([sst, -np.roll(sst, shift, -1)], 2))
    times, keys = torch.zeros(size, 1, dtype=torch.int64), fold(torch.arange(size), number)
    return from_fields(fields, times, keys, torch.ones(2, 4, 6, dtype=torch.bool), ("sst", "u10"), grid, number)


def test_the_cue_solves_a_relation_at_the_point_and_no_other() -> None:
    """A copy with the sign turned: all of it, both ways. The same copy from elsewhere: nothing."""
    for shift, low, high in ((0, 0.999, 1.0), (2, -0.2, 0.1)):
        _, task = make(planted(2, 0, shift).grid, names=("sst", "u10"), window=1)
        cue = task.cues()[0]
        cue.fit(task, [planted(100, number, shift) for number in range(3)], PATCH)
        assert low < cue.skill(task, planted(100, 9, shift), PATCH) <= high
    with pytest.raises(EarthSSLError, match="call fit first"):
        SamePoint().skill(task, planted(4, 0, 0), PATCH)


def test_the_cue_is_scored_as_the_task_is(batch: Batch) -> None:
    """A cue without any relation to use predicts no anomaly: skill 0, with land and gaps, as the task's zero heads."""
    _, task = make(batch.grid)
    cue = SamePoint()
    cue.fit(task, [replace(batch, values=batch.values * 0)], PATCH)
    assert cue.skill(task, batch, PATCH) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", ["gaussian", "bins"])
def test_a_planted_relation_is_learnt(loss: str) -> None:
    """Minus the other variable, both ways; before training there is no skill."""
    config = CrossVariableConfig(loss=loss)
    encoder, task = make(planted(2, 0, 0).grid, config, ("sst", "u10"), window=1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=4e-3)
    skills = []
    for number in range(100):
        outcome = task(encoder, planted(32, number, 0))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        skills.append([float(outcome.terms[f"skill_{name}"]) for name in ("sst", "u10")])
    assert max(skills[0]) < 0.2
    assert np.mean(skills[-10:], 0).min() > 0.6


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    for bad, said in (
        ({"loss": "mse"}, "gaussian or bins"),
        ({"bins": 1}, "at least 2"),
        ({"edges": [0.0, 0.0]}, "each above the last"),
        ({"edges": [0.0, math.inf]}, "finite"),
        ({"groups": [["sst"], []]}, "names in every group"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            CrossVariableConfig(**bad)  # type: ignore[arg-type]
    for groups, said in (
        ([["sst"], ["u11"]], "Did you mean 'u10'"),
        ([["sst", "u10"], ["u10"]], "u10 in two"),
        ([["sst", "u10"]], "sst, u10, v10 are one in groups"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            make(batch.grid, CrossVariableConfig(groups=groups))
    with pytest.raises(EarthSSLError, match=r"u10, v10 are one in the groups .* set cross_variable.groups"):
        make(batch.grid, names=("u10", "v10"))

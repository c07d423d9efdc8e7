"""Temporal latent prediction: the right windows, both sides trained, no collapse, and a skill that a collapse lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.temporal_latent import (
    FeaturePersistence,
    TemporalLatent,
    TemporalLatentConfig,
    variance_explained,
)
from earthssl.pretext.redundancy import departures
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)
LEADS = TemporalLatentConfig(leads=[1, 3])


def make(
    grid: LatLonGrid, config: TemporalLatentConfig = LEADS, names: tuple[str, ...] = NAMES
) -> tuple[Any, TemporalLatent]:
    """Return a new encoder of two steps and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(names)
    return encoder, config.build(Context(encoder, names, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows of 6 months: two, and two that begin one to three after."""
    return small_windows("train", 6).batch(torch.arange(0, 160, 20))  # type: ignore[no-any-return]


def series(x: torch.Tensor, number: int = 0) -> Batch:
    """Return fields (sample, step, row, column) of sst as a batch."""
    keys, known = fold(torch.arange(len(x)), number), torch.ones(1, 4, 6, dtype=torch.bool)
    times = 86400 * torch.arange(x.shape[1]).expand(len(x), -1)
    return from_fields(x[:, :, None], times, keys, known, ("sst",), GRID, number)


def test_the_later_window_begins_at_the_lead(batch: Batch) -> None:
    """Its first step is the lead after the window's last one, for every sample."""
    _, task = make(batch.grid)
    picks = task.picks(batch)
    assert set(picks.tolist()) == {0, 1}
    now, later = task.pose(batch, PATCH, picks)
    assert torch.equal(now.values, patchify(batch.cut(0, 2), PATCH).values)
    for sample, pick in enumerate(picks.tolist()):
        start = 2 - 1 + [1, 3][pick]
        assert torch.equal(later.values[sample], patchify(batch.cut(start, 2), PATCH).values[sample])
    assert LEADS.span(EncoderConfig("nano", 2, PATCH)) == 6
    assert TemporalLatentConfig(leads=[4]).span(EncoderConfig("nano", 12, PATCH)) == 27


def test_nothing_of_the_later_window_reaches_the_prediction(batch: Batch) -> None:
    """Other fields after the window: the same prediction, other targets, another loss."""
    encoder, task = make(batch.grid)
    picks = task.picks(batch)
    values = batch.values.clone()
    values[:, 2:] = torch.randn_like(values[:, 2:]) * batch.valid[:, 2:]
    other = replace(batch, values=values)
    shown = [task.pose(x, PATCH, picks)[0] for x in (batch, other)]
    guesses = [task.predict(encoder(patches), patches, picks) for patches in shown]
    assert torch.equal(*guesses)
    assert not torch.equal(task(encoder, batch).loss, task(encoder, other).loss)


def test_a_constant_encoder_has_a_large_loss_and_no_skill(batch: Batch) -> None:
    """Constant features, or such as tell the place alone: nearly 2 × the weight of variance, which nothing makes up."""
    for blind in ("constant", "place"):
        encoder, task = make(batch.grid)
        with torch.no_grad():
            if blind == "constant":
                encoder.norm.weight.zero_()
            else:
                for block in encoder.embedding.blocks.values():
                    block.zero_()
        outcome = task(encoder, batch)
        assert float(outcome.terms["variance"]) == pytest.approx(2 * (1 - 1e-2), abs=1e-3)  # 1 - sqrt(1e-4), twice
        assert outcome.loss.item() > 25 * 1.97
        assert float(outcome.terms["skill"]) == 0
        assert float(outcome.terms["spread"]) < 1e-3


def test_skill_of_the_truth_and_of_the_mean(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later features themselves: error 0, skill 1; each token's mean over the batch: about 0."""
    encoder, task = make(batch.grid)
    _, later = task.pose(batch, PATCH, task.picks(batch))
    truth = encoder(later, hide=frozenset({"season"})).detach()
    monkeypatch.setattr(task, "predict", lambda *_: truth)
    outcome = task(encoder, batch)
    assert float(outcome.terms["prediction"]) == pytest.approx(0, abs=1e-10)
    assert float(outcome.terms["skill"]) == pytest.approx(1, abs=1e-6)
    mean = truth.mean(0, keepdim=True).expand_as(truth)
    assert float(variance_explained(mean, truth)["skill"]) == pytest.approx(1 / 8, abs=1e-5)  # it knows all eight


def test_the_loss_by_loops(batch: Batch) -> None:
    """Squared error; deviations of each feature about its token's mean; covariances over samples and tokens."""
    encoder, task = make(batch.grid, TemporalLatentConfig(prediction=2.0, variance=3.0, covariance=0.5))
    picks = task.picks(batch)
    now, later = task.pose(batch, PATCH, picks)
    a, b = (encoder(patches, hide=frozenset({"season"})) for patches in (now, later))
    error = ((task.predict(a, now, picks) - b) ** 2).mean()
    variance = covariance = 0.0
    for x in (a, b):
        rows = ((x - x.mean(0)) * (8 / 7) ** 0.5).flatten(0, 1).detach().double().numpy()
        found = np.cov(rows.T)
        variance += np.maximum(1 - np.sqrt(np.diag(found) + 1e-4), 0).mean()
        covariance += (found**2).sum() / 64 - (np.diag(found) ** 2).sum() / 64
    outcome = task(encoder, batch)
    assert outcome.loss.item() == pytest.approx(2 * error.item() + 3 * variance + 0.5 * covariance, rel=1e-4)


def test_departures_have_the_variance_as_mean_square() -> None:
    x = torch.randn(2, 5, 7, 3) + torch.randn(7, 3)
    assert departures(x).square().mean(1).numpy() == pytest.approx(x.var(1).numpy(), rel=1e-4)
    assert not departures(x[:, :1]).any()


def test_gradients_flow_into_both_sides(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a prediction that is held, or an encoding of the window that is, the encoder still learns."""
    encoder, task = make(batch.grid)
    task(encoder, batch).loss.backward()
    for name, p in task.named_parameters():
        idle = name.split(".")[:2] in (["encodings", "season"], ["encodings", "layout"])
        assert (p.grad is None) == idle, name
    encoder, task = make(batch.grid, TemporalLatentConfig(variance=1e-12, covariance=0.0))
    predict = task.predict
    monkeypatch.setattr(task, "predict", lambda x, *more: predict(x.detach(), *more))
    task(encoder, batch).loss.backward()
    assert float(encoder.embedding.blocks["u10"].grad.abs().max()) > 1e-6


def test_season_is_not_shown_and_draws_follow_the_keys(batch: Batch) -> None:
    encoder, task = make(batch.grid)
    loss = task(encoder, batch).loss
    assert torch.equal(loss, task(encoder, replace(batch, times=batch.times + 86400 * 100)).loss)
    assert not torch.equal(loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)
    picks = task.picks(series(torch.zeros(3000, 6, 4, 6)))
    assert float(picks.float().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 3000**0.5)


def travelling(number: int) -> Batch:
    """Waves of a random phase that travel on, in noise that does not last."""
    rng = np.random.default_rng(number)
    phase = rng.uniform(0, 2 * np.pi, (32, 1, 1, 1)) + 0.8 * np.arange(6)[:, None, None]
    wave = np.cos(np.deg2rad(GRID.lon) + phase) * np.ones((4, 1))
    return series(torch.from_numpy(2**0.5 * wave + 0.3 * rng.normal(size=wave.shape)).float(), number)


def test_a_travelling_wave_is_foreseen() -> None:
    """Without collapse: features vary, and damped persistence of them explains less."""
    encoder, task = make(GRID, names=("sst",))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
    for number in range(120):
        outcome = task(encoder, travelling(number))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    encoder.eval(), task.eval()
    cue = FeaturePersistence()
    with pytest.raises(EarthSSLError, match="expected a persistence fitted"):
        cue.skill(task, travelling(999), PATCH)
    with pytest.raises(EarthSSLError, match="expected the trained encoder"):
        cue.fit(task, [travelling(500)], PATCH)
    cue.encoder = encoder
    with torch.no_grad():
        found = task(encoder, travelling(999)).terms
        cue.fit(task, [travelling(number) for number in range(500, 510)], PATCH)
        still = cue.skill(task, travelling(999), PATCH)
    assert outcome.loss.item() < 30  # 49.5 is the least that constant features can have
    assert float(found["spread"]) > 0.5
    assert float(found["skill"]) > 0.3
    assert still < float(found["skill"]) - 0.1


def test_what_lasts_is_given_by_persistence() -> None:
    """Of fields that stay as they are, the cue explains everything."""
    encoder, task = make(GRID, names=("sst",))
    encoder.eval(), task.eval()

    def lasting(number: int) -> Batch:
        start = torch.randn(64, 1, 4, 6, generator=torch.Generator().manual_seed(number))
        return series(start.expand(-1, 6, -1, -1), number)

    cue = task.cues()[0]
    cue.encoder = encoder
    with torch.no_grad():
        cue.fit(task, [lasting(number) for number in range(20)], PATCH)
        assert cue.skill(task, lasting(99), PATCH) > 0.97


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    for bad, said in (
        ({"leads": []}, "at least one"),
        ({"leads": [0, 1]}, "≥ 1"),
        ({"leads": [2, 2]}, "different steps"),
        ({"variance": 0.0}, "collapse"),
        ({"prediction": -1.0}, "prediction > 0"),
        ({"covariance": -1.0}, "a weight ≥ 0"),
        ({"predictor_depth": 0}, "predictor_depth ≥ 1"),
        ({"predictor_width": 30}, "4 heads divide"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            TemporalLatentConfig(**bad)  # type: ignore[arg-type]
    encoder, task = make(batch.grid, TemporalLatentConfig(leads=[4]))
    with pytest.raises(EarthSSLError, match="expected a window inside"):
        task(encoder, batch)

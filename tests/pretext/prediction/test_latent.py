"""Latent prediction: which tokens are asked for, what is predicted, and a skill that a collapse does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.latent import Latent, LatentConfig, Neighbours, explained, levelled
from earthssl.pretext.prediction.masks import Mask, MaskConfig, draw
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import Patches, gather, patchify
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
BAND = 0.05  # within which every row's share of hidden tokens, and every token's, lies about the ratio


def make(batch: Batch, config: LatentConfig | None = None) -> tuple[Any, Latent]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, PATCH).build(NAMES)
    return encoder, (config or LatentConfig()).build(Context(encoder, NAMES, batch.grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows of 3 months."""
    return small_windows("train", 3).batch(range(0, 200, 25))  # type: ignore[no-any-return]


def globe(rows: int, columns: int) -> Patches:
    """Patches of one cell, two steps, on a global grid without land."""
    lat = 90 - (np.arange(rows) + 0.5) * 180 / rows
    grid = LatLonGrid(lat, np.arange(columns) * 360 / columns)
    fields, known = torch.zeros(1, 2, 1, rows, columns), torch.ones(1, rows, columns, dtype=torch.bool)
    times, keys = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    return patchify(from_fields(fields, times, keys, known, ("sst",), grid), (1, 1, 1))


def many(count: int) -> torch.Tensor:
    """Return the keys of so many samples."""
    return fold(torch.full((count,), 5), torch.arange(count))


@pytest.mark.parametrize(("rows", "columns"), [(4, 8), (8, 16), (13, 25)])
def test_every_token_is_context_and_target_equally_often(rows: int, columns: int) -> None:
    """With the task's own mask: each row within .05 of the ratio, each token within .05 and sampling noise."""
    patches, draws = globe(rows, columns), 3000
    config = LatentConfig().mask
    mask = draw(config, patches, many(draws))
    target = torch.zeros(draws, patches.count).scatter_(1, mask.hidden, 1)
    assert (target.sum(1) == mask.hidden.shape[1]).all()
    ratio = mask.hidden.shape[1] / patches.count
    assert ratio == pytest.approx(config.ratio, abs=0.5 / (rows * columns))
    share = target.mean(0).unflatten(0, (2, rows, columns))
    assert torch.equal(share[0], share[1])  # a place is hidden at all steps
    noise = 4 * 0.5 / draws**0.5
    assert share.mean((0, 2)).numpy() == pytest.approx(ratio, abs=BAND)
    assert share.numpy() == pytest.approx(ratio, abs=BAND + noise)
    # North and south, east and west alike: no order of tokens favours the first rows or columns.
    assert share.mean((0, 2)).numpy() == pytest.approx(share.mean((0, 2)).flip(0).numpy(), abs=noise)
    assert share.mean((0, 1)).numpy() == pytest.approx(ratio, abs=noise)


def test_hidden_caps_wrap_in_longitude() -> None:
    """A gap at the first column goes on at the last as often as within the map."""
    patches = globe(8, 16)
    mask = draw(replace(LatentConfig().mask, blocks=1, ratio=0.2), patches, many(2000))
    hidden = torch.zeros(2000, patches.count).scatter_(1, mask.hidden, 1).unflatten(1, (2, 8, 16))[:, 0]
    together = (hidden * hidden.roll(1, 2)).mean((0, 1))  # column k with its western neighbour; 0 with the last
    assert float(together[0]) == pytest.approx(float(together[1:].mean()), abs=0.02)
    assert float(together[0]) > 0.1


def test_targets_are_thinned_at_random() -> None:
    """In training the share asked for is exact, each hidden token equally likely, no row of them favoured."""
    patches = globe(8, 16)
    steps, rows, columns = patches.shape
    batch = from_fields(
        torch.zeros(2000, steps, 1, rows, columns),
        torch.zeros(2000, steps, dtype=torch.int64),
        many(2000),
        torch.ones(1, rows, columns, dtype=torch.bool),
        ("sst",),
        patches.grid,
    )
    encoder = EncoderConfig("nano", 2, (1, 1, 1)).build(("sst",))
    task = LatentConfig(targets=0.25).build(Context(encoder, ("sst",), patches.grid))
    _, mask = task.pose(batch, (1, 1, 1))
    _, whole = task.eval().pose(batch, (1, 1, 1))
    assert torch.equal(mask.keep, whole.keep)
    assert mask.hidden.shape[1] == round(0.25 * whole.hidden.shape[1])
    asked = torch.zeros(2000, patches.count).scatter_(1, mask.hidden, 1)
    hidden = torch.zeros(2000, patches.count).scatter_(1, whole.hidden, 1)
    assert (asked <= hidden).all()
    share = (asked.sum(0) / hidden.sum(0)).unflatten(0, (2, 8, 16))
    assert share.mean((0, 2)).numpy() == pytest.approx(0.25, abs=0.02)
    assert share.mean((1, 2)).numpy() == pytest.approx(0.25, abs=0.02)


def test_the_teacher_sees_all_and_the_student_what_is_shown(batch: Batch) -> None:
    """What is hidden changes the targets and no prediction; what is shown changes both."""
    encoder, task = make(batch)
    task.eval()
    patches, mask = task.pose(batch, PATCH)
    for token, hidden in ((int(mask.hidden[0, 0]), True), (int(mask.keep[0, 0]), False)):
        values = patches.values.clone()
        values[0, token] += patches.valid[0, token] * 1.0
        other = replace(patches, values=values)
        same = torch.equal(task.predict(encoder, patches, mask), task.predict(encoder, other, mask))
        assert same == hidden
        assert not torch.equal(task.targets(patches)[0], task.targets(other)[0])


def test_trend_and_level_are_not_shown(batch: Batch) -> None:
    """What is shown has no area mean; a drift of whole maps changes neither targets nor predictions; gaps stay 0."""
    encoder, task = make(batch)
    shown = levelled(batch)
    area = torch.from_numpy(batch.grid.area).float()
    means = (shown.values * area * shown.valid).sum((-1, -2)) / (area * shown.valid).sum((-1, -2))
    assert float(means.abs().max()) < 1e-6
    assert (shown.values[~shown.valid] == 0).all()
    drift = (3.0 + 2.0 * torch.arange(3.0)[:, None, None, None]) * torch.tensor([1.0, -2, 5])[:, None, None]
    drifted = replace(batch, values=(batch.values + drift) * batch.valid)
    torch.testing.assert_close(task(encoder, drifted).loss, task(encoder, batch).loss, rtol=1e-4, atol=1e-5)


def test_targets_are_normalised_teacher_features(batch: Batch) -> None:
    """Mean 0 and variance 1 over the features, no gradient; the time of year changes nothing."""
    encoder, task = make(batch)
    patches = patchify(batch, PATCH)
    found = task.targets(patches)
    assert found.shape == (8, patches.count, encoder.width)
    assert not found.requires_grad
    assert float(found.mean(-1).abs().max()) < 1e-5
    assert found.var(-1, unbiased=False).detach().numpy() == pytest.approx(1, abs=1e-3)
    features = encoder.eval()(patches, hide=frozenset({"season"}))
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(features, (encoder.width,)).detach())
    later = replace(batch, times=batch.times + 86400 * 100)
    assert torch.equal(task(encoder, batch).loss, task(encoder, later).loss)


def test_the_loss_is_smooth_l1_of_the_hidden(batch: Batch) -> None:
    """By loops over samples and tokens; gradients reach encoder and predictor and no teacher."""
    encoder, task = make(batch)
    task.train()
    patches, mask = task.pose(batch, PATCH)
    prediction, targets = task.predict(encoder, patches, mask), task.targets(patches)
    total = []
    for b in range(len(batch)):
        for k, token in enumerate(mask.hidden[b].tolist()):
            apart = (prediction[b, k] - targets[b, token]).abs()
            total.append(torch.where(apart < 1, apart**2 / 2, apart - 0.5).mean())
    outcome = task(encoder, batch)
    torch.testing.assert_close(outcome.loss, torch.stack(total).mean())
    outcome.loss.backward()
    for name, p in task.named_parameters():
        idle = name.startswith("teacher") or name.split(".")[:2] in (["encodings", "season"], ["encodings", "layout"])
        assert (p.grad is None) == idle
    assert encoder.embedding.blocks["sst"].grad.any()
    assert torch.equal(outcome.loss, task(encoder, batch).loss)
    assert not torch.equal(outcome.loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)


@pytest.mark.parametrize("kind", ["random", "tube", "variable", "cells", "last"])
def test_other_masks_do_as_well(kind: str, batch: Batch) -> None:
    """Any kind of pretext/prediction/masks.py gives a finite loss and skill."""
    encoder, task = make(batch, LatentConfig(mask=MaskConfig(kind, ratio=0.5)))
    outcome = task(encoder, batch)
    assert torch.isfinite(outcome.loss)
    assert all(torch.isfinite(term) for term in outcome.terms.values())


def test_skill_by_hand() -> None:
    """Perfect: 1. The mean of each token: 0 on average. Twice the truth: 0. A constant or positional teacher: 0."""
    torch.manual_seed(0)
    place = 3 * torch.randn(1, 6, 4)
    everything = place + torch.randn(400, 6, 4)
    mask = Mask(torch.rand(400, 6).argsort(1), 2)
    truth = gather(everything, mask.hidden)
    mean = gather(place.expand(400, -1, -1), mask.hidden)
    assert float(explained(truth, everything, mask)["skill"]) == 1
    assert float(explained(mean, everything, mask)["skill"]) == pytest.approx(0, abs=0.02)
    assert float(explained(2 * truth - mean, everything, mask)["skill"]) == pytest.approx(0, abs=0.02)
    assert float(explained((truth + mean) / 2, everything, mask)["skill"]) == pytest.approx(0.75, abs=0.01)
    assert float(explained(truth, everything, mask)["spread"]) == pytest.approx(1, abs=0.02)
    for collapsed in (place.expand(400, -1, -1), torch.zeros(400, 6, 4), place + 0.01 * torch.randn(400, 6, 4)):
        for guess in (gather(collapsed, mask.hidden), truth):
            assert float(explained(guess, collapsed, mask)["skill"]) == 0


def test_few_samples_do_not_favour_their_own_mean() -> None:
    """The variance is that about the true mean, also of 3 samples; of one there is none."""
    torch.manual_seed(0)
    powers = []
    for _ in range(400):
        everything = torch.randn(3, 4, 8)
        mask = Mask(torch.arange(4).expand(3, -1), 1)
        powers.append(float(explained(everything[:, 1:], everything, mask)["spread"]) ** 2)
    assert np.mean(powers) == pytest.approx(1, abs=0.02)
    one = explained(torch.randn(1, 3, 8), torch.randn(1, 4, 8), Mask(torch.arange(4)[None], 1))
    assert float(one["skill"]) == float(one["spread"]) == 0


def test_the_teacher_follows_the_encoder(batch: Batch) -> None:
    """A step at the start of a long run moves it by 1 - τ."""
    encoder, task = make(batch, LatentConfig(tau=0.9))
    with torch.no_grad():
        encoder.embedding.bias.add_(1.0)
    before = task.teacher.network.embedding.bias.detach().clone()  # type: ignore[union-attr, operator]
    task.after_step(encoder, 1e-6)
    after = task.teacher.network.embedding.bias.detach()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(after, before + 0.1)


def test_neighbours_are_blended_by_distance(batch: Batch) -> None:
    """Sharp: a copy of the nearest of the same step, across the edge of the map; blunt: by exp(cos / sharpness)."""
    patches = globe(4, 8)
    # Shown: columns 0 and 4 of both steps; hidden: the rest.
    column = patches.cell % 8
    shown = (column == 0) | (column == 4)
    order = torch.cat([shown.nonzero()[:, 0], (~shown).nonzero()[:, 0]])[None]
    mask = Mask(order, int(shown.sum()))
    points, steps = patches.place[:, :3].double(), patches.step.double()[:, None]
    features = torch.cat([points, steps], 1)[None]
    sharp = Neighbours._blend(features.float(), patches, mask, 1e-5)[0].double()
    blunt = Neighbours._blend(features.float(), patches, mask, 0.3)[0].double()
    for k, token in enumerate(mask.hidden[0].tolist()):
        same = [other for other in mask.keep[0].tolist() if patches.step[other] == patches.step[token]]
        reach = torch.tensor([float(points[token] @ points[other]) for other in same]).double()
        # Of tokens equally near, any blend lies equally near.
        assert float(points[token] @ sharp[k, :3]) == pytest.approx(float(reach.max()), abs=1e-4)
        assert float(sharp[k, 3]) == pytest.approx(float(steps[token]), abs=1e-4)
        weights = (reach / 0.3).exp()
        assert blunt[k, :3].tolist() == pytest.approx(((weights / weights.sum()) @ points[same]).tolist(), abs=1e-3)
    _, task = make(batch)
    cue = Neighbours()
    with pytest.raises(EarthSSLError, match="call fit first"):
        cue.skill(task, batch, PATCH)
    cue.fit(task.eval(), [batch], PATCH)
    assert -0.5 < cue.skill(task, batch, PATCH) < 1


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    """Settings out of range, and a mask that leaves nothing."""
    for bad in ({"targets": 0.0}, {"targets": 1.5}, {"predictor_depth": 0}, {"predictor_width": 30}):
        with pytest.raises(EarthSSLError, match="expected"):
            LatentConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match="tau"):
        make(batch, LatentConfig(tau=1.0))
    encoder, task = make(batch, LatentConfig(mask=MaskConfig("block", ratio=0.99)))
    with pytest.raises(EarthSSLError, match="mask ratio"):
        task(encoder, batch)

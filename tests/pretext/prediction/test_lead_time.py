"""Forecasting as a pretext task: the right step is predicted from the right window, skill, persistence and its kin."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.lead_time import (
    DampedPersistence,
    LeadTime,
    LeadTimeConfig,
    OwnPast,
    Persistence,
    later,
)
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


def make(
    grid: LatLonGrid,
    config: LeadTimeConfig,
    window: int = 2,
    names: tuple[str, ...] = NAMES,
    patch: tuple[int, int, int] = PATCH,
) -> tuple[Any, LeadTime]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", window, patch).build(names)
    return encoder, config.build(Context(encoder, names, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Eight windows of 5 months with land in sst; a box of u10 is missing in two of them."""
    made = small_windows("train", 5).batch(torch.arange(0, 160, 20))
    valid = made.valid.clone()
    valid[:2, 1:4, 1, 3:5, 6:9] = False
    return replace(made, valid=valid, values=made.values * valid)


def windows(x: torch.Tensor, number: int = 0) -> Batch:
    """Return fields (sample, step, row, column) of sst as a batch."""
    keys, known = fold(torch.arange(len(x)), number), torch.ones(1, 4, 6, dtype=torch.bool)
    times = 86400 * torch.arange(x.shape[1]).expand(len(x), -1)
    return from_fields(x[:, :, None], times, keys, known, ("sst",), GRID, number)


@pytest.mark.parametrize("draw", ["one", "all"])
def test_the_target_is_the_field_at_that_step(batch: Batch, draw: str) -> None:
    """Lead k after the window's last step, with its time and its gaps, for every sample."""
    _, task = make(batch.grid, LeadTimeConfig(leads=[1, 3], draw=draw))
    picks = task.picks(batch)
    truth = task.truth(batch, picks)
    assert picks.shape == (8, 1 if draw == "one" else 2)
    place = 0
    for sample in range(8):
        for pick in picks[sample].tolist():
            step = 2 - 1 + [1, 3][pick]
            for name in ("values", "valid", "times"):
                assert torch.equal(getattr(truth, name)[place, 0], getattr(batch, name)[sample, step])
            place += 1
    assert place == len(truth.values)
    assert LeadTimeConfig(leads=[3, 1]).span(EncoderConfig("nano", 2, PATCH)) == 5


def test_nothing_after_the_window_is_looked_at(batch: Batch) -> None:
    """Other fields and gaps at the leads: the same prediction; in the window: another."""
    encoder, task = make(batch.grid, LeadTimeConfig(leads=[1, 3], residual=True))
    picks = task.picks(batch)
    before = task.predict(encoder, batch, picks)
    for steps, same in ((slice(2, None), True), (slice(0, 1), False), (slice(1, 2), False)):
        values = batch.values.clone()
        values[:, steps] = torch.randn_like(values[:, steps]) * batch.valid[:, steps]
        assert torch.equal(before, task.predict(encoder, replace(batch, values=values), picks)) == same
    valid = batch.valid.clone()
    valid[:, 2:] &= torch.rand(valid[:, 2:].shape) > 0.5
    assert torch.equal(before, task.predict(encoder, replace(batch, valid=valid), picks))


def test_persistence_by_hand() -> None:
    """A field that doubles: 1 - 1/4; that stays: 1; that turns its sign: -3."""
    start = torch.randn(6, 1, 4, 6)
    for factor, skill in ((2.0, 0.75), (1.0, 1.0), (-1.0, -3.0)):
        batch = windows(torch.cat([start * 0, start, start * factor], 1))
        _, task = make(GRID, LeadTimeConfig(leads=[1]), names=("sst",))
        assert Persistence().skill(task, batch, PATCH) == pytest.approx(skill, abs=1e-5)


@pytest.mark.parametrize("draw", ["one", "all"])
@pytest.mark.parametrize("patch", [(1, 2, 3), (2, 3, 4)])
def test_heads_that_say_nothing(batch: Batch, draw: str, patch: tuple[int, int, int]) -> None:
    """They predict the climatology: skill 0; with residual they are persistence, by an entirely different path."""
    for residual in (False, True):
        config = LeadTimeConfig(leads=[1, 3], draw=draw, residual=residual)
        encoder, task = make(batch.grid, config, patch=patch)
        for parameter in task.heads.parameters():
            torch.nn.init.zeros_(parameter)
        expected = Persistence().skill(task, batch, patch) if residual else 0
        assert float(task(encoder, batch).terms["skill"]) == pytest.approx(expected, abs=1e-5)


def test_loss_and_skill_against_brute_force(batch: Batch) -> None:
    """Area-weighted means over valid cells of each variable, then over variables; leads have terms of their own."""
    encoder, task = make(batch.grid, LeadTimeConfig(leads=[1, 3], draw="all"))
    outcome, picks = task(encoder, batch), task.picks(batch)
    target = patchify(task.truth(batch, picks), PATCH)
    guess = task.predict(encoder, batch, picks).detach()
    area = target.area[:, None].expand(target.values.shape[1:]).numpy().astype(float)
    found: dict[str, list[float]] = {"all": [], "lead1": [], "lead3": []}
    errors = []
    for k in range(3):
        for name, own in (("all", [0, 1]), ("lead1", [0]), ("lead3", [1])):
            rows = [r for r in range(16) if r % 2 in own]
            weight = target.valid[rows][:, :, k].numpy() * area[:, k]
            truth, made = (x[rows][:, :, k].numpy().astype(float) for x in (target.values, guess))
            error, power = (weight * (made - truth) ** 2).sum(), (weight * truth**2).sum()
            found[name].append(1 - error / power)
            if name == "all":
                errors.append(error / weight.sum())
    assert outcome.loss.item() == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(outcome.terms["skill"]) == pytest.approx(np.mean(found["all"]), abs=1e-4)
    for lead in (1, 3):
        assert float(outcome.terms[f"skill_lead{lead}"]) == pytest.approx(np.mean(found[f"lead{lead}"]), abs=1e-4)
    assert float(outcome.terms["skill_u10"]) == pytest.approx(found["all"][1], abs=1e-4)


def test_fitted_cues_find_what_was_planted() -> None:
    """Half of the last step; and last step less the one before, which damping cannot have."""

    def series(number: int, oscillating: bool) -> Batch:
        torch.manual_seed(number)
        x = list(torch.randn(2, 200, 4, 6))
        for _ in range(3):
            x.append(x[-1] - x[-2] if oscillating else 0.5 * x[-1])
        return windows(torch.stack(x, 1), number)

    config = LeadTimeConfig(leads=[1, 2])
    for oscillating in (False, True):
        _, task = make(GRID, config, names=("sst",))
        cues = {type(cue): cue for cue in task.cues()}
        for cue in cues.values():
            cue.fit(task, [series(number, oscillating) for number in range(3)], PATCH)
        skills = {kind: cue.skill(task, series(9, oscillating), PATCH) for kind, cue in cues.items()}
        assert skills[OwnPast] > 0.999
        if oscillating:  # lead 1: half the power is of the last step, lead 2: none is
            assert skills[DampedPersistence] == pytest.approx(1 / 3, abs=0.05)
        else:  # half at lead 1 (1 - (1/4)/(1/4)), a quarter at lead 2
            assert skills[DampedPersistence] > 0.999
            assert skills[Persistence] < 0
    with pytest.raises(EarthSSLError, match="call fit first"):
        OwnPast().skill(task, series(0, True), PATCH)


def test_draws_are_a_function_of_the_keys(batch: Batch) -> None:
    """Each lead is asked for equally often (5 standard errors), and the loss comes back."""
    encoder, task = make(batch.grid, LeadTimeConfig(leads=[1, 2, 3]))
    picks = task.picks(windows(torch.zeros(3000, 5, 4, 6)))
    assert (torch.bincount(picks[:, 0]) / 3000).tolist() == pytest.approx([1 / 3] * 3, abs=5 * (2 / 9 / 3000) ** 0.5)
    loss = task(encoder, batch).loss
    assert torch.equal(loss, task(encoder, batch).loss)
    assert not torch.equal(loss, task(encoder, replace(batch, keys=batch.keys + 1)).loss)


@pytest.mark.parametrize(("residual", "hidden"), [(False, 0), (True, 32)])
def test_a_travelling_wave_is_foreseen(residual: bool, hidden: int) -> None:
    """One head turns the phase by another angle for each lead; persistence and no anomaly cannot."""
    rng = np.random.default_rng(1)
    encoder, task = make(GRID, LeadTimeConfig(leads=[1, 3], residual=residual, hidden=hidden), names=("sst",))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=4e-3)
    seen = []
    for number in range(90):
        phase = rng.uniform(0, 2 * np.pi, (32, 1, 1, 1)) + 0.8 * np.arange(5)[:, None, None]
        batch = windows(torch.from_numpy(np.cos(np.deg2rad(GRID.lon) + phase) * np.ones((4, 1))), number)
        outcome = task(encoder, batch)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        seen.append([float(outcome.terms[f"skill_lead{lead}"]) for lead in (1, 3)])
    assert Persistence().skill(task, batch, PATCH) < 0
    assert np.mean(seen[-10:], 0).min() > 0.8


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    for bad, said in (
        ({"leads": []}, "at least one"),
        ({"leads": [0, 1]}, "≥ 1"),
        ({"leads": [2, 2]}, "different steps"),
        ({"draw": "some"}, "one or all"),
        ({"hidden": -1}, "0 for a linear head"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            LeadTimeConfig(**bad)  # type: ignore[arg-type]
    _, task = make(batch.grid, LeadTimeConfig(leads=[4]))
    with pytest.raises(EarthSSLError, match="expected a window inside"):
        task(make(batch.grid, LeadTimeConfig(leads=[4]))[0], batch.cut(0, 1))


def seconds(times: np.ndarray) -> torch.Tensor:
    """Return one sample's times, seconds since 1970, (1, step)."""
    return torch.from_numpy(times.astype("datetime64[s]").astype(np.int64))[None]


@pytest.mark.parametrize("within", [0, 14, 30])
def test_months_ahead_are_counted_in_months(within: int) -> None:
    """From every month, over every lead: the month that is forecast, stamped at its start, middle or end."""
    leads = np.array([1, 2, 3, 6, 12, 25])
    for start, window in itertools.product(range(24), (2, 3, 12)):
        months = np.datetime64("2003-01") + start + np.arange(window + 25)
        ends = (months + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
        times = seconds(np.minimum(months.astype("datetime64[D]") + within, ends))
        found = later(times[:, :1], times[:, 1:2], times[:, window - 1 : window], torch.from_numpy(leads)[None])
        made = found.numpy().ravel().astype("datetime64[s]")
        assert made.astype("datetime64[M]").tolist() == months[window - 1 + leads].tolist()
        if within < 28:
            assert torch.equal(found.ravel(), times[0, window - 1 + leads])


@pytest.mark.parametrize(
    ("first", "step", "reached"),
    [("01-31", 1, "2001-02-04"), ("01-31", 5, "2001-02-20"), ("01-01", 28, "2001-04-23"), ("01-31", 365, "2005-01-31")],
)
def test_other_steps_are_added_up(first: str, step: int, reached: str) -> None:
    """Three days, pentads, or four weeks within a month after the second time; years are twelve months."""
    times = seconds(np.datetime64(f"2001-{first}") + step * np.arange(2))
    found = later(times[:, :1], times[:, 1:], times[:, 1:], torch.tensor([[3]]))
    assert np.array_equal(found.numpy().ravel(), seconds(np.array([reached], "datetime64[D]")).numpy().ravel())


def test_fields_at_a_lead_are_whole_fields(batch: Batch) -> None:
    """A head of zeros that starts from persistence gives the last step, whatever the lead; trained or not, patches."""
    encoder, objective = make(batch.grid, LeadTimeConfig(leads=[1, 3], draw="all", residual=True))
    with torch.no_grad():
        made = objective.fields(encoder, batch, 3)
        picks = torch.ones((len(batch), 1), dtype=torch.int64)
        patches = patchify(replace(objective.last(batch, picks), values=made[:, None]), PATCH)
        assert torch.equal(patches.values[patches.valid], objective.predict(encoder, batch, picks)[patches.valid])
        for head in objective.heads.values():
            for values in head.parameters():
                values.zero_()
        assert torch.equal(objective.fields(encoder, batch, 3), batch.values[:, 1])
        assert torch.equal(objective.fields(encoder, batch.cut(0, 2), 1), batch.values[:, 1])
    with pytest.raises(EarthSSLError, match=r"expected one of the leads \[1, 3\], got 2"):
        objective.fields(encoder, batch, 2)

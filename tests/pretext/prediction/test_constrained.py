"""Pretext tasks held to constraints: what they return satisfies them, what they observe stays, runs say by how much."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.cli.main import main
from earthssl.pretext import TASKS
from earthssl.pretext.prediction.lead_time import LeadTimeConfig
from earthssl.pretext.prediction.masking import MaskingConfig
from earthssl.pretext.prediction.masks import MaskConfig, draw
from earthssl.pretext.prediction.stochastic_lead_time import StochasticLeadTimeConfig
from earthssl.ssl.common.config import build
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.constraints.config import ConstraintConfig
from earthssl.ssl.constraints.field_constraints import FieldConstraints
from earthssl.ssl.constraints.wind import RADIUS, WindHarmonics
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import gather, patchify, unpatchify
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import load_objectives

PATCH = (1, 2, 3)
WIND = {"kind": "divergence", "u": "u10", "v": "v10", "how": "hard"}
WARM = {"kind": "bounded", "variables": ["sst"], "lower": 289.0, "how": "hard"}
MEAN = {"kind": "integral", "variables": ["sst"]}
ENERGY = {"kind": "energy", "u": "u10", "v": "v10"}
SHORT = {"steps": 4, "warmup_steps": 1, "val_every": 4, "save_every": 4}


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Four windows of 5 months with land in sst."""
    made: Batch = small_windows("train", 5).batch(torch.arange(0, 160, 40)).to("cpu")
    return made


def held(store: Path, *settings: dict[str, Any]) -> FieldConstraints:
    """Return the constraints on the fields of a store."""
    own = Store(store)
    made = [build(ConstraintConfig, one, "constraints") for one in settings]
    return FieldConstraints(made, own.variables, own.grid, own.statistics)


def objective(config: Any, batch: Batch, constraints: FieldConstraints | None) -> tuple[Any, Any]:
    """Return a new encoder and a task, the same each time; its heads are far from what the constraints ask for."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3 if isinstance(config, MaskingConfig) else 2, PATCH).build(batch.variables)
    task = config.build(Context(encoder, batch.variables, batch.grid, constraints))
    for head in task.heads.values():
        torch.nn.init.normal_(head.bias, std=2.0)
    return encoder.eval(), task.eval()


def winds(fields: torch.Tensor, times: torch.Tensor, store: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return u10 and v10 in m/s of normalised fields (sample, time, variable, row, column), by the statistics."""
    own = Store(store).statistics
    flat = own.denormalise(torch.nan_to_num(fields).flatten(0, 1).double().numpy(), times.flatten().numpy().astype(
        "datetime64[s]"))  # fmt: skip
    return torch.from_numpy(flat[:, 1]), torch.from_numpy(flat[:, 2])


@pytest.mark.parametrize("config", [LeadTimeConfig(leads=[1, 3], draw="all"), StochasticLeadTimeConfig(leads=[1, 3])])
def test_forecasts_satisfy_their_layers(config: Any, batch: Batch, small_store: Path) -> None:
    """In units, with the climatology of the month that is forecast."""
    encoder, task = objective(config, batch, held(small_store, WIND, WARM))
    picks = task.picks(batch)
    with torch.no_grad():
        guess = task.predict(encoder, batch, picks)
        free = objective(config, batch, None)[1].predict(encoder, batch, picks)
    truth = task.truth(batch, picks)
    fields = unpatchify(guess, patchify(truth, PATCH), PATCH)
    assert torch.equal(task.times(batch, picks), truth.times)
    harmonics = WindHarmonics(batch.grid)
    u, v = winds(fields, truth.times, small_store)
    before = winds(unpatchify(free, patchify(truth, PATCH), PATCH), truth.times, small_store)
    assert float(harmonics.root_mean_square_divergence(u, v).max()) * RADIUS < 1e-4
    assert float(harmonics.root_mean_square_divergence(*before).min()) * RADIUS > 0.1
    if isinstance(config, LeadTimeConfig):  # the mean of members may lie anywhere between them
        own = Store(small_store).statistics
        times = truth.times.flatten().numpy().astype("datetime64[s]")
        sst = own.denormalise(torch.nan_to_num(fields[:, 0]).numpy(), times)[:, 0]
        assert np.nanmin(sst) > 289 - 1e-3


def test_a_task_without_constraints_is_what_it_was(batch: Batch, small_store: Path) -> None:
    """Measures change neither loss nor skill."""
    for config in (LeadTimeConfig(), MaskingConfig(decoder_width=32), StochasticLeadTimeConfig()):
        report = held(small_store, {**WIND, "how": "report"}, {**ENERGY, "how": "report"})
        (encoder, plain), (_, measured) = (objective(config, batch, own) for own in (None, report))
        cut = batch.cut(0, 3) if isinstance(config, MaskingConfig) else batch
        with torch.no_grad():
            first, second = plain(encoder, cut), measured(encoder, cut)
        assert torch.equal(first.loss, second.loss)
        assert first.terms["skill"] == second.terms["skill"]
        assert set(second.terms) - set(first.terms) >= {"violation_divergence_u10_v10", "violation_energy_u10_v10"}


def test_masked_windows_see_what_was_observed_beside_what_was_rebuilt(batch: Batch, small_store: Path) -> None:
    """A bound is asked of the hidden cells only; its gradient reaches the decoder; gaps are filled within it."""
    batch = batch.cut(0, 3)
    config = MaskingConfig(masks=[MaskConfig(ratio=0.5)], decoder_width=32)
    penalty = {"kind": "bounded", "variables": ["sst"], "lower": 300.0, "weight": 1.0}
    encoder, task = objective(config, batch, held(small_store, penalty))
    outcome = task(encoder, batch)
    free = objective(config, batch, None)[1](encoder, batch)
    added = (outcome.loss - free.loss).detach()
    assert float(added) == pytest.approx(float(outcome.terms["penalty"]), rel=1e-4)
    (outcome.loss - free.loss.detach()).backward()
    assert float(task.heads["sst"].bias.grad.abs().sum()) > 0
    # by hand: decoded tokens back in place, in units of each cell's scale, over hidden cells of each step
    own, times = Store(small_store).statistics, batch.times.flatten().numpy().astype("datetime64[s]")
    patches = patchify(batch, PATCH)
    mask = draw(config.masks[0], patches, batch.keys)
    with torch.no_grad():
        decoded = gather(task.rebuild(encoder, patches, mask), mask.order.argsort(1))
    sst = torch.nan_to_num(unpatchify(decoded, patches, PATCH)).flatten(0, 1).numpy()
    cold = np.maximum(300 - own.denormalise(sst, times)[:, 0], 0) / own.scale[0]
    hidden = task.hidden(replace(batch, valid=torch.ones_like(batch.valid)), PATCH)[0].flatten(0, 1)[:, 0].numpy()
    weight = hidden * own.known[0] * batch.grid.area
    by_hand = [(np.nan_to_num(c) ** 2 * w).sum() / w.sum() for c, w in zip(cold, weight, strict=True) if w.sum()]
    assert float(added) == pytest.approx(np.mean(by_hand), rel=1e-4)
    encoder, task = objective(config, batch, held(small_store, WARM, WIND))
    gappy = replace(batch, valid=batch.valid.clone())
    gappy.valid[:, :, :, 2:4] = False
    gappy = replace(gappy, values=gappy.values * gappy.valid)
    filled = task.fill(encoder, gappy)
    assert torch.equal(filled[gappy.valid], gappy.values[gappy.valid])
    sst = own.denormalise(filled.flatten(0, 1).numpy(), times)[:, 0]
    made = ~gappy.valid.flatten(0, 1)[:, 0].numpy() & np.isfinite(sst)
    assert made.any()
    assert sst[made].min() > 289 - 1e-3


def test_hidden_tokens_that_are_not_rebuilt_hold_no_truth(batch: Batch, small_store: Path) -> None:
    """With part of them to rebuild in training, all are, where a constraint acts; measures change nothing."""
    batch, half = batch.cut(0, 3), MaskingConfig(decoder_width=32, rebuild=0.5)
    asked: list[int] = []
    for how in ("penalty", "hard", "report", None):
        own = None if how is None else held(small_store, {**WIND, "how": how})
        encoder, task = objective(half, batch, own)
        task.train()
        rebuild = task.rebuild
        task.rebuild = lambda *given, made=rebuild: (asked.append(given[2].hidden.shape[1]), made(*given))[1]
        outcome = task(encoder, batch)
        if how in ("penalty", "hard"):
            whole = objective(replace(half, rebuild=1.0), batch, own)[1].train()(encoder, batch)
            assert torch.equal(outcome.loss, whole.loss)
        elif how == "report":
            measured, terms = outcome, outcome.terms
    assert torch.equal(measured.loss, outcome.loss)
    assert set(terms) == set(outcome.terms)  # nothing is said of fields that hold the truth
    assert asked[0] == asked[1] == 2 * asked[2] == 2 * asked[3]


def test_what_no_task_can_hold_is_refused(batch: Batch, small_store: Path) -> None:
    encoder, task = objective(MaskingConfig(decoder_width=32), batch, held(small_store, MEAN))
    with pytest.raises(EarthSSLError, match="which only forecasts have"):
        task(encoder, batch.cut(0, 3))


@pytest.mark.parametrize("config", [LeadTimeConfig(leads=[1, 3], draw="all"), StochasticLeadTimeConfig(leads=[1, 3])])
def test_times_can_be_given(config: Any, batch: Batch, small_store: Path) -> None:
    """A window of one step tells no spacing; given times are what the constraints hold in."""
    constraints = held(small_store, WARM)
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 1, PATCH).build(batch.variables).eval()
    task: Any = config.build(Context(encoder, batch.variables, batch.grid, constraints)).eval()
    picks, cut = task.picks(batch), batch.cut(0, 1)
    truth = task.truth(batch, picks)
    with torch.no_grad():
        known = task.predict(encoder, batch, picks)
        with pytest.raises(EarthSSLError, match="got one; give the times"):
            task.predict(encoder, cut, picks)
        assert torch.equal(task.predict(encoder, cut, picks, times=truth.times), known)
        half_a_year = truth.times + 182 * 86400
        assert not torch.equal(task.predict(encoder, cut, picks, times=half_a_year), known)


def test_a_run_says_by_how_much_and_its_checkpoint_goes_on_with_it(
    small_pretrain: Callable[..., Path], small_store: Path, tmp_path: Path, batch: Batch
) -> None:
    """In the history with what it was before and what the truth is; in the record; and in the rebuilt decoder."""
    every = ({**WIND}, {**MEAN, "how": "hard", "form": "shift"}, ENERGY)
    folder = small_pretrain(tmp_path / "run", {"lead_time": {"leads": [1]}, "variance": {}}, constraints=every, **SHORT)
    with open(folder.parent / "history.csv", newline="") as handle:
        last = {row["name"]: float(row["value"]) for row in csv.DictReader(handle)}
    end = "lead_time/violation_divergence_u10_v10"
    assert last[f"val/{end}"] < 1e-3 * last[f"val/{end}_before"]
    assert last[f"val/{end}_truth"] > 1e-8
    assert last["val/lead_time/violation_integral_sst"] < 1e-3 < last["val/lead_time/violation_integral_sst_before"]
    assert 0 < last["train/lead_time/penalty"] < last["train/lead_time/loss"]
    record = json.loads((folder / "record.json").read_text())
    assert [one["kind"] for one in record["config"]["constraints"]] == ["divergence", "integral", "energy"]
    encoder, objectives = load_objectives(folder, TASKS)
    task = objectives.tasks()["lead_time"]
    cut = batch.cut(0, 4)
    with torch.no_grad():
        guess = task.predict(encoder, cut, task.picks(cut))  # type: ignore[operator]
    truth = task.truth(cut, task.picks(cut))  # type: ignore[operator]
    u, v = winds(unpatchify(guess, patchify(truth, PATCH), PATCH), truth.times, small_store)
    assert float(WindHarmonics(batch.grid).root_mean_square_divergence(u, v).max()) * RADIUS < 1e-4


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("[{kind: divergence, u: u10}]", "both components of a wind"),
        ("[{kind: divergence, u: u10, v: v100}]", "two components of one wind, u10 and v10"),
        ("[{kind: divergence, u: u850, v: v850}]", "got 'u850'"),
        ("[{kind: bounded, variables: [sst], lower: 300, uper: 310}]", "Did you mean 'upper'"),
        ("[{kind: bounded, variables: [sst], lower: 310, upper: 300}]", "lower below upper"),
        ("[{kind: non_negative, variables: [ssst]}]", "Did you mean 'sst'"),
        ("[{kind: non_negative, variables: [sst], weight: -1}]", "non_negative.weight: expected weight in (0, inf)"),
        ("[{kind: integral, variables: [sst]}]", "which only forecasts have"),
        ("[{kind: energy, variables: [sst, u10]}]", "of one unit"),
        ("{kind: energy}", "expected a list"),
    ],
)
def test_bad_constraints_end_in_one_line(
    settings: str, why: str, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, before anything is written."""
    words = ["pretrain", "--store", str(small_store), "--out", str(tmp_path / "run"), "--objectives", "{masking: {}}",
             "--encoder.window", "3", "--encoder.patch", "[1, 2, 3]", "--constraints", settings]  # fmt: skip
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert why in said.replace("\n", " ")
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()

"""The interpolation residual: optimal interpolation is loss 1, and only what is not linear gets below."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.cli.probe import decoders
from earthssl.pretext import TASKS
from earthssl.pretext.censoring import censoring
from earthssl.pretext.prediction.interpolation_residual import (
    InterpolationResidual,
    InterpolationResidualConfig,
    RestInterpolation,
)
from earthssl.pretext.prediction.masks import MaskConfig, draw
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.reduced_space import conditional_mean
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import gather, patchify
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import load_objectives

NAME = "interpolation_residual"
NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)
ONE_OF_FOUR = [MaskConfig("random", ratio=0.25)]


class Scenes(Windows):
    """Fields (sample, row, column) as windows of one step."""

    def __init__(self, fields: torch.Tensor) -> None:
        self.fields_of, self.length, self.starts = fields, 1, np.arange(len(fields))

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: Any, epoch: int = 0, number: int = 0) -> Batch:
        chosen = torch.as_tensor(indices)
        known = torch.ones(1, 4, 6, dtype=torch.bool)
        keys = fold(torch.full_like(chosen, number), chosen)
        return from_fields(
            self.fields_of[chosen][:, None, None], 86400 * chosen[:, None], keys, known, ("sst",), GRID, number
        )


def by_token(states: np.ndarray, seed: int) -> torch.Tensor:
    """Fields (sample, row, column) whose four patches hold one number each, and some noise."""
    fields = states.reshape(-1, 2, 1, 2, 1) * np.ones((1, 1, 2, 1, 3))
    return torch.from_numpy(
        fields.reshape(-1, 4, 6) + 0.1 * np.random.default_rng(seed).normal(size=(len(states), 4, 6))
    ).float()


def linear(count: int, seed: int = 0) -> torch.Tensor:
    """Gaussian numbers of four patches that go along."""
    mixing = np.random.default_rng(7).normal(size=(4, 4))
    return by_token(np.random.default_rng(seed).normal(size=(count, 4)) @ mixing, seed)


def cosines(count: int, seed: int = 0) -> torch.Tensor:
    """Cosines of an angle and its multiples: no two go along, and each follows from the others."""
    angle = np.random.default_rng(seed).uniform(0, np.pi, (count, 1))
    return by_token(np.cos(angle * np.arange(1, 5)), seed)


def make(fields: torch.Tensor, **settings: Any) -> tuple[Any, InterpolationResidual]:
    """Return an encoder of one step and the settled objective."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 1, PATCH).build(("sst",))
    config = InterpolationResidualConfig(**{"components": 8, "masks": ONE_OF_FOUR, **settings})
    task = config.build(Context(encoder, ("sst",), GRID))
    task.settle(Scenes(fields))
    return encoder, task


@pytest.fixture(scope="module")
def on_land(small_windows: Callable[..., Any]) -> tuple[Any, InterpolationResidual, Batch]:
    """An encoder and the objective settled on windows of two months, land in sst; eight windows with some gaps."""
    windows = small_windows("train", 2)
    batch = windows.batch(torch.arange(0, 160, 20))
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(NAMES)
    masks = [MaskConfig("cells", ratio=0.5), MaskConfig("variable", ratio=0.5)]
    config = InterpolationResidualConfig(components=16, masks=masks, localisation_km=[6000.0])
    task = config.build(Context(encoder, NAMES, batch.grid))
    task.settle(windows)
    valid = batch.valid.clone()
    valid[:2, 0, 1, 3:5, 6:9] = False
    return encoder, task, replace(batch, valid=valid, values=batch.values * valid)


def test_a_decoder_that_says_nothing_is_the_interpolation(on_land: tuple[Any, InterpolationResidual, Batch]) -> None:
    """As the objective begins: loss 1, skill 0; gaps are filled by the conditional mean, what is observed stays."""
    encoder, task, batch = on_land
    for number in (0, 1, 2):
        outcome = task(encoder, replace(batch, number=number))
        assert outcome.loss.item() == pytest.approx(1, abs=1e-6)
        assert all(float(term) == pytest.approx(0, abs=1e-6) for term in outcome.terms.values())
    filled = task.fill(encoder, batch)
    cue = conditional_mean(task.modes[-1], task.noise[-1], batch.values.flatten(1), batch.valid.flatten(1)).view_as(
        filled
    )
    gaps = batch.known & ~batch.valid
    assert gaps.any()
    assert task.modes.any()
    assert torch.allclose(filled[gaps], cue[gaps], atol=1e-4)
    assert torch.equal(filled[batch.valid], batch.values[batch.valid])


def test_the_truth_is_solved(
    on_land: tuple[Any, InterpolationResidual, Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest as `residual` has it: loss 0."""
    encoder, task, batch = on_land
    rest = patchify(task.residual(batch, training=False), PATCH).values
    monkeypatch.setattr(task, "_guess", lambda _, __, mask, ___: gather(rest, mask.order))
    assert task.eval()(encoder, batch).loss.item() == pytest.approx(0, abs=1e-6)
    task.train()


def test_hidden_cells_are_not_looked_at(on_land: tuple[Any, InterpolationResidual, Batch]) -> None:
    """Neither by the interpolation nor by the decoder: other values there, the same fields."""
    encoder, task, batch = on_land
    torch.manual_seed(1)
    for head in task.heads.values():
        torch.nn.init.normal_(head.weight)  # type: ignore[arg-type]
    for number in (0, 1, 2):
        own = replace(batch, number=number)
        hidden, _ = task.hidden(own, PATCH)
        other = replace(own, values=torch.where(hidden, torch.randn_like(own.values), own.values))
        mask = draw(task._kind(number), patchify(own, PATCH), own.keys)
        with torch.no_grad():
            found, again = (task.rebuild(encoder, patchify(one, PATCH), mask) for one in (own, other))
        assert found.std() > 0.1
        assert torch.equal(found, again)
    for head in task.heads.values():
        torch.nn.init.zeros_(head.weight)  # type: ignore[arg-type]


def test_the_interpolation_of_a_window_was_not_fitted_on_its_block() -> None:
    """Other fields in the first block: its own interpolation stays, that of all windows does not."""
    fields = linear(400)
    other = torch.cat([7 * cosines(100), fields[100:]])
    (_, task), (_, again) = make(fields), make(other)
    assert torch.allclose(task.modes[0].abs(), again.modes[0].abs(), atol=1e-5)
    assert not torch.allclose(task.noise[-1], again.noise[-1], rtol=0.1)
    batch = Scenes(fields).batch([0, 99, 100, 399])
    assert task._block(batch).tolist() == [0, 0, 1, 3]
    assert task._block(replace(batch, times=batch.times + 86400 * 400)).tolist() == [4, 4, 4, 4]
    assert task._block(replace(batch, times=batch.times - 86400 * 400)).tolist() == [4, 4, 4, 4]


def test_the_rest_has_mean_square_one_on_windows_of_the_fit() -> None:
    """Asked of all of them, cell by cell; no linear method would make it so small as the field."""
    fields = linear(400)
    _, task = make(fields)
    batch = Scenes(fields).batch(torch.arange(400), number=5)
    hidden, _ = task.hidden(batch, PATCH)
    rest = task.residual(batch, training=True).values
    by_cell = (rest.square() * hidden).sum(0) / hidden.sum(0)
    assert by_cell.numpy() == pytest.approx(1, abs=0.35)
    assert float((task.spread.square()).mean()) < 0.6 * float(fields.square().mean())


def test_what_is_not_linear_is_left_and_chosen_so() -> None:
    """Cosines of multiples of an angle: the interpolation has nothing of a hidden patch, nor has its own cue."""
    fields = cosines(600)
    _, task = make(fields)
    (cue,) = task.cues()
    assert isinstance(cue, RestInterpolation)
    batches = [Scenes(fields).batch(torch.arange(300), number=number) for number in range(3)]
    cue.fit(task, batches, PATCH)
    assert abs(cue.skill(task, Scenes(cosines(300, seed=3)).batch(torch.arange(300)), PATCH)) < 0.1
    assert float(task.spread.square().mean()) == pytest.approx(float(fields.square().mean()), rel=0.15)


def trained(maker: Callable[..., torch.Tensor], steps: int, censored: str | None = None) -> float:
    """Return the loss on other fields after some steps, with an encoder that sees all or, censored, less."""
    encoder, task = make(maker(3000))
    windows = Scenes(maker(3000))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=2e-3)
    rng = np.random.default_rng(0)
    with censoring(encoder, censored) if censored else nullcontext():
        for number in range(steps):
            outcome = task(encoder, windows.batch(rng.integers(0, len(windows), 32), number=number))
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
        encoder.eval(), task.eval()
        with torch.no_grad():
            return float(task(encoder, Scenes(maker(1500, seed=1)).batch(torch.arange(1500))).loss)


@pytest.mark.slow
def test_linear_fields_stay_at_one_and_others_do_not() -> None:
    """300 steps of training: nothing is won on Gaussian fields, most of the rest of those that are not."""
    assert 0.99 < trained(linear, 300) < 1.05
    assert trained(cosines, 300) < 0.6


@pytest.mark.slow
def test_nothing_of_what_is_seen_goes_round_the_encoder() -> None:
    """Whose tokens are all taken away: what was told without them stays untold."""
    assert trained(cosines, 200, "nothing") > 0.97


@pytest.mark.slow
def test_a_checkpoint_fills_gaps(small_pretrain: Callable[..., Path], small_store: Path, tmp_path: Path) -> None:
    """The fitted interpolation comes back with it, and `probe` of infilling finds its decoder."""
    folder = small_pretrain(tmp_path / "run", {NAME: {"components": 16}})
    _, objectives = load_objectives(folder, TASKS)
    task = objectives.tasks()[NAME]
    assert isinstance(task, InterpolationResidual)
    assert task.modes.any()
    assert not torch.allclose(task.spread, torch.ones(()))
    fill = decoders([str(folder)], Store(small_store).statistics)[str(folder)].fill
    assert fill is not None


def test_what_does_not_fit_is_refused(on_land: tuple[Any, InterpolationResidual, Batch]) -> None:
    for bad, said in (
        ({"components": 0}, "components ≥ 1"),
        ({"components": 64, "fit": 100}, "two windows for each"),
        ({"folds": 1}, "or at least 2 blocks"),
        ({"localisation_km": [0.0]}, "distances above 0"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            InterpolationResidualConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match="of which the last quarter"):
        make(linear(2))
    with pytest.raises(EarthSSLError, match="apart from each block"):
        make(linear(4), components=1, folds=2)
    with pytest.raises(EarthSSLError, match=r"lower .*\.components"):
        make(linear(2), components=10**7, fit=3 * 10**7)
    encoder, task, batch = on_land
    with pytest.raises(EarthSSLError, match="of sst, u10, v10 on the grid"):
        task(encoder, replace(batch, variables=("sst", "u10", "v850")))
    many = Scenes(linear(4))
    _, small = make(linear(40))
    small.noise = torch.ones(1, 1).expand(1, 2**27)
    with pytest.raises(EarthSSLError, match="numbers to fit the interpolation on"):
        small.settle(many)
    small.noise, small.config = torch.ones(1, 9000), replace(small.config, localisation_km=[1000.0])
    with pytest.raises(EarthSSLError, match="of all pairs can be localised"):
        small.settle(many)

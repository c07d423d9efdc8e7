"""EOF masking: what is hidden is not shown; the loss is 1 for nothing, 0 for the truth; nothing linear gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.pretext.prediction import eof_masking
from earthssl.pretext.prediction.eof_masking import EOFMasking, EOFMaskingConfig, VisibleComponents
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.batch import Batch, drop_variables, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.reduced_space import components
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import assemble, load_objectives
from safetensors.torch import load_file

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)
FEW = EOFMaskingConfig(components=24, share=(0.15, 0.25))


class Series(Windows):
    """Windows of one step of given fields (sample, row, column)."""

    def __init__(self, fields: torch.Tensor) -> None:
        self.rows = fields

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: torch.Tensor | np.ndarray | Sequence[int], epoch: int = 0, number: int = 0) -> Batch:
        return maps(self.rows[torch.as_tensor(indices)], number)


def maps(fields: torch.Tensor, number: int = 0) -> Batch:
    """Return fields (sample, row, column) as windows of one step of sst."""
    keys, known = fold(torch.arange(len(fields)), number), torch.ones(1, 4, 6, dtype=torch.bool)
    times = torch.zeros(len(fields), 1, dtype=torch.int64)
    return from_fields(fields[:, None, None], times, keys, known, ("sst",), GRID, number)


def single(config: EOFMaskingConfig, fields: torch.Tensor) -> tuple[Any, EOFMasking]:
    """Return an encoder of one step and the settled objective."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 1, PATCH).build(("sst",))
    task = config.build(Context(encoder, ("sst",), GRID))
    task.settle(Series(fields))
    return encoder, task


@pytest.fixture(scope="module")
def windows(small_windows: Callable[..., Any]) -> Windows:
    """All training windows of 3 months of the small store, land in sst."""
    return small_windows("train", 3)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def made(windows: Windows) -> tuple[Any, EOFMasking]:
    """An encoder and the objective, settled on the small store."""
    batch = windows.batch([0])
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, PATCH).build(NAMES)
    task = FEW.build(Context(encoder, NAMES, batch.grid))
    task.settle(windows)
    return encoder, task


@pytest.fixture
def batch(windows: Windows) -> Batch:
    return windows.batch(torch.arange(0, 160, 20))


@pytest.fixture
def torn(batch: Batch) -> Batch:
    """Random cells missing, a box in two windows, a whole variable in another; the last two windows are whole."""
    gone = torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    gone[:2, 1:, 1, 3:5, 6:9] = True
    gone[2, :, 2] = True
    gone[-2:] = False
    valid = batch.valid & ~gone
    return replace(batch, valid=valid, values=batch.values * valid)


@pytest.mark.parametrize("gaps", [False, True])
def test_what_is_hidden_is_not_shown(made: tuple[Any, EOFMasking], batch: Batch, torn: Batch, gaps: bool) -> None:
    """The shown field has no projection on a hidden pattern, whatever is missing; those on visible ones are kept."""
    _, task = made
    given = torn if gaps else batch
    shown, truth, hidden = task.pose(given)
    left, before = (task.rows(x) @ task.patterns.T for x in (shown, given))
    size = before.square().mean().sqrt()
    assert hidden.any(1).all()
    assert float(left[hidden].abs().max()) < 1e-4 * size
    assert float(before[hidden].abs().max()) > 0.1 * size
    if not gaps:
        torch.testing.assert_close(left[~hidden], before[~hidden], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shown.values + truth, given.values, atol=1e-5, rtol=1e-5)
    assert (shown.values[~given.valid] == 0).all()
    assert torch.equal(shown.valid, given.valid)


def test_a_plain_projection_would_give_it_away(made: tuple[Any, EOFMasking], torn: Batch) -> None:
    """With gaps, what least squares takes out a plain projection leaves behind: the test above can fail."""
    _, task = made
    hidden = task.draw(torn.keys)
    rows = task.rows(torn)
    seen = torn.valid.flatten(1)
    plain = rows - ((rows @ task.patterns.T * hidden) @ task.patterns) * seen
    left = plain @ task.patterns.T
    assert float(left[:6][hidden[:6]].abs().max()) > 0.05 * float(rows.square().sum(1).mean().sqrt()) / 24**0.5
    assert float(left[6:][hidden[6:]].abs().max()) < 1e-4


def test_nothing_else_reaches_the_encoder(made: tuple[Any, EOFMasking], batch: Batch) -> None:
    """Another amplitude of the hidden components: the same prediction; of the visible ones: another."""
    encoder, task = made
    shown, truth, hidden = task.pose(batch)
    guess = task.rebuild(encoder, shown, hidden)
    for extra, same in ((2.5 * truth, True), (0.5 * shown.values, False)):
        other, _, again = task.pose(replace(batch, values=batch.values + extra))
        assert torch.equal(again, hidden)
        found = task.rebuild(encoder, other, hidden)
        assert torch.allclose(guess, found, atol=1e-4) == same


@pytest.mark.parametrize("gaps", [False, True])
def test_loss_of_nothing_and_of_the_truth(
    made: tuple[Any, EOFMasking], batch: Batch, torn: Batch, gaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 and 0; a head that says the whole field is right, for only the hidden part of what it says counts."""
    encoder, task = made
    given = torn if gaps else batch
    cells = patchify(given, PATCH).values
    for said, loss in ((0 * cells, 1.0), (cells, 0.0), (0.5 * cells, 0.25)):
        monkeypatch.setattr(eof_masking, "every_head", lambda *_, said=said: said)
        outcome = task(encoder, given)
        assert float(outcome.loss) == pytest.approx(loss, abs=1e-4)
        assert float(outcome.terms["skill"]) == pytest.approx(1 - loss, abs=1e-4)


def test_loss_against_brute_force(made: tuple[Any, EOFMasking], batch: Batch) -> None:
    encoder, task = made
    shown, truth, hidden = task.pose(batch)
    guess = task.rebuild(encoder, shown, hidden).detach()
    found = []
    for k in range(3):
        weight = (batch.valid[:, :, k] * torch.from_numpy(batch.grid.area)).double()
        error = (weight * (guess - truth)[:, :, k] ** 2).sum()
        found.append(float(error / (weight * truth[:, :, k] ** 2).sum()))
    outcome = task(encoder, batch)
    assert outcome.loss.item() == pytest.approx(np.mean(found), rel=1e-5)
    assert float(outcome.terms["skill_u10"]) == pytest.approx(1 - found[1], abs=1e-5)
    outcome.loss.backward()
    assert encoder.embedding.blocks["sst"].grad.any()


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    """Of more samples than cells and of fewer; where there are fewer than asked for, the others are 0."""
    rng = np.random.default_rng(0)
    for samples, cells in ((50, 20), (20, 50)):
        rows = rng.normal(size=(samples, cells)) * np.linspace(3, 0.5, cells)
        patterns, shares = components(rows.astype(np.float32), 8)
        _, values, vectors = np.linalg.svd(rows, full_matrices=False)
        assert shares == pytest.approx(values[:8] ** 2 / (values**2).sum(), rel=1e-4)
        assert abs((patterns * vectors[:8]).sum(1)) == pytest.approx(1, abs=1e-4)
    patterns, shares = components(np.outer(rng.normal(size=30), rng.normal(size=12)), 4)
    assert shares == pytest.approx([1, 0, 0, 0])
    assert not patterns[1:].any()


def test_the_components_are_of_training_windows_and_area_weighted(
    made: tuple[Any, EOFMasking], windows: Windows
) -> None:
    """They are uncorrelated over all training windows, and orthonormal in the area-weighted product."""
    _, task = made
    everything = windows.batch(range(len(windows)))
    amplitude = (task.rows(everything) @ task.patterns.T).double()
    covariance = amplitude.T @ amplitude / len(amplitude)
    assert float((covariance - covariance.diagonal().diag()).abs().max()) < 1e-4 * float(covariance[0, 0])
    total = float(task.rows(everything).double().square().sum(1).mean())
    assert (covariance.diagonal() / total).numpy() == pytest.approx(task.shares.numpy(), abs=1e-5)
    assert (task.patterns @ task.patterns.T).numpy() == pytest.approx(np.eye(24), abs=1e-5)
    area = torch.from_numpy(everything.grid.area).float()
    by_hand = (everything.values * (area / area.mean()).sqrt()).flatten(1)
    torch.testing.assert_close(task.rows(everything), by_hand)


def test_shares_of_the_draws(made: tuple[Any, EOFMasking]) -> None:
    """Between the least and the greatest wherever that can be; no component above it; every other one at times."""
    _, task = made
    draws = task.draw(fold(torch.arange(2000), 1))
    share = (draws * task.shares).sum(1)
    small = task.shares <= 0.25
    assert not draws[:, ~small].any()
    assert draws[:, small].any(0).all()
    assert float(share.min()) >= 0.15
    assert float((share <= 0.25).float().mean()) > 0.9
    assert torch.equal(draws, task.draw(fold(torch.arange(2000), 1)))
    assert not torch.equal(draws, task.draw(fold(torch.arange(2000), 2)))


def test_equal_components_are_hidden_equally_often() -> None:
    """Of twenty components of 5 % each, three or more are hidden, each as often as any other (5 standard errors)."""
    torch.manual_seed(0)
    rows = torch.linalg.qr(torch.randn(24, 20)).Q.T  # every sample is one of twenty orthogonal fields
    root = (torch.from_numpy(GRID.area).float() / GRID.area.mean()).sqrt()
    fields = torch.cat([rows, -rows]).unflatten(1, (4, 6)) / root
    _, task = single(EOFMaskingConfig(components=20, share=(0.149, 0.16)), fields)
    draws = task.draw(fold(torch.arange(3000), 1)).float()
    assert (draws.sum(1) == 3).all()
    assert draws.mean(0).numpy() == pytest.approx(0.15, abs=5 * (0.15 * 0.85 / 3000) ** 0.5)


def curved(number: int, count: int = 256) -> torch.Tensor:
    """Return fields in which the amplitude of one pattern (a third of the variance) is another's square (half)."""
    g = torch.Generator().manual_seed(number)
    root = (torch.from_numpy(GRID.area).float() / GRID.area.mean()).sqrt()
    p, q = (torch.cos(torch.deg2rad(k * torch.from_numpy(GRID.lon).float())) / root for k in (1, 2))
    a = torch.randn(count, 1, 1, generator=g)
    return a * p + 0.8 * (a**2 - 1) / 2**0.5 * q + 0.4 * torch.randn(count, 4, 6, generator=g)


def test_what_linear_regression_gives_and_what_is_there_besides() -> None:
    """Nothing where it was fitted, next to nothing elsewhere; a network finds the square."""
    fields = curved(0, 2000)
    encoder, task = single(EOFMaskingConfig(components=20, share=(0.3, 0.45)), fields)
    cue = VisibleComponents()
    with pytest.raises(EarthSSLError, match="call fit first"):
        cue.skill(task, maps(fields[:8]), PATCH)
    cue.fit(task, [maps(fields[k : k + 250], k) for k in range(0, 2000, 250)], PATCH)
    assert cue.skill(task, maps(fields), PATCH) == pytest.approx(0, abs=2e-3)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *task.parameters()], lr=3e-3)
    for number in range(80):
        outcome = task(encoder, maps(curved(number + 1, 64), number))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    later = maps(curved(999, 500), 999)
    assert cue.skill(task, later, PATCH) < 0.02
    assert float(task.eval()(encoder.eval(), later).terms["skill"]) > 0.4


def test_the_cue_finds_what_is_linear() -> None:
    """Of components fitted on one world, in another whose patterns are coupled: a regression is told from nothing."""
    _, task = single(EOFMaskingConfig(components=20, share=(0.3, 0.45)), curved(0, 2000))
    fields = curved(1, 1000)
    amplitude = task.rows(maps(fields)) @ task.patterns.T
    amplitude[:, 1] = amplitude[:, 0]
    amplitude[:, 2:] = amplitude[:, 2:3]
    coupled = ((amplitude @ task.patterns) / task.root).unflatten(1, (4, 6))
    cue = task.cues()[0]
    cue.fit(task, [maps(coupled)], PATCH)
    assert cue.skill(task, maps(coupled, 5), PATCH) > 0.9


def test_the_components_are_part_of_the_state(
    small_pretrain: Callable[..., Path], small_config: Callable[..., Any], made: tuple[Any, EOFMasking], tmp_path: Path
) -> None:
    """A run has them fitted on its training windows; what is loaded from it has the same, without any data."""
    checkpoint = small_pretrain(tmp_path / "run", {"eof_masking": {"components": 24}})
    kept = load_file(checkpoint / "heads.safetensors")
    name = next(key for key in kept if key.endswith("eof_masking.patterns"))
    torch.testing.assert_close(kept[name], made[1].patterns, atol=1e-5, rtol=1e-5)
    _, loaded = load_objectives(checkpoint, TASKS)
    assert torch.equal(loaded.tasks()["eof_masking"].patterns, kept[name])
    assert (checkpoint.parent / "example.nc").is_file()
    from earthssl.ssl.store.store import Store

    config = small_config(tmp_path / "none", {"eof_masking": {"components": 24}})
    module, _, _ = assemble(config, Store(config.store), TASKS, settled=False)
    assert not torch.allclose(module.objectives.tasks()["eof_masking"].patterns, kept[name])


def test_missing_variables_are_not_given_away(made: tuple[Any, EOFMasking], batch: Batch) -> None:
    """Variables dropped from some windows: what is left of the others is still orthogonal, and the loss is finite."""
    encoder, task = made
    dropped = drop_variables(batch, 0.5)
    assert not dropped.valid.flatten(3).any(3).all()
    shown, _, hidden = task.pose(dropped)
    assert float((task.rows(shown) @ task.patterns.T)[hidden].abs().max()) < 1e-3
    assert torch.isfinite(task(encoder, dropped).loss)


def test_what_does_not_fit_is_refused(made: tuple[Any, EOFMasking], batch: Batch) -> None:
    for bad, said in (
        ({"share": (0.0, 0.2)}, "0 < least"),
        ({"share": (0.3, 0.2)}, "least ≤ greatest"),
        ({"share": (0.2, 1.0)}, "greatest < 1"),
        ({"components": 1}, "some to hide and some to see"),
        ({"fit": 64}, "more windows than the 64"),
        ({"hidden": -1}, "0 for a linear head"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            EOFMaskingConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match="fewer than the 24 numbers"):
        single(EOFMaskingConfig(components=24), torch.randn(50, 4, 6))
    one = torch.randn(50, 1, 1) * torch.randn(4, 6)
    with pytest.raises(EarthSSLError, match=r"raise the greatest share or eof_masking\.components"):
        single(EOFMaskingConfig(components=8), one)
    encoder, task = made
    for other in (
        replace(batch, variables=("sst", "u10", "z500")),
        batch.cut(0, 2),
        replace(batch, values=batch.values[..., :6], valid=batch.valid[..., :6], known=batch.known[..., :6]),
    ):
        with pytest.raises(EarthSSLError, match="which the components were fitted on"):
            task(encoder, other)


def test_a_fit_that_takes_too_much_memory_is_refused(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eof_masking, "LARGEST", 1000)
    encoder = EncoderConfig("nano", 3, PATCH).build(NAMES)
    task = FEW.build(Context(encoder, NAMES, windows.batch([0]).grid))
    with pytest.raises(EarthSSLError, match=r"lower eof_masking\.fit to 1"):
        task.settle(windows)

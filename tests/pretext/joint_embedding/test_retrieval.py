"""Retrieval: which negatives are fair, ties, chance, cues, and several processes as one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.joint_embedding.byol import BYOLConfig
from earthssl.pretext.joint_embedding.retrieval import Alike, Means, Rivals, cosines, retrieval
from earthssl.pretext.joint_embedding.simclr import SimCLRConfig
from earthssl.pretext.joint_embedding.vicreg import VICRegConfig
from earthssl.pretext.joint_embedding.views import ViewsConfig
from earthssl.pretext.redundancy import across_ranks
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.training.objective import Context
from torch import nn

GRID = LatLonGrid(np.array([60.0, 20.0, -20.0, -60.0]), np.arange(6) * 60.0)
NAMES = ("sst", "msl")
PATCH = (1, 2, 2)
TASKS = {"simclr": SimCLRConfig(temperature=0.2), "byol": BYOLConfig(), "vicreg": VICRegConfig()}


def seconds(*days: str) -> torch.Tensor:
    """Return days as UTC seconds."""
    return torch.from_numpy(np.array(days, dtype="datetime64[s]").astype(np.int64))


def windows(x: np.ndarray, number: int = 0) -> Batch:
    """Return fields (sample, step, variable, row, column) that end in Januaries of different years."""
    size, steps = x.shape[:2]
    ends = np.arange(size).astype("datetime64[Y]").astype("datetime64[M]")[:, None] + np.arange(steps) - steps + 1
    times = torch.from_numpy(ends.astype("datetime64[s]").astype(np.int64))
    known = torch.ones(2, 4, 6, dtype=torch.bool)
    return from_fields(torch.from_numpy(x).float(), times, fold(torch.arange(size), number), known, NAMES, GRID, number)


def make(config: Any) -> tuple[Any, Any]:
    """Return a new encoder and the objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 2, PATCH).build(NAMES)
    return encoder, config.build(Context(encoder, NAMES, GRID))


def noise(size: int, number: int = 0) -> Batch:
    """Return independent cells, in windows of two views of 2 steps and a lag of up to 3."""
    return windows(np.random.default_rng(number).normal(size=(size, 6, 2, 4, 6)), number)


def test_fair_negatives_by_hand() -> None:
    """Three windows: January and March of 1990, the same of 1991, and one in July 1995."""
    times = torch.stack(
        [seconds("1990-01-15", "1991-01-20", "1995-07-15"), seconds("1990-03-15", "1991-03-10", "1995-09-15")]
    )
    allowed = Rivals(180.0, 45.0).allowed(times)
    # Rows and columns: 1990-01, 1991-01, 1995-07, 1990-03, 1991-03, 1995-09. A January row looks for a March
    # one: its negative is the other March. July rows look for a September: no other.
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[0, 4] = expected[1, 3] = True
    expected[3, 1] = expected[4, 0] = True
    assert torch.equal(allowed, expected)
    everything = Rivals(0.0, None).allowed(times)
    own = torch.eye(6).roll(3, 1) + torch.eye(6) > 0
    assert torch.equal(everything, ~own)
    # Without the season, all of another year; 1990 and 1991 are 295 days apart where they are nearest.
    assert Rivals(300.0, None).allowed(times)[0].tolist() == [False, True, True, False, True, True]
    assert not Rivals(20000.0, None).allowed(times).any()


def test_fair_negatives_are_those_of_the_definition() -> None:
    """Brute force over random times, the turn of the year within."""
    rng = np.random.default_rng(3)
    first = rng.integers(-10_000, 10_000, 12)
    days = np.concatenate([first, first + 60])
    times = torch.from_numpy(days.reshape(2, 12) * 86400)
    allowed = Rivals(100.0, 30.0).allowed(times)
    for a in range(24):
        other = (a + 12) % 24
        for c in range(24):
            near = min(abs(days[a] - days[c]), abs(days[other] - days[c]))
            phase = (days[other] - days[c]) % 365.2425
            fair = c not in (a, other) and near >= 100 and min(phase, 365.2425 - phase) <= 30
            assert bool(allowed[a, c]) == fair


def test_skill_by_hand() -> None:
    """Two of four rows right, one negative each: accuracy 1/2 is chance, skill 0. All right: 1. All wrong: -1."""
    allowed = torch.zeros(4, 4, dtype=torch.bool)
    for row, rival in enumerate((3, 2, 1, 0)):
        allowed[row, rival] = True
    likeness = torch.zeros(4, 4)
    likeness[0, 2] = likeness[1, 3] = 0.5  # rows 0 and 1 find theirs
    likeness[2, 1] = likeness[3, 0] = 0.5  # rows 2 and 3 find another
    half = retrieval(likeness, allowed)
    assert float(half["accuracy"]) == 0.5
    assert float(half["skill"]) == 0
    assert float(half["negatives"]) == 1
    right = torch.eye(4).roll(2, 1)
    assert float(retrieval(right, allowed)["skill"]) == 1
    assert float(retrieval(-right, allowed)["skill"]) == -1
    # A candidate that is not allowed may be ever so alike.
    right[0, 1] = 9.0
    assert float(retrieval(right, allowed)["skill"]) == 1


def test_a_collapse_scores_as_chance() -> None:
    """All embeddings the same, or the same but for rounding: ties share the point, skill 0."""
    allowed = ~(torch.eye(20).roll(10, 1) + torch.eye(20) > 0)
    torch.manual_seed(0)
    for spread in (0.0, 1e-4):
        z = torch.ones(2, 10, 8) + spread * torch.randn(2, 10, 8)
        found = retrieval(cosines(z.flatten(0, 1)), allowed)
        assert float(found["skill"]) == pytest.approx(0, abs=1e-6)
        assert float(found["accuracy"]) == pytest.approx(1 / 19)
    found = retrieval(cosines(torch.randn(10, 8).repeat(2, 1)), allowed)
    assert float(found["skill"]) == 1


def test_rows_without_negatives_are_not_scored() -> None:
    """They are counted as alone; where all are, skill and accuracy are 0 and finite."""
    likeness = torch.eye(4).roll(2, 1)
    allowed = torch.zeros(4, 4, dtype=torch.bool)
    nothing = retrieval(likeness, allowed)
    assert {name: float(value) for name, value in nothing.items()} == {
        "accuracy": 0, "skill": 0, "negatives": 0, "alone": 1,
    }  # fmt: skip
    allowed[0, 1] = True
    some = retrieval(likeness, allowed)
    assert float(some["skill"]) == 1
    assert float(some["alone"]) == 0.75
    assert float(some["negatives"]) == 0.25


def test_cosines_are_single_precision() -> None:
    """Whatever the embeddings come in, also where products would be rounded; no length, no cosine, no NaN."""
    torch.manual_seed(0)
    z = torch.randn(10, 16)
    expected = nn.functional.cosine_similarity(z[:, None], z, 2)
    torch.testing.assert_close(cosines(z * 7), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cosines(z), expected)
    assert cosines(z.bfloat16()).dtype == torch.float32
    assert not cosines(torch.zeros(6, 4)).any()


def test_means_find_what_area_means_give_away() -> None:
    """A level that lasts, in independent noise: found by the means, not by maps; maps that last: the reverse."""
    rng = np.random.default_rng(0)
    plain = ViewsConfig(keep=1.0, scale=0.0, offset=0.0, variable_dropout=0.0)
    _, task = make(SimCLRConfig(views=plain))
    cell, level = rng.normal(size=(200, 6, 2, 4, 6)), rng.normal(size=(200, 1, 2, 1, 1))
    pattern = rng.normal(size=(200, 1, 2, 4, 6))
    pattern -= (pattern * GRID.area).sum((-1, -2), keepdims=True) / GRID.area.sum()
    found = {}
    for name, fields in (("level", cell + 5 * level), ("map", cell + 5 * pattern), ("noise", cell)):
        for cue in (Means(), Alike()):
            cue.fit(task, [windows(fields[:100], 1)], PATCH)
            found[name, type(cue).__name__] = cue.skill(task, windows(fields[100:], 2), PATCH)
    assert found["level", "Means"] > 0.3
    assert found["map", "Alike"] > 0.9
    assert found["map", "Means"] < 0.1
    assert found["level", "Alike"] < 0.1
    assert abs(found["noise", "Means"]) < 0.05
    assert abs(found["noise", "Alike"]) < 0.05
    # Offsets of each view's own close what the means gave away.
    _, task = make(SimCLRConfig(views=replace(plain, offset=100.0)))
    cue = Means()
    cue.fit(task, [windows((cell + 5 * level)[:100], 1)], PATCH)
    assert cue.skill(task, windows((cell + 5 * level)[100:], 2), PATCH) < 0.1


def test_a_cue_that_was_not_fitted_is_refused() -> None:
    """Rather than guessed."""
    _, task = make(SimCLRConfig())
    with pytest.raises(EarthSSLError, match="call fit first"):
        Means().skill(task, noise(4), PATCH)


def test_bad_settings_are_refused() -> None:
    """Negative days."""
    for bad in ({"exclude_days": -1.0}, {"season_days": -1.0}, {"exclude_days": float("nan")}):
        with pytest.raises(EarthSSLError, match="exclude_days ≥ 0"):
            Rivals(**bad)  # type: ignore[arg-type]


def gradients(task: str, part: slice) -> dict[str, torch.Tensor]:
    """Return loss, terms and gradients of a task on a part of one batch of 12."""
    encoder, objective = make(TASKS[task])
    whole = noise(12)
    batch = replace(
        whole, values=whole.values[part], valid=whole.valid[part], times=whole.times[part], keys=whole.keys[part]
    )
    outcome = objective(encoder, batch)
    outcome.loss.backward()
    named = [*encoder.named_parameters("encoder"), *objective.named_parameters("task")]
    out = {name: p.grad for name, p in named if p.grad is not None}
    return out | {"loss": outcome.loss.detach(), "skill": outcome.terms["skill"]}


def worker(rank: int, folder: str) -> None:
    """Join a group of two on the loopback interface, and save what this rank finds for each task."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {task: gradients(task, slice(6 * rank, 6 * rank + 6)) for task in TASKS}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Loss and skill are those of the joined batch on both ranks; so is the mean of their gradients."""
    command = [sys.executable, "-W", "error::FutureWarning", __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for task in TASKS:
        whole = gradients(task, slice(None))
        for name in ("loss", "skill"):
            torch.testing.assert_close(one[task][name], whole[name])
            assert torch.equal(one[task][name], two[task][name])
        assert len(whole) > 30
        # Rounding of a sum is that of its largest parts: biases before a batch norm have gradients of 0 but for it.
        rounding = 1e-5 * max(
            float(value.abs().max()) for name, value in whole.items() if name not in ("loss", "skill")
        )
        for name in whole:
            mean = (one[task][name] + two[task][name]) / 2
            torch.testing.assert_close(mean, whole[name], rtol=1e-4, atol=rounding)


def test_one_process_gathers_nothing() -> None:
    """The tensor itself comes back."""
    x = torch.randn(2, 3, 4, requires_grad=True)
    assert across_ranks(x) is x


if __name__ == "__main__":
    # One process imports, two are its children: that is half of the time.
    child = os.fork()
    worker(int(child == 0), sys.argv[1])
    assert child == 0 or os.waitpid(child, 0)[1] == 0

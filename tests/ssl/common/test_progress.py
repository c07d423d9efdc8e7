"""Bars: full when the work is done, also where it took fewer steps than it might have; not after an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.downstream.training.from_scratch import ScratchConfig, learn
from earthssl.ssl.common.progress import Counted, track
from torch import nn


def percent(capsys: pytest.CaptureFixture[str], label: str) -> int:
    """Return where the bar of that label ended."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(label)]
    assert len(lines) == 1
    return int(re.findall(r"(\d+)%", lines[0])[0])


@pytest.mark.parametrize("items", [range(4), iter(range(4)), Counted(iter(range(4)), 4)])
def test_a_bar_is_full_after_the_last_item(items: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(items, "work")) == [0, 1, 2, 3]
    assert percent(capsys, "work") == 100


def test_a_loop_that_needs_no_more_ends_with_a_full_bar(capsys: pytest.CaptureFixture[str]) -> None:
    steps, seen = track(range(10), "work"), []
    for step in steps:
        seen.append(step)
        if step == 2:
            steps.finish()
    assert seen == [0, 1, 2]
    assert percent(capsys, "work") == 100


def test_an_error_leaves_the_bar_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(track(Counted(broken(), 10), "work"))
    assert percent(capsys, "work") == 30


def test_a_refit_of_fewer_steps_ends_at_100_percent(capsys: pytest.CaptureFixture[str]) -> None:
    """The validation score is best at step 4 of 20: the refit takes four steps, and its bar is full."""
    scores = iter([3.0, 1.0, 2.0, *[5.0] * 7])
    learnt = learn(
        lambda: nn.Linear(1, 1),
        lambda network, rows: network(torch.ones(len(rows), 1)).square().mean(),
        lambda network: next(scores),
        np.arange(8),
        np.arange(10),
        ScratchConfig(seeds=1, steps=20, batch_size=4, check_every=2),
        0,
    )
    assert learnt.steps == 4
    told = capsys.readouterr().err
    for label in ("scratch 0, select", "scratch 0, refit"):
        line = next(line for line in told.splitlines() if line.startswith(label))
        assert "100%" in line, line

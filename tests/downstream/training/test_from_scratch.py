"""Networks trained on labels: the refit takes the steps that validation chose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.downstream.training.from_scratch import ScratchConfig, learn
from earthssl.ssl.common.errors import EarthSSLError
from torch import nn


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


def test_looks_beyond_the_steps_are_refused_by_both_names() -> None:
    with pytest.raises(EarthSSLError, match="check_every ≤ steps, got check_every 1000 and steps 400"):
        ScratchConfig(check_every=1000)

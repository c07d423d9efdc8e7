"""The decoders that `probe` gives to tasks: constrained ones hold in the units of the task's store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from earthssl.cli import probe
from earthssl.ssl.store.store import Store


def test_a_decoder_is_held_in_the_units_of_the_fields_it_is_given(
    small_store: Path, small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SST of at least 289 K, also on a planet ten degrees colder, whose anomalies are about its own climatology."""
    bound = {"kind": "bounded", "variables": ["sst"], "lower": 289.0, "how": "hard"}
    short = {"steps": 2, "warmup_steps": 1, "val_every": 2, "save_every": 2}
    path = str(small_pretrain(tmp_path / "run", constraints=[bound], **short).parent)
    store = Store(small_store)
    colder = replace(store.statistics, coefficients=store.statistics.coefficients.copy())
    colder.coefficients[:, 0, 0] -= 10
    steps = np.arange(240, 243)
    fields = store.read(steps)[None].copy()
    fields[:, -1, 0, :, :6] = np.nan
    times = store.times[steps][None]
    for statistics in (store.statistics, colder):
        fill = probe.decoders([path], statistics)[path].fill
        assert fill is not None
        sst = statistics.denormalise(fill(fields, times)[0], times[0])[-1, 0, :, :6]
        assert np.nanmin(sst) == pytest.approx(289, abs=1e-3)
        assert np.array_equal(np.isfinite(sst), statistics.known[0, :, :6])
    given: list[Any] = []
    monkeypatch.setattr(probe, "decoders", lambda paths, statistics: given.append((paths, statistics.to_json())))
    monkeypatch.setattr(probe, "run_task", lambda config, decoders, command: decoders(["a"]))
    probe.probe(SimpleNamespace(store=str(small_store)))
    assert given == [(["a"], store.statistics.to_json())]

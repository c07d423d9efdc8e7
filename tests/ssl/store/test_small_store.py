"""The tiny store that other tests stand on is what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from earthssl.ssl.store.store import Store


def test_store_holds_what_was_made(small_store: Path, small_data: Any) -> None:
    """Units, shapes, land, blocks; fields come back to rounding."""
    store = Store(small_store)
    assert store.variables == ("sst", "u10", "v10")
    assert store.shape == (360, 3, 7, 12)
    assert store.grid.periodic
    assert store.manifest["split_proof"]["disjoint"]
    known = store.statistics.known
    assert known[1:].all()
    assert (~known[0]).sum() == 12
    back = store.dataset()
    for name in store.variables:
        np.testing.assert_allclose(back[name].values, small_data[name].values, rtol=1e-5, atol=1e-4)


def test_normal_fields_have_unit_variance_in_training(small_store: Path) -> None:
    """Unequal variances (a factor of 20 between u10 and v10) are gone after normalisation."""
    store = Store(small_store)
    train = store.read(np.arange(240))
    np.testing.assert_allclose(np.nanstd(train, (0, 2, 3)), 1, atol=0.02)
    raw = store.dataset()
    assert float(raw["u10"].std() / raw["v10"].std()) > 10


def test_windows_stay_in_their_block(small_windows: Callable[..., Any]) -> None:
    """238 windows of 3 months in 20 years; the batch has zeros where nothing was observed."""
    windows = small_windows("train")
    assert len(windows) == 238
    assert windows.last_times[-1] == np.datetime64("2000-12-01")
    batch = windows.batch([0, 237])
    assert batch.values.shape == (2, 3, 3, 7, 12)
    assert not batch.valid[:, :, 0, 1:5, 2:5].any()
    assert (batch.values[~batch.valid] == 0).all()
    assert torch.get_num_threads() == 1


def test_finished_run_leaves_its_files(small_run: Path) -> None:
    """Config, history, record, state and checkpoint lie side by side."""
    names = {path.name for path in small_run.iterdir()}
    assert {"config.json", "history.csv", "run.json", "last.ckpt", "checkpoint"} <= names
    assert not any((name.startswith(".") and name != ".lock") or name.endswith(".new") for name in names)

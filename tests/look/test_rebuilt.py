"""What the pretext tasks make of a window is what the objectives themselves say, in units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.look.rebuilt import Decoders
from earthssl.pretext import TASKS
from earthssl.ssl.checkpoint.read import read_record
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.pretrain import load_objectives, pretrain


def decoders(store: Path, run: Path) -> Decoders:
    folder = run / "checkpoint"

    def load() -> tuple[Any, Any]:
        encoder, objectives = load_objectives(folder, TASKS)
        return encoder, objectives.tasks()

    return Decoders(load, read_record(folder), Store(store))


def test_masked_cells_are_hidden_and_the_rest_is_the_truth(small_store: Path, small_run: Path) -> None:
    made = decoders(small_store, small_run)
    assert made.describe() == [{"name": "masking", "leads": []}]
    store = made.store
    for draw in (0, 1):
        found = made.show("masking", "sst", 40, draw)
        own = store.read([40])[0, 0] * store.statistics.scale[0]
        np.testing.assert_allclose(found.truth, own, atol=1e-3)
        seen = np.isfinite(found.shown)
        hidden = np.isfinite(found.truth) & ~seen
        assert hidden.any()
        np.testing.assert_allclose(found.made[seen], found.truth[seen], atol=1e-3)
        np.testing.assert_allclose(found.error[hidden], (found.made - found.truth)[hidden], atol=1e-3)
        assert np.isnan(found.error[~hidden]).all()
        weight = store.grid.area[hidden]
        expected = np.sqrt((weight * found.error[hidden] ** 2).sum() / weight.sum())
        assert found.rms == pytest.approx(expected, rel=1e-5)
    other = made.show("masking", "sst", 40, 7)
    assert not np.array_equal(np.isnan(other.shown), np.isnan(found.shown))  # masks are drawn anew
    again = made.show("masking", "sst", 40, 7)
    np.testing.assert_array_equal(again.shown, other.shown)


def test_forecasts_are_those_of_the_head_at_the_lead(
    small_store: Path, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    run = small_pretrain(tmp_path / "run", {"lead_time": {"leads": [1, 3], "residual": True}}).parent
    made = decoders(small_store, run)
    assert made.describe() == [{"name": "lead_time", "leads": [1, 3]}]
    found, store = made.show("lead_time", "u10", 50, lead=3), made.store
    scale = store.statistics.scale[1]
    np.testing.assert_allclose(found.truth, store.read([53])[0, 1] * scale, atol=1e-3)
    np.testing.assert_allclose(found.shown, store.read([50])[0, 1] * scale, atol=1e-3)
    assert np.abs(found.made - found.shown).max() < np.abs(found.made).max()  # 12 steps from persistence
    assert not np.array_equal(found.made, made.show("lead_time", "u10", 50, lead=1).made)
    assert found.usual > 0
    for said, how in (
        ("task: expected", {"name": "masking"}),
        ("variable: expected", {"variable": "z500"}),
        ("lead: expected", {"lead": 2}),
        ("step: expected", {"step": 357}),
        ("step: expected", {"step": 1}),
    ):
        with pytest.raises(EarthSSLError, match=said):
            made.show(**{"name": "lead_time", "variable": "u10", "step": 50, "lead": 3, **how})  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_forecasts_are_held_in_the_units_of_the_month_that_is_forecast(
    window: int, small_store: Path, small_config: Callable[..., Any], tmp_path: Path
) -> None:
    """SST clamped at 295 K: never below it in any calendar month, and at it in all; one step alone has no spacing."""
    bound = {"kind": "bounded", "variables": ["sst"], "lower": 295.0, "how": "hard"}
    tasks = {"lead_time": {"leads": [1, 3]}}
    config = small_config(tmp_path / "run", tasks, constraints=[bound], steps=2, warmup_steps=1, val_every=2)
    pretrain(replace(config, encoder=EncoderConfig("nano", window, (1, 2, 3))), TASKS)
    made = decoders(small_store, tmp_path / "run")
    for step in range(240, 252):
        found = made.show("lead_time", "sst", step, lead=3)
        usual = made.store.statistics.denormalise(np.zeros((1, *made.store.shape[1:])), made.store.times[[step + 3]])
        assert np.nanmin(found.made + usual[0, 0]) == pytest.approx(295, abs=1e-3)


def test_a_store_without_all_variables_has_nothing_to_show(small_data: Any, small_run: Path, tmp_path: Path) -> None:
    from earthssl.ssl.fields.splits import SplitsConfig
    from earthssl.ssl.prepare.config import PrepareConfig
    from earthssl.ssl.prepare.prepare import prepare

    small_data[["sst", "u10"]].to_netcdf(tmp_path / "two.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    store = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, {"path": str(tmp_path / "two.nc")}))
    made = decoders(store, small_run)
    assert made.describe() == []
    with pytest.raises(EarthSSLError, match="task: expected none"):
        made.show("masking", "sst", 40)


def test_objectives_without_a_forecast_of_fields_are_no_forecasts(
    small_store: Path, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """Latent prediction has leads but no fields; hidden components are nowhere missing: all cells are scored."""
    tasks = {"temporal_latent": {"leads": [1]}, "eof_masking": {}}
    run = small_pretrain(tmp_path / "run", tasks).parent
    made = decoders(small_store, run)
    assert made.describe() == [{"name": "eof_masking", "leads": []}]
    found = made.show("eof_masking", "u10", 50)
    valid = np.isfinite(found.truth)
    assert np.isfinite(found.error[valid]).all()
    assert found.rms > 0
    assert found.usual > 0

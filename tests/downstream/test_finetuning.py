"""finetune: from a checkpoint, a store and labels to a tuned folder that predicts what the run predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.finetuned import load_finetuned
from earthssl.downstream.finetuning import FinetuningConfig, finetune
from earthssl.ssl.checkpoint import load_encoder, read, verify

FAST: dict[str, Any] = {
    "steps": 6, "batch_size": 16, "warmup_steps": 2, "check_every": 3, "seeds": 1, "scratch_seeds": 0,
    "untrained_seeds": 0, "layers": [-1], "components": [5], "unit": "month", "patience": 0,
}  # fmt: skip


def write_series(file: Path, data: xr.Dataset, words: bool = False) -> Path:
    """Labels that the winds tell: the mean of u10 in a box, as numbers or as three classes."""
    values = data["u10"].isel(lat=slice(2, 5), lon=slice(0, 3)).mean(("lat", "lon")).values
    if words:
        low, high = np.quantile(values[:240], [1 / 3, 2 / 3])
        values = np.where(values < low, "calm", np.where(values > high, "strong", "fair"))
    frame = pd.DataFrame({"time": np.datetime_as_string(data["time"].values, "D"), "wind": values})
    frame.to_csv(file, index=False)
    return file


@pytest.fixture
def series(small_data: xr.Dataset, tmp_path: Path) -> Path:
    return write_series(tmp_path / "labels.csv", small_data)


@pytest.fixture
def make(small_store: Path, small_run: Path, tmp_path: Path) -> Callable[..., FinetuningConfig]:
    """Maker of a config that trains for a few steps."""

    def made(labels: Path, **more: Any) -> FinetuningConfig:
        usual = {
            "checkpoint": str(small_run),
            "store": str(small_store),
            "target": "wind",
            "out": str(tmp_path / "out"),
        }
        return FinetuningConfig(labels=str(labels), **{**usual, **FAST, **more})

    return made


def predictions_again(folder: Path, data: xr.Dataset, places: Any = None) -> tuple[xr.Dataset, xr.DataArray]:
    """What the run predicted of its test labels, and what the saved folder predicts for all windows."""
    with xr.open_dataset(folder / "predictions.nc") as opened:
        run = opened.load()
    return run, load_finetuned(folder).predict(data, places)


def test_a_tuned_folder_is_whole_and_predicts_what_the_run_predicted(
    make: Callable[..., FinetuningConfig], series: Path, small_data: xr.Dataset, small_run: Path
) -> None:
    folder = finetune(make(series, scratch_seeds=1, untrained_seeds=1, compare=["head"]))
    assert verify(folder / "checkpoint")["golden_difference"] < 1e-5
    assert load_encoder(folder / "checkpoint").embed(small_data).sizes["feature"] == 64
    run, again = predictions_again(folder, small_data)
    np.testing.assert_allclose(again.sel(time=run["time"]), run["predicted"][:, 0], rtol=1e-5)
    assert again.sizes == {"time": 358}
    record = read(folder / "checkpoint")[1]
    assert record.task is not None
    assert record.task["kind"] == "regression"
    assert record.task["targets"] == [{"name": "wind", "units": ""}]
    assert record.task["parent"]["name"] == small_run.name
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores["row"]) == {
        "climatology", "persistence", "damped persistence", "PCA [ridge]", "pretrained [linear probe]",
        "untrained [linear probe]", "same network from scratch", "pretrained, fine-tuned [full]",
        "pretrained, fine-tuned [head]",
    }  # fmt: skip
    skill = scores[scores.metric == "skill"].set_index("row")["value"]
    assert abs(skill["climatology"]) < 1e-12
    assert skill["PCA [ridge]"] > 0.5
    assert not list(folder.parent.glob(".*"))

"""finetune: from a checkpoint, a store and labels to a tuned folder that predicts what the run predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.downstream.features import raw_window, store_windows
from earthssl.downstream.finetune import rows, task
from earthssl.downstream.finetune.config import FinetuningConfig
from earthssl.downstream.finetune.finetune import finetune
from earthssl.downstream.finetune.predictor import checked_shape, load_finetuned
from earthssl.downstream.finetune.task import Finetuning
from earthssl.downstream.results.row import Row
from earthssl.downstream.training import loop
from earthssl.downstream.training.unfinished import unfinished
from earthssl.ssl.checkpoint.read import read
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.constraints.config import ConstraintConfig
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.store.store import Store

FAST: dict[str, Any] = {
    "steps": 6, "batch_size": 16, "warmup_steps": 2, "check_every": 3, "seeds": 1, "scratch_seeds": 0,
    "untrained_seeds": 0, "layers": [-1], "components": [5], "unit": "month", "patience": 0,
    "random_seeds": 0, "fractions": [],
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
    folder = finetune(make(series, scratch_seeds=1, untrained_seeds=1, compare=["head"], units="m s-1"))
    replayed = verify(folder / "checkpoint")
    assert replayed["golden_difference"] <= replayed["tolerance"]
    assert load_encoder(folder / "checkpoint").embed(small_data).sizes["feature"] == 64
    run, again = predictions_again(folder, small_data)
    np.testing.assert_allclose(again.sel(time=run["time"]), run["predicted"][:, 0], rtol=1e-5)
    assert again.sizes == {"time": 358}
    assert again.attrs["units"] == "m s-1"
    later = small_data.assign_coords(time=small_data["time"] + np.timedelta64(20, "D"))
    np.testing.assert_array_equal(load_finetuned(folder).predict(later).values, again.values)
    with pytest.raises(EarthSSLError, match=r"for predicting: expected values within 8 .* 'u10' lies"):
        load_finetuned(folder).predict(small_data.assign(u10=(small_data["u10"] * 9).assign_attrs(units="m s-1")))
    record = read(folder / "checkpoint")[1]
    assert record.task is not None
    assert record.task["kind"] == "regression"
    made = load_finetuned(folder).distribution(small_data, coverage=0.8).sel(time=run["time"])
    np.testing.assert_allclose(made["quantile"], run["quantile"][:, 0], rtol=1e-4, atol=1e-5)
    observed, own = (
        run["observed"][:, 0].values,
        pd.read_csv(folder / "distribution.csv").set_index("coverage").loc[0.8],
    )
    inside = (observed >= made["low"].values) & (observed <= made["high"].values)
    assert inside.mean() == pytest.approx(own["test_coverage"])
    assert float((made["high"] - made["low"]).max()) == pytest.approx(2 * own["half_width"], rel=1e-6)
    assert made["low"].attrs["units"] == "m s-1"
    assert "Interval of 90%, wind: ±" in (folder / "table.txt").read_text(encoding="utf-8")
    with pytest.raises(EarthSSLError, match=r"coverage: expected 0\.5, 0\.8, 0\.9"):
        load_finetuned(folder).distribution(small_data, coverage=0.85)
    assert record.task["targets"] == [{"name": "wind", "units": "m s-1"}]
    assert record.task["parent"]["name"] == small_run.name
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores["row"]) == {
        "climatology", "persistence", "damped persistence", "PCA [ridge]", "raw window [ridge]",
        "PCA of the window [ridge]", "pretrained [linear probe]", "untrained [linear probe]",
        "same network from scratch", "pretrained, fine-tuned [full]", "pretrained, fine-tuned [head]",
    }  # fmt: skip
    skill = scores[scores.metric == "skill"].set_index("row")["value"]
    assert abs(skill["climatology"]) < 1e-12
    assert skill["PCA [ridge]"] > 0.5
    assert not list(folder.parent.glob(".*"))


@pytest.mark.parametrize("kind", ["classification", "field", "places"])
def test_every_kind_makes_the_round_trip(
    make: Callable[..., FinetuningConfig], small_data: xr.Dataset, tmp_path: Path, kind: str
) -> None:
    more: dict[str, Any] = {"kind": "regression" if kind == "places" else kind, "mode": "lora", "rank": 2}
    places = None
    if kind == "classification":
        labels, more["pooling"] = write_series(tmp_path / "labels.csv", small_data, words=True), "mean"
    elif kind == "field":
        labels, more["target"] = tmp_path / "rain.nc", "rain"
        more["constraints"] = [ConstraintConfig("bounded", "hard", variables=["rain"], lower=-4.0)]
        rain = (small_data["u10"] * 2 + 1).rename("rain").assign_attrs(units="mm")
        rain.sortby("lat").to_dataset().to_netcdf(labels)
    else:
        labels, places = tmp_path / "labels.csv", [(0.0, 30.0), (-60.0, 210.0)]
        days = np.datetime_as_string(small_data["time"].values, "D")
        lines = [
            f"{day},{lat},{lon},{float(small_data['u10'].sel(lat=lat, lon=lon)[k])}"
            for k, day in enumerate(days)
            for lat, lon in places
        ]
        labels.write_text("\n".join(["time,lat,lon,wind", *lines]))
    folder = finetune(make(labels, **more))
    verify(folder / "checkpoint")
    run, again = predictions_again(folder, small_data, places)
    if kind == "classification":
        assert list(again["class"].values) == ["calm", "fair", "strong"]
        np.testing.assert_allclose(again.sel(time=run["time"]), run["probability"], atol=1e-5)
        assert float(abs(again.sum("class") - 1).max()) < 1e-6
        said = read(folder / "checkpoint")[1].task or {}
        assert said["classes"] == ["calm", "fair", "strong"]
        assert "Classes. train: calm" in (folder / "table.txt").read_text()
        with pytest.raises(EarthSSLError, match="got classes: predict returns their calibrated chances"):
            load_finetuned(folder).distribution(small_data)
    elif kind == "field":
        assert again.attrs["units"] == "mm"
        np.testing.assert_array_equal(again["lat"], small_data["lat"])
        np.testing.assert_allclose(again.sel(time=run["time"]), run["predicted"], atol=1e-4)
        assert float(again.min()) == pytest.approx(-4, abs=1e-6)
        violated = pd.read_csv(folder / "constraints.csv").set_index("row")["violation"]
        assert violated["pretrained, fine-tuned [lora]"] < 1e-6 < violated["saved network, before its layers"]
        assert violated["labels"] > 1e-6
        skill = pd.read_csv(folder / "scores.csv").query("metric == 'skill'").set_index("row")["value"]
        assert skill["raw window [ridge]"] > 0.98  # the field is a linear function of the patch itself
        assert skill["pretrained, fine-tuned [lora]"] > 0.1
    else:
        at = {"time": xr.DataArray(run["time"].values, dims="s"),
              "place": xr.DataArray((run["lat"].values < -1).astype(int), dims="s")}  # fmt: skip
        same = again.sel(time=at["time"]).isel(place=at["place"])
        np.testing.assert_allclose(same, run["predicted"][:, 0], rtol=1e-4, atol=1e-4)
        with pytest.raises(EarthSSLError, match="to predict for, as its labels had places"):
            load_finetuned(folder).predict(small_data)


def test_the_table_opens_with_what_was_found_and_holds_a_curve_over_labels(
    make: Callable[..., FinetuningConfig], series: Path
) -> None:
    """The curve follows the frozen encoder, its twin, raw input, and networks; with all labels it ends at the table."""
    folder = finetune(make(series, scratch_seeds=1, untrained_seeds=1, random_seeds=1, fractions=[0.005, 1.0]))
    scores = pd.read_csv(folder / "scores.csv").query("metric == 'skill'").set_index("row")["value"]
    curve = pd.read_csv(folder / "label_curve.csv")
    followed = ["raw window [ridge]", "pretrained [linear probe]", "untrained [linear probe]",
                "same network from scratch", "pretrained, fine-tuned [full]"]  # fmt: skip
    for asked, used in ((0.005, 1 / 238), (1.0, 1.0)):
        own = curve[curve["asked"] == asked].set_index("row")
        assert sorted(own.index) == sorted(followed)
        assert own["used"].tolist() == pytest.approx([used] * 5)
        if asked == 1:
            assert own["value"].to_dict() == pytest.approx(scores[followed].to_dict(), abs=1e-12)
        else:
            assert (own["value"] < scores[own.index]).all()
    differences = pd.read_csv(folder / "label_curve_differences.csv")
    pair = differences[(differences["row"] == "pretrained, fine-tuned [full]") & (differences["asked"] == 1)]
    assert "pretrained [linear probe]" in set(pair["reference"])
    text = (folder / "table.txt").read_text(encoding="utf-8")
    assert text.splitlines()[1].startswith(("pretrained, fine-tuned [full] has skill", "pretrained [linear probe] has"))
    assert "the frozen encoder" in text or "its untrained twin" in text
    assert "pretrained, fine-tuned [full] − pretrained [linear probe]" in text
    assert len(text.splitlines()) < 50
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.index("has skill") < page.index("data:image/png") < page.index("<details")
    assert (folder / "label_curve.png").is_file()


def test_one_class_among_few_labels_is_no_end(
    make: Callable[..., FinetuningConfig], small_data: xr.Dataset, tmp_path: Path
) -> None:
    labels = write_series(tmp_path / "labels.csv", small_data, words=True)
    folder = finetune(make(labels, kind="classification", pooling="mean", fractions=[0.001], label_draws=2))
    curve = pd.read_csv(folder / "label_curve_draws.csv")
    assert np.isfinite(curve["value"]).all()
    assert (curve[curve["row"] == "raw window [logistic]"]["value"] < 0.2).all()


def test_the_head_alone_leaves_the_parents_encoder_bit_equal_and_says_so(
    make: Callable[..., FinetuningConfig], series: Path, small_run: Path
) -> None:
    folder = finetune(make(series, mode="head", lr=1e-2))
    tuned, record = read(folder / "checkpoint")
    parent = read(small_run / "checkpoint")[0].state_dict()
    assert all(torch.equal(value, parent[name]) for name, value in tuned.state_dict().items())
    frozen = (record.task or {})["frozen"]
    assert frozen["tensors"] == len(parent)
    assert frozen["sha256_before"] == frozen["sha256_after"]
    assert frozen["steps_without_gradient"] == FAST["steps"]


def test_several_targets_have_units_and_a_dimension_of_their_own(
    make: Callable[..., FinetuningConfig], small_data: xr.Dataset, tmp_path: Path
) -> None:
    box = small_data[["u10", "v10"]].isel(lat=slice(2, 5), lon=slice(0, 3)).mean(("lat", "lon"))
    box["u10"].attrs["units"] = box["v10"].attrs["units"] = "m s-1"
    box.to_netcdf(tmp_path / "winds.nc")
    folder = finetune(make(tmp_path / "winds.nc", target=["u10", "v10"]))
    run, again = predictions_again(folder, small_data)
    assert list(again["units"].values) == ["m s-1", "m s-1"]
    np.testing.assert_allclose(again.sel(time=run["time"]), run["predicted"], rtol=1e-4, atol=1e-5)


def test_networks_that_are_done_stay_and_the_one_in_training_goes_on(
    make: Callable[..., FinetuningConfig], series: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopped when the first of two is done and the second has looked at validation twice; tests/cli kills a run."""
    config = make(series, scratch_seeds=1, average=0.9)
    whole = list(Finetuning(config, Store(config.store)).trained([]))
    states: list[Path] = []
    write = loop.write_state

    def interrupt(path: Path, state: Any) -> None:
        write(path, state)
        states.append(path)
        if sum(one.name.startswith("full") for one in states) == 2:
            raise KeyboardInterrupt

    def go(record: dict[str, Any]) -> list[Row]:
        made = Finetuning(config, Store(config.store))
        with unfinished(tmp_path / "out", record) as made.unfinished:
            return list(made.trained([]))

    monkeypatch.setattr(loop, "write_state", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go({"settings": 1})
    monkeypatch.setattr(loop, "write_state", write)
    left = tmp_path / "out.unfinished"
    assert {file.name for file in left.glob("*.pt")} == {"scratch-seed0.pt", "full-seed0.state.pt"}
    with pytest.raises(EarthSSLError, match="of the same settings, data, labels and checkpoint"):
        go({"settings": 2})
    trained: list[str] = []
    tuned = task.tune
    monkeypatch.setattr(task, "tune", lambda *a: (trained.append(a[4]), tuned(*a))[1])
    again = go({"settings": 1})
    assert trained == ["fine-tune full seed 0"]
    assert not left.exists()
    for one, two in zip(whole, again, strict=True):
        assert (one.name, one.chosen) == (two.name, two.chosen)
        np.testing.assert_array_equal(one.forecast["wind"], two.forecast["wind"])


def test_a_store_larger_than_memory_is_read_piece_by_piece_and_gives_the_same(
    make: Callable[..., FinetuningConfig], series: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By planned memory: with less free than the store takes no call reads more than a piece, and no row moves."""
    config = make(series, scratch_seeds=1)

    def rows() -> tuple[Finetuning, list[Row]]:
        made = Finetuning(config, Store(config.store))
        (encoder,) = made.encoders()
        found = [*made.baselines(3), *made.equal_input(3, 0), *made.rows(encoder, [2]), *made.trained([])]
        return made, found

    held = rows()[1]
    size = int(np.prod(Store(small_store).shape)) * 4
    monkeypatch.setattr("earthssl.ssl.data.loading.free_bytes", lambda device: 2 * size - 2)
    asked: list[int] = []
    read_steps = Store.read

    def watched(store: Store, steps: Any) -> np.ndarray:
        asked.append(len(steps))
        return read_steps(store, steps)

    monkeypatch.setattr(Store, "read", watched)
    for module in (store_windows, raw_window):
        monkeypatch.setattr(module, "PIECE", 32)
    made, streamed = rows()
    assert asked
    assert max(asked) <= 32
    assert any("larger than half of the free memory" in note for note in made._notes())
    assert [row.name for row in held] == [row.name for row in streamed]
    for one, two in zip(held, streamed, strict=True):
        np.testing.assert_allclose(one.forecast["wind"], two.forecast["wind"], rtol=1e-4, atol=1e-5)


def test_tokens_beyond_memory_are_left_out_or_refused_with_their_size(
    make: Callable[..., FinetuningConfig], series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(series)
    made = Finetuning(config, Store(config.store))
    monkeypatch.setattr("earthssl.downstream.finetune.tuning.free_ram", lambda: 10**5)
    assert made._start("pretrained", made.encoder, None).pooling in ("mean", "last")
    made.problem = replace(made.problem, pooling="mean+pcs")
    with pytest.raises(EarthSSLError, match=r"pooling: mean\+pcs holds the tokens of all windows"):
        made._start("pretrained", made.encoder, made.label_units())


def test_a_pretrained_folder_and_one_with_a_changed_head_are_refused(
    small_run: Path,
) -> None:
    with pytest.raises(EarthSSLError, match="got a pretrained encoder; load it with load_encoder"):
        load_finetuned(small_run)
    record = read(small_run / "checkpoint")[1]
    weights = {"linear.weight": torch.zeros(1, 68), "basis": torch.zeros(0, 0), "base": torch.zeros(12, 1),
               "scale": torch.ones(1)}  # fmt: skip
    shape = {"outputs": 1, "features": 10**12, "pcs": None, "base": [12, 1], "scale": 1}
    with pytest.raises(ValueError, match=r"linear\.weight: expected shape"):
        checked_shape(shape, weights)
    assert record.task is None


def test_raw_cells_beyond_memory_are_refused_with_their_size(
    make: Callable[..., FinetuningConfig], series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(series)
    problem = Finetuning(config, Store(config.store)).problem
    patch = (1, 2, 2)
    values = rows.patch_values(problem, patch)
    monkeypatch.setattr(rows, "free_ram", lambda: 2 * values.nbytes)
    assert np.array_equal(rows.patch_values(problem, patch), values)
    monkeypatch.setattr(rows, "free_ram", lambda: 2 * values.nbytes - 1)
    with pytest.raises(EarthSSLError, match=f"the raw cells of {len(values)} samples, .* MiB of free memory"):
        rows.patch_values(problem, patch)

"""The forecast task: from store and checkpoint to tables and figures, and as the matrix asks for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.downstream.tasks.forecast import task as module
from earthssl.downstream.tasks.forecast.baselines import DAMPED, PATCH_PCA, PCA
from earthssl.downstream.tasks.forecast.frozen import ForecastTask
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.downstream.tasks.forecast.task import ForecastConfig, run
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

QUICK = FinetuneConfig(steps=2, batch_size=8, warmup_steps=1, check_every=1)


@pytest.fixture(scope="module")
def config(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> ForecastConfig:
    return ForecastConfig(
        str(small_store), str(tmp_path_factory.mktemp("forecast") / "out"), [str(small_run)], leads=[1, 3],
        variables=["u10", "sst"], poolings=["last"], components=[4, 8], untrained_seeds=2, finetune=QUICK, draws=1000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(config: ForecastConfig) -> Path:
    return run(config, "earthssl probe")


def encoder_of(store: Store, window: int = 3, patch: tuple[int, int, int] = (1, 2, 3)) -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", window, patch).build(store.variables).eval().requires_grad_(False)


def test_the_table_holds_every_row_at_every_lead(folder: Path) -> None:
    scores = pd.read_csv(folder / "scores.csv", dtype={"seed": str}, keep_default_na=False)
    assert list(dict.fromkeys(scores.row)) == [
        "persistence", "persistence of the anomaly", "climatology, train mean", "climatology, calendar",
        "persistence, damped",
        "linear regression, direct", "linear regression, iterative", "PCA + ridge", "PCA of patches + patch head",
        "untrained + patch head", "pretrained + patch head", "same network from scratch",
        "pretrained, fine-tuned (full)",
    ]  # fmt: skip
    assert set(scores.target) == {"u10 1 mo", "u10 3 mo", "sst 1 mo", "sst 3 mo"}
    assert set(scores.metric) == {"rmse", "acc", "std ratio", "slope"}
    assert set(scores[scores.row == "untrained + patch head"].seed) == {"", "0", "1"}
    rmse = scores[(scores.metric == "rmse") & (scores.seed == "")]
    assert (rmse.low.astype(float) <= rmse.value.astype(float)).all()
    assert (rmse.value.astype(float) <= rmse.high.astype(float)).all()


def test_the_folder_says_how_it_was_made(folder: Path) -> None:
    record = json.loads((folder / "result.json").read_text())
    assert record["unit"] == "year"
    assert record["window"] == 3
    assert record["synthetic"] is False
    assert record["samples"]["train"] == {"1 mo": 237, "3 mo": 235}
    chosen = {row["name"]: row["settings"] for row in record["rows"]}
    assert set(chosen["pretrained + patch head"]["u10 1 mo"]) == {"features", "base", "penalty"}
    assert chosen["same network from scratch"]["base"] == "damped persistence"
    assert {p.stem for p in folder.glob("*.png")} == {"rmse_by_lead", "one_forecast", "spectrum_ratio"}
    assert not (folder / "published_weatherbench1.csv").exists()
    forms = pd.read_csv(folder / "forms.csv")
    assert (forms.wb1_rmse_paper <= forms.wb1_rmse).all()
    assert (forms.wb2_rmse_sqrt_before_time_avg <= forms.wb2_rmse).all()
    text = (folder / "table.txt").read_text()
    assert "intervals rest on 4 years" in text


def test_differences_are_paired_with_what_must_be_beaten(folder: Path) -> None:
    d = pd.read_csv(folder / "differences.csv")
    assert set(d.reference) == {
        "persistence", "persistence of the anomaly", "persistence, damped", "climatology, calendar",
        "linear regression, direct", "PCA + ridge", "PCA of patches + patch head", "untrained + patch head",
        "same network from scratch",
    }  # fmt: skip
    scores = pd.read_csv(folder / "scores.csv", dtype={"seed": str}, keep_default_na=False)
    value = scores[(scores.seed == "") & (scores.metric == "rmse")].set_index(["row", "target"]).value.astype(float)
    own = d[(d.metric == "rmse") & (d.row == "pretrained + patch head") & (d.target == "u10 1 mo")]
    for line in own.itertuples():
        assert line.value == pytest.approx(value[line.row, line.target] - value[line.reference, line.target])


def test_a_filled_folder_is_refused(config: ForecastConfig, folder: Path) -> None:
    with pytest.raises(EarthSSLError, match="out"):
        run(config)


@pytest.mark.slow
def test_without_checkpoints_it_runs_untrained_beside_published_numbers(
    config: ForecastConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When to show them is tested in test_weatherbench; here, that they are put beside the scores."""
    columns = ["row", "variable", "hours", "wb1_rmse", "provenance"]
    asked = []

    def fake(source: str, synthetic: bool, grid: Any, splits: Any, variables: tuple[str, ...]) -> pd.DataFrame:
        asked.append((synthetic, grid.shape, variables))
        return pd.DataFrame([("IFS T42", "z500", 72, 489, "x")], columns=columns)

    monkeypatch.setattr(module, "published", fake)
    own = replace(
        config, out=str(tmp_path / "out"), checkpoints=[], encoder=EncoderConfig("nano", 2, (1, 4, 4)), leads=[2],
        variables=["u10"], untrained_seeds=1, scratch_seeds=0, raw_values=True, bases=["departure"],
    )  # fmt: skip
    folder = run(own)
    assert asked == [(False, (7, 12), ("u10",))]
    assert pd.read_csv(folder / "published_weatherbench1.csv").wb1_rmse.tolist() == [489]
    text = (folder / "table.txt").read_text()
    assert "untrained + patch head" in text
    assert "no pretrained encoder" in text
    assert "from scratch" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoints": []}, "got neither"),
        ({"leads": []}, "steps ahead from 1"),
        ({"leads": [0, 1]}, "steps ahead from 1"),
        ({"poolings": ["lost"]}, "Did you mean 'last'"),
        ({"bases": ["chance"]}, "Did you mean 'change'"),
        ({"bases": []}, "got 'none'"),
        ({"unit": "weak"}, "Did you mean 'week'"),
        ({"task": "forecasts"}, "Did you mean 'forecast'"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"penalties": [0.0]}, "positive penalties"),
        ({"untrained_seeds": -1}, "seeds from 0"),
    ],
)
def test_bad_settings_are_refused(config: ForecastConfig, change: dict[str, Any], words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        replace(config, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leads": [12]}, "shorten the longest lead"),
        ({"variables": ["ssst"]}, "Did you mean 'sst'"),
        ({"layers": [7]}, "expected -3 to 2, got 7"),
    ],
)
def test_requests_that_do_not_fit_the_store_are_refused(
    config: ForecastConfig, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(EarthSSLError, match=words):
        run(replace(config, out=str(tmp_path / "x"), **change))
    assert not (tmp_path / "x").exists()


# ---- As the matrix asks ------------------------------------------------------------------------------------


def test_the_frozen_task_scores_layers_and_references_on_the_same_units(small_store: Path) -> None:
    store = Store(small_store)
    task = ForecastTask(store, leads=[1, 3], components=[4, 8], patch=[2, 3])
    assert (task.name, task.unit) == ("forecast", "year")
    found, references = task.evaluate(encoder_of(store), [0, 2]), task.references()
    assert set(found) == {0, 2}
    assert set(references) == {DAMPED, PCA, PATCH_PCA}
    first = found[0].by_unit()
    for one in (found[2], *references.values()):
        own = one.by_unit()
        assert own.units.tolist() == first.units.tolist() == [2007, 2008, 2009, 2010]
        np.testing.assert_allclose(own.reference, first.reference)
    assert found[0].skill() > 0.3
    assert references[PATCH_PCA].skill() > 0.3
    # Another window: other inputs, the same targets.
    longer = task.evaluate(encoder_of(store, window=5), [1])[1].by_unit()
    np.testing.assert_allclose(longer.reference, first.reference)


def test_errors_are_the_samples_errors(small_store: Path) -> None:
    """Damped persistence by hand: one sample a target, variable and lead."""
    store = Store(small_store)
    task = ForecastTask(store, leads=[2], variables=["v10"])
    one = task.references()[DAMPED]
    samples = ForecastSamples.of(store, [2], 3, ["v10"])
    inits = samples.inits("test", 2)
    assert len(one.error) == len(inits)
    power = samples.squared_errors(np.zeros_like(samples.present(inits)), inits, 2)[:, 0]
    np.testing.assert_allclose(one.reference, power)
    assert 0 < one.skill() < 1


def test_a_task_refuses_what_it_cannot_do(small_store: Path) -> None:
    store = Store(small_store)
    with pytest.raises(EarthSSLError, match="Did you mean 'week'"):
        ForecastTask(store, unit="weak")
    with pytest.raises(EarthSSLError, match="shorten the longest lead"):
        ForecastTask(store, leads=[1]).evaluate(encoder_of(store, window=13), [0])


def test_kaplan_sst_beside_land(shared_data: Path, tmp_path: Path) -> None:
    """Real monthly SST of the tropical Pacific, a season ahead: damped persistence and PCA have skill."""
    options = {"path": str(shared_data / "kaplan_sst_anom_tropacific_5deg_monthly_1856-2014.nc"), "variables": ["ssta"]}
    splits = SplitsConfig(("1960-01", "1989-12"), ("1991-01", "1998-12"), ("2000-01", "2014-12"), 360)
    store = Store(prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options)))
    task = ForecastTask(store, leads=[3], components=[10, 20], patch=[2, 2], poolings=["last"])
    references = task.references()
    for one in references.values():
        assert 0.1 < one.skill() < 0.8
    assert np.isfinite(task.evaluate(encoder_of(store, 3, (1, 2, 2)), [1])[1].skill())

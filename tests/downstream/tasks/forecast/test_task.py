"""The forecast task: from store and checkpoint to tables and figures, and as the matrix asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.downstream.evaluation.encoders import ZERO_SHOT, Contender, Decoder
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.tasks.forecast import task as module
from earthssl.downstream.tasks.forecast.baselines import DAMPED, PATCH_PCA, PCA
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.downstream.tasks.forecast.task import ForecastConfig, ForecastTask
from earthssl.downstream.tasks.registry import matrix_task
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

QUICK = FinetuneConfig(steps=2, batch_size=8, warmup_steps=1, check_every=1)
RAW = [f"{name} [patch head]" for name in ("raw window", "random features of the raw window", "PCA of the window")]


@pytest.fixture(autouse=True, scope="module")
def _few_random_features() -> Iterator[None]:
    """So that the default suite stays quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("earthssl.downstream.evaluation.equal_input.RANDOM_FEATURES", 32)
        yield


@pytest.fixture(scope="module")
def config(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> ForecastConfig:
    return ForecastConfig(
        str(small_store), str(tmp_path_factory.mktemp("forecast") / "out"), [str(small_run)], leads=[1, 3],
        variables=["u10", "sst"], poolings=["last"], components=[4, 8], untrained_seeds=2, finetune=QUICK, draws=1000,
        random_seeds=1, scratch=ScratchConfig(1, 2, 8, check_every=1), fractions=[0.1, 1.0], label_draws=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(config: ForecastConfig) -> Path:
    return run(task_of(config), "earthssl probe")


def task_of(config: ForecastConfig) -> ForecastTask:
    return ForecastTask(config, Store(config.store))


def encoder_of(store: Store, window: int = 3, patch: tuple[int, int, int] = (1, 2, 3)) -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", window, patch).build(store.variables).eval().requires_grad_(False)


def test_the_table_holds_every_row_at_every_lead(folder: Path) -> None:
    scores = pd.read_csv(folder / "scores.csv", dtype={"seed": str}, keep_default_na=False)
    assert list(dict.fromkeys(scores.row)) == [
        "persistence", "persistence of the anomaly", "climatology, train mean", "climatology, calendar",
        "persistence, damped",
        "linear regression, direct", "linear regression, iterative", "PCA + ridge",
        "predictable directions (CCA) + ridge", "PCA of patches [patch head]", *RAW,
        "pretrained [patch head]", "untrained [patch head]", "same network from scratch",
        "pretrained, fine-tuned (full)",
    ]  # fmt: skip
    assert set(scores.target) == {"u10 1 mo", "u10 3 mo", "sst 1 mo", "sst 3 mo"}
    assert set(scores.metric) == {"skill", "rmse", "acc", "std ratio", "slope"}
    assert set(scores[scores.row == "untrained [patch head]"].seed) == {"", "0", "1"}
    rmse = scores[(scores.metric == "rmse") & (scores.seed == "")]
    assert (rmse.low.astype(float) <= rmse.value.astype(float)).all()
    assert (rmse.value.astype(float) <= rmse.high.astype(float)).all()
    # Undefined for a forecast without anomalies, and for no other.
    slope = scores[scores.metric == "slope"].set_index("row").value
    assert set(slope[slope == ""].index) == {"climatology, calendar"}


def test_the_curve_follows_what_is_fitted(folder: Path) -> None:
    curve = pd.read_csv(folder / "label_curve.csv")
    assert set(curve.row) == {
        "persistence, damped", "PCA + ridge", RAW[0], "pretrained [patch head]", "untrained [patch head]",
        "same network from scratch",
    }  # fmt: skip
    assert set(curve.used) == {0.1, 1.0}
    assert np.isfinite(curve.value).all()
    # With all years nothing is refitted in table or curve: the same numbers.
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    whole = scores[(scores.metric == "skill") & (scores.seed == "")].set_index(["row", "target"]).value.astype(float)
    own = curve[(curve.used == 1) & curve.row.isin(["persistence, damped", RAW[0], "pretrained [patch head]"])]
    for line in own.itertuples():
        assert line.value == pytest.approx(whole[line.row, line.target], abs=1e-6)


def test_rows_of_some_years_see_no_other(config: ForecastConfig, small_store: Path) -> None:
    """Training samples are counted by their last input step; validation and test stay."""
    samples = ForecastSamples.of(Store(small_store), [1, 3], 3, ["u10"])
    some = samples.trained_on(np.array([1984, 1990]), "year")
    for lead in (1, 3):
        inits = some.inits("train", lead)
        assert set(samples.times[inits].astype("datetime64[Y]").astype(int) + 1970) == {1984, 1990}
        assert set(inits) < set(samples.inits("train", lead))
        assert np.array_equal(some.inits("test", lead), samples.inits("test", lead))
    assert len(some.joint("train")) == 24


def test_the_folder_says_how_it_was_made(folder: Path) -> None:
    record = json.loads((folder / "result.json").read_text())
    assert record["unit"] == "year"
    assert record["window"] == 3
    assert record["synthetic"] is False
    assert record["samples"]["train"] == {"1 mo": 237, "3 mo": 235}
    chosen = {row["row"]: row for row in record["rows"]}
    assert set(chosen["pretrained [patch head]"]["u10 1 mo"]) == {"features", "base", "penalty"}
    assert chosen["same network from scratch"]["base"] == "damped persistence"
    assert {p.stem for p in folder.glob("*.png")} == {
        "scores", "label_curve", "rmse_by_lead", "one_forecast", "spectrum_ratio"
    }  # fmt: skip
    assert not (folder / "published_weatherbench1.csv").exists()
    forms = pd.read_csv(folder / "forms.csv")
    assert (forms.wb1_rmse_paper <= forms.wb1_rmse).all()
    assert (forms.wb2_rmse_sqrt_before_time_avg <= forms.wb2_rmse).all()
    text = (folder / "table.txt").read_text()
    assert "intervals rest on 4 years" in text


def test_differences_are_paired_with_what_must_be_beaten(folder: Path) -> None:
    d = pd.read_csv(folder / "differences.csv")
    assert set(d.reference) >= {
        "persistence", "persistence of the anomaly", "persistence, damped", "climatology, calendar",
        "linear regression, direct", "PCA + ridge", "PCA of patches [patch head]", "untrained [patch head]",
        "same network from scratch", *RAW,
    }  # fmt: skip
    assert "climatology, train mean" not in set(d.reference)
    scores = pd.read_csv(folder / "scores.csv", dtype={"seed": str}, keep_default_na=False)
    value = scores[(scores.seed == "") & (scores.metric == "rmse")].set_index(["row", "target"]).value.astype(float)
    own = d[(d.metric == "rmse") & (d.row == "pretrained [patch head]") & (d.target == "u10 1 mo")]
    for line in own.itertuples():
        assert line.value == pytest.approx(value[line.row, line.target] - value[line.reference, line.target])


def test_a_filled_folder_is_refused(config: ForecastConfig, folder: Path) -> None:
    with pytest.raises(EarthSSLError, match="out"):
        run(task_of(config))


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
        variables=["u10"], untrained_seeds=1, scratch=ScratchConfig(0), raw_values=True, bases=["departure"],
        fractions=[],
    )  # fmt: skip
    folder = run(task_of(own))
    assert asked == [(False, (7, 12), ("u10",))]
    assert pd.read_csv(folder / "published_weatherbench1.csv").wb1_rmse.tolist() == [489]
    text = (folder / "table.txt").read_text()
    assert "untrained [patch head]" in text
    assert "No pretrained encoder" in text
    assert "same network from scratch" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leads": []}, "leads ≥ 1, at least one"),
        ({"leads": [0, 1]}, "leads ≥ 1"),
        ({"poolings": ["lost"]}, "Did you mean 'last'"),
        ({"bases": ["chance"]}, "Did you mean 'change'"),
        ({"bases": []}, "got none"),
        ({"unit": "weak"}, "Did you mean 'week'"),
        ({"task": "forecasts"}, "expected forecast"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"penalties": [0.0]}, "penalties > 0"),
        ({"untrained_seeds": -1}, "untrained_seeds"),
        ({"finetune_seeds": -1}, "finetune_seeds"),
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
        run(task_of(replace(config, out=str(tmp_path / "x"), **change)))
    assert not (tmp_path / "x").exists()


# ---- As the matrix asks ------------------------------------------------------------------------------------


def asked(store: Store, patch: tuple[int, int, int] = (1, 2, 3), **options: Any) -> ForecastTask:
    made = matrix_task("forecast", store, options, EncoderConfig("nano", 3, patch))
    assert isinstance(made, ForecastTask)
    return made


def errors(task: ForecastTask, row: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of a row and of the climatology, all targets one after another."""
    found = [(one.errors(row), one.reference_errors) for one in task.targets() if one.errors]
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found if b is not None])


def skill(task: ForecastTask, row: Any) -> float:
    own, reference = errors(task, row)
    return 1 - float(own.sum() / reference.sum())


def as_contender(encoder: Encoder) -> Contender:
    return Contender("untrained", 0, encoder, "", {})


def test_frozen_layers_and_references_are_scored_on_the_same_units(small_store: Path) -> None:
    store = Store(small_store)
    task = asked(store, leads=[1, 3], components=[4, 8])
    encoder = as_contender(encoder_of(store))
    first, third = (next(iter(task.rows(encoder, [layer]))) for layer in (0, 2))
    assert {one["features"] for one in first.chosen.values()} <= {"layer 1, last", "layer 1, mean+last"}
    assert [one.name for one in task.targets()] == [f"{v} {k} mo" for v in ("sst", "u10", "v10") for k in (1, 3)]
    for one in task.targets():
        assert sorted(set(one.units)) == [2007, 2008, 2009, 2010]
        assert len(one.units) == len(one.errors(third)) == 48
    assert skill(task, first) > 0.3
    references = {row.name: row for row in task.baselines(3)}
    assert {DAMPED, PCA, PATCH_PCA} <= set(references)
    assert skill(task, references[PATCH_PCA]) > 0.3
    # Another window: other inputs, the same targets.
    (longer,) = task.rows(as_contender(encoder_of(store, window=5)), [1])
    assert len(errors(task, longer)[0]) == len(errors(task, first)[0])
    assert skill(task, longer) > 0.3


def test_errors_are_the_samples_errors(small_store: Path) -> None:
    """Damped persistence by hand: one sample a target, variable and lead."""
    task = asked(Store(small_store), leads=[2], variables=["v10"], components=[4])
    one = next(row for row in task.baselines(3) if row.name == DAMPED)
    samples = ForecastSamples.of(Store(small_store), [2], 3, ["v10"])
    inits = samples.inits("test", 2)
    own, reference = errors(task, one)
    assert len(own) == len(inits)
    power = samples.squared_errors(np.zeros_like(samples.present(inits)), inits, 2)[:, 0]
    np.testing.assert_allclose(reference, power)
    assert 0 < skill(task, one) < 1


def test_a_task_refuses_what_it_cannot_do(small_store: Path) -> None:
    store = Store(small_store)
    with pytest.raises(EarthSSLError, match="Did you mean 'week'"):
        asked(store, unit="weak")
    with pytest.raises(EarthSSLError, match="Did you mean 'leads'"):
        asked(store, lead=[1])
    with pytest.raises(EarthSSLError, match="shorten the longest lead"):
        list(asked(store, leads=[1]).rows(as_contender(encoder_of(store, window=13)), [0]))


def test_kaplan_sst_beside_land(shared_data: Path, tmp_path: Path) -> None:
    """Real monthly SST of the tropical Pacific, a season ahead: damped persistence and PCA have skill."""
    options = {"path": str(shared_data / "kaplan_sst_anom_tropacific_5deg_monthly_1856-2014.nc"), "variables": ["ssta"]}
    splits = SplitsConfig(("1960-01", "1989-12"), ("1991-01", "1998-12"), ("2000-01", "2014-12"), 360)
    store = Store(prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options)))
    task = asked(store, (1, 2, 2), leads=[3], components=[10, 20], poolings=["last"])
    references = {row.name: row for row in task.baselines(3)}
    for name in (DAMPED, PCA, PATCH_PCA):
        assert 0.1 < skill(task, references[name]) < 0.8
    (row,) = task.rows(as_contender(encoder_of(store, 3, (1, 2, 2))), [1])
    assert np.isfinite(skill(task, row))


def test_the_forecast_head_of_pretraining_is_asked_as_it_is(config: ForecastConfig) -> None:
    """One that repeats the last step of all variables is persistence of the anomaly; one that lacks a lead is none."""
    asked: list[Any] = []

    def ahead(fields: np.ndarray, times: np.ndarray, lead: int) -> np.ndarray:
        assert times.shape == fields.shape[:2]
        asked.append((fields.shape[1:], lead))
        return np.nan_to_num(fields[:, -1])

    def decoded(leads: list[int]) -> ForecastTask:
        return ForecastTask(
            config, Store(config.store), lambda paths: dict.fromkeys(paths, Decoder(None, ahead, leads))
        )

    task = decoded([1, 2, 3])
    pretrained, untrained = task.encoders()[:2]
    (row,) = task.zero_shot(pretrained)
    assert row.name == ZERO_SHOT
    assert set(asked) == {((3, 3, 7, 12), 1), ((3, 3, 7, 12), 3)}
    same = task._row("x", row.role, lambda inits, lead: task.own.present(inits), {})
    assert all(np.array_equal(row.forecast[name], same.forecast[name]) for name in same.forecast)
    assert list(task.zero_shot(untrained)) == []
    short = decoded([1])
    assert list(short.zero_shot(pretrained)) == []
    assert "No zero-shot row for" in " ".join(short._notes([]))

"""Closures of Lorenz '96: known dynamics, noise with its moments, scores by brute force, and the whole task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run as run_task
from earthssl.downstream.results.row import Role
from earthssl.downstream.tasks.parameterisation.closures import (
    Closure,
    ExportedReader,
    around,
    cubic,
    linear,
    neighbours,
    nothing,
)
from earthssl.downstream.tasks.parameterisation.coupled import (
    DETERMINISTIC,
    NOISE,
    STATE_NOISE,
    Course,
    climate,
    climate_table,
    closeness,
    ensemble_scores,
    hellinger,
    run,
)
from earthssl.downstream.tasks.parameterisation.task import SUBGRID, Parameterisation, ParameterisationConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

COMMON: dict[str, Any] = {"dt": 0.01, "stride": 2, "keep": 10, "seed": 0}
OPTIONS = {"members": 8, "samples": 30, "dt": 0.005, "spinup": 1}  # one begins every 60 days
SPLITS = SplitsConfig(("1900-01-01", "1900-05-30"), ("1900-06-30", "1900-07-29"), ("1900-08-29", "1901-03-26"), 20)
STATISTICS = StatisticsConfig("hour", 0, "variable")


def closure(weight: float = 0.0, bias: float = 0.0, window: int = 1, **more: Any) -> Closure:
    """U = weight × X + bias."""
    return Closure(window, linear, np.array([[weight, 0.0]]), np.array([bias, 0.0]), **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lorenz96")
    return prepare(PrepareConfig("lorenz96", str(folder / "store"), SPLITS, dict(OPTIONS), STATISTICS))


@pytest.fixture(scope="module")
def config(store: Path) -> ParameterisationConfig:
    return ParameterisationConfig(
        str(store), steps=200, runs=4, forecast_leads=[0.2], cases=8, members=3, draws=1000, untrained_seeds=1,
        random_seeds=1, fractions=[0.3, 1.0], label_draws=1, scratch=ScratchConfig(1, 20, 16, check_every=10),
    )  # fmt: skip


# ---- Coupled runs --------------------------------------------------------------------------------------------


def test_a_ring_of_equal_values_decays_as_its_closure_says() -> None:
    """No advection: dX/dt = F - X - U. F = 2, U = 0: X = 2 + (X0 - 2) e^-t; U = 2 holds X0 = 0 for ever."""
    start = np.full((3, 1, 8), 1.0)
    course = run(Closure(1, nothing, np.zeros((1, 2)), np.zeros(2)), start, [DETERMINISTIC], 101, forcing=2.0,
                 **COMMON)[DETERMINISTIC]  # fmt: skip
    times = 0.1 * np.arange(11)
    np.testing.assert_allclose(course.slow[:, 1, 3], 2 - np.exp(-times), atol=1e-8)
    held = run(closure(bias=2.0), 0 * start, [DETERMINISTIC], 101, forcing=2.0, **COMMON)[DETERMINISTIC]
    np.testing.assert_allclose(held.slow, 0, atol=1e-12)
    np.testing.assert_allclose(held.subgrid, 2, atol=1e-12)


def test_a_run_that_grows_without_bound_is_told_and_the_others_go_on() -> None:
    """U = -3 X, held for a step: on a ring of equal values a step multiplies X by e^-dt + 3 (1 - e^-dt)."""
    start = np.array([1.0, 0.0])[:, None, None] * np.ones((1, 1, 8))
    course = run(closure(-3.0), start, [DETERMINISTIC], 401, forcing=0.0, **COMMON)[DETERMINISTIC]
    assert course.ended[0] == np.ceil(np.log(100) / np.log(3 - 2 * np.exp(-0.01))) - 1
    assert course.ended[1] == -1
    assert np.isfinite(course.slow).all()
    values = np.random.default_rng(0).standard_normal((2, 4, 1, 8))
    truth = Course(values[0], values[1], np.array([-1]))
    assert closeness(course, truth)[:, 0].tolist() == [0, 0]
    assert climate(course, truth)["blown up"] == 1
    table = climate_table({"it": course.of(slice(0, 1))}, truth, 0.01)
    assert table.loc[1, "blow-up after"] == pytest.approx(2.33)


def test_noise_has_its_deviation_and_memory_and_none_where_none_is_asked() -> None:
    start = np.zeros((200, 1, 8))
    made = run(closure(bias=1.0, spread=2.0, phi=(0.9, 0.0)), start, [DETERMINISTIC, NOISE], 12, forcing=0.0,
               **{**COMMON, "keep": [0, 1, 11]})  # fmt: skip
    assert (made[DETERMINISTIC].subgrid == 1).all()
    noise = made[NOISE].subgrid - 1
    np.testing.assert_allclose(noise.std(axis=(1, 2)), 2, rtol=0.06)
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] == pytest.approx(0.9, abs=0.02)
    assert np.corrcoef(noise[0].ravel(), noise[2].ravel())[0, 1] == pytest.approx(0.9**11, abs=0.06)
    assert abs(np.corrcoef(noise[0, :, 0], noise[0, :, 1])[0, 1]) < 0.2  # each variable its own


def test_the_history_of_a_closure_is_a_field_apart() -> None:
    """A reader that gives the oldest field of its window: U is X two strides ago."""
    rng = np.random.default_rng(0)
    history = rng.standard_normal((2, 9, 8))

    def oldest(windows: np.ndarray, step: int) -> np.ndarray:
        return windows[:, 0, :, None]

    late = Closure(3, oldest, np.array([[1.0, 0.0]]), np.zeros(2))
    course = run(late, history, [DETERMINISTIC], 6, forcing=0.0, **{**COMMON, "keep": 1})[DETERMINISTIC]
    for step in range(5):
        expected = history[:, -5 + step] if step < 5 else course.slow[0]
        np.testing.assert_allclose(course.subgrid[step], expected, atol=1e-12)
    np.testing.assert_allclose(course.subgrid[5], course.slow[1], atol=1e-12)


# ---- Fits ----------------------------------------------------------------------------------------------------


def test_a_cubic_is_found_and_so_is_noise_that_grows_with_the_state() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, (4000, 1, 8))
    noise = rng.standard_normal((4000, 8)) * x[:, 0]
    features = cubic(x).reshape(-1, 3)
    made = Closure.fit(cubic, 1, features, (1 + 2 * x - 0.1 * x**3).ravel() + noise.ravel(), 1e-9)
    told, spread = made(x)
    np.testing.assert_allclose(told, (1 + 2 * x - 0.1 * x**3)[:, 0], atol=0.25)
    assert np.corrcoef(spread.ravel(), x.ravel())[0, 1] > 0.97
    left = (1 + 2 * x - 0.1 * x**3)[:, 0] + noise - told
    assert (left / spread).std() == pytest.approx(1, abs=0.02)


def test_the_memory_of_residuals_is_that_of_the_process_at_any_lag() -> None:
    rng = np.random.default_rng(0)
    noise = np.empty((4, 4000, 8))
    noise[:, 0] = rng.standard_normal((4, 8))
    for k in range(1, 4000):
        noise[:, k] = 0.95 * noise[:, k - 1] + np.sqrt(1 - 0.95**2) * rng.standard_normal((4, 8))
    slow = rng.standard_normal(noise.shape)
    for window in (1, 3):
        base = Closure(window, linear, np.array([[2.0, 0.0]]), np.array([0.0, 1.0]), spread=1.0)
        for lag in (1, 5):
            assert base.calibrated(slow, 2 * slow + noise, 2, lag).phi == pytest.approx((0.95, 0.95), abs=0.01)


def test_every_variable_sees_the_ring_from_itself_on() -> None:
    history = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    seen = neighbours(history)
    assert seen.shape == (2, 4, 12)
    assert seen[1, 3].tolist() == [*history[1, :, 3], *history[1, :, 0], *history[1, :, 1], *history[1, :, 2]]
    np.testing.assert_array_equal(around(np.roll(history.swapaxes(1, 2), 1, axis=1))[:, 1], seen[:, 0])


# ---- Scores --------------------------------------------------------------------------------------------------


def test_the_distance_of_densities_and_the_fair_crps() -> None:
    assert hellinger(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    assert hellinger(np.array([1.0, 0]), np.array([0, 1.0])) == 1
    assert hellinger(np.array([1.0, 0]), np.array([0.5, 0.5])) == pytest.approx(np.sqrt(1 - np.sqrt(0.5)))
    rng = np.random.default_rng(0)
    members, truth = rng.standard_normal((5, 7)), rng.standard_normal(7)
    apart = sum(abs(a - b) for a in members for b in members) / (5 * 4)
    crps, error, variance = ensemble_scores(members, truth)
    np.testing.assert_allclose(crps, np.abs(members - truth).mean(0) - apart / 2)
    np.testing.assert_allclose(error, (members.mean(0) - truth) ** 2)
    np.testing.assert_allclose(variance, (1 + 1 / len(members)) * members.var(0, ddof=1))
    np.testing.assert_array_equal(ensemble_scores(members[:1], truth)[0], np.abs(members[0] - truth))


def test_the_truth_is_close_to_itself_and_a_narrow_run_is_not() -> None:
    rng = np.random.default_rng(0)
    truth = Course(5 * rng.standard_normal((50, 4, 8)), rng.standard_normal((50, 4, 8)), np.full(4, -1))
    same, narrow = climate(truth, truth), climate(replace(truth, subgrid=0.1 * truth.subgrid), truth)
    for name in ("Hellinger X", "Hellinger X and U", "autocorrelation, rms off", "99 % of X, off by"):
        assert same[name] == pytest.approx(0, abs=1e-12)
    assert narrow["sd U over truth"] == pytest.approx(0.1)
    assert narrow["Hellinger X"] == 0
    assert narrow["Hellinger X and U"] > 0.3


# ---- The task ------------------------------------------------------------------------------------------------


def test_an_exported_encoder_says_what_the_encoder_says(config: ParameterisationConfig) -> None:
    """The reader's tokens, from raw X and its own calendar, are those of the store's windows of the same days."""
    task = Parameterisation(config, Store(config.store))
    encoder = task.encoders()[0]
    layer = encoder.encoder.depth - 1
    sets = task.embedded(encoder, [layer])["ridge"]
    windows = task.windows(3)
    for whole, name in ((False, "own token"), (True, "all tokens")):
        reader = ExportedReader(encoder.encoder, task.store, layer, "torchscript", 1, whole)
        for sample in (0, 3):
            day = int((task.store.times[task.ends[sample]] - task.store.times[0]) / np.timedelta64(1, "D"))
            told = reader(windows[sample : sample + 1], day - 2)[0]
            np.testing.assert_allclose(told, sets[f"layer {layer + 1}, {name}"][sample], atol=2e-3)


def test_the_rows_of_the_field(config: ParameterisationConfig) -> None:
    """Targets are of the truth; a linear row is the regression; noise has rows of its own without an offline score."""
    task = Parameterisation(config, Store(config.store))
    assert {name: own.tolist() for name, own in task.parts.items()} == {
        "train": [0, 1, 2],
        "val": [3],
        "test": [4, 5, 6, 7],
    }
    truth = task.system.subgrid[4:, task.last].ravel()
    rows = {row.name: row for row in task.baselines(3)}
    assert list(rows) == ["no closure", "linear in X", "linear in X, AR(1)", "cubic in X", "cubic in X, AR(1)",
                          "cubic in X, AR(1) by state"]  # fmt: skip
    x, u = task.system.slow[:3, task.last].ravel(), task.system.subgrid[:3, task.last].ravel()
    expected = np.polyval(np.polyfit(x, u, 1), task.system.slow[4:, task.last].ravel())
    np.testing.assert_allclose(rows["linear in X"].forecast[SUBGRID], expected, rtol=1e-5)
    assert (rows["no closure"].forecast[SUBGRID] == 0).all()
    assert SUBGRID not in rows["cubic in X, AR(1)"].forecast
    targets = {one.name: one for one in task.targets()}
    perfect = replace(rows["cubic in X"], forecast={SUBGRID: truth})
    assert targets[SUBGRID].metrics[0].statistic([perfect])(np.ones(len(truth)))[0] == pytest.approx(1)
    assert set(rows["cubic in X"].forecast) == set(targets) == {SUBGRID, "X in 0.2", "climate, coupled"}
    spread = rows["cubic in X, AR(1)"].forecast["X in 0.2"][2]
    assert (spread > 0).all()
    assert (rows["cubic in X"].forecast["X in 0.2"][2] == 0).all()
    again = {row.name: row for row in task.baselines(3)}
    for name, row in rows.items():
        np.testing.assert_array_equal(row.forecast["climate, coupled"], again[name].forecast["climate, coupled"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_the_whole_task(config: ParameterisationConfig, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    out = run_task(Parameterisation(replace(config, out=str(tmp_path / "out"), export=kind), Store(config.store)))
    scores, table = pd.read_csv(out / "scores.csv"), pd.read_csv(out / "climate.csv").set_index("row")
    for row in ("cubic in X", "raw window [ridge]", "random features of the raw window [ridge]", "untrained [ridge]",
                "same network from scratch"):  # fmt: skip
        own = scores[scores["row"] == row]
        assert set(own["target"]) == {SUBGRID, "X in 0.2", "climate, coupled"}
        assert np.isfinite(own["value"]).all()
    assert table.loc["truth", "Hellinger X and U"] == 0
    assert (table["blown up"] == 0).all()
    assert table["sd U over truth"].between(0, 2).all()
    assert json.loads((out / "result.json").read_text())["members"]["val"] == [3]
    assert {"climate.png", "spread.png", "report.html", "closures.csv"} <= {file.name for file in out.iterdir()}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("spacing", 0, "spacing ≥ 1, got 0"),
        ("step", 0.0, r"step in \(0, inf\)"),
        ("step", 0.0125, "divisor of the fields' interval 0.05 and a multiple of the truth's dt 0.005"),
        ("step", 0.02, "divisor of the fields' interval"),
        ("steps", 10, "steps ≥ 100"),
        ("runs", 3, "runs ≥ 4"),
        ("forecast_leads", [], "forecast_leads > 0, at least one"),
        ("forecast_leads", [0.1, 0.1], "forecast_leads each once"),
        ("forecast_leads", [1.0], "leads from 0.005 to half a member, 0.75"),
        ("cases", 1, "cases ≥ 4"),
        ("members", 1, "members ≥ 2"),
        ("noise_lag", 0, "noise_lag ≥ 1"),
        ("seed", -1, "seed ≥ 0"),
        ("export", "fortran", "one of torchscript, onnx, got 'fortran'"),
        ("encoder.patch", [1, 1, 1], r"patch of 2 rows and 1 column.*set encoder.patch to \[1, 2, 1\]"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(
    config: ParameterisationConfig, setting: str, value: Any, said: str
) -> None:
    if setting == "encoder.patch":
        setting, value = "encoder", replace(config.encoder, patch=tuple(value))
    with pytest.raises(EarthSSLError, match=said) as caught:
        Parameterisation(replace(config, **{setting: value}), Store(config.store))
    assert "\n" not in str(caught.value)


def test_a_store_of_something_else_or_of_cut_members_is_refused(
    config: ParameterisationConfig, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EarthSSLError, match="expected a store of Lorenz '96"):
        Parameterisation(config, Store(small_store))
    cut = SplitsConfig(("1900-01-01", "1900-05-30"), ("1900-06-30", "1900-07-29"), ("1900-09-02", "1901-03-26"), 20)
    bad = prepare(PrepareConfig("lorenz96", str(tmp_path / "cut"), cut, dict(OPTIONS), STATISTICS))
    words = ["probe", "--task", "parameterisation", "--store", str(bad), "--out", str(tmp_path / "out"),
             "--forecast_leads", "[0.2]"]  # fmt: skip
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert "a test block of at least 4 whole members" in said
    assert "got 4, 3 of them whole" in said
    assert len(said.splitlines()) == 1


def test_the_label_curve_reads_the_members_it_is_given(config: ParameterisationConfig) -> None:
    """With the nonsense of the other members in the labels nothing changes."""
    task = Parameterisation(config, Store(config.store))
    features = {"now": cubic(task.windows(1))}
    few = task.fitted("it [ridge]", Role.BASELINE, features, units=np.array([1]))
    spoilt = Parameterisation(config, Store(config.store))
    labels = task.subgrid.copy()
    labels[spoilt.inside("train", np.array([0, 2]))] = 1e3
    spoilt.__dict__["subgrid"] = labels
    again = spoilt.fitted("it [ridge]", Role.BASELINE, features, units=np.array([1]))
    np.testing.assert_array_equal(few.forecast[SUBGRID], again.forecast[SUBGRID])
    assert STATE_NOISE not in few.name

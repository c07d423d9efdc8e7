"""Analogue forecasts: systems whose analogues are known, what the library holds, the whole run, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.results.ensemble_target import COVERED, CRPS, ERROR2
from earthssl.downstream.results.row import Role
from earthssl.downstream.tasks.analogues.task import DAMPED, Analogues, AnaloguesConfig, AreaConfig
from earthssl.downstream.training.from_scratch import SCRATCH, ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store

SHAPE = EncoderConfig("nano", 2, (1, 4, 4))
BOX = AreaConfig("u10", [-90, 90, 0, 45])


@pytest.fixture
def config(wave_store: Path, tmp_path: Path) -> AnaloguesConfig:
    return AnaloguesConfig(
        str(wave_store), str(tmp_path / "out"), areas={"box": BOX}, fields=["vo850"], leads=[2, 4], encoder=SHAPE,
        neighbours=[2, 5], metrics=["euclidean"], components=[2], untrained_seeds=1, random_seeds=0,
        scratch=ScratchConfig(0), fractions=[], draws=1000, exclude_days=40,
    )  # fmt: skip


def scores(task: Analogues, **features: np.ndarray) -> dict[str, dict[str, float]]:
    """Return each metric of each target, of analogues in the features."""
    row = task.fitted("own", Role.BASELINE, features)
    one = np.ones
    return {
        target.name: {m.name: float(m.statistic([row])(one(len(target.units)))[0]) for m in target.metrics}
        for target in task.targets()
    }


def test_a_wave_without_noise_comes_back(config: AnaloguesConfig) -> None:
    """The state of nine months before is the same: every analogue is in phase, and what follows is exact.

    Noise for features finds nothing; a phase that stands still, as features that only know the season, neither.
    """
    store = Store(config.store)
    task = Analogues(config, store)
    raw = task.raw(2)
    for found in scores(task, raw=raw).values():
        assert found["skill"] == pytest.approx(1, abs=1e-6)
        assert found["crps_skill"] == pytest.approx(1, abs=1e-3)
        assert found["r"] == pytest.approx(1, abs=1e-6)
    first = task.labels[0]
    own = task._dates["own"]
    assert set(np.unique((first.rows["test"][:, None] - own) % 9)) == {0}
    noise = np.random.default_rng(0).normal(size=(len(store.times), 3))
    assert all(found["skill"] < 0.1 for found in scores(task, noise=noise).values())


def test_features_that_equal_the_state_give_the_answer_of_the_fields(
    config: AnaloguesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(config.store)
    phase = 2 * np.pi * np.arange(len(store.times)) / 9
    state = np.stack([np.cos(phase), np.sin(phase)], axis=1)
    monkeypatch.setattr(Analogues, "pooled", lambda self, encoder, layers: {"mean": {"state": state}})
    out = run(Analogues(replace(config, leads=[2]), store))
    table = pd.read_csv(out / "scores.csv").set_index(["row", "target", "metric"])["value"]
    for target in ("box, lead 2", "vo850 field, lead 2"):
        for row in ("untrained [analogues]", "raw window [analogues]", "PCA of the window [analogues]"):
            assert table[row, target, "skill"] == pytest.approx(1, abs=1e-6)
        assert table["climatology", target, "skill"] == pytest.approx(0, abs=1e-9)
        assert table["climatology", target, "crps_skill"] == pytest.approx(0, abs=1e-9)
        assert table["PCA of the window [ridge]", target, "skill"] > 0.99  # a linear system, too
    # Two months on, a ninth of a turn twice: cos(80°) of the present is what damped persistence knows of the box.
    assert table[DAMPED, "box, lead 2", "r"] == pytest.approx(np.cos(4 * np.pi / 9), abs=0.02)
    dates = xr.open_dataset(out / "analogues.nc")["date"].sel(row="raw window [analogues]")
    known = ~np.isnat(dates.values)
    assert (dates.values[known] < np.datetime64("2002")).all()  # all in training
    months = (dates["time"].values.astype("datetime64[M]")[:, None] - dates.values.astype("datetime64[M]")).astype(int)
    assert set(months[known].tolist()) <= set(range(9, 999, 9))
    choices = pd.read_csv(out / "choices.csv")
    assert {"features", "scaling", "metric", "neighbours"} <= set(choices)


def test_scaling_is_chosen_where_it_matters(config: AnaloguesConfig) -> None:
    """The state beside noise a hundred times as large: only where each has unit variance are analogues found."""
    store = Store(config.store)
    phase = 2 * np.pi * np.arange(len(store.times)) / 9
    noise = 100 * np.random.default_rng(0).normal(size=len(store.times))
    # Sum and difference hide the state from standardising too; components of unit variance bring it out.
    hidden = np.stack([np.cos(phase) + noise, np.cos(phase) - noise, np.sin(phase)], axis=1)
    scaled = np.stack([np.cos(phase), np.sin(phase), noise], axis=1)
    for features, expected in ((scaled, "standardised"), (hidden, "whitened")):
        task = Analogues(config, store)
        row = task.fitted("own", Role.BASELINE, {"x": features})
        assert {one["scaling"] for one in row.chosen.values()} == {expected}
        alone = Analogues(replace(config, scalings=["raw"]), store)
        assert (
            scores(task, x=features)["box, lead 2"]["skill"] > scores(alone, x=features)["box, lead 2"]["skill"] + 0.2
        )


def test_the_library_is_the_years_it_is_given(config: AnaloguesConfig) -> None:
    """With two years every analogue is of these: what followed the states of other years is not read."""
    task = Analogues(config, Store(config.store))
    years = np.array([1985, 1990])
    raw = {"raw": task.raw(2)}
    before = task.fitted("few", Role.BASELINE, raw, units=years)
    found = task._search.choose([task.labels[0]], [np.ones(1)], raw, np.array([1, 30, 60]))[0]
    assert found.neighbours == 2  # five are more than three states
    for label in task.labels:
        train = label.rows["train"]
        label.values[train[~np.isin(label.units[train], years)]] = 1e6
    after = task.fitted("few", Role.BASELINE, raw, units=years)
    for name, parts in before.forecast.items():
        np.testing.assert_array_equal(after.forecast[name], parts)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(task.fitted("all", Role.BASELINE, raw).forecast[name], parts)


def test_red_noise_has_the_spread_it_should(daily_store: Path, tmp_path: Path) -> None:
    """Analogues of one cell of red noise, its own value the feature: r is the damping; spread and coverage fit."""
    store = Store(daily_store)
    cell = AreaConfig("t2m", [60, 70, 0, 1])
    config = AnaloguesConfig(
        str(daily_store), str(tmp_path), areas={"cell": cell}, leads=[1], encoder=SHAPE, neighbours=[100],
        metrics=["euclidean"], scalings=["raw"], exclude_days=0,
    )  # fmt: skip
    value = store.read_all()[:, 0, 0, 0].astype(float)[:, None]
    found = scores(Analogues(config, store), value=value)["cell, lead 1"]
    assert found["r"] == pytest.approx(0.8, abs=0.03)
    assert found["spread_skill"] == pytest.approx(1, abs=0.05)
    assert found["coverage_80"] == pytest.approx(0.8, abs=0.03)
    # Two Gaussians of standard deviations .6 and 1 have CRPS in the same ratio.
    assert found["crps_skill"] == pytest.approx(0.4, abs=0.03)


@pytest.mark.slow
def test_a_table_of_labels_and_a_network_stand_in_one_table(config: AnaloguesConfig, tmp_path: Path) -> None:
    store = Store(config.store)
    value = store.read_all()[:, 0, 4, 6].astype(float)
    frame = {"time": store.times, "x_0d": value, "x_60d": np.append(value[2:], [np.nan, np.nan])}
    pd.DataFrame(frame).to_csv(tmp_path / "labels.csv", index=False)
    own = replace(
        config, labels=str(tmp_path / "labels.csv"), columns=["x_60d"], areas={}, fields=[], ridge=False,
        scratch=ScratchConfig(1, steps=4, check_every=2), fractions=[0.2, 1.0], label_draws=1,
    )  # fmt: skip
    out = run(Analogues(own, store))
    table = pd.read_csv(out / "scores.csv").set_index(["row", "target", "metric"])["value"]
    assert table["raw window [analogues]", "x_60d", "skill"] > 0.99
    assert table["persistence", "x_60d", "r"] == pytest.approx(np.cos(4 * np.pi / 9), abs=0.03)
    assert (SCRATCH, "x_60d", "crps") in table
    assert (SCRATCH, "x_60d", "spread_skill") not in table  # one value has no spread
    curve = pd.read_csv(out / "label_curve.csv")
    assert set(curve.loc[curve["row"] == "raw window [analogues]", "asked"]) == {0.2, 1.0}


def test_parts_are_those_of_one_row(config: AnaloguesConfig) -> None:
    task = Analogues(config, Store(config.store))
    parts = task._climatology["box, lead 2"]
    truth = task.labels[0].values[task.labels[0].rows["test"]][:, 0]
    np.testing.assert_allclose(parts[:, ERROR2], truth**2, atol=1e-12)
    assert np.isfinite(parts[:, [CRPS, COVERED]]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leads": [0]}, "leads ≥ 1"),
        ({"leads": []}, "at least one"),
        ({"leads": [2, 2]}, "each once"),
        ({"neighbours": [1]}, "neighbours ≥ 2"),
        ({"neighbours": [300]}, "at most"),
        ({"neighbours": [5, 5]}, "each once"),
        ({"fields": ["u10", "u10"]}, "each once"),
        ({"exclude_days": -1.0}, "exclude_days ≥ 0"),
        ({"exclude_days": 9000.0}, "lower neighbours or exclude_days"),
        ({"season_days": 0.0}, r"season_days in \(0, 183\]"),
        ({"scalings": ["whiten"]}, "whitened"),
        ({"metrics": ["manhattan"]}, "euclidean, cosine"),
        ({"poolings": []}, "expected some of"),
        ({"components": [0]}, "components ≥ 1"),
        ({"fields": ["u100"]}, "analogues.fields: expected one of"),
        ({"areas": {"a": AreaConfig("sst", [-5, 5, 190, 240])}}, "analogues.areas: expected one of"),
        ({"areas": {"a": AreaConfig("u10", [1, 2, 0, 1])}}, "box"),
        ({"leads": [120]}, "got none"),
        ({"areas": {}, "fields": []}, "areas, fields, or a table of labels"),
        ({"labels": "nowhere.csv"}, "found none"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(config: AnaloguesConfig, change: dict[str, Any], words: str) -> None:
    def told() -> None:
        task = Analogues(replace(config, **change), Store(config.store))
        task.fitted("raw", Role.BASELINE, {"raw": task.raw(2)})

    with pytest.raises(EarthSSLError, match=words):
        told()


def test_a_label_that_never_varies_is_refused(config: AnaloguesConfig, tmp_path: Path) -> None:
    """Nor one that varies only by its season, which no analogue tells."""
    times = Store(config.store).times
    pd.DataFrame({"time": times, "x": np.ones(len(times))}).to_csv(tmp_path / "one.csv", index=False)
    task = Analogues(replace(config, labels=str(tmp_path / "one.csv")), Store(config.store))
    with pytest.raises(EarthSSLError, match="x: expected what varies in the train block, got a constant"):
        _ = task.labels


def test_a_box_has_four_sides() -> None:
    with pytest.raises(EarthSSLError, match="south, north, west, east"):
        AreaConfig("u10", [1, 2, 3])

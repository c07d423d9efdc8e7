"""The explained function is the probe's; its gradient is right; the task writes maps that say what they show."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.downstream.evaluation.encoders import layers_to_read
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.features.store_windows import StoreWindows
from earthssl.downstream.results import summary
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.tasks.enso.state_labels import StateLabels
from earthssl.downstream.tasks.explain.attribution import evaluate, superpixels
from earthssl.downstream.tasks.explain.explanations import METHODS, Events, ExplainConfig
from earthssl.downstream.tasks.explain.index_function import POOLINGS, IndexFunction, TokenHead
from earthssl.downstream.tasks.explain.references import linear_map, mechanism
from earthssl.downstream.tasks.explain.scores import (
    CHANGE,
    DELETION,
    INPUT,
    INSENSITIVE,
    INSERTION,
    ORDERS,
    of_one_function,
    of_one_function_or_two,
    target_of,
)
from earthssl.downstream.tasks.explain.task import Explain
from earthssl.downstream.tasks.registry import task_class
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store
from matplotlib.figure import Figure

SHAPE = EncoderConfig("nano", 2, (1, 3, 4))


def settings(store: Path, out: Path, **own: Any) -> ExplainConfig:
    few: dict[str, Any] = {
        "lead": 1, "window": 3, "components": [4], "encoder": SHAPE, "samples": 5, "superpixel": [4, 6],
        "occlusion": [3, 4], "stride": [3, 4], "lime_samples": 24, "random_samples": 2, "optimal_steps": 12,
        "ig_steps": 8, "quantile": 0.6,
    }  # fmt: skip
    return ExplainConfig(str(store), str(out), **{**few, **own})


@pytest.fixture(scope="module")
def labels(small_store: Path) -> StateLabels:
    return StateLabels.from_store(Store(small_store), [1], window=3)


def made(small_store: Path, tmp: Path, labels: StateLabels, **own: Any) -> tuple[TokenHead, IndexFunction, Batch]:
    store = Store(small_store)
    task = Explain(settings(small_store, tmp / "out", **own), store)
    one = task.encoders()[0]
    windows = StoreWindows(store, SHAPE.window).batch(labels.rows("test", 1)[:4])
    head = task.head_of(one, layers_to_read(None, one.encoder.depth))
    return head, IndexFunction(one.encoder, head, windows), windows


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_function_is_the_probes(pooling: str, small_store: Path, tmp_path: Path, labels: StateLabels) -> None:
    """The head as weights on tokens gives what ridge on pooled features gives, but for half precision."""
    head, function, windows = made(small_store, tmp_path, labels, poolings=[pooling])
    found = evaluate(function, windows.values, torch.arange(4)).numpy()
    assert found == pytest.approx(head.forecast[labels.rows("test", 1)[:4]], abs=5e-3)
    assert np.ptp(found) > 0.02


def test_gradients_pass_through_the_encoder(small_store: Path, tmp_path: Path, labels: StateLabels) -> None:
    _, function, windows = made(small_store, tmp_path, labels)
    x, at = windows.values[:1].clone().requires_grad_(), torch.zeros(1, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(function(x, at).sum(), x)
    draw = torch.Generator().manual_seed(0)
    way = torch.randn(x.shape, generator=draw) * windows.valid[:1]
    step = 0.03
    with torch.no_grad():
        change = (function(x + step * way, at) - function(x - step * way, at)) / (2 * step)
    assert float(change) == pytest.approx(float((gradient * way).sum()), rel=2e-2)
    assert all(parameter.grad is None for parameter in function.parameters())


def test_events_lie_beyond_the_quantiles_of_training(labels: StateLabels) -> None:
    events = Events.choose(labels, 1, 6, 0.6)
    train = labels.season[labels.rows("train", 1) + 1]
    assert events.limits == pytest.approx(tuple(np.quantile(train, [0.4, 0.6])))
    assert set(events.rows) <= set(labels.rows("test", 1))
    assert (events.label[events.sign > 0] >= events.limits[1]).all()
    assert (events.label[events.sign < 0] <= events.limits[0]).all()
    assert 2 <= (events.sign > 0).sum() <= 6
    assert (np.diff(events.rows) > 0).all()
    with pytest.raises(EarthSSLError, match="expected test samples of El Niño"):
        Events.choose(labels, 1, 6, 1 - 1e-9)


def test_the_linear_map_knows_where_the_index_is_made(small_store: Path) -> None:
    """Lead 0: the inputs hold the season, whose index is the mean SST of two cells on the equator."""
    store = Store(small_store)
    labels = StateLabels.from_store(store, [0], window=3)
    test = labels.rows("test", 0)
    found, correlation = linear_map(store, labels, 0, 3)
    assert np.corrcoef(found.forecast[test], labels.season[test])[0, 1] > 0.9
    r = np.abs(correlation).sum(0)
    assert np.unravel_index(r.argmax(), r.shape) in [(0, 3, 7), (0, 3, 8)]
    assert (found.weight[:, ~store.statistics.known] == 0).all()


@pytest.fixture(scope="module")
def result(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network; its pictures are drawn once each: fitting the paper round them took half of the time."""

    def quick(drawn: Figure) -> bytes:
        drawn.savefig(buffer := io.BytesIO(), format="png", dpi=60)
        return buffer.getvalue()

    small = EncoderConfig("pico", 2, (1, 3, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "png", quick)
        config = settings(small_store, tmp_path_factory.mktemp("explain") / "out", encoder=small)
        return run(Explain(config, Store(small_store)), "earthssl probe")


def test_the_table_holds_every_order_and_check(result: Path) -> None:
    scores = pd.read_csv(result / "scores.csv").set_index(["metric", "row"])["value"]
    for metric in (DELETION, INSERTION, "Niño 3.4 enrichment", "r with linear map"):
        assert list(scores[metric].index) == [f"untrained [{order}]" for order in ORDERS]
    assert np.isfinite(scores).all()
    assert scores["r with linear map", "untrained [linear regression map]"] == pytest.approx(1)
    for metric in ("rank r, random weights", "rank r, input alone"):
        assert list(scores[metric].index) == [f"untrained [{method}]" for method in METHODS]
        assert scores[metric].abs().max() < 1
    differences = pd.read_csv(result / "differences.csv")
    assert set(differences["reference"]) == {"untrained [linear regression map]", "untrained [random order]"}
    own = differences[differences["metric"] == DELETION].iloc[0]
    assert own.value == pytest.approx(scores[DELETION, own.row] - scores[DELETION, own.reference])
    assert not (result / "label_curve.csv").exists()
    words = (result / "table.txt").read_text(encoding="utf-8").splitlines()
    assert words[1].startswith("untrained [")
    assert "orders the blocks best (insertion AUC" in words[1]
    notes = json.loads((result / "result.json").read_text(encoding="utf-8"))["notes"]
    assert "Integrated gradients add up to f(x) − f(climatology)" in notes[0]
    checks = pd.read_csv(result / "checks.csv").iloc[0]
    assert checks["completeness gap (share)"] <= 0.01


def test_only_orders_of_one_function_and_one_method_on_two_are_compared() -> None:
    pairs = [
        ("pretrained [LIME]", "pretrained [random order]"),
        ("pretrained [LIME]", "untrained [LIME]"),
        ("pretrained [LIME]", "untrained [occlusion]"),
        ("pretrained [LIME]", "pretrained [occlusion]"),
        ("untrained [LIME]", "pretrained [random order]"),
        ("untrained [LIME]", "pretrained [LIME]"),
    ]
    assert [of_one_function(*pair) for pair in pairs] == [k == 0 for k in range(6)]
    assert [of_one_function_or_two(*pair) for pair in pairs] == [k < 2 for k in range(6)]


def test_the_weight_of_an_event_is_how_often_it_happened(small_store: Path) -> None:
    """Scores of events with weights 2, 1, 0, 1 are those of the first twice, the second and the fourth."""
    store, rng, often = Store(small_store), np.random.default_rng(0), [0, 0, 1, 3]
    known, signs = store.statistics.known, np.array([1.0, -1.0, 1.0, -1.0])
    maps, linear = rng.normal(size=(2, 4, *known.shape))
    each = {part: rng.uniform(0.2, 1, 4) for part in (DELETION, INSERTION, CHANGE, INPUT)}
    tried = {INSENSITIVE: np.array([0.2, np.nan, np.nan, 0.6])}

    def scored(chosen: list[int], weights: np.ndarray) -> list[float]:
        events = Events(np.array(chosen), signs[chosen], signs[chosen], np.array(chosen), (-1.0, 1.0), (2, 2))
        regions = superpixels(store.grid, len(store.variables), (3, 4))
        target = target_of(
            "t", events, linear[chosen], store.grid, known, np.abs(linear[0]), regions, 1
        )  # fmt: skip
        forecast = {"t": maps[chosen][:, known] * events.sign[:, None]}
        forecast |= {part: values[chosen] for part, values in (each | tried).items()}
        row = Row("untrained [LIME]", Role.UNTRAINED, forecast)
        return [float(metric.statistic([row])(weights)[0]) for metric in target.metrics]

    found = scored([0, 1, 2, 3], np.array([2.0, 1.0, 0.0, 1.0]))
    assert len(found) == 7
    assert found == pytest.approx(scored(often, np.ones(4)))
    assert found[0] == pytest.approx(each[INSERTION][often].sum() / each[CHANGE][often].sum())
    assert found[-2] == pytest.approx((2 * 0.2 + 0.6) / 3)
    assert np.isnan(scored([0, 1, 2, 3], np.array([0.0, 1.0, 1.0, 0.0]))[-2])


def test_maps_are_kept_and_land_has_none(result: Path, small_store: Path) -> None:
    known = Store(small_store).statistics.known
    with xr.open_dataset(result / "maps.nc") as maps:
        assert dict(maps["attribution"].sizes) == {
            "encoder": 1, "method": 4, "composite": 2, "lag": 2, "variable": 3, "lat": 7, "lon": 12,
        }  # fmt: skip
        values = maps["attribution"].values[0]
        assert np.isnan(values[..., ~known]).all()
        assert np.isfinite(values[..., known]).all()
        assert (np.abs(values[..., known]).max(axis=(1, 2, 3)) > 0).all()
        assert maps["attribution"].attrs["units"].startswith("K per cell")


def test_the_page_shows_the_maps_in_words_too(result: Path) -> None:
    page = (result / "report.html").read_text(encoding="utf-8")
    for name in ("attribution_el_nino", "attribution_la_nina", "optimal_input", "deletion_and_insertion",
                 "random_weights"):  # fmt: skip
        assert (result / f"{name}.png").stat().st_size > 5000
    assert 'alt="Attribution maps for El Niño (' in page
    assert "grey is land or unknown" in page
    assert not (result / "mechanism.png").exists()


@pytest.fixture(scope="module")
def planet_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planet")
    options = {"years": 14, "seed": 2, "shape": [18, 36], "variables": ["sst", "u10"], "region": [-20, 20, 150, 280]}
    splits = SplitsConfig(("1900", "1907"), ("1909", "1910"), ("1912", "1913"), 360)
    return prepare(PrepareConfig("planet", str(folder / "store"), splits, options))


@pytest.mark.parametrize("lead", [0, 3])
def test_the_planets_mechanism_lies_in_the_equatorial_pacific(lead: int, planet_store: Path) -> None:
    store = Store(planet_store)
    found = mechanism(store, StateLabels.from_store(store, [lead], window=3), lead)
    assert found is not None
    assert np.array_equal(np.isfinite(found), store.statistics.known)
    assert np.nanmax(np.abs(found)) <= 1.2
    box = store.grid.box(-5, 5, 190, 240)
    away = store.grid.box(12, 20, 215, 245)
    assert np.nanmean(found[0][box]) > 0.5
    assert np.nanmean(np.abs(found[0][away])) < 0.5 * np.nanmean(found[0][box])


def test_other_data_have_no_known_mechanism(small_store: Path, labels: StateLabels) -> None:
    assert mechanism(Store(small_store), labels, 1) is None


def test_mistakes_are_said(small_store: Path, tmp_path: Path) -> None:
    assert task_class("explain").Config is ExplainConfig
    for own, words in (
        ({"occlusion": [3]}, r"explain\.occlusion: expected two whole numbers"),
        ({"fractions": [0.1]}, "nor a curve over labels"),
        ({"stride": [4, 4]}, "cells between the blocks"),
        ({"quantile": 0.4}, r"explain\.quantile"),
        ({"task": "enso"}, "expected explain, got 'enso'"),
        ({"poolings": ["pacific"]}, r"explain\.poolings: expected one of mean, last, pcs, mean\+pcs, got 'pacific'"),
        ({"samples": 0}, r"explain\.samples"),
        ({"draws": 10}, "draws ≥ 1000"),
    ):
        with pytest.raises(EarthSSLError, match=words):
            settings(small_store, tmp_path, **own)
    with pytest.raises(EarthSSLError, match="expected more than the 12 superpixels, got 9"):
        Explain(settings(small_store, tmp_path / "out", lime_samples=9), Store(small_store))

"""Infilling: anomalies and gaps of a store, the head, and a run from store to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.downstream.evaluation.encoders import ZERO_SHOT, Contender, Decoder
from earthssl.downstream.evaluation.run import run, summarise
from earthssl.downstream.tasks.infilling.baselines import baselines
from earthssl.downstream.tasks.infilling.fillers import OptimalInterpolation, PcaRegression
from earthssl.downstream.tasks.infilling.gappy import Anomalies, Gappy
from earthssl.downstream.tasks.infilling.gaps import GapConfig
from earthssl.downstream.tasks.infilling.held_out import ReducedSpaceInterpolation
from earthssl.downstream.tasks.infilling.task import Infilling, InfillingConfig
from earthssl.downstream.tasks.registry import matrix_task
from earthssl.downstream.training.from_scratch import SCRATCH, ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store

GAPS = GapConfig("random", 0.4)
PROBED, TWIN = "pretrained [ridge]", "untrained [ridge]"
RAW = [f"{name} [ridge]" for name in ("raw window", "random features of the raw window", "PCA of the window")]


@pytest.fixture(autouse=True)
def _few_random_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the default suite stays quick."""
    monkeypatch.setattr("earthssl.downstream.evaluation.equal_input.RANDOM_FEATURES", 32)


@pytest.fixture(scope="module")
def anomalies(small_store: Path) -> Anomalies:
    """SST of the small store: 72 cells of ocean."""
    return Anomalies.of(Store(small_store), "sst")


@pytest.fixture(scope="module")
def encoder(small_store: Path) -> Any:
    """An untrained encoder for windows of three months."""
    torch.manual_seed(0)
    return EncoderConfig("nano", 3, (1, 2, 3)).build(Store(small_store).variables).eval().requires_grad_(False)


# ---- Anomalies and gaps of a store ----------------------------------------------------------------------------


def test_anomalies_are_departures_from_the_fit_period(anomalies: Anomalies, small_store: Path) -> None:
    """Calendar-month means of the raw data over train … validation, by brute force, land left out."""
    store = Store(small_store)
    raw = store.dataset(["sst"])["sst"].values.astype(float)
    month = store.times.astype("datetime64[M]").astype(int) % 12
    fit = (store.times >= np.datetime64("1981")) & (store.times < np.datetime64("2006"))
    assert anomalies.known.sum() == np.isfinite(raw[0]).sum() == 72
    expected = raw - np.stack([raw[fit & (month == m)].mean(0) for m in range(12)])[month]
    np.testing.assert_allclose(anomalies.values, expected[:, anomalies.known], atol=2e-4)
    assert len(anomalies.fit) == fit.sum() == 300
    back = anomalies.from_normalised(anomalies.normalised[5:9], np.arange(5, 9))
    np.testing.assert_allclose(back, anomalies.values[5:9], atol=1e-6)
    assert np.array_equal(anomalies.on_grid(back)[:, anomalies.known], back)


def test_gaps_are_the_same_for_everyone(anomalies: Anomalies) -> None:
    """Fillers, windows and scores see one mask; what is hidden never reaches a window."""
    gappy = Gappy(anomalies, GAPS)
    ends = anomalies.ends("test", 3)
    shown = gappy.observed(ends)
    assert np.array_equal(np.isfinite(shown), ~gappy.hidden(ends))
    for last, fields, times in gappy.windows(ends[:5], 3):
        assert fields.shape == (5, 3, 3, 7, 12)
        assert np.array_equal(times[:, -1], anomalies.store.times[last])
        seen = np.isfinite(fields)
        assert (seen[:, :, 0] == seen[:, :, 1]).all()
        assert np.array_equal(seen[:, -1, 0][:, anomalies.known], np.isfinite(shown[:5]))
    assert len({mask.tobytes() for mask in gappy.seen}) == len(gappy.seen)


def test_a_perfect_filler_is_scored_perfect(anomalies: Anomalies) -> None:
    """One that knows the store's fields gives the anomalies back; one that leaves a hole is refused."""
    store, gappy = anomalies.store, Gappy(anomalies, GAPS)
    ends = anomalies.ends("test", 2)

    def oracle(fields: np.ndarray, times: np.ndarray) -> np.ndarray:
        steps = np.searchsorted(store.times, times)
        return store.read(steps.ravel()).reshape(fields.shape)

    np.testing.assert_allclose(gappy.filled(oracle, ends, 2), anomalies.values[ends], atol=1e-6)
    with pytest.raises(EarthSSLError, match="a value in every cell"):
        gappy.filled(lambda fields, times: fields, ends, 2)


def test_the_head_recovers_what_tokens_hold(anomalies: Anomalies, encoder: Any, monkeypatch: Any) -> None:
    """Tokens that hold their own patch's truth: the head reads it off; tokens of noise: no skill, no harm."""
    gappy = Gappy(anomalies, GAPS)
    normalised, store = anomalies.normalised, anomalies.store

    def telling(_: Any, batch: Any, layers: Any) -> dict[int, np.ndarray]:
        from earthssl.ssl.model.tokens import patchify

        steps = np.searchsorted(store.times, batch.times.numpy().astype("datetime64[s]"))
        whole = np.where(np.isfinite(normalised[steps]), normalised[steps], 0.0)[:, :, None]
        told = replace(batch, values=torch.from_numpy(np.broadcast_to(whole, batch.values.shape).copy()).float())
        patches = patchify(told, (1, 2, 3))
        last = patches.step == patches.shape[0] - 1
        own = patches.values[:, last, 0].numpy()
        noise = np.random.default_rng(0).normal(size=own.shape)
        return {0: own, 1: noise}

    monkeypatch.setattr("earthssl.downstream.tasks.infilling.gappy._tokens", telling)
    tokens = gappy.tokens(encoder, [0, 1])
    ends = anomalies.ends("test", 3)
    hidden = gappy.hidden(ends)
    telling_one, noise = (gappy.probed({"": tokens[layer]}, (2, 3), ends) for layer in (0, 1))
    np.testing.assert_allclose(telling_one.values[hidden], anomalies.values[ends][hidden], atol=1e-3)
    assert telling_one.validation > 0.999
    assert abs(noise.validation) < 0.05
    assert np.isfinite(noise.values).all()
    both = gappy.probed({f"layer {layer}": tokens[layer] for layer in (1, 0)}, (2, 3), ends)
    assert both.features == "layer 0"
    # One year to fit on, and no refit; validation and test years change nothing.
    fewer = [gappy.probed({"": tokens[0]}, (2, 3), ends, np.array(years)) for years in ([1990], [1990, 2003, 2008])]
    assert fewer[0].validation > 0.999
    assert np.array_equal(fewer[0].values, fewer[1].values)
    assert not np.array_equal(fewer[0].values, telling_one.values)


def test_raw_patches_hold_what_is_observed(anomalies: Anomalies) -> None:
    """By hand at one place: its own cells over the window, those of the patch to the east, and which are observed."""
    gappy, store = Gappy(anomalies, GAPS), anomalies.store
    raw = gappy.raw((2, 3), 3)
    # 3 variables × 3 steps × 6 cells, 8 patches around, and which of 9 × 6 cells are observed.
    assert raw.shape == (360, 16, 54 + 48 + 54)
    step = anomalies.ends("test", 3)[4]
    fields = np.where(gappy.seen[step], store.read(np.arange(step - 2, step + 1)), np.nan)
    assert np.isfinite(raw[step]).all()
    assert np.isnan(raw[anomalies.ends("train", 1)[1]]).all()
    # The first place that has tokens: the north-west corner, rows 0–1, columns 0–2.
    own = np.nan_to_num(fields[:, :, :2, :3].reshape(3, 18))
    np.testing.assert_allclose(raw[step, 0, :54].reshape(3, 18), own, atol=1e-6)
    east = fields[-1, 0, :2, 3:6].ravel()
    north_west, place = 0, 4  # of the eight: north-west, north, north-east, west, east …
    np.testing.assert_allclose(raw[step, 0, 54 + 6 * place : 60 + 6 * place], np.nan_to_num(east), atol=1e-6)
    assert (raw[step, 0, 54 + 6 * north_west : 60 + 6 * north_west] == 0).all()
    west = fields[-1, 0, :2, 9:].ravel()  # once round the globe
    np.testing.assert_allclose(raw[step, 0, 54 + 18 : 54 + 24], np.nan_to_num(west), atol=1e-6)
    shown = raw[step, 0, 102:]
    assert np.array_equal(shown[:6], np.isfinite(fields[-1, 0, :2, :3]).ravel())
    assert np.array_equal(shown[6 + 6 * place : 12 + 6 * place], np.isfinite(east))


# ---- As the matrix asks ---------------------------------------------------------------------------------------


def asked(store: Path, **options: Any) -> Infilling:
    made: Infilling = matrix_task("infilling", Store(store), {"variable": "sst", **options})
    return made


def test_errors_of_a_frozen_encoder(small_store: Path, encoder: Any) -> None:
    """Every layer and baseline on the same months; units are years; nothing is learnt from test fields."""
    gaps = {"cloud": {"kind": "cloud", "observed": 0.4}}
    task = asked(small_store, window=3, gaps=gaps)
    (target,) = task.targets()
    assert target.errors is not None
    assert target.reference_errors is not None
    rows = [row for layer in (0, 2) for row in task.rows(Contender("untrained", 0, encoder, "", {}), [layer])]
    assert [row.chosen["cloud"]["features"] for row in rows] == ["layer 1", "layer 3"]
    others = list(task.baselines(3))
    assert {"nearest", "ordinary kriging", "optimal interpolation"} <= {row.name for row in others}
    assert sorted(set(target.matrix_units)) == [2007, 2008, 2009, 2010]
    assert len(target.reference_errors) == 46
    skill = [1 - target.errors(row).sum() / target.reference_errors.sum() for row in (*rows, *others)]
    assert skill[2] == 0  # the climatology
    assert all(-0.2 < one < 1 for one in skill)
    assert max(skill[2:]) > 0.1
    shorter = EncoderConfig("nano", 1, (1, 2, 3)).build(Store(small_store).variables).eval()
    (row,) = task.rows(Contender("untrained", 0, shorter, "", {}), [0])
    assert len(target.errors(row)) == 46


def test_rows_of_raw_values_can_be_left_out(small_store: Path) -> None:
    task = asked(small_store, window=1, gaps={"cloud": {"kind": "cloud", "observed": 0.4}}, raw=False)
    assert task.raw(1) is None
    assert not list(task.equal_input(1, 2))


def test_errors_by_hand(small_store: Path) -> None:
    """The climatology's error is the squared anomaly of the hidden cells."""
    task = asked(small_store, window=1, gaps={"cloud": {"kind": "cloud", "observed": 0.4}})
    (target,) = task.targets()
    assert target.reference_errors is not None
    own, first = task.anomalies, task.ends[0]
    hidden = ~task.gappies["cloud"].seen[first][own.known]
    expected = (own.places.area * own.values[first] ** 2)[hidden].sum() / own.places.area.sum()
    assert target.reference_errors[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variable": "ssst"}, "infilling.variable: expected one of sst, u10, v10"),
        ({"gaps": {"a": {"kind": "swat"}}}, "Did you mean 'swath'"),
        ({"gaps": {"a": {"share": 0.2}}}, "share"),
        ({"window": 0}, "infilling.window"),
        ({"gapps": {}}, "Did you mean 'gaps'"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str, small_store: Path) -> None:
    """A store without the variable, unknown gaps: one line with the remedy."""
    with pytest.raises(EarthSSLError, match=match):
        asked(small_store, **options)


def test_windows_longer_than_the_task_are_refused(small_store: Path, encoder: Any) -> None:
    """Encoders are compared on the same months only."""
    with pytest.raises(EarthSSLError, match="raise the task's option window"):
        list(asked(small_store, window=2).rows(Contender("untrained", 0, encoder, "", {}), [0]))


# ---- The run --------------------------------------------------------------------------------------------------


def config(store: Path, out: Path, **changes: Any) -> InfillingConfig:
    gaps = {"random": GAPS, "blocks": GapConfig("block", boxes=1, box=(40.0, 90.0))}
    made: dict[str, Any] = {
        "variable": "sst", "gaps": gaps, "observed": [0.2, 0.5], "draws": 1000, "ranks": (3, 6), "untrained_seeds": 1,
        "random_seeds": 1, "fractions": [], "scratch": ScratchConfig(0), "encoder": EncoderConfig("nano", 3, (1, 2, 3)),
    }  # fmt: skip
    return InfillingConfig(str(store), str(out), **{**made, **changes})


def test_a_run_with_a_checkpoint(small_run: Path, small_store: Path, tmp_path: Path) -> None:
    """Every row at every target with an interval, encoders beside their twins, the label curve, pictures and a page."""
    path = str(small_run)
    asked: list[tuple[int, ...]] = []

    def zero(fields: np.ndarray, times: np.ndarray) -> np.ndarray:
        asked.append(fields.shape)
        assert times.shape == fields.shape[:2]
        return np.nan_to_num(fields)

    more = {"fractions": [0.1, 1.0], "label_draws": 1, "scratch": ScratchConfig(1, 2, 16, check_every=1)}
    made = config(small_store, tmp_path / "out", checkpoints=[path], **more)
    out = run(Infilling(made, Store(small_store), lambda paths: dict.fromkeys(paths, Decoder(zero))), "earthssl probe")
    scores = pd.read_csv(out / "scores.csv")
    names = [method.name for method in baselines(Anomalies.of(Store(small_store), "sst"), (3, 6))]
    assert set(scores["row"]) == {*names, *RAW, ZERO_SHOT, PROBED, TWIN, SCRATCH}
    assert set(scores["target"]) == {"random", "blocks"}
    assert set(scores["metric"]) == {"skill", "rmse", "r", "global rmse", "std ratio"}
    assert len(scores) == len(set(scores["row"])) * 10
    assert (scores["low"] <= scores["value"] + 1e-9).all()
    rmse = scores[scores["metric"] == "rmse"].set_index(["row", "target"])["value"]
    # No anomaly, from training's climatology or the fit period's.
    assert rmse[ZERO_SHOT, "random"] == pytest.approx(rmse["climatology", "random"], rel=0.02)
    assert all(shape[1:] == (3, 3, 7, 12) for shape in asked)
    differences = pd.read_csv(out / "differences.csv")
    assert set(differences["reference"]) == {*names, *RAW, TWIN, SCRATCH}
    assert set(differences["verdict"]) <= {"better", "worse", "undecided"}
    assert set(pd.read_csv(out / "by_fraction.csv")["observed"]) == {0.2, 0.5}
    assert ZERO_SHOT in set(pd.read_csv(out / "by_fraction.csv")["row"])
    distance = pd.read_csv(out / "by_distance.csv")
    shares = distance[distance["row"] == "nearest"].groupby("target")["share_of_hidden"].sum()
    assert shares.tolist() == pytest.approx([1, 1])
    curve = pd.read_csv(out / "label_curve.csv")
    learnt = {
        "PCA regression, k = 3", "PCA regression, k = 6", "optimal interpolation",
        "optimal interpolation, settings chosen", "reduced-space optimal interpolation",
    }  # fmt: skip
    assert set(curve["row"]) == {*learnt, RAW[0], PROBED, TWIN, SCRATCH}
    assert set(curve["used"]) == {0.1, 1.0}
    assert np.isfinite(curve["value"]).all()
    record = read_json(out / "result.json", "the record")
    assert record["observed_share"]["random"] == pytest.approx(29 / 72)
    assert record["samples"]["test"] == 46
    assert {"random", "blocks"} <= set(next(row for row in record["rows"] if row["row"] == PROBED))
    assert {"maps.png", "rmse_by_distance.png", "rmse_by_fraction_observed.png", "report.html", "label_curve.png"} <= {
        file.name for file in out.iterdir()
    }
    assert "46 test months" in (out / "report.html").read_text()


def test_rows_that_learn_from_fields_see_the_drawn_years_only(small_store: Path, tmp_path: Path) -> None:
    """Optimal interpolation and patterns on all training years, or on one; other rows have none of it."""
    task = Infilling(config(small_store, tmp_path / "out", gaps={"random": GAPS}), Store(small_store))
    rows = {row.name: row for row in task.baselines(3)}
    assert {name for name, row in rows.items() if task.curved(row)} == {
        "PCA regression, k = 3", "PCA regression, k = 6", "optimal interpolation",
        "optimal interpolation, settings chosen", "reduced-space optimal interpolation",
    }  # fmt: skip
    own, ends = task.anomalies, task.anomalies.ends("train", 1)
    fields = own.values[ends[own.years[ends] == 1985]]
    assert len(fields) == 12
    shown = task.gappies["random"].observed(task.ends)
    for name, method in (
        ("optimal interpolation", OptimalInterpolation(own.places, fields)),
        ("PCA regression, k = 6", PcaRegression(own.places, fields, 6)),
        ("reduced-space optimal interpolation", ReducedSpaceInterpolation(own.places, fields)),
    ):
        found = task.refitted(rows[name], np.array([1985]))
        assert np.array_equal(found.forecast["random"], method.fill(shown))
        assert not np.array_equal(found.forecast["random"], rows[name].forecast["random"])


def test_without_checkpoints_and_checkpoints_without_a_decoder(
    small_run: Path, small_store: Path, tmp_path: Path
) -> None:
    """No checkpoint is needed; one that rebuilds no fields is probed all the same, and the notes say so."""
    own = config(small_store, tmp_path / "out", gaps={"clouds": GapConfig("cloud", 0.5)}, observed=[])
    store = Store(small_store)
    assert not summarise(Infilling(own, store)).scores["row"].str.contains("pretrained").any()
    found = summarise(Infilling(replace(own, checkpoints=[str(small_run)]), store))
    assert ZERO_SHOT not in set(found.scores["row"])
    assert PROBED in set(found.scores["row"])
    assert "No zero-shot row" in " ".join(found.notes)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(EarthSSLError, match=r"not empty|holds"):
        run(Infilling(own, store))


def test_distances_without_a_hidden_cell_leave_an_empty_table_and_no_figure(small_store: Path, tmp_path: Path) -> None:
    edges = {"distances_km": [3e4, 4e4], "gaps": {"random": GAPS}, "observed": []}
    task = Infilling(config(small_store, tmp_path / "out", **edges), Store(small_store))
    found = task.extras(list(task.baselines(3)), pd.DataFrame(), pd.DataFrame())
    assert found.tables["by_distance"].shape == (0, 6)
    assert set(found.figures) == {"maps"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gaps": {}}, "expected at least one kind of gaps"),
        ({"observed": [1.0]}, "infilling.observed"),
        ({"distances_km": [5.0, 1.0]}, "edges that rise"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"task": "enso"}, "expected infilling"),
    ],
)
def test_bad_configs_are_refused(changes: dict[str, Any], match: str) -> None:
    """Before any work."""
    with pytest.raises(EarthSSLError, match=match):
        config(Path("store"), Path("out"), **changes)


def test_what_does_not_fit_the_store_is_refused(small_run: Path, small_store: Path, tmp_path: Path) -> None:
    """Layers that are not there, a seed given twice, a variable the store lacks."""
    for changes, match in (
        ({"layers": [7]}, r"layers: expected -3 to 2, got 7"),
        ({"checkpoints": [str(small_run), str(small_run)]}, "each once"),
        ({"variable": "msl"}, "infilling.variable"),
    ):
        settings = {"checkpoints": [str(small_run)], **changes}
        with pytest.raises(EarthSSLError, match=match):
            summarise(Infilling(config(small_store, tmp_path / "out", **settings), Store(small_store)))


def test_the_pretrained_decoder_fills(small_windows: Callable[..., Any], anomalies: Anomalies) -> None:
    """`Masking.fill` is such a filler: observed cells stay, the others get a value, land stays empty."""
    from earthssl.pretext.prediction.masking import MaskingConfig
    from earthssl.ssl.fields.batch import from_fields
    from earthssl.ssl.training.objective import Context

    store = anomalies.store
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(store.variables).eval()
    masking: Any = MaskingConfig(decoder_width=32).build(Context(encoder, store.variables, store.grid)).eval()
    known = torch.from_numpy(store.statistics.known)

    def fill(fields: np.ndarray, times: np.ndarray) -> np.ndarray:
        seconds, keys = torch.from_numpy(times.astype(np.int64)), torch.zeros(len(times), dtype=torch.int64)
        batch = from_fields(torch.from_numpy(fields), seconds, keys, known, store.variables, store.grid)
        return np.asarray(masking.fill(encoder, batch))

    gappy, ends = Gappy(anomalies, GAPS), anomalies.ends("test", 3)
    filled = gappy.filled(fill, ends, 3)
    shown = gappy.observed(ends)
    seen = np.isfinite(shown)
    np.testing.assert_allclose(filled[seen], shown[seen], atol=1e-4)
    assert np.isfinite(filled).all()

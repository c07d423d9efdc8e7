"""Nowcasting: scores by hand and by brute force, baselines of moving rain, samples, the network, the whole task."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scoringrules
import torch
import xarray as xr
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run as run_task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.tasks.nowcasting.baselines import around, as_it_is, carried, dressed, standing
from earthssl.downstream.tasks.nowcasting.network import DECODER, LINEAR, Layout, Nowcaster, loss_of
from earthssl.downstream.tasks.nowcasting.scores import Scorer
from earthssl.downstream.tasks.nowcasting.task import Nowcasting, NowcastingConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources.radar.frames import Frames, read_frames
from earthssl.ssl.store.store import Store

SPLITS = SplitsConfig(*((day, day) for day in ("1900-01-01", "1900-01-03", "1900-01-05")), 1)  # type: ignore[misc]
STATISTICS = StatisticsConfig("month", 0, "variable")
OPTIONS: dict[str, Any] = {
    "train": [["2016-09-28T00:00", "2016-09-28T00:55"]], "val": [["2016-09-28T01:10", "2016-09-28T01:45"]],
    "test": [["2017-05-09T00:00", "2017-05-09T01:45"]], "size": 16, "stride": 8, "apart_minutes": 20,
    "least_valid": 1.0, "cell_km": 2,
}  # fmt: skip
needs_pysteps = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pysteps", "cv2")),
    reason="the extra nowcasting (pysteps, opencv-python-headless) is not installed",
)


@pytest.fixture(scope="module")
def store(radar_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nowcasting") / "store"
    return prepare(PrepareConfig("radar", str(out), SPLITS, {"path": str(radar_file), **OPTIONS}, STATISTICS))


@pytest.fixture(scope="module")
def config(store: Path) -> NowcastingConfig:
    short = ScratchConfig(1, 20, 8, check_every=10)
    return NowcastingConfig(
        str(store), leads=[5, 15], thresholds=[0.2, 1.0, 2.0], scales=[1, 3], target=8, unit_minutes=15, hidden=8,
        decoder=short, scratch=short, extrapolation=False, untrained_seeds=1, layers=[-1],
        encoder=EncoderConfig("pico", 2, (2, 4, 4)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def task(config: NowcastingConfig) -> Nowcasting:
    return Nowcasting(config, Store(config.store))


def scorer_of(**more: Any) -> Scorer:
    settings = {"names": ["5 min"], "thresholds": [0.2, 1.0], "event": 1.0, "scales": [1, 3],
                "values": np.array([0.0, 0.5, 2.0]), "usual": np.array([[0.6, 0.3, 0.1]])}  # fmt: skip
    return Scorer(**{**settings, **more})


def scores_of(scorer: Scorer, chances: np.ndarray, rain: np.ndarray, calls: list[float]) -> dict[str, float]:
    """Return every score of chances (sample, class, row, column)."""
    usual = np.broadcast_to(scorer.usual[0][:, None, None], chances.shape)
    target = scorer.target("5 min", np.arange(len(rain)), scorer.parts(usual, rain, calls), 1, 4.0)
    row = Row("it", Role.BASELINE, {"5 min": scorer.parts(chances, rain, calls)})
    return {one.name: float(one.statistic([row])(np.ones(len(rain)))[0]) for one in target.metrics}


# ---- Scores --------------------------------------------------------------------------------------------------


def test_the_crps_of_classes_is_that_of_an_ensemble_of_their_values() -> None:
    """Chances of tenths are an ensemble of ten members."""
    rng, scorer = np.random.default_rng(0), scorer_of()
    members = rng.integers(0, 3, size=(2, 10, 4, 5))
    chances = np.stack([(members == k).mean(axis=1) for k in range(3)], axis=1)
    rain = rng.gamma(1.0, size=(2, 4, 5))
    brute = scoringrules.crps_ensemble(rain, scorer.values[members], m_axis=1, estimator="nrg")
    np.testing.assert_allclose(scorer.crps_of(chances, rain), brute, atol=1e-12)
    sure = np.zeros((1, 3, 1, 1))
    sure[0, 1] = 1
    assert scorer.crps_of(sure, np.full((1, 1, 1), 3.0)).item() == pytest.approx(2.5)  # |0.5 - 3|


def test_scores_of_a_shifted_truth_by_hand() -> None:
    """One wet cell, told one column beside: no hit at 4 km; at 12 km 6 of 9 cells of each square are shared."""
    rain = np.zeros((3, 8, 8))
    rain[:, 4, 3] = 3.0
    scorer = scorer_of()
    told = as_it_is(np.roll(rain, 1, axis=2)[:, None], scorer)[:, 0]
    found = scores_of(scorer, told, rain, [0.5, 0.5])
    assert (found["csi_1"], found["bias_1"], found["fss_1_4km"]) == (0, 1, 0)
    assert found["fss_1_12km"] == pytest.approx(1 - 6 / 18)
    assert found["reliability_1"] == pytest.approx((63 * (1 / 63) ** 2 + 1) / 64)
    assert found["crps"] == pytest.approx((2 + 3) / 64)
    right = scores_of(scorer, as_it_is(rain[:, None], scorer)[:, 0], rain, [0.5, 0.5])
    assert (right["csi_0.2"], right["csi_1"], right["fss_1_4km"], right["fss_1_12km"]) == (1, 1, 1, 1)
    assert right["reliability_1"] == 0
    usual = np.broadcast_to(scorer.usual[0][:, None, None], told.shape)
    assert scores_of(scorer, usual, rain, [0.5, 0.5])["crps_skill"] == pytest.approx(0)


def test_cells_that_no_radar_sees_count_nowhere() -> None:
    rng, scorer = np.random.default_rng(1), scorer_of()
    rain = rng.gamma(0.5, size=(4, 6, 12))
    chances = rng.dirichlet(np.ones(3), size=(4, 6, 12)).transpose(0, 3, 1, 2)
    half = scores_of(scorer_of(scales=[1]), chances[..., :6], rain[..., :6], [0.4, 0.3])
    rain[..., 6:] = np.nan
    found = scores_of(scorer_of(scales=[1]), chances, rain, [0.4, 0.3])
    assert found == pytest.approx(half)
    assert scorer.class_of(rain)[..., 6:].max() == -1


def test_calls_are_from_the_chance_of_the_best_csi() -> None:
    """Rain falls where its chance is above 0.6 alone."""
    chance = np.linspace(0, 1, 400).reshape(1, 20, 20)
    chances = np.stack([1 - chance, 0 * chance, chance], axis=1)
    calls = scorer_of().calls(chances, np.where(chance > 0.6, 2.0, 0.0))
    assert calls[1] == pytest.approx(0.6)
    assert scorer_of().calls(chances, 0 * chance) == [0.5, 0.5]  # no event: nothing to choose by


def test_reliability_tells_what_fell_where_a_chance_was_told() -> None:
    rng, scorer = np.random.default_rng(2), scorer_of()
    chance = rng.uniform(size=(50, 16, 16))
    fell = rng.uniform(size=chance.shape) < chance / 2
    chances = np.stack([1 - chance, 0 * chance, chance], axis=1)
    row = Row("it", Role.BASELINE, {"5 min": scorer.parts(chances, np.where(fell, 2.0, 0.0), [0.5, 0.5])})
    table = scorer.reliability_table([row, row])
    np.testing.assert_allclose(table["observed"], table["chance"] / 2, atol=0.03)
    assert table["share"].sum() == pytest.approx(1)


# ---- Samples and baselines -----------------------------------------------------------------------------------


def test_samples_hold_the_rain_of_the_file_and_nothing_beyond_their_run(task: Nowcasting, radar_file: Path) -> None:
    frames, told = read_frames(str(radar_file)), task.told
    assert {block: len(told.inside(block)) for block in ("train", "val", "test")} == {
        "train": 10 * 10, "val": 10 * 6, "test": 10 * 18
    }  # fmt: skip
    for k in (0, 9, 105, 200, 339):
        row, column = told.row[k], told.column[k]
        for lead, steps in enumerate((1, 3)):
            later = told.at[k] + steps
            inside = {"train": later < 12, "val": later < 22, "test": later < 44}[str(told.block[k])]
            if inside:
                own = frames.rain[later, row : row + 8, column : column + 8]
                np.testing.assert_array_equal(told.rain[k, lead], own)
            else:
                assert np.isnan(told.rain[k, lead]).all()
    assert np.isfinite(told.rain[told.inside("test")]).all()
    raw = task.store.statistics.denormalise(task.store.read(told.steps), task.store.times[told.steps])
    here = told.cut(lambda at: frames.rain[at])
    np.testing.assert_allclose(raw[:, 0, 4:12, 4:12], here, atol=1e-4)  # the encoder's last frame is the target's place
    assert np.unique(task.units).tolist() == [0, 1, 2, 3, 4, 5]


def test_what_stands_and_what_a_square_around_holds(task: Nowcasting) -> None:
    fields = standing(task.frames, [1, 3])
    np.testing.assert_array_equal(fields(5)[1], task.frames.rain[5])
    mean, whole = around(fields, 5)(5)[0], task.frames.rain[5]
    assert mean[20, 20] == pytest.approx(whole[18:23, 18:23].mean(), rel=1e-5)
    assert mean[4, 20] == pytest.approx(whole[4:7, 18:23].mean(), rel=1e-5)  # rows 2 and 3 are not seen
    assert np.isnan(mean[0, 20])


def test_dressed_chances_are_the_frequencies_of_training(task: Nowcasting) -> None:
    """Of persistence without a square: count the pairs of classes by hand."""
    chances, sizes = dressed(task.told, standing(task.frames, task.leads), task.scorer)
    np.testing.assert_allclose(chances.sum(axis=2), 1, atol=1e-5)
    assert set(sizes) == {"5 min", "15 min"}
    truth, train = task.scorer.class_of(task.told.rain[:, 0]), task.told.inside("train")
    loss = task.scorer.crps(chances[train, 0], task.told.rain[train, 0])
    usual = np.broadcast_to(task.scorer.usual[0][:, None, None], chances[train, 0].shape)
    assert loss < 0.6 * task.scorer.crps(usual, task.told.rain[train, 0])
    for threshold in (0.2, 1.0):
        share = (task.told.rain[train, 0] >= threshold).mean()
        assert task.scorer.above(chances[train, 0], threshold).mean() == pytest.approx(share, abs=0.02)
    assert truth.min() >= 0


@needs_pysteps
def test_rain_carried_along_its_motion_meets_moving_rain(radar_file: Path) -> None:
    """The rain moves a column a frame: three frames on, where it was carried it is, and where it stood it is not."""
    frames = read_frames(str(radar_file))
    moved, stood = carried(frames, [1, 3], 3)(10)[1], frames.rain[10]
    inner = slice(8, 32), slice(8, 40)
    truth = frames.rain[13][inner]
    assert np.abs(moved[inner] - truth).mean() < 0.35 * np.abs(stood[inner] - truth).mean()
    assert np.isnan(moved[:, 0]).any()  # comes from beyond the edge


@needs_pysteps
def test_dry_frames_are_carried_nowhere() -> None:
    times = np.datetime64("2020-01-01", "s") + np.arange(5) * np.timedelta64(300, "s")
    found = carried(Frames("none", times, np.zeros((5, 32, 32), np.float32), ""), [1, 2], 3)(4)
    np.testing.assert_array_equal(np.nan_to_num(found), 0)


# ---- The network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [DECODER, LINEAR])
@pytest.mark.parametrize("features", [0, 6])
def test_a_network_begins_at_the_climatology_and_reads_only_what_is_near(form: str, features: int) -> None:
    torch.manual_seed(0)
    layout, usual = Layout(2, 3, 16, 8, (4, 4)), np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
    network = Nowcaster(form, layout, 2, features, usual, 5)
    frames, tokens = torch.randn(3, 2, 16, 16), torch.randn(3, 16, 6) if features else None
    told = network(frames, tokens).softmax(2)
    assert told.shape == (3, 2, 3, 8, 8)
    np.testing.assert_allclose(told.detach().numpy(), np.broadcast_to(usual[..., None, None], told.shape), atol=1e-6)
    for values in network.last.parameters():
        torch.nn.init.normal_(values)
    before, far = network(frames, tokens), frames.clone()
    far[..., 0, 0] += 1
    assert torch.equal(network(far, tokens)[..., 4:, 4:], before[..., 4:, 4:])
    if tokens is not None:
        changed = tokens.clone()
        changed[:, 5] += 1  # row 1, column 1 of 4: the first patch of the target
        off = (network(frames, changed) - before).abs().amax((0, 1, 2))
        assert off[:4, :4].min() > 0
        assert off[4 + 2 :, 4 + 2 :].max() == 0


def test_a_loss_counts_every_lead_alike_and_unknown_cells_nowhere() -> None:
    logits = torch.zeros(2, 2, 3, 2, 2)
    truth = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    truth[0, 1] = -1
    logits[1, 1, 0] = 2.0
    sure = -np.log(np.exp(2) / (np.exp(2) + 2))
    assert float(loss_of(logits, truth)) == pytest.approx((np.log(3) + sure) / 2)
    truth[:, 1] = -1
    assert float(loss_of(logits, truth)) == pytest.approx(np.log(3))


# ---- The whole task, and what is refused ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_task(config: NowcastingConfig, tmp_path: Path) -> None:
    words = ["--objectives", "{masking: {}, lead_time: {leads: [1, 3]}}", "--encoder.size", "pico", "--encoder.window",
             "2", "--encoder.patch", "[2, 4, 4]", "--training.steps", "20", "--training.batch_size", "8",
             "--training.warmup_steps", "1", "--training.val_every", "20", "--training.save_every", "20"]  # fmt: skip
    assert main(["pretrain", "--store", config.store, "--out", str(tmp_path / "run"), *words]) == 0
    long = ScratchConfig(1, 200, 16, 1e-2, check_every=50)
    own = replace(config, out=str(tmp_path / "out"), checkpoints=[str(tmp_path / "run")], decoder=long)
    scores = pd.read_csv(run_task(Nowcasting(own, Store(config.store))) / "scores.csv")
    assert np.isfinite(scores["value"]).all()
    skill = scores[scores["metric"] == "crps_skill"].groupby("row")["value"].mean()
    assert {"climatology", "persistence", "persistence, as it is", "raw frames [decoder]", "raw frames [linear]",
            "pretrained [decoder]", "pretrained [linear]", "untrained [decoder]", "untrained [linear]", "fine-tuned",
            "same network from scratch"} == set(skill.index)  # fmt: skip
    assert abs(skill["climatology"]) < 1e-9
    assert skill["raw frames [decoder]"] > skill["persistence"] > 0.2  # the rain moves, and two frames tell where to
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["samples"]["test"]["samples"] == 180
    assert "20 minutes apart; training and validation are 15 apart" in record["convention"]
    assert "No extrapolation stands in this table" in " ".join(record["notes"])


@pytest.mark.slow
def test_an_encoder_of_other_hours_is_refused(config: NowcastingConfig, radar_file: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "path": str(radar_file), "train": OPTIONS["test"], "test": OPTIONS["train"],
               "apart_minutes": 10}  # fmt: skip
    other = prepare(PrepareConfig("radar", str(tmp_path / "other"), SPLITS, options, STATISTICS))
    words = ["--objectives", "{masking: {}}", "--encoder.size", "pico", "--encoder.window", "2", "--encoder.patch",
             "[2, 4, 4]", "--training.steps", "2", "--training.batch_size", "4", "--training.warmup_steps", "1",
             "--training.val_every", "2", "--training.save_every", "2"]  # fmt: skip
    assert main(["pretrain", "--store", str(other), "--out", str(tmp_path / "run"), *words]) == 0
    own = replace(config, checkpoints=[str(tmp_path / "run")], other_statistics=True)
    with pytest.raises(EarthSSLError, match="cut otherwise"):
        Nowcasting(own, Store(config.store)).encoders()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"leads": [5, 7]}, "multiples of the 5 minutes from frame to frame, got 7"),
        ({"leads": [15, 5]}, "leads ascending"),
        ({"leads": []}, "leads"),
        ({"leads": [5, 5]}, "leads each once"),
        ({"leads": [5, 20]}, "within the 20 minutes that test hours keep apart, got 25"),
        ({"thresholds": [1.0, 0.2]}, "thresholds ascending"),
        ({"thresholds": [0.0, 1.0]}, "thresholds > 0"),
        ({"event": 3.0}, "event out of thresholds"),
        ({"target": 7}, "an even margin in a crop of 16 cells, got target 7"),
        ({"target": 32}, "an even margin in a crop of 16 cells, got target 32"),
        ({"target": 16}, "the margin of 0 about a target of 16"),
        ({"encoder": EncoderConfig("pico", 2, (2, 3, 4))}, "divide a crop of 16 and the margin of 4"),
        ({"encoder": EncoderConfig("pico", 2, (2, 1, 1))}, "patches of 2 cells or more"),
        ({"heads": [LINEAR]}, "heads with decoder"),
        ({"heads": ["decode"]}, "Did you mean 'decoder'|decoder"),
        ({"decoder": ScratchConfig(0)}, "decoder.seeds ≥ 1"),
        ({"scales": [0]}, "scales ≥ 1"),
        ({"unit_minutes": 0}, "unit_minutes ≥ 1"),
        ({"layers": [7]}, "probe.layers: expected -2 to 1, got 7"),
        ({"reference": "nowhere.nc"}, "got 'nowhere.nc', which is not there; set reference"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"fractions": [0.5]}, "no fractions"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(
    config: NowcastingConfig, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(EarthSSLError, match=said) as caught:
        Nowcasting(replace(config, **settings), Store(config.store)).encoders()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_table_without_heads_has_the_rows_of_the_field_alone(config: NowcastingConfig, tmp_path: Path) -> None:
    own = replace(config, heads=[], scratch=ScratchConfig(0), out=str(tmp_path / "out"))
    out = run_task(Nowcasting(own, Store(config.store)))
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["row"]) == {"climatology", "persistence", "persistence, as it is"}
    assert np.isfinite(scores["value"]).all()
    assert "No head stands in this table" in " ".join(json.loads((out / "result.json").read_text())["notes"])


def test_too_short_spans_are_refused(config: NowcastingConfig, radar_file: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "path": str(radar_file), "val": [["2016-09-28T01:10", "2016-09-28T01:20"]]}
    short = prepare(PrepareConfig("radar", str(tmp_path / "short"), SPLITS, options, STATISTICS))
    with pytest.raises(EarthSSLError, match="window of 2 frames inside the val spans, got none at some"):
        Nowcasting(replace(config, store=str(short)), Store(short)).encoders()


def test_patches_that_no_radar_sees_are_refused(config: NowcastingConfig, radar_file: Path, tmp_path: Path) -> None:
    """Crops of row 0 alone: the four rows in the north are seen by none."""
    with xr.open_dataset(radar_file) as data:
        data.load().isel(y=slice(0, 16)).to_netcdf(tmp_path / "north.nc")
    options = {**OPTIONS, "path": str(tmp_path / "north.nc"), "least_valid": 0.5}
    blind = prepare(PrepareConfig("radar", str(tmp_path / "blind"), SPLITS, options, STATISTICS))
    own = replace(config, store=str(blind))
    with pytest.raises(EarthSSLError, match="seen by a radar in some crop, got that in row 1, column 1 in none"):
        Nowcasting(own, Store(blind)).encoders()


def test_blocks_of_minutes_begin_with_each_span(config: NowcastingConfig, radar_file: Path, tmp_path: Path) -> None:
    spans = [["2017-05-09T00:00", "2017-05-09T00:40"], ["2017-05-09T00:50", "2017-05-09T01:45"]]
    options = {**OPTIONS, "path": str(radar_file), "test": spans}
    two = prepare(PrepareConfig("radar", str(tmp_path / "two"), SPLITS, options, STATISTICS))
    task = Nowcasting(replace(config, store=str(two)), Store(two))
    task.encoders()
    times = task.told.times[task.told.inside("test")]
    firsts = sorted({str(times[task.units == unit].min())[11:16] for unit in np.unique(task.units)})
    assert firsts == ["00:05", "00:20", "00:55", "01:10", "01:25"]  # the second frame of each span, and every 15
    assert "of the same 2 events" in task.convention_text()


def test_one_frame_shows_no_motion(config: NowcastingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earthssl.downstream.tasks.nowcasting.task.check_pysteps", lambda: None)
    own = replace(config, extrapolation=True, encoder=EncoderConfig("pico", 1, (1, 4, 4)))
    with pytest.raises(EarthSSLError, match=r"two frames or more, to see a motion, got encoder\.window 1"):
        Nowcasting(own, Store(config.store)).encoders()


def test_a_store_of_other_rain_is_refused(config: NowcastingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(file: str, coarsen: int) -> Frames:
        found = read_frames(file, coarsen)
        return replace(found, rain=found.rain[:, ::-1])

    monkeypatch.setattr("earthssl.downstream.tasks.nowcasting.task.read_frames", turned)
    with pytest.raises(EarthSSLError, match="expected the rain of the file in its crops"):
        Nowcasting(config, Store(config.store))


def test_without_pysteps_the_extra_is_named(config: NowcastingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pysteps" else find(name))
    with pytest.raises(EarthSSLError, match=r"pysteps not found|pysteps .*install earthssl\[nowcasting\]"):
        Nowcasting(replace(config, extrapolation=True), Store(config.store))


def test_stores_and_files_that_do_not_fit_end_with_status_2(
    config: NowcastingConfig, radar_file: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = SplitsConfig(SPLITS.val, SPLITS.train, SPLITS.test, 1)
    options = {"path": str(radar_file), **OPTIONS}
    wrong = prepare(PrepareConfig("radar", str(tmp_path / "wrong"), swapped, options, STATISTICS))
    with xr.open_dataset(radar_file) as data:
        (data.load() * 2).to_netcdf(tmp_path / "other.nc")
    for store, words, said in (
        (small_store, [], "expected a store of the source radar"),
        (wrong, [], "set splits.train to ['1900-01-01', '1900-01-01']"),
        (config.store, ["--reference", str(tmp_path / "other.nc")], "the store was made of, got"),
    ):
        capsys.readouterr()
        command = ["probe", "--task", "nowcasting", "--extrapolation", "false", "--store", str(store), "--out"]
        assert main([*command, str(tmp_path / "x"), *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert len(error.splitlines()) == 1

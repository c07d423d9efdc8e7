"""earthssl run with folds: every fold in its own folder, one table of all, finished steps kept, mistakes refused."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from earthssl.cli.folds import check_folds, folds_of
from earthssl.cli.main import main
from earthssl.cli.plan import _from_source
from earthssl.cli.run import run_all
from earthssl.ssl.common.config import build
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig

CONFIG: dict[str, Any] = {
    "prepare": {"source": "planet", "options": {"years": 60, "variables": ["sst", "u10"]}},
    "folds": {"first": "1900-01", "last": "1959-12", "count": 3, "gap_months": 10, "val_months": 72},
    "pretrain": {
        "encoder": {"size": "nano", "window": 3, "patch": [1, 8, 8]},
        "objectives": {"masking": {"masks": [{"kind": "random", "ratio": 0.5}]}},
        "training": {"steps": 2, "batch_size": 8, "warmup_steps": 1, "val_every": 2, "save_every": 2, "log_every": 2},
    },
    "probe": {
        "leads": [1, 6], "poolings": ["mean"], "components": [5], "random_seeds": 1, "fractions": [], "draws": 1000,
        "uncertainty": False, "scratch": {"seeds": 0},
    },
    "report": {"title": "Three folds"},
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        config[name] = {**config.get(name, {}), **value}
    file = folder / "folds.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def test_the_sections_of_a_fold_are_those_given_with_its_blocks() -> None:
    every = folds_of(CONFIG)
    assert [own["prepare"]["splits"]["test"] for own in every] == [
        ["1900-01", "1919-12"], ["1920-01", "1939-12"], ["1940-01", "1959-12"],
    ]  # fmt: skip
    assert every[1]["prepare"]["splits"]["train"] == [["1900-01", "1919-02"], ["1940-11", "1953-02"]]
    assert every[1]["pretrain"] == CONFIG["pretrain"]
    assert "folds" not in every[0]
    assert "splits" not in CONFIG["prepare"]


@pytest.mark.parametrize(("changes", "said"), [
    ({"probe": {"task": "states"}}, "probe.task enso, whose folds can be pooled, got 'states'"),
    ({"prepare": {"splits": {}}}, "prepare.splits: expected none beside folds"),
    ({"folds": {"gap_months": 9}}, "at least 10 months .window 3 . longest lead 6 . 1. between .*got 9"),
    ({"folds": {"gaps": 9}}, "gaps"),
    ({"prepare_others": {"more": {"source": "planet"}}}, "expected no section prepare_others"),
    ({"probe": {"uncertainty": True}}, "probe.uncertainty: expected false beside folds"),
    ({"probe": {"since": "1955-01"}}, "probe.since: expected none beside folds"),
])  # fmt: skip
def test_mistakes_are_refused_before_anything_is_made(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        run_all(written(tmp_path, **changes), str(tmp_path / "out"), [], lambda words: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["--folds", "null"], "folds: expected a mapping of settings, got None"),
    (["--folds", "[1, 2]"], "folds: expected a mapping of settings, got .1, 2."),
    (["--probe", "5"], "probe: expected a mapping of settings, got 5"),
    (["--folds", "{first: 1900-01, last: 1959-12, gap_months: 9}"], "at least 10 months"),
])  # fmt: skip
def test_a_section_typed_whole_is_a_mapping_or_refused(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        run_all(written(tmp_path), str(tmp_path / "out"), words, lambda words: None)
    assert not (tmp_path / "out").exists()


def test_all_folds_are_held_against_the_data_and_what_the_encoder_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation of fold 3 lies before these data begin; the encoder was trained up to 1935, in which fold 2 tests."""
    every = [build(PrepareConfig, {**own["prepare"], "out": "x"}, "p").splits.build() for own in folds_of(CONFIG)]

    def data(first: str) -> None:
        times = np.arange(first, "1960-01", dtype="datetime64[M]").astype("datetime64[s]")
        manifest = {"source": "files: ERA5", "attributes": {}}
        store = SimpleNamespace(times=times, splits=every[0], manifest=manifest)
        monkeypatch.setattr("earthssl.cli.folds.Store", lambda folder: store)

    data("1900-01")
    check_folds(every, Path("store"), "")
    seen = SplitsConfig(("1800", "1860"), ("1863", "1870"), ("1880", "1890"), 365).build()
    training = {"source": "files: ERA5", "planet_seed": None, "splits": seen.to_json()}
    monkeypatch.setattr("earthssl.cli.folds.read_record", lambda folder: SimpleNamespace(trainings=[training]))
    check_folds(every, Path("store"), "runs/before")
    training["splits"] = {**seen.to_json(), "val": ["1925-01-01T00:00:00", "1935-01-01T00:00:00"]}
    with pytest.raises(EarthSSLError, match=r"start_from: .* of fold 2: the encoder's val block .*runs/before"):
        check_folds(every, Path("store"), "runs/before")
    data("1910-01")
    with pytest.raises(EarthSSLError, match=r"folds: fold 3: splits\.val .1900-01-01 … 1905-12-31. holds no time"):
        check_folds(every, Path("store"), "")


def test_plan_takes_the_first_fold_and_prepare_says_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(written(tmp_path))
    taken: list[PrepareConfig] = []
    monkeypatch.setattr("earthssl.cli.plan.sketch_source", taken.append)
    _from_source(file)
    assert list(taken[0].splits.test) == ["1900-01", "1919-12"]
    assert main(["prepare", "--config", file, "--out", str(tmp_path / "store")]) == 2
    assert f"type earthssl run --config {file}" in capsys.readouterr().err


@pytest.mark.slow
def test_three_folds_and_one_table_and_what_is_finished_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["run", "--config", str(written(tmp_path)), "--out", str(out)]
    assert main(words) == 0
    for number in (1, 2, 3):
        assert (out / f"fold-{number}" / "report.html").is_file()
    record = read_json(out / "pooled" / "result.json", "the table")
    assert record["samples"] == {"lead 1": 720 - 2 - 2, "lead 6": 720 - 2 - 7}  # whole windows and targets
    assert [one["folder"] for one in record["folds"]] == ["fold-1", "fold-2", "fold-3"]
    assert record["title"] == "Three folds"
    assert (out / "pooled" / "skill_by_lead.png").stat().st_size > 1000
    scores = pd.read_csv(out / "pooled" / "scores.csv").set_index(["row", "target", "metric"])["value"]
    assert scores["persistence", "lead 1", "skill"].max() > 0.9
    table, checkpoint = out / "pooled" / "scores.csv", out / "fold-2" / "pretrain-seed0" / "checkpoint" / "record.json"
    before = (table.read_bytes(), checkpoint.read_bytes(), checkpoint.stat().st_mtime_ns)
    assert len(read_json(checkpoint, "the record")["splits"]["train"]) == 2
    capsys.readouterr()
    assert main(words) == 0
    assert "prepare" not in capsys.readouterr().out
    assert (table.read_bytes(), checkpoint.read_bytes(), checkpoint.stat().st_mtime_ns) == before
    assert main([*words, "--folds.count", "2"]) == 2
    assert "its section 'folds' differs" in capsys.readouterr().err
    assert main([*words, "--pretrain.training.lr", "0.1"]) == 2
    plain = yaml.safe_load(Path(words[2]).read_text())
    plain["prepare"]["splits"] = folds_of(CONFIG)[0]["prepare"]["splits"]
    del plain["folds"]
    Path(words[2]).write_text(yaml.safe_dump(plain))
    assert main(words) == 2
    assert "its section 'folds'" in capsys.readouterr().err

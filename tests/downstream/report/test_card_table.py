"""From a probe's folder to the table of a model card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from earthssl.cli import main
from earthssl.downstream.report.card_table import probe_scores
from earthssl.downstream.results.summary import DIFFERENCES, SCORES, Summary
from earthssl.ssl.checkpoint.read import read_record
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import sha256

FOLDER = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


def write(folder: Path, scores: list[tuple[Any, ...]], differences: list[tuple[Any, ...]], **more: Any) -> Path:
    """What a probe writes, in small."""
    how = {"task": "enso", "title": "t", "convention": "As usual.", "record": {}} | more
    columns = [
        pd.DataFrame(lines, columns=list(names)) for lines, names in ((scores, SCORES), (differences, DIFFERENCES))
    ]
    return Summary(scores=columns[0], differences=columns[1], **how).write(folder, "earthssl x")


@pytest.fixture
def enso(tmp_path: Path) -> Path:
    nan = float("nan")
    scores = [("pretrained [mean]", "", "lead 3", "skill", 0.51239, 0.4, 0.6),
              ("pretrained [mean]", "0", "lead 3", "skill", 0.5, nan, nan),
              ("PCA", "", "lead 3", "skill", 0.6, nan, nan), ("PCA", "", "lead 3", "rmse", 0.9, nan, nan),
              ("PCA", "", "lead 4", "skill", 0.5, nan, nan)]  # fmt: skip
    differences = [
        ("pretrained [mean]", "PCA", "lead 3", "skill", -0.1, -0.2, -0.05, "worse"),
        ("pretrained [mean]", "PCA", "lead 4", "skill", -0.1, -0.2, 0.1, "undecided"),
        ("PCA", "pretrained [mean]", "lead 3", "skill", 0.1, 0.05, 0.2, "better"),
    ]
    record = {
        "synthetic": True, "test_years": "1928-1931",
        "rows": [{"row": "PCA", "role": "baseline"}, {"row": "pretrained [mean]", "role": "pretrained"}],
        "encoders": [{"kind": "pretrained", "sha256": sha256(FOLDER / "encoder.safetensors")}],
    }  # fmt: skip
    return write(tmp_path / "enso", scores, differences, record=record, main=[("lead 3", "skill")])


def test_means_over_seeds_at_the_main_targets_and_the_verdicts_that_matter(enso: Path) -> None:
    table = probe_scores(enso)
    assert table["task"] == "enso"
    row = {"target": "lead 3", "kind": "pretrained", "value": 0.5124, "low": 0.4, "high": 0.6}
    assert table["rows"] == [
        {"name": "pretrained [mean]", **row},
        {"name": "PCA", "target": "lead 3", "kind": "baseline", "value": 0.6, "low": None, "high": None},
    ]
    assert table["verdicts"] == ["pretrained [mean] − PCA, lead 3: -0.100 [-0.200, -0.050] worse"]
    assert (table["better"], table["test"], table["synthetic"]) == ("higher", "1928-1931", True)


def test_without_a_word_on_what_is_main_the_first_metric_is_shown(tmp_path: Path) -> None:
    nan = float("nan")
    scores = [("pretrained", "", "msl 1 d", "rmse", 1.5, 1.4, 1.6), ("pretrained", "", "msl 1 d", "acc", 0.5, nan, nan),
              ("untrained", "", "msl 1 d", "rmse", 2, nan, nan)]  # fmt: skip
    differences = [("pretrained", "untrained", "msl 1 d", "rmse", -0.5, -0.6, -0.4, "better")]
    record = {"split": {"test": ["1906-01-16T00", "1907-12-31T00"]}}
    table = probe_scores(write(tmp_path / "out", scores, differences, task="forecast", record=record))
    assert table["task"] == "forecast"
    assert (table["metric"], table["better"]) == ("rmse", "lower")
    assert [row["value"] for row in table["rows"]] == [1.5, 2]
    assert table["test"] == "1906-01-16 to 1907-12-31"
    assert table["verdicts"] == ["pretrained − untrained, msl 1 d: -0.500 [-0.600, -0.400] better"]


def test_the_verb_attaches_and_prints(enso: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A probe of other weights is refused, and so is a folder without one."""
    folder = shutil.copytree(FOLDER, tmp_path / "checkpoint")
    assert main.main(["card", str(folder), "--probe", str(enso)]) == 0
    said = capsys.readouterr().out
    assert "| pretrained [mean] | 0.5124 [0.4, 0.6] |" in said
    assert said == (folder / "card.md").read_text()
    assert verify(folder)["format_version"] == 2
    assert [table["task"] for table in read_record(folder).extra["scores"]] == ["enso"]
    with pytest.raises(EarthSSLError, match="expected a probe of the encoder with SHA-256 other, "):
        probe_scores(enso, "other, …")
    assert main.main(["card", str(folder), "--probe", str(tmp_path)]) == 2
    assert "expected the folder of a probe" in capsys.readouterr().err
    assert main.main(["verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "6 files as the manifest says" in said
    assert "schema of format version 2" in said
    assert "golden input gives the output it gave at home" in said

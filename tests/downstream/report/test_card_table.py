"""From a probe's folder to the table of a model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from earthssl.cli import main
from earthssl.downstream.report.card_table import probe_scores
from earthssl.ssl.checkpoint.read import read_record
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import sha256

FOLDER = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


@pytest.fixture
def enso(tmp_path: Path) -> Path:
    """What a probe of ENSO writes, in small."""
    (tmp_path / "enso").mkdir()
    rows = [("pretrained [mean]", "", 3, "skill", 0.51239, 0.4, 0.6),
            ("pretrained [mean]", "0", 3, "skill", 0.5, "", ""),
            ("PCA", "", 3, "skill", 0.6, "", ""), ("PCA", "", 3, "rmse", 0.9, "", ""),
            ("PCA", "", 4, "skill", 0.5, "", "")]  # fmt: skip
    lines = ["row,seed,lead,metric,value,low,high", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "enso" / "scores.csv").write_text("\n".join(lines))
    (tmp_path / "enso" / "differences.csv").write_text(
        "row,reference,lead,value,low,high,verdict\n"
        "pretrained [mean],PCA,mean,-0.1,-0.2,-0.05,worse\npretrained [mean],PCA,3,-0.1,-0.2,0.1,undecided\n"
        "pretrained [mean],persistence,mean,0.1,0.05,0.2,better\nPCA,persistence,mean,0.1,0.05,0.2,better\n"
    )
    record = {
        "task": "enso", "convention": "As usual.", "synthetic": True,
        "test_years": "1928-1931", "command": "earthssl x",
        "rows": [{"name": "PCA", "kind": "baseline"}, {"name": "pretrained [mean]", "kind": "encoder"}],
        "checkpoints": [{"weights_sha256": sha256(FOLDER / "encoder.safetensors")}],
    }  # fmt: skip
    (tmp_path / "enso" / "probe.json").write_text(json.dumps(record))
    return tmp_path / "enso"


def test_means_over_seeds_at_six_leads_and_the_verdicts_that_matter(enso: Path) -> None:
    table = probe_scores(enso)
    assert table["task"] == "enso"
    assert table["rows"] == [
        {
            "name": "pretrained [mean]",
            "target": "lead 3 mo",
            "kind": "encoder",
            "value": 0.5124,
            "low": 0.4,
            "high": 0.6,
        },
        {"name": "PCA", "target": "lead 3 mo", "kind": "baseline", "value": 0.6, "low": None, "high": None},
    ]
    assert table["verdicts"] == ["pretrained [mean] − PCA, mean over leads: -0.100 [-0.200, -0.050] worse"]
    assert (table["better"], table["test"], table["synthetic"]) == ("higher", "1928-1931", True)


def test_other_tasks_show_their_first_metric(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(
        "row,seed,target,metric,value,low,high\npretrained,,msl 1 d,rmse,1.5,1.4,1.6\npretrained,,msl 1 d,acc,0.5,,\n"
        "untrained,,msl 1 d,rmse,2,,\n"
    )
    (tmp_path / "differences.csv").write_text(
        "row,reference,target,metric,value,low,high,verdict\npretrained,untrained,msl 1 d,rmse,-0.5,-0.6,-0.4,better\n"
    )
    record = {"task": "forecast", "convention": "c", "split": {"test": ["1906-01-16T00", "1907-12-31T00"]}}
    (tmp_path / "result.json").write_text(json.dumps(record))
    table = probe_scores(tmp_path)
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

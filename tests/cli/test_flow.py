"""Every verb, as a person runs it: the command line on a tiny synthetic planet, from source to report."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr
import yaml
from earthssl.cli.main import main

CONFIG = {
    "prepare": {
        "source": "planet",
        "options": {"years": 60, "variables": ["sst", "u10", "v10"]},
        "splits": {
            "train": ["1900-01", "1931-12"],
            "val": ["1934-01", "1944-12"],
            "test": ["1947-01", "1959-12"],
            "embargo_days": 365,
        },
    },
    "pretrain": {
        "seeds": [0, 1],
        "encoder": {"size": "nano", "window": 3, "patch": [1, 8, 8]},
        "objectives": {
            "masking": {"masks": [{"kind": "random", "ratio": 0.5}, {"kind": "variable", "ratio": 0.5}]},
            "order": {"weight": 0.1},
            "orientation": {"weight": 0.1},
        },
        "training": {"steps": 4, "batch_size": 8, "warmup_steps": 1, "val_every": 2, "save_every": 2, "log_every": 2},
        "online_probe": {"task": "enso", "lead": 3},
    },
    "probe": {
        "leads": [1, 3, 6],
        "poolings": ["mean", "mean+pcs"],
        "components": [5],
        "untrained_seeds": 2,
        "random_seeds": 1,
        "fractions": [0.3],
        "label_draws": 1,
        "draws": 1000,
        "scratch": {"seeds": 1, "steps": 4, "check_every": 2},
    },
    "report": {"title": "A test"},
}
TINY = ["--config", "tiny.yaml"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run, and what it printed; in this process, which has torch already."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        assert main(["run", *TINY, "--out", "out"]) == 0
    return folder, printed.getvalue()


def test_run_leaves_every_result(run: tuple[Path, str]) -> None:
    folder, printed = run
    out = folder / "out"
    for name in ("store/manifest.json", "pretrain-seed1/checkpoint/record.json", "probe/scores.csv", "report.html"):
        assert (out / name).is_file(), name
    assert "best reachable" in printed
    assert str(out / "report.html") in printed


def test_the_table_holds_every_row_a_reader_needs(run: tuple[Path, str]) -> None:
    scores = pd.read_csv(run[0] / "out/probe/scores.csv")
    rows = " | ".join(scores.row.unique())
    for part in ("persistence", "damped", "LIM", "cyclostationary", "PCA", "untrained [mean]", "pretrained [mean]",
                 "same network from scratch", "best reachable"):  # fmt: skip
        assert part in rows, part
    skill = scores[(scores.metric == "skill") & scores.seed.isna() & scores.row.str.startswith("pretrained")]
    assert skill[["value", "low", "high"]].notna().all().all()
    assert ((skill.low <= skill.value) & (skill.value <= skill.high)).all()
    # Persistence at lead 1 is a known answer: two of the target's three months are nearly known.
    first = scores[(scores.row == "persistence") & (scores.target == "lead 1") & (scores.metric == "skill")]
    assert first.value.iloc[0] > 0.9


def test_provenance_names_the_data_and_the_split(run: tuple[Path, str]) -> None:
    out = run[0] / "out"
    probe = json.loads((out / "probe/result.json").read_text())
    store = json.loads((out / "store/manifest.json").read_text())
    assert probe["store_fingerprint"] == store["fingerprint"] == probe["encoders"][0]["fingerprint"]
    assert probe["synthetic"] is True
    assert probe["split_proof"]["disjoint"] is True
    assert "earthssl run" in probe["command"]


@pytest.mark.slow
def test_a_finished_run_is_not_done_again(run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run
    monkeypatch.chdir(folder)
    weights = folder / "out/pretrain-seed0/checkpoint/encoder.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(["run", "--config", "tiny.yaml", "--out", "out"]) == 0
    assert weights.stat().st_mtime_ns == before


def test_verify_and_info_and_embed(
    run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    monkeypatch.chdir(folder)
    assert main(["verify", "out/pretrain-seed0"]) == 0
    assert "whole" in capsys.readouterr().out
    assert main(["prepare", "--info", "out/store"]) == 0
    assert "fingerprint" in capsys.readouterr().out
    import earthssl as package

    data = package.open_source("planet", years=2, variables=["sst", "u10", "v10"])
    data.to_netcdf(folder / "two-years.nc")
    assert main(["embed", "out/pretrain-seed0", "two-years.nc"]) == 0
    features = xr.open_dataarray(folder / "features.nc")
    assert features.dims == ("time", "feature")
    assert features.sizes == {"time": 22, "feature": 64}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prepare", "--config", "absent.yaml"], "absent.yaml"),
        (["prepare", *TINY, "--out", "x", "--sauce", "planet"], "source"),
        (["pretrain", *TINY, "--store", "out/store", "--out", "x", "--objectives.maskin", "{}"], "masking"),
        (["pretrain", *TINY, "--store", "nowhere", "--out", "x"], "nowhere"),
        (["pretrain", *TINY, "--store", "out/store", "--out", "out/probe"], "not empty"),
        (["pretrain", *TINY, "--store", "out/store", "--out", "x",
          "--objectives", "{masking: {masks: [{kind: random, ratio: 0.999}]}}"], "leaves 0 of"),
        (["probe", *TINY, "--store", "out/store", "--out", "x", "--checkpoints", "[nowhere]"], "nowhere"),
        (["probe", *TINY, "--store", "out/store", "--out", "x", "--checkpoints",
          "[out/pretrain-seed0]", "--leads", "[1, 30]"], "embargo|between the"),
        (["verify", "out/store"], "manifest"),
        (["run", *TINY, "--out", "out", "--pretrain.training.steps", "13"], "differs"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_status_2(
    run: tuple[Path, str],
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = run
    monkeypatch.chdir(folder)
    assert main(words) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert any(part in last for part in said.split("|")), last
    assert not (folder / "x").exists()


def test_labels_that_do_not_fit_cost_no_pretraining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The task is built on the store before anything is trained; the store is kept for the next try."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("earthssl.cli.run._pretrain_once", lambda *a: pytest.fail("pretrained before labels were read"))
    probe = {"task": "indices", "labels": "labels.csv", "columns": ["rain"]}
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG | {"probe": probe}))
    Path("labels.csv").write_text("time,snow\n1981-01-01,1.0\n")
    assert main(["run", "--config", "tiny.yaml", "--out", "out"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "rain" in last
    assert "snow" in last
    assert Path("out/store/manifest.json").is_file()


def test_help_imports_no_torch() -> None:
    code = (
        "import sys, earthssl.cli.main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'xarray', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_study_ends_with_its_table_and_the_report_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Audit and matrix put table and page into a folder of their own, which is where `run` must look for them."""

    def done(verb: str, settings: dict[str, Any], command: str = "") -> Path:
        folder = Path(settings["out"]) / ("" if verb == "prepare" else "report")
        folder.mkdir(parents=True)
        (folder / "table.txt").write_text(f"table of {verb}")
        (folder / "report.html").write_text("")
        return folder

    monkeypatch.setattr("earthssl.cli.run.run_verb", done)
    config = Path(__file__).resolve().parents[2] / "configs" / "matrix-kaplan.yaml"
    assert main(["run", "--config", str(config), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "table of matrix" in said
    report = Path(said.split("report: ")[1].strip())
    assert report == tmp_path / "out" / "matrix" / "report" / "report.html"
    assert report.is_file()

"""`earthssl finetune`: mistakes at the command line, and the labels of its config; the walk: docs/finetune.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from earthssl import open_source
from earthssl.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--target", "nino43"], "Did you mean 'nino34'"),
        (["--mode", "ful"], "Did you mean 'full'"),
        (["--seedz", "1"], "unknown key 'seedz'"),
        (["--labels", "nothing.csv"], "found none; check the path"),
        (["--checkpoint", "nothing"], "nothing"),
        (["--store", "nothing"], "expected a training store"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_store: Path,
    small_run: Path, change: list[str], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("time,nino34\n1990-01,1\n")
    usual = [
        "--checkpoint",
        str(small_run),
        "--store",
        str(small_store),
        "--labels",
        "labels.csv",
        "--target",
        "nino34",
    ]
    assert main.main(["finetune", *usual, "--out", "tuned", *change]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("earthssl finetune: ")
    assert words in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.csv"]


@pytest.mark.slow
def test_the_labels_of_the_config_are_the_planets_index() -> None:
    box = open_source("planet", years=110, start="1990-01-01", seed=3, variables=["sst"], region=[-35, 35, 120, 290])
    index = box["sst"].sel(lat=slice(5, -5), lon=slice(190, 240)).mean(("lat", "lon")).load()
    anomaly = index.groupby("time.month") - index.sel(time=slice("1990", "2044")).groupby("time.month").mean()
    labels = pd.read_csv(ROOT / "configs" / "finetune-planet.csv")
    assert list(labels["time"]) == list(np.datetime_as_string(anomaly["time"].values, "M"))
    np.testing.assert_allclose(labels["nino34"], anomaly, atol=6e-4)

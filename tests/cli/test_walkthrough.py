"""The README's walk-through as a new user types it: pull, verify, own data and labels, prepare, finetune, predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl import load_encoder, load_finetuned, open_source
from earthssl.cli import main

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "registry" / "planet-tropics"
YEARS = 40  # of own data: 2070 to 2109, after the last year that the encoder was pretrained on
SPLITS = {"train": '["2070-01", "2089-12"]', "val": '["2092-01", "2097-12"]', "test": '["2100-01", "2109-12"]'}
QUICK = ["--steps", "6", "--check_every", "3", "--warmup_steps", "2", "--seeds", "1", "--scratch_seeds", "1",
         "--untrained_seeds", "1", "--layers", "[-1]", "--random_seeds", "1", "--fractions", "[0.3]",
         "--label_draws", "1"]  # fmt: skip


def own_data(folder: Path) -> None:
    """Write mine.nc and labels.csv: a user's fields, and the index that is to be predicted."""
    data = open_source(
        "planet", years=YEARS, start="2070-01-01", seed=7, variables=["sst", "u10", "msl"], region=[-35, 35, 120, 290]
    ).load()
    data.attrs = {"title": "mine"}
    data.to_netcdf(folder / "mine.nc")
    box = data["sst"].sel(lat=slice(5, -5), lon=slice(190, 240)).mean(("lat", "lon"))
    index = box.groupby("time.month") - box.sel(time=slice("2070", "2089")).groupby("time.month").mean()
    frame = pd.DataFrame({"time": np.datetime_as_string(index["time"].values, "M"), "nino34": index.values})
    frame.to_csv(folder / "labels.csv", index=False)


def test_from_pull_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARTHSSL_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> str:
        assert main.main(list(words)) == 0
        return capsys.readouterr().out

    run("pull", str(REGISTRY), "--out", "base")
    assert "whole" in run("verify", "base")
    own_data(tmp_path)
    splits = [word for part, block in SPLITS.items() for word in (f"--splits.{part}", block)]
    run("prepare", "--source", "files", "--options.path", "mine.nc", *splits, "--splits.embargo_days", "730",
        "--statistics.scale", "variable", "--out", "mine")  # fmt: skip
    told = run("finetune", "--checkpoint", "base", "--store", "mine", "--labels", "labels.csv", "--target", "nino34",
               "--lead", "6", "--out", "tuned", *QUICK)  # fmt: skip
    for row in ("climatology", "damped persistence", "PCA [ridge]", "pretrained [linear probe]",
                "untrained [linear probe]", "same network from scratch", "pretrained, fine-tuned [full]"):  # fmt: skip
        assert row in told, row
    assert "difference (▲ better, ▼ worse, · undecided)" in told
    assert "whole" in run("verify", "tuned")
    with xr.open_dataset("mine.nc") as opened:
        data = opened.sel(time=slice("2108", "2109")).load()
    forecast = load_finetuned("tuned").predict(data)
    assert str(forecast["time"].values[-1])[:7] == "2110-06"  # six months after the last month at hand
    assert forecast.sizes == {"time": 13}
    assert load_encoder("tuned").embed(data).sizes["time"] == 13
    with xr.open_dataset("tuned/predictions.nc") as run_said:
        at = run_said.swap_dims(sample="time")["predicted"].sel(time="2109-06", target="nino34")
        np.testing.assert_allclose(forecast.sel(time="2109-06"), at, rtol=1e-4, atol=1e-4)


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

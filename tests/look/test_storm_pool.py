"""Storms for the simulation: tiles, their labels and features, what is refused; and the verb on a small planet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.cli.main import main
from earthssl.look import storm_pool as module
from earthssl.look.storm_pool import NO_DAY, storm_pool
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.sources.planet.recorded import recorded_planet
from earthssl.ssl.store.store import Store


def test_what_cannot_work_is_said(small_store: Path, small_run: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(EarthSSLError, match="expected a store of the synthetic planet"):
        storm_pool(Store(small_store), load_encoder(small_run), "planet", 34)
    command = ["active", str(small_store), "--checkpoint", str(small_run), "--out", str(tmp_path / "o"), "--simulate"]
    assert main([*command, "--tracks", "planet", "--target", "x"]) == 2
    assert "--tracks, or --labels and --target" in capsys.readouterr().err
    (tmp_path / "storms.csv").write_text("storm,time,lat,lon,wind_kt,basin,category\na,1981-01-01,10,150,50,WP,0\n")
    assert main([*command, "--tracks", str(tmp_path / "storms.csv")]) == 2
    assert "steps of 24 h at most" in capsys.readouterr().err
    assert main(command) == 2
    assert "expected --labels" in capsys.readouterr().err


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a store of daily storms and of an encoder of it, hardly trained."""
    from earthssl.ssl.fields.splits import SplitsConfig
    from earthssl.ssl.prepare.config import PrepareConfig
    from earthssl.ssl.prepare.prepare import prepare

    folder = tmp_path_factory.mktemp("storms")
    splits = SplitsConfig(("2000-01", "2000-12"), ("2001-02", "2001-05"), ("2001-07", "2001-12"), 28)
    options = {"years": 2, "start": "2000-01-01", "step": "6-hourly", "storms": 100, "variables": ["msl", "u850"],
               "region": [-45, 45, 0, 360]}  # fmt: skip
    prepare(PrepareConfig("planet", str(folder / "store"), splits, options))
    words = ["--encoder.size", "nano", "--encoder.window", "1", "--encoder.patch", "[1, 4, 4]", "--objectives",
             '{masking: {rebuild: 0.34, decoder_depth: 1, masks: [{kind: random, ratio: 0.6}]}}',
             "--training.steps", "4", "--training.batch_size", "4", "--training.warmup_steps", "1",
             "--training.val_every", "4", "--training.save_every", "4", "--licence", "CC0-1.0"]  # fmt: skip
    command = ["pretrain", "--store", str(folder / "store"), "--out", str(folder / "run")]
    assert main([*command, *words]) == 0
    return folder


@pytest.mark.slow
def test_labels_say_whether_a_centre_lies_in_the_tile(planet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, frozen = Store(planet / "store"), load_encoder(planet / "run")
    pool, name = storm_pool(store, frozen, "planet", 34)
    assert name == "storm ≥ 34 kt in tile"
    assert pool.unit == "fortnights"
    assert len(np.unique(pool.test_units)) >= 12
    places = int((pool.days >= NO_DAY).sum() / (pool.days.size - (pool.days >= NO_DAY).sum())) + 1
    assert len(pool.labels) == len(pool.features)
    assert 350 * places < len(pool.labels) <= 366 * places  # days from the first storm on
    table = recorded_planet(store.manifest["attributes"]).tracks()
    table = table[(table["wind_kt"] >= 34) & (table["lat"].abs() < 44)]
    days = pd.DatetimeIndex(table["time"])
    table = table[(days.hour == 0) & (days.year == 2000)]
    assert 0 < pool.labels.sum() <= len(table)
    assert pool.labels.sum() >= 0.9 * len(table)  # two in one tile are one
    when = (pool.days % NO_DAY)[pool.labels == 1]
    assert set(when.astype(int)) <= set(table["time"].to_numpy().astype("datetime64[D]").astype(int))
    monkeypatch.setattr(module, "MOST_TRAINING", 50 * places)
    assert len(storm_pool(store, frozen, "planet", 34)[0].labels) == 50 * places


@pytest.mark.slow
def test_the_verb_compares_choices_on_the_planets_storms(planet: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["active", str(planet / "store"), "--checkpoint", str(planet / "run"), "--tracks", "planet",
               "--simulate", "--out", str(tmp_path / "out"), "--seeds", "2", "--budget", "240"]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 seeds and test fortnights together" in said
    assert (tmp_path / "out" / "table.txt").read_text().strip() in said
    assert set(pd.read_csv(tmp_path / "out" / "curves.csv")["strategy"]) == {"random", "uncertain", "core", "both"}

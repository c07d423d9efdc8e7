"""Storms whose law is known, and settings for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.storms.best_tracks import tidy
from earthssl.downstream.tasks.rapid_intensification.config import RapidIntensificationConfig
from earthssl.downstream.tasks.rapid_intensification.models import TREES, Problem
from earthssl.downstream.tasks.rapid_intensification.samples import Predictors, parts_by_season, samples_of

SEASONS: dict[str, tuple[int, int]] = {"train": (2000, 2005), "val": (2006, 2008), "test": (2009, 2011)}
THRESHOLD = 15.0


@pytest.fixture(scope="session")
def tracks() -> pd.DataFrame:
    """Storms of 2000–2011 in two basins; each gains 1.5 + 3 h kt in 6 h with a hidden h of its own, and noise."""
    rng = np.random.default_rng(0)
    parts = []
    for number in range(240):
        year, basin = 2000 + number % 12, ("NA", "SI")[number // 12 % 2]
        hidden, records = rng.standard_normal(), 20
        gain = 1.5 + 3 * hidden + 3 * rng.standard_normal(records)
        south = basin == "SI"
        start = np.datetime64(f"{year}-{'02' if south else '08'}-01", "ns") + np.timedelta64(number // 24, "D")
        parts.append(pd.DataFrame({
            "storm": f"{year}-{number}", "basin": basin, "time": start + np.arange(records) * np.timedelta64(6, "h"),
            "lat": (-1 if south else 1) * (10 + 0.3 * np.arange(records)), "lon": 60.0 + rng.uniform(),
            "wind_kt": np.clip(rng.uniform(30, 80) + np.cumsum(gain), 15, 200), "category": 0, "over_water": True,
            "hidden": hidden,
        }))  # fmt: skip
    return tidy(pd.concat(parts, ignore_index=True))


@pytest.fixture
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the whole task, which are not about the trees."""
    monkeypatch.setitem(TREES, "max_iter", 15)


@pytest.fixture(scope="session")
def samples(tracks: pd.DataFrame) -> pd.DataFrame:
    return samples_of(tracks)


@pytest.fixture(scope="session")
def problem(samples: pd.DataFrame) -> Problem:
    basins = ["NA", "SI"]
    return Problem(samples, parts_by_season(samples, SEASONS), Predictors.of(samples, basins, {}), basins, THRESHOLD)


@pytest.fixture(scope="session")
def csv(tracks: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tracks") / "storms.csv"
    tracks.drop(columns="hidden").to_csv(file, index=False)
    return str(file)


@pytest.fixture(scope="session")
def config(csv: str) -> Callable[..., RapidIntensificationConfig]:
    """Settings on these storms: a folder, and what is to be different."""

    def made(out: Path, **more: Any) -> RapidIntensificationConfig:
        small = {"tracks": csv, "thresholds_kt": [THRESHOLD], "tree_seeds": 1, "draws": 1000, "fractions": []}
        return RapidIntensificationConfig(out=str(out), **SEASONS, **{**small, **more})

    return made

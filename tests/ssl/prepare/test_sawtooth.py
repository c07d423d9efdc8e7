"""prepare says that a mean by calendar month leaves a sawtooth in daily fields, and its remedy works when typed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.prepare.run import sawtooth
from earthssl.ssl.store.store import Store

DAYS = np.arange("1990-01-01", "1994-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
MONTHS = np.arange("1990-01", "1994-01", dtype="datetime64[M]").astype("datetime64[ns]")
MONTH = StatisticsConfig("month")


@pytest.mark.parametrize(
    ("times", "config", "typed"),
    [
        (DAYS, MONTH, "--statistics.climatology hour ("),
        (DAYS[::5], StatisticsConfig("month", 3), "--statistics.climatology hour ("),
        (DAYS, StatisticsConfig("month", 0), "--statistics.climatology hour --statistics.harmonics 4 ("),
        (DAYS[:365], MONTH, "--statistics.climatology hour --statistics.harmonics 1 ("),
        (DAYS[:90], MONTH, "--statistics.climatology hour and a training block of two years ("),
        (DAYS, StatisticsConfig("hour"), None),
        (DAYS, StatisticsConfig(), None),
        (MONTHS, MONTH, None),
        (MONTHS[::3], MONTH, None),
        (DAYS[:31], MONTH, None),  # one month: a store with made-up dates
    ],
)
def test_only_steps_shorter_than_a_month_are_warned_of(
    times: np.ndarray, config: StatisticsConfig, typed: str | None
) -> None:
    said = sawtooth(times, config)
    assert (typed in said) if typed else not said


def test_the_remedy_works_when_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    season = 280 + 10 * np.cos(2 * np.pi * np.arange(len(DAYS)) / 365.2425)
    values = np.broadcast_to(season[:, None, None], (len(DAYS), 4, 4)).astype(np.float32)
    coords = {"time": DAYS, "lat": [15.0, 5.0, -5.0, -15.0], "lon": [0.0, 10.0, 20.0, 30.0]}
    xr.Dataset({"t2m": (tuple(coords), values, {"units": "K"})}, coords).to_netcdf(tmp_path / "a.nc")
    config = tmp_path / "a.yaml"
    config.write_text(
        f"prepare:\n  source: files\n  options: {{path: {tmp_path / 'a.nc'}}}\n"
        "  splits: {train: [1990, 1991], val: [1992-02, 1992-12], test: [1993-02, 1993-12], embargo_days: 20}\n"
        "  statistics: {climatology: month, scale: variable}\n"
    )
    spread, command = [], ["prepare", "--config", str(config), "--out", str(tmp_path / "one")]
    for remedy in ("--statistics.climatology hour", ""):
        assert main(command) == 0
        spread.append(np.std(_anomalies(Store(command[4]))))
        told = re.findall(r"another --out with (.*) \(earthssl run: (.*)\)$", capsys.readouterr().err, re.MULTILINE)
        assert told == ([(remedy, remedy.replace("--", "--prepare."))] if remedy else [])
        command = [*command[:4], str(tmp_path / "two"), *remedy.split()]
    assert spread[0] > 1.0 > 20 * spread[1]  # K


def _anomalies(store: Store) -> np.ndarray:
    """What is left of the fields without their climatology, in their units."""
    times = store.times.astype("datetime64[ns]")
    fields = store.dataset(["t2m"])["t2m"].to_numpy()[:, None]
    return np.asarray(fields - store.statistics.climatology(times))

"""`earthssl check`: what it prints of clean and of odd files, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.prepare.check import check_source


def made(folder: Path, name: str = "a.nc", **changes: float) -> Path:
    rng = np.random.default_rng(0)
    values = (280 + rng.normal(0, 3, (36, 5, 8))).astype(np.float32)
    for step, value in changes.items():
        values[int(step[1:])] = value
    coords = {"time": pd.date_range("1990-01-01", periods=36, freq="MS"), "lat": np.arange(60, -61, -30.0),
              "lon": np.arange(0, 360, 45.0)}  # fmt: skip
    ds = xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": "K"})}, coords)
    ds.to_netcdf(folder / name)
    return folder / name


def test_a_clean_file(tmp_path, capsys):
    assert main(["check", str(made(tmp_path)), "--out", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["t2m", "K", "36"]
    assert lines[2] == "nothing odd"
    assert "<td>t2m</td>" in (tmp_path / "page.html").read_text()


def test_what_is_odd_is_said(tmp_path, capsys):
    assert main(["check", str(made(tmp_path, s4=271.5))]) == 0
    out = capsys.readouterr().out
    assert "1 of 36 steps (at 1990-05-01) with one value everywhere (271.5 K)" in out
    assert "1 of 1 variables hold something odd" in out


def test_what_is_impossible_is_refused_and_the_remedy_works(tmp_path, capsys):
    path = str(made(tmp_path, s4=-9999.0))
    assert main(["check", path]) == 2
    said = capsys.readouterr().err
    assert "'t2m' within 150…350 K, got -9999 at 1990-05-01 00:00:00, 60°N 0°E" in said
    assert "missing: {t2m: -9999}" in said
    assert main(["check", path, "--options.missing", "{t2m: -9999}"]) == 0
    assert "1 of 36 steps (at 1990-05-01) without any value" in capsys.readouterr().out


def test_data_read_piece_by_piece_are_looked_at_whole(tmp_path):
    a, b = made(tmp_path), made(tmp_path, "b.nc", s17=-9999.0)
    later = xr.open_dataset(b)
    later.assign_coords(time=later.time + np.timedelta64(1096, "D")).to_netcdf(tmp_path / "c.nc")
    paths = [str(a), str(tmp_path / "c.nc")]
    with pytest.raises(EarthSSLError, match=r"c\.nc: expected 't2m' within .* got -9999 at 1994-06-0"):
        check_source("files", {"path": paths, "eager_bytes": 1})


def test_no_file_is_said(capsys):
    assert main(["check"]) == 2
    assert "expected files" in capsys.readouterr().err

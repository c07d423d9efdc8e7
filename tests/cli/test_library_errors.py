"""An exception of a library ends in one line and status 2; with --traceback it is raised."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import earthssl.cli.main as module
import numpy as np
import pytest
import torch
import xarray as xr
from earthssl.cli.main import VERBS, main
from earthssl.ssl.inference.load import load_encoder

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "data" / "checkpoint-v1"
ERRORS = [
    OSError("NetCDF: HDF error"), KeyError("time"), ValueError("conflicting sizes\nfor dimension 'time'"),
    RuntimeError("CUDA out of memory"), TypeError("unhashable"), IndexError("list index"), ArithmeticError(),
    MemoryError(), NotImplementedError("object store"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    AttributeError("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_says_every_error_in_one_line(
    verb: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(module, "_run", fails)
    assert main([verb]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"earthssl {verb}: {type(error).__name__} from ")
    assert "--traceback" in lines[0]
    with pytest.raises(type(error)):
        main([verb, "--traceback"])


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["embed", str(SMALL), "data.nc"], "xarray.open_dataset"),
        (["verify", str(SMALL)], "torch.nn.Module.load_state_dict"),
        (["card", str(SMALL)], "json.loads"),
        (["export", str(SMALL), "--kind", "torch", "--out", "e.pt2"], "torch.export.export"),
    ],
)
@pytest.mark.parametrize("kind", [OSError, KeyError, RuntimeError])
def test_an_error_inside_a_library_does_not_reach_the_user(
    words: list[str], place: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(*_: Any, **__: Any) -> None:
        raise kind("from deep inside")

    monkeypatch.chdir(tmp_path)
    xr.Dataset({"sst": ("time", [1.0])}).to_netcdf("data.nc")
    monkeypatch.setattr(place, fails)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "Traceback" not in said


def test_features_do_not_depend_on_what_else_the_process_has_set() -> None:
    """Another default type, or an encoder left in training."""
    record = load_encoder(SMALL).record
    times = np.arange("1930-01", "1931-01", dtype="datetime64[M]").astype("datetime64[ns]")
    fields = record.statistics.climatology(times)
    arrays = {
        name: (("time", "lat", "lon"), fields[:, k], {"units": record.units[k]})
        for k, name in enumerate(record.variables)
    }
    data = xr.Dataset(arrays, {"time": times, "lat": record.grid.lat, "lon": record.grid.lon})
    expected = load_encoder(SMALL).embed(data)
    torch.set_default_dtype(torch.float64)
    try:
        frozen = load_encoder(SMALL)
        np.testing.assert_array_equal(frozen.embed(data), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    frozen.encoder.train()
    np.testing.assert_array_equal(frozen.embed(data), expected)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_file_managers_leave_is_no_damage(name: str, tmp_path: Path) -> None:
    shutil.copytree(SMALL, tmp_path / "c")
    (tmp_path / "c" / name).write_bytes(b"x")
    assert load_encoder(tmp_path / "c").record.variables


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("words", [["list", "registry"], ["card", "registry/planet-tropics"]])
def test_a_terminal_without_unicode_shows_what_it_can(
    encoding: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 0, and "?" for what it lacks: ASCII lacks the × of every grid."""
    monkeypatch.chdir(ROOT)
    told = io.BytesIO()
    with io.TextIOWrapper(told, encoding, "strict", write_through=True) as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(words) == 0
        shown = told.getvalue().decode(encoding)
    assert ("12?30" if encoding == "ascii" else "12×30") in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_process_on_such_a_terminal_helps(encoding: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "earthssl", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(encoding)
    assert done.stdout.decode(encoding)

"""The verbs embed and export on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.inference.load import load_encoder

SMALL = str(Path(__file__).resolve().parents[1] / "data" / "checkpoint-v1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A year and a half of the small checkpoint's climatology; sst says no units."""
    record = load_encoder(SMALL).record
    times = np.arange("1930-01", "1931-07", dtype="datetime64[M]").astype("datetime64[ns]")
    fields = record.statistics.climatology(times)
    arrays = {name: (("time", "lat", "lon"), fields[:, k]) for k, name in enumerate(record.variables)}
    ds = xr.Dataset(arrays, {"time": times, "lat": record.grid.lat, "lon": record.grid.lon})
    ds["u10"].attrs["units"] = "m s-1"
    ds.to_netcdf(tmp_path / "data.nc")
    return tmp_path / "data.nc"


def test_embed_takes_layers_and_units(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several layers to Zarr; a file without units is refused in one line until they are said."""
    out = str(file.with_name("f.zarr"))
    words = ["embed", SMALL, str(file), "--out", out, "--layer=0,-1", "--pooling", "last"]
    assert main(words) == 2
    assert "units of 'sst'" in capsys.readouterr().err
    assert main([*words, "--units", "sst=K"]) == 0
    assert capsys.readouterr().out.strip() == out
    with xr.open_dataarray(out, engine="zarr") as found:
        assert found.dims == ("time", "layer", "feature")
        assert found["layer"].values.tolist() == [0, 1]
        with xr.open_dataset(file) as ds:
            expected = load_encoder(SMALL).embed(ds, "last", [0, 1], units={"sst": "K"})
        xr.testing.assert_equal(found.load(), expected)


def test_embed_masks_what_it_refuses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The value, in the file's units, as it is printed; written as NAME=VALUE too."""
    with xr.open_dataset(file) as ds:
        ds = ds.load()
    ds["sst"].values[5, :2] = -9999 + 273.15
    ds["sst"] = (ds["sst"] - 273.15).assign_attrs(units="degC")
    ds.to_netcdf(file.with_name("bad.nc"))
    words = ["embed", SMALL, str(file.with_name("bad.nc"))]
    assert main([*words, "--out", str(file.with_name("a.nc"))]) == 2
    assert "missing: {sst: -9999}" in capsys.readouterr().err
    for name, option in (("a.nc", "{sst: -9999}"), ("b.nc", "sst=-9999")):
        assert main([*words, "--out", str(file.with_name(name)), "--missing", option]) == 0
    with xr.open_dataarray(file.with_name("a.nc")) as a, xr.open_dataarray(file.with_name("b.nc")) as b:
        xr.testing.assert_equal(a, b)
        assert not bool(a.isnull().any())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed"], "expected a checkpoint"),
        (["embed", SMALL], "expected data to embed"),
        (["embed", SMALL, "absent.nc"], "no such file"),
        (["embed", SMALL, "absent.nc", "--layer=a"], "--layer: expected whole numbers"),
        (["embed", SMALL, "absent.nc", "--units", "K"], "expected NAME=VALUE"),
        (["embed", SMALL, "absent.nc", "--base", "1982"], "--base: expected FIRST:LAST"),
        (["embed", SMALL, "absent.nc", "--out", "f.csv"], "ends in .nc"),
        (["embed", SMALL, "absent.nc", "--lair", "1"], "unknown option '--lair'"),
        (["export", SMALL, "--kind", "onx"], "Did you mean 'onnx'"),
        (["export", SMALL, "--layer=0,1"], "one block to export"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what was expected."""
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]

"""Variables of several sources side by side: each comes out as it is alone; what cannot meet is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source


def made(name: str, start: str, months: int, step: float = 10.0, day: int = 0, seed: int = 0) -> xr.Dataset:
    lat, lon = np.arange(90 - step / 2, -90, -step), np.arange(step / 2, 360, step)
    times = np.arange(np.datetime64(start, "M"), np.datetime64(start, "M") + months).astype("datetime64[D]") + day
    base, units = {"sst": (290.0, "K"), "ssh": (0.0, "m"), "msl": (1e5, "Pa")}[name]
    values = base + np.random.default_rng(seed).normal(size=(months, len(lat), len(lon)))
    arrays = {name: (("time", "lat", "lon"), values.astype(np.float32), {"units": units})}
    return xr.Dataset(arrays, {"time": times.astype("datetime64[ns]"), "lat": lat, "lon": lon},
                      {"title": f"made up {name}", "license": f"terms of {name}"})  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, Any]]:
    """sst of 36 months stamped on the 1st, ssh of the last 24 stamped on the 15th and twice as fine."""
    made("sst", "2000-01", 36).to_netcdf(tmp_path / "sst.nc")
    made("ssh", "2001-01", 24, step=5.0, day=14, seed=1).to_netcdf(tmp_path / "ssh.nc")
    return [
        {"path": str(tmp_path / "sst.nc")},
        {"path": str(tmp_path / "ssh.nc"), "variables": ["ssh"], "resolution": 10.0},
    ]


def test_each_part_comes_out_as_it_is_alone(files: list[dict[str, Any]]) -> None:
    both = open_source("combined", parts=files, times="any")
    alone = [open_source("files", **part) for part in files]
    assert both["time"].values.astype("datetime64[D]")[[0, -1]].astype(str).tolist() == ["2000-01-01", "2002-12-01"]
    np.testing.assert_array_equal(both["sst"], alone[0]["sst"])
    np.testing.assert_array_equal(both["ssh"][12:], alone[1]["ssh"])  # by the month, whatever the day
    assert np.isnan(both["ssh"][:12]).all()
    assert both.attrs["licence"] == "terms of sst; terms of ssh"
    assert both["ssh"].attrs == alone[1]["ssh"].attrs != {}


def test_months_are_not_paired_with_single_days(files: list[dict[str, Any]], tmp_path: Path) -> None:
    days = np.arange("2001-01-01", "2001-03-01", dtype="datetime64[D]").astype("datetime64[ns]")
    made("ssh", "2001-01", len(days)).assign_coords(time=days).to_netcdf(tmp_path / "daily.nc")
    for times in ("common", "any"):
        with pytest.raises(
            EarthSSLError, match="steps of one length, got sst every 1 months; ssh every 1 days; average"
        ):
            open_source("combined", parts=[files[0], {"path": str(tmp_path / "daily.nc")}], times=times)


def test_common_steps_only(files: list[dict[str, Any]]) -> None:
    both = open_source("combined", parts=files)
    assert both.sizes["time"] == 24
    assert np.isfinite(both["ssh"]).all()


def test_a_part_may_say_otherwise(files: list[dict[str, Any]]) -> None:
    files[0]["resolution"] = 30.0
    with pytest.raises(EarthSSLError, match="expected part 2 on the grid of part 1"):
        open_source("combined", parts=files, resolution=20.0)


def bad(files: list[dict[str, Any]], tmp_path: Path) -> dict[str, tuple[dict[str, Any], str]]:
    made("ssh", "1950-01", 24).to_netcdf(tmp_path / "old.nc")
    made("sst", "2000-01", 36, seed=3).to_netcdf(tmp_path / "again.nc")
    old, again = ({"path": str(tmp_path / f"{name}.nc")} for name in ("old", "again"))
    return {
        "grids": ({"parts": [files[0], {**files[1], "resolution": 20.0}]}, "option resolution or grid"),
        "one": ({"parts": files[:1]}, "list of two or more sources"),
        "none": ({"parts": []}, "list of two or more sources"),
        "no mapping": ({"parts": ["a.nc", "b.nc"]}, "list of two or more sources"),
        "twice": ({"parts": [files[0], again]}, "sst in several"),
        "no steps": ({"parts": [files[0], old]}, "got none .*ssh 1950-01-01"),
        "times": ({"parts": files, "times": "all"}, "option times: expected one of common, any"),
        "source": ({"parts": [files[0], {"source": "planet"}]}, "part 2: source: expected one of files"),
        "option": ({"parts": files, "resolutoin": 5.0}, "Did you mean 'resolution'"),
        "own option": ({"parts": [files[0], {**files[1], "varables": ["ssh"]}]}, "part 2: .*Did you mean 'variables'"),
        "variable": ({"parts": [files[0], {**files[1], "variables": ["t2m"]}]}, "part 2: .*ssh.nc"),
        "absent": ({"parts": [files[0], {"path": "nowhere.nc"}]}, "part 2: .*no such file"),
    }  # fmt: skip


def test_bad_parts_are_refused_in_a_line(files: list[dict[str, Any]], tmp_path: Path) -> None:
    for name, (options, message) in bad(files, tmp_path).items():
        with pytest.raises(EarthSSLError, match=message) as caught:
            open_source("combined", **options)
        assert "\n" not in str(caught.value), name


def test_a_store_of_both_knows_where_one_is_missing(
    files: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From paths beside the config; a changed file is noticed by a second `prepare`, as with one file."""
    monkeypatch.chdir(tmp_path)
    parts = [{**part, "path": Path(part["path"]).name} for part in files]
    splits = {
        "train": ["2000-01", "2001-12"],
        "val": ["2002-03", "2002-06"],
        "test": ["2002-09", "2002-12"],
        "embargo_days": 32,
    }
    config = {"source": "combined", "options": {"parts": parts, "times": "any"}, "splits": splits}
    Path("run.yaml").write_text(yaml.safe_dump({"prepare": config}))
    assert main(["prepare", "--config", "run.yaml", "--out", "store"]) == 0
    assert "ssh: 12 of 36 steps" in capsys.readouterr().err
    made("ssh", "2001-01", 24, step=5.0, day=14, seed=2).to_netcdf("ssh.nc")
    assert main(["prepare", "--config", "run.yaml", "--out", "store"]) == 2
    assert capsys.readouterr().err.count("\n") == 1

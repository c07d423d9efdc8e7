"""Stores and labels on a finer grid than the checkpoint's, all the way to what the tuned encoder predicts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.finetune.config import FinetuningConfig
from earthssl.downstream.finetune.finetune import finetune
from earthssl.downstream.finetune.own_grid import fields_of, labels_onto, on_grid_of_checkpoint
from earthssl.downstream.finetune.predictor import load_finetuned
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.ssl.checkpoint.read import read_record
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import sha256
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store
from safetensors.numpy import load_file, save_file

FAST: dict[str, Any] = {
    "steps": 4, "batch_size": 16, "warmup_steps": 2, "check_every": 2, "seeds": 1, "scratch_seeds": 0,
    "untrained_seeds": 0, "layers": [-1], "components": [5], "unit": "month", "patience": 0,
    "random_seeds": 0, "fractions": [], "mode": "head",
}  # fmt: skip


def refined(ds: xr.Dataset) -> xr.Dataset:
    """The same fields in cells of 15°, each with the value of the cell of 30° it lies in (the poles' are caps)."""
    lat, lon = np.arange(82.5, -90, -15.0), np.arange(7.5, 360, 15.0)
    row, column = ((105 - lat) // 30).astype(int), ((lon + 15) % 360 // 30).astype(int)
    made = ds.isel(lat=xr.DataArray(row, dims="lat"), lon=xr.DataArray(column, dims="lon"))
    return made.assign_coords(lat=lat, lon=lon)


def stored(data: xr.Dataset, folder: Path, **more: Any) -> Path:
    """Prepare data with the blocks of the small store."""
    folder.mkdir(exist_ok=True)
    data.to_netcdf(folder / "data.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(folder / "data.nc"), **more}
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, chunk_mb=0.05))


@pytest.fixture(scope="module")
def fine(small_data: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small data on a grid of 15°."""
    return stored(refined(small_data), tmp_path_factory.mktemp("fine"))


def config(run: Path, store: Path, out: Path, **more: Any) -> FinetuningConfig:
    usual = {"checkpoint": str(run), "store": str(store), "labels": str(out.with_name("labels.nc")), "target": "wind"}
    return FinetuningConfig(**{**usual, "out": str(out), **FAST, **more})


def test_the_fields_of_a_store_come_lazily(small_store: Path) -> None:
    """The same as all at once."""
    store = Store(small_store)
    lazy = fields_of(store)
    assert len(lazy["sst"].chunks[0]) > 1
    xr.testing.assert_allclose(lazy.compute(), store.dataset(), rtol=1e-6)


def test_a_finer_store_becomes_one_on_the_grid_of_the_checkpoint(
    fine: Path, small_run: Path, small_store: Path, tmp_path: Path
) -> None:
    """With the numbers and blocks of the checkpoint's own store; made once, and never taken for another."""
    own = config(small_run, fine, tmp_path / "out")
    made = on_grid_of_checkpoint(own, Store(fine))
    made.verify()
    assert made.path == tmp_path / "out.store"
    assert made.splits == Store(small_store).splits
    np.testing.assert_allclose(made.read_all(), Store(small_store).read_all(), atol=1e-4)
    assert made.manifest["attributes"]["made_of"] == Store(fine).fingerprint
    assert on_grid_of_checkpoint(own, Store(fine)).manifest["created"] == made.manifest["created"]
    assert "0 of 72 of sst" in made.manifest["attributes"]["regridded"]
    with pytest.raises(EarthSSLError, match="another checkpoint, least_valid or base; remove it"):
        on_grid_of_checkpoint(replace(own, least_valid=1.0), Store(fine))
    copy = tmp_path / "checkpoint"
    shutil.copytree(small_run / "checkpoint", copy)
    other = replace(own, checkpoint=str(copy))
    assert on_grid_of_checkpoint(other, Store(fine)).manifest["created"] == made.manifest["created"]
    statistics = load_file(copy / "statistics.safetensors")  # the climatology of another training
    save_file({name: values + 1 for name, values in statistics.items()}, copy / "statistics.safetensors")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["sha256"]["statistics.safetensors"] = sha256(copy / "statistics.safetensors")
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(EarthSSLError, match="another checkpoint, least_valid or base; remove it"):
        on_grid_of_checkpoint(other, Store(fine))


@pytest.mark.slow
def test_a_finer_store_is_tuned_to_the_same_numbers(
    fine: Path, small_run: Path, small_store: Path, small_data: xr.Dataset, tmp_path: Path
) -> None:
    """As the checkpoint's own store, with labels that are fields too; what is saved takes finer data."""
    wind = (small_data["u10"] * 2 + 1).rename("wind").assign_attrs(units="m s-1").to_dataset()
    wind.to_netcdf(tmp_path / "labels.nc")
    own = finetune(config(small_run, small_store, tmp_path / "own", kind="field"))
    refined(wind).to_netcdf(tmp_path / "labels.nc")
    other = finetune(config(small_run, fine, tmp_path / "other", kind="field"))
    text = (other / "table.txt").read_text(encoding="utf-8")
    assert "Fields: brought from 12×24" in text
    assert "Labels: brought from 12×24" in text
    assert "brought from" not in (own / "table.txt").read_text(encoding="utf-8")
    with xr.open_dataset(own / "predictions.nc") as a, xr.open_dataset(other / "predictions.nc") as b:
        xr.testing.assert_allclose(a.load(), b.load(), atol=2e-3)
    years = small_data.sel(time=slice("2007", "2008"))
    with pytest.warns(UserWarning, match="brought from 12×24"):
        found = load_finetuned(other).predict(refined(years))
    assert "brought from 12×24" in found.attrs["regridded"]
    np.testing.assert_allclose(found.values, load_finetuned(own).predict(years).values, atol=2e-3)


def test_which_stores_are_left_as_they_are(fine: Path, small_run: Path, small_store: Path, tmp_path: Path) -> None:
    """On the checkpoint's grid, and where it is asked for; a word that means nothing is refused."""
    for store, more in ((small_store, {}), (fine, {"grid": "store"})):
        opened = Store(store)
        assert on_grid_of_checkpoint(config(small_run, store, tmp_path / "out", **more), opened) is opened
    assert not list(tmp_path.iterdir())
    with pytest.raises(EarthSSLError, match=r"finetune.grid: .* checkpoint, store, got 'stor'\. Did you mean"):
        config(small_run, fine, tmp_path / "out", grid="stor")


def test_a_coarser_store_is_refused(small_data: xr.Dataset, small_run: Path, tmp_path: Path) -> None:
    """With the reason and both ways out."""
    coarse = stored(small_data.isel(lat=slice(0, None, 2), lon=slice(0, None, 2)), tmp_path / "coarse")
    with pytest.raises(
        EarthSSLError,
        match=r"does not fit the checkpoint: grid: expected cells no larger.*got 60°×60°"
        r".*finetune\.grid: store",
    ):
        on_grid_of_checkpoint(config(small_run, coarse, tmp_path / "out"), Store(coarse))


@pytest.mark.slow
def test_a_store_of_anomalies_for_an_encoder_of_full_fields(
    small_data: xr.Dataset, small_run: Path, small_store: Path, tmp_path: Path
) -> None:
    """Normalised, both are the same departures."""
    departures = small_data["sst"].groupby("time.month") - small_data["sst"].groupby("time.month").mean()
    departures = departures.drop_vars("month").astype(np.float32).assign_attrs(units="K")
    store = stored(small_data.drop_vars("sst").assign(ssta=departures), tmp_path / "anomalies")
    made = on_grid_of_checkpoint(config(small_run, store, tmp_path / "out"), Store(store))
    own = Store(small_store)
    assert set(made.variables) == {"sst", "u10", "v10"}
    k = made.variables.index("sst")
    np.testing.assert_allclose(made.read_all()[:, k], own.read_all()[:, own.variables.index("sst")], atol=2e-3)
    assert "'sst' was made of 'ssta'" in made.manifest["attributes"]["anomalies"]


def test_which_base_a_store_may_have(small_data: xr.Dataset, fine: Path, small_run: Path, tmp_path: Path) -> None:
    """One that something uses, of no year that is to be predicted, of enough years; a share is one."""
    with pytest.raises(EarthSSLError, match=r"finetune\.base: .* it is tuned on as it is; leave it out"):
        on_grid_of_checkpoint(config(small_run, fine, tmp_path / "out", base=("1981", "2000")), Store(fine))
    store = Store(stored(small_data.rename(sst="ssta"), tmp_path / "anomalies", check_range=False))
    for base, match in (
        (("1990", "2002"), r"outside of validation and test, got 1990-01-01 … 2002-12-31 and val 2002-01-01"),
        (("2006-06", "2008"), r"outside of validation and test, got 2006-06-01 … 2008-12-31 and test 2007-01-01"),
        ((1990, 1995), r"base: expected 10 years of each calendar month"),
    ):
        with pytest.raises(EarthSSLError, match=match):
            on_grid_of_checkpoint(config(small_run, store.path, tmp_path / "out", base=base), store)
    made = on_grid_of_checkpoint(config(small_run, store.path, tmp_path / "out", base=("1985", "1999")), store)
    assert "monthly means over 1985-01 … 1999-12" in made.manifest["attributes"]["anomalies"]
    with pytest.raises(EarthSSLError, match=r"finetune\.least_valid: expected least_valid in \(0, 1\], got 0"):
        config(small_run, fine, tmp_path / "out", least_valid=0.0)


def test_a_store_prepared_on_the_grid_of_a_checkpoint(small_data: xr.Dataset, small_run: Path, tmp_path: Path) -> None:
    """The option grid, of a run and of a store; it stands alone; what has no grid is refused."""
    a = Store(stored(refined(small_data), tmp_path / "a", grid=str(small_run)))
    assert a.grid.same_as(read_record(small_run / "checkpoint").grid)
    assert "brought from 12×24" in a.manifest["attributes"]["regridded"]
    np.testing.assert_allclose(a.dataset()["u10"].values, small_data["u10"].values, atol=1e-4)
    b = Store(stored(refined(small_data), tmp_path / "b", grid=str(a.path)))
    np.testing.assert_array_equal(a.read_all(), b.read_all())
    for more, match in (
        ({"grid": str(tmp_path / "absent")}, "option grid: expected the folder of a checkpoint"),
        ({"grid": str(small_run), "coarsen": 2}, "no coarsen, resolution or region beside it"),
        ({"grid": str(tmp_path / "a.json")}, "to hold `grid` with `lat` and `lon`"),
    ):
        (tmp_path / "a.json").write_text("{}")
        with pytest.raises(EarthSSLError, match=match):
            stored(small_data, tmp_path / "c", **more)


def eastward(data: xr.Dataset) -> xr.Dataset:
    """The rows that are no caps, cells from 0°E on, each of which four cells of 15° fill."""
    return data.isel(lat=slice(1, -1)).assign_coords(lon=data["lon"] + 15)


def in_four(data: xr.Dataset) -> xr.Dataset:
    """u10 in cells of 15°: half of it in the south of each cell of 30°, as rain in mm."""
    own = eastward(data)["u10"].rename("rain").assign_attrs(units="mm")
    made = own.isel(lat=np.repeat(np.arange(5), 2), lon=np.repeat(np.arange(12), 2))
    made = made.assign_coords(lat=np.arange(67.5, -75, -15.0), lon=np.arange(7.5, 360, 15.0))
    return (made * np.tile([1.0, 0.5], 5)[:, None]).assign_attrs(units="mm").rename("rain").to_dataset()


def test_finer_labels_stay_on_their_own_cells_where_asked(small_data: xr.Dataset, tmp_path: Path) -> None:
    file, own = tmp_path / "labels.nc", eastward(small_data)
    in_four(small_data).to_netcdf(file)
    given = read_labels(str(file), ["rain"], "field", time="time", missing="refuse")
    grid = LatLonGrid(own["lat"].values, own["lon"].values)
    south = LatLonGrid(grid.lat[1:], grid.lon)
    labels = labels_onto(given, south, own=True)
    assert labels.grid is not None
    assert labels.grid.shape == labels.values.shape[1:] == (8, 24)
    assert labels.regridded == "on their own 8×24 cells, 2×2 in each of the store's"
    np.testing.assert_array_equal(labels.values[:, ::2, ::2], own["u10"].values[:, 1:].astype(np.float32))
    with pytest.raises(EarthSSLError, match="the grids do not nest"):
        labels_onto(given, LatLonGrid(grid.lat, grid.lon[1:-1] + 5), own=True)
    with pytest.raises(EarthSSLError, match="expected labels that cover the store's cells, 0° to 360° of longitude"):
        labels_onto(replace(labels, grid=LatLonGrid(labels.grid.lat, labels.grid.lon - 5)), south, own=True)
    with pytest.raises(EarthSSLError, match="label_grid: expected store for kind regression, got own"):
        FinetuningConfig(checkpoint="a", store="b", labels="c", target="d", out="e", label_grid="own")


@pytest.mark.slow
def test_a_network_on_finer_labels_makes_the_round_trip(
    small_data: xr.Dataset, small_run: Path, tmp_path: Path
) -> None:
    """From labels on cells of 15° beside a store of 30° to predictions on those cells, in the run and after it."""
    in_four(small_data).to_netcdf(tmp_path / "labels.nc")
    store = stored(eastward(small_data), tmp_path / "own", variables=["sst", "u10", "v10"])
    settings = {**FAST, "checkpoint": str(small_run), "store": str(store), "labels": str(tmp_path / "labels.nc"),
                "target": "rain", "kind": "field", "grid": "store", "label_grid": "own"}  # fmt: skip
    folder = finetune(FinetuningConfig(out=str(tmp_path / "out"), **settings))
    tuned = load_finetuned(folder)
    assert tuned.grid.shape == (10, 24)
    again = tuned.predict(eastward(small_data))
    with xr.open_dataset(folder / "predictions.nc") as run:
        np.testing.assert_allclose(run["lat"], np.arange(67.5, -75, -15.0))
        np.testing.assert_allclose(again.sel(time=run["time"]), run["predicted"], atol=1e-4)
    skill = pd.read_csv(folder / "scores.csv").query("metric == 'skill'").set_index("row")["value"]
    assert skill["raw window [ridge]"] > 0.98  # each cell is a linear function of the patch it lies in
    verify(folder / "checkpoint")
    record = json.loads((folder / "checkpoint" / "record.json").read_text())
    assert record["task"]["grid"]["lon"][0] == 7.5


def test_labels_of_a_part_and_coarser_ones(small_data: xr.Dataset, tmp_path: Path) -> None:
    """Cells that labels do not reach are without one; larger cells are refused, and labels that lie elsewhere."""
    file, grid = tmp_path / "labels.nc", LatLonGrid(small_data["lat"].values, small_data["lon"].values)
    wind = small_data["u10"].rename("wind").to_dataset()
    refined(wind).sel(lat=slice(60, -60)).to_netcdf(file)
    labels = labels_onto(read_labels(str(file), ["wind"], "field", time="time", missing="refuse"), grid)
    np.testing.assert_allclose(labels.values[:, 2:5], small_data["u10"].values[:, 2:5], atol=1e-5)
    assert np.isnan(labels.values[:, [0, 6]]).all()
    wind.isel(lat=slice(0, None, 2), lon=slice(0, None, 2)).to_netcdf(tmp_path / "coarse.nc")
    with pytest.raises(EarthSSLError, match=r"no larger than those of the store \(30°×30°\), got 60°×60°"):
        labels_onto(read_labels(str(tmp_path / "coarse.nc"), ["wind"], "field", time="time", missing="refuse"), grid)
    south = LatLonGrid(grid.lat[5:], grid.lon)
    north = read_labels(str(file), ["wind"], "field", time="time", missing="refuse")
    assert north.grid is not None
    with pytest.raises(EarthSSLError, match="expected fields that reach into the store's"):
        labels_onto(
            replace(north, values=north.values[:, :3], grid=LatLonGrid(north.grid.lat[:3], north.grid.lon)), south
        )

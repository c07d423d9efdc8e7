"""Data on a grid of their own through an encoder: finer, shifted, coarser, of a region; anomalies for full fields."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.checkpoint.record import Record
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.anomalies import as_trained, counterparts, period
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.screening import screen
from earthssl.ssl.inference.sklearn_transformer import EncoderTransformer
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.regrid import onto
from sklearn.base import clone


@pytest.fixture(scope="module")
def frozen(small_run: Path) -> FrozenEncoder:
    """The encoder of the small run."""
    return load_encoder(small_run / "checkpoint")


@pytest.fixture
def two_years(small_data: xr.Dataset) -> xr.Dataset:
    """24 months of the small data."""
    return small_data.sel(time=slice("2007", "2008"))


@contextmanager
def heard(*texts: str) -> Iterator[None]:
    """Expect exactly these warnings, in this order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(one.message) for one in caught if one.category is UserWarning]
    assert len(said) == len(texts), said
    for text, own in zip(texts, said, strict=True):
        assert text in own


def refined(ds: xr.Dataset) -> xr.Dataset:
    """The same field in cells of 5°, each with the value of the cell it lies in, south to north, −180…180."""
    lat, lon = np.arange(-87.5, 90, 5.0), np.arange(-177.5, 180, 5.0)
    row, column = ((105 - lat) // 30).astype(int), ((lon + 15) % 360 // 30).astype(int)
    made = ds.isel(lat=xr.DataArray(row, dims="lat"), lon=xr.DataArray(column, dims="lon"))
    return made.assign_coords(lat=lat, lon=lon)


def test_a_finer_grid_gives_the_features_of_the_checkpoints_own(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Means over cells that are all alike are the cells: by embed, lazily, and as a step of scikit-learn."""
    own = frozen.embed(two_years)
    fine = refined(two_years)
    told = "brought from 36×72, -87.5…87.5°N, 2.5…357.5°E (5°×5°) to the grid of the checkpoint"
    with heard(told):
        found = frozen.embed(fine)
    np.testing.assert_allclose(found.values, own.values, atol=1e-5)
    said = found.attrs["regridded"]
    assert "cells with values on less than 50 % of their area are missing" in said
    assert "in the 5 steps looked at: 0 of 72 of sst, 0 of 84 of u10, 0 of 84 of v10" in said
    assert "regridded" not in own.attrs
    with heard(told):
        lazy = frozen.embed(fine.chunk(time=7))
    assert lazy.chunks is not None
    np.testing.assert_allclose(lazy.values, found.values, atol=1e-6)
    with heard(told, told):
        table = EncoderTransformer(frozen).fit_transform(fine)
    np.testing.assert_allclose(table, found.values, atol=1e-6)


def test_a_shifted_grid_is_averaged(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """By half a cell: as the data brought there by hand; a share of area can be asked for."""
    shifted = two_years.assign_coords(lon=two_years["lon"] + 15.0)
    for share in (0.5, 1.0):
        by_hand, _ = onto(shifted, frozen.record.grid, "x", share)
        with pytest.warns(UserWarning, match="brought from"):
            found = frozen.embed(shifted, least_valid=share)
        np.testing.assert_array_equal(found.values, frozen.embed(by_hand).values)
    assert by_hand["sst"].isnull().sum() > two_years["sst"].isnull().sum()
    assert "less than 100 % of their area" in found.attrs["regridded"]


def test_what_cannot_be_brought_is_refused(
    frozen: FrozenEncoder, two_years: xr.Dataset, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Larger cells and a region, in one line and status 2, with what to do; nothing is written."""
    coarse = two_years.isel(lat=slice(0, None, 2), lon=slice(0, None, 2))
    with pytest.raises(EarthSSLError, match=r"do not fit the checkpoint: grid: .*\(30°×30°\), got 60°×60°"):
        frozen.embed(coarse)
    coarse.to_netcdf(tmp_path / "coarse.nc")
    words = ["embed", str(small_run), str(tmp_path / "coarse.nc"), "--out", str(tmp_path / "f.nc")]
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "take the data on a finer grid, or a checkpoint pretrained on one as coarse" in lines[0]
    assert not (tmp_path / "f.nc").exists()
    region = refined(two_years).sel(lat=slice(-30, 30))
    with pytest.raises(EarthSSLError, match=r"leaves out 4 of 7 latitudes \(-90…90°\); take data of all of it"):
        frozen.embed(region)
    with pytest.raises(EarthSSLError, match="least_valid: expected a share"):
        frozen.embed(refined(two_years), least_valid=0.0)


def test_features_of_a_file_on_a_finer_grid(
    frozen: FrozenEncoder, two_years: xr.Dataset, small_run: Path, tmp_path: Path
) -> None:
    """The command line passes the same place, and the file says what was done."""
    refined(two_years).to_netcdf(tmp_path / "fine.nc")
    words = ["embed", str(small_run), str(tmp_path / "fine.nc"), "--out", str(tmp_path / "f.nc")]
    with heard("brought from"):
        assert main([*words, "--least-valid", "0.25"]) == 0
    with xr.open_dataarray(tmp_path / "f.nc") as found:
        np.testing.assert_allclose(found.values, frozen.embed(two_years).values, atol=1e-5)
        assert "less than 25 % of their area" in found.attrs["regridded"]


def departures(ds: xr.Dataset, first: str, last: str) -> xr.Dataset:
    """`sst` as `ssta`, from its monthly means over some years."""
    months = ds["sst"].groupby("time.month")
    made = months - ds["sst"].sel(time=slice(first, last)).groupby("time.month").mean()
    return ds.drop_vars("sst").assign(ssta=made.drop_vars("month").astype(np.float32).assign_attrs(units="K"))


def test_anomalies_stand_for_the_full_field(frozen: FrozenEncoder, small_data: xr.Dataset) -> None:
    """Of any base period where the data reach into training; else as departures from training's climatology, aloud."""
    screened = screen(departures(small_data, "1995", "2008"), frozen.record)
    assert screened.said == tuple(screened.changes.values())
    assert "its departures from its own monthly means over the training block" in screened.said[0]
    assert "1981-01 … 2000-12" in screened.changes["anomalies"]
    np.testing.assert_allclose(screened.data["sst"].values, small_data["sst"].values, atol=1e-3)
    years = small_data.sel(time=slice("2007", None))
    own = frozen.embed(years)
    late = departures(small_data, "1981", "2000").sel(time=years["time"])
    with heard("'sst' was made of 'ssta': its anomalies on the climatology"):
        found = frozen.embed(late)
    np.testing.assert_allclose(found.values, own.values, atol=1e-4)
    assert "their own base period is not known" in found.attrs["anomalies"]
    assert "missing_variables" not in found.attrs
    assert "unused_variables" not in found.attrs
    other = screen(departures(small_data, "2001", "2008").sel(time=years["time"]), frozen.record).data["sst"]
    assert np.abs(other - years["sst"]).max() > 0.1  # the offset that is spoken of
    eager, lazy = (screen(ds, frozen.record).data["sst"] for ds in (late, late.chunk(time=5)))
    assert lazy.chunks is not None
    xr.testing.assert_equal(lazy.compute(), eager)
    both = screen(years.assign(ssta=late["ssta"]), frozen.record)
    assert both.unused == ("ssta",)
    xr.testing.assert_equal(both.data["sst"], screen(years, frozen.record).data["sst"])


def base_of(record: Record, data: xr.Dataset) -> np.ndarray:
    """The climatology of the record's first variable at the times of the data."""
    return record.statistics.climatology(data["time"].values)[:, 0]


def test_a_full_field_for_anomalies_needs_its_own_climatology(frozen: FrozenEncoder, small_data: xr.Dataset) -> None:
    """Where it reaches into training it is its departures; where not it is refused, since the record cannot know it."""
    record = replace(frozen.record, variables=("ssta", "u10", "v10"))
    made = screen(small_data, record).data["ssta"]
    train = small_data["sst"].sel(time=slice("1981", "2000")).groupby("time.month").mean()
    expected = (small_data["sst"].groupby("time.month") - train).values + base_of(record, small_data)
    np.testing.assert_allclose(made.values, expected, atol=1e-4)
    with pytest.raises(
        EarthSSLError,
        match=r"trained on 'ssta', and its record holds the climatology of that, not of "
        r"'sst'; the data hold less than 10 years .*\(1981-01 … 2000-12\).*as in 1982:2010.* call the field 'ssta'",
    ):
        screen(small_data.sel(time=slice("1992", None)), record)
    late = small_data.sel(time=slice("1999", None))
    base = late["sst"].sel(time=slice("2000", "2010")).groupby("time.month").mean()
    based = screen(late, record, base=("2000", "2010"))
    expected = (late["sst"].groupby("time.month") - base).values + base_of(record, late)
    np.testing.assert_allclose(based.data["ssta"].values, expected, atol=1e-4)
    assert "over 2000-01 … 2010-12; the encoder's are from those over 1981-01 … 2000-12" in based.changes["anomalies"]
    with pytest.raises(EarthSSLError, match=r"base: expected 10 years of each .* within 2003-01 … 2010-12"):
        screen(late, record, base=("2003", "2010"))
    with pytest.raises(EarthSSLError, match="base: expected two dates such as 1982 and 2010"):
        screen(late, record, base=("2010", "1982"))
    with pytest.raises(EarthSSLError, match="they hold sst, u10, v10 as the encoder was trained on it; leave base out"):
        screen(late, frozen.record, base=("2000", "2010"))
    years = small_data["sst"].sel(time=slice("1991", None))  # ten of training
    own, train_block = record.statistics.select([0]), record.splits.train
    assert as_trained(years, "ssta", own, train_block)[0].shape == years.shape
    gappy = years.copy()
    gappy[{"time": 0, "lat": 0, "lon": 0}] = np.nan  # one January of ten is not enough for this cell
    holes = as_trained(gappy, "ssta", own, train_block)[0].isnull().sel(lat=90, lon=0)
    np.testing.assert_array_equal(holes.values, years["time"].dt.month.values == 1)
    with pytest.raises(EarthSSLError, match="by hours"):
        as_trained(years, "ssta", replace(own, groups="hour"), train_block)


def daily(first: str, last: str, cells: tuple[int, int], value: float = 5.0) -> xr.DataArray:
    """Days of `ssta`, the same everywhere."""
    times = np.arange(first, last, dtype="datetime64[D]").astype("datetime64[ns]")
    values = np.full((len(times), *cells), value, np.float32)
    return xr.DataArray(values, {"time": times}, ("time", "lat", "lon"), "ssta")


def test_ten_years_of_a_month_are_ten_years_and_not_days(frozen: FrozenEncoder) -> None:
    """A year of days keeps its warmth; a cell that lacks a month of one year out of ten lacks it, and is counted."""
    record = frozen.record
    own, train, cells = record.statistics.select([0]), record.splits.train, record.grid.shape
    known = own.known[0]
    year = daily("1990", "1991", cells)
    made, said = as_trained(year, "sst", own, train)
    usual = own.climatology(year["time"].values)[:, 0]
    np.testing.assert_allclose((made.values - usual)[:, known], 5.0, atol=1e-3)
    assert "its anomalies on the climatology" in said
    days = daily("1986", "1996", cells)
    whole, said = as_trained(days, "sst", own, train)
    usual = own.climatology(days["time"].values)[:, 0]
    np.testing.assert_allclose((whole.values - usual)[:, known], 0.0, atol=1e-3)
    assert "known cells" not in said
    rows, columns = (where[:12] for where in np.nonzero(known))
    months = days["time"].values.astype("datetime64[M]").astype(int)
    for k in range(12):  # cell k without month k of the first year, and one day of that month of the second
        days.values[months == months[0] + k, rows[k], columns[k]] = np.nan
        days.values[np.flatnonzero(months == months[0] + 12 + k)[0], rows[k], columns[k]] = np.nan
    gappy, said = as_trained(days, "sst", own, train)
    for k in range(12):
        holes = np.isnan(gappy.values[:, rows[k], columns[k]])
        np.testing.assert_array_equal(holes, months % 12 == k)
    assert f"12 of {known.sum()} known cells hold less than 10 years of some month there" in said


@pytest.mark.parametrize(
    "base",
    [("82", "2010"), ("1982", "2500"), ("1500", "1600"), 1982, "1982", ("x", "2010"), ("NaT", "2010"), (None, 3)],
)
def test_a_base_that_is_no_two_dates(base: Any) -> None:
    """Or of years that would wrap round, is refused in a sentence."""
    with pytest.raises(EarthSSLError, match="base: expected two dates such as 1982 and 2010, got"):
        period(base)


def test_what_years_a_base_may_have() -> None:
    """All that nanoseconds hold whole."""
    found = period(("1678", "2261"))
    assert found is not None
    assert [str(edge)[:10] for edge in found] == ["1678-01-01", "2261-12-31"]


def test_the_transformer_takes_a_base_and_a_share(frozen: FrozenEncoder, small_data: xr.Dataset) -> None:
    """As `embed` does."""
    late = departures(small_data, "1995", "2008").sel(time=slice("1999", None))
    step = EncoderTransformer(frozen, least_valid=0.25, base=("2000", "2010"))
    with heard("over 2000-01 … 2010-12", "over 2000-01 … 2010-12"):
        found = clone(step).fit_transform(late)
    with heard("over 2000-01 … 2010-12"):
        own = frozen.embed(late, base=("2000", "2010"))
    np.testing.assert_allclose(found, own.values, atol=1e-6)
    with pytest.raises(EarthSSLError, match="least_valid: expected a share"):
        EncoderTransformer(frozen, least_valid=2.0).fit(late)


def test_which_variable_may_stand_for_which() -> None:
    """Anomaly and full field of the same quantity, where the wanted one is absent and the other not wanted itself."""
    assert counterparts(["sst", "u10"], ["ssta", "u10"]) == {"sst": "ssta"}
    assert counterparts(["t2ma"], ["t2m", "ssta"]) == {"t2ma": "t2m"}
    assert counterparts(["sst"], ["sst", "ssta"]) == {}
    assert counterparts(["sst", "ssta"], ["ssta"]) == {}
    assert counterparts(["msl"], ["sst"]) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("ersstv5_global_2deg_monthly_1854-2020.nc", 0.97),
        ("hamgrid_ersstv5_godas_anom_5deg_monthly_1980-2018.nc", 0.45),
    ],
)
def test_real_fields_on_other_grids(shared_data: Path, name: str, least: float) -> None:
    """2° temperatures, and detrended 5° anomalies shifted by half a cell, beside the fields as they were prepared."""
    frozen = load_encoder(Path(__file__).resolve().parents[3] / "registry" / "ersst")
    path = str(shared_data / "ersstv5_global_2deg_monthly_1854-2020.nc")
    prepared = open_source(
        "files", path=path, variables=["sst"], resolution=5.0, least_valid=0.3, region=[-35, 35, 100, 290]
    )
    own = frozen.embed(prepared.sel(time=slice("1980", None)))
    with xr.open_dataset(shared_data / name) as ds, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = frozen.embed(ds)
    a, b = (x.values - x.values.mean(0) for x in xr.align(own, other, join="inner"))
    assert len(a) > 400
    assert (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()) > least

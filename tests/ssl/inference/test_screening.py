"""Screening: what fits, what is said aloud, what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder


@pytest.fixture(scope="module")
def frozen(small_run: Path) -> FrozenEncoder:
    """The encoder of the small run."""
    return load_encoder(small_run / "checkpoint")


@pytest.fixture
def two_years(small_data: Any) -> xr.Dataset:
    """24 months of the small data."""
    return small_data.sel(time=slice("2007", "2008")).copy(deep=True)


def test_a_data_array_is_a_variable(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """By its name, or by the labels of a dimension `variable`, with units along it."""
    expected = frozen.embed(two_years)
    stacked = two_years.to_dataarray("variable")
    units = [two_years[name].attrs["units"] for name in stacked["variable"].values]
    xr.testing.assert_identical(frozen.embed(stacked.assign_coords(units=("variable", units))), expected)
    with pytest.warns(UserWarning, match="without u10, v10"):
        alone = frozen.embed(two_years["sst"])
    assert alone.attrs["missing_variables"] == "u10, v10"
    with pytest.raises(EarthSSLError, match="units of 'u10': expected a spelling of 'm s-1'"):
        frozen.embed(stacked.assign_attrs(units="K"))
    with pytest.raises(EarthSSLError, match=r"DataArray whose name says which variable.*rename\('sst'\)"):
        frozen.embed(two_years["sst"].rename(None))
    with pytest.raises(EarthSSLError, match="every variable once, got sst, u10, u10"):
        frozen.embed(stacked.isel(variable=[0, 1, 1]))
    with pytest.raises(EarthSSLError, match="names along the dimension 'variable'"):
        frozen.embed(stacked.drop_vars("variable"))
    with pytest.raises(EarthSSLError, match=r"for embedding: expected an xarray\.Dataset or DataArray, got ndarray"):
        frozen.embed(two_years["sst"].values)  # type: ignore[arg-type]


def test_missing_and_unused_variables_are_named(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """In a warning each and in the attributes; what is not used need not even have units."""
    more = two_years.drop_vars("v10").assign(
        u850=two_years["u10"], msl=two_years["sst"].assign_attrs(units="?"), depth=two_years["sst"] * 0
    )
    with pytest.warns(UserWarning, match="embedding") as caught:
        features = frozen.embed(more)
    said = [str(one.message) for one in caught]
    assert any("embedding without v10" in text for text in said)
    assert any("makes no use of depth, u850, msl: the encoder knows sst, u10, v10" in text for text in said)
    assert all(Path(one.filename) == Path(__file__) for one in caught)
    assert features.attrs["missing_variables"] == "v10"
    assert features.attrs["unused_variables"] == "depth, u850, msl"
    assert features.attrs["variables"] == "sst, u10"
    whole = frozen.embed(two_years)
    assert "missing_variables" not in whole.attrs
    assert "unused_variables" not in whole.attrs


def test_units_that_are_missing_or_unknown_are_refused(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Loudly, and the remedy that is named works."""
    expected = frozen.embed(two_years)
    del two_years["sst"].attrs["units"]
    with pytest.raises(EarthSSLError, match=r"units of 'sst'.*found none; .* units: \{sst: K\}"):
        frozen.embed(two_years)
    xr.testing.assert_identical(frozen.embed(two_years, units={"sst": "K"}), expected)
    two_years["sst"].attrs["units"] = "furlong"
    with pytest.raises(EarthSSLError, match="got 'furlong'"):
        frozen.embed(two_years)
    named = two_years.rename(sst="field")
    xr.testing.assert_identical(frozen.embed(named, units={"field": "K"}, rename={"field": "sst"}), expected)
    named["field"].attrs.update(units="K", standard_name="air_temperature")
    with pytest.warns(UserWarning, match="rename takes 'field' for 'sst', but its standard_name is 'air_temperature'"):
        xr.testing.assert_identical(frozen.embed(named, rename={"field": "sst"}), expected)


def test_values_far_from_the_climatology_are_refused(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """With the numbers and the remedy; in between a warning; and there is a way to say that it is meant."""
    two_years["u10"] = two_years["u10"] * 12  # within what the Earth has: only the climatology knows
    with pytest.raises(EarthSSLError) as caught:
        frozen.embed(two_years)
    said = str(caught.value)
    for words in (
        "within 8 standard deviations",
        "'u10' lies 1",
        "m s-1, expected",
        "units={...}",
        "check_range=False",
    ):
        assert words in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen.embed(two_years, check_range=False)
    two_years["u10"] = two_years["u10"] / 12 * 3.6  # km h-1 taken for m s-1
    with pytest.warns(UserWarning, match=r"'u10' lies .* are its units right\?"):
        frozen.embed(two_years)
    two_years["u10"] = two_years["u10"] / 3.6
    two_years["sst"] = two_years["sst"] + 30  # below 330 K
    with pytest.raises(EarthSSLError, match=r"'sst' lies .* mean 319.* K, expected 289"):
        frozen.embed(two_years)


def test_the_wrong_calendar_and_step_are_refused(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """A 360-day year has dates that do not exist; hours between months are another step."""
    days = [cftime.Datetime360Day(2007 + k // 12, k % 12 + 1, 30) for k in range(24)]
    with pytest.raises(EarthSSLError, match="calendar whose dates exist in the Gregorian one"):
        frozen.embed(two_years.assign_coords(time=days))
    hours = np.datetime64("2007-01-01", "ns") + np.arange(24) * np.timedelta64(6, "h")
    with pytest.raises(
        EarthSSLError, match=r"time step: expected 30\.?\d* days|time step: expected 3\d days, got 0.25"
    ):
        frozen.embed(two_years.assign_coords(time=hours))

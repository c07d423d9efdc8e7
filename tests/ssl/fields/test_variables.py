"""The table of variables: names, levels, vectors, units."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.units import SPELLINGS
from earthssl.ssl.fields.variables import VARIABLES, convert, lookup, resolve, vector_partner


def test_table_is_consistent():
    seen: dict[str, str] = {}
    for name, row in VARIABLES.items():
        assert row.name == name
        assert row.low < row.high
        assert row.units in SPELLINGS
        assert row.citation
        assert row.long_name
        for alias in (name, *row.aliases):
            assert alias == alias.lower()
            assert seen.setdefault(alias, name) == name, f"{alias} means two variables"
        if row.partner:
            other = VARIABLES[row.partner]
            assert (other.partner, {row.component, other.component}) == (name, {"u", "v"})


def test_canonical_units_are_their_own_spelling():
    for row in VARIABLES.values():
        assert convert(7.0, row, row.units) == 7.0


def test_lookup_with_level():
    z500 = lookup("z500")
    assert (z500.name, z500.base, z500.level, z500.units) == ("z500", "z", 500, "m2 s-2")
    assert z500.long_name == "geopotential at 500 hPa"
    assert lookup("vo850").base == "vo"
    assert lookup("t2m").level is None
    assert lookup("u10").long_name == "eastward wind at 10 m"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sstt", "Did you mean 'sst'"), ("z0500", "unknown variable"), ("sst500", "unknown variable"), ("t5000", "1100")],
)
def test_lookup_refuses(name, hint):
    with pytest.raises(EarthSSLError, match=hint):
        lookup(name)


def test_wind_at_10_hpa_is_not_the_wind_at_10_m():
    with pytest.raises(EarthSSLError, match=r"cannot be told from 'u10'"):
        VARIABLES["u"].at_level(10)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("2m_temperature", "t2m"), ("tas", "t2m"), ("T2M", "t2m"), ("tos", "sst"), ("psl", "msl"), ("uas", "u10"),
        ("geopotential", "z"), ("zg500", "z500"), ("geopotential_500", "z500"), ("hgt_500hPa", "z500"),
        ("u_component_of_wind", "u"), ("ua850", "u850"), ("total_precipitation_6hr", "tp6h"), ("ssta", "ssta"),
    ],
)  # fmt: skip
def test_resolve_names(name, canonical):
    assert resolve(name).name == canonical


def test_resolve_by_standard_name():
    assert resolve("field7", {"standard_name": "surface_air_pressure"}).name == "sp"
    assert resolve("field7", {"standard_name": "eastward_wind"}, on_levels=True).name == "u"
    with pytest.raises(EarthSSLError, match=r"'u10' or 'u'"):
        resolve("field7", {"standard_name": "eastward_wind"})


def test_resolve_knows_anomalies_and_heights_by_their_attributes():
    assert resolve("sst", {"long_name": "Monthly SST Anomaly"}).name == "ssta"
    assert resolve("tas", {"standard_name": "air_temperature_anomaly"}).name == "t2ma"
    with pytest.raises(EarthSSLError, match=r"not at 100 hPa"):
        resolve("u100", {"long_name": "100 metre U wind component"})


def test_resolve_names_the_nearest():
    with pytest.raises(EarthSSLError, match=r"Did you mean 'geopotential'.*rename"):
        resolve("geopotental")


def test_vector_partners():
    assert vector_partner("u850") == ("v850", "u")
    assert vector_partner("v10") == ("u10", "v")
    assert vector_partner("sst") is None


@pytest.mark.parametrize(
    ("name", "units", "value", "canonical"),
    [
        ("sst", "degC", 0.0, 273.15),
        ("sst", "degrees_Celsius", 10.0, 283.15),
        ("t2m", "degF", 212.0, 373.15),  # water boils
        ("t850", "K", 280.0, 280.0),
        ("ssta", "degC", 1.5, 1.5),  # a difference: no offset
        ("ssta", "degF", 1.8, 1.0),
        ("msl", "hPa", 1013.25, 101325.0),
        ("msl", "millibars", 1000.0, 1e5),
        ("u10", "m s**-1", 3.0, 3.0),
        ("u10", "m.s-1", 3.0, 3.0),
        ("u10", "m s⁻¹", 3.0, 3.0),
        ("u10", "knots", 3600.0, 1852.0),  # a nautical mile an hour
        ("z500", "m**2 s**-2", 5e4, 5e4),
        ("z500", "m", 1000.0, 9806.65),
        ("z500", "gpm", 1000.0, 9806.65),
        ("vo850", "s**-1", 1e-5, 1e-5),
        ("vo850", "10^-5 s^-1", 2.0, 2e-5),
        ("q850", "g/kg", 8.0, 0.008),
        ("q850", "kg kg**-1", 0.008, 0.008),
        ("tp", "mm", 25.4, 0.0254),
        ("r500", "1", 0.5, 50.0),
        ("siconc", "%", 15.0, 0.15),
    ],
)
def test_units_both_ways(name, units, value, canonical):
    assert convert(value, name, units) == pytest.approx(canonical, rel=1e-12)
    assert convert(canonical, name, units, inverse=True) == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_convert_keeps_arrays_and_their_type():
    converted = convert(np.array([0, np.nan], np.float32), "sst", "degC")
    assert converted.dtype == np.float32
    np.testing.assert_array_equal(converted, np.array([273.15, np.nan], np.float32))


@pytest.mark.parametrize("units", [None, "", "parsecs", "m s-1"])
def test_units_missing_or_unknown(units):
    with pytest.raises(EarthSSLError, match=r"units of 'sst'.*units: \{sst: K\}.*celsius") as caught:
        convert(1.0, "sst", units)
    assert ("found none" if not units else f"'{units}'") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_geopotential_takes_metres_for_a_height():
    with pytest.raises(EarthSSLError, match=r"units of 't500'"):
        convert(1.0, "t500", "m")

"""Groups of redundant variables."""

from __future__ import annotations

import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.variables import GROUPS, VARIABLES, grouped


def test_every_variable_of_the_table_is_in_one_group() -> None:
    members = [name for group in GROUPS.values() for name in group]
    assert sorted(members) == sorted(VARIABLES)


def test_levels_go_where_their_variable_goes() -> None:
    found = grouped(["q850", "sst", "z500", "u10", "t850", "tp"])
    assert found == {
        "surface temperature": ("sst",),
        "mass, temperature and wind": ("z500", "u10", "t850"),
        "moisture": ("q850", "tp"),
    }
    assert list(grouped(["z500"])) == ["mass, temperature and wind"]
    with pytest.raises(EarthSSLError, match="unknown variable"):
        grouped(["temprature"])

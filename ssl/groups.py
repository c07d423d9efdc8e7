"""Groups of variables that nearly determine one another: who hides one and shows another hides nothing.

The mass field gives the temperature of a column (hydrostatic balance) and most of the wind (geostrophic
balance); humidity, cloud, rain and the radiation that leaves follow one another; air at 2 m takes the
temperature of the sea below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .variables import lookup

GROUPS: Mapping[str, tuple[str, ...]] = {  # names without level
    "surface temperature": ("sst", "ssta", "t2m", "t2ma", "siconc", "ssh"),
    "mass, temperature and wind": ("z", "t", "u", "v", "vo", "d", "w", "msl", "sp", "u10", "v10"),
    "moisture": ("q", "r", "d2m", "tcwv", "tcc", "tp", "tp6h", "tp24h", "olr", "ttr"),
}


def grouped(variables: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the variables by the group of the table that they belong to, without the groups of none.

    Raises:
        EarthSSLError: If a name is no variable's.
    """
    bases = {name: lookup(name).base for name in variables}
    found = {group: tuple(name for name, base in bases.items() if base in members) for group, members in GROUPS.items()}
    return {group: members for group, members in found.items() if members}

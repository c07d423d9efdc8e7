"""The table of variables: what a field is called, in which units it is kept, and what it belongs with.

Two words in it are used throughout. A *surface* variable is one field (`t2m`); a variable *on levels* is
one field a pressure level, and the level in hPa is part of the name of each (`z500`, `vo850`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..common.errors import EarthSSLError, nearest
from .units import canonical_factor

ERA5 = "Hersbach et al. (2020), doi:10.1002/qj.3803"

ERSST = "Huang et al. (2017), doi:10.1175/JCLI-D-16-0836.1"

HADCRUT = "Morice et al. (2012), doi:10.1029/2011JD017187"


LEVELLED = re.compile(r"([a-z]+)([1-9]\d*)")

LEVELLED_ALIAS = re.compile(r"(.*?[^\d_])_?([1-9]\d*)(?:_?hpa)?")

TOP_HPA, BOTTOM_HPA = 1, 1100

DRIZZLE = 1e-4  # m: 0.1 mm, what a rain gauge resolves


GROUPS: Mapping[str, tuple[str, ...]] = {  # names without level
    "surface temperature": ("sst", "ssta", "t2m", "t2ma", "siconc", "ssh"),
    "mass, temperature and wind": ("z", "t", "u", "v", "vo", "d", "w", "msl", "sp", "u10", "v10"),
    "moisture": ("q", "r", "d2m", "tcwv", "tcc", "tp", "rain_rate", "tp6h", "tp24h", "olr", "ttr"),
}


@dataclass(frozen=True)
class Variable:
    """One row of the table.

    Attributes:
        name: Canonical name; with the level in hPa where one is meant (`z500`).
        long_name: Plain words.
        standard_name: CF standard name, "" where CF has none.
        units: Canonical units; every source converts to them.
        low: Lowest plausible value in canonical units, anywhere on Earth: below it, units or name are wrong.
        high: Highest plausible value.
        aliases: Other names that mean the same (ERA5, CMIP, NCEP), lower case.
        on_levels: Whether the name needs a pressure level.
        level: Pressure level, hPa, or None.
        partner: Name of the other component of the vector, "" for a scalar.
        component: "u" (eastward) or "v" (northward) of a vector, "" for a scalar.
        kind: "state", "anomaly" (a difference: offsets of units do not apply) or "accumulation".
        transform_scale: Where it is not 0, statistics and stores hold sign(x) log(1 + |x| / scale) instead of x.
        citation: Where the field is described.
    """

    name: str
    long_name: str
    standard_name: str
    units: str
    low: float
    high: float
    aliases: tuple[str, ...] = ()
    on_levels: bool = False
    level: int | None = None
    partner: str = ""
    component: str = ""
    kind: str = "state"
    citation: str = ERA5
    transform_scale: float = 0.0

    @property
    def base(self) -> str:
        """Name without the level."""
        return self.name.removesuffix(str(self.level)) if self.level is not None else self.name

    @property
    def attributes(self) -> dict[str, str]:
        """CF attributes of a field in canonical units."""
        known = {"units": self.units, "long_name": self.long_name, "standard_name": self.standard_name}
        return {key: value for key, value in known.items() if value}

    def at_level(self, hpa: int) -> Variable:
        """Return this variable at a pressure level, hPa.

        Raises:
            EarthSSLError: If it is not on levels, if the level is outside the atmosphere, or if the name
                would be that of a surface variable (u at 10 hPa and the wind at 10 m).
        """
        if not self.on_levels or self.level is not None:
            raise EarthSSLError(f"variable '{self.name}' is not on pressure levels, so it has no level {hpa} hPa")
        name = f"{self.name}{hpa}"
        if not TOP_HPA <= hpa <= BOTTOM_HPA:
            raise EarthSSLError(f"variable '{name}': expected a level of {TOP_HPA}…{BOTTOM_HPA} hPa, got {hpa}")
        if name in VARIABLES:
            raise EarthSSLError(
                f"'{self.name}' at {hpa} hPa cannot be told from '{name}' ({VARIABLES[name].long_name}); "
                f"leave that level out (option levels)"
            )
        partner = f"{self.partner}{hpa}" if self.partner else ""
        return replace(
            self,
            name=name,
            level=hpa,
            partner=partner,
            long_name=f"{self.long_name} at {hpa} hPa",
            aliases=(),
        )


_SURFACE = [
    Variable(
        "sst", "sea surface temperature", "sea_surface_temperature", "K", 250, 330,
        ("sea_surface_temperature", "tos", "analysed_sst", "sosstsst", "thetao_surface"), citation=ERSST,
    ),
    Variable(
        "ssta", "sea surface temperature anomaly", "", "K", -40, 40,
        ("sst_anomaly", "sea_surface_temperature_anomaly", "sstanom", "sst_anom", "anom_sst"),
        kind="anomaly", citation=ERSST,
    ),
    Variable(
        "t2m", "temperature at 2 m", "air_temperature", "K", 150, 350,
        ("2m_temperature", "tas", "2t", "t2", "var_2t"),
    ),
    Variable(
        "t2ma", "anomaly of temperature at 2 m", "air_temperature_anomaly", "K", -60, 60,
        ("2m_temperature_anomaly", "temperature_anomaly", "tas_anomaly", "tas_mean", "tempanomaly"),
        kind="anomaly", citation=HADCRUT,
    ),
    Variable(
        "d2m", "dew point at 2 m", "dew_point_temperature", "K", 120, 330, ("2m_dewpoint_temperature", "2d")
    ),
    Variable(
        "u10", "eastward wind at 10 m", "eastward_wind", "m s-1", -150, 150,
        ("10m_u_component_of_wind", "uas", "10u", "u10m"), partner="v10", component="u",
    ),
    Variable(
        "v10", "northward wind at 10 m", "northward_wind", "m s-1", -150, 150,
        ("10m_v_component_of_wind", "vas", "10v", "v10m"), partner="u10", component="v",
    ),
    Variable(
        "msl", "pressure at mean sea level", "air_pressure_at_mean_sea_level", "Pa", 80_000, 115_000,
        ("mean_sea_level_pressure", "psl", "slp", "mslp", "prmsl"),
    ),
    Variable(
        "sp", "pressure at the surface", "surface_air_pressure", "Pa", 30_000, 115_000,
        ("surface_pressure", "ps", "pressfc"),
    ),
    Variable(
        "tp", "precipitation, sum over the period of the source", "lwe_thickness_of_precipitation_amount", "m",
        -1e-3, 10, ("total_precipitation",), kind="accumulation", transform_scale=DRIZZLE,
    ),
    Variable(
        "tp6h", "precipitation, sum over 6 h", "", "m", -1e-3, 10, ("total_precipitation_6hr",),
        kind="accumulation", transform_scale=DRIZZLE,
    ),
    Variable(
        "tp24h", "precipitation, sum over 24 h", "", "m", -1e-3, 10, ("total_precipitation_24hr",),
        kind="accumulation", transform_scale=DRIZZLE,
    ),
    Variable(
        "rain_rate", "rain rate", "rainfall_rate", "mm h-1", 0, 1000, ("rainfall_rate",), transform_scale=0.1,
        citation="Doviak & Zrnic (1993), Doppler Radar and Weather Observations",
    ),
    Variable(
        "tcwv", "water vapour in the column", "atmosphere_mass_content_of_water_vapor", "kg m-2", -1, 150,
        ("total_column_water_vapour", "total_column_water_vapor", "prw"),
    ),
    Variable(
        "olr", "outgoing longwave radiation", "toa_outgoing_longwave_flux", "W m-2", -10, 600,
        ("rlut", "outgoing_longwave_radiation"),
    ),
    Variable(
        "ttr", "net thermal radiation at the top, sum over the period of the source, downward positive",
        "toa_net_downward_longwave_flux", "J m-2", -6e7, 1e6, ("top_net_thermal_radiation",),
        kind="accumulation",
    ),
    Variable(
        "tcc", "cloud cover, share of the sky", "cloud_area_fraction", "1", -0.01, 1.01,
        ("total_cloud_cover", "clt"),
    ),
    Variable(
        "siconc", "sea ice, share of the area", "sea_ice_area_fraction", "1", -0.01, 1.01,
        ("sea_ice_cover", "ci", "icec"),
    ),
    Variable(
        "ssh", "sea surface height above the geoid", "sea_surface_height_above_geoid", "m", -10, 10,
        ("zos", "sshg", "adt", "sossheig", "sea_surface_height"),
    ),
]  # fmt: skip


_LEVELLED = [
    Variable(
        "z", "geopotential", "geopotential", "m2 s-2", -2e4, 6e5,
        ("geopotential", "geopotential_height", "zg", "hgt", "gh"),
    ),
    Variable("t", "temperature", "air_temperature", "K", 120, 350, ("temperature", "ta", "air_temperature")),
    Variable(
        "u", "eastward wind", "eastward_wind", "m s-1", -200, 200,
        ("u_component_of_wind", "ua", "uwnd", "ugrd"), partner="v", component="u",
    ),
    Variable(
        "v", "northward wind", "northward_wind", "m s-1", -200, 200,
        ("v_component_of_wind", "va", "vwnd", "vgrd"), partner="u", component="v",
    ),
    Variable(
        "q", "specific humidity", "specific_humidity", "kg kg-1", -0.01, 0.1,
        ("specific_humidity", "hus", "shum", "spfh"),
    ),
    Variable(
        "r", "relative humidity", "relative_humidity", "%", -20, 200, ("relative_humidity", "hur", "rhum")
    ),
    Variable(
        "vo", "relative vorticity", "atmosphere_relative_vorticity", "s-1", -0.05, 0.05,
        ("vorticity", "relative_vorticity", "vort"),
    ),
    Variable("d", "divergence", "divergence_of_wind", "s-1", -0.05, 0.05, ("divergence",)),
    Variable(
        "w", "vertical velocity in pressure, downward positive", "lagrangian_tendency_of_air_pressure",
        "Pa s-1", -200, 200, ("vertical_velocity", "wap", "omega"),
    ),
]  # fmt: skip


VARIABLES: Mapping[str, Variable] = {row.name: row for row in _SURFACE} | {
    row.name: replace(row, on_levels=True) for row in _LEVELLED
}


_ALIASES = {alias: row.name for row in VARIABLES.values() for alias in row.aliases}

_ANOMALY_OF = {"sst": "ssta", "t2m": "t2ma"}


def lookup(name: str) -> Variable:
    """Return the variable of a canonical name, with its level where the name has one (`z500`).

    Raises:
        EarthSSLError: If no variable is called so; names the nearest one.
    """
    if name in VARIABLES:
        return VARIABLES[name]
    match = LEVELLED.fullmatch(name)
    if match and match[1] in VARIABLES and VARIABLES[match[1]].on_levels:
        return VARIABLES[match[1]].at_level(int(match[2]))
    raise EarthSSLError(f"unknown variable '{name}'.{_hint(name)} Known: {_known()}")


def resolve(name: str, attrs: Mapping[str, Any] | None = None, *, on_levels: bool | None = None) -> Variable:
    """Return the variable that a name in a file means.

    Tried in turn: canonical name, alias (any case), either with a level (`zg500`, `geopotential_500hPa`),
    and last the CF standard name in `attrs`. A field whose attributes say that it is an anomaly is one,
    whatever its name.

    Args:
        name: Name as it stands in the file.
        attrs: Its attributes.
        on_levels: Whether the field has a level dimension; chooses between `t2m` and `t` where only the
            standard name is known.

    Raises:
        EarthSSLError: If nothing fits, or if the standard name fits several; names the nearest variable.
    """
    attrs = attrs or {}
    found = _by_name(name) or _by_standard_name(name, str(attrs.get("standard_name", "")), on_levels)
    if found is None:
        raise EarthSSLError(
            f"'{name}' is no known variable, alias or CF standard name.{_hint(name)} "
            f"Say what it is with the option rename, as in rename: {{{name}: t2m}}; known: {_known()}"
        )
    text = " ".join(str(attrs.get(key, "")) for key in ("long_name", "standard_name", "var_desc")).lower()
    if found.level is not None and f"{found.level} met" in text:
        # ECMWF calls the wind at 100 m u100: not the one at 100 hPa
        raise EarthSSLError(f"'{name}' is at a height ({text.strip()}), not at {found.level} hPa; leave it out")
    if "anomal" in text and found.name in _ANOMALY_OF:
        return VARIABLES[_ANOMALY_OF[found.name]]
    return found


def vector_partner(name: str) -> tuple[str, str] | None:
    """Return the other component of the vector and which component `name` itself is, or None for a scalar.

    `vector_partner("u850")` is `("v850", "u")`.

    Raises:
        EarthSSLError: If no variable is called so.
    """
    variable = lookup(name)
    return (variable.partner, variable.component) if variable.partner else None


def anomaly_name(name: str) -> str:
    """Return the name of the variable's anomaly ("" where the table has none)."""
    return _ANOMALY_OF.get(name, "")


def convert(values: Any, variable: Variable | str, units: str | None, *, inverse: bool = False) -> Any:
    """Return the values in canonical units; with `inverse`, canonical values in `units`.

    Args:
        values: Numbers or an array of any kind that can be multiplied.
        variable: What they are: an anomaly is a difference, to which the offset of °C does not apply;
            a geopotential in metres is taken for a geopotential height.
        units: Spelling of their units, as found in the file.

    Raises:
        EarthSSLError: If the units are missing or unknown; lists the spellings that are accepted.
    """
    row = lookup(variable) if isinstance(variable, str) else variable
    scale, offset = canonical_factor(row.name, row.units, units, geopotential=row.base == "z")
    if row.kind == "anomaly":
        offset = 0.0
    if (scale, offset) == (1.0, 0.0):
        return values
    return (values - offset) / scale if inverse else values * scale + offset


def _by_name(name: str) -> Variable | None:
    lower = name.lower()
    for candidate in (name, lower):
        if candidate in VARIABLES:
            return VARIABLES[candidate]
    if lower in _ALIASES:
        return VARIABLES[_ALIASES[lower]]
    match = LEVELLED_ALIAS.fullmatch(lower)
    if not match:
        return None
    base = VARIABLES.get(_ALIASES.get(match[1], match[1]))
    if base is None or not base.on_levels or not TOP_HPA <= int(match[2]) <= BOTTOM_HPA:
        return None
    return base.at_level(int(match[2]))


def _by_standard_name(name: str, standard_name: str, on_levels: bool | None) -> Variable | None:
    rows = [row for row in VARIABLES.values() if standard_name and row.standard_name == standard_name]
    if on_levels is not None and len(rows) > 1:
        # without a level dimension the height is not known: `air_temperature` need not be at 2 m
        rows = [row for row in rows if row.on_levels] if on_levels else rows
    if len(rows) > 1:
        names = " or ".join(f"'{row.name}'" for row in rows)
        raise EarthSSLError(
            f"'{name}' has the standard name '{standard_name}', which may be {names}; "
            f"say which with the option rename, as in rename: {{{name}: {rows[0].name}}}"
        )
    return rows[0] if rows else None


def _hint(name: str) -> str:
    return nearest(name.lower(), [*VARIABLES, *_ALIASES])


def _known() -> str:
    surface = ", ".join(name for name, row in VARIABLES.items() if not row.on_levels)
    levelled = ", ".join(name for name, row in VARIABLES.items() if row.on_levels)
    return f"{surface}; on levels, as in z500: {levelled}"


def grouped(variables: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the variables by the group of the table that they belong to, without the groups of none.

    Raises:
        EarthSSLError: If a name is no variable's.
    """
    bases = {name: lookup(name).base for name in variables}
    found = {group: tuple(name for name, base in bases.items() if base in members) for group, members in GROUPS.items()}
    return {group: members for group, members in found.items() if members}

"""Spellings of units, and the factor and offset that bring each to the canonical ones."""

from __future__ import annotations

import re

from ..common.errors import EarthSSLError

GRAVITY = 9.80665  # m s-2, standard gravity: geopotential height in metres -> geopotential

Affine = tuple[float, float]  # canonical = value * scale + offset


def _table(*rows: tuple[str, float, float]) -> dict[str, Affine]:
    return {spelling.strip(): (scale, offset) for text, scale, offset in rows for spelling in text.split(";")}


_METRES = "m; meter; meters; metre; metres"

# Spellings as `_plain` leaves them: lower case, without powers' signs and without double spaces.
SPELLINGS: dict[str, dict[str, Affine]] = {
    "K": _table(
        ("k; kelvin; kelvins; degk; deg_k; degree_k; degrees_k; deg k", 1, 0),
        ("degc; deg_c; c; °c; ℃; celsius; degree_c; degrees_c; degreec; deg c", 1, 273.15),
        ("degree_celsius; degrees_celsius; degree celsius; degrees celsius; degree c; degrees c", 1, 273.15),
        ("degf; deg_f; °f; fahrenheit; degree_f; degrees_f; degree_fahrenheit", 5 / 9, 459.67 * 5 / 9),
    ),
    "m s-1": _table(
        ("m s-1; m/s; m sec-1; m/sec; meter second-1; meters second-1; metre second-1", 1, 0),
        ("meters per second; metres per second; meters/second; meter/sec; mps", 1, 0),
        ("kt; kts; knot; knots", 1852 / 3600, 0),
        ("km h-1; km/h; kph; km hr-1; km/hr", 1 / 3.6, 0),
        ("cm s-1; cm/s", 0.01, 0),
    ),
    "Pa": _table(
        ("pa; pascal; pascals; n m-2", 1, 0),
        ("hpa; mbar; mb; mbars; millibar; millibars; hectopascal; hectopascals", 100, 0),
        ("kpa; kilopascal", 1000, 0),
    ),
    "m2 s-2": _table(
        ("m2 s-2; m2/s2; j kg-1; j/kg; gpm2 s-2; meter2 second-2; metre2 second-2", 1, 0),
    ),
    "s-1": _table(
        ("s-1; 1/s; /s; sec-1; second-1; per second; 1/sec", 1, 0),
        ("1e-5 s-1; 10-5 s-1; 1e-5/s; 10-5/s", 1e-5, 0),
    ),
    "Pa s-1": _table(("pa s-1; pa/s; pascal/s", 1, 0), ("hpa s-1; hpa/s; mb/s", 100, 0)),
    "kg kg-1": _table(("kg kg-1; kg/kg; 1; dimensionless", 1, 0), ("g kg-1; g/kg; gram/kg; grams/kg", 1e-3, 0)),
    "kg m-2": _table(("kg m-2; kg/m2; mm", 1, 0)),
    "%": _table(("%; percent; percentage; pct", 1, 0), ("1; fraction; dimensionless", 100, 0)),
    "1": _table(("1; fraction; (0 - 1); 0-1; dimensionless", 1, 0), ("%; percent; pct", 0.01, 0)),
    "m": _table(
        (f"{_METRES}; m of water equivalent", 1, 0),
        ("cm; centimeter; centimeters; centimetre", 0.01, 0),
        ("mm; millimeter; millimeters; millimetre; kg m-2; kg/m2", 1e-3, 0),
    ),
    "mm h-1": _table(
        ("mm h-1; mm/h; mm/hr; mm hr-1", 1, 0), ("kg m-2 s-1; kg/m2/s; mm s-1; mm/s", 3600, 0), ("m s-1; m/s", 3.6e6, 0)
    ),
    "W m-2": _table(("w m-2; w/m2; watt m-2; watts m-2; watt/m2; watts/m2", 1, 0)),
    "J m-2": _table(("j m-2; j/m2", 1, 0)),
}

# A geopotential may also come as a geopotential height; no other variable in m2 s-2 may.
HEIGHTS = _table(
    (f"{_METRES}; gpm; geopotential meters; geopotential metres; geopotential meter", GRAVITY, 0),
    ("gpdm; dam; dagpm; gpdam", 10 * GRAVITY, 0),
)


PERIOD = r"(?:s|sec|h|hr|d|day|mon|yr|hour|month|year|second)"
RATE = re.compile(rf"(?:/|\bper\s)\s*{PERIOD}s?\b|{PERIOD}-1\b")


def _plain(units: str) -> str:
    text = units.strip().lower().replace("º", "°")
    for old, new in (("**", ""), ("^", ""), ("⁻", "-"), ("¹", "1"), ("²", "2"), ("·", " "), ("*", " ")):
        text = text.replace(old, new)
    return " ".join(text.split()).replace(" / ", "/")


def canonical_factor(name: str, canonical: str, units: str | None, *, geopotential: bool = False) -> Affine:
    """Return (scale, offset) with canonical = value × scale + offset.

    Args:
        name: The variable, for the message.
        canonical: Its canonical units, a key of `SPELLINGS`.
        units: What the file says.
        geopotential: Whether metres are taken for a geopotential height.

    Raises:
        EarthSSLError: If the units are missing or unknown.
    """
    accepted = SPELLINGS[canonical] | (HEIGHTS if geopotential else {})
    found = _plain(units or "")
    if found in accepted:
        return accepted[found]
    # `m.s-1` and `m s-1` are the same; only tried last, as a point may also be a decimal one
    if found.replace(".", " ") in accepted:
        return accepted[found.replace(".", " ")]
    got = f"got '{units}'" if found else "found none"
    spellings = ", ".join(sorted(accepted, key=lambda text: (abs(accepted[text][0] - 1), text)))
    if canonical in ("m", "J m-2") and RATE.search(found):
        raise EarthSSLError(
            f"units of '{name}': expected those of a sum, such as '{canonical}', got '{units}', a rate; write sums "
            "over a step into another file first: the rate times its length"
        )
    raise EarthSSLError(
        f"units of '{name}': expected a spelling of '{canonical}' or units that convert to it, {got}; "
        f"say what they are with the option units, as in units: {{{name}: {canonical}}}; accepted: {spellings}"
    )

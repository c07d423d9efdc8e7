"""What values are possible on Earth, by variable and level, and where in an array one is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..common.errors import EarthSSLError
from .units import GRAVITY
from .variables import Variable, anomaly_name, convert

HPA = (1, 2, 5, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700, 850, 1000, 1100)
# U.S. Standard Atmosphere (1976), geopotential height of the levels, m.
HEIGHT = (
    47820, 42440, 35780, 31055, 26430, 23850, 20580, 18440, 16180, 11784, 9164, 5574, 3012, 1457, 111, -700
)  # fmt: skip
# Room about the standard atmosphere: polar vortex, cyclones, heights below ground. Metres taken for m2 s-2 lie outside
# wherever the height itself is not small.
ROOM, ROOM_SHARE = 2000.0, 0.18
# From 700 hPa down the lowest heights are those of the deepest cyclones: metres taken for m2 s-2 lie below them at 850.
LOWEST = (700, 850, 1000, 1100), (1000.0, 250.0, -1300.0, -2400.0)
# Lowest and highest by level, with room about the extremes of reanalyses: temperature (K), the speed of a component
# (m s-1), specific humidity (kg kg-1).
COLDEST = (150, 150, 145, 140, 140, 140, 140, 140, 140, 150, 165, 185, 185, 180, 175, 175)
WARMEST = (350, 345, 335, 320, 310, 300, 290, 285, 280, 280, 290, 310, 330, 345, 350, 350)
FASTEST = (250, 250, 230, 200, 190, 180, 160, 150, 140, 160, 170, 150, 140, 140, 130, 130)
WETTEST = (
    1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 2e-3, 5e-3, 0.012, 0.03, 0.05, 0.07, 0.1, 0.1
)  # fmt: skip

Limits = tuple[float, float] | None  # lowest and highest value; None: those of the Earth
FEW = 4  # different values that may be marks of nothing


class ImpossibleValueError(EarthSSLError):
    """A value that no place on Earth has; `time` is the step it was found at, datetime64."""

    def __init__(self, text: str, time: np.datetime64) -> None:
        super().__init__(text)
        self.time = time

    def __reduce__(self) -> tuple[type, tuple[str, np.datetime64]]:
        """Keep the time where workers hand the error on."""
        return type(self), (str(self), self.time)


def limits(variable: Variable) -> tuple[float, float]:
    """Return the lowest and highest possible value in canonical units, at the variable's level."""
    low, high = variable.low, variable.high
    if variable.level is None:
        return low, high
    if variable.base == "z":
        height = standard_height(variable.level)
        room = ROOM + ROOM_SHARE * abs(height)
        low = height - room
        if variable.level >= LOWEST[0][0]:
            low = float(np.interp(np.log(variable.level), np.log(LOWEST[0]), LOWEST[1]))
        return GRAVITY * low, GRAVITY * (height + room)
    if variable.base == "t":
        return _at(variable.level, COLDEST), _at(variable.level, WARMEST)
    if variable.base in ("u", "v"):
        fastest = _at(variable.level, FASTEST)
        return -fastest, fastest
    if variable.base == "q":
        return low, _at(variable.level, WETTEST)
    return low, high


def standard_height(hpa: int) -> float:
    """Return the height of a level in the standard atmosphere, m."""
    return _at(hpa, HEIGHT)


def _at(hpa: int, values: Sequence[float]) -> float:
    return float(np.interp(np.log(hpa), np.log(HPA), values))


def check_possible(
    values: np.ndarray,
    variable: Variable,
    times: np.ndarray,
    axes: tuple[np.ndarray, np.ndarray],
    where: str,
    units: str | None = None,
    called: str = "",
    masked: Sequence[float] = (),
    within: Limits = None,
) -> None:
    """Refuse values that no place on Earth has.

    Args:
        values: (steps, rows, columns) in canonical units, NaN where missing.
        variable: What they are.
        times: Of the steps, datetime64.
        axes: Latitudes and longitudes, degrees.
        where: What the data are called: the file.
        units: Those of the file, where they are known: the option that masks a value takes the file's.
        called: The variable's name in the file.
        masked: Values that the option `missing` masks already, in the file's units.
        within: The lowest and highest possible value, canonical units, where these are not the Earth's.

    Raises:
        ImpossibleValueError: Names variable, time, place, value and the options that mend it.
    """
    low, high = limits(variable) if within is None else within
    with np.errstate(invalid="ignore"):
        if not values.size or (np.nanmin(values, initial=np.inf) >= low and np.nanmax(values, initial=-np.inf) <= high):
            return
        wrong = (values < low) | (values > high)
    steps = np.flatnonzero(wrong.any((1, 2)))
    k = int(steps[0])
    row, column = (int(i[0]) for i in np.nonzero(wrong[k]))
    value, name = values[k, row, column], called or variable.name
    try:
        found = [_of_file(float(one), variable, units) for one in _few(values[wrong], value)]
    except EarthSSLError:
        units, found = None, [f"{value:.6g}"]
    listed = ", ".join([*(_of_file(one, variable, None) for one in masked), *found])
    anomaly = anomaly_name(variable.name)
    hint = f"; for an anomaly: rename: {{{name}: {anomaly}}}" if anomaly else ""
    raise ImpossibleValueError(
        f"{where}: expected '{variable.name}' within {low:g}…{high:g} {variable.units}, got {value:g} at "
        f"{pd.Timestamp(times[k])}, {place(axes[0][row], axes[1][column])} ({int(wrong.sum())} values, in {len(steps)} "
        f"of the {len(values)} steps looked at"
        + (f"; after conversion from '{units}'" if units else "")
        + f"); the units are wrong (option units), {found[0]} means missing (option missing, as in missing: "
        f"{{{name}: {f'[{listed}]' if ', ' in listed else listed}}}), or it is another quantity (option rename){hint}",
        times[k],
    )


def _few(wrong: np.ndarray, first: float) -> list[float]:
    """Return the values, the first one first; that alone where there are too many for marks of nothing."""
    others = [float(one) for one in np.unique(wrong) if one != first]
    return [first, *others] if len(others) < FEW else [first]


def _of_file(value: float, variable: Variable, units: str | None) -> str:
    """Return a value in the file's units as the option `missing` takes it: to a part in a million."""
    original = convert(value, variable, units, inverse=True) if units else value
    short = f"{original:.6g}"
    text = short if abs(float(short) - original) <= 2e-7 * abs(original) else f"{original:.9g}"
    return text if "." in text else text.replace("e", ".0e")  # YAML takes 1e+10 for a text


def place(lat: float, lon: float) -> str:
    """Return a position in words, such as "20°N 90°E"."""
    east = (float(lon) + 180) % 360 - 180
    return f"{abs(lat):g}°{'N' if lat >= 0 else 'S'} {abs(east):g}°{'E' if east >= 0 else 'W'}"

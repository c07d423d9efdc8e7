"""What is usual of a whole series: means and extremes that are possible yet tell of other units or marks of nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .plausible import standard_height
from .units import GRAVITY
from .variables import Variable

# Lowest and highest mean over all cells and steps, canonical units: wider than any region and season of reanalyses.
MEANS: Mapping[str, tuple[float, float]] = {
    "sst": (268.0, 309.0), "t2m": (195.0, 314.0), "d2m": (185.0, 303.0), "msl": (95_000.0, 106_000.0),
    "u10": (-25.0, 25.0), "v10": (-25.0, 25.0), "ssta": (-8.0, 8.0), "t2ma": (-25.0, 25.0), "ssh": (-4.0, 4.0),
    "olr": (60.0, 360.0), "tcwv": (0.05, 75.0),
}  # fmt: skip
# Size of values beyond which they are unusual.
FURTHEST = {"ssta": 20.0, "t2ma": 45.0, "ssh": 4.0, "w": 80.0, "vo": 0.01, "d": 0.01}
# Highest value below which a whole series tells of other units: shares under the units %, kg kg-1 under g kg-1.
LEAST_HIGHEST = {"r": 1.5, "siconc": 0.011, "tcc": 0.011, "tp": 5e-4, "tp24h": 5e-4}
RAIN = (2.5e-6, 0.05)  # m a day, mean over all cells and steps
THERMAL = 1e5  # J m-2 a step: an hour of 60 W m-2 is twice as much
HUMID = (500, 2e-5)  # from this level (hPa) down, kg kg-1
ROOM = 0.25, 300.0  # of a mean height about that of the standard atmosphere: a share, and metres
FLOORED = {"sst", "siconc", "tcc", "tp", "tp6h", "tp24h", "r", "q", "tcwv", "olr", "ttr"}  # many cells at one bound
OFTEN = 0.95  # share of the steps with one and the same lowest value
FEW = 12  # steps
FAR = 20.0  # times the usual scatter of the extremes of steps
WIDE = 4.0  # and times the usual spread of values


def unusual(variable: Variable, mean: float, low: float, high: float, step_days: float) -> list[str]:
    """Return what is odd about the mean and the extremes of a series, one sentence each.

    Args:
        variable: What it is.
        mean: Over all cells and steps, canonical units.
        low: Lowest value.
        high: Highest value.
        step_days: Days between steps.
    """
    base, units, said = variable.base, variable.units, []
    bounds = MEANS.get(variable.name)
    if variable.kind == "accumulation" and base.startswith("tp"):
        days = {"tp6h": 0.25, "tp24h": 1.0}.get(base, step_days)
        bounds = (RAIN[0] * days, RAIN[1] * days) if days else None
    if base == "z" and variable.level is not None:
        height = standard_height(variable.level)
        room = ROOM[0] * abs(height) + ROOM[1]
        bounds = (GRAVITY * (height - room), GRAVITY * (height + room))
    if bounds is not None and not bounds[0] <= mean <= bounds[1]:
        said.append(
            f"its mean, {mean:.4g} {units}, is unusual (expected {bounds[0]:.3g}…{bounds[1]:.3g}): see its units"
        )
    if base == "ttr" and abs(mean) < THERMAL:
        said.append(f"its mean, {mean:.4g} {units}, is unusual for a sum over time: see its units")
    furthest, extreme = FURTHEST.get(base, np.inf), low if -low > high else high
    if abs(extreme) > furthest:
        said.append(f"a value of {extreme:.4g} {units} is unusual (expected within ±{furthest:g}): see its units")
    least = LEAST_HIGHEST.get(base, HUMID[1] if base == "q" and (variable.level or 0) >= HUMID[0] else 0.0)
    if 0 < high < least:
        said.append(f"its highest value is {high:.3g} {units} (expected more than {least:g}): see its units")
    return said


def marks(low: np.ndarray, high: np.ndarray, spread: np.ndarray, variable: Variable) -> list[tuple[np.ndarray, str]]:
    """Return the steps whose extremes may be marks of nothing, as masks with the words for them.

    Args:
        low: Lowest value of each step.
        high: Highest value of each step.
        spread: Standard deviation of each step.
        variable: What they are.
    """
    found: list[tuple[np.ndarray, str]] = []
    if len(low) < FEW:
        return found
    for values, what, sign in ((low, "lowest", -1), (high, "highest", 1)):
        one, counts = np.unique(values, return_counts=True)
        most = int(counts.argmax())
        other = high if sign < 0 else low
        moves = len(np.unique(other)) > len(other) // 2
        if moves and counts[most] >= OFTEN * len(values) and one[most] != 0 and variable.base not in FLOORED:
            found.append(
                (values == one[most], f"whose {what} value is {one[most]:g} {variable.units}, always the same")
            )
            continue
        scale = variable.transform_scale
        shaped = np.arcsinh(values / scale) if scale else values.astype(float)
        away = sign * (shaped - np.median(shaped))
        usual = 1.4826 * float(np.median(np.abs(away)))
        room = 0.0 if scale else WIDE * float(np.median(spread))
        far = away > max(FAR * usual, room)
        if usual > 0 and far.any() and far.mean() < 0.5:
            first = values[far][0]
            found.append(
                (far, f"whose {what} value stands out ({first:.4g}; most: {np.median(values):.4g} {variable.units})")
            )
    return found

"""What must be said of a file that is taken as it is: marks that may be values, and options that it contradicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError
from ...fields.plausible import limits
from ...fields.variables import Variable, convert, lookup
from ..conventions import fills
from ..selection import Selection
from .meaning import doubt

MANY = 0.02  # of all cells
FREEZING = 271.35  # K, of sea water


def remarks(ds: xr.Dataset, fields: Sequence[tuple[Variable, str]], selection: Selection) -> list[str]:
    """Return what is odd about what a file says of its variables, one text each: the variable's name and a colon first.

    Args:
        ds: The file, its axes named canonically.
        fields: What is taken: the variable and its name in the file.
        selection: The options.
    """
    said = [text for variable, raw in fields if (text := _of_fills(ds[raw], variable, raw, selection))]
    first = {raw: variable for variable, raw in reversed(fields) if raw in selection.rename}  # once for all levels
    for raw, variable in first.items():
        reason = doubt(ds, raw, variable)
        if reason:
            said.append(
                f"{variable.name}: the option rename takes '{raw}' for '{variable.name}', but {reason}, mend rename if "
                "that is not meant"
            )
    return said


def told_of_sample(sample: xr.Dataset, whole: xr.Dataset, ends: str | None) -> list[str]:
    """Return what is odd about canonical data, by some of their steps: land that holds a value; times that were ends.

    Args:
        sample: Some steps, read.
        whole: All of them; read only where they are in memory.
        ends: What the first time is taken for, where a file stamps periods with their ends.
    """
    names = [str(name) for name in sample.data_vars]
    said = [f"{names[0]}: times at the end of their bounds are taken as their begin: {ends}"] if ends else []
    for name in names if sample.sizes["time"] > 2 else []:
        values = sample[name].values
        still = np.isfinite(values[0]) & (values == values[:1]).all(0)
        numbers, counts = np.unique(values[0][still], return_counts=True)
        if not len(numbers) or counts.max() < MANY * still.size:
            continue
        value = numbers[counts.argmax()]
        if value in (np.nanmin(values), np.nanmax(values)) or _natural(lookup(name), float(value)):
            continue
        cells, steps = still & (values[0] == value), f"the {len(values)} steps looked at"
        if not any(var.chunks for var in whole.variables.values()):
            cells, steps = (whole[name].values == value).all(0), "all steps"
        if cells.sum() >= MANY * cells.size:
            said.append(
                f"{name}: {int(cells.sum())} of {cells.size} cells hold one value, {value:g} "
                f"{lookup(name).units}, at {steps} (land or gaps that were filled?)"
            )
    return said


def _natural(variable: Variable, value: float) -> bool:
    """Whether places may well hold a value for ever: no rain, no cloud, no ice, water at its freezing point."""
    if variable.kind == "accumulation" or variable.units == "1":
        return value in (0.0, 1.0)
    return variable.name == "sst" and abs(value - FREEZING) < 0.5


def _of_fills(data: xr.DataArray, variable: Variable, raw: str, selection: Selection) -> str:
    """Return what is odd about the values that mean missing in a file: that they may also be values."""
    low, high = limits(variable)
    for value in fills(data.variable):
        try:
            meant_as = convert(value, variable, selection.units_of(variable, raw, data.attrs))
        except EarthSSLError:
            return ""
        if low <= meant_as <= high:
            return f"{variable.name}: {value:g} means missing by the file's own words, though it may be a value"
    return ""

"""Frames of a radar composite: rain rates on a grid of equal cells, any projection, at ascending times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError, in_a_line, nearest
from ...fields.units import SPELLINGS

NAME = "rain_rate"
UNITS = SPELLINGS["mm h-1"]
MOST = 500.0  # mm/h over five minutes: above it, units are others, or echoes no rain
HALF = 0.5  # least share of valid cells that a coarser cell is made of
MINUTE = np.timedelta64(60, "s")


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one file.

    Attributes:
        file: Where they come from.
        times: UTC, ascending, datetime64[s] (frame,).
        rain: mm/h, NaN where the radars see nothing, rows southward if the file says, float32 (frame, row, column).
        licence: As the file has it.
    """

    file: str
    times: np.ndarray
    rain: np.ndarray
    licence: str

    @property
    def step(self) -> np.timedelta64:
        """The usual spacing of frames."""
        return np.sort(np.diff(self.times))[(len(self.times) - 1) // 2]


def read_frames(file: str, coarsen: int = 1) -> Frames:
    """Return the frames of a NetCDF file with `rain_rate` (frame, row, column) and a `time` of each frame.

    Args:
        file: Its path.
        coarsen: Cells along each side that become one, their mean; what is left over at the southern and eastern edge
            is cut off.

    Raises:
        EarthSSLError: If the file cannot be read, or does not hold rain rates that can be.
    """
    try:
        with xr.open_dataset(file) as data:
            if NAME not in data:
                raise EarthSSLError(f"{file}: expected '{NAME}', got no such variable{nearest(NAME, map(str, data))}; "
                                    "rename the rain rates to it")  # fmt: skip
            field, licence = data[NAME], str(data.attrs.get("license", data.attrs.get("licence", "unknown")))
            times, units = _times(data, file), UNITS.get(str(field.attrs.get("units", "")).strip().lower())
            if units is None:
                raise EarthSSLError(f"{file}: expected '{NAME}' in {', '.join(UNITS)}, got units "
                                    f"{field.attrs.get('units')!r}; say them in the file")  # fmt: skip
            values = field.values.astype(np.float32) * np.float32(units[0])  # whole: chunks hold many frames
            row = data[field.dims[1]].values if field.dims[1] in data.coords else None
            if row is not None and row[0] < row[-1]:
                values = values[:, ::-1]
            rain = np.stack([_coarse(one, coarsen, file) for one in values])
    except (OSError, ValueError, TypeError) as error:
        raise EarthSSLError(f"{file}: expected a NetCDF file of radar frames, which cannot be read "
                            f"({in_a_line(error, 120)}); fetch it again") from None  # fmt: skip
    if not np.isfinite(rain).any():
        raise EarthSSLError(f"{file}: expected rain rates, all are missing; choose another file")
    least, most = float(np.nanmin(rain)), float(np.nanmax(rain))
    if least < 0 or most > MOST:
        raise EarthSSLError(f"{file}: expected rain rates within 0…{MOST:g} mm/h, got {least:g}…{most:g}; mark what is "
                            "missing as NaN, turn reflectivities into rain, and say the units")  # fmt: skip
    return Frames(str(file), times, np.ascontiguousarray(rain), licence)


def _times(data: xr.Dataset, file: str) -> np.ndarray:
    """Return the times of the frames, datetime64[s]."""
    field = data[NAME]
    if field.ndim != 3:
        raise EarthSSLError(f"{file}: expected '{NAME}' (frame, row, column), got dims {field.dims}; take one level")
    found = data["time"] if "time" in data.coords else None
    if found is None or found.dims != field.dims[:1] or found.dtype.kind != "M":
        got = "none" if found is None else f"dims {found.dims}, {found.dtype}"
        raise EarthSSLError(f"{file}: expected a CF time of each frame, 'time' ({field.dims[0]}), got {got}; add it")
    times = found.values.astype("datetime64[s]")
    if len(times) < 2 or np.isnat(times).any() or not (np.diff(times) > np.timedelta64(0, "s")).all():
        raise EarthSSLError(f"{file}: expected at least two frames at ascending times, each once; sort them")
    return np.asarray(times)


def _coarse(field: np.ndarray, count: int, file: str) -> np.ndarray:
    """Return the mean over squares of cells, NaN where less than half of one is valid."""
    if count == 1:
        return field
    high, wide = (size // count * count for size in field.shape)
    if not high or not wide:
        raise EarthSSLError(f"{file}: expected more than coarsen {count} cells a side, got {field.shape}; coarsen less")
    cells = field[:high, :wide].reshape(high // count, count, wide // count, count)
    valid = np.isfinite(cells)
    share = valid.mean((1, 3))
    total = np.where(valid, cells, 0).mean((1, 3))
    return np.where(share >= HALF, total / np.maximum(share, HALF), np.nan).astype(np.float32)


def sampled(frames: Frames, every: int) -> Frames:
    """Return every so manieth frame."""
    return Frames(frames.file, frames.times[::every], frames.rain[::every], frames.licence)


def name_of(file: str) -> str:
    """Return the last part of a path."""
    return Path(file).name

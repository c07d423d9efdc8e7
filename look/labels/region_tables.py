"""Regions as files: outlines by date as CSV, to be merged, and masks (time, lat, lon) as NetCDF, for `finetune`."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ...downstream.evaluation.label_tables import SPELLINGS
from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, write_text
from ...ssl.fields.grid import LatLonGrid
from .classes import check_class
from .netcdf_lock import NETCDF_LOCK
from .outlines import DIGITS, Outline, check_outline

OUTLINES, MASKS = "regions.csv", "regions.nc"
HEADER = ("time", "label", "outline")
NOTHING = "no region"  # what a date that was looked at and has none is called
EMPTY = "POLYGON EMPTY"
POLYGON = re.compile(r"POLYGON ?\(\(([-0-9., ]{5,8000})\)\)", re.ASCII)
MOST_CELLS = 2**28  # of all masks: dates × classes × cells
LARGEST_TABLE = 64 * 2**20  # bytes
RESERVED = {*SPELLINGS, "time", NOTHING}

Region = tuple[str, str, Outline]  # time (ISO, UTC), class, outline: () for NOTHING


def check_region_class(name: str) -> str:
    """Return the name of a class of regions.

    Raises:
        EarthSSLError: If it cannot be the name of a variable in the file of masks.
    """
    if "/" in name or not name[0].isalpha() or name.lower() in RESERVED:
        raise EarthSSLError(
            f"class: expected a word that can name a mask (a letter first, no '/', not {', '.join(sorted(RESERVED))}), "
            f"got '{name}'"
        )
    return name


def write_outlines(file: Path, regions: Sequence[Region]) -> None:
    """Write a table of regions, atomically: time, class, and the outline as well-known text (longitude, latitude)."""
    text = io.StringIO()
    rows = [(time, label, _as_text(outline)) for time, label, outline in regions]
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    write_text(file, text.getvalue())


def write_masks(
    file: Path, regions: Sequence[Region], grid: LatLonGrid, cells: Callable[[Outline], np.ndarray]
) -> None:
    """Write a mask for each class, 1 where a cell's centre lies inside a region and 0 elsewhere, atomically.

    The times are the dates with a region or with the word that there is none: on these, all classes are known.

    Args:
        file: NetCDF.
        regions: All that stand.
        grid: Of the masks.
        cells: Returns the cells of it inside an outline, bool (row, column).
    """
    times = sorted({time for time, _, _ in regions})
    at = {time: k for k, time in enumerate(times)}
    classes = sorted({label for _, label, outline in regions if outline})
    masks = {label: np.zeros((len(times), *grid.shape), np.int8) for label in classes}
    for time, label, outline in regions:
        if outline:
            masks[label][at[time]] |= cells(outline)
    found = xr.Dataset(
        {label: (("time", "lat", "lon"), mask, {"units": "1", "long_name": f"inside a region of {label}"})
         for label, mask in masks.items()},
        {"time": np.array(times, "datetime64[ns]"), "lat": grid.lat, "lon": grid.lon},
        {"title": "Regions drawn with earthssl look: corners joined by great circles, by the centres of cells"},
    )  # fmt: skip
    found["lat"].attrs["units"], found["lon"].attrs["units"] = "degrees_north", "degrees_east"
    encoding: dict[str, dict[str, object]] = {
        label: {"zlib": True, "complevel": 1, "dtype": "int8", "_FillValue": None} for label in classes
    }
    encoding["time"] = {"units": "seconds since 1970-01-01", "dtype": "int64"}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with disk_full_is_clear(file):
            temporary.unlink(missing_ok=True)  # of a run that was killed; a link there is not followed
            with NETCDF_LOCK:
                found.to_netcdf(temporary, encoding=encoding)
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def is_outlines(file: Path) -> bool:
    """Return whether a file is a table that `write_outlines` writes, by its first line."""
    try:
        with open(file, encoding="utf-8-sig") as handle:
            return handle.readline(200).strip() == ",".join(HEADER)
    except (OSError, UnicodeDecodeError):
        return False


def read_outlines(file: Path) -> list[Region]:
    """Return the regions of a table that `write_outlines` wrote, in its order.

    Raises:
        EarthSSLError: If the table is too large, or a line is no region: which, and why.
    """
    if file.stat().st_size > LARGEST_TABLE:
        raise EarthSSLError(f"{file}: expected at most {LARGEST_TABLE >> 20} MiB of regions, got more; split it")
    found: list[Region] = []
    with open(file, encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            next(reader)
            for row in reader:
                found.append(_region(row))
        except (EarthSSLError, ValueError, csv.Error) as error:
            raise EarthSSLError(f"{file}, line {reader.line_num}: {error}; mend or leave out the line") from None
    return found


def _region(row: list[str]) -> Region:
    if len(row) != len(HEADER):
        raise EarthSSLError(f"expected {', '.join(HEADER)}, got {len(row)} cells")
    time, label, text = row
    when = np.datetime64(time)
    if np.isnat(when):
        raise EarthSSLError(f"expected an ISO time, got '{time}'")
    time = str(when.astype("datetime64[s]"))
    if text == EMPTY:
        return time, NOTHING, ()
    match = POLYGON.fullmatch(text)
    if match is None:
        raise EarthSSLError(f"expected an outline as POLYGON((longitude latitude, …)), got '{text[:60]}'")
    corners = [[float(part) for part in corner.split()][::-1] for corner in match[1].split(",")]
    return time, check_class(label), check_outline(corners)


def _as_text(outline: Outline) -> str:
    if not outline:
        return EMPTY
    ring = (*outline, outline[0])
    return "POLYGON((" + ", ".join(f"{lon:.{DIGITS}f} {lat:.{DIGITS}f}" for lat, lon in ring) + "))"

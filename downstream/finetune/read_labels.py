"""Labels from a file.

CSV: a header, a column of ISO times in UTC, a column for each target, perhaps lat and lon. NetCDF: a series (time), a
series with a place for each time, or fields (time, lat, lon).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ...ssl.common.errors import EarthSSLError, check_known, nearest
from ...ssl.fields.grid import LatLonGrid
from ...ssl.sources.metadata.calendars import gregorian
from ..evaluation.label_tables import LAT, LON, NO_VALUE, SPELLINGS, csv_table, iso_times, number, plain_places
from .labels import Labels, checked

KINDS = ("regression", "classification", "field")
MISSING = ("refuse", "drop")


def read_labels(path: str, targets: Sequence[str], kind: str, *, time: str = "time", missing: str = "refuse") -> Labels:
    """Return the labels in a CSV or NetCDF file; fields are turned to the order of canonical data, north first.

    Args:
        path: The file; NetCDF where its name ends in .nc, .nc4 or .cdf.
        targets: Columns or variables; one for classification and field.
        kind: regression, classification or field.
        time: Name of the column or coordinate of time.
        missing: "refuse" labels without a value, or "drop" (leave out and count) them.

    Raises:
        EarthSSLError: If the file is not clear: what was expected, what came, in which line, and the remedy.
    """
    check_known("finetune.kind", [kind], KINDS)
    check_known("finetune.missing", [missing], MISSING)
    if not targets or len(set(targets)) < len(targets) or (kind != "regression" and len(targets) > 1):
        some = "different names" if kind == "regression" else "one name"
        raise EarthSSLError(f"finetune.target: expected {some} of what to predict, got {list(targets)}")
    file = Path(path)
    if not file.is_file():
        raise EarthSSLError(f"finetune.labels: expected a CSV or NetCDF file at {file}, found none; check the path")
    if file.suffix in (".nc", ".nc4", ".cdf"):
        return checked(_read_netcdf(file, targets, kind, time, missing))
    if kind == "field":
        raise EarthSSLError(f"{file}: expected fields as NetCDF (.nc) with dimensions {time}, lat, lon, got a table")
    return checked(_read_csv(file, targets, kind, time, missing))


# ---- CSV -------------------------------------------------------------------------------------------------------


def _read_csv(file: Path, targets: Sequence[str], kind: str, time: str, missing: str) -> Labels:
    header, rows = csv_table(file)
    header = plain_places(file, header, (time, *targets))
    places = [name for name in (LAT, LON) if name in header]
    if len(places) == 1:
        raise EarthSSLError(f"{file}: expected both columns lat and lon, or neither, got only '{places[0]}'")
    for name in (time, *targets):
        if name not in header:
            raise EarthSSLError(
                f"{file}, line 1: expected the column '{name}', got {', '.join(header)}." + nearest(name, header)
            )
    kept = []
    for line, row in rows:
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        empty = [name for name in targets if cells[name].lower() in NO_VALUE]
        if not empty:
            kept.append((line, cells))
        elif missing == "refuse":
            raise EarthSSLError(
                f"{file}, line {line}: expected a value of '{empty[0]}', got '{cells[empty[0]]}'; fill it in, leave "
                "the line out, or set missing: drop"
            )
    if not kept:
        raise EarthSSLError(f"{file}: expected labels, got none ({len(rows)} lines without a value)")
    if kind == "classification":
        values = np.asarray([cells[targets[0]] for _, cells in kept], dtype=object)
    else:
        values = np.asarray([[number(file, line, name, cells[name]) for name in targets] for line, cells in kept])
    return Labels(
        kind, tuple(targets), ("",) * len(targets), iso_times(file, [(line, cells[time]) for line, cells in kept]),
        values, np.asarray([_place(file, line, cells) for line, cells in kept]) if places else None,
        np.asarray([line for line, _ in kept]), str(file), dropped=len(rows) - len(kept),
    )  # fmt: skip


def _place(file: Path, line: int, cells: dict[str, str]) -> tuple[float, float]:
    try:
        y, x = float(cells[LAT]), float(cells[LON])
    except ValueError:
        y = x = math.nan
    if not (-90 <= y <= 90 and -180 <= x <= 360):
        raise EarthSSLError(
            f"{file}, line {line}: expected a latitude within ±90° and a longitude within -180°…360°, got "
            f"'{cells[LAT]}', '{cells[LON]}'; mend or leave out the line"
        )
    return y, x % 360


# ---- NetCDF ----------------------------------------------------------------------------------------------------


def _read_netcdf(file: Path, targets: Sequence[str], kind: str, time: str, missing: str) -> Labels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # times out of range are refused below
            data = xr.load_dataset(file)
    except (OSError, ValueError) as error:
        raise EarthSSLError(f"{file}: expected NetCDF, but it cannot be read ({error}); write it anew") from None
    data = data.rename({
        str(old): SPELLINGS[str(old).lower()] for old in {*data.variables, *data.dims}
        if str(old).lower() in SPELLINGS and old not in (*targets, time) and SPELLINGS[str(old).lower()] != old
        and SPELLINGS[str(old).lower()] not in data.variables
    })  # fmt: skip
    wanted = (time, LAT, LON) if kind == "field" else (time,)
    for name in targets:
        if name not in data.data_vars:
            known = [str(found) for found in data.data_vars]
            raise EarthSSLError(
                f"{file}: expected the variable '{name}', got {', '.join(known) or 'none'}." + nearest(name, known)
            )
        if set(data[name].dims) != set(wanted):
            raise EarthSSLError(
                f"{file}: expected '{name}' with dimensions ({', '.join(wanted)}) for kind {kind}, got "
                f"({', '.join(map(str, data[name].dims))})"
            )
    for axis in wanted:
        if axis not in data.coords or data[axis].dims != (axis,):
            known = [str(found) for found in data.coords]
            raise EarthSSLError(f"{file}: expected a coordinate '{axis}', got {', '.join(known) or 'none'}")
        if not data.sizes[axis]:
            raise EarthSSLError(f"{file}: expected labels, got none: its coordinate '{axis}' is empty; write it anew")
    times = gregorian(data[time].values, str(file)).astype("datetime64[s]")
    grid, places = None, None
    if kind == "field":
        turned = data[targets[0]].transpose(*wanted)
        turned = turned.assign_coords({LON: turned[LON].values.astype(np.float64) % 360})
        turned = turned.sortby(LAT, ascending=False).sortby(LON)
        values = _floats(file, turned).astype(np.float32)
        values[~np.isfinite(values)] = np.nan
        lost = np.isnan(values).all((1, 2))
        grid = LatLonGrid(turned[LAT].values.astype(np.float64), turned[LON].values)
    else:
        places = _places(file, data, time)
        if kind == "classification":
            raw = [word.decode() if isinstance(word, bytes) else str(word) for word in data[targets[0]].values]
            values, lost = np.asarray(raw, dtype=object), np.asarray([word.lower() in ("nan", "") for word in raw])
        else:
            values = np.stack([_floats(file, data[name]) for name in targets], 1)
            lost = ~np.isfinite(values).all(1)
        if lost.any() and missing == "refuse":
            raise EarthSSLError(
                f"{file}: expected a finite value at every time, got none at {times[lost][0]} ({int(lost.sum())} in "
                "all); leave these times out, or set missing: drop"
            )
    if lost.all():
        raise EarthSSLError(f"{file}: expected labels, got none with a value")
    return Labels(
        kind, tuple(targets), tuple(str(data[name].attrs.get("units", "")) for name in targets), times[~lost],
        values[~lost], None if places is None else places[~lost], np.zeros(int((~lost).sum()), int), str(file), grid,
        dropped=int(lost.sum()),
    )  # fmt: skip


def _floats(file: Path, values: xr.DataArray) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        raise EarthSSLError(
            f"{file}: expected numbers of '{values.name}', got {values.dtype}; for words set kind: classification"
        )
    return values.values.astype(np.float64)


def _places(file: Path, data: xr.Dataset, time: str) -> np.ndarray | None:
    """Return lat(time) and lon(time), if the file has them."""
    found = [name for name in (LAT, LON) if name in data.variables and data[name].dims == (time,)]
    if not found:
        return None
    if len(found) == 1:
        raise EarthSSLError(f"{file}: expected both lat({time}) and lon({time}), or neither, got only {found[0]}")
    lat, lon = (data[name].values.astype(np.float64) for name in (LAT, LON))
    if not ((np.abs(lat) <= 90) & (lon >= -180) & (lon <= 360)).all():
        raise EarthSSLError(f"{file}: expected latitudes within ±90° and longitudes within -180°…360°, got others")
    return np.stack([lat, lon % 360], 1)

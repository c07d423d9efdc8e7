"""Open local files: NetCDF, GRIB or Zarr; one, a list, or a glob."""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError, in_a_line, nearest
from ..fields.plausible import ImpossibleValueError
from ..fields.variables import Variable, convert
from .axes import canonical_axes
from .canonical import EAGER_BYTES, FILL, canonicalise, reading, understanding
from .conventions import CONVERTED, has_limits, joined_experiments, limited
from .formats.grib import open_grib
from .formats.netcdf3 import expected_bytes
from .metadata.calendars import counted_in_months
from .metadata.meaning import meant
from .possible import all_possible
from .selection import Selection

NEAR = 1e-3  # of the distance of two cells: axes that differ by less differ by rounding
UNPACK = "unpack it first"
PACKED = {
    b"PK\x03\x04": f"a ZIP archive, as the Climate Data Store sends several files; {UNPACK}: `unzip`",
    b"\x1f\x8b": f"a gzip file; {UNPACK}: `gunzip`", b"BZh": f"a bzip2 file; {UNPACK}: `bunzip2`",
    b"\xfd7zXZ": f"an xz file; {UNPACK}: `unxz`", b"\x0e\x03\x13\x01": "HDF4; convert it to NetCDF first",
    b"<": "a web page or XML, as a server sends in place of a file; look at what it says, and fetch the file again",
    b"{": "JSON, as a server sends in place of a file; look at what it says, and fetch the file again",
}  # fmt: skip
ENGINES = {"netcdf4": "NetCDF", "cfgrib": "GRIB", "zarr": "Zarr"}


def open_files(
    path: str | Path | Sequence[str | Path],
    *,
    engine: str | None = None,
    grib_filter: Mapping[str, Any] | None = None,
    group: str | None = None,
    eager_bytes: int = EAGER_BYTES,
    check_range: bool | Mapping[str, tuple[float, float]] = True,
    **options: Any,
) -> xr.Dataset:
    """Return the files as one canonical dataset (see `canonicalise`).

    Several files are put together by their coordinates: those with the same variables one after the other
    in time, those with other variables side by side on the same times and grid.

    Args:
        path: A file, a Zarr folder, a glob such as `data/era5_*.nc`, or a list of these.
        engine: netcdf4, cfgrib or zarr; None looks at the first bytes of each file.
        grib_filter: For GRIB files that mix kinds of levels or steps: which messages to take, by their
            keys, such as {typeOfLevel: isobaricInhPa}.
        group: For NetCDF files that hold their fields in a group: its name.
        eager_bytes: Read everything at once up to this size; larger data stay lazy.
        check_range: See `canonicalise`.
        **options: Fields of `Selection`: variables, levels, time, every, member, region, coarsen,
            resolution, least_valid, units, rename, missing.

    Raises:
        EarthSSLError: If a file is missing, truncated or of another format, if a glob matches nothing, if
            the files do not fit together, or whatever `canonicalise` refuses.
    """
    if engine is not None and engine not in ENGINES:
        raise EarthSSLError(f"option engine: expected {', '.join(ENGINES)}, got '{engine}'.{nearest(engine, ENGINES)}")
    files = matched(path)
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    selection = Selection(**options)
    parts = [(file, ds) for file in files for ds in _open_one(file, engine, grib_filter or {}, group, selection)]
    opened = [ds for _, ds in parts]
    titles = [str(ds.attrs["title"]) for ds in opened if ds.attrs.get("title")]
    attrs = {
        "source": f"files: {titles[0] if titles else files[0].name}",
        "files": ", ".join(f"{file.name} ({_size(file)} bytes)" for file in files),
    }
    if len(opened) == 1:
        ds = opened[0]
    else:
        ds, one_level = _together(parts, where, selection, eager_bytes)
        options |= _with_levels(selection, one_level)
    try:
        return canonicalise(ds, where=where, attrs=attrs, eager_bytes=eager_bytes, check_range=check_range, **options)
    except ImpossibleValueError as error:
        raise ImpossibleValueError(
            with_file(str(error), path, error.time, engine, group, grib_filter), error.time
        ) from None


def with_file(
    text: str,
    path: str | Path | Sequence[str | Path],
    time: np.datetime64,
    engine: str | None = None,
    group: str | None = None,
    grib_filter: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Return an error's text with the one of several files in front that holds the time."""
    files = matched(path)
    for file in files if len(files) > 1 else []:
        for ds in _open_one(file, engine, grib_filter or {}, group, Selection()):
            if time in canonical_axes(ds, str(file))["time"].values:
                return str(file) + text[text.index(": expected '") :]
    return text


def matched(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that the path, the glob or the list of these means, each once.

    Raises:
        EarthSSLError: If one is missing, or if a glob matches nothing.
    """
    given = [path] if isinstance(path, (str, Path)) else list(path)
    if not given:
        raise EarthSSLError("option path: expected at least one file, got an empty list")
    found: list[Path] = []
    for item in given:
        plain = Path(item).expanduser()
        if plain.exists():
            found.append(plain)
        elif glob.has_magic(str(item)):
            names = sorted(glob.glob(str(plain), recursive=True))
            if not names:
                raise EarthSSLError(f"option path: no file matches '{item}'; looked from {Path.cwd()}")
            found += [Path(name) for name in names]
        else:
            if plain.is_symlink():
                raise EarthSSLError(f"option path: '{item}' is a link to a file that is not there")
            hint = nearest(plain.name, [p.name for p in plain.parent.iterdir()]) if plain.parent.is_dir() else ""
            raise EarthSSLError(f"option path: no such file: '{item}'; looked from {Path.cwd()}.{hint}")
    return list(dict.fromkeys(found))


def open_zarr(store: Any, where: str, *, consolidated: bool | None, **kwargs: Any) -> xr.Dataset:
    """Return a Zarr store (format 2 or 3), nothing read yet.

    The fill value 0 of format 2 is what writers put that were told none: it does not make zeros missing, unless they
    are the least of unsigned packed numbers.

    Raises:
        EarthSSLError: If it is none, or its times cannot be decoded.
    """
    try:
        with _quiet():
            ds = xr.open_zarr(store, chunks=None, consolidated=consolidated, decode_cf=False, **kwargs)
            for var in ds.variables.values():
                if _by_default(var):
                    del var.attrs["_FillValue"]
            return xr.decode_cf(counted_in_months(ds), decode_timedelta=False)
    except Exception as error:  # whatever a library meets in a damaged or strange store
        raise _unreadable(where, "Zarr", error) from None


def _by_default(var: xr.Variable) -> bool:
    """Whether a Zarr array's fill value is the 0 that format 2 has by default."""
    fill = var.attrs.get("_FillValue")
    packed = "scale_factor" in var.attrs or "add_offset" in var.attrs
    unsigned = var.dtype.kind == "u" or str(var.attrs.get("_Unsigned", "")).lower() == "true"
    named = "serializer" in var.encoding  # format 3, where an attribute says it
    return isinstance(fill, (int, float, np.number)) and not fill and not named and not (packed and unsigned)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the reader's remarks on attributes from users: several values that mean missing are all taken for that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)
        yield


def _open_one(
    path: Path, engine: str | None, grib_filter: Mapping[str, Any], group: str | None, selection: Selection
) -> list[xr.Dataset]:
    """Return a file as a dataset, or GRIB as one for each kind of field."""
    kind = engine or _kind(path)
    if kind == "cfgrib":
        return open_grib(path, grib_filter, selection.rename, selection.variables)
    if kind == "zarr":
        return [open_zarr(str(path), str(path), consolidated=False, group=group)]
    return [open_netcdf(path, group)]


def open_netcdf(path: Path, group: str | None = None) -> xr.Dataset:
    """Return a NetCDF file (or a group of it), nothing read yet, its times decoded, those in months or years too.

    Raises:
        EarthSSLError: In one line, if it is none, damaged, or its times cannot be decoded.
    """
    check_whole(path)
    try:
        with _quiet():
            ds = _decoded(path, group)
        if group is None and not ds.data_vars:
            _refuse_groups(path)
        return ds
    except EarthSSLError:
        raise
    except Exception as error:  # whatever a library meets in a damaged or strange file
        if group is not None and "group not found" in str(error):
            found = _groups(path)
            raise EarthSSLError(
                f"{path}: has no group '{group}'.{nearest(group, found)} There are: {', '.join(found) or 'none'}"
            ) from None
        raise _unreadable(str(path), "NetCDF", error) from None


def _decoded(path: Path, group: str | None) -> xr.Dataset:
    try:
        return xr.open_dataset(path, engine="netcdf4", decode_timedelta=False, group=group)
    except ValueError as error:
        if not re.search(r"(?:month|year)s?\s+since", str(error)):
            raise
    ds = xr.open_dataset(path, engine="netcdf4", decode_times=False, decode_timedelta=False, group=group)
    return xr.decode_cf(counted_in_months(ds), decode_timedelta=False)


def _refuse_groups(path: Path) -> None:
    """Refuse a file whose fields lie in groups."""
    found = _groups(path)
    if found:
        raise EarthSSLError(
            f"{path}: its fields lie in groups; choose one with the option group, as in group: {found[0]}; there are: "
            f"{', '.join(found)}"
        )


def _groups(path: Path) -> list[str]:
    def names(node: Any, before: str) -> list[str]:
        own = [(f"{before}{name}", child) for name, child in node.groups.items()]
        return [n for full, child in own for n in ([full] if child.variables else []) + names(child, f"{full}/")]

    with netCDF4.Dataset(path) as handle:
        return names(handle, "")


def _kind(path: Path) -> str:
    if path.is_dir():
        if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            return "zarr"
        raise EarthSSLError(f"{path}: expected a Zarr store, got a folder without one; for files in it: '{path}/*.nc'")
    with open(path, "rb") as handle:
        start = handle.read(8)
    if not start:
        raise EarthSSLError(f"{path}: expected NetCDF, GRIB or Zarr, got an empty file; fetch it again")
    if start.startswith((b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF")):
        return "netcdf4"
    if start.startswith(b"GRIB"):
        return "cfgrib"
    packed = next((what for mark, what in PACKED.items() if start.startswith(mark)), None)
    if packed:
        raise EarthSSLError(f"{path}: expected NetCDF, GRIB or Zarr, got {packed}")
    if path.suffix in (".nc", ".nc4", ".netcdf", ".cdf"):
        raise EarthSSLError(f"{path}: is truncated or not NetCDF (it begins with {start!r}); fetch it again")
    raise EarthSSLError(f"{path}: expected NetCDF, GRIB or Zarr, got a file that begins with {start!r}")


def check_whole(path: Path) -> None:
    """Raise an EarthSSLError where a NetCDF file is shorter than its own header says, or cannot be opened."""
    with open(path, "rb") as handle:
        classic = handle.read(3) == b"CDF"
    size = path.stat().st_size
    if classic:
        try:
            needed = expected_bytes(path)
        except EOFError as error:
            raise EarthSSLError(f"{path}: is truncated or not NetCDF ({error}); fetch it again") from None
        if size < needed:
            raise EarthSSLError(f"{path}: is truncated: it has {size} of {needed} bytes; fetch it again")


def _unreadable(where: str, kind: str, error: Exception) -> EarthSSLError:
    text = in_a_line(error)
    if "decode time" in text or "calendar" in text or "cftime" in text:
        return EarthSSLError(
            f"{where}: its times cannot be decoded ({text}); expected CF units such as 'days since 1800-01-01'"
        )
    if isinstance(error, (AttributeError, TypeError)) or "size 1" in text:
        return EarthSSLError(
            f"{where}: cannot be understood ({text}); an attribute is not what CF files hold: look at "
            "it with `ncdump -h`"
        )
    return EarthSSLError(f"{where}: is truncated or not {kind} ({text}); fetch it again")


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _together(
    parts: list[tuple[Path, xr.Dataset]], where: str, selection: Selection, eager_bytes: int
) -> tuple[xr.Dataset, dict[str, list[str]]]:
    """Join in time the files with the same variables, then lay those with others side by side.

    Where they lie on other levels, each level becomes a variable; returned are their names by the one they had, too.
    """
    lazy = sum(ds.nbytes for _, ds in parts) > eager_bytes
    groups: dict[tuple[str, ...], list[tuple[str, xr.Dataset]]] = {}
    first: xr.Dataset | None = None
    for file, raw in parts:
        with understanding(str(file)):
            ds = canonical_axes(raw, str(file))
        if lazy:  # without chunks, joining reads everything
            ds = ds.chunk({"time": "auto"})
        first = ds if first is None else first
        ds = joined_experiments(_on_axes_of(first, ds))
        groups.setdefault(tuple(sorted(map(str, ds.data_vars))), []).append((str(file), ds))
    try:
        with reading(where):
            joined = [_in_time(_of_one_kind(group, selection)) for group in groups.values()]
            joined, one_level = _level_by_level(joined, selection)
            return xr.merge(joined, join="exact", compat="override", combine_attrs="override"), one_level
    except (ValueError, xr.MergeError) as error:
        text = in_a_line(error, 200)
        raise EarthSSLError(
            f"{where}: the files do not fit together ({text}); expected one grid, and the same times for "
            "different variables (option variables takes some of them)"
        ) from None


def _on_axes_of(first: xr.Dataset, ds: xr.Dataset) -> xr.Dataset:
    """Return a file's data on the axes of the first, where theirs differ by rounding alone."""
    for axis in ("lat", "lon"):
        own, other = ds[axis].values.astype(float), first[axis].values.astype(float)
        if own.shape != other.shape or len(own) < 2 or np.array_equal(own, other):
            continue
        apart = own - other if axis == "lat" else (own - other + 180) % 360 - 180  # 60°W is 300°E
        if np.abs(apart).max() <= NEAR * np.abs(np.diff(other)).min():
            ds = ds.assign_coords({axis: (axis, first[axis].values, first[axis].attrs)})  # alone
    return ds


def _of_one_kind(group: list[tuple[str, xr.Dataset]], selection: Selection) -> list[xr.Dataset]:
    """Return files with the same variables, each variable limited by its own file's attributes and in one unit.

    Raises:
        EarthSSLError: If a variable has no units in one of them, or means another quantity there.
    """
    _refuse_other_labels(group)
    parts = [ds.copy(deep=False) for _, ds in group]
    for raw in (str(name) for name in parts[0].data_vars):
        found = [_meant(ds, raw, selection) for ds in parts]
        variable = found[0]
        other = next((k for k, one in enumerate(found) if (one and one.name) != (variable and variable.name)), None)
        if other is not None:
            names = ["something else" if one is None else f"'{one.name}'" for one in (variable, found[other])]
            raise EarthSSLError(
                f"{group[other][0]}: expected '{raw}' to be {names[0]} as in {group[0][0]}, got {names[1]} by its "
                "attributes; open them apart, or say what it is with the option rename"
            )
        if variable is None:
            continue
        units = [selection.units_of(variable, raw, ds[raw].attrs) for ds in parts]
        same = len({str(unit) for unit in units}) == 1
        if same and not any(has_limits(ds[raw]) for ds in parts):
            continue
        for (file, _), ds, unit in zip(group, parts, units, strict=True):
            data = limited(ds[raw], selection.missing_of(variable, raw))
            if not same:
                try:
                    data = convert(data.astype(np.float32), variable, unit).assign_attrs(data.attrs)
                except EarthSSLError as error:
                    raise EarthSSLError(f"{file}: {error}") from None
                data = data.where(abs(data) < FILL).assign_attrs(
                    {**data.attrs, "units": variable.units, CONVERTED: True}
                )
                if set(data.dims) == {"time", "lat", "lon"}:
                    data = data.transpose("time", "lat", "lon")
                    data = all_possible(data, variable, str(unit), raw, selection, file)
            ds[raw] = data
    return parts


def _level_by_level(joined: list[xr.Dataset], selection: Selection) -> tuple[list[xr.Dataset], dict[str, list[str]]]:
    """Return the datasets with a variable for each level, where their levels differ, and the names of those."""
    levels = {(ds["level"].ndim, *np.atleast_1d(ds["level"].values).tolist()) for ds in joined if "level" in ds.coords}
    if len(levels) < 2:
        return joined, {}
    found: dict[str, list[str]] = {}
    flat = []
    for ds in joined:
        for raw in [str(name) for name in ds.data_vars] if "level" in ds.coords else []:
            variable = _meant(ds, raw, selection)
            if variable is None or not variable.on_levels or variable.level is not None:
                continue
            there = np.atleast_1d(ds["level"].values).tolist()
            wanted = [level for level in there if selection.levels is None or level in selection.levels]
            for level in wanted:
                one = ds[raw].sel(level=level) if ds["level"].ndim else ds[raw]
                ds[f"{variable.name}{level}"] = one.drop_vars("level").assign_attrs(ds[raw].attrs)
                for name in {variable.name, raw}:
                    found.setdefault(name, []).append(f"{variable.name}{level}")
            ds = ds.drop_vars([raw])
        flat.append(ds.drop_dims("level") if "level" in ds.dims else ds.drop_vars("level", errors="ignore"))
    return flat, found


def _with_levels(selection: Selection, one_level: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the options that ask for single levels what others ask for of a variable on levels."""
    if not one_level:
        return {}
    renamed = {raw: name for raw, name in selection.rename.items() if raw not in one_level}
    if selection.variables is None:
        return {"levels": None, "rename": renamed}
    names = [name for asked in selection.variables for name in one_level.get(asked, [asked])]
    return {"variables": list(dict.fromkeys(names)), "levels": None, "rename": renamed}


def _refuse_other_labels(group: list[tuple[str, xr.Dataset]]) -> None:
    """Refuse files of one variable that lie at another level, height or member each, by a single label of theirs."""
    first_file, first = group[0]
    for file, ds in group[1:]:
        for name in {*first.coords, *ds.coords} - {"time", "lat", "lon"}:
            own, other = (one.coords[name].values if name in one.coords else None for one in (ds, first))
            if own is None or other is None or own.size != 1 or other.size != 1 or own.dtype.kind in "mM":
                continue
            a, b = own.reshape(-1)[0], other.reshape(-1)[0]
            if a != b and not (own.dtype.kind == other.dtype.kind == "f" and np.isclose(a, b, equal_nan=True)):
                raise EarthSSLError(
                    f"{file}: expected '{name}' to be {b} as in {first_file}, got {a}; open them "
                    "apart: they hold other fields"
                )


def _meant(ds: xr.Dataset, raw: str, selection: Selection) -> Variable | None:
    """Return what a variable of a file is; None for one that is not in the table."""
    try:
        return meant(ds, raw, selection.rename)
    except EarthSSLError:
        return None


def _in_time(group: list[xr.Dataset]) -> xr.Dataset:
    if len(group) == 1:
        return group[0].sortby("time")
    joined = xr.concat(
        group, "time", data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override"
    )
    return joined.sortby("time")

"""Bring any gridded dataset to the one canonical form that everything downstream relies on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError, in_a_line, nearest
from ..fields.splits import repeated_step
from ..fields.variables import Variable, convert, lookup, resolve
from .axes import canonical_axes, levels_left_out
from .conventions import CONVERTED, joined_experiments, limited
from .metadata.meaning import ContradictionError, likely, meant
from .metadata.remarks import remarks, told_of_sample
from .possible import all_possible
from .regrid import coarsened, grid_of, onto, oriented, region_of, regridded
from .selection import Selection
from .times import ENDS

EAGER_BYTES = 256 * 2**20  # local data up to this size are read at once; larger ones stay lazy
CHUNK_BYTES = 32 * 2**20  # of one variable in a lazy dataset
FILL = 1e15  # no variable comes near in canonical units: beyond it stand fill values (1e20, 9.97e36, inf)
UNKNOWN_TERMS = "not stated in the data; see the terms of whoever publishes them"


@dataclass(frozen=True)
class _Field:
    """One canonical field and where it comes from."""

    variable: Variable
    raw: str
    level: int | None  # to take from the level dimension


def canonicalise(
    ds: xr.Dataset,
    *,
    where: str = "dataset",
    attrs: Mapping[str, str] | None = None,
    assume_units: bool = False,
    eager_bytes: int = EAGER_BYTES,
    exhaustive: bool = True,
    check_range: bool | Mapping[str, tuple[float, float]] = True,
    **options: Any,
) -> xr.Dataset:
    """Return the dataset in canonical form: dims (time, lat, lon), canonical names and units, float32.

    Latitude descends, longitude ascends in [0, 360), both float64; time is datetime64[ns] in UTC, sorted and
    unique; variables on levels become one field a level (`z500`). Missing is NaN: so are infinities and
    anything beyond ±1e15, which are undeclared fill values. A cyclic column is taken once. Dimensions of
    length 1 are dropped.

    Args:
        ds: As opened; read lazily where possible.
        where: What the data are called in error messages: a path, a URL.
        attrs: Attributes of the result beside those found: source, licence, citation.
        assume_units: Take canonical units for granted where the file says nothing (ERA5 is in SI units).
        eager_bytes: Read everything at once up to this size; larger data stay lazy (dask, chunked in time).
        exhaustive: Search all steps, not 12, before refusing a variable whose first ones hold nothing.
        check_range: Refuse what no place on Earth has; False where such values are meant; by variable, the lowest and
            highest values of another planet.
        **options: Fields of `Selection`.

    Raises:
        EarthSSLError: If the data are not gridded, lack what is asked for, or cannot be understood.
    """
    selection = Selection(**options)
    with understanding(where):
        return _canonical(ds, where, attrs or {}, assume_units, eager_bytes, exhaustive, check_range, selection)


def _canonical(
    ds: xr.Dataset, where: str, attrs: Mapping[str, str], assume_units: bool, eager_bytes: int, exhaustive: bool,
    check_range: bool | Mapping[str, tuple[float, float]], selection: Selection,
) -> xr.Dataset:  # fmt: skip
    ds = canonical_axes(ds, where)  # keeps the attributes
    _check_rename(ds, selection, where)
    known, left_out = _known(ds, selection, where)
    fields = _choose(ds, known, selection, where)
    ds = _selected(ds, fields, selection, where)
    target = None if selection.grid is None else grid_of(selection.grid)

    def finished(part: xr.Dataset) -> xr.Dataset:
        part = joined_experiments(part)
        part = oriented(_convert_all(part, fields, selection, assume_units, where), where)
        limits = {} if isinstance(check_range, bool) else check_range
        for one in () if check_range is False else fields:
            units = selection.units_of(one.variable, one.raw, ds[one.raw].attrs)
            data = part[one.variable.name]
            part[one.variable.name] = all_possible(
                data, one.variable, units, one.raw, selection, where, limits.get(one.variable.name)
            )
        part = regridded(part, selection.resolution, where, selection.least_valid)
        part = region_of(part, selection.region, where)
        part = coarsened(part, selection.coarsen, where, selection.least_valid)
        if target is None:
            return part
        part, text = onto(part, target, where, selection.least_valid, of=str(selection.grid))
        return part.assign_attrs({"regridded": text} if text else {})

    whole = _read_or_chunk(ds, eager_bytes, where)  # reads `ds` itself where it is small
    result, steps = finished(whole), ds.sizes["time"]
    some = sorted({0, steps // 2, steps - 1})
    if any(var.chunks for var in whole.variables.values()):
        with reading(where):  # exactly these steps, without the rest of a chunk: they may come over a network
            sample = finished(ds.isel(time=some).load())
    else:
        sample = result.isel(time=some)
    for field in fields:
        _refuse_if_empty(sample[field.variable.name], result[field.variable.name], exhaustive, where)
    how = {"regridded": result.attrs["regridded"]} if "regridded" in result.attrs else {}
    result.attrs = _attributes(ds.attrs, attrs, left_out if selection.variables is None else []) | how
    said = remarks(ds, [(field.variable, field.raw) for field in fields], selection)
    said += levels_left_out(ds, {field.variable.name: field.raw for field in fields})
    said += told_of_sample(sample, result, ds.attrs.get(ENDS))
    if said:
        result.attrs["remarks"] = "; ".join(said)
    return result


def contents(ds: xr.Dataset, where: str, rename: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the canonical names of what the data hold, and the gridded variables that are not understood.

    Args:
        ds: As opened; nothing is read.
        where: What the data are called in error messages.
        rename: Canonical names by the data's own.

    Raises:
        EarthSSLError: If the data are not gridded, or none of their variables is understood.
    """
    ds = canonical_axes(ds, where)
    selection = Selection(rename=rename)
    _check_rename(ds, selection, where)
    known, left_out = _known(ds, selection, where)
    return _names(ds, known), left_out


@contextmanager
def understanding(where: str) -> Iterator[None]:
    """Turn an error of a library, over an attribute or an axis that no one foresaw, into one that names the file."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        text = in_a_line(error)
        raise EarthSSLError(
            f"{where}: cannot be understood ({text}); an attribute, an axis or a type of values is not what CF files "
            "hold: look at it with `ncdump -h`"
        ) from error


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn a failure to read into an error that names the file or store."""
    try:
        yield
    except (OSError, RuntimeError, EOFError) as error:
        text = in_a_line(error)
        raise EarthSSLError(
            f"{where}: cannot be read ({text}); the data are truncated, damaged or out of reach: fetch them again"
        ) from None


def _selected(ds: xr.Dataset, fields: list[_Field], selection: Selection, where: str) -> xr.Dataset:
    """Return the variables, member, steps and levels that are wanted, still unread."""
    ds = ds[list(dict.fromkeys(field.raw for field in fields))]
    ds = _squeezed(_one_member(ds, selection, where), where)
    ds = ds.isel(time=selection.steps(ds["time"].values, where))
    again = repeated_step(ds["time"].values)
    if again is not None:
        raise EarthSSLError(
            f"{where}: expected every {again[0]} once, got {again[1]!s:.16} and {again[2]!s:.16}; remove one of them, "
            f"or give each {again[0]} in one file"
        )
    if ds.sizes.get("level", 1) > 1:
        wanted = {field.level for field in fields}
        ds = ds.isel(level=[k for k, level in enumerate(ds["level"].values) if level in wanted])
    return ds


def _check_rename(ds: xr.Dataset, selection: Selection, where: str) -> None:
    for raw in selection.rename:
        if raw not in ds.data_vars:
            raise EarthSSLError(
                f"{where}: option rename names '{raw}', which is not there.{nearest(raw, map(str, ds.data_vars))} "
                f"Gridded variables: {_listed(ds.data_vars)}"
            )


def _known(ds: xr.Dataset, selection: Selection, where: str) -> tuple[dict[str, Variable], list[str]]:
    """Return the table's row by name in the file, and the gridded variables that are not in the table."""
    known: dict[str, Variable] = {}
    left_out = []
    for raw, var in ((str(name), var) for name, var in ds.data_vars.items()):
        try:
            variable = meant(ds, raw, selection.rename)
        except ContradictionError as error:
            names = (error.variable.name, error.variable.base, raw)
            if selection.variables is None or any(name in selection.variables for name in names):
                raise EarthSSLError(f"{where}: {error}") from None
            left_out.append(raw)
            continue
        except EarthSSLError:
            if raw in selection.rename:
                raise
            left_out.append(raw)
            continue
        if "time" in var.dims or raw in selection.rename:
            known[raw] = variable
        else:
            left_out.append(raw)
    if not known:
        first = str(next(iter(ds.data_vars), "name_in_file"))
        like = likely(ds, first)
        raise EarthSSLError(
            f"{where}: none of its gridded variables is known ({_listed(ds.data_vars)}); " + (
                f"say what they are with the option rename, as in rename: {{{first}: {like}}}" if like else
                f"and none that is comes in '{ds[first].attrs['units']}', as '{first}' does; make one of it "
                "(of a rate, sums over a step) in another file first"
            )
        )  # fmt: skip
    return known, left_out


def _choose(ds: xr.Dataset, known: dict[str, Variable], selection: Selection, where: str) -> list[_Field]:
    """Return the canonical fields that the options ask for, in their order."""
    variables = [known[raw] for raw in known] if selection.variables is None else [
        _asked(name, ds, known, where) for name in selection.variables
    ]  # fmt: skip
    fields: dict[str, _Field] = {}
    for variable in variables:
        raw_names = [raw for raw, row in known.items() if row.name in (variable.name, variable.base)]
        # `u850` beside `u` on levels: the field of its own goes first
        raw_names.sort(key=lambda raw: known[raw].name != variable.name)
        if not raw_names:
            raise EarthSSLError(
                f"{where}: '{variable.name}' is not there.{nearest(variable.name, _names(ds, known))} "
                f"There are: {_listed(_names(ds, known))}"
            )
        same = [raw for raw in raw_names if known[raw].name == known[raw_names[0]].name]
        if len(same) > 1:
            raise EarthSSLError(
                f"{where}: {_listed(same)} are all '{known[same[0]].name}'; rename or remove all but one"
            )
        for field in _on_levels(ds, raw_names[0], variable, known[raw_names[0]], selection, where):
            fields.setdefault(field.variable.name, field)
    if selection.levels is not None and all(field.level is None for field in fields.values()):
        raise EarthSSLError(
            f"{where}: option levels is given, but no variable taken is on levels ({_listed(fields)}); leave it out"
        )
    return list(fields.values())


def _asked(name: str, ds: xr.Dataset, known: Mapping[str, Variable], where: str) -> Variable:
    """Return what a name in the options means: a canonical name, one of the file's own, or an alias."""
    if name in known:
        try:
            return lookup(name)
        except EarthSSLError:
            return known[name]
    try:
        return resolve(name)
    except EarthSSLError:
        there = _names(ds, known)
        raise EarthSSLError(
            f"{where}: option variables names '{name}', which is neither there nor a known variable."
            f"{nearest(name, [*there, *known])} There are: {_listed(there)}"
        ) from None


def _on_levels(
    ds: xr.Dataset, raw: str, wanted: Variable, found: Variable, selection: Selection, where: str
) -> list[_Field]:
    if not found.on_levels or found.level is not None:
        if "level" in ds[raw].dims and ds.sizes["level"] > 1:
            raise EarthSSLError(
                f"{where}: '{raw}' has {ds.sizes['level']} levels, but '{found.name}' is one field; "
                f"say what it is with the option rename, as in rename: {{{raw}: t}}"
            )
        return [_Field(found, raw, None)]
    if "level" not in ds[raw].dims:
        if "level" not in ds.coords:
            raise EarthSSLError(
                f"{where}: expected a pressure level for '{raw}', found none{_other_axes(ds[raw])}; name its level "
                f"with the option rename, as in rename: {{{raw}: {found.name}500}}"
            )
        only = int(ds["level"].values)
        if wanted.level not in (None, only) or (wanted.level is None and selection.levels not in (None, (only,))):
            raise EarthSSLError(f"{where}: '{raw}' is at {only} hPa only, not where the options ask for it")
        return [_Field(found.at_level(only), raw, None)]
    there = [int(level) for level in ds["level"].values]
    if wanted.level is not None:
        levels: tuple[int, ...] = (wanted.level,)
    else:
        levels = selection.levels if selection.levels is not None else tuple(there)
    absent = [level for level in levels if level not in there]
    if absent:
        raise EarthSSLError(f"{where}: '{raw}' has no level {_listed(absent)} hPa; there are {_listed(there)}")
    return [_Field(found.at_level(level), raw, level) for level in levels]


def _other_axes(data: xr.DataArray) -> str:
    """Return what else a field lies along, in words."""
    others = [dim for dim in data.dims if dim not in ("time", "lat", "lon", "member", "expver")]
    units = {dim: data[dim].attrs.get("units", "") for dim in others if dim in data.coords}
    said = ", ".join(f"'{dim}'{f' ({units[dim]})' if units.get(dim) else ''}" for dim in others)
    return f" (its axis {said} is no pressure by units and names)" if said else ""


def _names(ds: xr.Dataset, known: Mapping[str, Variable]) -> list[str]:
    names = []
    for raw, row in known.items():
        on_axis = row.on_levels and row.level is None and "level" in ds[raw].dims
        names += [f"{row.name}{level}" for level in ds["level"].values] if on_axis else [row.name]
    return names


def _one_member(ds: xr.Dataset, selection: Selection, where: str) -> xr.Dataset:
    if "member" not in ds.dims:
        if selection.member is not None:
            raise EarthSSLError(f"{where}: option member is given, but there is no ensemble dimension; leave it out")
        return ds
    labels = [str(label) for label in ds["member"].values]
    if selection.member is None and len(labels) > 1:
        raise EarthSSLError(
            f"{where}: it holds an ensemble of {len(labels)} members (dimension 'member' or 'number'); "
            f"choose one with the option member, as in member: {labels[0]}; there are {_listed(labels)}"
        )
    wanted = labels[0] if selection.member is None else str(selection.member)
    if wanted not in labels:
        raise EarthSSLError(f"{where}: no ensemble member '{wanted}'; there are {_listed(labels)}")
    return ds.isel(member=labels.index(wanted), drop=True)


def _squeezed(ds: xr.Dataset, where: str) -> xr.Dataset:
    # a single level is kept as a dimension: the fields on levels look for it there
    extra = [dim for dim in ds.dims if dim not in ("time", "lat", "lon", "level")]
    extra = [dim for dim in extra if dim != "expver" or ds.sizes[dim] == 1]  # final and preliminary data are joined
    for dim in extra:
        if ds.sizes[dim] > 1:
            raise EarthSSLError(
                f"{where}: expected the dimensions time, lat, lon (and level, member), got also '{dim}' of length "
                f"{ds.sizes[dim]}; select one index of it into another file first"
            )
    return ds.isel(dict.fromkeys(extra, 0), drop=True)


def _read_or_chunk(ds: xr.Dataset, eager_bytes: int, where: str) -> xr.Dataset:
    if any(var.chunks for var in ds.variables.values()):
        return ds
    if ds.nbytes <= eager_bytes:
        with reading(where):
            return ds.load()
    steps = ds.sizes["time"]
    chunk = steps
    for var in ds.data_vars.values():
        fit = max(1, CHUNK_BYTES * steps // max(1, var.nbytes))
        stored = _stored_chunk(var)
        if stored > 1:  # whole stored chunks: a part of one costs as much to read as all of it
            fit = max(fit - fit % stored, stored if stored <= 8 * fit else fit)
        chunk = min(chunk, fit)
    return ds.chunk({"time": chunk, **{dim: -1 for dim in ds.dims if dim != "time"}})


def _stored_chunk(var: xr.DataArray) -> int:
    preferred = var.encoding.get("preferred_chunks") or {}
    names = [dim for dim in preferred if "time" in str(dim).lower()]
    return int(preferred[names[0]]) if names else 1


def _convert_all(
    ds: xr.Dataset, fields: list[_Field], selection: Selection, assume_units: bool, where: str
) -> xr.Dataset:
    valid = {name for f in fields for name in (f.variable.name, f.variable.base, f.raw)}
    for option, names in (("units", selection.units), ("missing", selection.missing)):
        for name in names:
            if name not in valid:
                raise EarthSSLError(
                    f"{where}: option {option} names '{name}', which is not taken.{nearest(name, valid)} "
                    f"Taken: {_listed(sorted(valid))}"
                )
    arrays = {}
    for field in fields:
        variable = field.variable
        data = ds[field.raw]
        if "level" in data.dims:
            data = data.isel(level=0 if field.level is None else list(ds["level"].values).index(field.level))
        units = selection.units_of(variable, field.raw, data.attrs)
        if not units and assume_units:
            units = variable.units
        own = () if data.attrs.get(CONVERTED) else selection.missing_of(variable, field.raw)
        data = limited(data, own)
        try:
            data = convert(data.transpose("time", "lat", "lon"), variable, units)
        except EarthSSLError as error:
            raise EarthSSLError(f"{where}: {error}") from None
        data = data.where(abs(data) < FILL).astype(np.float32)
        arrays[variable.name] = data.drop_vars("level", errors="ignore").assign_attrs(variable.attributes)
        arrays[variable.name].attrs = dict(variable.attributes)
    result = xr.Dataset(arrays)
    return result.drop_vars([name for name in result.coords if name not in ("time", "lat", "lon")]).drop_encoding()


def _refuse_if_empty(sample: xr.DataArray, data: xr.DataArray, exhaustive: bool, where: str) -> None:
    if bool(sample.notnull().any()):
        return
    steps = data.sizes["time"]
    if exhaustive:
        size = max(1, CHUNK_BYTES * steps // max(1, data.nbytes))
        parts: list[Any] = [slice(first, first + size) for first in range(0, steps, size)]
    else:
        parts = [[int(k)] for k in np.unique(np.linspace(0, steps - 1, 12).astype(int))]
    for part in parts:
        with reading(where):
            if bool(data.isel(time=part).notnull().any()):
                return
    looked = "all steps" if exhaustive else f"the {len(parts)} steps looked at"
    raise EarthSSLError(
        f"{where}: '{data.name}' holds no value at all ({looked} are NaN); leave it out, or take another source"
    )


def _attributes(found: Mapping[str, Any], given: Mapping[str, str], left_out: list[str]) -> dict[str, str]:
    def first(*names: str) -> str:
        return next((" ".join(str(found[name]).split()) for name in names if found.get(name)), "")

    attrs = {
        "source": first("title", "dataset_title") or "unknown",
        "licence": first("licence", "license", "attribution", "rights", "copyright") or UNKNOWN_TERMS,
        "citation": first("citation", "references", "References", "doi", "source") or UNKNOWN_TERMS,
    }
    attrs |= {key: value for key, value in given.items() if value}
    if left_out:
        attrs["left_out"] = ", ".join(left_out)
    return attrs


def _listed(names: Any, most: int = 40) -> str:
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" … ({len(texts)} in all)" if len(texts) > most else "") or "none"

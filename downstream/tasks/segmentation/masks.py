"""Masks: a class for each cell at some times, from NetCDF files (ClimateNet's as they are) or from a planet itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ....ssl.common.errors import EarthSSLError, check_known, nearest
from ....ssl.fields.grid import LatLonGrid
from ....ssl.sources.axes import canonical_axes
from ....ssl.sources.canonical import reading, understanding
from ....ssl.sources.local_files import matched, open_netcdf
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.sources.regrid import onto, oriented
from ....ssl.sources.weather.labels import blocked_cells
from ....ssl.sources.weather.output import GRAVITY
from ....ssl.sources.weather.recorded import of_weather, recorded_weather
from ....ssl.store.store import Store

REFUSE, MAJORITY, EACH = "refuse", "majority", "each"
LABELLERS = (REFUSE, MAJORITY, EACH)
MOST_CLASSES = 16
EARTH_KM = 6371.0
STORM_KT = (34.0, 64.0)  # of the classes of the planet's storms
DESCRIBED = re.compile(r"(\d+)\s*:\s*([^,;]+)")  # ClimateNet: "0: Background, 1: Tropical Cyclone, …"


@dataclass(frozen=True, eq=False)
class Masks:
    """Classes of cells.

    Attributes:
        times: Of each mask, datetime64[ns], ascending; twice where two labellers are both kept.
        values: Number of the class, 0 for the background, int8 (mask, row, column).
        classes: Names, the background first.
        said: What the reader must know: masks regridded, labellers that differ, …
        breaks: Times before which the weather jumps: no mask is told across them.
    """

    times: np.ndarray
    values: np.ndarray
    classes: tuple[str, ...]
    said: tuple[str, ...] = ()
    breaks: np.ndarray = field(default_factory=lambda: np.zeros(0, "datetime64[ns]"))


def masks_of(
    store: Store, path: str | Sequence[str] | None, variables: Sequence[str], classes: Sequence[str], labellers: str,
    radius_km: float,
) -> Masks:  # fmt: skip
    """Return the masks on a store's grid.

    Args:
        store: Any.
        path: NetCDF file, folder, glob or list of these, see `read_masks`; None takes those of the planet that the
            store was made from: blocking of the weather planet, storms of the other.
        variables, classes, labellers: As for `read_masks`.
        radius_km: Of the discs round the planet's storms.

    Raises:
        EarthSSLError: If there is none at a time of the store, or whatever the file or the planet refuses.
    """
    if path is None:
        found = planet_masks(store, radius_km)
    else:
        found = read_masks(path, variables, store.grid, classes, labellers)
    times = store.times.astype("datetime64[ns]")
    known = np.isin(found.times, times)
    if not known.any():
        raise EarthSSLError(
            f"segmentation.labels: expected masks at times of the store ({times[0]} … {times[-1]}), got "
            f"{found.times[0]} … {found.times[-1]} and none that coincides; prepare the store from the same times"
        )
    said = found.said
    if not known.all():
        said = (*said, f"{int((~known).sum())} of {len(known)} masks lie at no time of the store: left out.")
    if not (found.values[known] > 0).any():
        raise EarthSSLError("segmentation.labels: expected cells of some class beside 0, the background, got none")
    return replace(found, times=found.times[known], values=found.values[known], said=said)


def read_masks(
    path: str | Sequence[str], variables: Sequence[str], grid: LatLonGrid, classes: Sequence[str] = (),
    labellers: str = REFUSE,
) -> Masks:  # fmt: skip
    """Return the masks of NetCDF files, on a grid.

    Rows may run north or south, columns begin anywhere. On a finer grid a cell has the class that covers most of it.

    Args:
        path: A file with (time, lat, lon) or, as ClimateNet has it, one time a file and (lat, lon); a folder of such
            files, a glob, or a list.
        variables: One with class numbers, 0 for the background; or several masks of 0 and 1, a class each.
        grid: Of the store.
        classes: Names of the classes from 1 on; none: as the variable describes them.
        labellers: What to do with several masks of one time: refuse those that differ, take the class of the majority
            (of equally many votes the lowest number), or keep each.

    Raises:
        EarthSSLError: What was expected, what came, in which file, and the remedy.
    """
    check_known("segmentation.labellers", [labellers], LABELLERS)
    if not variables:
        raise EarthSSLError("segmentation.variables: expected the name of a mask, such as LABELS, got none")
    given = [path] if isinstance(path, (str, Path)) else list(path)
    try:
        files = matched([str(file) for item in given for file in _in_folder(Path(item).expanduser())])
    except EarthSSLError as error:
        raise EarthSSLError(str(error).replace("option path", "segmentation.labels", 1)) from None
    parts, names, said = [], dict(enumerate(classes, 1)), set[str]()
    first: dict[int, Path] = {}  # file that a name comes from
    for file in files:
        times, values, described, words = _one_file(file, variables, grid, len(classes))
        parts.append((times, values))
        said |= {words} - {""}
        if not classes:
            _refuse_other_names(file, described, names, first)
            names = described | names  # as the first file spells them
            first |= {number: file for number in described if number not in first}
    check_names("segmentation.classes" if classes else f"{files[0]}", list(names.values()))
    times, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(times, kind="stable")
    count = max(int(values.max()), *names, 0)
    found = ("background", *(names.get(k, f"class {k}") for k in range(1, count + 1)))
    times, values, differ = _by_labeller(times[order], values[order], labellers, len(found))
    return Masks(times, values, found, (*sorted(said), *([differ] if differ else [])))


def check_names(where: str, names: Sequence[str]) -> None:
    """Raise an EarthSSLError unless names of classes differ from each other and from the background's.

    Args:
        where: Setting or file, for the error.
        names: Of the classes from 1 on.
    """
    known = ["background", *(name.strip().casefold() for name in names)]
    if len(set(known)) < len(known) or "" in known:
        raise EarthSSLError(
            f"{where}: expected names of classes that differ, none of them empty or 'background' (class 0 has it), got "
            f"{', '.join(map(repr, names))}; name each class once, with segmentation.classes"
        )


def _refuse_other_names(
    file: Path, described: Mapping[int, str], names: Mapping[int, str], first: Mapping[int, Path]
) -> None:
    """Refuse a file that calls a class another name than an earlier one, or gives the name another number."""
    for number, name in described.items():
        for other, word in names.items():
            if (number == other) != (name.casefold() == word.casefold()):
                raise EarthSSLError(
                    f"{file}: expected the classes of {first[other]}, where {other} is '{word}', got {number} for "
                    f"'{name}'; renumber one of them, or, where the words alone differ, set segmentation.classes"
                )


def _in_folder(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.nc"))
    if not found:
        raise EarthSSLError(f"segmentation.labels: expected NetCDF files (*.nc) in {path}, found none; check the path")
    return found


def _one_file(
    file: Path, variables: Sequence[str], grid: LatLonGrid, count: int
) -> tuple[np.ndarray, np.ndarray, dict[int, str], str]:
    """Return the times, class numbers (time, row, column), names by number, and what was done to the grid."""
    with open_netcdf(file) as data, understanding(str(file)), reading(str(file)):
        known = [str(name) for name in data.data_vars]
        for name in variables:
            if name not in known:
                raise EarthSSLError(
                    f"{file}: expected the mask '{name}', got {', '.join(known)}.{nearest(name, known)} Set "
                    "segmentation.variables"
                )
            if 0 in data[name].shape:
                sizes = ", ".join(f"{dim} {size}" for dim, size in data[name].sizes.items())
                raise EarthSSLError(
                    f"{file}: expected '{name}' at one time at least, got none ({sizes}); write it anew"
                )
        described = dict(enumerate(variables, 1))
        if len(variables) == 1:  # what the user says goes before what the file does
            described = {} if count else _described(data[variables[0]], file)
        alone = data.drop_vars([name for name in known if name not in variables])  # a file's time stays
        turned = oriented(canonical_axes(alone, str(file)), str(file))
        times = turned["time"].values.astype("datetime64[ns]")
        again = pd.Series(times).duplicated().to_numpy()
        if again.any():
            raise EarthSSLError(
                f"{file}: expected each time once in a file, got {times[again][0]} again; keep one, or write a file "
                "for each labeller"
            )
        masks = [_whole_numbers(file, turned[name], times) for name in variables]
    if len(masks) == 1:
        numbers = masks[0]
    else:
        if np.max(masks) > 1 or np.sum(masks, axis=0).max() > 1:
            raise EarthSSLError(
                f"{file}: expected masks of 0 and 1 in {', '.join(variables)}, at most one of them 1 in a cell, got "
                "others; name one variable with class numbers, or mend the overlap"
            )
        numbers = np.sum([(k + 1) * mask for k, mask in enumerate(masks)], axis=0).astype(np.int8)
    most = count or max(described, default=0) or MOST_CLASSES - 1
    if numbers.min() < 0 or numbers.max() > most:
        wrong = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise EarthSSLError(f"{file}: expected classes 0 … {most} in '{variables[0]}', got {wrong}; number them so")
    own = LatLonGrid(turned["lat"].values, turned["lon"].values)
    if own.same_as(grid):
        return times, numbers, described, ""
    coords = {"time": times, "lat": own.lat, "lon": own.lon}
    shares = []
    for k in range(int(numbers.max()) + 1):
        field = (("time", "lat", "lon"), (numbers == k).astype(np.float32))
        made, words = onto(xr.Dataset({"share": field}, coords), grid, str(file), of="the store")
        shares.append(made["share"].values)
    return times, np.argmax(shares, axis=0).astype(np.int8), described, f"Masks: {words}; the class of most of a cell."


def _described(mask: xr.DataArray, file: Path) -> dict[int, str]:
    """Return the names of the classes from 1 on by number, by CF's flags or ClimateNet's description; {} for none."""
    attrs = mask.attrs
    if "flag_meanings" not in attrs:
        found = {int(number): name.strip().lower() for number, name in DESCRIBED.findall(str(attrs.get("description")))}
        regular = sorted(found) in (list(range(len(found))), list(range(1, len(found) + 1)))
        return {number: name for number, name in found.items() if number} if regular else {}
    words = [word.replace("_", " ") for word in str(attrs["flag_meanings"]).split()]
    if "flag_values" in attrs:
        given = attrs["flag_values"]  # some write text
        numbers = [int(k) for k in (re.findall(r"-?\d+", given) if isinstance(given, str) else np.atleast_1d(given))]
    elif "flag_masks" in attrs:
        raise EarthSSLError(
            f"{file}: expected one class a cell in '{mask.name}', got flag_masks: bits, of which several can be set; "
            "write a variable of 0 and 1 for each, or set segmentation.classes"
        )
    else:
        numbers = list(range(len(words)))
    if len(words) != len(numbers) or len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(MOST_CLASSES)):
        raise EarthSSLError(
            f"{file}: expected a number from 0 to {MOST_CLASSES - 1} for each of the {len(words)} flag_meanings of "
            f"'{mask.name}', got flag_values {numbers}; mend them, or set segmentation.classes"
        )
    return {number: word for number, word in zip(numbers, words, strict=True) if number}


def _whole_numbers(file: Path, mask: xr.DataArray, times: np.ndarray) -> np.ndarray:
    if "time" not in mask.dims:
        mask = mask.expand_dims("time")
    if set(mask.dims) != {"time", "lat", "lon"} or mask.sizes["time"] != len(times):
        raise EarthSSLError(
            f"{file}: expected '{mask.name}' with dimensions (time, lat, lon), or (lat, lon) at one time, got "
            f"({', '.join(map(str, mask.dims))}) and {len(times)} times"
        )
    values = mask.transpose("time", "lat", "lon").values
    if values.dtype.kind not in "biuf":
        raise EarthSSLError(f"{file}: expected class numbers in '{mask.name}', got {values.dtype}; write 0, 1, 2, …")
    lost = ~np.isfinite(values).all((1, 2))
    if lost.any():
        raise EarthSSLError(
            f"{file}: expected a class in every cell of '{mask.name}', got none in "
            f"{int((~np.isfinite(values[lost][0])).sum())} at {times[lost][0]}; write 0 for the background, or leave "
            "the time out"
        )
    if (values != np.round(values)).any():
        raise EarthSSLError(
            f"{file}: expected whole class numbers in '{mask.name}', got {values[values != np.round(values)][0]:g}; "
            "round shares or chances to classes first"
        )
    return np.asarray(np.clip(values, -1, 127).astype(np.int8))


def _by_labeller(times: np.ndarray, values: np.ndarray, how: str, classes: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return times and masks with several masks of a time treated as asked, and how far they agree in words."""
    different, first, counts = np.unique(times, return_index=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    if not len(several):
        return times, values, ""
    shared, either = np.zeros(classes), np.zeros(classes)
    for k in several:
        own = values[first[k] : first[k] + counts[k]]
        for a in range(len(own)):
            for b in range(a):
                for c in range(classes):
                    shared[c] += ((own[a] == c) & (own[b] == c)).sum()
                    either[c] += ((own[a] == c) | (own[b] == c)).sum()
    agreed = np.divide(shared, either, out=np.full(classes, np.nan), where=either > 0)
    words = ", ".join(f"{share:.2f}" for share in agreed)
    if how == REFUSE and not np.array_equal(shared, either):
        raise EarthSSLError(
            f"segmentation.labels: expected one mask a time, got {counts[several[0]]} that differ at "
            f"{different[several[0]]} ({len(several)} such times; IoU of two labellers by class: {words}); set "
            "labellers to majority or each"
        )
    said = f"{len(several)} times have several masks; IoU of two labellers by class, every cell alike: {words}."
    if how == EACH:
        return times, values, said + " Each mask is a sample."
    made = [_majority(values[at : at + n], classes) for at, n in zip(first, counts, strict=True)]
    return different, np.stack(made), said + " The class of most labellers counts."


def _majority(masks: np.ndarray, classes: int) -> np.ndarray:
    if len(masks) == 1:
        return np.asarray(masks[0])
    return np.asarray(np.argmax([(masks == c).sum(0) for c in range(classes)], axis=0).astype(np.int8))


def planet_masks(store: Store, radius_km: float) -> Masks:
    """Return the true masks of the planet that a store was made from, at all of its steps.

    Raises:
        EarthSSLError: If the store was made from something else.
    """
    attributes, times = store.manifest["attributes"], store.times.astype("datetime64[ns]")
    if of_weather(attributes):
        planet = recorded_weather(attributes)
        height = planet.dataset(["z500"])["z500"].values / np.float32(GRAVITY)
        masks = blocked_cells(height, planet.grid).astype(np.int8)
        if not planet.grid.same_as(store.grid):
            raise EarthSSLError(f"segmentation: expected a store on the planet's own {planet.grid}, got {store.grid}")
        return Masks(planet.time.astype("datetime64[ns]"), masks, ("background", "blocked"), (), planet.seams)
    if "planet" not in attributes or json.loads(attributes["planet"]).get("dynamics"):
        raise EarthSSLError(
            f"segmentation.labels: expected masks, as the store was made from {store.manifest['source']} and not from "
            "a planet whose own are known; name a NetCDF file"
        )
    tracks = recorded_planet(attributes).tracks()
    return Masks(
        times, storm_masks(tracks, times, store.grid, radius_km), ("background", "tropical storm", "hurricane"),
        (f"Truth: discs of {radius_km:g} km round the storms' centres, from 34 kt and from 64 kt on.",),
    )  # fmt: skip


def storm_masks(tracks: pd.DataFrame, times: np.ndarray, grid: LatLonGrid, radius_km: float) -> np.ndarray:
    """Return discs round storms, int8 (time, row, column): 1 from 34 kt, 2 from 64 kt on, the stronger where they meet.

    A storm's own cell, the one whose centre is nearest, always counts.

    Args:
        tracks: Columns time, lat, lon, wind_kt (or wind, m/s).
        times: datetime64[ns], ascending.
        grid: Cells.
        radius_km: Great-circle distance from the centre to that of a cell.
    """
    made = np.zeros((len(times), *grid.shape), np.int8)
    at = pd.Index(times).get_indexer(pd.Index(tracks["time"].to_numpy().astype("datetime64[ns]")))
    for k, lat, lon, wind in _records(tracks, at):
        number = int(np.searchsorted(STORM_KT, wind, side="right"))
        if number:
            away = _distance_km(grid, lat, lon)
            disc = away <= max(radius_km, float(away.min()))
            if away.min() <= _half_cell_km(grid):  # outside the grid a storm marks nothing
                made[k] = np.where(disc, np.maximum(made[k], number), made[k])
    return made


def _records(tracks: pd.DataFrame, at: np.ndarray) -> Iterator[tuple[int, float, float, float]]:
    inside = at >= 0
    columns = (tracks[name].to_numpy(dtype=float)[inside] for name in ("lat", "lon", "wind_kt"))
    return zip(at[inside].tolist(), *columns, strict=True)


def _distance_km(grid: LatLonGrid, lat: float, lon: float) -> np.ndarray:
    """Return the great-circle distance of each cell's centre from a place, (row, column)."""
    y, x, here, east = (np.deg2rad(one) for one in (grid.lat[:, None], grid.lon[None, :], lat, lon))
    half = np.sin((y - here) / 2) ** 2 + np.cos(y) * np.cos(here) * np.sin((x - east) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1))))


def _half_cell_km(grid: LatLonGrid) -> float:
    """Return half the diagonal of the largest cell: nearer to some centre lies every place inside the grid."""
    high, wide = np.abs(np.diff(grid.lat)).max(), np.diff(grid.lon).max()
    return float(np.deg2rad(np.hypot(high, wide)) / 2 * EARTH_KM)

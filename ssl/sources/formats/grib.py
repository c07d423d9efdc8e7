"""GRIB files, editions 1 and 2: each kind of field apart, along the time at which it is valid."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError, in_a_line
from ...fields.variables import Variable, lookup, resolve

GRIDS = ("regular_ll", "regular_gg")
PRESSURE = ("isobaricInhPa", "isobaricInPa")
# What tells kinds of fields of one name apart, beside the level they lie on; an edition is no other kind.
KINDS = ("typeOfLevel", "stepType", "dataType", "gridType")
KEYS = (
    "paramId", "shortName", "cfVarName", "name", *KINDS, "edition", "level", "number", "validityDate", "validityTime",
    "stepRange", "md5GridSection", "jPointsAreConsecutive", "alternativeRowScanning", "totalLength", "offset",
)  # fmt: skip
SUMS = "accum"
END = b"7777"  # of a message


@dataclass(frozen=True)
class Message:
    """The header of one GRIB message: the values of `KEYS`, None where it has none."""

    keys: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.keys[key]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the reader opens at once."""
        return tuple(self[key] for key in ("paramId", *KINDS, "edition"))

    @property
    def raw(self) -> str:
        """The name that the field gets."""
        return str(
            next((self[k] for k in ("cfVarName", "shortName") if self[k] not in (None, "unknown", "~")), "unknown")
        )


def open_grib(
    path: Path, grib_filter: Mapping[str, Any], rename: Mapping[str, str], wanted: Sequence[str] | None
) -> list[xr.Dataset]:
    """Return the kinds of fields of a GRIB file (instant or summed, on levels or not), each as a dataset of its own.

    Args:
        path: The file.
        grib_filter: Which messages to take, by their keys.
        rename: The option of `Selection`.
        wanted: Names of the variables asked for; None for all that are known.

    Raises:
        EarthSSLError: If the file is damaged, if none of its fields is known, if one is there twice, or if one is on
            a grid, summed or ordered in a way that is not understood.
    """
    if importlib.util.find_spec("cfgrib") is None:
        raise EarthSSLError(f"{path}: GRIB files need the package cfgrib: pip install earthssl[grib]")
    messages = _headers(path, grib_filter)
    if not messages:
        raise EarthSSLError(f"{path}: option grib_filter: no message has {dict(grib_filter)}")
    kinds: dict[tuple[Any, ...], list[Message]] = {}
    for message in messages:
        if _is_wanted(message, rename, wanted):
            kinds.setdefault(message.kind, []).append(message)
    if not kinds:
        there = sorted({f"{message.raw} ({message['typeOfLevel']})" for message in messages})
        asked = "none of its fields is known" if wanted is None else f"holds none of {', '.join(wanted)}"
        raise EarthSSLError(
            f"{path}: {asked}; there are {', '.join(there[:30])}; say what they are with the option rename"
        )
    _refuse_two_kinds(path, list(kinds))
    for members in kinds.values():
        _refuse_unreadable(path, members)
    with tempfile.TemporaryDirectory() as folder:  # the index is made once, and not beside the data
        return [_opened(path, members[0], grib_filter, folder) for members in kinds.values()]


def _headers(path: Path, grib_filter: Mapping[str, Any]) -> list[Message]:
    """Return the headers of the messages that pass the filter.

    Raises:
        EarthSSLError: If the file is cut off, or holds bytes that belong to no message.
    """
    found: list[Message] = []
    lengths: dict[int, int] = {}  # by offset: several fields may be in one message
    try:
        for handle in _handles(path):
            message = Message({key: _value(handle, key) for key in KEYS})
            lengths[int(message["offset"])] = _length_of(path, message)
            if all(_same(_value(handle, key), value) for key, value in grib_filter.items()):
                found.append(message)
    except Exception as error:  # eccodes has some forty kinds of its own, and is not always installed
        text = in_a_line(error)
        raise EarthSSLError(f"{path}: is truncated or not GRIB ({text}); fetch it again") from None
    size, length = path.stat().st_size, sum(lengths.values())
    # headlines of bulletins between messages are shorter than these, and hold no mark of an end
    if not length or size - length >= min(lengths.values()) or END in _between(path, lengths):
        raise EarthSSLError(
            f"{path}: is truncated or not GRIB ({size - length} of its {size} bytes belong to no message); fetch it "
            "again"
        )
    return found


def _length_of(path: Path, message: Message) -> int:
    """Return how many bytes the message of a field has: the key says it of the field alone where it holds several."""
    if message["edition"] != 2:
        return int(message["totalLength"])
    with open(path, "rb") as file:
        file.seek(int(message["offset"]) + 8)
        return int.from_bytes(file.read(8), "big")


def _between(path: Path, lengths: Mapping[int, int]) -> bytes:
    """Return the bytes that belong to no message, by the lengths of the messages at their offsets."""
    found, before = b"", 0
    with open(path, "rb") as file:
        for offset, length in [*sorted(lengths.items()), (path.stat().st_size, 0)]:
            file.seek(before)
            found += file.read(max(offset - before, 0)) + b" "
            before = offset + length
    return found


def _handles(path: Path) -> Iterator[Any]:
    """Yield each field of each message: ecCodes sees the first alone unless told, and cfgrib tells it that."""
    import eccodes

    with open(path, "rb") as file:
        eccodes.codes_grib_multi_support_on()
        eccodes.codes_grib_multi_support_reset_file(file)
        try:
            while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
                try:
                    yield handle
                finally:
                    eccodes.codes_release(handle)
        finally:
            eccodes.codes_grib_multi_support_off()


def _value(handle: Any, key: str) -> Any:
    import eccodes

    try:
        return eccodes.codes_get(handle, key)
    except eccodes.CodesInternalError:
        return None


def _same(found: Any, wanted: Any) -> bool:
    try:
        return str(found) == str(wanted) or float(found) == float(wanted)
    except (TypeError, ValueError):
        return False


def _meant(message: Message, rename: Mapping[str, str]) -> Variable | None:
    """Return what a message holds; None for what is not known, and for fields on levels of another kind."""
    try:
        if message.raw in rename:
            return lookup(rename[message.raw])
        found = resolve(message.raw, {"long_name": message["name"]})
    except EarthSSLError:
        return None
    elsewhere = found.on_levels and found.level is None and message["typeOfLevel"] not in PRESSURE
    return None if elsewhere else found


def _is_wanted(message: Message, rename: Mapping[str, str], wanted: Sequence[str] | None) -> bool:
    variable = _meant(message, rename)
    if variable is None or wanted is None:
        return variable is not None
    for name in wanted:
        try:
            asked = resolve(name)
        except EarthSSLError:
            continue
        if message.raw == name or asked.name == variable.name or asked.base == variable.name:
            return True
    return message.raw in wanted


def _refuse_two_kinds(path: Path, kinds: list[tuple[Any, ...]]) -> None:
    """Refuse fields of one name that are, say, both means and instantaneous."""
    for one in kinds:
        for other in kinds:
            if one[0] == other[0] and one[1:-1] != other[1:-1]:
                key, a, b = next((k, x, y) for k, x, y in zip(KINDS, one[1:], other[1:], strict=False) if x != y)
                raise EarthSSLError(
                    f"{path}: its messages hold one variable in two kinds ({key} {a} and {b}); choose with the option "
                    f"grib_filter, as in grib_filter: {{{key}: {a}}}"
                )


def _refuse_unreadable(path: Path, members: list[Message]) -> None:
    """Refuse messages of one kind that cannot make one field along time and level."""
    first = members[0]
    if first["gridType"] not in GRIDS:
        raise EarthSSLError(
            f"{path}: expected '{first.raw}' on a latitude-longitude grid, got the grid {first['gridType']}; regrid "
            "first, for example with `cdo -f nc remapcon,r360x180`"
        )
    if any(message["jPointsAreConsecutive"] or message["alternativeRowScanning"] for message in members):
        raise EarthSSLError(
            f"{path}: '{first.raw}' is written column by column, or in rows to and fro, which is read wrongly; write "
            "it anew, for example with `cdo -f nc copy`"
        )
    if len({message["md5GridSection"] for message in members}) > 1:
        raise EarthSSLError(
            f"{path}: expected '{first.raw}' on one grid, got several; split the file, for example with `cdo splitgrid`"
        )
    seen: dict[tuple[Any, ...], Message] = {}
    for message in members:
        place = tuple(message[key] for key in ("number", "level", "validityDate", "validityTime"))
        before = seen.setdefault(place, message)
        if before is not message:
            steps = f"steps {before['stepRange']}, {message['stepRange']}"
            raise EarthSSLError(
                f"{path}: expected every time once, got '{first.raw}' of {place[2]} {place[3]:04d} twice ({steps}); "
                "take one lead with the option grib_filter, or remove the copies"
            )
    if first["stepType"] == SUMS:
        lengths = sorted({_length(str(message["stepRange"])) for message in members})
        if len(lengths) > 1:
            raise EarthSSLError(
                f"{path}: expected '{first.raw}' summed over one step each, got sums over {lengths[0]:g} to "
                f"{lengths[-1]:g} steps of its forecast; write the differences of successive steps first"
            )


def _length(step_range: str) -> float:
    """Return how many units of time a step range such as "6-12" or "0m-30m" spans."""
    edges = [float("".join(c for c in edge if c.isdigit() or c == ".") or 0) for edge in step_range.split("-")]
    return edges[-1] - edges[0]


def _axes(path: Path, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes and longitudes in the order of a message's values.

    cfgrib sorts the longitudes, and so mirrors fields that are written from east to west.
    """
    import eccodes

    with open(path, "rb") as file:
        file.seek(offset)
        handle = eccodes.codes_grib_new_from_file(file)
        try:
            shape = (int(eccodes.codes_get(handle, "Nj")), int(eccodes.codes_get(handle, "Ni")))
            both = [eccodes.codes_get_array(handle, key).reshape(shape) for key in ("latitudes", "longitudes")]
        finally:
            eccodes.codes_release(handle)
    return both[0][:, 0].copy(), both[1][0].copy()


def _opened(path: Path, first: Message, grib_filter: Mapping[str, Any], folder: str) -> xr.Dataset:
    """Return the messages of one kind as a dataset over number, valid_time, level, latitude and longitude."""
    keys = {key: first[key] for key in ("paramId", *KINDS, "edition")} | dict(grib_filter)
    how = {
        "indexpath": str(Path(folder) / "{short_hash}.idx"), "errors": "raise", "filter_by_keys": keys,
        "time_dims": ("valid_time",),
    }  # fmt: skip
    try:
        ds = xr.open_dataset(path, engine="cfgrib", backend_kwargs=how, decode_timedelta=False)
    except Exception as error:
        text = in_a_line(error)
        raise EarthSSLError(
            f"{path}: '{first.raw}' cannot be made one field ({text}); choose with the option grib_filter, as in "
            f"grib_filter: {{typeOfLevel: {first['typeOfLevel']}}}"
        ) from None
    latitudes, longitudes = _axes(path, int(first["offset"]))
    if (len(latitudes), len(longitudes)) != (ds.sizes.get("latitude"), ds.sizes.get("longitude")):
        raise EarthSSLError(f"{path}: the grid of '{first.raw}' is not understood; write it anew: `cdo -f nc copy`")
    for axis, values in (("latitude", latitudes), ("longitude", longitudes)):
        ds = ds.assign_coords({axis: (axis, values, ds[axis].attrs)})
    kept = {"latitude", "longitude", "valid_time", "number", *PRESSURE}
    return ds.drop_vars([name for name in ds.coords if name not in kept])  # a height of 2 m is no other field's

"""Variables from several sources, side by side: sea level of one product beside the temperature of another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError, check_known
from ..fields.splits import is_monthly, months_apart

TIMES = ("common", "any")
COMBINES = ("files", "ersst", "weatherbench2", "arco-era5")
JOINED = (
    "source",
    "licence",
    "citation",
    "files",
    "remarks",
    "left_out",
    "regridded",
    "sha256",
)  # attributes: all, in turn


def check_parts(parts: Any, times: str) -> None:
    """Refuse what is no list of sources, or another word for which steps to take."""
    check_known("option times", [times], TIMES)
    if not isinstance(parts, list) or len(parts) < 2 or not all(isinstance(part, Mapping) for part in parts):
        raise EarthSSLError(
            "option parts: expected a list of two or more sources, as in [{path: sst.nc, variables: [sst]}, "
            f"{{path: ssh.nc, variables: [ssh]}}], got {parts!r:.80}"
        )


def open_combined(parts: list[xr.Dataset], times: str = "common", **options: Any) -> xr.Dataset:
    """Return variables of several sources as one canonical dataset, on one grid.

    Steps of months are matched by the month, whatever day they are stamped at, and stamped at its first; all others by
    their time.

    Args:
        parts: The datasets. To `open_source`: the options of each source with its name as `source` (files where it is
            not given); what the options beside `parts` hold is for all that do not say otherwise.
        times: "common": the steps that all have; "any": those that some have, with the other variables missing there.
        **options: Fields of `Selection`, for each part. Grids that differ need `resolution` or `grid`.

    Raises:
        EarthSSLError: If two parts hold the same variable, or the grids, steps or times do not meet.
    """
    _refuse_twice(parts)
    _refuse_other_steps(parts)
    for k, other in enumerate(parts[1:]):
        _refuse_other_grid(k + 2, parts[0], other)
    axes = {axis: parts[0][axis] for axis in ("lat", "lon")}
    parts = [ds.assign_coords(axes) for ds in parts]  # they may differ by rounding
    if all(is_monthly(ds["time"].values) for ds in parts):
        parts = [
            ds.assign_coords(time=ds["time"].values.astype("datetime64[M]").astype("datetime64[ns]")) for ds in parts
        ]
    if times == "common" and not len(reduce(np.intersect1d, [ds["time"].values for ds in parts])):
        raise EarthSSLError(
            f"option parts: expected steps that all parts have, got none ({'; '.join(map(_period, parts))}); take "
            "others with the options time and every, or those that any has with times: any"
        )
    whole = xr.merge(parts, join="inner" if times == "common" else "outer", combine_attrs="drop")
    for ds in parts:
        for name in ds.data_vars:
            whole[name].attrs = dict(ds[name].attrs)
    found = {name: list(dict.fromkeys(ds.attrs[name] for ds in parts if ds.attrs.get(name))) for name in JOINED}
    whole.attrs = {name: "; ".join(texts) for name, texts in found.items() if texts}
    return whole


def _refuse_twice(parts: list[xr.Dataset]) -> None:
    """Refuse a variable of two parts: nothing says which to take."""
    names = [str(name) for ds in parts for name in ds.data_vars]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EarthSSLError(
            f"option parts: expected each variable in one part, got {', '.join(twice)} in several; choose "
            "with the option variables of each part"
        )


def _refuse_other_steps(parts: list[xr.Dataset]) -> None:
    """Refuse steps of other lengths: the time of a month or a day says nothing of what lies within it."""
    steps = {", ".join(map(str, ds.data_vars)): _step(ds["time"].values) for ds in parts if ds.sizes["time"] > 1}
    known = list(steps.values())
    if any(one[1] != known[0][1] or abs(one[0] - known[0][0]) > 0.02 * known[0][0] for one in known):
        said = "; ".join(
            f"{name} every {f'{m} months' if m else f'{days:g} days'}" for name, (days, m) in steps.items()
        )
        raise EarthSSLError(
            f"option parts: expected steps of one length, got {said}; average the finer to the steps of the other in a "
            "file of its own (the option every only picks steps)"
        )


def _step(times: np.ndarray) -> tuple[float, int]:
    """Return the usual step: days, of whole months the same for all of one number, and that number, else 0."""
    months = months_apart(times)
    return (float(months), months) if months else (float(np.median(np.diff(times) / np.timedelta64(1, "D"))), 0)


def _refuse_other_grid(number: int, first: xr.Dataset, other: xr.Dataset) -> None:
    for axis in ("lat", "lon"):
        own, its = first[axis].values, other[axis].values
        if own.shape != its.shape or not np.allclose(own, its, rtol=0, atol=1e-4):
            raise EarthSSLError(
                f"option parts: expected part {number} on the grid of part 1 ({axis} {_span(own)}), got {axis} "
                f"{_span(its)}; bring the finer to the other with the option resolution or grid, and region"
            )


def _span(axis: np.ndarray) -> str:
    return f"{axis[0]:g}…{axis[-1]:g}, {len(axis)} cells"


def _period(ds: xr.Dataset) -> str:
    first, last = ds["time"].values[[0, -1]]
    return f"{', '.join(map(str, ds.data_vars))} {first!s:.16}…{last!s:.16}"

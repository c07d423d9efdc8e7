"""Screening of a user's data: whether they fit an encoder, what is missing, and whether the units can be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ..checkpoint.record import Record, differences
from ..common.errors import EarthSSLError
from ..fields.normalisation import Statistics
from ..fields.plausible import limits
from ..fields.splits import Splits
from ..fields.variables import lookup
from ..sources.canonical import canonicalise, contents
from ..sources.regrid import LEAST_VALID, onto
from .anomalies import Period, as_trained, counterparts, period

EAGER_BYTES = 64 * 2**20  # data that are not in memory are read at once up to this size; larger ones stay lazy
SAMPLED_STEPS = 5
# Root mean square of the deviations from the climatology of training, in its standard deviations: 1 for the training
# data, 1 to 3 for another climate; °C taken for K, metres for geopotential, hPa for Pa lie tens to thousands away.
DOUBTED, REFUSED = 3.0, 8.0
FAR = 16.0  # the scale may be a mean over the globe, and one value in a million lies far


@dataclass(frozen=True)
class Screened:
    """Data in the encoder's form.

    Attributes:
        data: Canonical dataset (time, lat, lon), its variables in the order of the record; lazy where it is large.
        statistics: Of those variables.
        missing: Variables of the record that the data lack.
        unused: Variables of the data that the encoder has no weights for, as the data call them.
        said: What the user must hear, one sentence each.
        changes: What was done to the fields, in words: "regridded", "anomalies"; also in `said`.
    """

    data: xr.Dataset
    statistics: Statistics
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    said: tuple[str, ...]
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, str]:
        """What a result says of its fields: what lacked, what was not used, what was done to them."""
        names = {"missing_variables": ", ".join(self.missing), "unused_variables": ", ".join(self.unused)}
        return {key: text for key, text in {**names, **self.changes}.items() if text}

    @property
    def variables(self) -> tuple[str, ...]:
        """Canonical names of the variables present."""
        return tuple(str(name) for name in self.data.data_vars)


def screen(
    data: xr.Dataset | xr.DataArray,
    record: Record,
    *,
    units: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    missing: Mapping[str, Any] | None = None,
    check_range: bool = True,
    least_valid: float = LEAST_VALID,
    base: tuple[str, str] | None = None,
    use: str = "embedding",
) -> Screened:
    """Return the data in the form the encoder of the record takes.

    Fields on a finer or shifted grid are brought to the record's (`sources.regrid.onto`), and anomalies stand for the
    full field or the other way round where they can (`anomalies.as_trained`); both is said.

    Args:
        data: Fields in any spelling that `open_source` understands. A DataArray is one variable under its name, or
            several along a dimension `variable` (with a coordinate `units` along it, or one attribute for all).
        record: What the encoder was trained on.
        units: Units by variable, where the data do not say or misstate them.
        rename: Canonical names by the data's own, where a name is not understood.
        missing: Value or values by variable, in the data's units, that mean missing.
        check_range: Refuse values that lie far from the climatology of training (their units are probably wrong), and
            what no place on Earth has, nor a synthetic planet that the encoder was trained on.
        least_valid: Share of the area of a cell of the record's grid that must hold values, or else it is missing;
            where the data are on another.
        base: First and last date of the years from whose means departures are taken, where the field is not the
            quantity that the encoder was trained on; None for those of its training block.
        use: What the data are wanted for, in what is said.

    Raises:
        EarthSSLError: If grid, time step, calendar, units or values do not fit; differences are listed together.
    """
    where = f"the data for {use}"
    ds = as_dataset(data, where)
    there, left_out = contents(ds, where, rename or {})
    present = [name for name in record.variables if name in there]
    instead = counterparts(record.variables, there)
    canonical = canonicalise(
        ds, where=where, eager_bytes=EAGER_BYTES, variables=(*present, *instead.values()) or None, units=units or {},
        rename=rename or {}, missing=missing or {}, check_range=possible(record, check_range),
    )  # fmt: skip
    remarks = [text for given in (ds, canonical) for text in str(given.attrs.get("remarks", "")).split("; ") if text]
    names = [next((want for want, have in instead.items() if have == name), str(name)) for name in canonical.data_vars]
    times = canonical["time"].values
    steps = np.diff(times) / np.timedelta64(1, "D")
    step_days = float(np.median(steps)) if len(steps) else record.step_days
    said = differences(record, names, record.grid, step_days)
    try:
        canonical, changes = brought(canonical, record, instead, record.splits, least_valid, period(base))
    except EarthSSLError as error:
        said.append(str(error))
    if said:
        raise EarthSSLError(f"{where} do not fit the checkpoint: {'; '.join(said)}")
    present = [name for name in record.variables if name in present or name in instead]
    statistics = record.statistics.select([record.variables.index(name) for name in present])
    statistics.rows(times)  # refuses months or hours without a climatology
    before = [name for name in str(ds.attrs.get("left_out", "")).split(", ") if name]
    taken = (*record.variables, *instead.values())
    unused = (*before, *left_out, *(name for name in there if name not in taken))
    absent = tuple(name for name in record.variables if name not in present)
    canonical = canonical[present]
    some = canonical.isel(time=sampled(canonical.sizes["time"]))
    if check_range or "regridded" in changes:
        some = some.load()
    if "regridded" in changes:
        changes["regridded"] += f"; {lacking(some, statistics)}"
    said = [*dict.fromkeys(remarks), *changes.values(), *_incomplete(record, absent, unused, use)]
    if check_range:
        said += _doubts_of(some, statistics, where)
    return Screened(canonical, statistics, absent, unused, tuple(said), changes)


def possible(record: Record, check_range: bool) -> bool | dict[str, tuple[float, float]]:
    """Return `check_range` or, for an encoder of a synthetic planet, what is possible there or on Earth."""
    if not check_range or not record.synthetic:
        return check_range
    planet = zip(record.variables, record.statistics.extremes(FAR), strict=True)
    earth = {name: limits(lookup(name)) for name in record.variables}
    return {name: (min(low, earth[name][0]), max(high, earth[name][1])) for name, (low, high) in planet}


def brought(
    data: xr.Dataset,
    record: Record,
    instead: Mapping[str, str],
    splits: Splits,
    least_valid: float = LEAST_VALID,
    base: Period | None = None,
) -> tuple[xr.Dataset, dict[str, str]]:
    """Return canonical data on the record's grid and as the variables it knows, and what was done, in words.

    All that use an encoder pass here, with data of a user's own or with a store.

    Args:
        data: Canonical; variables that the record lacks stay as they are.
        record: Of the encoder.
        instead: `anomalies.counterparts` of the record's variables in the data.
        splits: Whose training block departures are from the climatology of.
        least_valid: See `sources.regrid.onto`.
        base: Another block for these departures.

    Returns:
        The data and what was done to them: "regridded", "anomalies"; nothing where they fitted.

    Raises:
        EarthSSLError: If the grid is coarser or does not cover, or the climatology does not allow it: departures from
            several training blocks are not made.
    """
    wanted = [name for name in record.variables if name in data or name in instead]
    known = record.statistics.known[[record.variables.index(name) for name in wanted]]
    needed = np.asarray(known.any(0)) if wanted else None
    data, text = onto(data, record.grid, "grid", least_valid, needed)
    changes = {"regridded": text} if text else {}
    if base is not None and not instead:
        raise EarthSSLError(
            f"base: expected data to be made departures of, but they hold {', '.join(wanted) or 'nothing'} as the "
            "encoder was trained on it; leave base out"
        )
    for want, have in instead.items():
        own = record.statistics.select([record.variables.index(want)])
        own.rows(data["time"].values)  # refuses months or hours without a climatology
        made, text = as_trained(data[have], want, own, splits.train, base)
        data = data.drop_vars(have).assign({want: made})
        changes["anomalies"] = "; ".join([changes["anomalies"], text] if "anomalies" in changes else [text])
    return data, changes


def as_dataset(data: xr.Dataset | xr.DataArray, where: str) -> xr.Dataset:
    """Return a Dataset of what may be a DataArray of one variable, or of several along `variable`."""
    if isinstance(data, xr.Dataset):
        return data
    if not isinstance(data, xr.DataArray):
        raise EarthSSLError(f"{where}: expected an xarray.Dataset or DataArray, got {type(data).__name__}; make it one")
    if "variable" in data.dims:
        if "variable" not in data.coords:
            raise EarthSSLError(f"{where}: expected names along the dimension 'variable', found none; assign them")
        names = [str(name) for name in data["variable"].values]
        if len(set(names)) < len(names):
            raise EarthSSLError(f"{where}: expected every variable once, got {', '.join(names)}; select one of each")
        said = data.coords["units"].values if "units" in data.coords else data.attrs.get("units", "")
        units = np.broadcast_to(np.asarray(said), len(names))
        parts = {name: data.isel(variable=k, drop=True) for k, name in enumerate(names)}
        arrays = {
            name: part.drop_vars("units", errors="ignore").assign_attrs(units=str(unit))
            for (name, part), unit in zip(parts.items(), units, strict=True)
        }
        return xr.Dataset(arrays)
    if data.name is None:
        raise EarthSSLError(
            f"{where}: expected a DataArray whose name says which variable it is, got one without; "
            "name it, as in data.rename('sst'), or give it a dimension 'variable'"
        )
    return data.to_dataset()


def _incomplete(record: Record, missing: tuple[str, ...], unused: tuple[str, ...], use: str) -> list[str]:
    said = []
    if missing:
        said.append(f"{use} without {', '.join(missing)}: the encoder was trained on {', '.join(record.variables)}")
    if unused:
        said.append(f"{use} makes no use of {', '.join(unused)}: the encoder knows {', '.join(record.variables)}")
    return said


def lacking(sample: xr.Dataset, statistics: Statistics) -> str:
    """Return in words how many of the cells that training saw values in hold none in some steps."""
    said = []
    for k, name in enumerate(sample.data_vars):
        known, held = statistics.known[k], np.isfinite(sample[name].values).any(0)
        said.append(f"{int((known & ~held).sum())} of {int(known.sum())} of {name}")
    return f"known cells without a value in the {sample.sizes['time']} steps looked at: {', '.join(said)}"


def _doubts_of(sample: xr.Dataset, statistics: Statistics, where: str) -> tuple[str, ...]:
    """Return `doubts` about some steps of a series."""
    values = np.stack([sample[name].values for name in sample.data_vars], 1)
    units = [sample[name].attrs["units"] for name in sample.data_vars]
    return doubts(values, sample["time"].values, list(map(str, sample.data_vars)), units, statistics, where)


def sampled(count: int) -> np.ndarray:
    """Return which of `count` steps are looked at."""
    return np.unique(np.linspace(0, count - 1, SAMPLED_STEPS).astype(int))


def doubts(
    values: np.ndarray,
    times: np.ndarray,
    names: Sequence[str],
    units: Sequence[str],
    statistics: Statistics,
    where: str,
) -> tuple[str, ...]:
    """Return sentences on variables whose values are odd.

    Args:
        values: In canonical units, (step, variable, row, column).
        times: Of the steps, datetime64.
        names, units: Of the variables.
        statistics: Of the same variables.
        where: What the data are called in the error.

    Raises:
        EarthSSLError: If a variable cannot be in the units it claims.
    """
    normal = statistics.normalise(values, times).astype(np.float64)
    usual = statistics.denormalise(np.zeros_like(values), times)
    wrong, odd = [], []
    for k, (name, unit) in enumerate(zip(names, units, strict=True)):
        valid = np.isfinite(normal[:, k])
        if not valid.any():
            continue
        size = float(np.sqrt((normal[:, k][valid] ** 2).mean()))
        text = (
            f"'{name}' lies {size:.1f} standard deviations from the climatology of training (root mean square; mean "
            f"{values[:, k][valid].mean():.5g} {unit}, expected {usual[:, k][valid].mean():.5g})"
        )
        if size > REFUSED:
            wrong.append(text)
        elif size > DOUBTED:
            odd.append(f"{text}: are its units right?")
    if wrong:
        raise EarthSSLError(
            f"{where}: expected values within {REFUSED:g} standard deviations of the climatology of training, but "
            f"{'; '.join(wrong)}; the units or the quantity are probably wrong: mend the attribute units, or say "
            "units={...}; if the values are meant, check_range=False"
        )
    return tuple(odd)

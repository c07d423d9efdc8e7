"""The source `columns`: atmospheric columns, their layers laid along a ring, so that every verb takes them.

Columns with reference fluxes come from RFMIP-IRF (Pincus, Forster & Stevens 2016, doi:10.5194/gmd-9-3447-2016): sites ×
experiments, in its own NetCDF layout. More columns without fluxes may come from a file of temperature and humidity on
pressure levels; they join the training block, unlabelled. A field is a column: layer k, from the top, lies at longitude
3k, in two rows alike, as a grid needs two. The two variables are temperature and dew point, which stand in the table of
variables as t500 and d2m; nothing of places, dates or levels in the store is the atmosphere's. A block is a day, and a
column a second of it: an encoder reads no season from that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError, in_a_line, nearest
from ...common.files import digest, sha256
from ..metadata.deals import deals, recorded
from ..planet.options import check_names, check_whole, mistake
from .rfmip import labels_of, read_columns

COLUMNS = "columns"
CALLED = "RFMIP-IRF columns"  # in what a store says of its source
BLOCKS = ("train", "val", "test")
VARIABLES = ("t500", "d2m")  # temperature, dew point
LATITUDES = (10.0, -10.0)
SPACING = 3.0  # degrees from layer to layer; the ring stays open
FEWEST_TEST = 4  # sites, or there is no interval
START, APART = np.datetime64("1900-01-01"), 2  # day of the first block; days from one block to the next
UNSEEN = ("4xCO2", "8xCO2", "+4K, const. RH", '"future" all', "LGM")
_mistake = partial(mistake, COLUMNS)


@dataclass(frozen=True)
class ColumnsConfig:
    """Options of the source.

    Attributes:
        path: File, or files, of columns in the layout of RFMIP-IRF; with fluxes, for the task `radiation`.
        unlabelled: File of `t` and `q` on `level` (hPa) with `msl`; empty for none. Columns with gaps are left out.
        unlabelled_columns: Most of them to take, evenly spread.
        train: Sites of the training block.
        val: Sites of the validation block; all others are the test block's.
        held_out: Experiments that only the test block has, by their labels.
        seed: Of the order in which sites are dealt out.

    Raises:
        EarthSSLError: If an option is out of range.
    """

    path: str | list[str] = ""
    unlabelled: str = ""
    unlabelled_columns: int = 4000
    train: int = 60
    val: int = 10
    held_out: list[str] = field(default_factory=lambda: list(UNSEEN))
    seed: int = 0

    def __post_init__(self) -> None:
        files = [self.path] if isinstance(self.path, str) else self.path
        if not files or not all(isinstance(one, str) and one for one in files):
            raise _mistake("path", "a file, or a list of files, of columns", self.path)
        whole = {"unlabelled_columns": (1, 80_000), "train": (1, 10_000), "val": (1, 10_000), "seed": (0, 2**31)}
        check_whole(COLUMNS, self, whole)
        if len(set(self.held_out)) < len(self.held_out):
            raise _mistake("held_out", "labels, each once", self.held_out)

    @property
    def files(self) -> list[str]:
        """The files of columns."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


@dataclass(frozen=True, eq=False)
class Samples:
    """Which column each field of a store is, unlabelled ones left out.

    Attributes:
        site, experiment: Index in the file, (sample,).
        block: Name of its block, (sample,).
        step: Index in the store, (sample,).
        held_out: Whether its experiment is one of those that training never sees, (sample,).
        steps: Fields of the store, unlabelled ones among them.
        files: Where the columns come from.
        digests: Of these files.
    """

    site: np.ndarray
    experiment: np.ndarray
    block: np.ndarray
    step: np.ndarray
    held_out: np.ndarray
    steps: int
    files: list[str]
    digests: list[str]

    def times(self, block: str) -> tuple[np.datetime64, int]:
        """Return the first time of a block, and its number of columns."""
        count = int((self.block == block).sum()) + (self.steps - len(self.block)) * (block == "train")
        return START + APART * BLOCKS.index(block), count


def dew_point(vapour: np.ndarray) -> np.ndarray:
    """Return the dew point over water (Bolton 1980), K, of a vapour pressure, Pa."""
    ratio = np.log(vapour / 611.2)
    return np.asarray(273.15 + 243.5 * ratio / (17.67 - ratio))


def open_columns(**options: Any) -> xr.Dataset:
    """Return columns as fields: dims (time, lat, lon), the layers along the longitudes.

    Raises:
        EarthSSLError: If an option is unknown or out of range, or the files do not hold what is asked for.
    """
    check_names(COLUMNS, ColumnsConfig, options)
    config = ColumnsConfig(**options)
    data = read_columns(config.files)
    dealt = _dealt(config, data)
    fields, times = [], []
    pressure, vapour = data["pres_layer"].values, data["water_vapor"].values
    for turn, block in enumerate(BLOCKS):
        chosen = np.ix_(dealt["experiments"][block], dealt["sites"][block])
        told = data["temp_layer"].values[chosen], vapour[chosen] / (1 + vapour[chosen]) * pressure[chosen[1]]
        columns = np.stack([told[0], dew_point(told[1])], axis=2).swapaxes(0, 1).reshape(-1, 2, pressure.shape[1])
        if block == "train" and config.unlabelled:
            added = _unlabelled(config, data)
            columns = np.concatenate([columns, added])
            dealt["unlabelled"] = len(added)
        fields.append(columns)
        times.append((START + APART * turn).astype("datetime64[s]") + np.arange(len(columns)))
    values = np.repeat(np.concatenate(fields)[:, :, None], len(LATITUDES), axis=2).astype(np.float32)
    coords = {"time": np.concatenate(times).astype("datetime64[ns]"), "lat": np.array(LATITUDES),
              "lon": SPACING * np.arange(values.shape[-1])}  # fmt: skip
    beside = f" and {Path(config.unlabelled).name}" if config.unlabelled else ""
    about = {
        "source": f"{CALLED} (deal {_deal(dealt, data)}){beside}",
        "licence": str(data.attrs.get("license", "CC BY-SA 4.0")),
        "citation": "Pincus, Forster & Stevens (2016), doi:10.5194/gmd-9-3447-2016",
        COLUMNS: json.dumps(dealt),
    }
    attrs = {"units": "K", "long_name": "of a layer of a column"}
    names = dict(zip(VARIABLES, (values[:, 0], values[:, 1]), strict=True))
    return xr.Dataset({name: (("time", "lat", "lon"), own, attrs) for name, own in names.items()}, coords, about)


def recorded_columns(attributes: Mapping[str, Any]) -> Samples:
    """Return which column each field of a store is.

    Args:
        attributes: Of the data, as the manifest of a store holds them.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    known = recorded(attributes, COLUMNS)
    parts: dict[str, list[Any]] = {"site": [], "experiment": [], "block": [], "step": []}
    at, late = 0, set(known["experiments"]["test"]) - set(known["experiments"]["train"])
    for block in BLOCKS:
        for site in known["sites"][block]:
            for experiment in known["experiments"][block]:
                for name, value in (("site", site), ("experiment", experiment), ("block", block), ("step", at)):
                    parts[name].append(value)
                at += 1
        at += known["unlabelled"] if block == "train" else 0
    arrays = {name: np.array(own) for name, own in parts.items()}
    held_out = np.isin(arrays["experiment"], sorted(late))
    return Samples(**arrays, held_out=held_out, steps=at, files=known["files"], digests=known["sha256"])


def dealt_otherwise(earlier: str, source: str) -> str:
    """Return in words why an encoder trained on columns may have seen another store's test columns; else nothing.

    Days of such stores are made up, so that blocks of time say nothing: which sites and experiments each block has must
    be the same in both, and the columns, too. Unlabelled columns may differ, as they are no test block's.

    Args:
        earlier, source: What the store of the training, and the store with the test block, say of their source.
    """
    found = deals(CALLED, earlier, source)
    if found is None or found[2]:
        return ""
    return (f"the encoder's columns were dealt out otherwise (deal {found[0]}; the store's: {found[1]}), so it may "
            "have seen the store's test sites or held-out experiments; give both stores the same columns, train, val, "
            "held_out and seed, and pretrain anew")  # fmt: skip


def _deal(dealt: Mapping[str, Any], data: xr.Dataset) -> str:
    """Return the digest of which columns each block has: sites, experiments by name, and what they hold."""
    values = hashlib.sha256()
    for name in ("pres_layer", "temp_layer", "water_vapor"):
        values.update(np.ascontiguousarray(data[name].values).tobytes())
    names = labels_of(data)
    experiments = {block: [names[k] for k in own] for block, own in dealt["experiments"].items()}
    return digest({"sites": dealt["sites"], "experiments": experiments, "values": values.hexdigest()})[:12]


def _dealt(config: ColumnsConfig, data: xr.Dataset) -> dict[str, Any]:
    """Return which sites and experiments each block has, plain values."""
    names, count = labels_of(data), data.sizes["site"]
    for label in config.held_out:
        if label not in names:
            raise _mistake("held_out", f"out of {', '.join(names)}", label, nearest(label, names))
    if len(config.held_out) >= len(names):
        raise _mistake("held_out", f"fewer than the {len(names)} experiments", config.held_out)
    if config.train + config.val + FEWEST_TEST > count:
        raise _mistake("train + val", f"at most {count - FEWEST_TEST} of the {count} sites", config.train + config.val)
    order = np.random.default_rng(config.seed).permutation(count)
    sites = np.split(order, [config.train, config.train + config.val])
    seen = [k for k, name in enumerate(names) if name not in config.held_out]
    every = [*seen, *(names.index(label) for label in config.held_out)]
    return {
        "sites": {block: own.tolist() for block, own in zip(BLOCKS, sites, strict=True)},
        "experiments": {"train": seen, "val": seen, "test": every},
        "unlabelled": 0,
        "files": [str(Path(file).absolute()) for file in config.files],
        "sha256": [sha256(Path(file)) for file in config.files],
    }


def _unlabelled(config: ColumnsConfig, data: xr.Dataset) -> np.ndarray:
    """Return temperature and dew point of columns on pressure levels at the layers of the labelled ones, (n, 2, layer).

    Layers are those of the labelled columns' hybrid coordinate at the column's surface pressure. Above the file's top
    they are missing; below its lowest level they have that level's value.
    """
    where = config.unlabelled
    try:
        with xr.open_dataset(where) as opened:
            found = opened[["t", "q", "msl"]].transpose(..., "level").load()
    except (OSError, ValueError, KeyError) as error:
        said = in_a_line(error, 120)
        raise _mistake("unlabelled", "a NetCDF file of t, q (level) and msl", where, f" Reading it: {said}.") from None
    factor = {"degrees C": 273.15, "K": 0.0}, {"g/kg": 1e-3, "kg kg-1": 1.0, "kg/kg": 1.0}, {"hPa": 1e2, "Pa": 1.0}
    names = ("t", "q", "msl")
    for name, known in zip(names, factor, strict=True):
        if found[name].attrs.get("units") not in known:
            raise EarthSSLError(
                f"{where}: expected '{name}' in {' or '.join(known)}, got {found[name].attrs.get('units')}"
            )
    (offset, moist, surface) = (known[found[name].attrs["units"]] for name, known in zip(names, factor, strict=True))
    level = 100 * found["level"].values.astype(np.float64)
    t = offset + found["t"].values.reshape(-1, len(level))
    q = np.maximum(moist * found["q"].values.reshape(-1, len(level)), 1e-8)
    ps = surface * found["msl"].values.ravel()
    whole = np.flatnonzero(np.isfinite(t).all(1) & np.isfinite(q).all(1) & np.isfinite(ps))
    if not len(whole):
        raise EarthSSLError(f"{where}: expected a column without gaps, got none; choose another file")
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, config.unlabelled_columns).astype(int))]
    own, bottom = data["pres_layer"].values, data["pres_level"].values[:, -1]
    basis = np.stack([np.ones_like(bottom), bottom], axis=1)
    hybrid = np.linalg.lstsq(basis, own, rcond=None)[0]
    if np.abs(basis @ hybrid / own - 1).max() > 0.01:
        raise EarthSSLError(f"{config.files[0]}: its layers follow no a + b × surface pressure, so the columns of "
                            f"{where} cannot be brought to them; leave unlabelled out")  # fmt: skip
    order = np.argsort(level)
    logs = np.log(level[order])
    vapour = np.log(q * level / (0.622 + 0.378 * q))
    columns = np.empty((len(chosen), 2, own.shape[1]))
    for k, row in enumerate(chosen):
        wanted = np.log(hybrid[0] + hybrid[1] * ps[row])
        columns[k, 0] = np.interp(wanted, logs, t[row, order], left=np.nan)
        columns[k, 1] = dew_point(np.exp(np.interp(wanted, logs, vapour[row, order], left=np.nan)))
    return columns

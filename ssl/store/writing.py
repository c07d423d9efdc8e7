"""Writing a store: axes and statistics first, chunks beside them, the manifest last."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ..common.files import digest, disk_full_is_clear, sha256, write_json
from ..fields.normalisation import Statistics
from ..fields.variables import lookup
from .chunks import MANIFEST, Contents, Template, contents_of_file
from .encoding import CF, fill_value

# 2: digests are by step, so that the fingerprint does not depend on the chunks, and a store can be appended to.
FORMAT_VERSION = 2
TIME_UNITS = "seconds since 1970-01-01"
MEANING = ("format_version", "variables", "units", "grid", "splits", "dtype", "statistics", "appended")
SMALL = {"time": "0", "lat": "0", "lon": "0", "climatology": "0/0/0/0/0", "scale": "0/0/0"}  # and the file of each


def create(path: Path, template: Template, statistics: Statistics) -> zarr.Group:
    """Write the template and the statistics to a new Zarr group and return it; `fields` is still empty."""
    with disk_full_is_clear(path):
        group = zarr.create_group(path, zarr_format=3, overwrite=True)
        plain: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
            "time": (template.times.astype("datetime64[s]").astype(np.int64), ("time",)),
            "lat": (template.grid.lat, ("lat",)),
            "lon": (template.grid.lon, ("lon",)),
            "climatology": (statistics.coefficients, ("key", "basis", "variable", "lat", "lon")),
            "scale": (statistics.scale, ("variable", "lat", "lon")),
        }
        for name, (values, dims) in plain.items():
            group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=values.shape,
                compressors=None,
                dimension_names=dims,
            )
            file = path / name / "c" / SMALL[name]
            file.parent.mkdir(parents=True)
            with open(file, "wb") as handle:  # uncompressed: the bytes are the chunk; Zarr would copy them in memory
                handle.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
        group["time"].attrs.update({"units": TIME_UNITS, "calendar": "proleptic_gregorian"})
        group.create_array(
            "fields",
            shape=template.shape,
            chunks=(template.chunk_steps, *template.shape[1:]),
            dtype=template.dtype,
            compressors=None,
            fill_value=fill_value(template.dtype),
            dimension_names=("time", "variable", "lat", "lon"),
            config={"write_empty_chunks": True},
        )
        group["fields"].attrs.update({"variables": list(template.variables), "statistics": statistics.to_json()})
        if template.dtype == "int16":
            group["fields"].attrs.update(CF)
        with warnings.catch_warnings():
            # Zarr 3 warns that consolidated metadata are not in its specification; without them xarray warns.
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)
    return group


def open_fields(path: Path) -> zarr.Array:
    """Return the array `fields` of a group made by `create`, to be written to."""
    fields = zarr.open_group(path, mode="r+")["fields"]
    assert isinstance(fields, zarr.Array)
    return fields


def read_statistics(path: Path) -> Statistics:
    """Return the statistics of a store made by `create`, mapped from its files."""
    group: Any = zarr.open_group(path, mode="r")

    def mapped(name: str) -> np.ndarray:
        return np.memmap(path / name / "c" / SMALL[name], "<f4", "r", shape=group[name].shape)

    return Statistics.from_json(group["fields"].attrs["statistics"], mapped("climatology"), mapped("scale"))


def close(
    path: Path,
    template: Template,
    record: dict[str, Any],
    written: Sequence[Contents] | None = None,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the manifest of a store whose chunks are whole, and return it.

    The fingerprint is a digest of every step and of all that gives the numbers their meaning; how steps are cut into
    chunks and provenance (paths, dates, versions) stay outside it, so that the same data prepared elsewhere have the
    same one.

    Args:
        path: The store.
        template: What it holds.
        record: Provenance.
        written: Of every chunk, where that is known; else the files are read. After an append, of the chunks from
            the one on that holds the last step there was.
        earlier: Manifest of the store before steps were appended to it.

    Raises:
        EarthSSLError: If a chunk is missing or cut short.
    """
    for leftover in path.rglob("*.partial"):  # of a chunk that a killed run was writing
        leftover.unlink()
    if written is None:
        known = read_statistics(path).known
        written = [contents_of_file(path, template, number, known) for number in range(len(template.chunks()))]
    group: Any = zarr.open_group(path, mode="r")
    meaning = {
        "format_version": FORMAT_VERSION,
        "variables": list(template.variables),
        "units": [lookup(name).units for name in template.variables],
        "grid": template.grid.to_json(),
        "splits": template.splits.to_json(),
        "dtype": template.dtype,
        "statistics": group["fields"].attrs["statistics"],
        "appended": _appended(template, earlier) if earlier else [],
    }
    steps, chunks = joined([chunk.digests for chunk in written], earlier)
    parts = small_digests(path, len(template.times))
    manifest = {
        **meaning,
        "steps": len(template.times),
        "chunk_steps": template.chunk_steps,
        "steps_sha256": steps,
        "chunks_sha256": chunks,
        "small_sha256": parts,
        "steady": steady_of(template.variables, written, earlier),
        "fingerprint": digest([meaning, steps, parts]),
        **record,
    }
    write_json(path / MANIFEST, manifest)
    return manifest


def joined(digests: Sequence[Sequence[bytes]], earlier: dict[str, Any] | None = None) -> tuple[str, list[str]]:
    """Return the digest of all steps, and that of each chunk's.

    The former is a chain, a digest of the one before and the step's, so that appending goes on from its end.
    """
    last, kept, skipped = b"", [], 0
    if earlier:
        last = bytes.fromhex(earlier["steps_sha256"])
        number, skipped = divmod(earlier["steps"], earlier["chunk_steps"])
        kept = earlier["chunks_sha256"][:number]
    for step in list(chain.from_iterable(digests))[skipped:]:
        last = hashlib.sha256(last + step).digest()
    return last.hex(), kept + [hashlib.sha256(b"".join(chunk)).hexdigest() for chunk in digests]


def steady_of(
    variables: Sequence[str], written: Sequence[Contents], earlier: dict[str, Any] | None = None
) -> list[str]:
    """Return the variables whose valid cells are the known ones in every step: readers look for no gaps in these.

    It follows from the steps, so the fingerprint has no need of it; a store of before it was noted has none.
    """
    flags = np.all([chunk.steady for chunk in written], axis=0)
    before = earlier.get("steady", []) if earlier else variables
    return [name for name, flag in zip(variables, flags, strict=True) if flag and name in before]


def _appended(template: Template, earlier: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was appended so far: each time the fingerprint before, the steps, and what the statistics saw."""
    times = template.times[earlier["steps"] :]
    new = {
        "parent": earlier["fingerprint"],
        "first": str(times[0]),
        "last": str(times[-1]),
        "steps": len(times),
        "statistics": "those of the parent, not fitted again",
    }
    return [*earlier.get("appended", []), new]


def small_digests(path: Path, steps: int) -> dict[str, str]:
    """Return the digests of axes and statistics; of the times by value, because appending adds files of them."""
    group: Any = zarr.open_group(path, mode="r")
    parts = {name: sha256(path / name / "c" / zeros) for name, zeros in SMALL.items() if name != "time"}
    times = np.ascontiguousarray(group["time"][:steps], np.int64)
    return {"time": hashlib.sha256(times.data).hexdigest(), **parts}


def grow(path: Path, template: Template) -> None:
    """Let the Zarr metadata and times of a store reach to the last step of a longer template.

    Only the manifest, written afterwards, makes the new steps part of the store.
    """
    with disk_full_is_clear(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata, see `create`
        group: Any = zarr.open_group(path, mode="r+", use_consolidated=False)
        times = template.times.astype("datetime64[s]").astype(np.int64)
        group["fields"].resize(template.shape)
        group["time"].resize(times.shape)
        group["time"][:] = times
        zarr.consolidate_metadata(path)

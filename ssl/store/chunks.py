"""How the steps of a store lie in its files: chunks of whole steps, uncompressed, and the digest of each step."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common.errors import EarthSSLError
from ..fields.grid import LatLonGrid
from ..fields.splits import Splits
from .encoding import fill_value, is_valid

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Template:
    """What a store will hold, declared before a value is written.

    Attributes:
        variables: Canonical names, in the order of the channels.
        grid: Where the cells lie.
        times: UTC, datetime64[s], ascending.
        splits: The blocks of time.
        dtype: "float32"; "float16" or "int16" at half the size: their errors stand in `encoding`.
        chunk_steps: Time steps in one chunk.
    """

    variables: tuple[str, ...]
    grid: LatLonGrid
    times: np.ndarray
    splits: Splits
    dtype: str
    chunk_steps: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Steps, variables, rows, columns."""
        return (len(self.times), len(self.variables), *self.grid.shape)

    @property
    def chunk_bytes(self) -> int:
        """Size of every chunk's file; the last one is filled up."""
        return self.chunk_steps * int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize

    def chunks(self) -> list[tuple[int, int]]:
        """Return the [first, last) steps of every chunk."""
        steps = len(self.times)
        return [(i, min(i + self.chunk_steps, steps)) for i in range(0, steps, self.chunk_steps)]


def chunk_file(path: Path, number: int) -> Path:
    """Return the file of a chunk of `fields`."""
    return path / "fields" / "c" / str(number) / "0" / "0" / "0"


def write_chunk(path: Path, template: Template, number: int, values: np.ndarray) -> None:
    """Write a chunk: to a temporary neighbour, which is renamed when it is whole.

    Args:
        path: The store.
        template: What it holds.
        number: Of the chunk.
        values: In the store's dtype, (steps, variables, rows, columns); fewer steps than a chunk are filled up.
    """
    file = chunk_file(path, number)
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    missing = np.full(template.shape[1:], fill_value(template.dtype), template.dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as handle:
            handle.write(np.ascontiguousarray(values, template.dtype).data)
            for _ in range(template.chunk_steps - len(values)):
                handle.write(missing.data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


class Contents(NamedTuple):
    """What the manifest says of a chunk's steps, without those it is filled up with.

    Attributes:
        digests: SHA-256 of the bytes of each step.
        steady: Of each variable, whether its valid cells are the known ones in every step: no gap comes or goes.
    """

    digests: list[bytes]
    steady: list[bool]


def contents(values: np.ndarray, known: np.ndarray) -> Contents:
    """Return what the manifest says of steps.

    Args:
        values: As stored, (steps, variables, rows, columns).
        known: Cells that training saw a value in, (variables, rows, columns).
    """
    digests, steady = [], np.ones(len(known), bool)
    for step in values:
        digests.append(hashlib.sha256(np.ascontiguousarray(step).data).digest())
        steady &= (is_valid(step) == known).all((1, 2))
    return Contents(digests, steady.tolist())


def contents_of_file(path: Path, template: Template, number: int, known: np.ndarray) -> Contents:
    """Return what the manifest says of the steps that a chunk's file holds.

    Raises:
        EarthSSLError: If the file is not as large as a chunk.
    """
    file = chunk_file(path, number)
    if not file.is_file() or file.stat().st_size != template.chunk_bytes:
        found = file.stat().st_size if file.is_file() else "none"
        raise EarthSSLError(f"{file}: expected {template.chunk_bytes} bytes, got {found}; prepare again")
    mapped = np.memmap(file, np.dtype(template.dtype), "r", shape=(template.chunk_steps, *template.shape[1:]))
    first, last = template.chunks()[number]
    return contents(mapped[: last - first], known)

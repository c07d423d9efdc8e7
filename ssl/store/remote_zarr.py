"""Stores as others keep them: behind a URL, compressed, sharded; read through Zarr, again where the line breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import fsspec
import numpy as np
import zarr

from ..common.errors import EarthSSLError

TRIES = 8
PAUSE_S = 0.5  # before the second try; twice as long before each further one, up to LONGEST_S: a minute in all
LONGEST_S = 30.0
CONNECT_S, SILENT_S = 30, 60  # how long a server may take to answer, and be silent within an answer

T = TypeVar("T")


class Unreachable(EarthSSLError):
    """A store did not answer, however often it was asked."""


def options_of(address: str) -> dict[str, Any]:
    """Return what fsspec is told of an address besides its own configuration (FSSPEC_… and ~/.config/fsspec)."""
    if not address.startswith(("http://", "https://")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENT_S)
    return {"client_kwargs": {"timeout": timeout}}


class Origin:
    """A store that is read, never written to.

    Attributes:
        address: A folder, or the URL of one: https://, s3://, gs://, memory://, …
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def file(self, name: str, tries: int = TRIES) -> bytes:
        """Return the content of a file of the store.

        Raises:
            EarthSSLError: If there is none, or the store cannot be reached.
        """

        def read() -> bytes:
            system, path = fsspec.core.url_to_fs(self.address, **options_of(self.address))
            found: bytes = system.cat_file(f"{path.rstrip('/')}/{name}")
            return found

        try:
            return self._tried(read, name, tries)
        except FileNotFoundError:
            raise EarthSSLError(
                f"expected a training store at {self.address}, found no {name} there; check the address, or make a "
                "store with `earthssl prepare`"
            ) from None

    def array(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Return the rows [first, last) of an array, decoded; parts that are missing read as its fill value.

        Raises:
            EarthSSLError: If there is no such array, or the store cannot be reached.
        """
        try:
            return self._tried(lambda: np.asarray(self._group[name][first:last]), name, TRIES)
        except (FileNotFoundError, KeyError):
            raise EarthSSLError(f"{self.address}: expected a Zarr group with an array {name}, found none") from None

    @cached_property
    def _group(self) -> Any:
        return zarr.open_group(self.address, mode="r", storage_options=options_of(self.address) or None)

    def _tried(self, read: Callable[[], T], what: str, tries: int) -> T:
        """Return what `read` does, tried again where a connection was lost or an answer cut short."""
        pause = PAUSE_S
        for left in reversed(range(tries)):
            try:
                return read()
            except (EarthSSLError, FileNotFoundError, KeyError):
                raise
            except Exception as error:  # every system and codec has errors of its own
                if not left:
                    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                    raise Unreachable(
                        f"{self.address}: {what} could not be read in {tries} tries ({why}); check the connection and "
                        "the store, then run the same command again: what was fetched is kept"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_S)
        raise AssertionError("unreachable")


def is_plain(metadata: str, chunk_shape: tuple[int, ...], dtype: str) -> bool:
    """Whether the chunk files of an array are its values as they are, so that they can be mapped.

    Args:
        metadata: The array's zarr.json.
        chunk_shape, dtype: Of the chunks expected.
    """
    record = json.loads(metadata)
    codecs = record["codecs"]
    grid = record["chunk_grid"]["configuration"]["chunk_shape"]
    plain = [codec["name"] for codec in codecs] == ["bytes"] and (
        codecs[0].get("configuration", {}).get("endian", "little") == "little"
    )
    return plain and tuple(grid) == chunk_shape and record["data_type"] == dtype

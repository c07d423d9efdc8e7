"""How long a classic NetCDF file must be: the C library reads past the end of a truncated one as zeros."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
STREAMING = 0xFFFFFFFF


def expected_bytes(path: Path) -> int:
    """Return the least number of bytes that a classic file (versions 1, 2, 5) needs by its own header.

    The format: Unidata, "NetCDF Classic Format Specification".

    Raises:
        EOFError: If the header itself is cut off or makes no sense.
    """
    with open(path, "rb") as handle:
        return _Header(handle).expected()


class _Header:
    """Reads the header of one file."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.version = self._read(4)[3]
        self.count_bytes = 8 if self.version == 5 else 4
        self.offset_bytes = 4 if self.version == 1 else 8

    def expected(self) -> int:
        records = self._number(self.count_bytes)
        if records in (STREAMING, 2**64 - 1):
            records = 0
        lengths = []
        for _ in range(self._list()):
            self._name()
            lengths.append(self._number(self.count_bytes))
        self._attributes()
        ends, starts, sizes = [self.handle.tell()], [], []
        for _ in range(self._list()):
            self._name()
            dims = [self._number(self.count_bytes) for _ in range(self._number(self.count_bytes))]
            self._attributes()
            kind = self._number(4)
            self._number(self.count_bytes)  # vsize: redundant, and wrong for variables over 4 GiB
            begin = self._number(self.offset_bytes)
            if kind not in TYPE_BYTES or any(dim >= len(lengths) for dim in dims):
                raise EOFError("the header makes no sense")
            unlimited = bool(dims) and lengths[dims[0]] == 0
            size = TYPE_BYTES[kind] * math.prod(lengths[dim] for dim in dims[unlimited:])
            if unlimited:
                starts.append(begin)
                sizes.append(size)
            else:
                ends.append(begin + size)
        if records and starts:
            # one record variable alone is not padded to four bytes
            step = sizes[0] if len(sizes) == 1 else sum(-(-size // 4) * 4 for size in sizes)
            ends += [b + (records - 1) * step + size for b, size in zip(starts, sizes, strict=True)]
        return max(ends)

    def _read(self, count: int) -> bytes:
        data = self.handle.read(count)
        if len(data) < count:
            raise EOFError("the header is cut off")
        return data

    def _number(self, width: int) -> int:
        return int(struct.unpack(">I" if width == 4 else ">Q", self._read(width))[0])

    def _skip(self, count: int) -> None:
        self._read(-(-count // 4) * 4)

    def _name(self) -> None:
        self._skip(self._number(self.count_bytes))

    def _list(self) -> int:
        self._number(4)  # the tag says only what the list is of, and the order is fixed
        return self._number(self.count_bytes)

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._name()
            kind = self._number(4)
            if kind not in TYPE_BYTES:
                raise EOFError("the header makes no sense")
            self._skip(TYPE_BYTES[kind] * self._number(self.count_bytes))

"""Parsing what others wrote, without trust: JSON and safetensors with limits, checked before anything is allocated."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..common.errors import EarthSSLError

MIB = 2**20
JSON_BYTES = 4 * MIB
DEPTH = 32
LARGEST_INTEGER = 2**63 - 1
HEADER_BYTES = 4 * MIB
TENSOR_BYTES = 8 * 2**30
TENSORS = 20_000
NAME_LENGTH = 200
# Bytes of an element; all that a checkpoint may hold.
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
# Never gives up what it has taken, nor asks for a closing quote: what no JSON is takes no longer than what is.
STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def regular_file(path: Path, what: str, limit: int) -> int:
    """Return the bytes of a file that is one: no link, no folder, no pipe, not empty, not larger than the limit.

    Raises:
        EarthSSLError: If it is missing or anything else.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise EarthSSLError(f"expected {what} at {path}, found no such file; fetch it again") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "a folder" if stat.S_ISDIR(found.st_mode) else "no file"
        raise EarthSSLError(f"{path}: expected {what} as a regular file, got {kind}; fetch it again")
    if not 0 < found.st_size <= limit:
        raise EarthSSLError(f"{path}: expected {what} of 1 to {limit} bytes, got {found.st_size}; fetch it again")
    return found.st_size


def read_strict_json(path: Path, what: str, limit: int = JSON_BYTES) -> Any:
    """Return the JSON in a file.

    Raises:
        EarthSSLError: If it is no regular file, too large, or no strict JSON; see `parse_json`.
    """
    regular_file(path, what, limit)
    with open(path, "rb") as handle:
        return parse_json(handle.read(limit), what, path)


def strict_json(content: bytes, where: str, limit: int) -> Any:
    """Return what JSON of at most `limit` bytes says; see `parse_json`.

    Raises:
        EarthSSLError: Naming `where` it came from.
    """
    if len(content) > limit:
        raise EarthSSLError(f"{where}: expected at most {limit} bytes, got {len(content)}; it is not trusted")
    return parse_json(content, "what it holds", where)


def parse_json(content: bytes, what: str, where: object, depth: int = DEPTH) -> Any:
    """Return what JSON in UTF-8 says, nothing left to the parser's discretion.

    Raises:
        EarthSSLError: On any other encoding or a byte order mark; a key given twice; NaN, Infinity, or a number that
            64 bits cannot hold; brackets nested deeper than `depth`; half a surrogate pair, control characters, and
            characters that change the direction of writing.
    """

    def refuse(why: str) -> EarthSSLError:
        return EarthSSLError(f"{where}: expected {what} as strict JSON, but {why}; fetch it again")

    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    if text.startswith("\ufeff"):
        raise refuse("it starts with a byte order mark")
    if _nesting(text) > depth:
        raise refuse(f"it is nested deeper than {depth} levels")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_float
        )
        spelt = json.dumps(value, ensure_ascii=False)
        spelt.encode("utf-8")
    except RecursionError:
        raise refuse("it is nested too deep") from None
    except json.JSONDecodeError as error:
        raise refuse(f"it cannot be parsed ({error})") from None
    except UnicodeEncodeError:
        raise refuse("a text holds half a surrogate pair") from None
    except ValueError as error:
        raise refuse(str(error)) from None
    if _holds_control(value):
        raise refuse("a text holds control characters")
    return value


def _nesting(text: str) -> int:
    """Return the greatest depth of brackets outside strings."""
    deepest = level = 0
    for bracket in re.findall(r"[\[{\]}]", STRING.sub("", text)):
        level += 1 if bracket in "[{" else -1
        deepest = max(deepest, level)
    return deepest


def _holds_control(value: Any) -> bool:
    if isinstance(value, dict):
        return any(CONTROL.search(name) or _holds_control(item) for name, item in value.items())
    if isinstance(value, list):
        return any(map(_holds_control, value))
    return isinstance(value, str) and CONTROL.search(value) is not None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {short(twice)} is given twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which JSON has not")


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST_INTEGER:
        raise ValueError(f"the number {short(digits)} does not fit in 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {short(digits)} is too large")
    return number


def short(value: Any) -> str:
    """Return a value as Python spells it, cut to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every tensor in a safetensors file, from its header alone.

    Raises:
        EarthSSLError: If it is no regular safetensors file within the limits of size, header and number of tensors,
            or holds another dtype, an odd name, or fewer or more bytes than the header says.
    """
    size = regular_file(file, "safetensors", TENSOR_BYTES)

    def refuse(why: str) -> EarthSSLError:
        return EarthSSLError(f"{file}: expected safetensors, but {why}; fetch it again")

    with open(file, "rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(HEADER_BYTES, size - 8):
            raise refuse(f"its header claims {length} bytes of {size}, at most {HEADER_BYTES} allowed")
        content = handle.read(length)
    header = parse_json(content.rstrip(b" "), "a safetensors header", file)
    if not isinstance(header, dict):
        raise refuse("its header is no mapping")
    header.pop("__metadata__", None)
    if len(header) > TENSORS:
        raise refuse(f"it holds {len(header)} tensors, at most {TENSORS} allowed")
    found, total = {}, 0
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            whole = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8
        except (KeyError, TypeError):
            raise refuse(f"the header of tensor {short(name)} lacks dtype or shape") from None
        if not whole or not 0 < len(name) <= NAME_LENGTH:
            raise refuse(f"tensor {short(name)} has an odd name or shape")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise refuse(f"tensor {short(name)} has dtype {short(dtype)}, allowed are {', '.join(DTYPES)}")
        found[name] = (dtype, shape)
        total += DTYPES[dtype] * math.prod(shape)
    if total != size - 8 - length:
        raise refuse(f"its header describes {total} bytes of data and it holds {size - 8 - length}")
    return found


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file whose header has been found in order.

    Raises:
        EarthSSLError: See `read_header`.
    """
    read_header(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise EarthSSLError(f"{file}: expected safetensors, but it cannot be read ({error}); fetch it again") from None

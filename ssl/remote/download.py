"""Bringing a file here, whole or not at all: it goes on where it stopped, keeps to limits, and the hash is checked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..common.errors import EarthSSLError
from ..common.files import check_disk, disk_full_is_clear, no_link, sha256, write_text
from .place import BLOCK, Opened, Remote, Transient

TRIES = 5  # in a row that bring less than a block
ROUNDS = 3  # from the first byte on, where what came in pieces is not what was promised
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
SPARE = 64 << 20  # bytes of the disk left free
OTHER_CACHE = "or set EARTHSSL_CACHE to a folder on another disk"

Result = TypeVar("Result")


class TooLarge(EarthSSLError):
    """More was sent, or announced, than there may be."""


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
        name: Its name there.
        sha256: Of its content; None where nobody has said it: then it is whole when all that was announced has come.
        size: Its size in bytes where that is known, else None.
        limit: Bytes that it may have at most.
    """

    name: str
    sha256: str | None
    size: int | None
    limit: int


def patiently(step: Callable[[], Result], what: str, gained: Callable[[], int] = lambda: 0) -> Result:
    """Return what the step returns, trying again where that may help, with longer and longer waits.

    Args:
        step: Raises `Transient` where trying again may help.
        what: Is named in the error.
        gained: Bytes at hand; while they grow by at least a block, trying goes on.

    Raises:
        EarthSSLError: After `TRIES` in vain.
    """
    tries, before = 0, gained()
    while True:
        try:
            return step()
        except Transient as error:
            now = gained()
            tries, before = (1, now) if now - before >= BLOCK else (tries + 1, before)
            if tries >= TRIES:
                raise EarthSSLError(
                    f"{what}: {error!s:.300}; gave up after {tries} tries; what came is kept, the same command goes on"
                ) from None
            time.sleep(min(max(FIRST_WAIT_S * 2 ** (tries - 1), error.wait_s), LONGEST_WAIT_S))


def read_small(remote: Remote, name: str, limit: int) -> bytes:
    """Return the content of a small file.

    Raises:
        Absent: If there is none.
        EarthSSLError: If it has more than `limit` bytes or cannot be had.
    """

    def once() -> bytes:
        content = bytearray()
        with remote.open(name) as opened:
            _refuse_large(opened.total, limit, remote.where(name))
            for block in opened.blocks:
                content += block
                _refuse_large(len(content), limit, remote.where(name))
        return bytes(content)

    return patiently(once, remote.where(name))


def fetch(remote: Remote, wanted: Wanted, file: Path, advance: Callable[[int], None] = lambda _: None) -> None:
    """Fetch a file; `<file>.part` and `<file>.json` beside it hold what came of an unfinished one.

    Args:
        remote: Where it lies.
        wanted: What it is.
        file: Where it arrives, when its hash is right.
        advance: Told the number of bytes at hand, as it grows or falls back.

    Raises:
        EarthSSLError: If it cannot be had, is larger than allowed, has another hash, or the disk is full.
    """
    part = file.with_name(file.name + ".part")
    where = remote.where(wanted.name)
    size = 0
    for _ in range(ROUNDS):
        glued = True
        if not _is(part, wanted):
            with disk_full_is_clear(file):
                glued = patiently(lambda: _go_on(remote, wanted, part, advance), where, lambda: _size(part))
        if wanted.sha256 is None or _is(part, wanted):
            os.replace(part, file)
            _stamp(part).unlink(missing_ok=True)
            return
        size = _size(part)
        discard(part)
        if not glued:  # what came in one piece is what is there; halves of two versions are another matter
            break
    expected = f"{wanted.size} bytes with " if wanted.size is not None else ""
    raise EarthSSLError(
        f"{where}: expected {expected}SHA-256 {wanted.sha256 or '':.12}…, got {size} bytes with another; it was "
        "changed or damaged; nothing of it is kept; try another time, or ask whoever keeps that place"
    )


def discard(part: Path) -> None:
    """Remove what came of an unfinished file."""
    part.unlink(missing_ok=True)
    _stamp(part).unlink(missing_ok=True)


def _is(part: Path, wanted: Wanted) -> bool:
    known = wanted.sha256 is not None and part.is_file() and wanted.size in (None, _size(part))
    return known and sha256(part) == wanted.sha256


def _go_on(remote: Remote, wanted: Wanted, part: Path, advance: Callable[[int], None]) -> bool:
    """Append to the part what is missing of it, and return whether something was there before."""
    where = remote.where(wanted.name)
    version = _version(part, where)
    done = _size(part) if version else 0
    try:
        with remote.open(wanted.name, done, version) as opened:
            _refuse_large(opened.total, wanted.limit, where)
            check_disk(part.parent, (opened.total or opened.start) - opened.start, where, OTHER_CACHE, SPARE)
            write_text(_stamp(part), json.dumps({"where": where, "version": opened.version}))
            _write(opened, part, wanted.limit, where, advance)
            return opened.start > 0
    except TooLarge:
        discard(part)
        raise
    except Transient as error:
        if getattr(error, "status", 0) == 416:  # what is here is no beginning of what is there
            discard(part)
        raise


def _write(opened: Opened, part: Path, limit: int, where: str, advance: Callable[[int], None]) -> None:
    with open(part, "r+b" if opened.start else "wb", opener=no_link) as handle:
        handle.truncate(opened.start)
        handle.seek(opened.start)
        done = opened.start
        advance(done)
        for block in opened.blocks:
            done += len(block)
            _refuse_large(done, limit, where)
            handle.write(block)
            advance(done)
        handle.flush()
        os.fsync(handle.fileno())


def _refuse_large(size: int | None, limit: int, where: str) -> None:
    if size is not None and size > limit:
        raise TooLarge(
            f"{where}: expected at most {limit} bytes, but {size} or more are sent; it is not what its manifest says, "
            "or larger than allowed (--max-gb)"
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _stamp(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _version(part: Path, where: str) -> str:
    """Return the version of which the part is, or "" where going on is not safe."""
    try:
        stamp = json.loads(_stamp(part).read_text(encoding="utf-8"))
        return str(stamp["version"]) if stamp["where"] == where else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""

"""Writing so that nothing half-written is ever taken for whole; locks, digests, free disk."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .errors import EarthSSLError

MIB = 2**20
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_full_is_clear(what: Path) -> Iterator[None]:
    """Turn a full disk, met while writing `what`, into an error that names the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number in FULL:
            raise EarthSSLError(
                f"no space left while writing {what} ({os.strerror(number)}); nothing unfinished was "
                "put in its place; free space and run the same command again, it continues"
            ) from None
        raise


def _errno(error: OSError | SafetensorError) -> int:
    """Return the system's number of the error; safetensors gives it in its text only."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        EarthSSLError: If another process holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise EarthSSLError(f"{folder} is in use by another process; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()  # the file stays: another may hold it open already, and a new one would be a second lock


@contextmanager
def waited_for(lock: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold a lock file, waiting for whoever holds it; the lock goes with the process, the empty file stays.

    Args:
        lock: The file.
        say: Told, where there is someone to wait for.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        try:
            held.acquire(blocking=False)
        except Timeout:
            say("another process is at it; waiting until it is done")
            held.acquire()
    except OSError as error:
        raise _refused_link(lock, error) from None
    try:
        yield
    finally:
        held.release()


def no_link(path: str, flags: int) -> int:
    """Open a file as `open(…, opener=no_link)` does it: not through a link that someone put there.

    Raises:
        EarthSSLError: If there is a link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise _refused_link(path, error) from None


def _refused_link(path: str | Path, error: OSError) -> Exception:
    """Return the error in words where it is that of a link, else as it is."""
    if error.errno != errno.ELOOP:
        return error
    return EarthSSLError(f"{path}: expected a file or nothing, found a link, which may lead anywhere; remove it")


def cache_folder(cache: str | Path | None = None) -> Path:
    """Return the folder for downloads: the one given, $EARTHSSL_CACHE, or earthssl in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := cache or os.environ.get("EARTHSSL_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "earthssl"


def write_text(path: Path, text: str) -> None:
    """Write the text to a temporary neighbour, then rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_full_is_clear(path):
            with open(temporary, "w", encoding="utf-8", opener=no_link) as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, record: Any) -> None:
    """Write plain JSON atomically, indented; NaN is refused, JSON has none."""
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Return the JSON in the file.

    Raises:
        EarthSSLError: If it is missing or no JSON, naming `what` was looked for.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EarthSSLError(f"expected {what} at {path}, found no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EarthSSLError(f"{path}: expected {what} as JSON, but it cannot be parsed ({error})") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(record: Any) -> str:
    """Return the SHA-256 of a plain record, independent of key order."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def refuse_filled(folder: Path, what: str) -> None:
    """Raise where the output folder exists and holds something: results are never mixed or overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EarthSSLError(
            f"expected an empty or new folder for {what}, but {folder} is not empty; "
            "choose another with --out, or remove it"
        )


def exchange(one: Path, other: Path) -> None:
    """Let two paths of one file system change names at once, so that neither name is ever without its folder.

    Where the system cannot (Linux ≥ 3.15 can), by way of a third name: killed in between, a run leaves `one` under
    the name of `other` with ".old" behind it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if hasattr(libc, "renameat2") and not libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), swap):
        return
    third = other.with_name(f"{other.name}.old")
    os.replace(one, third)
    try:
        os.replace(other, one)
    except OSError:
        os.replace(third, one)
        raise
    os.replace(third, other)


def existing(folder: Path) -> Path:
    """Return the folder itself or the nearest one above it that exists, absolute."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def check_disk(folder: Path, needed: int, what: str, remedy: str, spare: int = 0) -> None:
    """Raise where less disk is free than some work will still take.

    Args:
        folder: Where it goes; it or a parent exists.
        needed: Bytes that the work still takes; 0 or less is always there.
        what: For the message.
        remedy: What may be done, besides freeing space.
        spare: Bytes to be left free.

    Raises:
        EarthSSLError: With both numbers.
    """
    place = existing(folder)
    free = shutil.disk_usage(place).free
    if needed > 0 and free < needed + spare:
        raise EarthSSLError(
            f"{what} takes {(needed + spare) / MIB:.0f} MiB more on disk, but {place} has {free / MIB:.0f} MiB free; "
            f"free space, {remedy}"
        )

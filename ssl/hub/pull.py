"""Checkpoints that travel: `pull` brings one from an address and proves it.

Only the file names that the format knows are ever fetched or written, whatever a manifest or an index says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoint.manifest import MANIFEST, MANIFEST_BYTES, check_files, names_in
from ..checkpoint.untrusted_input import JSON_BYTES, parse_json
from ..common.errors import EarthSSLError
from ..common.files import check_disk, disk_full_is_clear, refuse_filled, waited_for, write_text
from ..common.files import sha256 as sha256_of
from ..common.progress import transfer_bar
from ..remote.address import Address, parse
from ..remote.download import OTHER_CACHE, SPARE, Wanted, fetch, patiently, read_small
from ..remote.open_place import remote_of
from ..remote.place import Remote
from .checkpoint_cache import Cache
from .registry_index import by_worth, read_index

MAX_GB = 16.0  # of a checkpoint that is pulled
_TEXTS = ("record.json", "card.md")

Say = Callable[[str], None]


def pull(
    address: str | Path,
    out: str | Path | None = None,
    *,
    offline: bool | None = None,
    allow_http: bool = False,
    max_gb: float = MAX_GB,
    say: Say = lambda _: None,
) -> Path:
    """Bring a checkpoint here, verify it, and return its folder in the cache, or `out`.

    What was interrupted goes on where it stopped. The folder has its name only when every hash is right and the encoder
    gives its golden output.

    Args:
        address: See ssl/remote/address.py.
        out: New or empty folder that becomes a copy.
        offline: Use the cache only; None asks the environment variable EARTHSSL_OFFLINE.
        allow_http: Take http:// to other machines.
        max_gb: Size that a checkpoint may have.
        say: Told, in a line each, what a user wants to know: the commit of a branch, for example.

    Raises:
        EarthSSLError: If it cannot be had, is not what it says it is, or the disk is full.
    """
    place = _with_run(parse(address, allow_http=allow_http))
    if not 0 < max_gb < 1e6:
        raise EarthSSLError(f"max_gb: expected a size above 0, in GB, got {max_gb}")
    if out is not None:
        _check_out(Path(out))
    cache = Cache()
    found = None
    if place.scheme != "file" and _is_offline(offline):
        found = _cached(cache, place)
    elif place.pin:
        found = cache.whole(place.pin)
    with disk_full_is_clear(cache.root):
        if found is None:
            found = _bring(cache, place, allow_http, max_gb, say)
        return found if out is None else _copy(found, Path(out))


def load_folder(address: str | Path) -> Path:
    """Return the folder that an address stands for: a local one as it is, or that of its run; others are pulled."""
    place = _with_run(parse(address))
    if place.scheme != "file":
        return pull(address)
    folder = Path(place.place)
    if place.pin and (folder / MANIFEST).is_file():
        _check_pin(place, (folder / MANIFEST).read_bytes())
    return folder


def verify(address: str | Path, *, offline: bool | None = None, allow_http: bool = False) -> dict[str, Any]:
    """Verify a checkpoint at an address, which is pulled first where it is remote; see ssl/checkpoint/verify.py.

    Returns:
        What `verify` of ssl/checkpoint returns, and its `folder`.
    """
    from ..checkpoint.verify import verify as verify_folder

    remote = parse(address, allow_http=allow_http).scheme != "file"
    folder = pull(address, offline=offline, allow_http=allow_http) if remote else load_folder(address)
    return {**verify_folder(folder), "folder": folder}


def list_registry(registry: str | Path | None = None, *, allow_http: bool = False) -> list[dict[str, Any]]:
    """Return what a registry holds, or the cache where none is named.

    Returns:
        A mapping for each checkpoint: `name`, and the keys of `registry_index.ENTRY`; of a registry, those that win
        against most of their rivals first (`registry_index.by_worth`).

    Raises:
        EarthSSLError: If there is no index, or one that is not to be trusted.
    """
    if registry is None:
        return Cache().entries()
    place = parse(registry, allow_http=allow_http)
    if place.scheme == "hf":
        raise EarthSSLError(
            f"{place}: expected a registry (a folder, https:// or s3://); a hf:// repository holds one checkpoint"
        )
    entries = read_index(remote_of(place, allow_http=allow_http))
    return by_worth({"name": name, **entry} for name, entry in entries.items())


def _with_run(place: Address) -> Address:
    """Return the address of the checkpoint where a local one is that of its run's folder."""
    inner = Path(place.place) / "checkpoint"
    return Address("file", str(inner), pin=place.pin) if place.scheme == "file" and inner.is_dir() else place


def _is_offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    return os.environ.get("EARTHSSL_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _cached(cache: Cache, place: Address) -> Path:
    """Return the folder in the cache, or refuse."""
    sha256 = place.pin or cache.remembered(place)
    folder = cache.whole(sha256) if sha256 else None
    if folder is None:
        raise EarthSSLError(
            f"{place.bare}: expected it in the cache {cache.root}, since offline is asked for, found none; pull it "
            "once with a network (without --offline and EARTHSSL_OFFLINE), or copy its folder here"
        )
    return folder


def _bring(cache: Cache, place: Address, allow_http: bool, max_gb: float, say: Say) -> Path:
    """Fetch the manifest, and all that is missing of what it names, into the cache."""
    resolved = place
    if place.scheme == "hf" and not place.is_commit:
        from ..remote.hugging_face import commit_of

        resolved = patiently(lambda: commit_of(place), place.bare)
        say(f"{place.bare} is commit {resolved.revision}")
    remote = remote_of(resolved, allow_http=allow_http)
    manifest = read_small(remote, MANIFEST, MANIFEST_BYTES)
    _check_pin(place, manifest)
    sha256 = hashlib.sha256(manifest).hexdigest()
    wanted = read_manifest(manifest, remote.where(MANIFEST), int(max_gb * 1e9))
    with waited_for(cache.lock(sha256), say):  # whoever comes second finds it done
        folder = cache.whole(sha256)
        if folder is None:
            _fetch_all(remote, wanted, cache.partial(sha256), manifest, cache.folder(sha256), int(max_gb * 1e9))
        cache.remember(place, resolved, sha256)
    return cache.folder(sha256)


def _check_pin(place: Address, manifest: bytes) -> None:
    got = hashlib.sha256(manifest).hexdigest()
    if place.pin and got != place.pin:
        raise EarthSSLError(
            f"{place.bare}: expected the manifest with SHA-256 {place.pin}, got {got}; another checkpoint lies there "
            "now: ask whoever gave you the address"
        )


def read_manifest(manifest: bytes, where: str, max_bytes: int) -> list[Wanted]:
    """Return the files that a manifest names, the record first.

    Raises:
        EarthSSLError: If it names anything but the files of a checkpoint, or more bytes than allowed.
    """
    plain = parse_json(manifest, "a checkpoint's manifest", where)
    names = names_in(plain, where)
    sizes: dict[str, int] = plain.get("bytes", {})
    if sum(sizes.values()) > max_bytes:
        raise EarthSSLError(
            f"{where}: expected at most {max_bytes / 1e9:g} GB, the checkpoint has {sum(sizes.values()) / 1e9:.1f}; "
            "allow it with --max-gb"
        )
    return [
        Wanted(name, plain["sha256"][name], sizes.get(name), _limit(name, sizes.get(name), max_bytes)) for name in names
    ]


def _limit(name: str, size: int | None, max_bytes: int) -> int:
    most = min(JSON_BYTES, max_bytes) if name in _TEXTS else max_bytes
    return most if size is None else min(size, most)


def _fetch_all(
    remote: Remote, wanted: list[Wanted], partial: Path, manifest: bytes, folder: Path, max_bytes: int
) -> None:
    """Fetch every file into `partial`, verify the whole, and give it its name."""
    from ..checkpoint.migration import version_of
    from ..checkpoint.verify import verify as verify_folder

    partial.mkdir(parents=True, exist_ok=True)
    whole = partial / "checkpoint"
    whole.mkdir(exist_ok=True)
    total = sum(one.size for one in wanted if one.size is not None) or None
    there = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    check_disk(partial, (total or 0) - there, remote.address.bare, OTHER_CACHE, SPARE)
    done = 0
    with transfer_bar() as bar:
        task = bar.add_task(f"pull {remote.address.bare}"[-60:], total=total)
        for one in wanted:
            file = whole / one.name
            if not (file.is_file() and sha256_of(file) == one.sha256):
                one = Wanted(one.name, one.sha256, one.size, min(one.limit, max_bytes - done))
                fetch(remote, one, partial / one.name, lambda at, done=done: bar.update(task, completed=done + at))  # type: ignore[misc]
                os.replace(partial / one.name, file)
            done += file.stat().st_size
            if one.name == "record.json":  # before the weights come: can this release read them at all?
                where = remote.where(one.name)
                version_of(parse_json(file.read_bytes(), "a checkpoint's record", where), where)
    write_text(whole / MANIFEST, manifest.decode("utf-8"))
    try:
        verify_folder(whole)
    except EarthSSLError as error:
        shutil.rmtree(partial)
        said = str(error).replace(f"{whole}", remote.address.bare)
        raise EarthSSLError(f"{said}; it arrived as it was sent, and is not kept") from None
    if folder.exists():  # damaged since it came; whoever holds it open keeps what they have
        shutil.rmtree(folder)
    os.replace(whole, folder)
    shutil.rmtree(partial)


def _check_out(out: Path) -> None:
    if out.is_symlink():
        raise EarthSSLError(f"expected a new folder, but {out} is a link; name the folder itself, or another --out")
    if not (out / MANIFEST).is_file():
        refuse_filled(out, "the checkpoint")


def _copy(folder: Path, out: Path) -> Path:
    """Copy a whole checkpoint to a folder that appears when the copy is whole."""
    if (out / MANIFEST).is_file():
        if (out / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes():
            check_files(out)
            return out
        refuse_filled(out, "the checkpoint")
    place_copy(folder, out)
    return out


def place_copy(folder: Path, target: Path) -> None:
    """Copy a checkpoint beside the target, check every hash, and rename it; an empty folder there gives way."""
    making = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        with disk_full_is_clear(target):
            making.mkdir(parents=True)
            for name in (*check_files(folder), MANIFEST):
                shutil.copyfile(folder / name, making / name)
            check_files(making)
            if target.is_dir():
                target.rmdir()
            os.replace(making, target)
    finally:
        shutil.rmtree(making, ignore_errors=True)

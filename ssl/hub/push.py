"""Putting a checkpoint where others find it: the manifest last, the registry's index after it, nothing else touched."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from ..checkpoint.manifest import MANIFEST, MANIFEST_BYTES, check_files, files_of
from ..common.errors import EarthSSLError
from ..common.files import disk_full_is_clear, exchange, waited_for, write_text
from ..common.progress import track
from ..remote.address import Address, parse
from ..remote.download import patiently, read_small
from ..remote.local import Folder
from ..remote.open_place import remote_of
from ..remote.place import Absent
from ..remote.s3 import S3, Changed
from .pull import load_folder, place_copy
from .registry_index import INDEX, LARGEST_INDEX, describe, entries_or_none, index_text, parse_index


def push(folder: str | Path, address: str | Path, *, replace: bool = False) -> str:
    """Verify a checkpoint, put it at an address, and return the address with the pin that fixes it.

    A folder or s3:// address is REGISTRY/NAME, and the registry's index learns of it; a hf:// one is a repository and
    a branch.

    Args:
        folder: Of the checkpoint, or of its run.
        address: Where to.
        replace: Put it in the place of another checkpoint of that name.

    Raises:
        EarthSSLError: If it is not whole, the place holds another, or cannot be written.
    """
    from ..checkpoint.verify import verify

    place = parse(address)
    if place.pin:
        raise EarthSSLError(
            f"{place.bare}: expected an address without a pin, which belongs to what lies there already"
        )
    if place.scheme in ("http", "https"):
        raise EarthSSLError(
            f"{place}: a web server is read, not written to; push to the folder that it serves (file:///…/NAME on its "
            "machine, or a local registry that is then copied there whole), or to s3:// or hf://"
        )
    source = load_folder(folder)
    verify(source)
    sha256 = hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()
    how = {"file": _to_folder, "s3": _to_s3, "hf": _to_hf}[place.scheme]
    return str(how(source, place, sha256, replace).pinned(sha256))


def _refuse(place: Address, present: str, replace: bool) -> None:
    if not replace:
        raise EarthSSLError(
            f"{place.bare}: expected nothing there or the same checkpoint, found another (manifest {present[:12]}…); "
            "choose another name, or replace it with --replace: what is pinned to it is then lost"
        )


def _to_folder(source: Path, place: Address, sha256: str, replace: bool) -> Address:
    target, registry = Path(place.place).absolute(), Path(place.registry.place)
    place = Address("file", str(target))
    name = place.name
    if target.is_symlink():
        raise EarthSSLError(
            f"{target}: expected a folder of the registry, found a link, which may lead anywhere; remove it"
        )
    with disk_full_is_clear(target):
        registry.mkdir(parents=True, exist_ok=True)
        with waited_for(registry / ".index.lock"):
            entries = entries_or_none(Folder(place.registry))
            if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
                raise EarthSSLError(
                    f"{target}: expected a checkpoint or nothing, found something else; remove it, or take another name"
                )
            if strange := _strangers(target):
                raise EarthSSLError(
                    f"{target}: expected the files of a checkpoint only, found {strange[0]!r:.120} too; move it away"
                )
            present = _hash(target / MANIFEST)
            if present and present != sha256:
                _refuse(place, present, replace)
            if present != sha256 or not _is_whole(target):
                _put(source, target)
            entries[name] = describe(target)
            write_text(registry / INDEX, index_text(entries))
    return place


def _hash(manifest: Path) -> str:
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""


def _strangers(folder: Path) -> list[str]:
    """Return the names of what lies in a folder and belongs to no checkpoint: someone's notes, perhaps."""
    known = {*files_of(True), MANIFEST}
    return sorted(file.name for file in folder.iterdir() if file.name not in known) if folder.is_dir() else []


def _is_whole(folder: Path) -> bool:
    try:
        return bool(check_files(folder))
    except EarthSSLError:
        return False


def _put(source: Path, target: Path) -> None:
    """Put a copy of the source in the target's place; what was there goes when the copy is whole."""
    fresh = target.with_name(f".{target.name}.new")
    for left in (fresh, *target.parent.glob(f".{fresh.name}.*")):  # of pushes that were killed
        shutil.rmtree(left, ignore_errors=True)
    place_copy(source, fresh)
    try:
        if target.exists():
            exchange(target, fresh)
        else:
            os.rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _to_s3(source: Path, place: Address, sha256: str, replace: bool) -> Address:
    name = place.name
    if "/" not in place.place:
        raise EarthSSLError(f"{place}: expected s3://bucket/NAME or s3://bucket/registry/NAME, got a bucket only")
    remote = remote_of(place)
    assert isinstance(remote, S3)
    try:
        present = hashlib.sha256(read_small(remote, MANIFEST, MANIFEST_BYTES)).hexdigest()
    except Absent:
        present = ""
    if present and present != sha256:
        _refuse(place, present, replace)
    if present != sha256 or replace:
        names = check_files(source)
        if present:  # from here on there is no checkpoint, until the new one is whole
            patiently(lambda: remote.remove(MANIFEST), place.bare)
        for stale in set(files_of(True)) - set(names):
            patiently(lambda stale=stale: remote.remove(stale), place.bare)  # type: ignore[misc]
        for one in track(list(names), f"push {name}"):
            patiently(lambda one=one: remote.send(one, source / one), remote.where(one))  # type: ignore[misc]
        patiently(lambda: _seal(remote, (source / MANIFEST).read_bytes()), remote.where(MANIFEST))
    _index_s3(place.registry, name, describe(source))
    return place


def _seal(remote: S3, manifest: bytes) -> None:
    """Write the manifest unless someone else's has come meanwhile."""
    try:
        remote.write(MANIFEST, manifest, IfNoneMatch="*")
    except Changed:
        if read_small(remote, MANIFEST, MANIFEST_BYTES) != manifest:
            raise EarthSSLError(
                f"{remote.address.bare}: expected no other push at the same time, but another checkpoint appeared; "
                "look which is meant, and push that one again with --replace"
            ) from None


def _index_s3(registry: Address, name: str, entry: dict[str, Any]) -> None:
    """Add an entry to the index; where someone else did so meanwhile, read it and write it again."""
    remote = remote_of(registry)
    assert isinstance(remote, S3)

    def once() -> None:
        condition = {"IfNoneMatch": "*"}
        entries: dict[str, dict[str, Any]] = {}
        try:
            answer = remote.call("get_object", INDEX, Range=f"bytes=0-{LARGEST_INDEX}")
            if len(answer["Body"]) > LARGEST_INDEX:
                raise EarthSSLError(
                    f"{remote.where(INDEX)}: expected at most {LARGEST_INDEX} bytes, got more; push to another registry"
                )
            entries = parse_index(answer["Body"], remote.where(INDEX))
            condition = {"IfMatch": answer["ETag"]}
        except Absent:
            pass
        entries[name] = entry
        remote.write(INDEX, index_text(entries).encode(), **condition)

    patiently(once, remote.where(INDEX))


def _to_hf(source: Path, place: Address, sha256: str, replace: bool) -> Address:
    from ..remote.hugging_face import look_up, upload

    if place.is_commit:
        raise EarthSSLError(
            f"{place}: expected a branch to push to, got a commit, which never changes; hf://owner/name@main"
        )
    parent, there = patiently(lambda: look_up(place), place.bare)
    found = ""
    if MANIFEST in there:
        found = hashlib.sha256(read_small(remote_of(parent), MANIFEST, MANIFEST_BYTES)).hexdigest()
    if found and found != sha256:
        _refuse(place, found, replace)
    if found == sha256 and not replace:
        return parent
    names = (*check_files(source), MANIFEST)
    stale = [name for name in files_of(True) if name in there and name not in names]
    return upload(source, names, stale, place, parent.revision)

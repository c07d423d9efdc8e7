"""Where pulled checkpoints stay: one folder each, named by the hash of its manifest, so that a name never lies.

CACHE/checkpoints/<SHA-256 of the manifest>/     whole and verified
CACHE/checkpoints/.partial/<the same>/           on the way here
CACHE/checkpoints/.addresses/<hash>.json         what an address led to when it was last asked
"""

from __future__ import annotations

import datetime
import hashlib
import re
from pathlib import Path
from typing import Any

from ..checkpoint.manifest import MANIFEST, check_files
from ..common.errors import EarthSSLError
from ..common.files import cache_folder, read_json, write_json
from ..remote.address import Address


class Cache:
    """The folder of pulled checkpoints.

    Attributes:
        root: `cache_folder()`/checkpoints.
    """

    def __init__(self) -> None:
        self.root = cache_folder() / "checkpoints"

    def folder(self, sha256: str) -> Path:
        """Return where the checkpoint with this manifest lies, or would."""
        return self.root / sha256

    def partial(self, sha256: str) -> Path:
        """Return where it is put together."""
        return self.root / ".partial" / sha256

    def lock(self, sha256: str) -> Path:
        """Return the file that is locked by whoever puts it together."""
        return self.root / ".partial" / f"{sha256}.lock"

    def whole(self, sha256: str) -> Path | None:
        """Return the folder if it is there and every byte is right, else None."""
        folder = self.folder(sha256)
        if not folder.is_dir():
            return None
        try:
            check_files(folder)
            if hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() != sha256:
                raise EarthSSLError("another manifest")
        except EarthSSLError:
            return None
        return folder

    def remember(self, address: Address, resolved: Address, sha256: str) -> None:
        """Write down what an address led to."""
        file = self._record(address)
        file.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"address": address.bare, "resolved": resolved.bare, "manifest_sha256": sha256, "pulled": now}
        write_json(file, record)

    def remembered(self, address: Address) -> str:
        """Return the hash of the manifest that an address led to, or ""."""
        record = read_json(self._record(address), "an address") if self._record(address).is_file() else {}
        found = record.get("manifest_sha256", "") if isinstance(record, dict) else ""
        return found if re.fullmatch(r"[0-9a-f]{64}", str(found)) else ""

    def entries(self) -> list[dict[str, Any]]:
        """Return what lies here, as the entries of a registry, with the addresses that it came from."""
        from .registry_index import describe

        records = [read_json(file, "an address") for file in sorted((self.root / ".addresses").glob("*.json"))]
        found = []
        for folder in sorted(self.root.glob("[0-9a-f]*")):
            came = [record["resolved"] for record in records if record.get("manifest_sha256") == folder.name]
            found.append(
                {"name": folder.name[:12], **describe(folder), "folder": str(folder), "addresses": sorted(set(came))}
            )
        return found

    def _record(self, address: Address) -> Path:
        return self.root / ".addresses" / f"{hashlib.sha256(address.bare.encode()).hexdigest()[:32]}.json"

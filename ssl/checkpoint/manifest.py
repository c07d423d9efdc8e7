"""Which files make a checkpoint folder, and whether they are the ones that its manifest names."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import EarthSSLError
from ..common.files import sha256
from . import schema
from .migration import FORMAT_VERSION
from .untrusted_input import read_strict_json

FILES_V1 = (
    "record.json", "encoder.safetensors", "heads.safetensors", "statistics.safetensors", "golden.safetensors"
)  # fmt: skip
CARD = "card.md"
FILES = (*FILES_V1, CARD)
TASK_FILE = "task.safetensors"
RECORD = "record.json"
MANIFEST = "manifest.json"
MANIFEST_BYTES = 65536
SHOWN = 12  # differences listed; a folder of another kind has hundreds


def checkpoint_folder(path: Path) -> Path:
    """Return the checkpoint folder at a path or inside a run's folder."""
    return path / "checkpoint" if (path / "checkpoint").is_dir() else path


def files_of(tuned: bool) -> tuple[str, ...]:
    """Return the names of the files of a folder, without the manifest, of a fine-tuned encoder or another."""
    return (*FILES, TASK_FILE) if tuned else FILES


def manifest_of(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return what the manifest of a folder with these files holds."""
    return {
        "format_version": FORMAT_VERSION,
        "sha256": {name: sha256(folder / name) for name in names},
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }


def names_in(manifest: Any, where: object) -> tuple[str, ...]:
    """Return the names of the files of a parsed manifest, the record first.

    Raises:
        EarthSSLError: If it is none, or names other files than those of a checkpoint.
    """
    schema.check(manifest, schema.MANIFEST, where)
    hashes, sizes = manifest["sha256"], manifest.get("bytes", {})
    fitting = (FILES_V1,) if manifest.get("format_version", 1) == 1 else (files_of(False), files_of(True))
    names = next((names for names in fitting if set(names) == set(hashes)), None)
    if names is None or (sizes and set(sizes) != set(hashes)):
        raise EarthSSLError(
            f"{where}: expected hash and size of {', '.join(fitting[0])}, got those of "
            f"{', '.join(sorted(hashes))}; fetch it again"
        )
    return names


LEFT_BY_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")  # file managers put them anywhere; nothing reads them


def listed(wrong: Sequence[str]) -> str:
    """Return the first differences in one line, and how many more there are."""
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return "; ".join(wrong[:SHOWN]) + more


def check_files(folder: Path) -> tuple[str, ...]:
    """Compare every file with the manifest and return their names.

    Raises:
        EarthSSLError: If there is no checkpoint, naming the files that are missing, changed, a link or too many.
    """
    if not folder.is_dir():
        raise EarthSSLError(f"expected a checkpoint folder at {folder}, found none; see `earthssl pretrain`")
    manifest = read_strict_json(folder / MANIFEST, "a checkpoint's manifest", MANIFEST_BYTES)
    names = names_in(manifest, folder / MANIFEST)
    hashes, sizes = manifest["sha256"], manifest.get("bytes", {})
    wrong = [f"{name} {why}" for name in names if (why := _damage(folder / name, hashes[name], sizes.get(name)))]
    wrong += [f"{entry.name} does not belong there" for entry in sorted(folder.iterdir())
              if entry.name not in (*names, MANIFEST, *LEFT_BY_SYSTEMS)]  # fmt: skip
    if wrong:
        raise EarthSSLError(f"{folder}: expected the files of its manifest, but {listed(wrong)}; fetch it again")
    return names


def _damage(file: Path, expected: str, size: int | None) -> str:
    """Return in words how a file differs from its entry in the manifest; "" where it does not."""
    try:
        found = os.lstat(file)
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is a link" if stat.S_ISLNK(found.st_mode) else "is no regular file"
    if size is not None and found.st_size != size:
        return f"was changed or damaged ({found.st_size} bytes, expected {size})"
    return "" if sha256(file) == expected else "was changed or damaged (SHA-256 differs)"

"""Style and scripts that reports and the local page share, and modules of scripts joined to one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("web")
REPORTS_ONLY = ("page.css", "globes.js")
GLOBES = ("colours", "numbers", "projection", "fieldview", "globes")  # each after what it imports


@cache
def shared_files() -> dict[str, bytes]:
    """Return the files by name that the local page takes over: theme.css, modules that draw maps, coastlines."""
    return {file.name: file.read_bytes() for file in FOLDER.iterdir() if file.name not in REPORTS_ONLY}


def joined(files: Mapping[str, bytes], names: Sequence[str]) -> str:
    """Return modules as one script without imports, to be put into a page.

    Args:
        files: Sources by file name.
        names: Of the modules without suffix, in order: no two of them give one name to different things.
    """
    script = "\n".join(files[f"{name}.js"].decode() for name in names)
    script = re.sub(r"^import .*;$\n", "", script, flags=re.M)
    return re.sub(r"^export (?=const|let|class|function|async)", "", script, flags=re.M)


@cache
def globe_script() -> str:
    """Return the script that turns the maps of a report into globes."""
    return joined({file.name: file.read_bytes() for file in FOLDER.glob("*.js")}, GLOBES)


@cache
def coastlines() -> str:
    """Return coastlines as JSON: tenths of a degree, each as the difference from the one before."""
    return (FOLDER / "coastlines.json").read_text(encoding="utf-8")

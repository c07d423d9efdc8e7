"""The page of `look` beside a report, so that its link opens by a click where no server runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..downstream.results.page import LOOK_PLACE, link_look
from ..ssl.common.errors import EarthSSLError

NAME = "look.html"
FIELD_BYTES, MAP_BYTES = 3 * 2**20, 2 * 2**20  # before they are written as text
MOST_STEPS, FEWEST_STEPS = 60, 6
MOST_STATES = 300  # windows that are encoded for it: a few seconds


def add_look_page(report: Path, settings: Mapping[str, Any]) -> Path | None:
    """Write the page of `look` into a report's folder, link it there, and return it; None where there is none.

    There is one where the store is a folder of this machine, and some steps of it are small enough; a report of a probe
    that has one below it links that. Of an encoder at hand, some states are shown. What cannot be shown is said, and
    the report stays as it is: with the command that opens all of it.

    Args:
        report: Just written.
        settings: Of the verb that wrote it: store, checkpoints, checkpoint or runs, probe.
    """
    store = str(settings.get("store") or "")
    probe = settings.get("probe") if isinstance(settings.get("probe"), str) else None
    if not store or not Path(store).is_dir() or LOOK_PLACE not in report.read_text(encoding="utf-8"):
        return None
    below = Path(probe) / NAME if probe else None
    if below is not None and below.is_file():
        address = os.path.relpath(below, report.parent)
        if not address.startswith("..") and link_look(report, Path(address).as_posix()):
            return below
    named = [one for key in ("checkpoints", "checkpoint", "runs") for one in _listed(settings.get(key))]
    page = report.with_name(NAME)
    try:
        checkpoint = next((one for one in named if Path(one).is_dir()), "")
        written = _write(page, store, checkpoint, Path(probe or report.parent))
    except (EarthSSLError, OSError) as error:
        print(f"no page of look beside {report}: {error}", file=sys.stderr)
        return None
    return page if written and link_look(report, NAME) else None


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value or []]


def _write(page: Path, address: str, checkpoint: str, run: Path) -> bool:
    """Write the page; return whether steps are small enough for it."""
    from ..look.application import Look
    from ..look.export import export
    from ..look.fields import KINDS
    from ..look.labels.journal import Journal
    from ..look.run_maps import RunMaps
    from ..look.states import compute
    from ..ssl.store.store import Store
    from .look import open_encoder

    store = Store(address)
    steps = min(MOST_STEPS, FIELD_BYTES // (2 * len(KINDS) * int(np.prod(store.shape[1:]))))
    if steps < FEWEST_STEPS:
        return False
    try:
        maps = RunMaps(run, store.grid)
    except EarthSSLError:  # it wrote none
        maps = None
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder), store.grid)
        look, states = Look(store, journal, maps=maps), None
        try:
            if checkpoint:
                frozen, _ = open_encoder(checkpoint)
                states = compute(frozen, store, look.progress, MOST_STATES)
                look = Look(store, journal, frozen=frozen, checkpoint=Path(checkpoint).name, maps=maps)
        except EarthSSLError:  # another grid, or other steps: fields alone
            pass
        export(look, states, page, steps, map_bytes=MAP_BYTES)
    return True

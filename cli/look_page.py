"""The page of `look` beside a report, so that its link opens by a click where no server runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..downstream.results.page import LOOK_PLACE, link_look
from ..ssl.common.errors import EarthSSLError, in_a_line

if TYPE_CHECKING:
    from ..look.states import States
    from ..ssl.inference.frozen_encoder import FrozenEncoder
    from ..ssl.store.store import Store

NAME = "look.html"
FIELD_BYTES, MAP_BYTES = 3 * 2**20, 2 * 2**20  # before they are written as text
MOST_STEPS, FEWEST_STEPS = 60, 6
MOST_STATES, FEWEST_STATES = 300, 20  # windows that are encoded for it
MOST_SECONDS = 30.0  # that a run waits for them; a large encoder takes seconds a window


def add_look_page(report: Path, settings: Mapping[str, Any]) -> Path | None:
    """Write the page of `look` into a report's folder, link it there, and return it; None where there is none.

    There is one where the store is a folder of this machine, and some steps of it are small enough; a report of a probe
    that has one below it links that. Of an encoder at hand, some states are shown. What cannot be shown is said, and
    the report stays as it is: with the command that opens all of it.

    Args:
        report: Just written.
        settings: Of the verb that wrote it: store, checkpoints, checkpoint or runs, probe.
    """
    page = report.with_name(NAME)
    before = _stamp(page)
    try:
        return _added(report, page, settings)
    except Exception as error:  # the run is finished, and its page is an extra
        if _stamp(page) != before:  # written, but not linked
            with suppress(OSError):
                page.unlink()
        print(f"no page of look beside {report}: {_in_a_line(error)}", file=sys.stderr)
        return None


def _added(report: Path, page: Path, settings: Mapping[str, Any]) -> Path | None:
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
    checkpoint = next((one for one in named if Path(one).is_dir()), "")
    written = _write(page, store, checkpoint, Path(probe or report.parent))
    return page if written and link_look(report, NAME) else None


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written anew; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _in_a_line(error: Exception) -> str:
    words = in_a_line(error, None)
    return words if isinstance(error, EarthSSLError) else f"{type(error).__name__}: {words}"


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value or []]


def _write(page: Path, address: str, checkpoint: str, run: Path) -> bool:
    """Write the page; return whether steps are small enough for it."""
    from ..look.application import Look
    from ..look.export import export
    from ..look.fields import KINDS
    from ..look.labels.journal import Journal
    from ..look.run_maps import RunMaps
    from ..look.states import fits
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
                fits(frozen, store)
                states = _some_states(frozen, store)
                look = Look(store, journal, frozen=frozen, checkpoint=Path(checkpoint).name, maps=maps)
        except Exception as error:  # another grid, other steps, a damaged file: fields alone
            print(f"{page} shows no states of {checkpoint}: {_in_a_line(error)}", file=sys.stderr)
            look, states = Look(store, journal, maps=maps), None
        export(look, states, page, steps, map_bytes=MAP_BYTES)
    return True


def _some_states(frozen: FrozenEncoder, store: Store) -> States:
    """Return states of as many windows as the encoder reads in the time there is; one is timed first.

    Raises:
        EarthSSLError: If these are too few to show.
    """
    from ..look.states import Progress, Work, compute
    from ..ssl.fields.splits import unbroken_starts

    length = frozen.record.encoder.window
    first = unbroken_starts(store.times.astype("datetime64[ns]"), length)[:1] + length - 1
    work, taken = Work(frozen, store, Progress(), 2), MOST_SECONDS
    for _ in range(2):  # the first may wait for what is loaded once
        start = time.perf_counter()
        work.both(first)
        taken = min(taken, time.perf_counter() - start)
        if taken > 1:
            break
    most = min(MOST_STATES, int(MOST_SECONDS / (2 * taken)))  # those of training are read twice
    if most < FEWEST_STATES:
        raise EarthSSLError(
            f"the encoder takes {taken:.1f} s a window, and {FEWEST_STATES} states more than {MOST_SECONDS:g} s; "
            "`earthssl look` shows them all"
        )
    return compute(frozen, store, Progress(), most)

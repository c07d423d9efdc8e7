"""The verbs look and active: what they take, and what they print."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..ssl.common.errors import EarthSSLError

LOOK_VERBS = ("look", "active")


def add_look_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of one of `LOOK_VERBS`."""
    parser.add_argument("store", nargs="?", help="a training store: a folder or an address")
    parser.add_argument("--checkpoint", metavar="FOLDER", help="a checkpoint folder, that of its run, or an address")
    parser.add_argument("--labels", metavar="FILE", help="CSV of labels that are known: a column time, and others")
    if verb == "look":
        parser.add_argument("--out", metavar="FOLDER", help="for labels and features (default runs/look-STORE)")
        parser.add_argument(
            "--merge", metavar="FILE", action="append", default=[], help="take labels of others; list conflicts"
        )
        parser.add_argument("--run", metavar="FOLDER", help="of a run or its results: its maps are shown, its encoder")
        parser.add_argument("--port", type=int, default=0, help="to listen at (default: a free one)")
        parser.add_argument("--export", metavar="FILE", help="write one HTML file that needs no server, and stop")
        parser.add_argument("--dates", metavar="FIRST:LAST", default="", help="of --export (default: all)")
        parser.add_argument("--steps", type=int, default=120, help="most steps in --export (default 120)")
        return
    parser.add_argument("--simulate", action="store_true", help="take the known labels for what a person would say")
    parser.add_argument("--target", metavar="COLUMN", help="column of two classes, 0 and 1")
    parser.add_argument(
        "--tracks",
        metavar="SOURCE",
        default="",
        help="storms in tiles, not --labels: planet, ibtracs, or a table",
    )
    parser.add_argument("--wind", type=float, default=34.0, help="least wind of a storm, kt (default 34)")
    parser.add_argument(
        "--out", metavar="FOLDER", default="runs/active", help="for tables and features (default runs/active)"
    )
    parser.add_argument("--seeds", type=int, default=10, help="of the first labels and of random choice (default 10)")
    parser.add_argument("--start", type=int, default=20, help="labels at random to begin with (default 20)")
    parser.add_argument("--batch", type=int, default=20, help="labels in a round (default 20)")
    parser.add_argument("--budget", type=int, default=400, help="labels at the end (default 400)")
    parser.add_argument("--share", type=float, default=0.9, help="of the full-label score to reach (default 0.9)")


def run_look_verb(options: argparse.Namespace) -> None:
    """Run one of `LOOK_VERBS`.

    Raises:
        EarthSSLError: What the verb refuses.
    """
    if not options.store:
        raise EarthSSLError(f"expected a training store, got none; earthssl {options.verb} STORE --checkpoint FOLDER")
    if options.verb == "look":
        _look(options)
    else:
        _active(options)


def _look(options: argparse.Namespace) -> None:
    from ..look.labels.journal import DATES, Journal
    from ..look.server import Server
    from ..ssl.common.files import locked
    from ..ssl.store.store import Store

    folder = Path(options.out or f"runs/look-{Path(options.store.rstrip('/')).name or 'store'}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        store = Store(options.store)
        journal = Journal(folder, store.grid)
        look, weights = _opened(options, store, journal)
        if options.merge:
            from ..look.labels.merge import CONFLICTS, merge

            for file, found in zip(
                options.merge, merge(journal, list(map(Path, options.merge)), look.store.times), strict=True
            ):
                print(f"{file}: {found}")
            print(f"conflicts: {folder / CONFLICTS}")
        if options.export:
            from ..look.export import export

            states = None
            if weights is not None:
                look.start(weights).join()
                states = look.progress.states()
            print(export(look, states, Path(options.export), options.steps, options.dates))
            return
        with Server(look, options.port) as server:
            print(f"open {server.address}\nlabels: {folder / DATES}\nCtrl-C ends it", flush=True)
            thread = look.start(weights) if weights else None
            try:
                server.serve_forever(poll_interval=0.2)
            except KeyboardInterrupt:
                print(f"closed; {len(journal.current())} labels in {folder}", file=sys.stderr)
            finally:
                look.progress.stopped.set()
                if thread is not None:
                    thread.join(timeout=10)


def _opened(options: argparse.Namespace, store: Any, journal: Any) -> tuple[Any, Path | None]:
    """Return what the page asks, and the file of the encoder's weights where there is one."""
    from ..look.application import Look
    from ..look.rebuilt import Decoders
    from ..look.run_maps import RunMaps

    labels, run = (Path(one) if one else None for one in (options.labels, options.run))
    maps, checkpoint = None, options.checkpoint
    if run is not None:
        checkpoint = checkpoint or _checkpoint_of(run)
        try:
            maps = RunMaps(run, store.grid)
        except EarthSSLError as error:
            if not checkpoint or not run.is_dir():
                raise
            print(f"no maps are shown: {error}", file=sys.stderr)
    if not checkpoint:
        return Look(store, journal, labels=labels, maps=maps), None
    frozen, weights = open_encoder(checkpoint)
    name = Path(checkpoint.rstrip("/")).name
    decoders = Decoders(partial(_objectives, weights.parent), frozen.record, store)
    return Look(store, journal, frozen=frozen, checkpoint=name, labels=labels, decoders=decoders,
                maps=maps), weights  # fmt: skip


def _checkpoint_of(run: Path) -> str | None:
    """Return the checkpoint that a run's folder holds, of its first seed; None where it holds none."""
    for folder in (run / "checkpoint", *sorted(run.glob("pretrain*"))):
        if (folder / "encoder.safetensors").is_file() or (folder / "checkpoint").is_dir():
            return str(run if folder.name == "checkpoint" else folder)
    return None


def _objectives(folder: Path) -> tuple[Any, Any]:
    """Return the encoder and its trained objectives by name: wired here, where pretext tasks are known."""
    from ..pretext import TASKS
    from ..ssl.training.pretrain import load_objectives

    encoder, objectives = load_objectives(folder, TASKS)
    return encoder, objectives.tasks()


def open_encoder(address: str) -> tuple[Any, Path]:
    """Return the frozen encoder at a folder or address, and the file of its weights."""
    from ..ssl.checkpoint.manifest import checkpoint_folder
    from ..ssl.hub.pull import load_folder
    from ..ssl.inference.load import load_encoder

    folder = checkpoint_folder(load_folder(address))
    return load_encoder(folder), folder / "encoder.safetensors"


def _active(options: argparse.Namespace) -> None:
    if not options.simulate:
        raise EarthSSLError("expected --simulate, got nothing to do; to label yourself, take `earthssl look`")
    if options.tracks and (options.labels or options.target):
        raise EarthSSLError("expected --tracks, or --labels and --target, got both")
    for name in ("checkpoint",) if options.tracks else ("checkpoint", "labels", "target"):
        if not getattr(options, name):
            raise EarthSSLError(f"expected --{name}, got none")
    from ..look.simulate import Plan, check_unseen, pool_of, simulate
    from ..look.states import cached
    from ..look.storm_pool import storm_pool
    from ..ssl.common.files import sha256
    from ..ssl.store.store import Store

    plan = Plan(options.seeds, options.start, options.batch, options.budget, options.share)
    frozen, weights = open_encoder(options.checkpoint)
    store, out, digest = Store(options.store), Path(options.out), sha256(weights)
    check_unseen(store, frozen)
    if options.tracks:
        pool, target = storm_pool(store, frozen, options.tracks, options.wind)
    else:
        target = options.target
        pool = pool_of(store, cached(out, frozen, store, digest), Path(options.labels), target)
    out.mkdir(parents=True, exist_ok=True)
    print(f"\n{simulate(store, digest, pool, target, plan, out)}\n\n{out}")

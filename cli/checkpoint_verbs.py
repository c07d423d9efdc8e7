"""The verbs of checkpoints: pull, push, list, verify, card, embed, export; what they take and print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from ..ssl.common.errors import EarthSSLError

HUB_VERBS = ("pull", "push", "list", "verify")
ADDRESS = "a folder, file:///…, https://host/…/NAME, s3://bucket/…/NAME or hf://owner/name@revision, perhaps #sha256=…"
USE_VERBS = ("embed", "export")


def add_hub_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of one of `HUB_VERBS`."""
    if verb == "push":
        parser.add_argument("checkpoint", nargs="?", help="a checkpoint folder, or the folder of its run")
        parser.add_argument("address", nargs="?", help="REGISTRY/NAME (a folder or s3://…) or hf://owner/name@branch")
        parser.add_argument("--replace", action="store_true", help="even where another checkpoint has that name")
        parser.add_argument(
            "--half", action="store_true", help="weights as 16-bit floats, half the size, without scores"
        )
        return
    if verb == "list":
        parser.add_argument("address", nargs="?", help="a registry: folder, https://… or s3://…; none: the cache")
        parser.add_argument("--json", action="store_true", help="print JSON, every field")
    else:
        parser.add_argument("address", nargs="?", help=ADDRESS)
        parser.add_argument(
            "--offline", action="store_true", help="use only what was pulled before (EARTHSSL_OFFLINE=1)"
        )
    if verb == "pull":
        parser.add_argument("--out", metavar="FOLDER", help="copy it here (default: it stays in the cache)")
        parser.add_argument("--max-gb", type=float, default=16.0, help="size it may have, GB (default 16)")
    parser.add_argument(
        "--allow-http", action="store_true", help="take http:// to other machines; pin it with #sha256=…"
    )


def run_hub_verb(options: argparse.Namespace) -> None:
    """Run one of `HUB_VERBS`.

    Raises:
        EarthSSLError: What the verb refuses.
    """
    verb = options.verb
    if verb == "push" and not (options.checkpoint and options.address):
        raise EarthSSLError("expected a checkpoint and where to, got less; earthssl push FOLDER REGISTRY/NAME")
    if verb in ("pull", "verify") and not options.address:
        raise EarthSSLError(f"expected an address or a checkpoint folder, got none; earthssl {verb} ADDRESS")
    if verb == "push":
        _push(options)
    elif verb == "list":
        _list(options)
    elif verb == "verify":
        _verify(options)
    else:
        from ..ssl.hub.pull import pull

        how = {"offline": options.offline or None, "allow_http": options.allow_http, "max_gb": options.max_gb}
        print(pull(options.address, options.out, say=lambda line: print(line, file=sys.stderr), **how))


def _verify(options: argparse.Namespace) -> None:
    from ..ssl.hub.pull import verify

    result = verify(options.address, offline=options.offline or None, allow_http=options.allow_http)
    for check in result["checks"]:
        print(f"  {check}")
    print(
        f"{result['folder']}: whole; golden output differs by {result['golden_difference']:.1e} (at most "
        f"{result['tolerance']:.0e})"
    )


def _list(options: argparse.Namespace) -> None:
    from ..ssl.hub.pull import list_registry

    entries = list_registry(options.address, allow_http=options.allow_http)
    if options.json:
        print(json.dumps(entries, indent=1))  # ASCII: nothing in it can steer a terminal
        return
    print(_table(entries) if entries else "nothing yet")


def _table(entries: list[dict[str, Any]]) -> str:
    """Return the entries as a table; signs that a terminal would obey are left out."""
    from ..ssl.checkpoint.model_card import headline
    from ..ssl.hub.registry_index import standing

    head = (
        "name", "MB", "variables", "grid", "step", "licence", "better/undecided/worse", "scores", "summary",
        "manifest SHA-256",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for entry in entries:
        scores = "; ".join(headline(table) for table in entry["scores"])
        cells = (
            entry["name"], f"{entry['bytes'] / 1e6:.2f}", ", ".join(entry["variables"]), entry["grid"],
            f"{entry['step_days']:.3g} d", entry["licence"],
            "/".join(map(str, standing(entry))) if scores else "–", scores or "–", entry["summary"],
            entry["manifest_sha256"][:12],
        )  # fmt: skip
        rows.append(tuple(_plain(cell) for cell in cells))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _plain(cell: str) -> str:
    text = "".join(char if char.isprintable() else "�" for char in cell)
    return text if len(text) <= 60 else text[:59] + "…"


def add_use_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of one of `USE_VERBS`."""
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint folder, that of its run, or an address (see pull)")
    parser.add_argument("--pooling", default="mean", help="mean, last or tokens (default mean)")
    if verb == "embed":
        parser.add_argument("data", nargs="?", help="NetCDF, GRIB or Zarr on the checkpoint's grid, or a finer one")
        parser.add_argument("--out", metavar="FILE", default="features.nc", help="to write: .nc, or .zarr (a folder)")
        parser.add_argument(
            "--layer", action="append", metavar="K", help="block whose output is taken; several as --layer=0,-1"
        )
        parser.add_argument(
            "--units", action="append", metavar="NAME=UNITS", default=[], help="where the file says nothing or wrong"
        )
        parser.add_argument(
            "--rename", action="append", metavar="NAME=CANONICAL", default=[], help="what a variable is (t2m, z500, …)"
        )
        parser.add_argument(
            "--missing", action="append", metavar="NAME=VALUE", default=[], help="a value that means missing"
        )
        parser.add_argument(
            "--least-valid", type=float, default=0.5, metavar="SHARE",
            help="from another grid: share of a cell's area that must hold values, or it is missing (default 0.5)",
        )  # fmt: skip
        parser.add_argument(
            "--base", metavar="FIRST:LAST", help="years whose means are subtracted to make anomalies (sst, ssta)"
        )
        parser.add_argument(
            "--any-range", action="store_true", help="take values far from the climatology of training too"
        )
    else:
        parser.add_argument("--kind", default="onnx", help="onnx, torch (torch.export) or torchscript (default onnx)")
        parser.add_argument("--out", metavar="FILE", help="to write (default encoder.onnx, .pt2 or .pt)")
        parser.add_argument("--layer", metavar="K", default="-1", help="block whose output is taken (default the last)")


def run_use_verb(options: argparse.Namespace) -> None:
    """Run one of `USE_VERBS` and print where the result lies.

    Raises:
        EarthSSLError: What the verb refuses.
    """
    if not options.checkpoint:
        raise EarthSSLError("expected a checkpoint folder, got none")
    if options.verb == "embed":
        _embed(options)
    else:
        _export(options)


def _embed(options: argparse.Namespace) -> None:
    if not options.data:
        raise EarthSSLError("embed: expected data to embed, got none; earthssl embed CHECKPOINT DATA")
    layers = _layers(options.layer or ["-1"])
    from ..ssl.inference.embed_file import embed_file

    print(
        embed_file(
            options.checkpoint, options.data, options.out, pooling=options.pooling,
            layer=layers[0] if len(layers) == 1 else layers, check_range=not options.any_range,
            units=_pairs("units", options.units), rename=_pairs("rename", options.rename),
            missing=_marks(options.missing), least_valid=options.least_valid, base=_base(options.base),
        )
    )  # fmt: skip


def _export(options: argparse.Namespace) -> None:
    from ..ssl.inference.export import SUFFIXES, export

    layers = _layers([options.layer])
    if len(layers) > 1:
        raise EarthSSLError(f"--layer: expected one block to export, got {options.layer}; export each to its own file")
    out = options.out or f"encoder{SUFFIXES.get(options.kind, '')}"
    done = export(options.checkpoint, Path(out), options.kind, pooling=options.pooling, layer=layers[0])
    print(f"{done.path}: differs from the encoder by {done.difference:.1e} (at most {done.tolerance:.0e})")


def _base(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not colon:
        raise EarthSSLError(f"--base: expected FIRST:LAST, as in 1982:2010, got '{text}'")
    return first.strip(), last.strip()


def _push(options: argparse.Namespace) -> None:
    from ..ssl.checkpoint.manifest import checkpoint_folder
    from ..ssl.checkpoint.write import halve
    from ..ssl.hub.push import push

    if not options.half:
        print(push(options.checkpoint, options.address, replace=options.replace))
        return
    with TemporaryDirectory() as scratch:
        half = halve(checkpoint_folder(Path(options.checkpoint)), Path(scratch) / "checkpoint")
        print(push(half, options.address, replace=options.replace))


def _layers(texts: Sequence[str]) -> list[int]:
    words = [word for text in texts for word in str(text).split(",")]
    try:
        return [int(word) for word in words]
    except ValueError:
        raise EarthSSLError(f"--layer: expected whole numbers such as --layer=0,-1, got '{','.join(words)}'") from None


def _marks(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return values that mean missing by variable: t2m=-9999, several times or as {t2m: [-9999, -888]}."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        given: Any = yaml.safe_load(text) if text.lstrip().startswith("{") else _pairs("missing", [text])
        for name, value in given.items():
            value = yaml.safe_load(value) if isinstance(value, str) else value
            found.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return found


def _pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    for text in texts:
        if "=" not in text:
            raise EarthSSLError(f"--{option}: expected NAME=VALUE, as in --{option} sst=K, got '{text}'")
    return dict(text.split("=", 1) for text in texts)


def model_card(checkpoint: str | Path, probe_folder: str | Path | None = None) -> str:
    """Return a checkpoint's model card, after attaching the table of a probe of it where one is given.

    Raises:
        EarthSSLError: If either folder is not whole, or the probe is of other weights.
    """
    from ..downstream.report.card_table import probe_scores
    from ..ssl.checkpoint.manifest import checkpoint_folder
    from ..ssl.checkpoint.model_card import card
    from ..ssl.checkpoint.read import read_record
    from ..ssl.checkpoint.write import attach_scores
    from ..ssl.common.files import sha256

    folder = checkpoint_folder(Path(checkpoint))
    if probe_folder is not None:
        attach_scores(folder, [probe_scores(probe_folder, sha256(folder / "encoder.safetensors"))])
    return card(read_record(folder))

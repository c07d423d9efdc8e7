"""Bodies of the verbs that put a checkpoint to use: embed and export."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ssl.errors import EarthSSLError

USE_VERBS = ("embed", "export")


def add_use_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of one of `USE_VERBS`."""
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint folder, that of its run, or an address (see pull)")
    parser.add_argument("--pooling", default="mean", help="mean, last or tokens (default mean)")
    if verb == "embed":
        parser.add_argument("data", nargs="?", help="NetCDF, GRIB or Zarr on the checkpoint's grid")
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
    from .ssl.features_file import embed_file

    print(
        embed_file(
            options.checkpoint, options.data, options.out, pooling=options.pooling,
            layer=layers[0] if len(layers) == 1 else layers, check_range=not options.any_range,
            units=_pairs("units", options.units), rename=_pairs("rename", options.rename),
        )
    )  # fmt: skip


def _export(options: argparse.Namespace) -> None:
    from .ssl.export import SUFFIXES, export

    layers = _layers([options.layer])
    if len(layers) > 1:
        raise EarthSSLError(f"--layer: expected one block to export, got {options.layer}; export each to its own file")
    out = options.out or f"encoder{SUFFIXES.get(options.kind, '')}"
    done = export(options.checkpoint, Path(out), options.kind, pooling=options.pooling, layer=layers[0])
    print(f"{done.path}: differs from the encoder by {done.difference:.1e} (at most {done.tolerance:.0e})")


def _layers(texts: Sequence[str]) -> list[int]:
    words = [word for text in texts for word in str(text).split(",")]
    try:
        return [int(word) for word in words]
    except ValueError:
        raise EarthSSLError(f"--layer: expected whole numbers such as --layer=0,-1, got '{','.join(words)}'") from None


def _pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    for text in texts:
        if "=" not in text:
            raise EarthSSLError(f"--{option}: expected NAME=VALUE, as in --{option} sst=K, got '{text}'")
    return dict(text.split("=", 1) for text in texts)

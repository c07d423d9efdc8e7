"""The verbs pull, push, list and verify: options, and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .ssl.errors import EarthSSLError

HUB_VERBS = ("pull", "push", "list", "verify")
ADDRESS = "a folder, file:///…, https://host/…/NAME, s3://bucket/…/NAME or hf://owner/name@revision, perhaps #sha256=…"


def add_hub_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of one of `HUB_VERBS`."""
    if verb == "push":
        parser.add_argument("checkpoint", nargs="?", help="a checkpoint folder, or the folder of its run")
        parser.add_argument("address", nargs="?", help="REGISTRY/NAME (a folder or s3://…) or hf://owner/name@branch")
        parser.add_argument("--replace", action="store_true", help="even where another checkpoint has that name")
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
        from .ssl.push import push

        print(push(options.checkpoint, options.address, replace=options.replace))
    elif verb == "list":
        _list(options)
    elif verb == "verify":
        _verify(options)
    else:
        from .ssl.hub import pull

        how = {"offline": options.offline or None, "allow_http": options.allow_http, "max_gb": options.max_gb}
        print(pull(options.address, options.out, say=lambda line: print(line, file=sys.stderr), **how))


def _verify(options: argparse.Namespace) -> None:
    from .ssl.hub import verify

    result = verify(options.address, offline=options.offline or None, allow_http=options.allow_http)
    for check in result["checks"]:
        print(f"  {check}")
    print(
        f"{result['folder']}: whole; golden output differs by {result['golden_difference']:.1e} (at most "
        f"{result['tolerance']:.0e})"
    )


def _list(options: argparse.Namespace) -> None:
    from .ssl.hub import list_registry

    entries = list_registry(options.address, allow_http=options.allow_http)
    if options.json:
        print(json.dumps(entries, indent=1))  # ASCII: nothing in it can steer a terminal
        return
    print(_table(entries) if entries else "nothing yet")


def _table(entries: list[dict[str, Any]]) -> str:
    """Return the entries as a table; signs that a terminal would obey are left out."""
    from .ssl.card import headline

    head = ("name", "MB", "variables", "grid", "step", "licence", "scores", "summary", "manifest SHA-256")
    rows: list[tuple[str, ...]] = [head]
    for entry in entries:
        scores = "; ".join(headline(table) for table in entry["scores"])
        cells = (
            entry["name"], f"{entry['bytes'] / 1e6:.2f}", ", ".join(entry["variables"]), entry["grid"],
            f"{entry['step_days']:.3g} d", entry["licence"], scores or "–", entry["summary"],
            entry["manifest_sha256"][:12],
        )  # fmt: skip
        rows.append(tuple(_plain(cell) for cell in cells))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _plain(cell: str) -> str:
    text = "".join(char if char.isprintable() else "�" for char in cell)
    return text if len(text) <= 60 else text[:59] + "…"

"""The index of a registry: `index.json` beside the folders, which says what each checkpoint is without fetching it.

    {"format": "earthssl registry", "format_version": 1, "checkpoints": {NAME: entry, …}}

An entry holds what `describe` makes of a folder. The index is a list for people: nothing is fetched, written or trusted
because of it; a checkpoint's own manifest and record decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..checkpoint.untrusted_input import parse_json, read_strict_json
from ..common.errors import EarthSSLError
from ..remote.address import plain_name
from ..remote.download import read_small
from ..remote.place import Absent, Remote

INDEX = "index.json"
FORMAT = "earthssl registry"
FORMAT_VERSION = 1
LARGEST_INDEX = 8 << 20  # bytes
MOST = 10_000  # checkpoints
SOME = 1000  # mistakes looked at
_TEXT = {"type": "string", "maxLength": 1000}
ENTRY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "manifest_sha256": {"type": "string", "pattern": r"^[0-9a-f]{64}\Z"},
        "bytes": {"type": "integer", "minimum": 0},
        "format_version": {"type": "integer", "minimum": 1},
        "variables": {"type": "array", "items": _TEXT, "maxItems": 1000},
        "grid": _TEXT,
        "step_days": {"type": "number", "exclusiveMinimum": 0},
        "steps": {"type": "integer", "minimum": 0},
        "licence": _TEXT,
        "scores": {"type": "array", "items": {"$ref": "#/$defs/scores"}, "maxItems": 50},
        "summary": _TEXT,
    },
}
ENTRY["required"] = list(ENTRY["properties"])
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "format": {"const": FORMAT},
        "format_version": {"const": FORMAT_VERSION},
        "checkpoints": {"type": "object", "maxProperties": MOST, "additionalProperties": ENTRY},
    },
    "required": ["format", "format_version", "checkpoints"],
}


def read_index(remote: Remote) -> dict[str, dict[str, Any]]:
    """Return the entries of a registry by name.

    Raises:
        Absent: If there is no index.
        EarthSSLError: If it is none, or names a checkpoint by anything but a plain name.
    """
    return parse_index(read_small(remote, INDEX, LARGEST_INDEX), remote.where(INDEX))


def parse_index(content: bytes, where: str) -> dict[str, dict[str, Any]]:
    """Return the entries that the content of an index names; see `read_index`."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    from ..checkpoint.schema import RECORD, schema

    index = parse_json(content, "the index of a registry", where)
    known = {**SCHEMA, "$defs": schema(RECORD)["$defs"]}  # a score is what the record of a checkpoint calls one
    wrong = best_match(islice(Draft202012Validator(known).iter_errors(index), SOME))
    if wrong is not None:
        raise EarthSSLError(
            f"{where}: expected the index of a registry, but at {wrong.json_path:.200}: {wrong.message:.200}; "
            "ask whoever keeps it, or push to a registry of your own"
        )
    for name in index["checkpoints"]:
        plain_name(name, where)
    return dict(index["checkpoints"])


def index_text(entries: dict[str, dict[str, Any]]) -> str:
    """Return the content of an index with these entries, sorted by name."""
    index = {"format": FORMAT, "format_version": FORMAT_VERSION, "checkpoints": dict(sorted(entries.items()))}
    return json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def entries_or_none(remote: Remote) -> dict[str, dict[str, Any]]:
    """Return the entries of a registry, none where it has no index yet."""
    try:
        return read_index(remote)
    except Absent:
        return {}


def standing(entry: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return how often an entry's tables say that its encoder is better, undecided and worse against a rival."""
    last = [words.split()[-1] for table in entry["scores"] for words in table.get("verdicts", []) if words.split()]
    better, undecided, worse = (last.count(word) for word in ("better", "undecided", "worse"))
    return better, undecided, worse


def by_worth(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries sorted by the share of their verdicts that are wins less that of losses, then by name.

    One without a table stands between those that win and those that lose.
    """

    def key(entry: dict[str, Any]) -> tuple[float, str]:
        better, undecided, worse = standing(entry)
        return (worse - better) / max(better + undecided + worse, 1), entry["name"]

    return sorted(entries, key=key)


def describe(folder: Path) -> dict[str, Any]:
    """Return the entry of a whole checkpoint folder: what its record says, in short."""
    from ..checkpoint.migration import migrate

    record = migrate(read_strict_json(folder / "record.json", "a checkpoint's record"), folder)
    lat, lon = record["grid"]["lat"], record["grid"]["lon"]
    encoder, task = record["encoder"], record["task"]
    objectives = record["config"].get("objectives")  # free text, in whatever form
    pretext = ", ".join(objectives) if isinstance(objectives, dict) and objectives else "unknown tasks"
    what = f"fine-tuned for {task.get('kind')}" if task else f"pretrained on {pretext}"
    patch = "×".join(str(part) for part in encoder["patch"])
    return {
        "manifest_sha256": hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest(),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "format_version": record["format_version"],
        "variables": list(record["variables"]),
        "grid": f"{len(lat)}×{len(lon)}, {min(lat):g} to {max(lat):g}° N",
        "step_days": record["step_days"],
        "steps": record["steps"],
        "licence": str(record["licence"])[:1000],
        "scores": [
            {key: value for key, value in table.items() if key not in ("convention", "command")}
            for table in record["extra"].get("scores", [])
        ],
        "summary": f"{encoder['size']} encoder, window {encoder['window']}, patch {patch}, {what}; {record['source']}"[
            :1000
        ],
    }

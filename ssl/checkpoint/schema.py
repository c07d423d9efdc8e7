"""The JSON schemas of a checkpoint's record and manifest: validation, and the page that documents the format.

python -m earthssl.ssl.checkpoint.schema > docs/checkpoint-format.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.errors import EarthSSLError
from .migration import FORMAT_VERSION
from .untrusted_input import DEPTH, DTYPES, HEADER_BYTES, JSON_BYTES, MIB, TENSOR_BYTES, TENSORS, short

RECORD, MANIFEST = "record", "manifest"
SHOWN = 12  # mistakes listed; a record of another kind has hundreds
MOST = 1000  # mistakes looked for; a hostile one has a million, a kilobyte each
TYPES = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number", "null": "null"}
INTRODUCTION = f"""\
# The checkpoint folder, format version {FORMAT_VERSION}

Made by `python -m earthssl.ssl.checkpoint.schema` from `record.schema.json` and `manifest.schema.json` in
`ssl/checkpoint/` (JSON Schema 2020-12), which reading, verifying and saving check; do not edit it by hand.

A checkpoint is one folder of safetensors, JSON and Markdown. Nothing in it is code or names code to run: names in it
are looked up in tables of this package, never imported. Byte order is little-endian; text is UTF-8.

| file | since | what |
| --- | --- | --- |
| `record.json` | 1 | what the checkpoint is: the fields below |
| `encoder.safetensors` | 1 | weights of the encoder, float32 or float16 (`push --half`; read as float32); \
names and shapes follow from `encoder` and `variables` |
| `heads.safetensors` | 1 | weights of the pretext heads (the decoder), to rebuild fields with; may be empty |
| `statistics.safetensors` | 1 | `coefficients` (key, term, variable, row, column) and `scale` (variable, row, \
column), float32, in units of the variable; coefficients are NaN where training never saw a \
value, the scale is above 0; term 0 is the constant, then cos and sin of each harmonic of the year |
| `golden.safetensors` | 1 | a tiny input, `values` and `valid` (window, step, variable, row, column), normalised, \
`times` (window, step; seconds since 1970 UTC), and the `output` (window, token, feature) it gave at home |
| `task.safetensors` | 2 | weights of a fine-tuned head; if and only if `task` is not null |
| `card.md` | 2 | the model card, made from the record; for people, never parsed |
| `manifest.json` | 1 | SHA-256 of every file above and, since 2, its size |

Reading refuses anything else in the folder, links, files that differ from the manifest, tensors that differ from the
record in name, shape or type, and values that are not finite. `earthssl verify` replays the golden input besides.

## Limits

JSON: {JSON_BYTES // MIB} MiB a file, {DEPTH} levels, no key twice, no NaN or Infinity, integers of 64 bits, no control
characters, no byte order mark. safetensors: header of {HEADER_BYTES // MIB} MiB, {TENSORS} tensors, \
{TENSOR_BYTES // 2**30} GiB a file, types {", ".join(DTYPES)}. Shapes are compared with the record before
memory is taken.

## Versions

| version | change |
| --- | --- |
| 1 | the first |
| 2 | `task` and `task.safetensors` for fine-tuned encoders, `card.md`, sizes in the manifest |

An older folder is read as it lies; its record is brought up to date in memory, version by version
(`ssl/checkpoint/migration.py`). A newer one is refused. Within a version fields may be added to `extra`, `config`,
`health` and `task` only. Programs older than several blocks of `splits.train` refuse a record that has
them; those older than 16-bit weights refuse these by their type.
"""


@lru_cache
def schema(name: str) -> dict[str, Any]:
    """Return the schema "record" or "manifest"."""
    text = Path(__file__).with_name(f"{name}.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@lru_cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator, validators  # takes a while to import

    # JSON Schema takes 2.0 for a whole number; range() does not.
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    keywords: dict[str, Any] = {"pattern": _pattern, "uniqueItems": _unique_items}
    return validators.extend(Draft202012Validator, keywords, type_checker=types)(schema(name))


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    """Refuse a line break at the end, too: `$` means the end in JSON Schema, but not in Python."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not re.search(re.sub(r"\$\Z", r"\\Z", pattern), value):
        yield ValidationError("pattern")


def _unique_items(_: Any, wanted: bool, value: Any, __: Any) -> Iterator[Any]:
    """Look for equal entries in a time that grows as their number does, not as its square."""
    from jsonschema import ValidationError

    if wanted and isinstance(value, list) and len(set(map(json.dumps, value))) < len(value):
        yield ValidationError("twice")


def check(value: Any, name: str, where: object, remedy: str = "fetch it again") -> None:
    """Check a parsed record or manifest against its schema.

    Raises:
        EarthSSLError: Listing every mistake with its path, what was expected and what came.
    """
    found = islice(_validator(name).iter_errors(value), MOST)
    errors = sorted(found, key=lambda e: (e.json_path, e.validator != "required"))
    wrong = [f"{error.json_path}: {_words(error)}" for error in errors]
    if wrong:
        often = "or more" if len(wrong) == MOST else "more"
        more = f"; and {len(wrong) - SHOWN} {often}" if len(wrong) > SHOWN else ""
        raise EarthSSLError(f"{where}: the {name} does not fit its schema: {'; '.join(wrong[:SHOWN])}{more}; {remedy}")


def _words(error: Any) -> str:
    """Return what was expected and what came, for the keywords that the schemas use."""
    kind, limit, value = error.validator, error.validator_value, error.instance
    if kind == "required":
        return f"expected the field '{next(name for name in limit if repr(name) in error.message)}', found none"
    if kind == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = [short(n) for n in value if n not in known]
        return f"expected no field but {', '.join(known)}, got {', '.join(unknown[:SHOWN])}"
    limits = {
        "type": lambda: " or ".join(TYPES.get(t, t) for t in ([limit] if isinstance(limit, str) else limit)),
        "anyOf": lambda: "two instants, or a list of such pairs",  # of splits.train alone
        "enum": lambda: f"one of {', '.join(map(str, limit))}",
        "const": lambda: repr(limit),
        "minimum": lambda: f"at least {limit}",
        "exclusiveMinimum": lambda: f"more than {limit}",
        "maximum": lambda: f"at most {limit}",
        "exclusiveMaximum": lambda: f"less than {limit}",
        "minItems": lambda: f"at least {limit} entries",
        "maxItems": lambda: f"at most {limit} entries",
        "minLength": lambda: f"at least {limit} characters",
        "maxLength": lambda: f"at most {limit} characters",
        "uniqueItems": lambda: "no entry twice",
        "pattern": lambda: f"text of the form {limit}",
        "maxProperties": lambda: f"at most {limit} fields",
    }
    expected = limits[kind]() if kind in limits else f"{kind} {limit}"
    return f"expected {expected}, got {short(value)}"


def document() -> str:
    """Return docs/checkpoint-format.md: every field of both files with its type, bounds and meaning."""
    parts = [INTRODUCTION]
    for name in (RECORD, MANIFEST):
        lines = [
            f"## {name}.json",
            "",
            schema(name)["description"],
            "",
            "| field | type | what |",
            "| --- | --- | --- |",
        ]
        parts.append("\n".join([*lines, *_rows(schema(name), schema(name), "")]) + "\n")
    return "\n".join(parts)


def _rows(node: dict[str, Any], root: dict[str, Any], path: str) -> list[str]:
    rows = []
    for name, entry in node.get("properties", {}).items():
        entry = _resolved(entry, root)
        optional = "" if name in node.get("required", []) else " (optional)"
        rows.append(f"| `{path}{name}` | {_type(entry, root)}{optional} | {entry['description'].replace('|', '/')} |")
        rows += _rows(entry, root, f"{path}{name}.")
        for keyword, sign in (("items", "[]"), ("additionalProperties", ".*")):
            inner = entry.get(keyword)
            if isinstance(inner, dict):
                rows += _rows(_resolved(inner, root), root, f"{path}{name}{sign}.")
    return rows


def _resolved(entry: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = entry.get("$ref")
    return entry if reference is None else dict(root["$defs"][reference.rsplit("/", 1)[1]])


def _type(entry: dict[str, Any], root: dict[str, Any]) -> str:
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    kinds = [entry["type"]] if isinstance(entry["type"], str) else entry["type"]
    words = " or ".join(TYPES.get(kind, kind) for kind in kinds)
    if "items" in entry:
        low, high = entry.get("minItems", 0), entry.get("maxItems")
        inner = _resolved(entry["items"], root)
        high = "any number" if high is None else high
        words += f" of {low if low == high else f'{low} to {high}'} × {_type(inner, root)}"
    low = entry.get("minimum", entry.get("exclusiveMinimum"))
    high = entry.get("maximum", entry.get("exclusiveMaximum"))
    if low is not None or high is not None:
        words += f", {'' if low is None else f'{low:g}'}…{'' if high is None else f'{high:g}'}"
    return words


if __name__ == "__main__":
    print(document(), end="")

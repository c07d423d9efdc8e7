"""The schemas: valid themselves, said of every field, in line with the page and with the code."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from earthssl.ssl.checkpoint.manifest import FILES, TASK_FILE
from earthssl.ssl.checkpoint.migration import FORMAT, FORMAT_VERSION
from earthssl.ssl.checkpoint.schema import check, document, schema
from earthssl.ssl.checkpoint.untrusted_input import parse_json, strict_json
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import SIZES
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[3]


def fields(node: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every property of a schema, at any depth, with its name."""
    found = []
    for name, entry in node.get("properties", {}).items():
        found += [(name, entry), *fields(entry)]
    for entry in node.get("$defs", {}).values():
        found += fields(entry)
    return found


@pytest.mark.parametrize("name", ["record", "manifest"])
def test_a_schema_is_one_and_says_what_every_field_is(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    for field, entry in fields(schema(name)):
        assert len(entry["description"]) > 5, field
        if entry.get("type") == "object":
            assert "additionalProperties" in entry or field in ("split_proof", "transfer"), field


def test_the_schema_is_in_line_with_the_code() -> None:
    record = schema("record")["properties"]
    assert record["format"]["const"] == FORMAT
    assert record["format_version"]["const"] == FORMAT_VERSION
    assert record["encoder"]["properties"]["size"]["enum"] == list(SIZES)
    names = schema("manifest")["properties"]["sha256"]["propertyNames"]["enum"]
    assert set(names) == {*FILES, TASK_FILE}


def test_the_page_is_in_line_with_the_schema() -> None:
    """Else: python -m earthssl.ssl.checkpoint.schema > docs/checkpoint-format.md."""
    page = (ROOT / "docs" / "checkpoint-format.md").read_text(encoding="utf-8")
    assert page == document()
    for _, entry in fields(schema("record")):
        assert entry.get("description", "") in page


def test_every_mistake_is_listed_up_to_a_dozen() -> None:
    with pytest.raises(EarthSSLError) as caught:
        check({"sha256": {f"f{k}": "x" for k in range(20)}, "more": 1}, "manifest", "there")
    message = str(caught.value)
    assert message.startswith("there: the manifest does not fit its schema: $: expected no field but")
    assert "got 'more'" in message
    assert "$.sha256: expected the field 'record.json', found none" in message
    assert message.endswith("more; fetch it again")
    assert len(message) < 2500


@pytest.mark.parametrize(
    "content",
    [
        b'"' + b'\\"' * 200_000,
        b"{" + b",".join(b'"%d":1' % k for k in range(40_000)) + b',"39999":2}',
        json.dumps({"variables": [name for k in range(40_000) for name in (k, str(k))]}).encode(),
        json.dumps({"versions": dict.fromkeys(map(str, range(40_000)), 1)}).encode(),
        json.dumps(dict.fromkeys(map(str, range(40_000)), 1)).encode(),
    ],
    ids=["a text that never ends", "the last key twice", "a list to compare", "mistakes without end", "unknown fields"],
)
def test_what_is_small_takes_no_hours(content: bytes) -> None:
    """Half a megabyte whose parsing or checking would take the square of its length, in time or in words."""
    begin = time.monotonic()
    with pytest.raises(EarthSSLError) as caught:
        check(parse_json(content, "a record", "there"), "record", "there")
    assert time.monotonic() - begin < 20
    assert len(str(caught.value)) < 2500


def test_a_line_break_at_the_end_is_no_name() -> None:
    """`$` of Python's expressions would let it pass."""
    hashes = dict.fromkeys(FILES, "0" * 64)
    check({"sha256": hashes}, "manifest", "there")
    with pytest.raises(EarthSSLError, match=r"expected text of the form .*, got '000"):
        check({"sha256": {**hashes, "card.md": "0" * 64 + "\n"}}, "manifest", "there")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
        (b'{"a": NaN}', "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e999]", "too large"),
        (b"[" + b"9" * 5000 + b"]", "does not fit in 64 bits"),
        (b"[9223372036854775808]", "does not fit in 64 bits"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 32"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper than 32"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'["\\u001b[31mred"]', "control characters"),
        (b'{"\\u0000": 1}', "control characters"),
        (b'["\\u202e"]', "control characters"),
        (b"{'a': 1}", "cannot be parsed"),
        (b"[1] [2]", "cannot be parsed"),
        (b'["\n"]', "cannot be parsed"),
        (b"", "cannot be parsed"),
    ],
)
def test_json_that_leaves_room_for_doubt_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        parse_json(content, "a record", "there")


def test_good_json_is_read_as_it_is() -> None:
    """Brackets inside texts are no nesting; a whole pair of surrogates is a character."""
    good = {"a": "[" * 100 + '"', "b": [1, -2.5, None, True], "°": "\U0001f30d\n", "largest": 2**63 - 1}
    assert parse_json(json.dumps(good).encode(), "x", "there") == good
    assert parse_json(json.dumps(good, ensure_ascii=False).encode(), "x", "there") == good
    assert strict_json(b"[1]", "there", 3) == [1]
    with pytest.raises(EarthSSLError, match="at most 2 bytes, got 3"):
        strict_json(b"[1]", "there", 2)

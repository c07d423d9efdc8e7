"""Addresses: what is understood, and what is refused before anything is asked of anyone."""

from __future__ import annotations

from pathlib import Path

import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.remote.address import Address, parse

PIN = "a" * 64
COMMIT = "0" * 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/mine", Address("file", "runs/mine")),
        ("/data/x", Address("file", "/data/x")),
        ("a b/c#1", Address("file", "a b/c#1")),
        (Path("s3:/odd"), Address("file", "s3:/odd")),
        ("file:///data/my%20x", Address("file", "/data/my x")),
        ("file:/data/x", Address("file", "/data/x")),
        ("file://localhost/data/x", Address("file", "/data/x")),
        (f"data/x#sha256={PIN}", Address("file", "data/x", pin=PIN)),
        ("https://host.example/reg/x/", Address("https", "https://host.example/reg/x")),
        ("HTTPS://host.example:8443/x", Address("https", "https://host.example:8443/x")),
        ("http://127.0.0.1:80/x", Address("http", "http://127.0.0.1:80/x")),
        ("http://localhost/x", Address("http", "http://localhost/x")),
        ("http://[::1]:8/x", Address("http", "http://[::1]:8/x")),
        ("s3://bucket/reg/x/", Address("s3", "bucket/reg/x")),
        (f"hf://owner/name@{COMMIT}#sha256={PIN}", Address("hf", "owner/name", COMMIT, PIN)),
        ("hf://owner/name@main", Address("hf", "owner/name", "main")),
        ("hf://owner/name@refs/pr/1", Address("hf", "owner/name", "refs/pr/1")),
    ],
)
def test_what_is_understood(text: str | Path, expected: Address) -> None:
    """Taken apart as expected, and the same when it is put together and taken apart again."""
    assert parse(text) == expected
    if isinstance(text, str):
        assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected an address"),
        ("#sha256=" + PIN, "expected an address"),
        ("a\nb", "expected an address"),
        ("a\x00b", "expected an address"),
        ("https://host.example/\u202ex", "expected an address"),
        ("x#sha256=abc", "64 hexadecimal digits"),
        ("x#sha256=" + PIN.upper(), "64 hexadecimal digits"),
        ("htps://host/x", "Did you mean 'https'"),
        ("ftp://host/x", "got 'ftp:'"),
        ("git+https://host/x", r"got 'git\+https:'"),
        ("file://other/x", "on this machine, got host 'other'"),
        ("https:///x", "got no host"),
        ("https:x", "expected https://"),
        ("https://host/a/../b", "without '..'"),
        ("https://host/a/%2e%2e/b", "without '..'"),
        ("https://host\\@evil/x", "without"),
        ("https://host/x?token=1", r"with '\?' or '#'"),
        ("https://host/x#part", r"with '\?' or '#'"),
        ("https://host:port/x", "expected a URL"),
        ("https://hоst.example/x", "signs that no URL has"),
        ("http://host.example/x", "--allow-http"),
        ("http://127.0.0.1.host.example/x", "--allow-http"),
        ("http://localhost.host.example/x", "--allow-http"),
        ("s3://", "expected s3://bucket"),
        ("s3://Bucket/x", "expected s3://bucket"),
        ("s3://bucket//x", "expected s3://bucket"),
        ("s3://bucket/../other/x", "without '..'"),
        ("hf://owner/name", "expected a revision"),
        ("hf://owner/name@", "expected a revision"),
        ("hf://name@main", "expected hf://owner/name"),
        ("hf://owner/name/more@main", "expected hf://owner/name"),
        ("hf://owner/../name@main", "without '..'"),
        ("hf://owner/name@-x", "expected a revision"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    """In one line that says what was expected."""
    with pytest.raises(EarthSSLError, match=words):
        parse(text)


def test_a_password_is_not_repeated() -> None:
    """It would end in a log."""
    with pytest.raises(EarthSSLError, match="without user and password") as caught:
        parse("https://user:secret@host.example/x")
    assert "secret" not in str(caught.value)


def test_plain_http_can_be_allowed() -> None:
    """By whoever knows why."""
    assert parse("http://host.example/x", allow_http=True).scheme == "http"


def test_names_and_registries() -> None:
    """The last part is the name, what is before it the registry."""
    assert (parse("s3://bucket/reg/x").name, str(parse("s3://bucket/reg/x").registry)) == ("x", "s3://bucket/reg")
    assert str(parse("/data/reg/x").registry) == "/data/reg"
    for place in ("/data/..", "/data/.hidden", "/data/a b", "/data/ü", "/data/" + "x" * 101):
        with pytest.raises(EarthSSLError, match="expected a name"):
            _ = parse(place).name

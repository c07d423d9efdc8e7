"""Redirects: followed where they are as safe as the address, refused otherwise, and nothing beside them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.hub.pull import pull

BIG = "encoder.safetensors"


def refused(server: Any, words: str, cache: Path) -> None:
    """Pull, expect the words, and that no checkpoint has come."""
    with pytest.raises(EarthSSLError, match=words):
        pull(f"{server.url}/reg/tiny")
    assert not list(cache.glob("[0-9a-f]*"))


def test_redirects_on_the_same_machine_are_followed(server: Any, tiny: Path, same: Any) -> None:
    """As a download server does."""
    server.fault(f"tiny/{BIG}")(lambda request: request.answer(302, headers={"Location": f"/moved/{BIG}"}))
    (server.folder / "moved").mkdir()
    (server.folder / "moved" / BIG).write_bytes((tiny / BIG).read_bytes())
    server.fault(f"moved/{BIG}", times=1)(lambda request: request.usual(f"moved/{BIG}", cut=9000))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert server.ranges(f"moved/{BIG}") == ["", "bytes=9000-"]


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "http://192.0.2.1/x", "ftp://127.0.0.1/x", "http://user:word@127.0.0.1/x", "gopher:x"],
)
def test_redirects_to_less_safe_places_are_refused(server: Any, cache: Path, target: str) -> None:
    """Files of this machine, plain http elsewhere, other protocols, someone's password."""
    server.fault(BIG)(lambda request: request.answer(302, headers={"Location": target}))
    refused(server, "not as safe; not followed|is not allowed", cache)


def test_redirects_without_end_are_refused(server: Any, cache: Path) -> None:
    """Round and round."""
    server.fault(BIG)(lambda request: request.answer(302, headers={"Location": request.path + "?again"}))
    refused(server, "redirect", cache)
    assert len(server.asked) < 40


def test_what_stands_beside_a_redirect_is_not_read(server: Any, cache: Path) -> None:
    """It may have no end."""

    def endless(request: Any) -> None:
        request.send_response(302)
        request.send_header("Location", f"/reg/tiny/moved-{BIG}")
        request.end_headers()
        while request.state.sent < 1 << 26:
            request.write(b"\x00" * 65536)

    server.fault(f"tiny/{BIG}")(endless)
    refused(server, f"the server has none|expected a file at .*{BIG}", cache)
    assert server.sent < 1 << 25


@pytest.mark.parametrize("target", ["http://[::1", "http://127.0.0.1:port/x", "//"])
def test_redirects_to_no_address_are_refused(server: Any, cache: Path, target: str) -> None:
    """In a line, as everything else."""
    server.fault(BIG)(lambda request: request.answer(302, headers={"Location": target}))
    refused(server, "expected a URL|redirect", cache)

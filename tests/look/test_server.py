"""The server refuses whoever is not the page: wrong hosts, no token, other paths, large or foreign POSTs."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from earthssl.look.server import AT_ONCE, BODY, Answer, Server, as_json
from earthssl.ssl.common.errors import EarthSSLError


class Stub:
    """Answers one name and keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[Any] = []

    def get(self, name: str, query: Mapping[str, str]) -> Answer | None:
        if name == "bad":
            raise EarthSSLError("expected good, got bad")
        if name == "worse":
            raise RuntimeError("oh")
        return as_json({"name": name, "query": dict(query)}) if name in ("", "here") else None

    def post(self, name: str, record: dict[str, Any]) -> Answer | None:
        if name != "labels":
            return None
        self.posted.append(record)
        return as_json({"ok": True})


def ask(server: Server, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host="Host" in named, skip_accept_encoding=True)
    for name, value in named.items():
        connection.putheader(name, value)
    if body is not None and "Content-Length" not in named:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    if body is not None:
        connection.send(body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read() or b"{}") if answer.status != 501 else {}
    connection.close()
    return found


def test_it_answers_the_page_and_listens_on_loopback_only(serve: Callable[[Any], Any]) -> None:
    with serve(Stub()) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.address == f"http://127.0.0.1:{server.server_address[1]}/{server.token}/"
        assert len(server.token) >= 32
        status, found = ask(server, f"/{server.token}/here?a=1&b=x%20y")
        assert (status, found) == (200, {"name": "here", "query": {"a": "1", "b": "x y"}})
        port = server.server_address[1]
        assert ask(server, f"/{server.token}/", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/{token}/here", {"Host": "evil.example"}, 421),  # a name that was pointed at 127.0.0.1
        ("/{token}/here", {"Host": "127.0.0.1"}, 421),  # another port
        ("/{token}/here", {"Host": "127.0.0.1:{port}.evil.example"}, 421),
        ("/", {}, 403),
        ("/here", {}, 403),
        ("/wrong/here", {}, 403),
        ("/{token}x/here", {}, 403),
        ("/é/here", {}, 403),
        ("//evil.example/{token}/here", {}, 403),
        ("http://evil.example/{token}/", {}, 421),
        ("/{token}/../../../../etc/passwd", {}, 404),
        ("/{token}/%2e%2e/%2e%2e/etc/passwd", {}, 404),
        ("/{token}//etc/passwd", {}, 404),
        ("/{token}/labels.jsonl", {}, 404),
        ("/{token}/labels/journal.py", {}, 404),
        ("/{token}/here?" + "x" * 5000, {}, 414),
        ("/{token}/bad", {}, 400),
        ("/{token}/worse", {}, 500),
    ],
)
def test_attacks_by_get_are_refused(serve: Any, path: str, headers: dict[str, str], status: int) -> None:
    with serve(Stub()) as server:
        values = {"token": server.token, "port": server.server_address[1]}
        given = {name: value.format(**values) for name, value in headers.items()}
        found, record = ask(server, path.format(**values).replace("é", "%C3%A9"), **given)
        assert found == status
        assert set(record) == {"error"}
        assert server.token not in record["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Origin": "http://evil.example"}, 403),
        (b"{}", {"Origin": "null"}, 403),
        (b"{}", {"Content_Type": "text/plain"}, 415),  # what a form of another site can send
        (b"{}", {"Content_Length": str(BODY + 1)}, 413),
        (b"{}", {"Content_Length": "-1"}, 411),
        (b"{}", {"Content_Length": "two"}, 411),
        (b"{}", {"Transfer_Encoding": "chunked"}, 411),
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"[" * 9000, {}, 400),
        (b"\xff\xfe", {}, 400),
    ],
)
def test_attacks_by_post_are_refused(serve: Any, body: bytes, headers: dict[str, str], status: int) -> None:
    stub = Stub()
    with serve(stub) as server:
        given = {"Content_Type": "application/json", **headers}
        found, record = ask(server, f"/{server.token}/labels", "POST", body, **given)
        assert found == status
        assert set(record) == {"error"}
    assert stub.posted == []


def test_a_post_of_the_page_is_taken(serve: Any) -> None:
    stub = Stub()
    with serve(stub) as server:
        origin = f"http://127.0.0.1:{server.server_address[1]}"
        own = {"Content_Type": "application/json; charset=utf-8", "Origin": origin}
        assert ask(server, f"/{server.token}/labels", "POST", b'{"a": 1}', **own) == (200, {"ok": True})
        assert ask(server, f"/{server.token}/other", "POST", b'{"a": 1}', **own)[0] == 404
        assert ask(server, "/labels", "POST", b'{"a": 1}', **own)[0] == 403
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
            assert ask(server, f"/{server.token}/labels", method)[0] == 501
    assert stub.posted == [{"a": 1}]


def test_headers_forbid_whatever_is_not_of_the_page(serve: Any) -> None:
    with serve(Stub()) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        connection.request("GET", f"/{server.token}/")
        headers = connection.getresponse().headers
        connection.close()
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


def test_two_hosts_in_one_request_are_refused(serve: Any) -> None:
    with serve(Stub()) as server, socket.create_connection(server.server_address[:2], timeout=10) as plain:
        own = f"127.0.0.1:{server.server_address[1]}"
        plain.sendall(f"GET /{server.token}/ HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\n\r\n".encode())
        assert b" 421 " in plain.recv(200)


def test_a_port_that_is_taken_is_said(serve: Any) -> None:
    with serve(Stub()) as server, pytest.raises(EarthSSLError, match="choose another"):
        Server(Stub(), server.server_address[1])


def test_connections_that_say_nothing_hold_no_place(serve: Any) -> None:
    with serve(Stub()) as server:
        idle = [socket.create_connection(server.server_address[:2], timeout=10) for _ in range(2 * AT_ONCE)]
        assert ask(server, f"/{server.token}/here")[0] == 200
        for one in idle:
            one.close()

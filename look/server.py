"""The server of the page: loopback only, a token in the address, and nothing that is not asked for by name.

It answers on 127.0.0.1 alone; a request must carry the Host it was printed with (so that a name that another site
points at 127.0.0.1 is refused) and the token as the first part of its path. Files are a fixed list read at the start;
no path is ever opened. POST takes small JSON from the page itself only.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from ..ssl.common.errors import EarthSSLError

HOST = "127.0.0.1"
BODY = 16 * 1024  # bytes of a POST
ADDRESS = 4 * 1024  # of a path with its query
AT_ONCE = 16  # answers being made
IDLE_S = 20.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Attributes:
        body: Bytes.
        kind: Content-Type.
        headers: More of them.
        status: Of HTTP.
    """

    body: bytes
    kind: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


def as_json(record: Any, status: int = 200) -> Answer:
    """Return plain JSON as an answer; NaN is refused, JSON has none."""
    return Answer(json.dumps(record, allow_nan=False).encode(), "application/json; charset=utf-8", {}, status)


class Application(Protocol):
    """What is behind the server."""

    def get(self, name: str, query: Mapping[str, str]) -> Answer | None:
        """Return what is asked for; None where there is nothing of that name."""

    def post(self, name: str, record: dict[str, Any]) -> Answer | None:
        """Do what is asked for; None where there is nothing of that name."""


class Server(ThreadingHTTPServer):
    """Serves one application until it is closed.

    Attributes:
        token: First part of every path.
        address: What to open in a browser.
    """

    daemon_threads = True
    allow_reuse_address = False
    request_queue_size = 64  # of a browser's connections at once: beyond it, each waits a second to ask again

    def __init__(self, application: Application, port: int = 0) -> None:
        """Bind to a port of the loopback interface; 0 is a free one.

        Raises:
            EarthSSLError: If the port is taken.
        """
        self.application = application
        self.token = secrets.token_urlsafe(24)
        self.places = threading.BoundedSemaphore(AT_ONCE)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise EarthSSLError(f"port {port}: cannot be listened at ({error.strerror}); choose another") from None
        own = self.server_address[1]
        self.hosts = {f"{HOST}:{own}", f"localhost:{own}"}
        self.address = f"http://{HOST}:{own}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that hung up."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "earthssl"
    sys_version = ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        """Answer a question."""
        self._answer(lambda name, query: self.server.application.get(name, query))

    def do_POST(self) -> None:
        """Take labels."""
        self._answer(lambda name, _: self._post(name))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the token is in every address."""

    def _answer(self, how: Any) -> None:
        if not self.server.places.acquire(timeout=IDLE_S):
            self._refuse(503, "too many requests at once")
            return
        try:
            target = self._path()
            if target is None:
                return
            answer = how(*target)
            if answer is None:
                self._refuse(404, "there is nothing of that name")
            else:
                self._send(answer)
        except EarthSSLError as error:
            self._send(as_json({"error": str(error)}, 400))
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            self._send(as_json({"error": f"{type(error).__name__}: {error}"[:600]}, 500))
        finally:
            self.server.places.release()

    def _path(self) -> tuple[str, dict[str, str]] | None:
        """Return what is asked for, below the token, and its query; None where it was refused."""
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            self._refuse(421, "this server answers to its own address only")
            return None
        if len(self.path) > ADDRESS:
            self._refuse(414, f"expected an address of at most {ADDRESS} bytes")
            return None
        parts = urlsplit(self.path)
        if parts.netloc:
            self._refuse(421, "this server is no proxy")
            return None
        token, _, name = parts.path.lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self._refuse(403, "the address lacks its token; open the one that earthssl look printed")
            return None
        return name, dict(parse_qsl(parts.query))

    def _post(self, name: str) -> Answer | None:
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            return self._shut(403, "labels are taken from the page itself only")
        if self.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            return self._shut(415, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            return self._shut(411, "expected a Content-Length")
        if int(length) > BODY:
            return self._shut(413, f"expected at most {BODY} bytes")
        try:
            record = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            return self._shut(400, "expected a JSON object")
        return self.server.application.post(name, record)

    def _shut(self, status: int, why: str) -> Answer:
        """Return a refusal after which the connection ends: what follows on it was not read."""
        self.close_connection = True
        return as_json({"error": why}, status)

    def _refuse(self, status: int, why: str) -> None:
        self._send(self._shut(status, why))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        own = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        ends = {"Connection": "close"} if self.close_connection else {}
        for name, value in {**own, **answer.headers, **ends}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

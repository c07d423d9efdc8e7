"""Files behind a web server: ranges that go on from where they stopped, redirects that are watched, no endless wait."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

from ..common.errors import EarthSSLError
from . import place
from .address import Address, is_loopback
from .place import BLOCK, Absent, Opened, Remote, Transient

REDIRECTS = 5
AGAIN = {408, 425, 429, 500, 502, 503, 504}
SLOWEST = 1024  # bytes a second, over a time-out's length


class Web(Remote):
    """A URL under which files lie."""

    def __init__(self, address: Address, *, allow_http: bool = False) -> None:
        super().__init__(address)
        self.opener = urllib.request.build_opener(_Watched(allow_http), _Http(), _Https())

    def url(self, name: str) -> str:
        """Return the file's URL."""
        return self.where(name)

    def headers(self) -> dict[str, str]:
        """Return what is said with every request."""
        return {"User-Agent": "earthssl", "Accept-Encoding": "identity"}

    @contextmanager
    def open(self, name: str, start: int = 0, version: str = "") -> Iterator[Opened]:
        headers = self.headers()
        if start and version:
            # Without If-Range, a file that was replaced meanwhile would be glued to the old half.
            headers |= {"Range": f"bytes={start}-", "If-Range": version}
        request = urllib.request.Request(self.url(name), headers=headers)
        with _clear(self.url(name)):
            answer = self.opener.open(request, timeout=place.TIMEOUT_S)
            with answer:
                yield self._opened(answer, name, start)

    def _opened(self, answer: Any, name: str, asked: int) -> Opened:
        said = answer.headers
        if said.get("Content-Encoding", "identity") != "identity":
            raise EarthSSLError(
                f"{self.url(name)}: expected the bytes as they are, got them {said['Content-Encoding']:.80}; "
                "ask whoever keeps that place to serve them so"
            )
        start, length = 0, _number(said.get("Content-Length"))
        if answer.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said.get("Content-Range", ""))
            if found is None or int(found[1]) != asked:
                raise Transient("the server sent another range than was asked for")
            start = asked
        elif answer.status != 200:
            raise EarthSSLError(f"{self.url(name)}: expected a file, got status {answer.status}; check the address")
        tag = said.get("ETag", "")
        version = said.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
        return Opened(start, start + length if length is not None else None, version, _blocks(answer, length))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text) else None


def _blocks(answer: Any, length: int | None) -> Iterator[bytes]:
    """Yield the `length` bytes that were announced; a trickle that never ends is ended as a time-out."""
    with _Watch(answer.line) as watch:
        try:
            while length is None or watch.got < length:
                block = answer.read1(BLOCK if length is None else min(BLOCK, length - watch.got))
                if not block:
                    break
                watch.got += len(block)
                yield block
        except (OSError, http.client.HTTPException):
            if not watch.late.is_set():
                raise
        if watch.late.is_set():
            raise Transient(f"less than {SLOWEST} bytes a second came")
    if length is not None and watch.got < length:
        raise Transient(f"the connection broke off {length - watch.got} bytes before the announced end")


class _Watch:
    """Hangs up where less comes than `SLOWEST`, over a time-out's length.

    A thread of its own sees it, as the bytes around chunks may trickle without end and without one block.

    Attributes:
        got: Bytes so far, counted by whoever reads.
        late: Set when it has hung up.
    """

    def __init__(self, line: socket.socket) -> None:
        self.line, self.got = line, 0
        self.late, self._done = threading.Event(), threading.Event()

    def __enter__(self) -> _Watch:
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _look(self) -> None:
        before = 0
        while not self._done.wait(place.TIMEOUT_S):
            now = self.got
            if now - before < SLOWEST * place.TIMEOUT_S:
                _hang_up(self.line, self.late)
                return
            before = now


@contextmanager
def _clear(url: str) -> Iterator[None]:
    """Tell what trying again may mend from what it cannot."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        said = " ".join(str(error.reason).split())[:200]
        if error.code in (404, 410):
            raise Absent(f"expected a file at {url}, the server has none ({error.code}); check the address") from None
        if error.code in (401, 403, 407):
            raise EarthSSLError(f"{url}: the server refuses access ({error.code}); check the rights to it") from None
        if error.code in AGAIN or error.code == 416:
            wait = _number(error.headers.get("Retry-After") if error.headers else None)
            raise Refused(f"the server answers {error.code} {said}", wait or 0, error.code) from None
        raise EarthSSLError(
            f"{url}: expected a file, the server answers {error.code} {said}; check the address"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError) and not isinstance(error.reason, ssl.SSLEOFError):
            raise EarthSSLError(
                f"{url}: expected a server that speaks https with a valid certificate, but {error.reason}; check host, "
                "port and this machine's clock"
            ) from None
        raise Transient(str(error.reason)) from None
    except (ValueError, http.client.InvalidURL) as error:  # an odd redirect, for example
        raise EarthSSLError(f"{url}: expected a URL, but {error!s:.200}; check the address") from None
    except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
        raise Transient(str(error) or type(error).__name__) from None


class Refused(Transient):
    """The server gave a status instead of the file.

    Attributes:
        status: Of HTTP.
    """

    def __init__(self, said: str, wait_s: float, status: int) -> None:
        super().__init__(said, wait_s)
        self.status = status


class _Prompt(http.client.HTTPConnection):
    """A connection on which the head of an answer must have come within the time-out, not only its next byte."""

    def getresponse(self) -> http.client.HTTPResponse:
        late, line = threading.Event(), self.sock  # which is given up here where the answer ends with the connection
        timer = threading.Timer(place.TIMEOUT_S, _hang_up, (line, late))
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()
        except (OSError, http.client.HTTPException):
            if late.is_set():
                raise TimeoutError("timed out") from None
            raise
        finally:
            timer.cancel()
        if late.is_set():
            answer.close()
            raise TimeoutError("timed out")
        answer.line = line  # type: ignore[attr-defined]
        return answer


class _PromptTls(_Prompt, http.client.HTTPSConnection):
    """The same, encrypted."""


def _hang_up(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which another thread is using


class _Http(urllib.request.HTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **how: Any) -> Any:
        return super().do_open(_Prompt, req, **how)


class _Https(urllib.request.HTTPSHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **how: Any) -> Any:
        return super().do_open(_PromptTls, req, **how)


class _Watched(urllib.request.HTTPRedirectHandler):
    """Redirects only to where the first address could have pointed, a few times, and without its secrets."""

    max_redirections = REDIRECTS

    def __init__(self, allow_http: bool) -> None:
        self.allow_http = allow_http

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        fp.close()  # else what stands beside the redirect would be read whole, however long it is
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        plain = new.scheme == "http" and old.scheme == "http"
        both_here = is_loopback(old.hostname or "") and is_loopback(new.hostname or "")
        if "@" in new.netloc or not (new.scheme == "https" or (plain and (both_here or self.allow_http))):
            raise EarthSSLError(
                f"{req.full_url}: the server sends on to {newurl:.200}, which is not as safe; not followed; ask "
                "whoever keeps that place for the address itself"
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new.netloc != old.netloc:
            request.remove_header("Authorization")
        return request

"""A tiny checkpoint, a cache of its own for each test, and a real web server that can be told to misbehave."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from earthssl.ssl.remote import download, place

V1 = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkpoint of this version, with scores; to be looked at, never changed."""
    import torch
    from earthssl.ssl.checkpoint.read import read
    from earthssl.ssl.checkpoint.write import save
    from earthssl.ssl.fields.batch import Batch
    from safetensors.torch import load_file

    encoder, record = read(V1)
    golden = load_file(V1 / "golden.safetensors")
    batch = Batch(
        golden["values"], golden["valid"], golden["times"], torch.zeros(len(golden["values"]), dtype=torch.int64),
        torch.from_numpy(record.statistics.known), record.variables, record.grid,
    )  # fmt: skip
    rows = [{"name": "pretrained", "kind": "pretrained", "value": 0.625}, {"name": "PCA", "value": 0.5}]
    scores = [{"task": "enso", "metric": "correlation", "better": "higher", "rows": rows}]
    scored = dataclasses.replace(record, extra={**record.extra, "scores": scores})
    return save(tmp_path_factory.mktemp("tiny") / "tiny", encoder, {"weight": torch.arange(5000.0)}, scored, batch)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint, of version 1."""
    return Path(shutil.copytree(V1, tmp_path_factory.mktemp("other") / "other"))


@pytest.fixture(scope="session")
def data(tiny: Path) -> Any:
    """A few months (xarray) on the tiny checkpoint's grid."""
    import numpy as np
    import xarray as xr
    from earthssl.ssl.checkpoint.read import read_record

    record = read_record(tiny)
    times = np.arange("2001-01", "2001-07", dtype="datetime64[M]").astype("datetime64[ns]")
    anomalies = np.random.default_rng(1).normal(size=(6, 2, *record.grid.shape))
    values = record.statistics.denormalise(anomalies, times)
    fields = {
        name: (("time", "lat", "lon"), values[:, k], {"units": record.units[k]})
        for k, name in enumerate(("sst", "u10"))
    }
    return xr.Dataset(fields, {"time": times, "lat": record.grid.lat, "lon": record.grid.lon})


@pytest.fixture(scope="session")
def same() -> Callable[[Path, Path], bool]:
    """Whether two folders hold the same files, byte for byte."""

    def compare(one: Path, other: Path) -> bool:
        return {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}

    return compare


@pytest.fixture(scope="session")
def pin() -> Callable[[Path], str]:
    """The SHA-256 of a checkpoint's manifest."""
    return lambda folder: hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test; waits and time-outs are short, nothing of the user's environment is used."""
    for name in ("EARTHSSL_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EARTHSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(place, "TIMEOUT_S", 5.0)
    return tmp_path / "cache" / "checkpoints"


class Request(http.server.BaseHTTPRequestHandler):
    """One request, and what is usually answered."""

    state: Server

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.state.asked.append((path, self.headers.get("Range", "")))
        try:
            if not any(fault(self, path) for fault in self.state.faults):
                self.usual(path)
        except (BrokenPipeError, ConnectionResetError):  # the other side had enough
            pass

    do_POST = do_GET

    def usual(self, path: str, cut: int | None = None, etag: str | None = None, ranges: bool = True) -> None:
        """Serve a file, in part if asked to; `cut` bytes at most, then the connection breaks off."""
        file = self.state.folder / path
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        etag = etag or f'"{hashlib.md5(data).hexdigest()}"'
        first = 0
        asked = self.headers.get("Range", "")
        if ranges and asked and self.headers.get("If-Range", etag) == etag:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(data):
                self.answer(416)
                return
        headers = {"ETag": etag}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.answer(206 if first else 200, data[first:], headers, cut=cut)

    def answer(
        self, status: int, data: bytes = b"", headers: dict[str, str] | None = None, *,
        length: int | None = None, cut: int | None = None,
    ) -> None:  # fmt: skip
        """Answer; `length` is announced whatever is sent."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.write(data[:cut])

    def write(self, data: bytes) -> None:
        """Send bytes and count them."""
        self.wfile.write(data)
        self.wfile.flush()
        self.state.sent += len(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


Fault = Callable[[Request, str], Any]


@dataclass
class Server:
    """A web server on the loopback.

    Attributes:
        folder: What it serves.
        url: Where.
        faults: Each is asked first, and true says that it has answered.
        asked: Path and range of every request.
        sent: Bytes of content so far.
    """

    folder: Path
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0

    def fault(self, ending: str, times: int = 1000) -> Callable[[Callable[[Request], None]], None]:
        """Let a function answer the first `times` requests for files that end so."""
        left = [times]

        def add(answer: Callable[[Request], None]) -> None:
            def fault(request: Request, path: str) -> bool:
                if not path.endswith(ending) or left[0] <= 0:
                    return False
                left[0] -= 1
                answer(request)
                return True

            self.faults.append(fault)

        return add

    def ranges(self, ending: str) -> list[str]:
        """Return the ranges asked of files that end so."""
        return [asked for path, asked in self.asked if path.endswith(ending)]


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """Maker of servers of a folder."""
    running = []

    def start(folder: Path) -> Server:
        state = Server(folder)
        handler = type("Handler", (Request,), {"state": state})
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        httpd.daemon_threads = True
        httpd.block_on_close = False
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((httpd, thread))
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        return state

    yield start
    for httpd, thread in running:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def server(serve: Callable[[Path], Server], tiny: Path, tmp_path: Path) -> Server:
    """A server of a registry with the tiny checkpoint as `reg/tiny`; it may be changed."""
    shutil.copytree(tiny, tmp_path / "served" / "reg" / "tiny")
    return serve(tmp_path / "served")

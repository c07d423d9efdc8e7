"""A page on the small store with the small encoder: its answers in this process, its server on a thread."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def look_states(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the states of the small store, computed once."""
    from earthssl.look.states import cached
    from earthssl.ssl.common.files import sha256
    from earthssl.ssl.inference.load import load_encoder
    from earthssl.ssl.store.store import Store

    folder = tmp_path_factory.mktemp("states")
    cached(folder, load_encoder(small_run), Store(small_store), sha256(small_run / "checkpoint/encoder.safetensors"))
    return folder


@pytest.fixture
def make_look(small_store: Path, small_run: Path, look_states: Path, tmp_path: Path) -> Callable[..., Any]:
    """Maker of a `Look` with its states ready: `make_look(store, labels)`."""
    from earthssl.look.application import Look
    from earthssl.look.label_journal import Journal
    from earthssl.ssl.inference.load import load_encoder
    from earthssl.ssl.store.store import Store

    def make(labels: Path | None = None, store: Path | None = None) -> Any:
        folder = tmp_path / "look"
        if store is not None:  # fields alone
            return Look(Store(store), Journal(folder), labels=labels)
        folder.mkdir(exist_ok=True)
        for file in look_states.iterdir():
            shutil.copy(file, folder)
        look = Look(
            Store(small_store), Journal(folder), frozen=load_encoder(small_run), checkpoint="<b>run</b>", labels=labels
        )
        look.start(small_run / "checkpoint/encoder.safetensors").join()
        assert look.progress.error == ""
        return look

    return make


@contextmanager
def serving(application: Any) -> Iterator[Any]:
    """Serve an application on a thread."""
    from earthssl.look.server import Server

    with Server(application) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve() -> Callable[[Any], Any]:
    """Context that serves an application on a thread."""
    return serving

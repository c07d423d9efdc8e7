"""A page on the small store with the small encoder: its answers in this process, its server on a thread."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

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
    from earthssl.look.labels.journal import Journal
    from earthssl.look.rebuilt import Decoders
    from earthssl.pretext import TASKS
    from earthssl.ssl.inference.load import load_encoder
    from earthssl.ssl.store.store import Store
    from earthssl.ssl.training.pretrain import load_objectives

    def load() -> tuple[Any, Any]:
        encoder, objectives = load_objectives(small_run / "checkpoint", TASKS)
        return encoder, objectives.tasks()

    def make(labels: Path | None = None, store: Path | None = None) -> Any:
        folder = tmp_path / "look"
        if store is not None:  # fields alone
            given = Store(store)
            return Look(given, Journal(folder, given.grid), labels=labels)
        folder.mkdir(exist_ok=True)
        for file in look_states.iterdir():
            shutil.copy(file, folder)
        opened, frozen = Store(small_store), load_encoder(small_run)
        decoders = Decoders(load, frozen.record, opened)
        journal = Journal(folder, opened.grid)
        look = Look(opened, journal, frozen=frozen, checkpoint="<b>run</b>", labels=labels, decoders=decoders)
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


def _ended_by_interrupt() -> None:
    """Take SIGINT as ever: a run that a shell started in the background ignores it, as would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started() -> Iterator[Callable[[Path, Path], tuple[subprocess.Popen[str], str]]]:
    """Starter of `look` in a process of its own, with its address; whatever is left of them ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(store: Path, out: Path) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "earthssl", "look", str(store), "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_ended_by_interrupt)
        processes.append(process)
        assert processes[-1].stdout is not None
        return processes[-1], processes[-1].stdout.readline().split()[1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            with process:  # waits, and closes its pipe
                pass


@pytest.fixture
def tuned(small_store: Path, small_run: Path, tmp_path: Path) -> Callable[..., None]:
    """Runner of a short `finetune` on the page's labels, which must end with a table: `tuned(labels, target, kind)`."""
    from earthssl.cli.main import main

    def run(labels: Path, target: str, kind: str) -> None:
        command = [
            "finetune", "--checkpoint", str(small_run), "--store", str(small_store), "--labels", str(labels),
            "--target", target, "--kind", kind, "--out", str(tmp_path / "tuned"),
            "--steps", "6", "--check_every", "3", "--warmup_steps", "2", "--seeds", "1", "--scratch_seeds", "1",
            "--untrained_seeds", "1", "--compare", "[]", "--random_seeds", "1", "--fractions", "[1.0]",
            "--label_draws", "1",
        ]  # fmt: skip
        assert main(command) == 0
        assert (tmp_path / "tuned" / "table.txt").is_file()

    return run


# ---- A real browser --------------------------------------------------------------------------------------------


EXPECTED = "EARTHSSL_BROWSER"  # set to 1 where a browser must be at hand: without one, tests fail


def _without(why: str) -> NoReturn:
    if os.environ.get(EXPECTED, "") not in ("", "0"):
        pytest.fail(f"{EXPECTED} is set, but {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; tests that need it are skipped where it is not at hand, or fail where it is expected."""
    try:
        sync_api = importlib.import_module("playwright.sync_api")
    except ImportError:
        _without("the extra `browser` (playwright) is not installed")
    named = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=named)
        except sync_api.Error as error:
            _without(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield found
        found.close()


class Visit:
    """Opens pages and looks at them.

    Attributes:
        said: Whatever a page complained of, or asked of another address.
    """

    def __init__(self, browser: Any) -> None:
        self.browser, self.contexts = browser, []
        self.said: list[str] = []

    def __call__(
        self, address: str, size: Any = None, *, dark: bool = False, touch: bool = False,
        ready: str = "#field[data-drawn]",
    ) -> Any:  # fmt: skip
        """Return a page on which `ready` is: by default one that has drawn its first field."""
        context = self.browser.new_context(
            viewport=size or {"width": 1400, "height": 900},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            timezone_id="America/Los_Angeles",
        )
        self.contexts.append(context)
        page, root = context.new_page(), address.rsplit("/", 2)[0]
        page.set_default_timeout(60_000)
        page.on("console", lambda one: self.said.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith((root, "data:")) else self.said.append(one.url))
        page.goto(address)
        page.wait_for_selector(ready)
        return page

    @staticmethod
    def drawn(page: Any, what: str) -> None:
        """Wait until the large picture shows this: variable/kind/step."""
        page.wait_for_selector(f'#field[data-drawn="{what}"]')

    @staticmethod
    def says(page: Any, selector: str, text: str) -> None:
        """Wait until an element says this."""
        page.locator(selector).filter(has_text=text).wait_for()

    @staticmethod
    def classes(page: Any, *words: str) -> None:
        """Go to the labels and add classes."""
        page.click("#tab-label")
        for word in words:
            page.fill("#new-class", word)
            page.keyboard.press("Enter")

    @staticmethod
    def counts(page: Any, selector: str, number: int) -> None:
        """Wait until there are so many elements."""
        for _ in range(1200):
            if page.locator(selector).count() == number:
                return
            page.wait_for_timeout(50)
        raise AssertionError(f"expected {number} of {selector}, got {page.locator(selector).count()}")

    @staticmethod
    def colours(page: Any, canvas: str = "#field") -> int:
        """Return how many different colours a canvas shows."""
        script = """canvas => new Set(new Uint32Array(canvas.getContext("2d").getImageData(
            0, 0, canvas.width, canvas.height).data.buffer)).size"""
        return int(page.eval_on_selector(canvas, script))

    @staticmethod
    def pixel(page: Any, x: float, y: float) -> list[int]:
        """Return the colour at a share of the picture's width and height."""
        script = """(canvas, [x, y]) => Array.from(canvas.getContext("2d").getImageData(
            Math.round(x * canvas.width), Math.round(y * canvas.height), 1, 1).data)"""
        return list(page.eval_on_selector("#field", script, [x, y]))

    @staticmethod
    def hover(page: Any, x: float, y: float, click: bool = False) -> str:
        """Move to a share of the picture, or click there, and return what stands under it."""
        box = page.locator("#field").bounding_box()
        at = (box["x"] + x * box["width"], box["y"] + y * box["height"])
        if click:
            page.mouse.click(*at)
        else:
            page.mouse.move(*at)
        return str(page.inner_text("#readout"))

    @staticmethod
    def share(lat: float, lon: float) -> tuple[float, float]:
        """Return where a place lies on the map of the whole Earth, as shares of its width and height."""
        return (lon + 180) % 360 / 360, (90 - lat) / 180


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Opener of pages; whatever a page complains of, or asks of another address, fails the test."""
    opener = Visit(browser)
    yield opener
    for context in opener.contexts:
        context.close()
    # that one is on these tests' own reading of canvases
    assert [line for line in opener.said if "willReadFrequently" not in line] == []

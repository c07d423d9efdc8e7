"""Work begun early by threads that nobody waits for, not even the end of the program."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

Calls = SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None]


class Ahead:
    """A few threads that make calls in the order asked for; what fails is left to whoever needs it later.

    They are daemons: a program that ends drops what is queued, where a pool of `concurrent.futures` would first do it
    all. They stop when this object goes.
    """

    def __init__(self, threads: int) -> None:
        """Start the threads."""
        self._calls: Calls = SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=_work, args=(self._calls,), name="ahead", daemon=True).start()
        weakref.finalize(self, _stop, self._calls, threads)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let a thread call the function some time."""
        self._calls.put((function, arguments))


def _work(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        function, arguments = call
        with suppress(Exception):
            function(*arguments)
        del call, function, arguments  # or the last one is kept alive for as long as the thread waits


def _stop(calls: Calls, threads: int) -> None:
    for _ in range(threads):
        calls.put(None)

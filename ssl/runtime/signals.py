"""SIGTERM and SIGUSR1 (SLURM's warning): work in progress is saved, then the program ends and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HEARD = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal ended the work in an orderly way; not an error, so nothing that handles errors may catch it.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int, said: str) -> None:
        super().__init__(signum, said)
        self.signum, self.said = signum, said

    def __str__(self) -> str:
        return self.said

    @property
    def status(self) -> int:
        """Exit status, as a shell gives it: 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + self.signum


class _Ears:
    """What was heard in this process, and whether it may wait for the work in progress."""

    def __init__(self) -> None:
        self.heard = 0
        self.waiting = 0
        self.pass_on: Callable[[int], None] | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal; end at once where nothing is to be saved first."""
        self.heard = signum
        if self.pass_on is not None:
            self.pass_on(signum)
        if not self.waiting:
            raise Stopped(signum, "stopped")


EARS = _Ears()


def listen() -> dict[int, Any]:
    """Take over the signals and return what handled them before; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, EARS) for number in HEARD}


@contextmanager
def heard() -> Iterator[None]:
    """End the work inside by an exception when a signal comes; what handled signals before returns afterwards.

    What was heard is known within the outermost of these, and forgotten after it: the next work is asked for anew.
    """
    before = listen()
    outermost = bool(before) and all(handler is not EARS for handler in before.values())  # no other thread's is
    if outermost:
        EARS.heard = 0
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if outermost:
            EARS.heard = 0


@contextmanager
def deferred(pass_on: Callable[[int], None] | None = None) -> Iterator[None]:
    """Let the work inside choose its moment: it asks `requested` and raises `Stopped` itself.

    Args:
        pass_on: Told of a signal as it comes.
    """
    with heard():
        before, EARS.pass_on = EARS.pass_on, pass_on
        EARS.waiting += 1
        try:
            yield
        finally:
            EARS.waiting -= 1
            EARS.pass_on = before


def stand_by() -> None:
    """Let signals end nothing yet: for a process that is kept for pieces of work, before anybody can signal it."""
    listen()
    EARS.waiting = 1


def in_turns(work: Callable[[], Any]) -> Any:
    """Do one of many pieces of work in a process that is kept for the next, and return what it returns.

    Where a signal ends it, or came before, the `Stopped` is returned; between the pieces a signal ends nothing.
    """
    stand_by()
    if EARS.heard:
        return Stopped(EARS.heard, "stopped")
    EARS.waiting = 0
    try:
        return work()
    except Stopped as stopped:
        return stopped
    finally:
        EARS.waiting = 1


def requested() -> int:
    """Return the signal that was heard; 0 for none."""
    return EARS.heard


def between_steps() -> None:
    """Raise `Stopped` if a signal came during a piece of work that went on to its end."""
    if EARS.heard:
        raise Stopped(EARS.heard, "stopped after a finished step")

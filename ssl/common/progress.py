"""One way to show that long work goes on: a bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

Item = TypeVar("Item")


class Track(Generic[Item]):
    """Items to loop over while a bar on standard error shows how many are done; see `track`."""

    def __init__(self, items: Iterable[Item], description: str, bar: Progress) -> None:
        self._items, self._description, self._bar = items, description, bar
        self._finished = False

    def finish(self) -> None:
        """End the loop after the present item, because no more is needed: the bar then ends at 100 %, of what was done.

        After a plain `break`, which may be an error's as well, it stays where it was.
        """
        self._finished = True

    def __iter__(self) -> Iterator[Item]:
        """Yield the items."""
        total = len(self._items) if isinstance(self._items, Sized) else None
        with self._bar as bar:
            line = bar.add_task(self._description, total=total)
            done = 0
            for item in self._items:
                yield item
                done += 1
                bar.update(line, completed=done, total=done if self._finished else total)
                if self._finished:
                    return
            bar.update(line, completed=done, total=done)


def track(items: Iterable[Item], description: str) -> Track[Item]:
    """Return the items, to be looped over once while a progress bar with the description shows how many are done.

    A loop that may end before the last item tells the bar by its method `finish`.
    """
    return Track(items, description, Progress(console=Console(stderr=True)))


def transfer_bar() -> Progress:
    """Return a bar that counts bytes and their speed; to be entered with `with`; silent where no one looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def dask_progress(prefix: str, total: int, description: str) -> Iterator[None]:
    """Show how many of the `total` dask tasks whose names begin with the prefix are done, of those computed inside."""
    from dask.callbacks import Callback

    with Progress(console=Console(stderr=True)) as bar:
        line = bar.add_task(description, total=total)

        def after(key: Any, *rest: Any) -> None:
            name = key[0] if isinstance(key, tuple) else key
            if str(name).startswith(prefix):
                bar.advance(line)

        with Callback(posttask=after):
            yield


class Counted(Generic[Item]):
    """An iterator whose number of items is known."""

    def __init__(self, items: Iterator[Item], count: int) -> None:
        self.items, self.count = items, count

    def __iter__(self) -> Iterator[Item]:
        return self.items

    def __len__(self) -> int:
        return self.count

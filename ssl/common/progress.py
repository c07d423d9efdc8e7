"""One way to show that long work goes on: a bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.progress import track as rich_track

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Yield the items while a progress bar with the description shows how many are done."""
    total = len(items) if isinstance(items, Sized) else None
    yield from rich_track(items, description, total=total, console=Console(stderr=True))


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

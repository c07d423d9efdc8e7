"""One way to show that long work goes on: a bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Generic, TypeVar

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


class Counted(Generic[Item]):
    """An iterator whose number of items is known."""

    def __init__(self, items: Iterator[Item], count: int) -> None:
        self.items, self.count = items, count

    def __iter__(self) -> Iterator[Item]:
        return self.items

    def __len__(self) -> int:
        return self.count

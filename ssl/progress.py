"""One way to show that long work goes on: a bar on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Yield the items while a progress bar with the description shows how many are done."""
    total = len(items) if isinstance(items, Sized) else None
    yield from rich_track(items, description, total=total, console=Console(stderr=True))

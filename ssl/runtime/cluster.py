"""The cells of a study on the workers of a dask.distributed scheduler, which share its file system."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ..common.errors import EarthSSLError
from ..common.files import waited_for
from ..common.progress import Counted, track
from ..common.versions import versions
from .workers import LOST, connected

LOCKS = ".cells"


@dataclass(frozen=True)
class Cell:
    """One task of a study, which keeps its result in the study's folder and does not do it again.

    Attributes:
        name: Unlike any other's in the study.
        work: What is done, with `arguments`.
        arguments: Plain values and settings.
        after: Names of cells, earlier in the list, that must be finished before.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Study:
    """What a worker checks before it begins a cell: that it sees the same files with the same software."""

    where: str
    marker: str
    digest: str
    started_in: str
    versions: dict[str, str]


class Cluster(AbstractContextManager["Cluster"]):
    """Workers of one thread each at the address of a scheduler.

    Attributes:
        count: Workers that were there when last looked.
    """

    timeout_s: float = 10.0  # for a scheduler with workers to answer
    look_s: float = 5.0  # between looks at the workers, while none is done
    patience_s: float = 600.0  # for a worker to come back, once none is left

    def __init__(self, address: str, where: str) -> None:
        """Connect.

        Args:
            address: tcp://host:port.
            where: The verb, for messages.

        Raises:
            EarthSSLError: If no scheduler with workers answers, or workers have several threads.
        """
        self.address, self.where = address, where
        self._client = connected(address, self.timeout_s, where)
        threads = self._client.nthreads()
        self.count = len(threads)
        if max(threads.values()) > 1:
            self._client.close()
            raise EarthSSLError(_several_threads(where, max(threads.values())))
        self._nobody_since: float | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def run(self, cells: Sequence[Cell], marker: Path) -> list[Any]:
        """Return what the cells return, in their order.

        A cell whose worker dies begins again on another, as often as the scheduler allows
        (`distributed.scheduler.allowed-failures`, 3 times where nothing else is set). An error in one cell ends the
        study; cells that other workers have begun go on to their end, which is kept.

        Args:
            cells: Each names only cells before it in `after`.
            marker: A file of the study's folder, there already: the workers look for it.

        Raises:
            EarthSSLError: If workers see other files or have other versions, are lost, or a cell says so.
        """
        text = marker.read_bytes()
        study = _Study(
            self.where, str(marker.absolute()), hashlib.sha256(text).hexdigest(), os.getcwd(), versions()
        )  # fmt: skip
        futures: dict[str, Any] = {}
        for cell in cells:
            before = [futures[name] for name in cell.after]
            futures[cell.name] = self._client.submit(_in_worker, study, cell, *before, pure=False)
        names = {future: name for name, future in futures.items()}
        found = {}
        try:
            for future in track(Counted(self._as_done(futures.values()), len(futures)), f"{self.where}: cells"):
                found[names[future]] = self._result(future, names[future])
        finally:
            self._client.cancel([future for future in futures.values() if not future.done()])
        return [found[cell.name] for cell in cells]

    def _as_done(self, futures: Any) -> Iterator[Any]:
        """Yield the futures as they are done, or have failed."""
        from distributed import wait

        waiting = set(futures)
        while waiting:
            try:
                with self._client.as_current():
                    done = wait(waiting, timeout=self.look_s, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                self._look()
                continue
            except Exception as error:
                raise self._lost(error) from None
            waiting -= done
            yield from done

    def _look(self) -> None:
        """Say how many workers are left where that changed; end where none has been there for long."""
        try:
            count = len(self._client.nthreads())
        except Exception as error:
            raise self._lost(error) from None
        if count != self.count:
            print(f"{self.where}: {count} workers at {self.address} (before: {self.count})", file=sys.stderr)
            self.count = count
        now = time.monotonic()
        self._nobody_since = None if count else self._nobody_since or now
        if self._nobody_since is not None and now - self._nobody_since >= self.patience_s:
            raise self._lost(f"none has been there for {self.patience_s:g} s")

    def _result(self, future: Any, name: str) -> Any:
        try:
            return future.result()
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                tries = getattr(error, "allowed_failures", 0) + 1
                raise EarthSSLError(
                    f"{self.where}.scheduler: the cell '{name}' was begun {tries} times, and each time its worker "
                    "died; expected workers that live: see their logs (mostly memory: give a worker more, or lower "
                    "training.batch_size in a new folder); the same command goes on"
                ) from None
            if type(error).__name__ in LOST:
                raise self._lost(error) from None
            raise

    def _lost(self, why: object) -> EarthSSLError:
        said = " ".join(str(why).split())[:160]
        return EarthSSLError(
            f"{self.where}.scheduler: expected workers at {self.address}, lost them ({said}); start them again; "
            "finished cells are kept, and the same command goes on"
        )


def _several_threads(where: str, threads: int) -> str:
    return (
        f"{where}.scheduler: expected workers of one thread each, got one of {threads}: cells share random numbers "
        "within a process; start `dask worker ADDRESS --nthreads 1 --nworkers N`"
    )


def _in_worker(study: _Study, cell: Cell, *before: Any) -> Any:
    """Do a cell in a worker, in the folder that the command was started in, with one thread.

    A cell that another worker is still at (one that was cut off, or left by a study that was ended) is waited for.
    """
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads > 1:
        raise EarthSSLError(_several_threads(study.where, threads))
    marker, host = Path(study.marker), os.uname().nodename
    if not marker.is_file() or hashlib.sha256(marker.read_bytes()).hexdigest() != study.digest:
        raise EarthSSLError(
            f"{study.where}.scheduler: expected the study's folder {marker.parent} on every worker, {host} has it not, "
            "or another; take a folder on the shared file system"
        )
    if not Path(study.started_in).is_dir():
        raise EarthSSLError(
            f"{study.where}.scheduler: expected the folder {study.started_in} on every worker, {host} has none; start "
            "the command in a folder on the shared file system"
        )
    own = versions()
    other = [
        f"{name} {own.get(name)}, not {wanted}" for name, wanted in study.versions.items() if own.get(name) != wanted
    ]
    if other:
        raise EarthSSLError(
            f"{study.where}.scheduler: expected the same versions on every worker, {host} has {', '.join(other)}; "
            "install the same environment there"
        )
    lock = marker.parent / LOCKS / f"{hashlib.sha256(cell.name.encode()).hexdigest()[:16]}.lock"
    threads = torch.get_num_threads()
    # A worker whose own folder is this one stays where it is.
    there = nullcontext() if Path.cwd() == Path(study.started_in) else chdir(study.started_in)
    torch.set_num_threads(1)
    try:
        with there, threadpool_limits(1), waited_for(lock):
            return cell.work(*cell.arguments)
    finally:
        torch.set_num_threads(threads)

"""Many tasks, few at a time: threads or processes of this machine, or a dask.distributed scheduler."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from threadpoolctl import threadpool_limits

from ..common.errors import EarthSSLError
from ..common.files import MIB
from .memory import peak_rss

LOCAL = ("threads", "processes")
LOST = ("KilledWorker", "FutureCancelledError", "CancelledError", "TerminatedWorkerError", "CommClosedError")


class Workers(AbstractContextManager["Workers"]):
    """Runs tasks and returns their results in the order asked for, with a bounded number under way.

    Attributes:
        scheduler: "threads", "processes" or the address of a dask.distributed scheduler.
        count: Tasks that can run at once.
        share: Tasks that can run at once in one process: they share its memory.
        peak_mb: Most memory that a process doing tasks has held so far, MiB.
    """

    timeout_s = 20  # for a scheduler to answer

    def __init__(self, scheduler: str, count: int) -> None:
        """Start the workers, or connect to them.

        Raises:
            EarthSSLError: If no scheduler with workers answers at the address.
        """
        self.scheduler, self.count, self.share = scheduler, count, count
        self.peak_mb = 0.0
        self._client: Any = None
        self._executor: Any = None
        self._limits: Any = None
        if scheduler == "processes":
            from joblib.externals.loky import get_reusable_executor

            self._executor, self.share = get_reusable_executor(max_workers=count, timeout=60), 1
        elif scheduler != "threads":
            self._client = connected(scheduler, self.timeout_s, "prepare")
            threads = self._client.nthreads()
            self.count, self.share = sum(threads.values()), max(threads.values())
        elif count > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(count)

    def __enter__(self) -> Workers:
        self._limits = threadpool_limits(1)  # side by side, each with one thread: products keep their bits too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
        elif self.scheduler == "threads" and self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()

    def in_order(self, work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], under_way: int) -> Iterator[Any]:
        """Yield `work(*arguments)` of each, in their order; at most `under_way` are begun and not yet yielded."""
        waiting: deque[Any] = deque()
        rest: Iterable[tuple[Any, ...]] = iter(arguments)
        try:
            for own in rest:
                waiting.append(self._begun(work, own))
                if len(waiting) >= max(1, under_way):
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for future in waiting:
                if future is not None and hasattr(future, "cancel"):
                    future.cancel()

    def _begun(self, work: Callable[..., Any], own: tuple[Any, ...]) -> Any:
        if self._client is not None:
            return self._client.submit(_measured, work, own, pure=False)
        if self._executor is not None:
            return self._executor.submit(_measured if self.scheduler == "processes" else _plain, work, own)
        return _plain(work, own)

    def _result(self, future: Any) -> Any:
        try:
            result, peak_mb = future.result() if hasattr(future, "result") else future
        except Exception as error:
            if type(error).__name__ in LOST:
                raise EarthSSLError(
                    f"the workers at {self.scheduler} were lost ({' '.join(str(error).split())[:200]}): out of memory "
                    "or stopped; lower prepare.memory_mb or start them again; the same command goes on"
                ) from None
            raise
        self.peak_mb = max(self.peak_mb, peak_mb)
        return result


def connected(address: str, timeout_s: float, where: str) -> Any:
    """Return a client of the dask.distributed scheduler at an address.

    Args:
        address: tcp://host:port.
        timeout_s: For the scheduler to answer, and again for a first worker.
        where: The verb whose setting `scheduler` this is, for messages.

    Raises:
        EarthSSLError: If distributed is not installed, or no scheduler with workers answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise EarthSSLError(
            f"{where}.scheduler {address}: needs the package distributed: pip install 'earthssl[cluster]'"
        ) from None
    client = None
    try:
        _refuse_silence(address, timeout_s)
        client = Client(address, timeout=timeout_s, set_as_default=False)
        if not client.nthreads():
            client.wait_for_workers(1, timeout=timeout_s)
    except (OSError, TimeoutError, ValueError) as error:
        if client is not None:
            client.close()
        raise EarthSSLError(
            f"{where}.scheduler: expected a dask.distributed scheduler with workers at {address}, found none within "
            f"{timeout_s:g} s ({' '.join(str(error).split())[:120]}); start `dask scheduler` and `dask worker`, or "
            "leave the setting out"
        ) from None
    return client


def _refuse_silence(address: str, timeout_s: float) -> None:
    """Raise TimeoutError where something takes the connection and says nothing, on which a client would wait for long.

    Both sides of a tcp:// connection of dask speak first; one that is refused is for the client to try again.
    """
    place = urlsplit(address)
    if place.scheme != "tcp" or not place.hostname or not place.port:
        return
    try:
        with socket.create_connection((place.hostname, place.port), timeout_s) as connection:
            connection.recv(1)
    except TimeoutError:
        raise TimeoutError("something there takes connections, but says nothing") from None
    except OSError:
        return


def check_address(where: str, address: str) -> None:
    """Raise where the setting `scheduler` of a verb is neither empty nor an address."""
    if address and "://" not in address:
        raise EarthSSLError(
            f"{where}.scheduler: expected the address of a dask.distributed scheduler, such as tcp://host:8786, or "
            f"nothing, got '{address}'"
        )


def _plain(work: Callable[..., Any], own: tuple[Any, ...]) -> tuple[Any, float]:
    return work(*own), 0.0


def _measured(work: Callable[..., Any], own: tuple[Any, ...]) -> tuple[Any, float]:
    """Do a task in a process of its own kind: one thread in every product, and its peak memory."""
    threadpool_limits(1)
    return work(*own), peak_rss() / MIB


def default_workers() -> int:
    """Return the number of cores this process may use, at most 8: beyond it disks are the limit."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

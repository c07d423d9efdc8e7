"""Independent pieces of work side by side, each in its own process with one thread."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from .signals import Stopped, deferred, in_turns, requested, stand_by


def run_jobs(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], jobs: int) -> list[Any]:
    """Return `work(*arguments)` of each, in order; in this process where there is one job.

    Two processes of one thread each do about twice the work of one process of two threads: the models are small.
    An error in one piece ends the others. A signal is passed on to all, and each ends its piece in its own way.

    Raises:
        Stopped: If a signal came.
    """
    if jobs <= 1 or len(arguments) <= 1:
        return [work(*own) for own in arguments]
    with tempfile.TemporaryDirectory() as folder, deferred(lambda signum: _pass_on(Path(folder), signum)):
        try:
            found = Parallel(n_jobs=min(jobs, len(arguments)), backend="loky", batch_size=1)(
                delayed(_alone)(folder, work, own) for own in arguments
            )
        except BrokenProcessPool:
            if not requested():
                raise
            found = []
        stopped = [own for own in found if isinstance(own, Stopped)]
        if requested():
            get_reusable_executor().shutdown(wait=True, kill_workers=True)  # they remember the signal
            raise stopped[0] if stopped else Stopped(requested(), "stopped")
    return list(found)


def _pass_on(folder: Path, signum: int) -> None:
    for file in folder.iterdir():
        try:
            os.kill(int(file.name), signum)
        except ProcessLookupError:
            continue


def _alone(folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    stand_by()
    (Path(folder) / str(os.getpid())).touch()
    return in_turns(lambda: _limited(work, arguments))


def _limited(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with threadpool_limits(1):
        return work(*arguments)

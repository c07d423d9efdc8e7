"""Independent pieces of work side by side, each in its own process with one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits


def run_jobs(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], jobs: int) -> list[Any]:
    """Return `work(*arguments)` of each, in order; in this process where there is one job.

    Two processes of one thread each do about twice the work of one process of two threads: the models are small.
    An error in one piece ends the others.
    """
    if jobs <= 1 or len(arguments) <= 1:
        return [work(*own) for own in arguments]
    found = Parallel(n_jobs=min(jobs, len(arguments)), backend="loky", batch_size=1)(
        delayed(_alone)(work, own) for own in arguments
    )
    return list(found)


def _alone(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return work(*arguments)

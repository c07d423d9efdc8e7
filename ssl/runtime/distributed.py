"""Several processes on one run: who this one is, and numbers taken over all of them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch import Tensor


def started_outside() -> int:
    """Return how many processes srun or torchrun has started for this run; 0 where neither has."""
    if SLURMEnvironment.detect():
        tasks = int(os.environ.get("SLURM_NTASKS", "1"))
        return tasks if tasks > 1 else 0
    return int(os.environ["WORLD_SIZE"]) if TorchElasticEnvironment.detect() else 0


def is_one_of_several() -> bool:
    """Return whether this process was started as one of a run's processes, by srun, torchrun or launch.py."""
    return started_outside() > 0 or "LOCAL_RANK" in os.environ


def rank(several: bool) -> int:
    """Return the number of this process in a run of several; 0, which alone writes, where there is one."""
    if not several:
        return 0
    if SLURMEnvironment.detect():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """Return the sum over the ranks; every rank must call it, at the same place."""
    if count() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def averaged(x: Tensor) -> Tensor:
    """Return the mean over the ranks; every rank must call it, at the same place."""
    return summed(x) / count()


def greatest(number: int, device: torch.device) -> int:
    """Return the greatest of the ranks' numbers; waits for all of them."""
    if count() == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)

"""Batch: windows of fields with all that gives them meaning; no bare tensor travels between stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.errors import EarthSSLError
from ..common.randomness import fold, key, uniform
from .grid import LatLonGrid


@dataclass(frozen=True)
class Batch:
    """Windows of consecutive time steps.

    Attributes:
        values: Normalised fields, 0 where missing, (batch, time, variable, row, column).
        valid: Where `values` were observed, same shape.
        times: Seconds since 1970-01-01 UTC, (batch, time).
        keys: Random keys of the samples: a function of seed, epoch and sample index only.
        known: Cells that ever hold a value, (variable, row, column): False for SST on land.
        variables: Canonical names along the variable axis.
        grid: Where the rows and columns lie.
        number: What the whole batch draws with: a function of the seed and of how many batches came
            before, the same on every rank.
    """

    values: Float[Tensor, "batch time variable row column"]
    valid: Bool[Tensor, "batch time variable row column"]
    times: Int[Tensor, "batch time"]
    keys: Int[Tensor, " batch"]
    known: Bool[Tensor, "variable row column"]
    variables: tuple[str, ...]
    grid: LatLonGrid
    number: int = 0

    def __len__(self) -> int:
        return self.values.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on the device; `known` stays, it only shapes the tokens."""
        move = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("values", "valid", "times", "keys")
        }
        return replace(self, **move)

    def cut(self, first: int | Int[Tensor, " batch"], length: int) -> Batch:
        """Return the windows of `length` steps that begin at step `first`, the same or one for each sample.

        Raises:
            EarthSSLError: If a window would reach outside the batch's steps.
        """
        steps = self.values.shape[1]
        if isinstance(first, int):
            if not 0 <= first <= first + length <= steps or length < 1:
                raise EarthSSLError(f"expected a window inside {steps} steps, got {length} steps from step {first}")
            inside = slice(first, first + length)
            return replace(
                self, values=self.values[:, inside], valid=self.valid[:, inside], times=self.times[:, inside]
            )
        chosen = first[:, None] + torch.arange(length, device=first.device)
        rows = torch.arange(len(self), device=first.device)[:, None]
        return replace(
            self, values=self.values[rows, chosen], valid=self.valid[rows, chosen], times=self.times[rows, chosen]
        )


def from_fields(
    fields: Float[Tensor, "batch time variable row column"],
    times: Int[Tensor, "batch time"],
    keys: Int[Tensor, " batch"],
    known: Bool[Tensor, "variable row column"],
    variables: tuple[str, ...],
    grid: LatLonGrid,
    number: int = 0,
) -> Batch:
    """Return the batch of fields that mark missing cells with NaN."""
    valid = torch.isfinite(fields)
    return Batch(
        torch.where(valid, fields, torch.zeros((), dtype=fields.dtype)).float(),
        valid,
        times,
        keys,
        known,
        variables,
        grid,
        number,
    )


def drop_variables(batch: Batch, rate: float) -> Batch:
    """Return the batch with each variable of each sample unobserved with chance `rate`; one always stays."""
    count = len(batch.variables)
    if rate <= 0 or count < 2:
        return batch
    draws = uniform(fold(batch.keys, key(0, "variable dropout")), count)
    shown = (draws >= rate) | (draws == draws.amax(1, keepdim=True))
    shown = shown[:, None, :, None, None]
    return Batch(
        batch.values * shown,
        batch.valid & shown,
        batch.times,
        batch.keys,
        batch.known,
        batch.variables,
        batch.grid,
        batch.number,
    )

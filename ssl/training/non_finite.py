"""Steps whose loss or gradient is not finite: not taken, counted, and reported with the batch's times.

Whether a step is taken is decided on the device: a loss that is not finite makes all gradients NaN (the same on every
rank, as gradients are averaged), the norm of the gradients is then not finite, and the fused optimiser is told so by
`found_inf`, as a gradient scaler would tell it. Buffers that the forward pass moved (running statistics, balanced
weights) are put back by `torch.where`. The host reads the decisions only where it reads the log or saves a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ..common.errors import EarthSSLError
from ..fields.batch import Batch

SHOWN = 8  # windows named in a message; run.json names all


class Guard:
    """Decides, step by step, whether the optimiser's step is taken.

    Attributes:
        taken: 1 where the latest step was taken, 0 where it was skipped; on the device.
        skipped: The skipped steps, as far as they were read: step and the times its windows end, UTC.
    """

    def __init__(self, most: int) -> None:
        """Begin a run.

        Args:
            most: Skipped steps in a row that end the run.
        """
        self.most = most
        self.taken: Tensor | float = 1.0
        self.skipped: list[dict[str, Any]] = []
        self._in_a_row = self._told = 0
        self._unread: list[tuple[int, Tensor, list[Tensor]]] = []
        self._times: list[Tensor] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        self._buffers: list[Tensor] | None = None

    def begin(self, module: nn.Module, batch: Batch) -> None:
        """Note a batch and, before the first of a step, the buffers that it may move."""
        if not self._times:
            if self._buffers is None:
                self._buffers = moving_buffers(module)
            self._before = [(buffer, buffer.clone()) for buffer in self._buffers]
        self._times.append(batch.times[:, -1].clone())

    def clip(self, optimizer: Optimizer, parameters: Sequence[nn.Parameter], most: float, scaler: Any = None) -> None:
        """Decide about the step, and scale the gradients down to a norm of `most` (0 leaves them).

        Args:
            optimizer: AdamW, fused.
            parameters: What it trains.
            most: Largest norm of the gradient.
            scaler: The gradient scaler of 16-mixed, whose gradients are still scaled.
        """
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if scaler is not None:
            norm = norm / scaler.scale(torch.ones_like(norm))
        finite = norm.isfinite()
        self.taken = finite.float()
        factor = torch.clamp(most / (norm + 1e-6), max=1.0) if most else torch.ones_like(norm)
        if scaler is not None:
            # It looks for itself, and may find finite gradients whose norm overflows.
            factor = torch.where(finite, factor, torch.nan)
        else:
            optimizer.found_inf = 1 - self.taken  # type: ignore[attr-defined]
        if most or scaler is not None:
            torch._foreach_mul_(grads, factor.to(grads[0].device))

    def settle(self, step: int) -> None:
        """Put the buffers back where step number `step` was skipped."""
        taken = torch.as_tensor(self.taken)
        for buffer, before in self._before:
            buffer.copy_(torch.where(taken.bool(), buffer, before))
        self._unread.append((step, taken, self._times))
        self._times, self._before = [], []

    def read(self, slack: int = 0) -> None:
        """Read from the device which steps were skipped.

        Args:
            slack: Skipped steps in a row that are allowed beyond `most`.

        Raises:
            EarthSSLError: If too many steps in a row were skipped.
        """
        unread, self._unread = self._unread, []
        found: list[dict[str, Any]] = []
        for (step, _, times), taken in zip(unread, _values([taken for _, taken, _ in unread]), strict=True):
            self._in_a_row = 0 if taken else self._in_a_row + 1
            if not taken:
                ends = np.unique(torch.cat(times).cpu().numpy().astype("datetime64[s]"))
                found.append({"step": step, "windows_end": [str(end) for end in ends]})
            if self._in_a_row >= self.most + slack:
                raise EarthSSLError(
                    f"training.max_skipped: {self._in_a_row} steps in a row, the last of them {step}, had a loss or "
                    f"gradient that is not finite: the training diverged, or {windows(found[-1])} hold something that "
                    "is no number; the weights are those before them; lower training.lr, or look at these times"
                )
        self.skipped += found

    def news(self) -> list[dict[str, Any]]:
        """Return the skipped steps that were read since the last call."""
        found, self._told = self.skipped[self._told :], len(self.skipped)
        return found

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON; after `read`."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "told": self._told}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.skipped, self._in_a_row = list(state["skipped"]), int(state["in_a_row"])
        self._told = int(state["told"])


def _values(flags: list[Tensor]) -> list[bool]:
    return torch.stack(flags).bool().tolist() if flags else []


def moving_buffers(module: nn.Module) -> list[Tensor]:
    """Return the buffers that belong to the state of a module: tables that are not saved never move."""
    saved = module.state_dict(keep_vars=True)
    return [buffer for name, buffer in module.named_buffers() if name in saved]


def windows(skipped: dict[str, Any]) -> str:
    """Return in words which windows a skipped step had."""
    ends = skipped["windows_end"]
    more = f" and {len(ends) - SHOWN} more" if len(ends) > SHOWN else ""
    return f"the windows ending {', '.join(ends[:SHOWN])}{more}"

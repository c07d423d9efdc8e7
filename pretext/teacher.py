"""Teacher: a slow copy of a network, whose outputs are targets (Grill et al. 2020, arXiv 2006.07733)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..ssl.training.lightning_bolts import weight_update


class Teacher(nn.Module):
    """An exponential moving average of a student: never trained by a gradient, always in evaluation mode.

    Its weights belong to the state of the objective that holds it, so that a resumed run goes on with them;
    the share that it keeps is a function of the run's progress.
    """

    def __init__(self, student: nn.Module, tau: float) -> None:
        """Copy the student as it is now.

        Args:
            student: The network to follow.
            tau: Share of its own weights that the teacher keeps at a step, at the start of the run; it rises to 1.

        Raises:
            EarthSSLError: If `tau` is no share in [0, 1).
        """
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self._update = weight_update(tau)
        self.eval()

    @property
    def tau(self) -> float:
        """Share of its own weights that the teacher kept at the last step."""
        return self._update.current_tau

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network makes of the arguments, without gradients."""
        return self.network(*args, **kwargs)

    def follow(self, student: nn.Module, progress: float, taken: Tensor | float = 1.0) -> None:
        """Move towards the student after a step of the optimiser (not where `taken` is 0); `progress` in (0, 1]."""
        self._update.follow(student, self.network, progress, taken)

"""Bare training steps without a trainer, for the finders and the profiler: the engine's arithmetic, nothing saved."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.randomness import key
from ..fields.batch import Batch, drop_variables
from ..training.module import Pretraining
from ..training.precision import resolve

KINDS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def device_of(accelerator: str) -> torch.device:
    """Return the device that Lightning's word stands for here."""
    gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


class Stepper:
    """Forward, backward, clipping and optimiser step of a pretraining module, one call a batch."""

    def __init__(self, module: Pretraining) -> None:
        self.config = module.config
        self.device = device_of(module.config.accelerator)
        self.module = module.to(self.device).train()
        self.optimizer = module.make_optimizer()
        self.kind = KINDS.get(resolve(module.config.precision, module.config.accelerator, module.encoder.width))

    def backward(self, batch: Batch) -> Tensor:
        """Return the detached loss of a batch; its gradients are added to those at hand."""
        batch = batch.to(self.device)
        torch.manual_seed(key(self.config.seed, "step", batch.number) & (2**63 - 1))
        with torch.autocast(self.device.type, self.kind or torch.bfloat16, enabled=self.kind is not None):
            outcome = self.module.objectives(self.module.encoder, drop_variables(batch, self.config.variable_dropout))
        outcome.loss.backward()
        return outcome.loss.detach()

    def step(self, batch: Batch) -> Tensor:
        """Train on a batch and return its loss, detached."""
        loss = self.backward(batch)
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.optimizer.step()
        self.clear()
        self.module.objectives.after_step(self.module.encoder, 1 / self.config.steps)
        return loss

    def clear(self) -> None:
        """Forget the gradients."""
        self.module.zero_grad(set_to_none=True)

    def wait(self) -> None:
        """Wait until the device has done what it was told, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

"""The pieces that a run shares with lightning-bolts, from Bolts where it is installed, else from torch and timm.

Both ways give the same numbers: schedule, averaged weights and linear head to the last bit, LARS to rounding
(tests/ssl/training/test_bolts_absent.py), so a run may stop with Bolts and go on without it.

`import pl_bolts` fails under Lightning 2 (it wants `LightningLoggerBase`), so bare parent packages stand in
while the sub-modules load. The pieces are the same in 0.5.0 (what the extra `bolts` installs: the last version
whose metadata allows Lightning 2 and is read by every installer), 0.6.0.post1 and 0.7.0. What is known to be wrong
in each is guarded where it is used:

- `LARS` is plain SGD at weight decay 0, so `lars` refuses that;
- `LinearWarmupCosineAnnealingLR` stays at 0 for ever with warm-up 0, overshoots with a fractional one and
  rises again past its end, so `warmup_cosine` takes integers ≥ 1 and holds the final rate;
- `SSLEvaluator` is a multi-layer perceptron unless `n_hidden=None`, so `linear_classifier` asks for that;
- `BYOLMAWeightUpdate` counts micro-batches against the length of the data, and leaves buffers alone, so
  `weight_update` is told once a step how far the run is, and copies them.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..common.errors import EarthSSLError

DROPOUT = 0.1  # of SSLEvaluator

_PARENTS = (
    "pl_bolts",
    "pl_bolts.callbacks",
    "pl_bolts.optimizers",
    "pl_bolts.models",
    "pl_bolts.models.self_supervised",
    "pl_bolts.utils",
)


def _piece(module: str, name: str) -> Any:
    """Return one attribute of one sub-module of Bolts, its parents replaced by empty packages; None without Bolts."""
    if importlib.util.find_spec("pl_bolts") is None:
        return None
    if any(parent not in sys.modules for parent in _PARENTS):
        _lay_parents()
    with warnings.catch_warnings():
        # Deprecations inside a package that is no longer maintained; our tests pin what we use of it.
        warnings.simplefilter("ignore")
        try:
            return getattr(importlib.import_module(f"pl_bolts.{module}"), name)
        except ImportError:  # some day it will want what torch or Lightning no longer have
            return None


def _lay_parents() -> None:
    spec = importlib.util.find_spec("pl_bolts")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for parent in _PARENTS:
        package = types.ModuleType(parent)
        package.__path__ = [str(root.joinpath(*parent.split(".")[1:]))]
        # Others look a module up by its spec, and a module without one makes them fail.
        package.__spec__ = importlib.machinery.ModuleSpec(parent, None, is_package=True)
        sys.modules.setdefault(parent, package)


def _make(piece: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        # Every piece warns that it is "under review"; the review is tests/ssl/training/test_lightning_bolts.py.
        warnings.simplefilter("ignore")
        return piece(*args, **kwargs)


class WarmupCosine(LRScheduler):
    """Linear from 0 over the warm-up, then half a cosine to 0, as Bolts' schedule has it; 0 ever after."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int) -> None:
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates of the step, each from the one before: the peak is reached at the warm-up's last step.

        A rate is made from the last one, not from the peak, as torch's CosineAnnealingLR does and Bolts' schedule.
        """
        step, warmup, cosine = self.last_epoch, self.warmup_steps, self.total_steps - self.warmup_steps
        now = [group["lr"] for group in self.optimizer.param_groups]
        if step == 0 or step >= self.total_steps:
            return [0.0] * len(now)
        if step < warmup:
            return [rate + peak / (warmup - 1) for rate, peak in zip(now, self.base_lrs, strict=True)]
        if step == warmup:
            return list(self.base_lrs)
        height, last = (1 + math.cos(math.pi * (k - warmup) / cosine) for k in (step, step - 1))
        return [height / last * rate for rate in now]


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LRScheduler:
    """Return a schedule by step: linear from 0 over the warm-up, then half a cosine to 0 at `total_steps`.

    Raises:
        EarthSSLError: If the numbers are not integers with 1 ≤ warm-up < total.
    """
    whole = isinstance(warmup_steps, int) and isinstance(total_steps, int)
    if not whole or not 1 <= warmup_steps < total_steps:
        raise EarthSSLError(
            f"schedule: expected whole numbers with 1 ≤ warmup_steps < steps, got {warmup_steps} and {total_steps}"
        )
    schedule = _piece("optimizers.lr_scheduler", "LinearWarmupCosineAnnealingLR")
    if schedule is None:
        return WarmupCosine(optimizer, warmup_steps, total_steps)

    class Held(schedule):  # type: ignore[misc, valid-type]
        """Bolts' schedule, which would rise again after its end."""

        def get_lr(self) -> list[float]:
            """Return the rates of the step; the last ones once the end is reached."""
            if self.last_epoch >= self.max_epochs:
                return [self.eta_min] * len(self.base_lrs)
            rates: list[float] = super().get_lr()
            return rates

    made: LRScheduler = _make(Held, optimizer, warmup_epochs=warmup_steps, max_epochs=total_steps)
    return made


def lars(parameters: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.9) -> Optimizer:
    """Return LARS (You et al. 2017, arXiv 1708.03888) with momentum.

    Where a parameter's whole gradient is exactly 0, Bolts leaves its weights to the momentum and timm decays them.

    Raises:
        EarthSSLError: If the weight decay, or that of a group, is 0: then this implementation is plain SGD.
    """
    if not weight_decay > 0:
        raise EarthSSLError(f"lars: expected weight_decay > 0 (at 0 it would be plain SGD), got {weight_decay}")
    piece = _piece("optimizers.lars", "LARS") or Lars
    made: Optimizer = _make(piece, parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    plain = [group["weight_decay"] for group in made.param_groups if not group["weight_decay"] > 0]
    if plain:
        raise EarthSSLError(f"lars: expected weight_decay > 0 in every group (at 0 it would be plain SGD), got {plain}")
    return made


def linear_classifier(features: int, classes: int) -> nn.Module:
    """Return a linear head behind a dropout of 0.1: Bolts' SSLEvaluator without its hidden layer."""
    evaluator = _piece("models.self_supervised.evaluator", "SSLEvaluator")
    if evaluator is None:
        return nn.Sequential(nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(features, classes))
    made: nn.Module = _make(evaluator, n_input=features, n_classes=classes, n_hidden=None, p=DROPOUT)
    return made


class WeightUpdate:
    """How a target network follows an online one; `current_tau` is the share that it kept at the last update."""

    def __init__(self, tau: float) -> None:
        self.initial_tau = self.current_tau = tau

    def share(self, progress: float) -> float:
        """Return τ, the share of the target's own weights to keep at `progress` of the run."""
        return 1 - (1 - self.initial_tau) * (math.cos(math.pi * progress) + 1) / 2

    def average(self, online: nn.Module, target: nn.Module, tau: Any) -> None:
        """Set the target's parameters to τ target + (1 - τ) online."""
        for theirs, mine in zip(online.parameters(), target.parameters(), strict=True):
            mine.copy_(tau * mine + (1.0 - tau) * theirs)

    @torch.no_grad()
    def follow(self, online: nn.Module, target: nn.Module, progress: float, taken: Tensor | float = 1.0) -> None:
        """Move the target after a step of the optimiser (not where `taken` is 0), and copy buffers.

        Args:
            online: The network to follow.
            target: The network that follows.
            progress: Of the run, in (0, 1].
            taken: 1, or 0 for a step that was skipped; as a tensor it is not read from the device.

        Raises:
            EarthSSLError: If the progress lies outside (0, 1] or the networks differ in structure.
        """
        if not 0 < progress <= 1:
            raise EarthSSLError(f"expected the progress of the run in (0, 1], got {progress}")
        if _shapes(online) != _shapes(target):
            raise EarthSSLError(
                "expected a target network of the online one's structure, got other parameters or buffers; "
                "copy the online network to make its target"
            )
        self.current_tau = tau = self.share(progress)
        self.average(online, target, 1 - taken.double() * (1 - tau) if isinstance(taken, Tensor) else tau)
        for theirs, mine in zip(online.buffers(), target.buffers(), strict=True):
            mine.copy_(theirs)


class _BoltsUpdate(WeightUpdate):
    """The same, computed by Bolts' callback, driven by the progress of the run instead of a trainer's counters."""

    def __init__(self, tau: float, piece: Any) -> None:
        super().__init__(tau)
        self._bolts = _make(piece, tau)

    def share(self, progress: float) -> float:
        # All that its arithmetic reads of a trainer: a run of one "step", of which the progress is a part.
        whole_run = SimpleNamespace(train_dataloader=(None,), max_epochs=1)
        returned: float | None = self._bolts.update_tau(SimpleNamespace(global_step=progress), whole_run)
        kept: float = self._bolts.current_tau if returned is None else returned  # 0.5.0 returns it
        return kept

    def average(self, online: nn.Module, target: nn.Module, tau: Any) -> None:
        self._bolts.current_tau = tau
        self._bolts.update_weights(online, target)


def weight_update(tau: float) -> WeightUpdate:
    """Return BYOL's update with the horizon of the run: target = τ target + (1 - τ) online, once a step.

    τ rises by half a cosine from `tau` to exactly 1 at progress 1. It depends on the progress alone, so there
    is nothing to save. Buffers (running statistics) are copied.

    Raises:
        EarthSSLError: If `tau` is no share below 1.
    """
    if not 0 <= tau < 1:
        raise EarthSSLError(f"tau: expected a share in [0, 1) at the start (at 1 nothing is followed), got {tau}")
    updater = _piece("callbacks.byol_updates", "BYOLMAWeightUpdate")
    return WeightUpdate(tau) if updater is None else _BoltsUpdate(tau, updater)


def _shapes(network: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, x.shape) for part in (network.named_parameters(), network.named_buffers()) for name, x in part]

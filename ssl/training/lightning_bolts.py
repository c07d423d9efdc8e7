"""The pieces of lightning-bolts 0.6.0.post1 that still work, imported without running the package itself.

`import pl_bolts` fails under Lightning 2 (it wants `LightningLoggerBase`), so bare parent packages stand in
while the sub-modules load. What is known to be wrong in each piece is guarded where it is used:

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
import sys
import types
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..common.errors import EarthSSLError

_PARENTS = (
    "pl_bolts",
    "pl_bolts.callbacks",
    "pl_bolts.optimizers",
    "pl_bolts.models",
    "pl_bolts.models.self_supervised",
    "pl_bolts.utils",
)


def _piece(module: str, name: str) -> Any:
    """Return one attribute of one sub-module, its parents replaced by empty packages on the same path."""
    if any(parent not in sys.modules for parent in _PARENTS):
        _lay_parents()
    with warnings.catch_warnings():
        # Deprecations inside a package that is no longer maintained; our tests pin what we use of it.
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(f"pl_bolts.{module}"), name)


def _lay_parents() -> None:
    spec = importlib.util.find_spec("pl_bolts")
    if spec is None or spec.origin is None:
        raise EarthSSLError("lightning-bolts is not installed; pip install 'lightning-bolts==0.6.0.post1' (pip < 24.1)")
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

    Raises:
        EarthSSLError: If the weight decay, or that of a group, is 0: then this implementation is plain SGD.
    """
    if not weight_decay > 0:
        raise EarthSSLError(f"lars: expected weight_decay > 0 (at 0 it would be plain SGD), got {weight_decay}")
    made: Optimizer = _make(
        _piece("optimizers.lars", "LARS"), parameters, lr=lr, momentum=momentum, weight_decay=weight_decay
    )
    plain = [group["weight_decay"] for group in made.param_groups if not group["weight_decay"] > 0]
    if plain:
        raise EarthSSLError(f"lars: expected weight_decay > 0 in every group (at 0 it would be plain SGD), got {plain}")
    return made


def linear_classifier(features: int, classes: int) -> nn.Module:
    """Return Bolts' SSLEvaluator as a linear head (with its dropout of 0.1)."""
    evaluator = _piece("models.self_supervised.evaluator", "SSLEvaluator")
    made: nn.Module = _make(evaluator, n_input=features, n_classes=classes, n_hidden=None)
    return made


class WeightUpdate(Protocol):
    """How a target network follows an online one; `current_tau` is the share that it kept at the last update."""

    current_tau: float

    def follow(self, online: nn.Module, target: nn.Module, progress: float, taken: Tensor | float = 1.0) -> None:
        """Move the target after a step of the optimiser (not where `taken` is 0); `progress` in (0, 1] of the run."""


def weight_update(tau: float) -> WeightUpdate:
    """Return Bolts' BYOL updater with the horizon of the run: target = τ target + (1 - τ) online, once a step.

    τ rises by half a cosine from `tau` to exactly 1 at progress 1. It depends on the progress alone, so there
    is nothing to save. Buffers (running statistics) are copied.

    Raises:
        EarthSSLError: If `tau` is no share below 1; on following, if the progress lies outside (0, 1] or the
            networks differ in structure.
    """
    if not 0 <= tau < 1:
        raise EarthSSLError(f"tau: expected a share in [0, 1) at the start (at 1 nothing is followed), got {tau}")
    updater = _piece("callbacks.byol_updates", "BYOLMAWeightUpdate")
    # All that its arithmetic reads of a trainer: a run of one "step", of which the progress is a part.
    whole_run = SimpleNamespace(train_dataloader=(None,), max_epochs=1)

    class Corrected(updater):  # type: ignore[misc, valid-type]
        """Bolts' schedule and average, driven by the progress of the run instead of a trainer's counters."""

        @torch.no_grad()
        def follow(self, online: nn.Module, target: nn.Module, progress: float, taken: Tensor | float = 1.0) -> None:
            """Set τ, then move parameters by it and copy buffers; nothing moves where `taken` is 0, on the device."""
            if not 0 < progress <= 1:
                raise EarthSSLError(f"expected the progress of the run in (0, 1], got {progress}")
            if _shapes(online) != _shapes(target):
                raise EarthSSLError(
                    "expected a target network of the online one's structure, got other parameters or buffers; "
                    "copy the online network to make its target"
                )
            self.update_tau(SimpleNamespace(global_step=progress), whole_run)
            tau: Any = self.current_tau  # type: ignore[has-type]
            if isinstance(taken, Tensor):
                self.current_tau = 1 - taken.double() * (1 - tau)
            self.update_weights(online, target)
            self.current_tau = tau
            for theirs, mine in zip(online.buffers(), target.buffers(), strict=True):
                mine.copy_(theirs)

    made: WeightUpdate = _make(Corrected, tau)
    return made


def _shapes(network: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, x.shape) for part in (network.named_parameters(), network.named_buffers()) for name, x in part]

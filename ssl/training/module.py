"""The Lightning module that turns an objective into trained weights, restartably."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.checkpoint import checkpoint

from ..checkpoint.start_from import Transfer
from ..common.randomness import key
from ..data.augmentation import augmented
from ..fields.batch import Batch, drop_variables
from ..model.encoder import Encoder
from ..runtime.distributed import summed
from .config import STEADY, TrainingConfig
from .lightning_bolts import warmup_cosine
from .multitask import Multitask
from .non_finite import Guard
from .objective import SKILL

HALVINGS = 16  # of the scaler of 16-mixed, from 65536 to 1

COMPILED_SHAPES = 64  # that a block may be compiled for


class Pretraining(pl.LightningModule):
    """An encoder and its objectives, trained together.

    Attributes:
        transfer: What the encoder's weights were taken from, if not from chance.
        kept_step: Step of its weights, where those of an earlier step than the last were kept.
    """

    transfer: Transfer | None = None
    kept_step: int | None = None

    def __init__(self, encoder: Encoder, objectives: Multitask, config: TrainingConfig) -> None:
        super().__init__()
        self.encoder, self.objectives, self.config = encoder, objectives, config
        self.window = encoder.config.window
        # By the names that came together: tasks drawn batch by batch have different terms.
        self._sums: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self.latest: dict[str, float] = {}
        self.guard = Guard(config.max_skipped)
        self._trained: list[nn.Parameter] = []
        if config.checkpoint_activations:
            checkpoint_activations(encoder, objectives)
        if config.compile:
            # Each kind of mask is a shape of its own; past the limit blocks run uncompiled, and only the log says so.
            torch._dynamo.config.recompile_limit = max(COMPILED_SHAPES, torch._dynamo.config.recompile_limit)
            for block in blocks(encoder, objectives):
                block.compile(dynamic=False)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of seed and step, so that a resumed run draws what the first would have."""
        rank = [self.global_rank] if self.global_rank else []
        torch.manual_seed(key(self.config.seed, "step", batch.number, *rank) & (2**63 - 1))
        self.guard.begin(self, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; terms are summed on the device and read only every `log_every` steps."""
        batch = augmented(self.config.augment, batch, self.window)
        outcome = self.objectives(self.encoder, drop_variables(batch, self.config.variable_dropout))
        stacked = torch.stack([term.float() for term in outcome.terms.values()])
        finite = stacked.isfinite()
        names = tuple(outcome.terms)
        total, count = self._sums.get(names, (torch.zeros_like(stacked), torch.zeros_like(stacked)))
        self._sums[names] = total + torch.where(finite, stacked, 0.0), count + finite
        # A loss that is not finite makes every gradient so, on every rank: see non_finite.py.
        return outcome.loss * torch.where(outcome.loss.isfinite(), 1.0, torch.nan)

    def flush(self) -> dict[str, float]:
        """Return the terms' means over what was finite since the last call, named `train/…`, and start anew."""
        if self._sums:
            sums: dict[str, float] = {}
            counts: dict[str, float] = {}
            for names, both in self._sums.items():
                total, count = summed(torch.stack(both)).tolist()
                for name, value, number in zip(names, total, count, strict=True):
                    sums[name] = sums.get(name, 0.0) + value
                    counts[name] = counts.get(name, 0) + number
            self.latest = {f"train/{name}": value / counts[name] for name, value in sums.items() if counts[name]}
            self._sums = {}
        return self.latest

    def read_skipped(self) -> None:
        """Read which steps were skipped.

        Raises:
            EarthSSLError: If too many in a row were.
        """
        self.guard.read(HALVINGS if self.config.precision == "16-mixed" else 0)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make the step, then tell the objectives: a teacher follows once a step, before the state is saved."""
        super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1
        self.guard.settle(step)
        self.objectives.after_step(self.encoder, min(1.0, step / self.config.steps), self.guard.taken)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the terms on the validation block, with the same masks and draws at every validation.

        Home's are named val/…, as they select; those of another data set val-NAME/….
        """
        outcome = self.objectives(self.encoder, batch)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        part = f"val-{data.others[dataloader_idx - 1].name}" if dataloader_idx else "val"
        terms = {f"{part}/{name}": value for name, value in outcome.terms.items()}
        skills = [value for name, value in outcome.terms.items() if name.split("/")[-1] == SKILL]
        if skills:
            terms[f"{part}/{SKILL}"] = torch.stack([skill.float() for skill in skills]).mean()
        self.log_dict(terms, on_epoch=True, batch_size=len(batch), sync_dist=True, add_dataloader_idx=False)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm and decide whether the step is taken; Lightning's own way refuses fused optimisers."""
        self._trained = self._trained or [p for p in self.parameters() if p.requires_grad]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self.guard.clip(self.trainer.optimizers[0], self._trained, gradient_clip_val or 0.0, scaler)

    def gather(self) -> None:
        """Bring sharded weights together (see sharded.py): here they are whole."""

    def whole(self) -> Pretraining:
        """Return the module with whole weights: this one."""
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was skipped; a state is not saved where too many steps in a row were."""
        self.read_skipped()
        checkpoint["skips"] = self.guard.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what was skipped."""
        self.guard.restore(checkpoint["skips"])

    def make_optimizer(self) -> torch.optim.AdamW:
        """Return fused AdamW with decay on matrices only, at the peak rate."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.9, 0.95), fused=True)

    def configure_optimizers(self) -> Any:
        """Return the optimiser with its schedule by step: warm-up, then half a cosine or the peak rate."""
        optimizer = self.make_optimizer()
        warmup = int(self.config.warmup_steps)
        schedule: LRScheduler
        if self.config.schedule == STEADY:
            schedule = LambdaLR(optimizer, partial(_warm, warmup))
        else:
            schedule = warmup_cosine(optimizer, warmup, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _warm(warmup: int, step: int) -> float:
    """Return the share of the peak rate at a step, from 0: linear over the warm-up, then 1."""
    return min(1.0, (step + 1) / warmup)


def blocks(*modules: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of the modules, teachers' left out where they are to be trained."""
    return [block for module in modules for block in module.modules() if type(block).__name__ == "Block"]


def checkpoint_activations(*modules: nn.Module) -> None:
    """Make the trained blocks compute their activations again on the way back instead of keeping them."""
    for block in blocks(*modules):
        if next(block.parameters()).requires_grad:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def parameter_count(module: nn.Module) -> int:
    """Return the number of trained numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

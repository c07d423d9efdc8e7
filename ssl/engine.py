"""The engine: a Lightning module and trainer that turn an objective into trained weights, restartably."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, EMAWeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from .batch import Batch
from .bolts import warmup_cosine
from .data import ORDERS, EvalLoader, TrainLoader, Windows
from .encoder import Encoder
from .errors import EarthSSLError, nearest
from .fields import DEVICES, MODES
from .files import disk_full_is_clear
from .multitask import Multitask
from .randomness import fold, key, uniform
from .transfer import Transfer

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        steps: Optimiser steps.
        batch_size: Windows a step and process.
        lr: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up; a half cosine to 0 follows.
        weight_decay: On matrices; biases, norms and embeddings of one axis have none.
        clip: Largest norm of the gradient.
        batches: "random", or "season": the windows of a batch end in one calendar month, of different years, so
            that a contrastive task cannot tell them apart by the season.
        variable_dropout: Chance of leaving a variable out of a sample (one always stays).
        ema: Decay of an average of the weights, such as 0.999, which is then what is kept; 0 for none.
        accumulate: Batches a step.
        precision: Lightning's word: 32-true, bf16-mixed or 16-mixed.
        compile: Whether to compile the transformer blocks (slow to start, faster to run).
        val_every: Steps between validations, which also measure health and run the online probe.
        log_every: Steps between log lines.
        save_every: Steps between saved states to resume from.
        patience: Validations without a better loss before stopping early; 0 never stops early.
        seed: Root of all randomness.
        data: "resident" (the windows' fields in memory), "streaming" (read from the store's files as asked) or
            "auto" (resident where they take less than half of the free memory). The samples are the same.
        data_device: Where resident fields lie: "cpu", "accelerator", or "auto" (on the accelerator where they take
            less than a quarter of its free memory, before the network is on it).
        accelerator: Lightning's word: auto, cpu, gpu.
        devices: Number of devices; 1 for now.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    batches: str = "random"
    variable_dropout: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: str = "32-true"
    compile: bool = False
    val_every: int = 200
    log_every: int = 20
    save_every: int = 200
    patience: int = 0
    seed: int = 0
    data: str = "auto"
    data_device: str = "auto"
    accelerator: str = "auto"
    devices: int = 1

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "val_every", "log_every", "save_every", "devices")
        for name in counts:
            if getattr(self, name) < 1:
                raise EarthSSLError(f"training.{name}: expected a whole number ≥ 1, got {getattr(self, name)}")
        if self.devices > 1:
            raise EarthSSLError(f"training.devices: expected 1 (several are not supported yet), got {self.devices}")
        for name in ("lr", "weight_decay", "clip", "patience"):
            least = "> 0" if name == "lr" else "≥ 0"
            if not getattr(self, name) >= 0 or (name == "lr" and not self.lr > 0):
                raise EarthSSLError(f"training.{name}: expected a number {least}, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise EarthSSLError(
                f"training.precision: expected {', '.join(PRECISIONS)}, got '{self.precision}'."
                + nearest(self.precision, PRECISIONS)
            )
        if self.batches not in ORDERS:
            raise EarthSSLError(
                f"training.batches: expected {', '.join(ORDERS)}, got '{self.batches}'." + nearest(self.batches, ORDERS)
            )
        for name, valid in (("data", MODES), ("data_device", DEVICES)):
            if getattr(self, name) not in valid:
                got = getattr(self, name)
                raise EarthSSLError(f"training.{name}: expected {', '.join(valid)}, got '{got}'." + nearest(got, valid))
        for name in ("variable_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise EarthSSLError(f"training.{name}: expected a number in [0, 1), got {getattr(self, name)}")
        if not 1 <= self.warmup_steps < self.steps:
            raise EarthSSLError(
                f"training.warmup_steps: expected 1 to {self.steps - 1} (fewer than steps), got {self.warmup_steps}"
            )


class Pretraining(pl.LightningModule):
    """An encoder and its objectives, trained together.

    Attributes:
        transfer: What the encoder's weights were taken from, if not from chance.
    """

    transfer: Transfer | None = None

    def __init__(self, encoder: Encoder, objectives: Multitask, config: TrainingConfig) -> None:
        super().__init__()
        self.encoder, self.objectives, self.config = encoder, objectives, config
        # By the names that came together: tasks drawn batch by batch have different terms.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self.latest: dict[str, float] = {}
        if config.compile:
            for module in (encoder, objectives):
                for block in module.modules():
                    if type(block).__name__ == "Block":
                        block.compile(dynamic=False)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of seed and step, so that a resumed run draws what the first would have."""
        torch.manual_seed(key(self.config.seed, "step", batch.number) & (2**63 - 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; terms are summed on the device and read only every `log_every` steps."""
        outcome = self.objectives(self.encoder, drop_variables(batch, self.config.variable_dropout))
        stacked = torch.stack([term.float() for term in outcome.terms.values()])
        names = tuple(outcome.terms)
        total, count = self._sums.get(names, (torch.zeros_like(stacked), 0))
        self._sums[names] = total + stacked, count + 1
        return outcome.loss

    def flush(self) -> dict[str, float]:
        """Return the terms' means since the last call, named `train/…`, and start anew."""
        if self._sums:
            sums: dict[str, float] = {}
            counts: dict[str, int] = {}
            for names, (total, count) in self._sums.items():
                for name, value in zip(names, total.tolist(), strict=True):
                    sums[name] = sums.get(name, 0.0) + value
                    counts[name] = counts.get(name, 0) + count
            self.latest = {f"train/{name}": value / counts[name] for name, value in sums.items()}
            self._sums = {}
        return self.latest

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make the step, then tell the objectives: a teacher follows once a step, before the state is saved."""
        super().optimizer_step(*args, **kwargs)
        self.objectives.after_step(self.encoder, min(1.0, (self.trainer.global_step + 1) / self.config.steps))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms on the validation block, with the same masks and draws at every validation."""
        outcome = self.objectives(self.encoder, batch)
        terms = {f"val/{name}": value for name, value in outcome.terms.items()}
        self.log_dict(terms, on_epoch=True, batch_size=len(batch), sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm; Lightning's own way refuses fused optimisers in bf16 too, where nothing is scaled."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def make_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW (fused where it may be) with decay on matrices only, at the peak rate."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        # With the scaler of 16-mixed a fused optimiser scales the gradients itself, so they could not be clipped.
        fused = self.config.precision != "16-mixed"
        return torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.9, 0.95), fused=fused)

    def configure_optimizers(self) -> Any:
        """Return the optimiser with warm-up and a half cosine by step."""
        optimizer = self.make_optimizer()
        total = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, int(self.config.warmup_steps), total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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


class Data(pl.LightningDataModule):
    """The training and validation windows of a store as Lightning wants them."""

    def __init__(self, train: Windows, val: Windows, config: TrainingConfig, compares: bool = False) -> None:
        super().__init__()
        self.train, self.val, self.config = train, val, config
        self.grouping = "spread" if compares and config.batches == "random" else config.batches
        self.loader: TrainLoader | None = None

    def train_dataloader(self) -> TrainLoader:
        """Return endless batches that start where the trainer's step counter says."""
        trainer = self.trainer
        assert trainer is not None
        self.loader = TrainLoader(
            self.train,
            self.config.batch_size,
            self.config.seed,
            first=lambda: trainer.global_step * self.config.accumulate,
            rank=trainer.global_rank,
            ranks=trainer.world_size,
            grouping=self.config.batches,
            threaded=trainer.strategy.root_device.type != "cpu" and self.train.fields.device.type == "cpu",
        )
        return self.loader

    def val_dataloader(self) -> EvalLoader:
        """Return the validation windows in order."""
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return EvalLoader(self.val, self.config.batch_size, rank, ranks, self.grouping)


class SaveLast(Checkpoint):
    """Keeps the state to resume from in one file, replaced atomically.

    At a step that validates, the state is saved after the validation, so that early stopping resumes exactly.
    """

    def __init__(self, file: Path, every: int, val_every: int) -> None:
        self.file, self.every, self.val_every = file, every, val_every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save after every `every` steps."""
        stepped = trainer.fit_loop.epoch_loop._should_accumulate() is False
        if stepped and trainer.global_step % self.every == 0 and trainer.global_step % self.val_every:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write the trainer's state beside the file, then rename it into place."""
        temporary = self.file.with_name(self.file.name + ".new")
        with disk_full_is_clear(self.file):
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                os.replace(temporary, self.file)


class Clock(Callback):
    """Reads the log every few steps: terms, learning rate, samples a second, share of time spent on data."""

    def __init__(self, every: int, sinks: Sequence[Any] = ()) -> None:
        self.every, self.sinks = every, sinks
        self._begun = 0.0
        self._waited = 0.0
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begun, self._step, self._waited = time.perf_counter(), trainer.global_step, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send a line to the logger and the sinks."""
        step = trainer.global_step
        if step % self.every or step == self._step:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        now = time.perf_counter()
        seconds, samples = now - self._begun, (step - self._step) * data.config.accumulate * data.config.batch_size
        line = {
            **pl_module.flush(),  # type: ignore[operator]
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_per_s": samples * trainer.world_size / seconds,
            "data_wait_share": (data.loader.waited_s - self._waited) / seconds,
        }
        self._begun, self._step, self._waited = now, step, data.loader.waited_s
        for logger in trainer.loggers:
            logger.log_metrics(line, step)
        for sink in self.sinks:
            sink(step, line)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the validation's terms, and take its time out of the throughput."""
        line = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
        for sink in self.sinks:
            sink(trainer.global_step, line)
        waited = trainer.datamodule.loader.waited_s  # type: ignore[attr-defined]
        self._begun, self._step, self._waited = time.perf_counter(), trainer.global_step, waited


class StopEarly(EarlyStopping):
    """Early stopping that also stops at once where a resumed run had stopped already, before its export."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the first step if patience ran out before the run was interrupted."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


def fit(
    module: Pretraining, data: Data, folder: Path, callbacks: Sequence[Callback], sinks: Sequence[Any], resume: bool
) -> pl.Trainer:
    """Train, or go on training from `folder/last.ckpt`, and return the trainer when it is done.

    Raises:
        EarthSSLError: If `resume` finds no state.
    """
    config = module.config
    last = folder / "last.ckpt"
    if resume and not last.is_file():
        raise EarthSSLError(f"expected a state to resume from at {last}, found none; start without --resume")
    extra: list[Callback] = [SaveLast(last, config.save_every, config.val_every)]
    average = EMAWeightAveraging(decay=config.ema) if config.ema else None
    if average is not None:
        extra.append(average)
    if config.patience:
        extra.append(StopEarly("val/loss", patience=config.patience, mode="min", check_on_train_epoch_end=False))
    # Lightning's greetings (devices, tips) are not this program's; its warnings still show.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        _quieten()
        trainer = pl.Trainer(
            max_steps=config.steps,
            max_epochs=-1,
            accelerator=config.accelerator,
            devices=config.devices,
            precision=config.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip,
            val_check_interval=min(config.val_every, config.steps) * config.accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=config.log_every,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            callbacks=[*callbacks, Clock(config.log_every, sinks), *extra],
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
    if average is not None:
        # Resumed after its last step, a run ends without this hook; where it did run, it changes nothing now.
        average.on_train_end(trainer, module)
    return trainer


def _quieten() -> None:
    """Leave out Lightning's hints that do not hold here."""
    # One endless epoch on purpose: batches are counted by step, see data.TrainLoader.
    warnings.filterwarnings("ignore", message=".*max_epochs.*")
    # A GPU at hand but not asked for is the user's choice.
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    # Teachers (BYOL, latent prediction) stay in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    # Raised inside Lightning by torch's own renaming; nothing here calls it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def parameter_count(module: nn.Module) -> int:
    """Return the number of trained numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

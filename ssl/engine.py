"""The engine: a Lightning module and trainer that turn an objective into trained weights, restartably."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .batch import Batch
from .bolts import warmup_cosine
from .callbacks import Average, Clock, SaveLast, StopEarly
from .data import ORDERS, Endless, EvalLoader, TrainLoader, Windows
from .encoder import Encoder
from .errors import EarthSSLError, nearest
from .fields import DEVICES, MODES
from .multitask import Multitask
from .precision import AUTO, check, resolve
from .randomness import fold, key, uniform
from .ranks import is_one_of_several, summed
from .sets import DataSet, Draws, Mixture
from .skip import Guard
from .transfer import Transfer

STRATEGIES = ("auto", "ddp", "fsdp")
HALVINGS = 16  # of the scaler of 16-mixed, from 65536 to 1
COMPILED_SHAPES = 64  # that a block may be compiled for


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
        precision: 32-true, bf16-mixed or 16-mixed; auto is bf16-mixed where the device multiplies bf16 natively, else
            32-true, and is recorded as what it was.
        checkpoint_activations: Whether blocks forget their activations and compute them again on the way back: less
            memory, a third more arithmetic, the same gradients.
        max_skipped: Steps in a row with a loss or gradient that is not finite (each is skipped) that end the run; with
            16-mixed 16 more, the halvings that its scaler may need.
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
        devices: Processes on this machine, each with a device of its own: batch_size is for each of them.
        nodes: Machines; for more than one, start the program with srun or torchrun on each.
        strategy: How they share the work: ddp (auto), or fsdp, which also shares out the weights.
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
    precision: str = AUTO
    checkpoint_activations: bool = False
    max_skipped: int = 10
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
    nodes: int = 1
    strategy: str = "auto"

    @property
    def processes(self) -> int:
        """Processes of the run, on all machines."""
        return self.devices * self.nodes

    def __post_init__(self) -> None:
        counts = ["steps", "batch_size", "accumulate", "val_every", "log_every", "save_every", "devices", "nodes"]
        counts.append("max_skipped")
        for name in counts:
            if getattr(self, name) < 1:
                raise EarthSSLError(f"training.{name}: expected a whole number ≥ 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "clip", "patience"):
            least = "> 0" if name == "lr" else "≥ 0"
            if not getattr(self, name) >= 0 or (name == "lr" and not self.lr > 0):
                raise EarthSSLError(f"training.{name}: expected a number {least}, got {getattr(self, name)}")
        check(self.precision)
        words = (("batches", ORDERS), ("strategy", STRATEGIES), ("data", MODES), ("data_device", DEVICES))
        for name, valid in words:
            value = getattr(self, name)
            if value not in valid:
                raise EarthSSLError(
                    f"training.{name}: expected {', '.join(valid)}, got '{value}'." + nearest(value, valid)
                )
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
        outcome = self.objectives(self.encoder, drop_variables(batch, self.config.variable_dropout))
        stacked = torch.stack([term.float() for term in outcome.terms.values()])
        finite = stacked.isfinite()
        names = tuple(outcome.terms)
        total, count = self._sums.get(names, (torch.zeros_like(stacked), torch.zeros_like(stacked)))
        self._sums[names] = total + torch.where(finite, stacked, 0.0), count + finite
        # A loss that is not finite makes every gradient so, on every rank: see ssl/skip.py.
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
        self.log_dict(terms, on_epoch=True, batch_size=len(batch), sync_dist=True, add_dataloader_idx=False)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm and decide whether the step is taken; Lightning's own way refuses fused optimisers."""
        self._trained = self._trained or [p for p in self.parameters() if p.requires_grad]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self.guard.clip(self.trainer.optimizers[0], self._trained, gradient_clip_val or 0.0, scaler)

    def gather(self) -> None:
        """Bring sharded weights together (see ssl/sharded.py): here they are whole."""

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
        """Return the optimiser with warm-up and a half cosine by step."""
        optimizer = self.make_optimizer()
        total = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, int(self.config.warmup_steps), total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def blocks(*modules: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of the modules, teachers' left out where they are to be trained."""
    return [block for module in modules for block in module.modules() if type(block).__name__ == "Block"]


def checkpoint_activations(*modules: nn.Module) -> None:
    """Make the trained blocks compute their activations again on the way back instead of keeping them."""
    for block in blocks(*modules):
        if next(block.parameters()).requires_grad:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


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
    """The training and validation windows of a run's data sets as Lightning wants them."""

    def __init__(
        self,
        train: Windows,
        val: Windows,
        config: TrainingConfig,
        compares: bool = False,
        others: Sequence[DataSet] = (),
        weights: Sequence[float] = (),
    ) -> None:
        """Prepare.

        Args:
            train, val: Home's windows.
            config: How to train.
            compares: Whether a task compares the windows of a batch.
            others: The data sets beside home.
            weights: Of all sets, home first; not looked at where there is one.
        """
        super().__init__()
        self.train, self.val, self.config, self.others = train, val, config, list(others)
        self.grouping = "spread" if compares and config.batches == "random" else config.batches
        self.draws = Draws(config.seed, weights) if self.others else None
        self.loader: Endless | None = None

    def train_dataloader(self) -> Endless:
        """Return endless batches that start where the trainer's step counter says."""
        trainer = self.trainer
        assert trainer is not None
        loaders = [
            TrainLoader(
                windows,
                self.config.batch_size,
                seed,
                rank=trainer.global_rank,
                ranks=trainer.world_size,
                grouping=self.config.batches,
            )
            for windows, seed in ((self.train, self.config.seed), *((own.train, own.seed) for own in self.others))
        ]
        self.loader = loaders[0] if self.draws is None else Mixture(loaders, self.draws)
        self.loader.first = lambda: trainer.global_step * self.config.accumulate
        held = [loader.windows.fields.device.type for loader in loaders]
        self.loader.threaded = trainer.strategy.root_device.type != "cpu" and "cpu" in held
        return self.loader

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """Return the validation windows in order, home's first."""
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        parts = [self.val, *(own.val for own in self.others)]
        fewest = min(len(windows) for windows in parts)
        if fewest < ranks:
            raise EarthSSLError(
                f"training.devices: expected at most one process for each of the {fewest} validation windows, "
                f"got {ranks}; lengthen splits.val"
            )
        loaders = [EvalLoader(windows, self.config.batch_size, rank, ranks, self.grouping) for windows in parts]
        return loaders if self.others else loaders[0]


def fit(
    module: Pretraining, data: Data, folder: Path, callbacks: Sequence[Callback], sinks: Sequence[Any], resume: bool
) -> pl.Trainer:
    """Train, or go on training from `folder/last.ckpt`, and return the trainer when it is done.

    Raises:
        EarthSSLError: If `resume` finds no state.
    """
    config = module.config
    if config.processes > 1 and not is_one_of_several():
        raise EarthSSLError(
            f"training.devices: expected 1 here (several are for `earthssl pretrain` and `run`), got {config.devices}"
        )
    last = folder / "last.ckpt"
    if resume and not last.is_file():
        raise EarthSSLError(f"expected a state to resume from at {last}, found none; start without --resume")
    extra: list[Callback] = [SaveLast(last, config.save_every, config.val_every, config.log_every)]
    average = Average(config.ema) if config.ema else None
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
            num_nodes=config.nodes,
            strategy=strategy(module),
            # Lightning's own answer to SLURM's warning saves and requeues beside ours.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            precision=resolve(config.precision, config.accelerator),  # type: ignore[arg-type]
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
        # It would broadcast, and wait for the device, at every step; ssl/callbacks.py agrees on signals now and then.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
    module.gather()
    if average is not None:
        # Resumed after its last step, a run ends without this hook; where it did run, it changes nothing now.
        average.on_train_end(trainer, module)
    return trainer


def strategy(module: Pretraining) -> Any:
    """Return how the processes share the work, as Lightning wants it."""
    config = module.config
    if config.processes == 1:
        return "auto"
    if config.strategy == "fsdp":
        return ModelParallelStrategy(config.processes, 1, save_distributed_checkpoint=False)
    return DDPStrategy(
        # What a task does not use gets no gradient: the encodings of what it hides, the heads of a task not drawn.
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
        # Running statistics come from the joined batch and are the same everywhere; broadcasting them at each forward
        # pass would hang in validation, where the ranks may have unequal numbers of batches.
        broadcast_buffers=False,
    )


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

"""Lightning's trainer: devices, strategy, precision, and the fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from ..common.errors import EarthSSLError
from ..runtime.distributed import is_one_of_several
from ..runtime.signals import deferred
from .callbacks import Average, Clock, Gaining, SaveLast, StopEarly
from .config import STEADY
from .data_module import Data
from .module import Pretraining
from .precision import resolve


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
    steady = config.schedule == STEADY
    average = Average(None if steady else config.ema) if steady or config.ema else None
    if average is not None:
        extra.append(average)
    gaining = Gaining(folder / "best.ckpt", config.gain, config.patience, average) if config.gain else None
    if gaining is not None:
        extra.append(gaining)
    elif config.patience:
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
            precision=resolve(config.precision, config.accelerator, module.encoder.width),  # type: ignore[arg-type]
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
        # It would broadcast, and wait for the device, at every step; callbacks.py agrees on signals now and then.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        try:
            with deferred():
                trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
    module.gather()
    if average is not None:
        # Resumed after its last step, a run ends without this hook; where it did run, it changes nothing now.
        average.on_train_end(trainer, module)
    if gaining is not None:
        module.kept_step = gaining.restore(module)
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

"""Callbacks that belong to every run: the saved state, the log's clock, early stopping, averaged weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping
from pytorch_lightning.callbacks.weight_averaging import WeightAveraging
from rich.console import Console

from ..common.files import disk_full_is_clear
from ..runtime.distributed import greatest
from ..runtime.signals import Stopped, listen, requested
from .non_finite import windows

POWER = 10  # of an average whose memory grows with the run


class SaveLast(Checkpoint):
    """Keeps the state to resume from in one file, replaced atomically; ends the run where a signal asks for it.

    At a step that validates, the state is saved after the validation, so that early stopping resumes exactly.
    """

    def __init__(self, file: Path, every: int, val_every: int, ask_every: int) -> None:
        """Prepare.

        Args:
            file: Where the state lies.
            every: Steps between states.
            val_every: Steps between validations.
            ask_every: Steps after which several processes ask each other for signals; one alone looks at each step.
        """
        self.file, self.every, self.val_every, self.ask_every = file, every, val_every, ask_every
        self._signal = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear signals from now on: Lightning's own handlers end a run without its state."""
        listen()
        self._signal = greatest(requested(), trainer.strategy.root_device)
        if self._signal:
            self.save_and_stop(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save after every `every` steps, and after the step in which a signal came."""
        if trainer.fit_loop.epoch_loop._should_accumulate() or trainer.global_step % self.val_every == 0:
            return
        if self.stops(trainer):
            self.save_and_stop(trainer)
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            if self.stops(trainer):
                self.save_and_stop(trainer)
            self.save(trainer)

    def stops(self, trainer: pl.Trainer) -> bool:
        """Return whether a signal asks to stop: the same on all ranks."""
        if trainer.world_size == 1 or trainer.global_step % self.ask_every == 0:
            self._signal = greatest(requested(), trainer.strategy.root_device)
        return bool(self._signal)

    def save(self, trainer: pl.Trainer) -> None:
        """Write the trainer's state beside the file, then rename it into place."""
        temporary = self.file.with_name(self.file.name + ".new")
        with disk_full_is_clear(self.file):
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                os.replace(temporary, self.file)

    def save_and_stop(self, trainer: pl.Trainer) -> None:
        """Save, then end the run by an exception."""
        self.save(trainer)
        raise Stopped(self._signal, f"saved at step {trainer.global_step}")


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
        pl_module.read_skipped()  # type: ignore[operator]
        skipped = pl_module.guard.news()  # type: ignore[union-attr, operator]
        for one in skipped if trainer.is_global_zero else ():
            Console(stderr=True).print(
                f"[bold red]skipped[/] step {one['step']}: its loss or gradient is not finite; {windows(one)}"
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        now = time.perf_counter()
        seconds, samples = now - self._begun, (step - self._step) * data.config.accumulate * data.config.batch_size
        line = {
            **pl_module.flush(),  # type: ignore[operator]
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_per_s": samples * trainer.world_size / seconds,
            "data_wait_share": (data.loader.waited_s - self._waited) / seconds,
        }
        if skipped:
            line["skipped_steps"] = len(skipped)
        self._begun, self._step, self._waited = now, step, data.loader.waited_s
        for logger in trainer.loggers:
            logger.log_metrics(line, step)
        for sink in self.sinks:
            sink(step, line)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the validation's terms, and take its time out of the throughput."""
        line = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(("val/", "val-"))}
        for sink in self.sinks:
            sink(trainer.global_step, line)
        waited = trainer.datamodule.loader.waited_s  # type: ignore[attr-defined]
        self._begun, self._step, self._waited = time.perf_counter(), trainer.global_step, waited


class StopEarly(EarlyStopping):
    """Early stopping that also stops at once where a resumed run had stopped already, before its export."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the first step if patience ran out before the run was interrupted."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class Gaining(Callback):
    """Ends a training whose validation skill stopped rising, and keeps the weights of the highest skill.

    A run that is resumed repeats its steps exactly, so what a killed one had kept is written again where it differs.
    """

    def __init__(self, file: Path, gain: float, patience: int, average: Average | None) -> None:
        """Prepare.

        Args:
            file: Where the best weights lie.
            gain: Rise of the skill that counts.
            patience: Validations without one before the end; 0 never ends.
            average: What is validated in place of the weights, if anything.
        """
        self.file, self.gain, self.patience, self.average = file, gain, patience, average
        self.best, self.mark, self.step, self.waited = -math.inf, -math.inf, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the best skill, its step, the last skill that was a gain, and the validations since."""
        return {"best": self.best, "mark": self.mark, "step": self.step, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.__dict__.update(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the first step if patience ran out before the run was interrupted."""
        trainer.should_stop = trainer.should_stop or bool(self.patience and self.waited >= self.patience)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the skill; a validation that poses nothing is passed over."""
        found = trainer.callback_metrics.get("val/skill")
        if found is None or trainer.sanity_checking:
            return
        skill = float(found)
        if skill > self.best:
            self.best, self.step = skill, trainer.global_step
            temporary = self.file.with_name(self.file.name + ".new")
            with disk_full_is_clear(self.file):
                torch.save(pl_module.state_dict() if self.average is None else self.average.averaged, temporary)
                os.replace(temporary, self.file)
        gained = skill > self.mark + self.gain
        self.mark, self.waited = (skill, 0) if gained else (self.mark, self.waited + 1)
        if self.patience and self.waited >= self.patience:
            trainer.should_stop = True

    def restore(self, module: torch.nn.Module) -> int | None:
        """Load the best weights into the module and return their step; None where there are none."""
        if not self.step:
            return None
        module.load_state_dict(torch.load(self.file, map_location="cpu", weights_only=True))
        return self.step


class Average(WeightAveraging):
    """An average of weights and buffers, in place of the weights at validation and in the checkpoint.

    It begins as the weights after the first step. A skipped step leaves it as it is, which is decided on the device.
    """

    def __init__(self, decay: float | None) -> None:
        """Prepare.

        Args:
            decay: Share of the average that a step leaves; None for one whose memory grows with the run: step s of t
                has a weight in proportion to s⁹, so their mean age is t/11 (power form, Karras et al. 2024, arXiv
                2312.02696) and it forgets its beginnings at any length of the run.
        """
        super().__init__()
        self.decay = decay

    def share(self, step: int) -> float:
        """Return the weight of the present weights in the average after a step, counted from 1."""
        if step == 1:
            return 1.0
        return POWER / (step + POWER - 1) if self.decay is None else 1 - self.decay

    @property
    def averaged(self) -> dict[str, torch.Tensor]:
        """Weights and buffers of the averaged module, by name."""
        assert self._average_model is not None
        return dict(self._average_model.module.state_dict())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average once a step."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None
        own = self._average_model.module
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = [
            *zip(own.parameters(), pl_module.parameters(), strict=True),
            *zip(own.buffers(), pl_module.buffers(), strict=True),
        ]
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        taken = torch.as_tensor(pl_module.guard.taken, device=pl_module.device)  # type: ignore[union-attr]
        with torch.no_grad():
            averages = [average for average, _ in moved]
            apart = list(torch._foreach_sub([current for _, current in moved], averages))
            torch._foreach_mul_(apart, self.share(trainer.global_step) * taken)
            torch._foreach_add_(averages, apart)
            for average, current in pairs:
                if not average.is_floating_point():
                    average.copy_(current)
        self._latest_update_step = trainer.global_step

"""A trial: the first steps of a pretraining run on a sketch of its store, measured in a process of its own."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..common.errors import EarthSSLError
from ..data.loaders import TrainLoader
from ..data.loading import Loading
from ..data.windows import Windows
from ..model.tokens import patchify
from ..runtime.memory import Meter
from ..training.data_module import Data
from ..training.module import Pretraining, parameter_count
from ..training.monitor import HEALTH_WINDOWS, TOKEN_WINDOWS, HealthMonitor
from ..training.objective import ObjectiveConfig
from ..training.pretrain import PretrainConfig, assemble
from ..training.trainer import fit
from .bare_steps import Stepper, device_of
from .store_outline import Sketch

WARM_UP = 3  # steps not timed: allocations, caches, compilation
FEWEST, MOST = 5, 40  # steps timed
KINDS_SEEN = 3  # batches that memory and arithmetic are taken over: tasks may draw by batch
SHARE = 0.9  # of the free memory that a run may take


@dataclass(frozen=True)
class TrialJob:
    """What to try.

    Attributes:
        config: The run.
        sketch: The shape of its data.
        seconds: About how long to time steps.
        threads: Threads of the run; 0 leaves torch's choice.
        full: Whether to try the run's own batch size where it fits; otherwise only growing sizes.
        largest: Largest batch of the growing sizes; 0 for the run's own.
    """

    config: PretrainConfig
    sketch: Sketch
    seconds: float = 20.0
    threads: int = 0
    full: bool = True
    largest: int = 0


@dataclass(frozen=True)
class Size:
    """A batch size that was tried: one step with no optimiser.

    Attributes:
        batch_size: Windows.
        peak_bytes: Most memory held.
        seconds: A forward and backward pass took, median.
    """

    batch_size: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """What was measured; times in seconds, sizes in bytes.

    Attributes:
        device: cpu or cuda.
        threads: Of torch.
        free_bytes: Memory that a run may take besides `base_bytes`; None where unknown.
        base_bytes: Held with the network built, before a step.
        sizes: Smaller batches tried first.
        counts: Parameters, tokens, FLOPs, windows: see `_counts`.
        fits: Whether the run's own batch size was tried; the rest is empty where not.
        peak_bytes: Most memory held in the steps at the run's own batch size.
        steps_s: Each timed step.
        first_s: The first step, beyond a later one.
        setup_s: From the call to the first step, health at the start left out.
        val_batch_s, health_s, save_s: A validation batch, a measurement of health, a saved state.
        state_bytes: Size of a saved state.
    """

    device: str
    threads: int
    free_bytes: int | None
    base_bytes: int
    sizes: list[Size]
    counts: dict[str, float]
    fits: bool = False
    peak_bytes: int = 0
    steps_s: list[float] = field(default_factory=list)
    first_s: float = 0.0
    setup_s: float = 0.0
    val_batch_s: float = 0.0
    health_s: float = 0.0
    save_s: float = 0.0
    state_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON."""
        return asdict(self)


class _Stopwatch(pl.Callback):
    """Reads the clock at the end of every optimiser step and ends the run when enough was seen."""

    def __init__(self, seconds: float, wait: Callable[[], None]) -> None:
        self.seconds, self.wait = seconds, wait
        self.started = self.validated = self.evaluated = 0.0
        self.ends: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Note when the first batch starts."""
        self.started = self.started or time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the time after a step of the optimiser."""
        if trainer.global_step == len(self.ends):
            return
        self.wait()
        self.ends.append(time.perf_counter())
        seen = len(self.ends) - WARM_UP
        long = self.ends[-1] - self.started > self.seconds
        trainer.should_stop = trainer.should_stop or (seen >= FEWEST and long) or seen >= MOST

    def on_validation_start(self, *_: Any) -> None:
        """Note when the validation starts."""
        self.validated = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        """Note when it ends, before what follows it."""
        self.wait()
        self.evaluated = time.perf_counter()


class _TimedHealth(HealthMonitor):
    """Health as in a run, its warnings unsaid: one field repeated looks collapsed."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        begun = time.perf_counter()
        super().on_train_start(trainer, pl_module)
        self.first = time.perf_counter() - begun

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        begun = time.perf_counter()
        self._measure(trainer, pl_module)
        self.seconds = time.perf_counter() - begun


def run_apart(work: Callable[[TrialJob], Any], job: TrialJob) -> Any:
    """Return `work(job)` of a fresh process, which takes its memory with it.

    Raises:
        EarthSSLError: If the process was killed, as one that takes too much memory is.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work, job).result()
    except BrokenProcessPool:
        raise EarthSSLError(
            f"plan: a trial with batches of {job.config.training.batch_size} was ended by the system, most likely for "
            "memory; lower training.batch_size or encoder.size"
        ) from None


def run_trial(job: TrialJob, tasks: dict[str, type[ObjectiveConfig]]) -> Trial:
    """Measure the first steps of a run in this process."""
    if job.threads:
        torch.set_num_threads(job.threads)
    config, store = job.config, job.sketch
    device = device_of(config.training.accelerator)
    meter = Meter(device)
    free = meter.free()
    module, train, val = assemble(config, store, tasks, settled=False)
    with torch.no_grad():
        module.objectives(module.encoder, train.batch([0]))
    loading = Loading(config.training.data, processes=config.training.devices)
    counts = _static_counts(module, job.sketch, train, val, loading)
    base = meter.now()
    own = config.training.batch_size
    sizes = grow(module, train, meter, free, (job.largest or own) - (1 if job.full else 0))
    fits = job.full and needed(base, sizes, own) - base <= _room(free)
    trial = Trial(device.type, torch.get_num_threads(), free, base, sizes, counts, fits)
    if fits:
        trial = _measured(trial, job, module, train, val, meter)
    counts.update(_work(config, store, tasks, own if fits else sizes[-1].batch_size if sizes else own))
    return trial


def _room(free: int | None) -> float:
    return float("inf") if free is None else SHARE * free


def needed(base: int, sizes: list[Size], batch_size: int) -> int:
    """Return the memory of a step at a batch size, extrapolated along a straight line through the last two sizes."""
    if not sizes:
        return base
    last = sizes[-1]
    before = sizes[-2] if len(sizes) > 1 else Size(0, base, 0.0)
    slope = max(0.0, (last.peak_bytes - before.peak_bytes) / (last.batch_size - before.batch_size))
    return int(last.peak_bytes + slope * (batch_size - last.batch_size))


def grow(module: Pretraining, windows: Windows, meter: Meter, free: int | None, most: int) -> list[Size]:
    """Return memory and time of batches of 2, 4, 8, … windows, up to `most` or to where the next would not fit."""
    base, stepper = meter.now(), Stepper(module)
    order = np.random.default_rng(0).permutation(len(windows))
    sizes: list[Size] = []
    size = 2
    while size <= min(most, len(windows)):
        if sizes and needed(base, sizes, size) - base > _room(free):
            break
        meter.reset()
        took = []
        try:
            for number in range(KINDS_SEEN):
                batch = windows.batch(order[:size], 0, number)
                begun = time.perf_counter()
                stepper.backward(batch)
                stepper.wait()
                took.append(time.perf_counter() - begun)
                stepper.clear()
        except torch.cuda.OutOfMemoryError:
            stepper.clear()
            break
        sizes.append(Size(size, meter.peak(), float(np.median(took))))
        size *= 2
    return sizes


def _measured(trial: Trial, job: TrialJob, module: Pretraining, train: Windows, val: Windows, meter: Meter) -> Trial:
    """Return the trial with the measurements of the real training loop."""
    stepper_wait = (lambda: torch.cuda.synchronize()) if trial.device == "cuda" else (lambda: None)
    watch = _Stopwatch(job.seconds, stepper_wait)
    health = _TimedHealth(val.shortened(job.config.encoder.window), [])
    few = copy.copy(val)
    few.starts = val.starts[: 2 * job.config.training.batch_size]
    few.last_times = val.last_times[: len(few.starts)]
    # The same schedule, but no validation, stop or saved state before the steps are timed.
    training = replace(
        job.config.training, val_every=job.config.training.steps, save_every=job.config.training.steps, patience=0
    )
    module.config = training
    meter.reset()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        fit(module, Data(train, few, training, module.objectives.compares), Path(folder), [watch, health], [], False)
        ended = time.perf_counter()
        state_bytes = (Path(folder) / "last.ckpt").stat().st_size
    took = np.diff([watch.started, *watch.ends])
    timed = took[min(WARM_UP, len(took) - 1) :]
    return replace(
        trial,
        peak_bytes=meter.peak(),
        steps_s=timed.tolist(),
        first_s=max(0.0, float(took[0] - np.median(timed))),
        setup_s=watch.started - begun - health.first,
        val_batch_s=(watch.evaluated - watch.validated) / -(-len(few) // training.batch_size),
        health_s=health.seconds,
        save_s=ended - watch.evaluated - health.seconds,
        state_bytes=state_bytes,
    )


def _static_counts(
    module: Pretraining, sketch: Sketch, train: Windows, val: Windows, loading: Loading
) -> dict[str, float]:
    """Return what follows from shapes alone: parameters, windows, steps held in memory, bytes of the weights."""
    held = [int(w.starts[-1]) + w.length - int(w.starts[0]) for w in (train, val)]
    kept = sum(steps for steps in held if loading.keeps(steps * sketch.step_bytes))
    weights = [value for part in (module.encoder, module.objectives) for value in part.state_dict().values()]
    return {
        "encoder_parameters": parameter_count(module.encoder),
        "head_parameters": parameter_count(module.objectives),
        "weight_bytes": sum(value.numel() * value.element_size() for value in weights),
        "train_windows": len(train),
        "val_windows": len(val),
        "health_windows": min(len(val), HEALTH_WINDOWS) + min(len(val), TOKEN_WINDOWS),
        "resident_steps": kept,
        "streamed_steps": sum(held) - kept,
        "span": train.length,
    }


def _work(
    config: PretrainConfig, store: Sketch, tasks: dict[str, type[ObjectiveConfig]], batch_size: int
) -> dict[str, float]:
    """Return the arithmetic of a step, forward and backward, and the tokens, counted on a few real batches.

    FLOPs: of matrix products and attention, 2 for a multiply-add, for the run's batch size and accumulation.
    Tokens: of all in a window, and that the encoder's blocks get for a window in all its calls.
    """
    training = replace(config.training, compile=False)  # compiled blocks hide their products
    module, train, _ = assemble(replace(config, training=training), store, tasks, settled=False)
    stepper = Stepper(module)
    loader = TrainLoader(train, batch_size, training.seed, grouping=training.batches)
    seen: list[int] = []
    hook = module.encoder.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[0] * inputs[0].shape[1])
    )
    flops = []
    for number in range(KINDS_SEEN):
        with FlopCounterMode(display=False) as counter:
            stepper.backward(loader.get(number))
        flops.append(counter.get_total_flops())
        stepper.clear()
    hook.remove()
    patches = patchify(train.batch([0]).cut(0, config.encoder.window), config.encoder.patch)
    scale = training.batch_size / batch_size * training.accumulate
    return {
        "flops_a_step": float(np.mean(flops)) * scale,
        "tokens": patches.count,
        "visible_tokens": sum(seen) / (KINDS_SEEN * batch_size),
        "batches_an_epoch": TrainLoader(
            train, training.batch_size, training.seed, grouping=training.batches
        ).batches_per_epoch,
    }

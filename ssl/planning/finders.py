"""Finders: the learning rate at which the loss falls fastest, the batch size that is worth its memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import EarthSSLError
from ..data.loaders import TrainLoader
from ..data.windows import Windows
from ..training.module import Pretraining
from .bare_steps import Stepper
from .plan import size
from .trial_run import SHARE, Trial

SMOOTHING = 0.9  # of the loss, a batch
DIVERGED = 4.0  # times the best smoothed loss: further rates tell nothing
SKIPPED = 10  # first batches, whose smoothed loss still settles
NEAR = 0.95  # of the best throughput: more memory for less than the rest is not worth it


@dataclass(frozen=True)
class RateTest:
    """A range test of learning rates (Smith 2017, arXiv 1506.01186).

    Attributes:
        rates: Of each batch, rising exponentially.
        losses: Of each batch, before its step.
        smooth: Their exponential mean, corrected for its start.
        best: The rate at which the smoothed loss falls most steeply over the logarithm of the rate.
        blown_up: The rate at which the loss had grown to four times its least; None where it never did.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    best: float
    blown_up: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the test as plain JSON."""
        return asdict(self)


def smoothed(losses: list[float]) -> list[float]:
    """Return the exponential mean of the losses, corrected for its start at zero."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def steepest(rates: list[float], smooth: list[float]) -> float:
    """Return the rate at which the smoothed loss falls most steeply over log rate, before its least value.

    Raises:
        EarthSSLError: If the loss never fell.
    """
    least = int(np.argmin(smooth))
    if least < SKIPPED + 2:
        raise EarthSSLError(
            f"the loss never fell from {smooth[0]:.4g} in the test of {len(rates)} learning rates "
            f"{rates[0]:.1e}…{rates[-1]:.1e}; begin lower, or check the objectives"
        )
    slope = np.gradient(np.asarray(smooth[: least + 1]), np.log(rates[: least + 1]))
    return rates[SKIPPED + int(np.argmin(slope[SKIPPED:]))]


def find_rate(
    module: Pretraining, windows: Windows, first: float = 1e-6, last: float = 1.0, batches: int = 120
) -> RateTest:
    """Train a new module on the first batches of a run with rising rates, and return what the loss did.

    The module is spent afterwards. Nothing is written; every draw is that of the run's own batches.

    Args:
        module: Untrained.
        windows: Of training.
        first, last: Rates of the first and the last batch.
        batches: Their number.

    Raises:
        EarthSSLError: If the loss never fell.
    """
    config = module.config
    stepper = Stepper(module)
    loader = TrainLoader(windows, config.batch_size, config.seed, grouping=config.batches)
    rates, losses, blown_up = [], [], None
    for number in range(batches):
        rate = first * (last / first) ** (number / (batches - 1))
        for group in stepper.optimizer.param_groups:
            group["lr"] = rate
        loss = float(stepper.step(loader.get(number)))
        if not math.isfinite(loss):
            blown_up = rate
            break
        rates.append(rate)
        losses.append(loss)
        smooth = smoothed(losses)
        if number > SKIPPED and smooth[-1] > DIVERGED * min(smooth):
            blown_up = rate
            break
    if not losses:
        raise EarthSSLError(f"the first loss was not finite at learning rate {first:.1e}; check data and objectives")
    smooth = smoothed(losses)
    return RateTest(rates, losses, smooth, steepest(rates, smooth), blown_up)


def draw_rates(test: RateTest, file: Path) -> Path:
    """Write the picture of a test and return its file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(test.rates, test.losses, color="0.8", lw=1, label="each batch")
    axes.plot(test.rates, test.smooth, color="tab:blue", label="smoothed")
    axes.axvline(test.best, color="tab:red", ls="--", label=f"steepest: {test.best:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="Range test of the learning rate")
    top = 1.3 * max(test.smooth[: SKIPPED + 1])
    axes.set_ylim(min(test.smooth) - 0.1 * abs(top), top)
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new.png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(file)
    return file


@dataclass(frozen=True)
class BatchTest:
    """Batch sizes, powers of two, with what they take.

    Attributes:
        sizes: Each size: windows, peak memory (bytes), windows a second of a forward and backward pass.
        largest: The largest that fits beside the fields of the run.
        enough: The smallest with at least 95 % of the best throughput of those that fit.
        room_bytes: Memory that a step may take.
    """

    sizes: list[dict[str, float]]
    largest: int
    enough: int
    room_bytes: float

    def to_json(self) -> dict[str, Any]:
        """Return the test as plain JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the test as lines to be read."""
        made = [f"{'batch':>6} {'peak memory':>12} {'windows/s':>10}"]
        for one in self.sizes:
            peak, speed = size(one["peak_bytes"]), one["windows_per_s"]
            made.append(f"{one['batch_size']:>6.0f} {peak:>12} {speed:>10.1f}")
        made.append(f"largest that fits: {self.largest}; smallest with 95 % of the best throughput: {self.enough}")
        return made


def find_batch(trial: Trial, held_bytes: int) -> BatchTest:
    """Return what the growing batches of a trial say.

    Args:
        trial: With growing sizes up to what fits.
        held_bytes: What the run holds besides: fields, statistics, and the optimiser's moments.

    Raises:
        EarthSSLError: If not even the smallest fits.
    """
    room = float("inf") if trial.free_bytes is None else SHARE * trial.free_bytes - held_bytes
    fitting = [one for one in trial.sizes if one.peak_bytes - trial.base_bytes <= room]
    if not fitting:
        raise EarthSSLError(
            f"plan: expected room for a batch of 2 windows, but only {room / 2**20:.0f} MiB are left beside what the "
            "run holds; take fewer variables, a smaller encoder or a shorter training block"
        )
    best = max(one.batch_size / one.seconds for one in fitting)
    enough = next(one.batch_size for one in fitting if one.batch_size / one.seconds >= NEAR * best)
    sizes = [
        {
            "batch_size": one.batch_size,
            "peak_bytes": one.peak_bytes,
            "windows_per_s": one.batch_size / one.seconds,
        }
        for one in trial.sizes
    ]
    return BatchTest(sizes, fitting[-1].batch_size, enough, room if math.isfinite(room) else -1.0)

"""Callbacks that watch a pretraining run: history, progress, health, and a probe on labels of its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import nn

from ..common.errors import EarthSSLError
from ..data.windows import Windows
from ..model.encoder import Encoder
from ..model.health import Health, measure
from ..model.tokens import patchify
from .lightning_bolts import linear_classifier

HEALTH_WINDOWS = 240
TOKEN_WINDOWS = 32


class History:
    """Appends named numbers to a CSV file (step, name, value); a resumed run drops what lies after its step."""

    def __init__(self, file: Path, first_step: int = 0) -> None:
        self.file = file
        kept: list[list[str]] = []
        if file.is_file():
            with open(file, newline="") as handle:
                kept = [row for row in list(csv.reader(handle))[1:] if len(row) == 3 and int(row[0]) <= first_step]
        with open(file, "w", newline="") as handle:
            csv.writer(handle).writerows([["step", "name", "value"], *kept])

    def __call__(self, step: int, line: dict[str, float]) -> None:
        """Append a line's numbers."""
        with open(self.file, "a", newline="") as handle:
            csv.writer(handle).writerows([step, name, f"{value:.8g}"] for name, value in line.items())


class ProgressBar(pl.Callback):
    """One bar for the whole run on standard error: steps, loss, samples a second, time left."""

    def __init__(self, steps: int, label: str) -> None:
        self.steps, self.label = steps, label
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._line: dict[str, float] = {}

    def __call__(self, step: int, line: dict[str, float]) -> None:
        """Remember the latest numbers, to be shown beside the bar."""
        self._line.update(line)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(self.label, total=self.steps, completed=trainer.global_step, note="")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move the bar on."""
        if self._bar is None or self._task is None or trainer.global_step % 5:
            return
        loss, speed = self._line.get("train/loss"), self._line.get("samples_per_s")
        note = "" if loss is None or speed is None else f"loss {loss:.3f}, {speed:.0f} samples/s"
        self._bar.update(self._task, completed=trainer.global_step, note=note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fill the bar: the training is done, also where patience ended it; after an error or a signal it is not."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=trainer.global_step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away, also after an error."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.stop()
            self._bar = None


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluate a module without gradients and leave every sub-module's mode and the random state as they were."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            module.eval()
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def embed_windows(
    encoder: Encoder, windows: Windows, chosen: np.ndarray, tokens: int = 0, batch_size: int = 64
) -> tuple[Float[np.ndarray, "window feature"], Float[np.ndarray, "some_window token feature"]]:
    """Return the mean feature of each chosen window, and all token features of the first `tokens` of them."""
    device = next(encoder.parameters()).device
    pooled, detailed = [], []
    for begin in range(0, len(chosen), batch_size):
        batch = windows.batch(torch.from_numpy(chosen[begin : begin + batch_size])).to(device)
        features = encoder(patchify(batch, encoder.config.patch))
        pooled.append(features.mean(1).float().cpu().numpy())
        if begin < tokens:
            detailed.append(features[: tokens - begin].float().cpu().numpy())
    return np.concatenate(pooled), np.concatenate(detailed) if detailed else np.empty((0, 0, encoder.width))


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` indices spread evenly over range(count)."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def check_health(encoder: Encoder, windows: Windows) -> Health:
    """Return the health of an encoder on windows it was not trained on."""
    chosen = spread(len(windows), HEALTH_WINDOWS)
    few = spread(len(windows), TOKEN_WINDOWS)
    with undisturbed(encoder):
        pooled, _ = embed_windows(encoder, windows, chosen)
        _, tokens = embed_windows(encoder, windows, few, tokens=len(few))
    times = windows.last_times[chosen]
    months = times.astype("datetime64[M]").astype(np.int64) % 12 + 1
    years = times.astype("datetime64[D]").astype(np.float64) / 365.2425
    return measure(pooled, tokens, months, years)


class HealthMonitor(pl.Callback):
    """Measures the encoder's health before training and at every validation; says in words when it collapses."""

    def __init__(self, windows: Windows, sinks: list[Any]) -> None:
        self.windows, self.sinks = windows, sinks
        self.said: list[str] = []
        self.start: Health | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the untrained encoder: what later values are compared with."""
        if trainer.is_global_zero and self.start is None:
            self.start = self._measure(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, log, warn."""
        if not trainer.is_global_zero:
            return
        health = self._measure(trainer, pl_module)
        for words in health.warnings(pl_module.whole().encoder.width, self.start):  # type: ignore[operator, arg-type]
            message = f"step {trainer.global_step}: {words}"
            self.said.append(message)
            Console(stderr=True).print(f"[bold red]health warning[/] {message}")

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Health:
        encoder: Any = pl_module.whole().encoder  # type: ignore[operator]
        health = check_health(encoder, self.windows)
        for sink in self.sinks:
            sink(trainer.global_step, {f"health/{name}": value for name, value in health.to_json().items()})
        return health

    def state_dict(self) -> dict[str, Any]:
        """Return the health at the start and what was said, so that a resumed run compares with the same."""
        return {"start": None if self.start is None else self.start.to_json(), "said": self.said}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.said = list(state_dict["said"])
        self.start = None if state_dict["start"] is None else Health(**state_dict["start"])


@dataclass(frozen=True)
class ProbeLabels:
    """Labelled windows for the online probe: its own data, its own split.

    Attributes:
        name: Of the label, for the log.
        windows: Windows to embed.
        fit: Indices of the windows the head is fitted on.
        check: Indices of the windows it is scored on; they share no time step with those of `fit`.
        labels: One number a window of `windows`: a value (regression) or a class from 0 (classification).
        classes: Number of classes; 0 for regression.
    """

    name: str
    windows: Windows
    fit: np.ndarray
    check: np.ndarray
    labels: np.ndarray
    classes: int = 0

    def __post_init__(self) -> None:
        ahead = np.arange(self.windows.length)
        steps = [(self.windows.starts[chosen][:, None] + ahead).ravel() for chosen in (self.fit, self.check)]
        if np.intersect1d(*steps).size:
            raise EarthSSLError(f"online probe {self.name}: fit and check windows overlap; split them by time")


class OnlineProbe(pl.Callback):
    """Fits a linear head on frozen features at every validation: ridge regression, or Bolts' linear classifier.

    The encoder is borrowed: its modes, gradients and the random state are as before afterwards.
    """

    def __init__(self, labels: ProbeLabels, sinks: list[Any], ridge: float = 1.0) -> None:
        self.labels, self.sinks, self.ridge = labels, sinks, ridge

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embed, fit, score, log."""
        if not trainer.is_global_zero:
            return
        encoder: Any = pl_module.whole().encoder  # type: ignore[operator]
        score = self.score(encoder)
        for sink in self.sinks:
            sink(trainer.global_step, {f"probe/{self.labels.name}": score})

    def score(self, encoder: Encoder) -> float:
        """Return Pearson's r (regression) or the accuracy (classification) on the check windows."""
        d = self.labels
        with undisturbed(encoder):
            x, _ = embed_windows(encoder, d.windows, np.concatenate([d.fit, d.check]))
        fit, check = x[: len(d.fit)], x[len(d.fit) :]
        centre, scale = fit.mean(0), fit.std(0) + 1e-6
        fit, check = (fit - centre) / scale, (check - centre) / scale
        y = d.labels[d.fit]
        if d.classes:
            predicted = classify(fit, y.astype(np.int64), check, d.classes)
            return float((predicted == d.labels[d.check]).mean())
        gram = fit.T @ fit + self.ridge * len(fit) * np.eye(fit.shape[1])
        predicted, truth = check @ np.linalg.solve(gram, fit.T @ (y - y.mean())), d.labels[d.check]
        if not predicted.std() > 0 or not truth.std() > 0:
            return 0.0  # a constant goes with nothing
        return float(np.corrcoef(predicted, truth)[0, 1])


def classify(
    fit: Float[np.ndarray, "fit feature"], labels: np.ndarray, check: Float[np.ndarray, "check feature"], classes: int
) -> np.ndarray:
    """Return the classes that a linear head (Bolts' SSLEvaluator), trained for 200 full-batch steps, predicts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = linear_classifier(fit.shape[1], classes)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
        x, y = torch.from_numpy(fit).float(), torch.from_numpy(labels)
        with torch.enable_grad():
            for _ in range(200):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(x), y).backward()
                optimizer.step()
        head.eval()
        with torch.no_grad():
            return head(torch.from_numpy(check).float()).argmax(1).numpy()

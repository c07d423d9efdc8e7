"""A network trained from scratch on the labels alone: what the same architecture does without pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..ssl.batch import Batch, from_fields
from ..ssl.encoder import Encoder, EncoderConfig
from ..ssl.errors import EarthSSLError
from ..ssl.progress import track
from ..ssl.randomness import key, permutation
from ..ssl.store import Store
from ..ssl.tokens import patchify
from .enso import EnsoTask
from .skill import Row


@dataclass(frozen=True)
class ScratchConfig:
    """How to train on labels.

    Attributes:
        seeds: Number of networks; 0 leaves the row out.
        steps: Most optimiser steps; validation chooses how many are taken.
        batch_size: Windows a step.
        lr: Peak learning rate of AdamW (warm-up over a tenth of the steps, half cosine).
        weight_decay: Of AdamW.
        check_every: Steps between looks at the validation block.
    """

    seeds: int = 3
    steps: int = 400
    batch_size: int = 64
    lr: float = 5e-4
    weight_decay: float = 0.05
    check_every: int = 25

    def __post_init__(self) -> None:
        if self.seeds < 0 or self.steps < self.check_every or self.check_every < 1 or self.batch_size < 1:
            raise EarthSSLError(f"scratch: expected seeds ≥ 0 and steps ≥ check_every ≥ 1, got {self}")


class Regressor(nn.Module):
    """The encoder, its mean feature, and a linear head for all leads."""

    def __init__(self, encoder: Encoder, leads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, leads)

    def forward(self, batch: Batch) -> Tensor:
        """Return forecasts in units of the targets' standard deviation, (batch, lead)."""
        return self.head(self.encoder(patchify(batch, self.encoder.config.patch)).mean(1))


def scratch_rows(config: ScratchConfig, shape: EncoderConfig, store: Store, task: EnsoTask) -> list[Row]:
    """Return one row a seed: the number of steps chosen on validation, then trained anew on train + validation."""
    rows = []
    for seed in range(config.seeds):
        window, leads = shape.window, len(task.leads)
        data = _Samples(store, task, window)
        best_steps, best = 0, np.inf
        network = _network(shape, store, leads, seed)
        for step in _train(network, data, "train", config, seed, f"scratch {seed}, select"):
            if (step + 1) % config.check_every == 0:
                score = -float(task.validation_score(data.forecast(network, task.inits("val"))).mean())
                if score < best:
                    best, best_steps = score, step + 1
        if not best_steps:
            raise EarthSSLError(f"scratch: the network of seed {seed} diverged (no finite score); lower scratch.lr")
        network = _network(shape, store, leads, seed)
        for step in _train(network, data, "fit", config, seed, f"scratch {seed}, refit"):
            if step + 1 == best_steps:
                break
        forecast = data.forecast(network, task.inits("test"))
        settings = {"steps": best_steps, "validation_score": -best, "pooling": "mean", "trained on": "labels only"}
        rows.append(task.row("same network from scratch", forecast, settings, seed))
    return rows


def _network(shape: EncoderConfig, store: Store, leads: int, seed: int) -> Regressor:
    torch.manual_seed(key(seed, "scratch") & (2**63 - 1))
    return Regressor(shape.build(store.variables), leads)


def _train(network: Regressor, data: _Samples, block: str, config: ScratchConfig, seed: int, label: str):  # type: ignore[no-untyped-def]
    """Yield after every step."""
    samples = np.flatnonzero(data.task.samples(block)[0])
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    warmup = max(1, config.steps // 10)
    per_epoch = max(1, len(samples) // config.batch_size)
    for step in track(range(config.steps), label):
        rate = min((step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * min(1.0, step / config.steps))))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        epoch, position = divmod(step, per_epoch)
        order = permutation(seed, f"scratch {block}", epoch, len(samples)).numpy()
        chosen = samples[order[position * config.batch_size : (position + 1) * config.batch_size]]
        network.train()
        loss = ((network(data.batch(chosen)) - data.targets[torch.from_numpy(chosen)]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        yield step


class _Samples:
    """Windows that end at given steps of a store, and their targets in standard deviations."""

    def __init__(self, store: Store, task: EnsoTask, window: int) -> None:
        self.store, self.task, self.window = store, task, window
        self.fields = torch.from_numpy(store.read(np.arange(len(store.times))))
        self.times = torch.from_numpy(store.times.astype(np.int64))
        train = task.samples("train")[0]
        self.scale = task.target[:, train].std(axis=1)
        self.targets = torch.from_numpy((task.target / self.scale[:, None]).T).float()

    def batch(self, last: np.ndarray) -> Batch:
        """Return the windows whose last steps are given."""
        steps = torch.from_numpy(last)[:, None] + torch.arange(-self.window + 1, 1)
        keys = torch.zeros(len(last), dtype=torch.int64)
        known = torch.from_numpy(self.store.statistics.known)
        return from_fields(self.fields[steps], self.times[steps], keys, known, self.store.variables, self.store.grid)

    def forecast(self, network: Regressor, wanted: np.ndarray) -> np.ndarray:
        """Return forecasts, K, (lead, time), NaN where not wanted."""
        network.eval()
        out = np.full(self.task.target.shape, np.nan)
        chosen = np.flatnonzero(wanted)
        with torch.no_grad():
            for part in np.array_split(chosen, max(1, len(chosen) // 128)):
                out[:, part] = network(self.batch(part)).numpy().T * self.scale[:, None]
        return out

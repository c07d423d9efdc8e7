"""What the workbench costs around a bare training step: python benchmarks/step.py

Prints milliseconds a step of (a) forward + backward + AdamW on fixed batches, (b) the same with batches drawn
from the store, (c) Lightning's trainer with history, schedule, clipping, progress bar, logging and the guard against
steps that are not finite. Medians over the steps after a warm-up, interleaved rounds; run it on an idle machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from earthssl.pretext import TASKS
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.config import TrainingConfig
from earthssl.ssl.training.data_module import Data
from earthssl.ssl.training.module import Pretraining
from earthssl.ssl.training.monitor import History, ProgressBar
from earthssl.ssl.training.multitask import build_objectives
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import parse_objectives
from earthssl.ssl.training.trainer import fit

STEPS = 40
WARM_UP = 10
ROUNDS = 5


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        splits = SplitsConfig(("1900", "1949"), ("1952", "1959"), ("1962", "1969"), 730)
        store = Store(prepare(PrepareConfig("planet", f"{folder}/store", splits, {"years": 70})))
        windows, val = Windows(store, "train", 5, 0), Windows(store, "val", 5, 0)
        took: dict[str, list[float]] = {"bare": [], "with data": [], "with Lightning": []}
        for number in range(ROUNDS):
            took["bare"].append(_loop(store, windows, fixed=True))
            took["with data"].append(_loop(store, windows, fixed=False))
            took["with Lightning"].append(_lightning(store, windows, val, Path(folder) / str(number)))
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, nano, 32×64, window 5, patch 8, batch 32")
    for name, values in took.items():
        ratios = [value / base for value, base in zip(values, took["bare"], strict=True)]
        print(f"{name:<16}{statistics.median(values):8.1f} ms/step  {statistics.median(ratios):5.2f}× bare")


def _parts(store: Store) -> Pretraining:
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 5, (1, 8, 8)).build(store.variables)
    configs = parse_objectives({"masking": {}}, TASKS)
    objectives = build_objectives(configs, Context(encoder, store.variables, store.grid))
    training = TrainingConfig(steps=STEPS, warmup_steps=2, val_every=10 * STEPS, save_every=10 * STEPS)
    return Pretraining(encoder, objectives, training)


def _loop(store: Store, windows: Windows, fixed: bool) -> float:
    module, loader = _parts(store), TrainLoader(windows, 32, 0)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    batch = loader.get(0)
    ends = []
    for step in range(STEPS):
        module.objectives(module.encoder, batch if fixed else loader.get(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return _median_ms(ends)


class Stamps(pl.Callback):
    """Notes the time after every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """Note it."""
        self.ends.append(time.perf_counter())


def _lightning(store: Store, windows: Windows, val: Windows, folder: Path) -> float:
    folder.mkdir()
    module, stamps, bar = _parts(store), Stamps(), ProgressBar(STEPS, "pretrain")
    history = History(folder / "history.csv")
    fit(module, Data(windows, val, module.config), folder, [bar, stamps], [history, bar], resume=False)
    return _median_ms(stamps.ends)


def _median_ms(ends: list[float]) -> float:
    return 1000 * statistics.median(b - a for a, b in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False))


if __name__ == "__main__":
    main()

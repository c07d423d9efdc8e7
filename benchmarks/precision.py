"""From which width on bf16 pays on this device: python benchmarks/precision.py [--sizes nano micro tiny small]

Prints milliseconds a step (forward, backward, clipping, AdamW; masking on a planet of five variables, 32×64, window 5,
patch 8) in 32-true and in bf16-mixed, and the ratio within a round; medians over interleaved rounds. The rule of
`training.precision: auto` rests on it. With one thread on a CPU it is processor time, which other programs hardly
change; else run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from earthssl.pretext import TASKS
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import SIZES, EncoderConfig
from earthssl.ssl.planning.bare_steps import Stepper
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.config import TrainingConfig
from earthssl.ssl.training.module import Pretraining
from earthssl.ssl.training.multitask import build_objectives
from earthssl.ssl.training.objective import Context
from earthssl.ssl.training.pretrain import parse_objectives

PRECISIONS = ("32-true", "bf16-mixed")
WARM_UP = 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["nano", "micro", "tiny", "small"])
    parser.add_argument("--batch", type=int, default=32, help="windows a step")
    parser.add_argument("--steps", type=int, default=4, help="timed in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, {_units()}")
    with tempfile.TemporaryDirectory() as folder:
        splits = SplitsConfig(("1900", "1929"), ("1932", "1935"), ("1938", "1941"), 730)
        store = Store(prepare(PrepareConfig("planet", f"{folder}/store", splits, {"years": 42})))
        batches = TrainLoader(Windows(store, "train", 5, 0), options.batch, 0)
        for size in options.sizes:
            steppers = {precision: _stepper(store, size, precision, options.accelerator) for precision in PRECISIONS}
            took: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
            for _ in range(options.rounds):
                for precision, stepper in steppers.items():
                    took[precision].append(_time(stepper, batches, options.steps))
            single, half = (took[precision] for precision in PRECISIONS)
            ratios = [b / a for a, b in zip(single, half, strict=True)]
            print(
                f"{size:<6} width {SIZES[size][0]:>4}: fp32 {statistics.median(single):8.1f} ms, bf16 "
                f"{statistics.median(half):8.1f} ms, {statistics.median(ratios):.2f}× "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def _units() -> str:
    amx, dot = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    return f"AMX {'yes' if amx else 'no'}, AVX-512 BF16 {'yes' if dot else 'no'}"


def _stepper(store: Store, size: str, precision: str, accelerator: str) -> Stepper:
    torch.manual_seed(0)
    encoder = EncoderConfig(size, 5, (1, 8, 8)).build(store.variables)
    objectives = build_objectives(
        parse_objectives({"masking": {}}, TASKS), Context(encoder, store.variables, store.grid)
    )
    training = TrainingConfig(steps=100, warmup_steps=2, precision=precision, accelerator=accelerator)
    return Stepper(Pretraining(encoder, objectives, training))


def _time(stepper: Stepper, batches: TrainLoader, steps: int) -> float:
    alone = stepper.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    ends = []
    for number in range(WARM_UP + steps + 1):
        stepper.step(batches.get(number))
        stepper.wait()
        ends.append(clock())
    pairs = zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)
    return 1000 * statistics.median(after - before for before, after in pairs)


if __name__ == "__main__":
    main()

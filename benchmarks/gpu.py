"""A training step on one GPU against its GEMM peak: python benchmarks/gpu.py [--profile]

ViT-S/B/L in bf16, eager and compiled: milliseconds a step, samples a second, the arithmetic a second (counted
products and attention, forward and backward) as a share of a bf16 GEMM of 8192² measured in the same run, and peak
memory with and without activation checkpointing. Goal: at least 45 % at ViT-B. `--profile` prints where the time of a
step goes. A run on real data beside it:
  earthssl run --config configs/forecast-era5-sample.yaml --pretrain.training.accelerator gpu
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from earthssl.ssl.training.module import checkpoint_activations
from peers import ours_parts
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROWS, COLUMNS = 32, 64
BATCHES = {"small": 1024, "base": 512, "large": 256}
STEPS, WARM_UP = 20, 8


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=list(BATCHES))
    parser.add_argument("--profile", action="store_true", help="also print the kernels that take most time")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: expected a CUDA GPU, found none; run it on a machine with one")
    peak = _gemm_peak()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {ROWS}×{COLUMNS}, 12 variables, patch 4")
    print(f"bf16 GEMM of 8192²: {peak / 1e12:.0f} TFLOP/s\n")
    print("| encoder, batch | variant | ms a step | samples/s | share of the GEMM peak | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in options.sizes:
        for compiled, forget in ((False, False), (True, False), (True, True)):
            step, flops = _step(size, compiled, forget)
            seconds = _time(step)
            memory = torch.cuda.max_memory_allocated() / 2**30
            name = ("compiled" if compiled else "eager") + (", activation checkpointing" if forget else "")
            batch = BATCHES[size]
            cells = (f"{1e3 * seconds:.1f}", f"{batch / seconds:.0f}", f"{flops / seconds / peak:.2f}", f"{memory:.1f}")
            print(f"| {size}, {batch} | {name} | {' | '.join(cells)} |", flush=True)
            if options.profile and compiled and not forget:
                _profile(step)


def _step(size: str, compiled: bool, forget: bool) -> tuple[Callable[[], None], float]:
    """Return a step of training and its arithmetic, FLOPs (recomputing is not counted)."""
    torch.manual_seed(0)
    encoder, objective, data = ours_parts(size, ROWS, COLUMNS, BATCHES[size])
    model, data = nn.ModuleList([encoder, objective]).cuda(), data.to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = objective(encoder, data).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    flops = float(counter.get_total_flops())
    if forget:
        checkpoint_activations(encoder, objective)
    if compiled:
        for module in model.modules():
            if type(module).__name__ == "Block":
                module.compile(dynamic=False)
    return step, flops


def _time(step: Callable[[], None]) -> float:
    """Return the median seconds of a step after a warm-up."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _gemm_peak() -> float:
    """Return the FLOP/s of a large bf16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / _time(lambda: torch.mm(a, b))


def _profile(step: Callable[[], None]) -> None:
    with torch.profiler.profile() as found:
        for _ in range(3):
            step()
    print("\n" + found.key_averages().table(sort_by="self_cuda_time_total", row_limit=20) + "\n")


if __name__ == "__main__":
    main()

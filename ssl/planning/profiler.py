"""Profiler: which operators a training step spends its time in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from ..data.loaders import TrainLoader
from ..data.windows import Windows
from ..training.module import Pretraining
from .bare_steps import Stepper

WARM_UP, STEPS = 2, 4
# parts of the names of operators and kernels, in the order they are asked
GROUPS = (
    ("attention", ("scaled_dot_product", "flash", "fmha", "softmax", "aten::bmm", "baddbmm")),
    ("GEMM", ("mm", "linear", "matmul", "gemm", "cutlass", "mkldnn", "einsum")),
    ("normalisation", ("layer_norm", "norm")),
    ("optimiser", ("adam",)),
)


@dataclass(frozen=True)
class Profile:
    """Where a step's time goes.

    Attributes:
        device: cpu or cuda: whose time it is.
        operators: Name, self time (ms a step) and calls a step, longest first.
        shares: Of the time, by group: GEMM, attention, normalisation, optimiser, other.
        step_ms: Sum of all self times, ms a step.
    """

    device: str
    operators: list[tuple[str, float, float]]
    shares: dict[str, float]
    step_ms: float

    def lines(self, most: int = 15) -> list[str]:
        """Return the table to be read."""
        made = [f"{'operator':<58} {'ms/step':>9} {'share':>6} {'calls':>6}"]
        for name, ms, calls in self.operators[:most]:
            made.append(f"{name[:58]:<58} {ms:>9.2f} {100 * ms / self.step_ms:>5.1f}% {calls:>6.0f}")
        parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.shares.items())
        return [*made, f"of {self.step_ms:.1f} ms ({self.device}): {parts}"]


def group_of(name: str) -> str:
    """Return the group of an operator or kernel."""
    low = name.lower()
    return next((group for group, parts in GROUPS if any(part in low for part in parts)), "other")


def profile_steps(module: Pretraining, windows: Windows, trace: Path | None = None) -> Profile:
    """Return the profile of a few steps after a warm-up, and write a Chrome trace where one is asked for.

    The module is trained by these steps.
    """
    stepper = Stepper(module)
    config = module.config
    loader = TrainLoader(windows, config.batch_size, config.seed, grouping=config.batches)
    cuda = stepper.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    for number in range(WARM_UP):
        stepper.step(loader.get(number))
    with profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=STEPS, repeat=1)) as held:
        for number in range(1 + STEPS):
            stepper.step(loader.get(WARM_UP + number))
            stepper.wait()
            held.step()
    kind = "self_device_time_total" if cuda else "self_cpu_time_total"
    found = [
        (event.key, float(getattr(event, kind)) / 1000 / STEPS, event.count / STEPS)
        for event in held.key_averages()
        if not event.key.startswith("ProfilerStep")
    ]
    operators = sorted([one for one in found if one[1] > 0], key=lambda one: -one[1])
    total = sum(ms for _, ms, _ in operators)
    shares = dict.fromkeys([*[group for group, _ in GROUPS], "other"], 0.0)
    for name, ms, _ in operators:
        shares[group_of(name)] += ms / total
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        temporary = trace.with_name(f".{trace.stem}.new.json")
        held.export_chrome_trace(str(temporary))
        temporary.replace(trace)
    return Profile(stepper.device.type, operators, shares, total)

"""plan: what a pretraining run will take, from a trial of its first steps, before it is started."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..common.files import existing
from ..data.mixture import HOME, weights_of
from ..model.encoder import SIZES
from ..store.store import MAPS
from ..training.precision import choose
from ..training.pretrain import PretrainConfig
from .store_outline import Sketch
from .trial_run import SHARE, Trial, needed

DAY_S = 86400.0
FILE_BYTES = 2**16  # of a checkpoint's record and manifest, besides their lists


@dataclass(frozen=True)
class Plan:
    """What a run will take: sizes in bytes, times in seconds.

    Attributes:
        device, threads: Where it was tried.
        precision, precision_why: What it trains in, and why.
        counts: Parameters, tokens, FLOPs a step, windows.
        steps, steps_an_epoch, epochs: Of the optimiser; of several data sets, the steps that home's windows take, and
            how often these are seen in the steps that home's weight gives them.
        step_s: Mean of the timed steps but for the tenth at either end; a mean, as masks of several kinds take
            several times.
        median_step_s, timed_steps: The median, and how many were timed; 0 where the batch does not fit.
        epoch_s, run_s: Of an epoch's steps, and of the whole run with validation, health and saving.
        run_parts_s: What `run_s` is made of.
        device_days: Days of one device (GPU, or CPU process) that the run takes.
        memory: Bytes by what holds them; `peak` is what the system will show, `must` what must be free. On a GPU they
            are of the GPU, and the fields stay in RAM (`ram`).
        free_bytes: What is free now.
        disk: Bytes by file, and `total` with the second copy while a state is replaced.
        free_disk_bytes: What the run's disk has free.
        warnings, proposals: In words.
        source: Where the shape of the data came from.
    """

    device: str
    threads: int
    precision: str
    precision_why: str
    counts: dict[str, float]
    steps: int
    steps_an_epoch: float
    epochs: float
    step_s: float
    median_step_s: float
    timed_steps: int
    epoch_s: float
    run_s: float
    run_parts_s: dict[str, float]
    device_days: float
    memory: dict[str, int]
    free_bytes: int | None
    disk: dict[str, int]
    free_disk_bytes: int
    source: str
    warnings: list[str] = field(default_factory=list)
    proposals: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        return asdict(self)


def make_plan(
    config: PretrainConfig, sketch: Sketch, trial: Trial, has_store: bool, checkpointed: Trial | None = None
) -> Plan:
    """Return the plan of a run from its trial.

    Args:
        config: The run.
        sketch: Of its store.
        trial: Of its first steps on the sketch.
        has_store: Whether the store is there already, so that its disk is taken.
        checkpointed: A trial of growing batches with activation checkpointing, to propose it with its numbers.
    """
    training = config.training
    epoch_steps = trial.counts["batches_an_epoch"] / training.accumulate
    share = weights_of(config.stores)[0] / sum(weights_of(config.stores))
    step, median = _typical(trial)
    parts = _times(config, trial, step)
    run_s = sum(parts.values())
    memory = _memory(config, sketch, trial)
    disk = _disk(sketch, trial, has_store)
    free_disk = shutil.disk_usage(existing(Path(config.out))).free
    arithmetic = choose(training.precision, training.accelerator, SIZES[config.encoder.size][0])
    plan = Plan(
        device=trial.device,
        threads=trial.threads,
        precision=arithmetic.precision,
        precision_why=arithmetic.why,
        counts=trial.counts,
        steps=training.steps,
        steps_an_epoch=epoch_steps,
        epochs=share * training.steps / epoch_steps,
        step_s=step,
        median_step_s=median,
        timed_steps=len(trial.steps_s),
        epoch_s=step * epoch_steps,
        run_s=run_s,
        run_parts_s=parts,
        device_days=run_s * training.devices / DAY_S,
        memory=memory,
        free_bytes=trial.free_bytes,
        disk=disk,
        free_disk_bytes=free_disk,
        source=sketch.source,
    )
    plan = replace(plan, warnings=_warnings(plan) + _sets(config, share))
    return replace(plan, proposals=_proposals(plan, config, trial, checkpointed))


def _typical(trial: Trial) -> tuple[float, float]:
    """Return the trimmed mean and the median of a step; from the largest small batch where its own was not tried."""
    ordered = sorted(trial.steps_s)
    if not ordered:
        return 0.0, 0.0
    cut = len(ordered) // 10
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept), ordered[len(ordered) // 2]


def _times(config: PretrainConfig, trial: Trial, step_s: float) -> dict[str, float]:
    """Return the seconds of a run by what takes them, as the engine does it."""
    training = config.training
    every = min(training.val_every, training.steps)
    validations = training.steps // every
    saves = validations + sum(
        1 for step in range(training.save_every, training.steps + 1, training.save_every) if step % training.val_every
    )
    batches = math.ceil(trial.counts["val_windows"] / training.batch_size)
    a_window = trial.health_s / max(1.0, trial.counts["health_windows"])
    probe = a_window * trial.counts["train_windows"] * validations if config.online_probe.task else 0.0
    return {
        "setup": trial.setup_s + trial.first_s,
        "steps": step_s * training.steps,
        "validation": validations * batches * trial.val_batch_s,
        "health": (validations + 1) * trial.health_s,
        "online probe": probe,
        "saving": saves * trial.save_s,
    }


def _memory(config: PretrainConfig, sketch: Sketch, trial: Trial) -> dict[str, int]:
    """Return the bytes of a run by what holds them."""
    own = config.training.batch_size
    fields = int(trial.counts["resident_steps"]) * sketch.step_bytes
    # The chunks last read stay mapped and count as this process's; the system may take their pages back.
    mapped = min(int(trial.counts["streamed_steps"]), MAPS * sketch.template.chunk_steps)
    mapped = mapped * sketch.template.chunk_bytes // sketch.template.chunk_steps
    weights = int(trial.counts["weight_bytes"])
    extra = (2 if config.training.ema else 0) * weights
    # Before the first step of the optimiser there are no moments.
    step = trial.peak_bytes if trial.fits else needed(trial.base_bytes, trial.sizes, own) + 2 * weights + extra
    host = fields + sketch.statistics_bytes
    step_only = max(0, step - trial.base_bytes)
    if trial.device == "cpu":
        peak, must = step + host + mapped, step + host
    else:
        peak = must = step
    return {
        "program": trial.base_bytes,
        "step": step_only,
        "fields": fields,
        "statistics": sketch.statistics_bytes,
        "mapped": mapped,
        "peak": peak,
        "must": must,
        "ram": host if trial.device != "cpu" else must,
    }


def _disk(sketch: Sketch, trial: Trial, has_store: bool) -> dict[str, int]:
    """Return the bytes on disk by what is written."""
    checkpoint = int(trial.counts["weight_bytes"]) + sketch.statistics_bytes + FILE_BYTES
    # The golden window: values (4 bytes) and validity (1 byte) of its cells.
    checkpoint += int(trial.counts["span"]) * sketch.field.size * 5
    weights = int(trial.counts["weight_bytes"])
    state = trial.state_bytes or 3 * weights
    store = 0 if has_store else sketch.disk_bytes
    return {
        "store": sketch.disk_bytes,
        "checkpoint": checkpoint,
        "last.ckpt": state,
        "total": store + checkpoint + 2 * state,
    }


def _room(device: str, free: int | None, program: int) -> float | None:
    """Return what a run may take; on a CPU the trial's own program was there already when the rest was counted."""
    return None if free is None else SHARE * free + (program if device == "cpu" else 0)


def _warnings(plan: Plan) -> list[str]:
    said = []
    need, room = plan.memory["must"], _room(plan.device, plan.free_bytes, plan.memory["program"])
    if room is not None and need > room:
        what = "GPU memory" if plan.device != "cpu" else "RAM"
        said.append(
            f"the run needs {size(need)} of {what}, {size(room)} can be had: it would go out of memory"
            + (f" (the fields alone take {size(plan.memory['fields'])})" if plan.device == "cpu" else "")
        )
    if plan.disk["total"] > plan.free_disk_bytes:
        said.append(f"the run writes {size(plan.disk['total'])}, its disk has {size(plan.free_disk_bytes)} free")
    if plan.epochs < 1:
        said.append(f"{plan.steps} steps see {100 * plan.epochs:.0f} % of the training windows once")
    return said


def _sets(config: PretrainConfig, share: float) -> list[str]:
    """Return what the plan leaves out where there are several data sets."""
    others = [name for name in config.stores if name != HOME]
    if not others:
        return []
    return [
        f"{share:.0%} of the batches are home's, which alone was tried: those of {', '.join(others)} take time by "
        "their own tokens, and their fields memory of their own"
    ]


def short_of_memory(plan: Plan) -> bool:
    """Return whether the run would need more memory than it may take."""
    room = _room(plan.device, plan.free_bytes, plan.memory["program"])
    return room is not None and plan.memory["must"] > room


def _proposals(plan: Plan, config: PretrainConfig, trial: Trial, checkpointed: Trial | None) -> list[str]:
    """Return what would make the run fit, with its numbers; empty where it fits."""
    if not short_of_memory(plan):
        return []
    room = _room(trial.device, trial.free_bytes, trial.base_bytes) or 0.0
    held = plan.memory["must"] - plan.memory["step"]
    own = config.training.batch_size
    slack = plan.memory["step"] - max(0, needed(trial.base_bytes, trial.sizes, own) - trial.base_bytes)
    said = []
    size_now = own // 2
    while size_now >= 1:
        step = needed(trial.base_bytes, trial.sizes, size_now) - trial.base_bytes + max(0, slack)
        if held + step <= room:
            times = math.ceil(own * config.training.accumulate / size_now)
            said.append(
                f"--training.batch_size {size_now} --training.accumulate {times}: {size(held + step)}, the same "
                f"{own * config.training.accumulate} windows a step (tasks that compare the windows of a batch see "
                f"{size_now} at once)"
            )
            break
        size_now //= 2
    if checkpointed is not None and checkpointed.sizes and trial.sizes:
        step = needed(checkpointed.base_bytes, checkpointed.sizes, own) - checkpointed.base_bytes + max(0, slack)
        if held + step <= room:
            slower = _common_ratio(checkpointed, trial)
            said.append(
                f"--training.checkpoint_activations true: {size(held + step)} at the same batch size, a forward and "
                f"backward pass takes {slower:.2f} times as long"
            )
    if not said:
        said.append(
            f"the fields and the program alone take {size(held)} of {size(room)}: shorten splits.train, take fewer "
            "variables or a coarser grid, or a machine with more memory"
        )
    return said


def _common_ratio(a: Trial, b: Trial) -> float:
    """Return how many times as long a pass of the largest batch that both tried takes in `a`."""
    times = {one.batch_size: one.seconds for one in b.sizes}
    common = [one for one in a.sizes if one.batch_size in times]
    return common[-1].seconds / times[common[-1].batch_size]


def size(count: float) -> str:
    """Return bytes in words: MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rows(plan: Plan) -> list[tuple[str, str]]:
    """Return the plan as names and values to be read."""
    c, m, d = plan.counts, plan.memory, plan.disk
    unit = "GPU-days" if plan.device == "cuda" else "CPU-days (one process)"
    made = [
        ("data", plan.source),
        ("device", f"{plan.device}, {plan.threads} threads"),
        ("precision", f"{plan.precision}: {plan.precision_why}"),
        ("parameters", f"encoder {c['encoder_parameters']:,.0f}, heads {c['head_parameters']:,.0f}"),
        ("tokens a window", f"{c['visible_tokens']:.1f} encoded, of {c['tokens']:.0f}"),
        ("arithmetic", f"{c['flops_a_step'] / 1e9:,.2f} GFLOP a step, forward and backward"),
        ("windows", f"{c['train_windows']:,.0f} training, {c['val_windows']:,.0f} validation"),
        ("steps", f"{plan.steps:,} = {plan.epochs:.2f} epochs of {plan.steps_an_epoch:.1f}"),
    ]
    if plan.timed_steps:
        speed = c["flops_a_step"] / plan.step_s / 1e9
        parts = ", ".join(f"{name} {duration(value)}" for name, value in plan.run_parts_s.items() if value)
        made += [
            ("a step", f"{duration(plan.step_s)} (median of {plan.timed_steps}: {duration(plan.median_step_s)}), "
                       f"{speed:,.1f} GFLOP/s"),
            ("an epoch", duration(plan.epoch_s)),
            ("the run", f"{duration(plan.run_s)} = {plan.device_days:.3g} {unit}"),
            ("  made of", parts),
        ]  # fmt: skip
    else:
        made.append(("a step", "not timed: it does not fit"))
    where = "RAM" if plan.device == "cpu" else "GPU memory"
    kept = ", ".join(f"{name} {size(m[name])}" for name in ("program", "step", "fields", "statistics"))
    free = "unknown" if plan.free_bytes is None else size(plan.free_bytes)
    made += [
        (where, f"{size(m['must'])} needed, {free} more free now"),
        ("  made of", kept),
        ("  peak shown", f"{size(m['peak'])}, {size(m['mapped'])} of it mapped from the store and given back at need"),
        ("disk", f"store {size(d['store'])}, checkpoint {size(d['checkpoint'])}, last.ckpt {size(d['last.ckpt'])}"),
    ]
    return made


def table(plan: Plan, width: int | None = None) -> str:
    """Return the plan as a table for the terminal, warnings and proposals under it."""
    grid = Table("what", "plan", title="Plan", show_edge=False, title_justify="left")
    for name, value in rows(plan):
        grid.add_row(name, value)
    text = StringIO()
    console = Console(file=text, width=width or max(80, shutil.get_terminal_size((110, 24)).columns))
    console.print(grid)
    for words in plan.warnings:
        console.print(f"warning: {words}", markup=False, soft_wrap=True)
    for words in plan.proposals:
        console.print(f"proposal: {words}", markup=False, soft_wrap=True)
    return text.getvalue().rstrip()

"""What fine-tuning gains over the frozen linear probe, by years of labels: python benchmarks/finetune_curve.py …

For each number of label years (the first ones of the training block): the linear probe of the frozen encoder (layer,
pooling, components and penalty chosen for each target by itself), every mode of fine-tuning, and the same network from
scratch with the same budget. A network tells all targets; validation chooses its step by their mean error; the test
block is read once. Every network is a file in --out, and so is the state of the one in training: killed, the same
command goes on. The table is printed after each network from what is there: skill over the monthly climatology of the
labels, and paired differences, 95 % over blocks of two test years.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from earthssl.downstream.evaluation.encoders import untrained
from earthssl.downstream.finetune.config import FinetuningConfig
from earthssl.downstream.finetune.samples import Base
from earthssl.downstream.finetune.task import Finetuning
from earthssl.downstream.finetune.tuning import FrozenTokens, Problem, make_network, outputs, tune
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.results.target import number_target
from earthssl.ssl.store.store import Store
from threadpoolctl import threadpool_limits

PROBE, SCRATCH = "probe", "scratch"
NAMES = {PROBE: "linear probe, frozen", "full": "full", "last": "last", "lora": "LoRA", SCRATCH: "from scratch"}


def labels_of(args: argparse.Namespace, years: int, store: Store) -> Path:
    """Write the labels of the first years of training, and every n-th of validation and test; return the file."""
    file = Path(args.out) / f"labels-{years}.csv"
    if file.is_file():
        return file
    table = pd.read_csv(args.labels, usecols=["time", *args.targets])
    times = table["time"].to_numpy("datetime64[s]")
    first = np.datetime64(store.splits.train[0], "Y")
    labelled = times.astype("datetime64[Y]") < first + years
    later = times > np.datetime64(store.splits.train[1], "s")
    kept = table[labelled | (later & (np.arange(len(times)) % args.stride == 0))]
    made = file.with_suffix(".part")
    kept.to_csv(made, index=False)
    os.replace(made, file)
    return file


def alone(problem: Problem, k: int) -> Problem:
    """Return the problem of one of its targets."""
    samples, base = problem.samples, problem.samples.base
    one = Base(base.monthly, base.values[:, [k]], base.scale[[k]])
    return replace(problem, samples=replace(samples, target=samples.target[:, [k]], base=one))


def write(file: Path, **arrays: Any) -> None:
    """Write arrays whole or not at all."""
    made = file.with_name(f".{file.name}")
    with open(made, "wb") as handle:
        np.savez(handle, **arrays)
    os.replace(made, file)


def cells(args: argparse.Namespace, years: int, store: Store) -> None:
    """Make what is not there of one number of years."""
    out = Path(args.out)
    wanted = [PROBE, *args.modes]
    if all((out / f"{years}-{mode}.npz").is_file() for mode in wanted):
        return
    settings: dict[str, Any] = {"steps": args.steps, "lr": args.lr, "check_every": args.check_every,
                                "components": args.components, "missing": "drop"}  # fmt: skip
    task = Finetuning(
        FinetuningConfig(
            checkpoint=args.checkpoint, store=args.store, labels=str(labels_of(args, years, store)),
            target=args.targets, out=str(out / "none"), units="1", unit="year", **settings,
        ),
        store,
    )  # fmt: skip
    problem, samples = task.problem, task.problem.samples
    test = samples.parts["test"]
    print(f"{years} years: {samples.counts}", flush=True)
    file = out / f"start-{years}.pkl"
    if not file.is_file():
        patch, last = task.encoder_shape.patch, task.encoder.depth - 1
        tokens = FrozenTokens.extract(task.encoder, problem.windows, samples, [last - 1, last], problem.near, "tokens")
        heads = [alone(problem, k).linear(tokens, patch, [last - 1, last]).head for k in range(len(args.targets))]
        start = problem.linear(tokens, patch, [last])
        made = file.with_suffix(".part")
        made.write_bytes(pickle.dumps((start, [(one.settings, one.predicted[:, 0]) for one in heads])))
        os.replace(made, file)
    start, probes = pickle.loads(file.read_bytes())
    times = samples.times[test].astype("datetime64[s]").astype(np.int64)
    known = {"truth": samples.departures(test), "times": times}
    write(out / f"{years}-{PROBE}.npz", said=np.stack([said for _, said in probes], 1), **known)
    task._starts["pretrained"] = start
    for mode in args.modes:
        file = out / f"{years}-{mode}.npz"
        if file.is_file():
            continue
        begun, new = time.process_time(), mode == SCRATCH
        encoder = untrained(task.encoder_shape, store, args.seed) if new else task.encoder
        network = make_network(problem, encoder, task._start("scratch" if new else "pretrained", encoder, None))
        state = out / f"{years}-{mode}.state.pt"
        done = tune(problem, network, task.own.training(mode), args.seed, f"{years} years, {mode}", (), state)
        write(
            file, said=outputs(problem, network, test), steps=done.steps, averaged=done.averaged,
            again=done.solved_again, score=done.score, start=done.history[0][1],
            seconds=time.process_time() - begun, **known,
        )  # fmt: skip
        state.unlink()
        print(f"{years} {mode}: {done}", file=sys.stderr)
        print(table(args), flush=True)


def table(args: argparse.Namespace) -> str:
    """Return the table of the cells that are there, as Markdown."""
    lines = [
        "| target | label years | row | skill | minus linear probe | minus from scratch | step |",
        "| --- " * 7 + "|",
    ]
    for k, target in enumerate(args.targets):
        for years in sorted(args.years):
            files = {mode: Path(args.out) / f"{years}-{mode}.npz" for mode in NAMES}
            found = {mode: dict(np.load(file)) for mode, file in files.items() if file.is_file()}
            if not found:
                continue
            one = next(iter(found.values()))
            unit = one["times"].astype("datetime64[s]").astype("datetime64[Y]").astype(int)
            truth = number_target(target, one["truth"][:, k], np.zeros(len(unit)), unit, block=2)
            rows = [Row(mode, Role.TUNED, {target: cell["said"][:, k]}) for mode, cell in found.items()]
            scores, pairs = tables([truth], rows, draws=2000, references=[PROBE, SCRATCH])
            skill = scores[(scores.metric == "skill") & (scores.seed == "")].set_index("row")["value"]
            paired = pairs[pairs.metric == "skill"].set_index(["row", "reference"])
            for mode, cell in found.items():
                told = [_pair(paired, mode, other) for other in (PROBE, SCRATCH)]
                words = [
                    word for word, key in (("averaged", "averaged"), ("head solved again", "again")) if cell.get(key)
                ]
                step = ", ".join([str(cell["steps"]), *words]) if "steps" in cell else "–"
                lines.append(
                    f"| {target} | {years} | {NAMES[mode]} | {skill[mode]:.3f} | {' | '.join(told)} | {step} |"
                )
    return "\n".join(lines)


def _pair(paired: pd.DataFrame, row: str, reference: str) -> str:
    if (row, reference) not in paired.index:
        return "–"
    one = paired.loc[(row, reference)]
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "store", "labels", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("--years", nargs="+", type=int, default=[20, 5, 40, 10])
    parser.add_argument("--modes", nargs="+", default=["full", SCRATCH, "last", "lora"], choices=list(NAMES)[1:])
    parser.add_argument("--components", nargs="+", type=int, default=[20, 80, 300])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--check_every", type=int, default=25)
    parser.add_argument("--stride", type=int, default=2, help="every how manieth label of validation and test")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    store = Store(args.store)
    with threadpool_limits(1, "blas"):
        for years in args.years:
            cells(args, years, store)
    print(table(args))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main()

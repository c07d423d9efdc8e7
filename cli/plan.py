"""The verb plan: trials, finders and the profiler wired to the pretext tasks, and what they say in words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..pretext import TASKS
from ..ssl.common.config import build, override, read_yaml, section
from ..ssl.common.errors import EarthSSLError, nearest
from ..ssl.planning.finders import draw_rates, find_batch, find_rate
from ..ssl.planning.plan import make_plan, short_of_memory, table
from ..ssl.planning.profiler import profile_steps
from ..ssl.planning.store_outline import Sketch, sketch_source, sketch_store
from ..ssl.planning.trial_run import Trial, TrialJob, run_apart, run_trial
from ..ssl.prepare.config import PrepareConfig
from ..ssl.store.store import Store
from ..ssl.training.pretrain import PretrainConfig, assemble
from .folds import splits_of

FINDERS = ("lr", "batch")
MOST = 4096  # windows: the largest batch that is tried


def plan(
    file: str | Path,
    store: str | None,
    words: list[str],
    *,
    find: str = "",
    profile: bool = False,
    out: str | None = None,
    as_json: bool = False,
) -> str:
    """Return what a pretraining run would take, in words or JSON; the run's folders stay untouched.

    Args:
        file: Config of the run, with a section pretrain, and prepare where there is no store yet.
        store: A finished store; the config's own where None, else the shape is taken from its source.
        words: Overrides of the section pretrain.
        find: "lr" or "batch" to run a finder instead.
        profile: Whether to profile a few steps instead.
        out: File of the finder's picture or the profiler's trace.
        as_json: Whether the text is JSON.

    Raises:
        EarthSSLError: If config and data do not fit, or nothing fits the memory.
    """
    if find and find not in FINDERS:
        raise EarthSSLError(f"--find: expected {' or '.join(FINDERS)}, got '{find}'." + nearest(find, FINDERS))
    settings = override(section(file, "pretrain"), words, PretrainConfig)
    settings.pop("seeds", None)
    given = store or str(settings.get("store", ""))
    settings = {"out": ".", **settings, "store": given}
    config: Any = build(PretrainConfig, settings, "pretrain")
    if find == "lr":
        return _rate(config, given, Path(out or "lr-finder.png"), as_json)
    sketch = sketch_store(given) if store or (given and Path(given).exists()) else _from_source(file)
    if profile:
        module, train, _ = assemble(config, sketch, TASKS, settled=False)
        found = profile_steps(module, train, Path(out) if out else None)
        return (
            json.dumps(asdict(found)) if as_json else "\n".join([*found.lines(), *([f"trace: {out}"] if out else [])])
        )
    if find == "batch":
        return _batch(config, sketch, as_json)
    job = TrialJob(config, sketch, threads=torch.get_num_threads())
    trial: Trial = run_apart(try_run, job)
    made = make_plan(config, sketch, trial, sketch.finished)
    if short_of_memory(made) and not config.training.checkpoint_activations:
        saving = replace(config, training=replace(config.training, checkpoint_activations=True))
        largest = max((one.batch_size for one in trial.sizes), default=2)
        job = replace(job, config=saving, full=False, largest=largest)
        made = make_plan(config, sketch, trial, sketch.finished, run_apart(try_run, job))
    return json.dumps(made.to_json()) if as_json else table(made)


def try_run(job: TrialJob) -> Trial:
    """Return the trial of a run; called in a process of its own that imports what a run imports."""
    from . import verbs  # noqa: F401 (its memory is the run's, too)

    return run_trial(job, TASKS)


def _from_source(file: str | Path) -> Sketch:
    if "prepare" not in read_yaml(file):
        raise EarthSSLError(
            f"{file}: expected a store, or a section 'prepare:' to take the shape of the data from; give --store FOLDER"
        )
    settings = {**section(file, "prepare"), "out": "."}
    if "folds" in read_yaml(file) and "splits" not in settings:
        settings["splits"] = splits_of(section(file, "folds"))[0]  # the folds' runs are alike
    config: Any = build(PrepareConfig, settings, "prepare")
    return sketch_source(config)


def _rate(config: PretrainConfig, store: str, picture: Path, as_json: bool) -> str:
    if not store:
        raise EarthSSLError("plan --find lr: expected a store with data to learn from, got none; give --store FOLDER")
    module, train, _ = assemble(config, Store(store), TASKS)
    test = find_rate(module, train)
    draw_rates(test, picture)
    if as_json:
        return json.dumps({**test.to_json(), "picture": str(picture)})
    end = "" if test.blown_up is None else f"; the loss blew up at {test.blown_up:.1e}"
    return (
        f"learning rate {test.best:.1e}: the smoothed loss falls most steeply there{end}\n"
        f"(a range test of {len(test.rates)} batches without warm-up; the run's is {config.training.lr:.1e})\n"
        f"picture: {picture}"
    )


def _batch(config: PretrainConfig, sketch: Sketch, as_json: bool) -> str:
    job = TrialJob(config, sketch, threads=torch.get_num_threads(), full=False, largest=MOST)
    trial: Trial = run_apart(try_run, job)
    weights = trial.counts["weight_bytes"]
    fields = trial.counts["resident_steps"] * sketch.step_bytes if trial.device == "cpu" else 0
    test = find_batch(trial, int(3 * weights + fields))
    return json.dumps(test.to_json()) if as_json else "\n".join(test.lines())

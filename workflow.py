"""Where ssl, pretext and downstream are wired together: the verbs as functions."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .downstream.enso import EnsoTask, sst_variable
from .downstream.excess import excess_summary
from .downstream.finetuning import FinetuningConfig, finetune
from .downstream.matrix import (
    UNTRAINED,
    MatrixConfig,
    cell_file,
    evaluate_once,
    folder_name,
    layers_of,
    matrix_summary,
    references_once,
    untrained,
)
from .downstream.paired import FEWEST_UNITS
from .downstream.probe import ProbeConfig
from .downstream.probe_scores import probe_scores
from .downstream.report import ReportConfig, report
from .downstream.summary import Summary
from .downstream.tasks import ENSO, make_frozen, probe_config, probe_function
from .pretext import TASKS
from .pretext.audit import AuditConfig, audit_task
from .pretext.masking import Masking
from .ssl.batch import from_fields
from .ssl.card import card
from .ssl.checkpoint import Record, attach_scores, load_encoder, read, read_record
from .ssl.config import build
from .ssl.data import TrainLoader, Windows
from .ssl.encoder import Encoder, EncoderConfig
from .ssl.engine import TrainingConfig
from .ssl.errors import EarthSSLError
from .ssl.files import read_json, refuse_filled, sha256, write_json
from .ssl.monitor import ProbeLabels
from .ssl.multitask import build_objectives
from .ssl.objective import Context
from .ssl.parallel import run_jobs
from .ssl.prepare import PrepareConfig, prepare
from .ssl.pretrain import OnlineProbeConfig, PretrainConfig, load_objectives, parse_objectives
from .ssl.pretrain import pretrain as run_pretrain
from .ssl.stop import between_steps
from .ssl.store import Store

VERBS: dict[str, type] = {
    "prepare": PrepareConfig,
    "pretrain": PretrainConfig,
    "probe": ProbeConfig,
    "finetune": FinetuningConfig,
    "report": ReportConfig,
    "audit": AuditConfig,
    "matrix": MatrixConfig,
}


def config_of(verb: str, settings: dict[str, Any]) -> type:
    """Return the class of a verb's config; a probe's depends on its task."""
    return probe_config(settings.get("task", ENSO)) if verb == "probe" else VERBS[verb]


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain with the tasks of pretext/ and return the checkpoint's folder."""
    label = None
    if config.online_probe.task:
        online = config.online_probe
        if online.task != "enso":
            raise EarthSSLError(f"online_probe.task: expected enso or nothing, got '{online.task}'")
        label = enso_labels(online)
    return run_pretrain(config, TASKS, label)


def probe(config: Any, command: str = "") -> Path:
    """Probe frozen encoders beside their baselines and return the folder of the tables.

    Args:
        config: `ProbeConfig` (ENSO), or the config of another task of downstream/tasks.py.
        command: As typed, for the record.
    """
    run = probe_function(config.task)
    if config.task == "infilling":
        # Rebuilding fields takes the decoder of the pretext task, which downstream/ does not know.
        return Path(run(config, fillers(config.checkpoints), command))
    return Path(run(config, command))


def fillers(checkpoints: list[str]) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None]:
    """Return for each checkpoint what rebuilds gappy windows with its pretrained decoder; None where it has none.

    A filler takes normalised fields (window, time, variable, row, column), NaN where nothing is observed, and
    their times (window, time), and returns the fields without gaps.
    """
    made: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None] = {}
    for path in checkpoints:
        folder = Path(path) / "checkpoint" if (Path(path) / "checkpoint").is_dir() else Path(path)
        encoder, objectives = load_objectives(folder, TASKS)
        masking = objectives.tasks().get("masking")
        made[path] = partial(_filled, encoder, masking, read(folder)[1]) if isinstance(masking, Masking) else None
    return made


def _filled(encoder: Encoder, masking: Masking, record: Record, fields: np.ndarray, times: np.ndarray) -> np.ndarray:
    batch = from_fields(
        torch.from_numpy(fields).float(),
        torch.from_numpy(times.astype("datetime64[s]").astype(np.int64)),
        torch.zeros(len(fields), dtype=torch.int64),
        torch.from_numpy(record.statistics.known),
        record.variables,
        record.grid,
    )
    return masking.fill(encoder, batch).numpy()


def model_card(checkpoint: str | Path, probe_folder: str | Path | None = None) -> str:
    """Return a checkpoint's model card, after attaching the table of a probe of it where one is given.

    Raises:
        EarthSSLError: If either folder is not whole, or the probe is of other weights.
    """
    folder = Path(checkpoint) / "checkpoint" if (Path(checkpoint) / "checkpoint").is_dir() else Path(checkpoint)
    if probe_folder is not None:
        attach_scores(folder, [probe_scores(probe_folder, sha256(folder / "encoder.safetensors"))])
    return card(read_record(folder))


def enso_labels(online: OnlineProbeConfig) -> Callable[[Store, Windows], ProbeLabels]:
    """Return a function that labels windows with the Niño 3.4 target at one lead.

    The probe has its own split: fitted on the first five sixths of the training block's samples, scored on the
    rest after a gap of window + lead, so that the validation block stays untouched for selection.
    """

    def label(store: Store, windows: Windows) -> ProbeLabels:
        name = sst_variable(store.variables, store.path)
        task = EnsoTask.from_dataset(store.dataset([name]), store.splits, [online.lead], windows.length)
        rows = windows.starts + windows.length - 1
        usable = np.flatnonzero(task.samples("train")[0][rows])
        cut, gap = len(usable) * 5 // 6, windows.length + online.lead + 1
        if len(usable) - cut - gap < 24:
            raise EarthSSLError(
                f"online_probe: expected at least 24 training windows to score on after a gap of {gap} months, got "
                f"{max(0, len(usable) - cut - gap)}; lengthen splits.train or leave the online probe out"
            )
        labels = np.nan_to_num(task.target[0][rows])
        return ProbeLabels(f"enso_lead{online.lead}", windows, usable[:cut], usable[cut + gap :], labels)

    return label


def audit(config: AuditConfig, command: str = "") -> Path:
    """Audit pretext tasks for shortcuts and return the folder of the table; goes on where it was interrupted."""
    begun = time.perf_counter()
    out = Path(config.out)
    settings = parse_objectives(config.objectives, TASKS)
    store = Store(config.store)
    longest = _rehearse(
        {name: {name: own} for name, own in config.objectives.items()}, config.encoder, config.training, store
    )
    batches = len(Windows(store, "val", longest, 0)) // config.eval_batch
    if batches < FEWEST_UNITS:
        raise EarthSSLError(
            f"audit.eval_batch: expected at least {FEWEST_UNITS} validation batches of {config.eval_batch} windows for "
            f"intervals, got {batches}; lower eval_batch or lengthen splits.val"
        )
    _open(out, "audit", {**asdict(config), "fingerprint": store.fingerprint}, ("out", "store", "jobs", "draws"))
    jobs = [(name, own, config) for name, own in settings.items()]
    table = pd.concat(run_jobs(audit_task, jobs, config.jobs), ignore_index=True)
    title = f"Shortcut audit on {_source(store)}, {config.training.steps} steps of {config.training.batch_size} windows"
    summary = excess_summary(table, title, _record(store, config, begun), config.draws)
    return _finish(summary, out / "report", command)


def matrix(config: MatrixConfig, command: str = "") -> Path:
    """Pretrain every recipe, probe every task, and return the folder of the table; finished cells are kept."""
    begun = time.perf_counter()
    out = Path(config.out)
    recipes = config.all_recipes()
    store = Store(config.store)
    _rehearse(recipes, config.encoder, config.training, store)
    layers_of(config, untrained(config.encoder, store, 0))
    for task, options in config.tasks.items():
        make_frozen(task, store, options)
    free = ("out", "store", "jobs", "draws", "block", "recipes", "leave_one_out")
    _open(out, "matrix", {**asdict(config), "fingerprint": store.fingerprint}, free)
    for name, objectives in recipes.items():
        # A recipe may be added to a matrix that has begun, but none may change under its name.
        _open(out / "recipes" / folder_name(name), f"recipe '{name}'", {"objectives": objectives}, ())
    work: list[tuple[Any, ...]] = [(config, UNTRAINED, None, seed) for seed in config.seeds]
    work += [(config, name, own, seed) for name, own in recipes.items() for seed in config.seeds]
    run_jobs(_matrix_references, [(config, task) for task in config.tasks], config.jobs)
    run_jobs(_matrix_encoder, work, config.jobs)
    title = f"Pretext × downstream × layer on {_source(store)}, {config.training.steps} steps each"
    summary = matrix_summary(out / "cells", config, title, _record(store, config, begun))
    return _finish(summary, out / "report", command)


def _rehearse(
    recipes: Mapping[str, dict[str, Any]], shape: EncoderConfig, training: TrainingConfig, store: Store
) -> int:
    """Run every recipe on one window, so that settings that cannot work are refused before anything is written.

    Returns the steps of the longest window that a task wants.
    """
    context = Context(shape.build(store.variables), store.variables, store.grid)
    built = [build_objectives(parse_objectives(objectives, TASKS), context) for objectives in recipes.values()]
    longest = max(objectives.span for objectives in built)
    windows = Windows(store, "train", longest, training.seed)
    TrainLoader(windows, training.batch_size, training.seed, grouping=training.batches)
    with torch.no_grad():
        for objectives in built:
            objectives.eval()(context.encoder, windows.batch([0, len(windows) // 2]))
    return longest


def _matrix_references(config: MatrixConfig, task: str) -> None:
    cells = Path(config.out) / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    references_once(cells, task, lambda: make_frozen(task, Store(config.store), config.tasks[task]))


def _matrix_encoder(config: MatrixConfig, row: str, objectives: dict[str, Any] | None, seed: int) -> None:
    """Pretrain one encoder unless it is there, and probe it on every task that is not done."""
    store, cells = Store(config.store), Path(config.out) / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if all(cell_file(cells, row, seed, task).is_file() for task in config.tasks):
        return
    if objectives is None:
        encoder = untrained(config.encoder, store, seed)
    else:
        run = Path(config.out) / "recipes" / folder_name(row) / f"seed{seed}"
        training = replace(config.training, seed=seed)
        checkpoint = pretrain_once(
            PretrainConfig(config.store, str(run), objectives, config.multitask, config.encoder, training)
        )
        between_steps()
        encoder = load_encoder(checkpoint).encoder
    layers = layers_of(config, encoder)
    for task, options in config.tasks.items():
        make = partial(make_frozen, task, store, options)
        evaluate_once(cells, row, seed, task, make, encoder, layers)


def pretrain_once(config: PretrainConfig) -> Path:
    """Return the checkpoint of a run: as it is where finished, resumed where a state was saved, else made anew."""
    run = Path(config.out)
    if (run / "checkpoint").exists():
        return run / "checkpoint"
    resume = (run / "last.ckpt").is_file()
    if not resume:
        shutil.rmtree(run, ignore_errors=True)
    return pretrain(replace(config, resume=resume))


def _open(folder: Path, what: str, settings: dict[str, Any], free: tuple[str, ...]) -> None:
    """Make a folder that can be gone on with, or check that it was begun with the same settings.

    Raises:
        EarthSSLError: If a setting that is not `free` differs, or the folder holds something else.
    """
    kept = json.loads(json.dumps({name: value for name, value in settings.items() if name not in free}))
    marker = folder / "begun.json"
    if not marker.is_file():
        refuse_filled(folder, f"the {what}")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, kept)
        return
    begun = read_json(marker, f"the settings of the {what}")
    changed = [name for name in kept if begun.get(name) != kept[name]]
    if changed:
        raise EarthSSLError(
            f"{folder}: the {what} was begun with another '{changed[0]}'; restore it, or choose another --out"
        )


def _finish(summary: Summary, folder: Path, command: str) -> Path:
    """Write a summary in place of that of an earlier, shorter run."""
    shutil.rmtree(folder, ignore_errors=True)
    return summary.write(folder, command)


def _source(store: Store) -> str:
    synthetic = "planet" in store.manifest["attributes"]
    rows, columns = store.grid.shape
    name = "the synthetic planet" if synthetic else store.manifest["source"]
    return f"{name}, {', '.join(store.variables)} on {rows}×{columns}"


def _record(store: Store, config: Any, begun: float) -> dict[str, Any]:
    """Return what result.json says of a run on a store."""
    return {
        "source": store.manifest["source"],
        "synthetic": "planet" in store.manifest["attributes"],
        "store_fingerprint": store.fingerprint,
        "split": store.splits.to_json(),
        "seconds": time.perf_counter() - begun,
        "config": asdict(config),
    }


def run_verb(verb: str, settings: dict[str, Any], command: str = "") -> Path:
    """Build a verb's config from plain settings, run it, and return where its results lie."""
    config: Any = build(config_of(verb, settings), settings, verb)
    with_command: dict[str, Callable[..., Path]] = {
        "probe": probe, "finetune": finetune, "audit": audit, "matrix": matrix,
    }  # fmt: skip
    if verb in with_command:
        return with_command[verb](config, command)
    functions: dict[str, Callable[[Any], Path]] = {"prepare": prepare, "pretrain": pretrain, "report": report}
    return functions[verb](config)

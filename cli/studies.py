"""Worth, before any training; audit and matrix: pretext tasks trained, judged, gone on with where interrupted."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..downstream.evaluation.encoders import untrained
from ..downstream.metrics.paired_bootstrap import FEWEST_UNITS
from ..downstream.results.summary import Summary
from ..downstream.studies.audit_table import excess_summary
from ..downstream.studies.courses import Trained
from ..downstream.studies.matrix import (
    COLUMNS,
    REFERENCES,
    UNTRAINED,
    MatrixConfig,
    cell_file,
    evaluate_once,
    folder_name,
    layers_of,
    matrix_summary,
    references_once,
)
from ..downstream.studies.worth import WorthConfig, judge, record_of, worth_text
from ..downstream.tasks.indices.task import Indices, IndicesConfig
from ..downstream.tasks.registry import matrix_task
from ..pretext import TASKS
from ..pretext.audit import AuditConfig, audit_task, task_courses
from ..pretext.standing import below_cue, standing
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import locked, read_json, refuse_filled, write_json, write_text
from ..ssl.common.versions import versions
from ..ssl.data.loaders import TrainLoader
from ..ssl.data.windows import Windows
from ..ssl.fields.splits import is_monthly
from ..ssl.inference.load import load_encoder
from ..ssl.model.encoder import SIZES, EncoderConfig
from ..ssl.runtime.cluster import Cell, Cluster
from ..ssl.runtime.parallel import run_jobs
from ..ssl.runtime.signals import between_steps
from ..ssl.store.store import Store
from ..ssl.training.budget import Course
from ..ssl.training.config import TrainingConfig
from ..ssl.training.multitask import build_objectives
from ..ssl.training.objective import Context
from ..ssl.training.pretrain import CHECKPOINT, HISTORY, PretrainConfig, parse_objectives
from .pretrain import pretrain_once

STANDING = "standing.csv"


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
    jobs = [(name, own, config) for name, own in settings.items()]
    free = ("out", "store", "jobs", "scheduler", "draws")
    with _cluster(config.scheduler, "audit") as cluster:
        marker = open_study(out, "audit", {**asdict(config), "fingerprint": store.fingerprint}, free)
        with locked(out):
            if cluster is None:
                found = run_jobs(audit_task, jobs, config.jobs)
            else:
                found = cluster.run([Cell(own[0], audit_task, own) for own in jobs], marker)
            table = pd.concat(found, ignore_index=True)
            title = f"Shortcut audit on {_source(store)}, up to {_budget(config.training)}"
            trained = _trained_solvers(config, table)
            summary = excess_summary(table, title, _record(store, config, begun), config.draws, trained)
            return finish(summary, out / "report", command)


def _cluster(address: str, verb: str) -> AbstractContextManager[Cluster | None]:
    return Cluster(address, verb) if address else nullcontext()


def _budget(training: TrainingConfig) -> str:
    return f"{training.steps} steps of {training.batch_size} windows"


def _trained_solvers(config: AuditConfig, table: pd.DataFrame) -> list[Trained]:
    """Return what each training of an audit made of its budget; the analytic cues are levels beside them."""
    skills = table[table["kind"] == "analytic"].groupby(["task", "solver"], sort=False)["skill"].mean()
    made = []
    for name in config.objectives:
        levels = skills[name].to_dict() if name in skills.index.get_level_values(0) else {}
        made += [Trained(name, solver, course, levels) for solver, course in task_courses(name, config).items()]
    return made


def matrix(config: MatrixConfig, command: str = "") -> Path:
    """Pretrain every recipe, probe every task, and return the folder of the table; finished cells are kept."""
    begun = time.perf_counter()
    out = Path(config.out)
    recipes = config.all_recipes()
    store = Store(config.store)
    _rehearse(recipes, config.encoder, config.training, store)
    layers_of(config, untrained(config.encoder, store, 0))
    for task, options in config.tasks.items():
        matrix_task(task, store, options, config.encoder)
    free = ("out", "store", "jobs", "scheduler", "draws", "block", "recipes", "leave_one_out")
    with _cluster(config.scheduler, "matrix") as cluster:
        settings = {**asdict(config), "fingerprint": store.fingerprint, "errors": list(COLUMNS)}
        marker = open_study(out, "matrix", settings, free)
        with locked(out):
            for name, objectives in recipes.items():
                # A recipe may be added to a matrix that has begun, but none may change under its name.
                open_study(out / "recipes" / folder_name(name), f"recipe '{name}'", {"objectives": objectives}, ())
            if cluster is None:
                encoders = [(name, own, seed) for name, own in _encoders(recipes) for seed in config.seeds]
                run_jobs(_matrix_references, [(config, task) for task in config.tasks], config.jobs)
                run_jobs(_matrix_encoder, [(config, *encoder) for encoder in encoders], config.jobs)
            else:
                cluster.run(_cells(config, recipes), marker)
            title = f"Pretext × downstream × layer on {_source(store)}, up to {_budget(config.training)} each"
            trained, below = _trained_encoders(config)
            summary = matrix_summary(out / "cells", config, title, _record(store, config, begun), trained, below)
            return finish(summary, out / "report", command)


def _encoders(recipes: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any] | None]]:
    """Return the rows of a matrix that hold an encoder, with their pretext tasks."""
    return [(UNTRAINED, None), *recipes.items()]


def _cells(config: MatrixConfig, recipes: Mapping[str, dict[str, Any]]) -> list[Cell]:
    """Return the pretrainings, which take longest, then what is read without them, then what is read off them."""
    trained = {(row, seed): f"{row}|{seed}" for row in recipes for seed in config.seeds}
    made = [Cell(name, _pretrained, (config, row, recipes[row], seed)) for (row, seed), name in trained.items()]
    made += [Cell(f"{REFERENCES}||{task}", _matrix_references, (config, task)) for task in config.tasks]
    for row, _ in _encoders(recipes):
        for seed in config.seeds:
            after = (trained[row, seed],) if row in recipes else ()
            made += [Cell(f"{row}|{seed}|{task}", _read, (config, row, seed, task), after) for task in config.tasks]
    return made


def worth(config: WorthConfig, command: str = "") -> str:
    """Return in words whether pretraining can be expected to pay; with `out`, worth.json and worth.txt are written.

    Raises:
        EarthSSLError: If the labels are not clear, too few, constant, or absent in a block.
    """
    begun = time.perf_counter()
    if config.out is not None:
        refuse_filled(Path(config.out), "worth")
    store = Store(config.store)
    window = config.window or (12 if is_monthly(store.times) else 2)
    settings = IndicesConfig(
        store=config.store, labels=config.labels, columns=config.columns, labelled=config.labelled, ahead=config.ahead,
        encoder=EncoderConfig(window=window),
    )  # fmt: skip
    found = judge(Indices(settings, store), window, config.ahead, config.draws)
    text = worth_text(found, _source(store), window, store.step_days)
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        record = record_of(found) | _record(store, config, begun) | {"command": command, "versions": versions()}
        write_text(out / "worth.txt", text + "\n")
        write_json(out / "worth.json", record)
    return text


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
            objectives.settle(windows)
            objectives.eval()(context.encoder, windows.batch([0, len(windows) // 2]))
    return longest


def _matrix_references(config: MatrixConfig, task: str) -> None:
    cells = Path(config.out) / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    make = partial(matrix_task, task, Store(config.store), config.tasks[task], config.encoder)
    references_once(cells, task, make)


def _matrix_encoder(config: MatrixConfig, row: str, objectives: dict[str, Any] | None, seed: int) -> None:
    """Pretrain one encoder unless it is there, and probe it on every task that is not done."""
    if objectives is not None:
        _pretrained(config, row, objectives, seed)
        between_steps()
    for task in config.tasks:
        _read(config, row, seed, task)


def _pretrained(config: MatrixConfig, row: str, objectives: dict[str, Any], seed: int) -> None:
    """Pretrain one encoder and say where it stands beside its cues, unless that is there or no longer needed."""
    run, cells = _run_folder(config, row, seed), Path(config.out) / "cells"
    if (run / STANDING).is_file() and all(cell_file(cells, row, seed, task).is_file() for task in config.tasks):
        return
    training = _training(config, seed)
    checkpoint = pretrain_once(
        PretrainConfig(config.store, str(run), objectives, config.multitask, config.encoder, training)
    )
    between_steps()
    if not (run / STANDING).is_file():
        write_text(run / STANDING, standing(checkpoint, Store(config.store), training, TASKS).to_csv(index=False))


def _read(config: MatrixConfig, row: str, seed: int, task: str) -> None:
    """Read a task off every layer of one encoder, which is there, unless that is done."""
    store, cells = Store(config.store), Path(config.out) / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if cell_file(cells, row, seed, task).is_file():
        return
    if row == UNTRAINED:
        encoder = untrained(config.encoder, store, seed)
    else:
        encoder = load_encoder(_run_folder(config, row, seed) / CHECKPOINT).encoder
    make = partial(matrix_task, task, store, config.tasks[task], config.encoder)
    evaluate_once(cells, row, seed, task, make, encoder, layers_of(config, encoder))


def _run_folder(config: MatrixConfig, row: str, seed: int) -> Path:
    return Path(config.out) / "recipes" / folder_name(row) / f"seed{seed}"


def _training(config: MatrixConfig, seed: int) -> TrainingConfig:
    return replace(config.training, seed=seed).by_rule(SIZES[config.encoder.size][0])


def _trained_encoders(config: MatrixConfig) -> tuple[list[Trained], dict[str, list[str]]]:
    """Return what each pretraining made of its budget, and of each recipe in words which seeds are below a cue."""
    trained: list[Trained] = []
    below: dict[str, list[str]] = {}
    for name in config.all_recipes():
        below[name] = []
        for seed in config.seeds:
            run = _run_folder(config, name, seed)
            found = pd.read_csv(run / STANDING)
            cues = found[found["kind"] == "analytic"]
            single = found["task"].nunique() == 1
            names = [
                solver if single else f"{task}: {solver}" for task, solver in zip(cues.task, cues.solver, strict=True)
            ]
            levels = dict(zip(names, cues["skill"].to_numpy(float).tolist(), strict=True))
            trained.append(Trained(name, f"seed {seed}", Course.read(run / HISTORY, _training(config, seed)), levels))
            below[name] += [f"seed {seed}: {', '.join(words)}" for words in (below_cue(found),) if words]
    return trained, below


def open_study(folder: Path, what: str, settings: dict[str, Any], free: tuple[str, ...]) -> Path:
    """Make a folder that can be gone on with, or check that it was begun with the same settings; return the file.

    Raises:
        EarthSSLError: If a setting that is not `free` differs, or the folder holds something else.
    """
    kept = json.loads(json.dumps({name: value for name, value in settings.items() if name not in free}))
    marker = folder / "begun.json"
    if not marker.is_file():
        refuse_filled(folder, f"the {what}")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, kept)
        return marker
    begun = read_json(marker, f"the settings of the {what}")
    changed = [name for name in kept if begun.get(name) != kept[name]]
    if changed:
        raise EarthSSLError(
            f"{folder}: the {what} was begun with another '{changed[0]}'; restore it, or choose another --out"
        )
    return marker


def finish(summary: Summary, folder: Path, command: str, also: Callable[[Path], None] = lambda folder: None) -> Path:
    """Write a summary in place of that of an earlier, shorter run; `also` writes more beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    return summary.write(folder, command, also)


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

"""The shortcut audit: how much of a pretext task's skill is left above its trivial cues.

Each task is trained as it is, then anew with an encoder that sees a cue only (censoring.py), by the same rule
(until its validation skill stops rising, or to the stated steps), from the same start, on the same batches; analytic
solvers (Objective.cues) join them. All are scored on the same validation batches with the same draws.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import write_text
from ..ssl.common.randomness import key
from ..ssl.data.augmentation import check_augmentation
from ..ssl.data.loaders import EvalLoader, TrainLoader
from ..ssl.data.windows import Windows
from ..ssl.model.encoder import SIZES, EncoderConfig
from ..ssl.runtime.workers import check_address
from ..ssl.store.store import Store
from ..ssl.training.budget import Course, StudyTraining
from ..ssl.training.data_module import Data
from ..ssl.training.module import Pretraining
from ..ssl.training.monitor import History, ProgressBar
from ..ssl.training.multitask import Multitask, build_objectives
from ..ssl.training.objective import SKILL, Context, Objective, ObjectiveConfig
from ..ssl.training.pretrain import HISTORY, saved_step
from ..ssl.training.trainer import fit
from .censoring import KINDS, censoring

ITSELF = "the task itself"
COURSES = "courses"
ENCODER = "encoder.safetensors"
COLUMNS = ("task", "solver", "kind", "unit", "skill")


@dataclass(frozen=True)
class AuditConfig:
    """What to audit, and at what budget.

    Attributes:
        store: Folder of a training store.
        out: Folder of the results; solvers that are finished there are not trained again.
        objectives: Settings of each pretext task, by its name; each is audited alone.
        encoder: Shape of the encoder.
        training: How every solver is trained, the task itself and each cue alike: to its last gain, or to the steps.
        eval_batch: Windows in a validation batch, the unit of the intervals.
        fit_batches: Training batches that the analytic cues are fitted on.
        draws: Bootstrap draws over the validation batches.
        jobs: Tasks audited at the same time, each in its own process with one thread.
        scheduler: Address of a dask.distributed scheduler, tcp://…, whose workers audit the tasks instead (see
            docs/evaluate.md); "" for this machine.
    """

    store: str
    out: str
    objectives: dict[str, Any]
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    training: StudyTraining = field(default_factory=StudyTraining)
    eval_batch: int = 16
    fit_batches: int = 30
    draws: int = 2000
    jobs: int = 1
    scheduler: str = ""

    def __post_init__(self) -> None:
        check_address("audit", self.scheduler)
        if not self.objectives:
            raise EarthSSLError("audit.objectives: expected at least one pretext task, got none; name some")
        for name in ("eval_batch", "fit_batches", "draws", "jobs"):
            if getattr(self, name) < 1:
                raise EarthSSLError(f"audit.{name}: expected a whole number ≥ 1, got {getattr(self, name)}")


def audit_task(name: str, settings: ObjectiveConfig, config: AuditConfig) -> pd.DataFrame:
    """Return the validation skill of a task and of all its cues: columns task, solver, kind, unit, skill.

    `kind` is "task", "censored" or "analytic"; `unit` numbers the validation batches. Each solver's rows are
    kept in `out`, so that an interrupted audit goes on.

    Raises:
        EarthSSLError: If the store, the task and the encoder do not fit together, or a skill is not finite.
    """
    folder = Path(config.out) / "solvers" / name
    folder.mkdir(parents=True, exist_ok=True)
    solvers = _Solvers(name, settings, config, folder)
    return pd.concat([_once(folder / f"{label}.csv", make) for label, make in solvers.all()], ignore_index=True)


def task_courses(name: str, config: AuditConfig) -> dict[str, Course]:
    """Return skill against steps of a finished task's trained solvers, by the solver's name.

    Raises:
        EarthSSLError: If a training left no history.
    """
    training = config.training.by_rule(SIZES[config.encoder.size][0])
    folder = Path(config.out) / "solvers" / name
    labels = {"task": ITSELF, **KINDS}
    done = [label for label in labels if (folder / f"{label}.csv").is_file()]
    return {labels[label]: Course.read(folder / COURSES / f"{label}.csv", training) for label in done}


def _once(file: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return a table from its file, made first where it is not there."""
    if not file.is_file():
        write_text(file, make().to_csv(index=False))
    return pd.read_csv(file, keep_default_na=False)


class _Solvers:
    """Everything that tries to solve one task."""

    def __init__(self, name: str, settings: ObjectiveConfig, config: AuditConfig, folder: Path) -> None:
        self.name, self.settings, self.config, self.folder = name, settings, config, folder
        self.store = Store(config.store)
        self.training = config.training.by_rule(SIZES[config.encoder.size][0])
        seed, span = self.training.seed, settings.span(config.encoder)
        self.train = Windows(self.store, "train", span, seed)
        self.val = Windows(self.store, "val", span, seed)

    def all(self) -> Iterator[tuple[str, Callable[[], pd.DataFrame]]]:
        """Yield a file name and a maker for each solver."""
        objective = self._new()[0].objectives.tasks()[self.name]
        check_augmentation(self.training.augment, self.store, objective.bars)
        self.compares = objective.compares
        yield "task", lambda: self._trained(ITSELF, "task", "")
        for kind in objective.censors:
            if kind == "statistics" and prod(self.config.encoder.patch) < 2:
                continue  # the mean of one cell is the cell
            yield kind, lambda kind=kind: self._trained(KINDS[kind], "censored", kind)  # type: ignore[misc]
        for number, _cue in enumerate(objective.cues()):
            yield f"cue{number}", lambda number=number: self._analytic(number)  # type: ignore[misc]

    def _new(self) -> tuple[Pretraining, Multitask]:
        """Return the same untrained weights every time."""
        torch.manual_seed(key(self.training.seed, "init") & (2**63 - 1))
        encoder = self.config.encoder.build(self.store.variables)
        context = Context(encoder, self.store.variables, self.store.grid)
        objectives = build_objectives({self.name: replace(self.settings, weight=1.0)}, context)  # type: ignore[type-var]
        return Pretraining(encoder, objectives, self.training), objectives

    def _batches(self) -> EvalLoader:
        grouping = self.training.batches
        if self.compares and grouping == "random":
            grouping = "spread"
        return EvalLoader(self.val, self.config.eval_batch, grouping=grouping)

    def _trained(self, solver: str, kind: str, censor: str) -> pd.DataFrame:
        """Train the task on what the censor leaves, and score it on the validation batches that pose something."""
        module, objectives = self._new()
        objectives.settle(self.train)
        run = self.folder / f"{censor or 'task'}-run"
        resume = (run / "last.ckpt").is_file()
        if not resume:
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
        bar = ProgressBar(self.training.steps, f"audit {self.name}: {solver}")
        history = History(run / HISTORY, saved_step(run) if resume else 0)
        with censoring(module.encoder, censor):
            data = Data(self.train, self.val, self.training, self.compares)
            fit(module, data, run, [bar], [bar, history], resume)
            module.to("cpu").eval()
            with torch.no_grad():
                terms = [objectives(module.encoder, batch).terms for batch in self._batches()]
        # A batch in which nothing can be asked (every window is a gap, say) has no skill and is no unit.
        found = {unit: float(t[f"{self.name}/{SKILL}"]) for unit, t in enumerate(terms) if f"{self.name}/{SKILL}" in t}
        if not censor:
            # What analytic cues are scored on too: a teacher's features are targets only once it is trained.
            save_file(objectives.state_dict(), self.folder / "task.safetensors")
            save_file(module.encoder.state_dict(), self.folder / ENCODER)
        courses = self.folder / COURSES
        courses.mkdir(exist_ok=True)
        write_text(courses / f"{censor or 'task'}.csv", (run / HISTORY).read_text())
        shutil.rmtree(run, ignore_errors=True)
        return self._table(solver, kind, found)

    def _analytic(self, number: int) -> pd.DataFrame:
        """Fit an analytic cue on training batches and score it on the validation batches."""
        module, objectives = self._new()
        objectives.load_state_dict(load_file(self.folder / "task.safetensors"))
        objective: Objective = objectives.eval().tasks()[self.name]
        cue = objective.cues()[number]
        if (self.folder / ENCODER).is_file():
            module.encoder.load_state_dict(load_file(self.folder / ENCODER))
            cue.encoder = module.encoder.eval()
        training, patch = self.training, self.config.encoder.patch
        loader = TrainLoader(self.train, training.batch_size, training.seed, grouping=training.batches)
        with torch.no_grad():
            cue.fit(objective, [loader.get(k) for k in range(self.config.fit_batches)], patch)
            asked = set(pd.read_csv(self.folder / "task.csv")["unit"])
            found = {
                unit: cue.skill(objective, batch, patch) for unit, batch in enumerate(self._batches()) if unit in asked
            }
        return self._table(cue.name, "analytic", found)

    def _table(self, solver: str, kind: str, found: dict[int, float]) -> pd.DataFrame:
        if not found:
            raise EarthSSLError(
                f"audit: expected validation windows in which {self.name} can be asked, got none; change its settings, "
                "or take data with fewer gaps"
            )
        bad = [skill for skill in found.values() if skill != skill or abs(skill) == float("inf")]
        if bad:
            raise EarthSSLError(
                f"audit: expected a finite skill of '{solver}' at {self.name}, got {bad[0]}; lower training.lr, or "
                "look for validation windows without data"
            )
        return pd.DataFrame(
            {"task": self.name, "solver": solver, "kind": kind, "unit": list(found), "skill": list(found.values())},
            columns=list(COLUMNS),
        )

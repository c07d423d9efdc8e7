"""The matrix: which pretext task helps which downstream task, layer by layer, by one rule of training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...ssl.common.errors import EarthSSLError, check_known, check_settings
from ...ssl.common.files import write_text
from ...ssl.model.encoder import Encoder, EncoderConfig
from ...ssl.runtime.workers import check_address
from ...ssl.training.budget import StudyTraining
from ...ssl.training.multitask import MultitaskConfig
from ..evaluation.evaluate import Evaluation, evaluate, references
from ..evaluation.task import Task
from ..metrics.paired_bootstrap import Statistic
from ..results.row import Role, Row
from ..results.scores import joined, tables
from ..results.summary import DIFFERENCES, SCORES, Summary
from ..results.target import Metric, Target
from .courses import PICTURE, PICTURE_WORDS, TABLE, Trained, budget_note, budget_table, course_picture

UNTRAINED = "untrained"
ALL = "all"
REFERENCES = "references"
COLUMNS = ("task", "target", "row", "seed", "layer", "unit", "error", "reference")
BY_TARGET, BEATEN_BY_TARGET = "by_target", "differences_by_target"
CONVENTION = (
    "Skill on the test block: 1 - squared error / squared error of the training climatology (Brier skill for classes), "
    "of a linear head on the frozen features of one layer, each target's errors divided by its climatology's mean; "
    "settings of the head chosen on validation. Every encoder has the same architecture, start and batches, and "
    "trains until its validation skill stops rising, or to the "
    "stated number of steps; they differ in the pretext task. A row is the mean over its seeds, and says where their "
    "pretext skill is below a cue that needs no training. Where a task reads whole windows, each layer stands with the "
    "pooling that validation chose, and beside it with the mean over the tokens and with their principal components "
    "alone. Differences from the untrained encoder of the same seeds, paired, bootstrap over test years given these "
    "seeds; not corrected for the number of cells, of which about one in twenty is decided by chance."
)


@dataclass(frozen=True)
class MatrixConfig:
    """Which encoders to pretrain and what to probe.

    Attributes:
        store: Folder of a training store.
        out: Folder of the matrix; what is finished there is not done again.
        recipes: Pretext settings of each encoder (as `objectives` of pretrain), by a name of yours.
        leave_one_out: Recipes of one task each, to be joined: adds an encoder trained on all of them, and one for
            each of them left out.
        tasks: Settings of each downstream task, by its name: those of its probe.
        encoder: Shape of every encoder.
        training: How every encoder is pretrained: to its last gain, or to the steps.
        multitask: How recipes of several tasks share the encoder.
        seeds: Of the pretrainings and their untrained twins.
        layers: Blocks to read, counted from 0; null for all.
        draws: Bootstrap draws.
        block: Units (test years) drawn together.
        jobs: Encoders worked on at the same time, each in its own process with one thread.
        scheduler: Address of a dask.distributed scheduler, tcp://…, whose workers do the cells instead (see
            docs/evaluate.md); "" for this machine.
    """

    store: str
    out: str
    recipes: dict[str, Any]
    tasks: dict[str, Any]
    leave_one_out: list[str] = field(default_factory=list)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    training: StudyTraining = field(default_factory=StudyTraining)
    multitask: MultitaskConfig = field(default_factory=MultitaskConfig)
    seeds: list[int] = field(default_factory=lambda: [0])
    layers: list[int] | None = None
    draws: int = 2000
    block: int = 2
    jobs: int = 1
    scheduler: str = ""

    def __post_init__(self) -> None:
        check_address("matrix", self.scheduler)
        if not self.recipes or not self.tasks:
            raise EarthSSLError("matrix: expected at least one recipe and one task, got none; name some")
        empty = [name for name, own in self.recipes.items() if not isinstance(own, dict) or not own]
        if empty:
            raise EarthSSLError(f"matrix.recipes.{empty[0]}: expected pretext tasks with their settings, got none")
        folders = {folder_name(name) for name in self.recipes}
        if len(folders) < len(self.recipes) or self.layers == []:
            raise EarthSSLError(
                "matrix: expected recipes whose names differ in letters or digits, and some layers, got others; rename "
                "a recipe, or leave layers out"
            )
        taken = [name for name in self.recipes if name in (UNTRAINED, REFERENCES, ALL) or "/" in name or not name]
        if taken:
            raise EarthSSLError(f"matrix.recipes: expected names other than '{taken[0]}'; rename the recipe")
        if self.leave_one_out:
            check_known("matrix.leave_one_out", self.leave_one_out, list(self.recipes))
        if len(self.leave_one_out) in (1, 2) and len(set(self.leave_one_out)) < 2:
            raise EarthSSLError("matrix.leave_one_out: expected at least two recipes to join, got one")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise EarthSSLError(f"matrix.seeds: expected different seeds, got {self.seeds}")
        check_settings("matrix", self, {"draws": "≥ 1000", "jobs block": "≥ 1"})

    def all_recipes(self) -> dict[str, dict[str, Any]]:
        """Return the recipes, those of the leave-one-out table joined.

        Raises:
            EarthSSLError: If recipes to be joined share a pretext task.
        """
        made = dict(self.recipes)
        if not self.leave_one_out:
            return made
        made[ALL] = self._joined(self.leave_one_out)
        for name in self.leave_one_out:
            rest = [other for other in self.leave_one_out if other != name]
            made[f"{ALL} but {name}"] = self._joined(rest)
        return made

    def _joined(self, names: Sequence[str]) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for name in names:
            for task, settings in self.recipes[name].items():
                if task in joined:
                    raise EarthSSLError(
                        f"matrix.leave_one_out: recipes share the pretext task '{task}'; leave one of them out"
                    )
                joined[task] = settings
        return joined


def folder_name(recipe: str) -> str:
    """Return the name of a recipe's folder."""
    return "".join(c if c.isalnum() else "-" for c in recipe)


def layers_of(config: MatrixConfig, encoder: Encoder) -> list[int]:
    """Return the blocks to read.

    Raises:
        EarthSSLError: If one is not there.
    """
    if config.layers is None:
        return list(range(encoder.depth))
    bad = [layer for layer in config.layers if not 0 <= layer < encoder.depth]
    if bad:
        raise EarthSSLError(f"matrix.layers: expected 0 to {encoder.depth - 1}, got {bad[0]}")
    return sorted(set(config.layers))


def cell_file(folder: Path, row: str, seed: int | None, task: str) -> Path:
    """Return the file of one row's results at one task; the name is readable, and unlike any other's."""
    label = f"{row}|{seed}|{task}"
    readable = "".join(c if c.isalnum() else "-" for c in f"{row} {task} {'' if seed is None else seed}")
    return folder / f"{readable}-{hashlib.sha256(label.encode()).hexdigest()[:8]}.csv"


def evaluate_once(
    folder: Path,
    row: str,
    seed: int,
    task: str,
    make: Callable[[], Task[Any]],
    encoder: Encoder,
    layers: Sequence[int],
) -> None:
    """Evaluate an encoder on a task and keep the result, unless it is there already."""
    file = cell_file(folder, row, seed, task)
    if file.is_file():
        return
    found = evaluate(make(), encoder, layers)
    parts = [_rows(task, row, seed, layer, one) for layer, one in found.items()]
    write_text(file, pd.concat(parts).to_csv(index=False))


def references_once(folder: Path, task: str, make: Callable[[], Task[Any]]) -> None:
    """Evaluate what the encoders must beat on a task and keep the result, unless it is there already."""
    file = cell_file(folder, REFERENCES, None, task)
    if not file.is_file():
        parts = [_rows(task, name, "", "", one) for name, one in references(make()).items()]
        write_text(file, pd.concat(parts).to_csv(index=False))


def _rows(task: str, row: str, seed: Any, layer: Any, one: Evaluation) -> pd.DataFrame:
    return one.by_unit().assign(task=task, row=row, seed=seed, layer=layer)[list(COLUMNS)]


def label_of(recipe: str, seeds: int, below: int) -> str:
    """Return a recipe's name in the tables: it says how many of its seeds are below a cue that needs no training."""
    if not below:
        return recipe
    return f"{recipe} [below its cue]" if below == seeds else f"{recipe} [below its cue at {below} of {seeds} seeds]"


def matrix_summary(
    folder: Path,
    config: MatrixConfig,
    title: str,
    record: Mapping[str, Any],
    trained: Sequence[Trained] = (),
    below: Mapping[str, Sequence[str]] | None = None,
) -> Summary:
    """Return the table of all finished cells in `folder`.

    Args:
        folder: Of the cells.
        config: The matrix.
        title: One line: data, budget.
        record: For result.json.
        trained: What each pretraining made of its budget; its groups are the recipes.
        below: Of each recipe, in words, one entry for every seed whose pretext skill is below a cue.

    Raises:
        EarthSSLError: If rows of a task were scored on different units.
    """
    files = sorted(folder.glob("*.csv"))
    table = pd.concat([pd.read_csv(f, dtype={"seed": str, "layer": str}, keep_default_na=False) for f in files])
    short = below or {}
    labels = {name: label_of(name, len(config.seeds), len(short.get(name, ()))) for name in config.all_recipes()}
    table["row"] = table["row"].replace(labels)
    names = [UNTRAINED, *labels.values()]
    told = [f"{name}: pretext skill below its cue ({'; '.join(words)})" for name, words in short.items() if words]
    budgets = [note for note in (budget_note(trained),) if note]
    whole = table.groupby([c for c in COLUMNS if c not in ("target", "error", "reference")], as_index=False, sort=False)
    scores, differences = _tables(whole[["error", "reference"]].sum(), names, config, [UNTRAINED])
    alone, beaten = _by_target(table, names, config)
    heat = _heat(scores, differences)
    return Summary(
        task="matrix",
        title=title,
        convention=CONVENTION,
        scores=scores,
        differences=differences,
        record=record,
        figures={
            "pretext_task_by_downstream_task_and_layer": _heat_map(heat, names),
            **({PICTURE: course_picture(trained)} if trained else {}),
        },
        tables={
            "matrix": heat,
            BY_TARGET: alone,
            BEATEN_BY_TARGET: beaten,
            **({TABLE: budget_table(trained)} if trained else {}),
        },
        words={PICTURE: PICTURE_WORDS} if trained else {},
        notes=[*_in_words(differences, names), *_winners(beaten), *told, *budgets],
    )


def _tables(
    table: pd.DataFrame, names: Sequence[str], config: MatrixConfig, references: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores of all rows and differences from `references`, task by task and layer by layer."""
    parts = [
        part
        for task in config.tasks
        for part in _task_tables(table[table["task"] == task], task, names, config, references)
    ]
    scores, differences = (joined(*one) for one in zip(zip(*parts, strict=True), (SCORES, DIFFERENCES), strict=True))
    return scores, differences


def _by_target(table: pd.DataFrame, names: Sequence[str], config: MatrixConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores, and differences from the untrained encoder and rows without one, for each target alone."""
    own = table[~table["layer"].str.contains(",")]  # what validation chose of the poolings
    rivals = [UNTRAINED, *dict.fromkeys(own.loc[own["layer"] == "", "row"])]
    parts = [
        [part.rename(columns={"target": "task", "metric": "layer"}).assign(target=target) for part in found]
        for target, one in own.groupby("target", sort=False)
        for found in [_tables(one, names, config, rivals)]
    ]
    scores, differences = (pd.concat(each, ignore_index=True) for each in zip(*parts, strict=True))
    return scores, differences[differences["row"].isin(list(names))]


def _winners(differences: pd.DataFrame) -> list[str]:
    """Return for each target which recipes are better at some layer than the untrained encoder and all without one."""
    said = []
    for (task, target), own in differences.groupby(["task", "target"], sort=False):
        rivals = set(own["reference"])
        won = [
            str(row)
            for (row, _), one in own[own["verdict"] == "better"].groupby(["row", "layer"], sort=False)
            if set(one["reference"]) == rivals
        ]
        found = ", ".join(dict.fromkeys(won)) or "none"
        said.append(
            f"{task}, {target}: better at some layer than untrained and than every row without an encoder: {found}"
        )
    return said


def _task_tables(
    table: pd.DataFrame, task: str, names: Sequence[str], config: MatrixConfig, references: Sequence[str]
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Return scores and differences from `references` of a task, for each layer."""

    def skill(rows: Sequence[Row]) -> Statistic:
        errors, powers = np.stack([row.forecast[task] for row in rows], axis=-1)
        return lambda weights: 1 - weights @ errors / (weights @ powers)

    made = []
    table = table.sort_values("unit", kind="stable")
    order = [*names, *dict.fromkeys(table.loc[table["layer"] == "", "row"])]
    # Layer by layer, the pooling that validation chose first.
    for layer in sorted(set(table["layer"]) - {""}, key=lambda name: (int(name.split(",")[0]), name)):
        own = table[table["layer"].isin(("", layer))]
        units: np.ndarray | None = None
        rows = []
        for name in order:
            for seed, one in own[own["row"] == name].groupby("seed"):
                found = one["unit"].to_numpy()
                units = found if units is None else units
                if not np.array_equal(found, units):
                    raise EarthSSLError(
                        f"matrix: expected '{name}' at {task} on the units {units.tolist()}, got others; remove its "
                        "cells"
                    )
                both = one[["error", "reference"]].to_numpy(float).T
                rows.append(
                    Row(name, Role.UNTRAINED if name == UNTRAINED else Role.PRETRAINED, {task: both}, str(seed))
                )
        if units is not None:
            target = Target(task, units, [Metric(f"layer {layer}", skill)], config.block)
            scores, paired = tables([target], rows, draws=config.draws, references=references)
            made.append((scores[scores["seed"] == ""], paired))
    return made


def _heat(scores: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """Return one line a cell: row, task, layer, skill with interval, difference from untrained with verdict."""
    d = differences[["row", "target", "metric", "value", "low", "high", "verdict"]].rename(
        columns={"value": "difference", "low": "difference_low", "high": "difference_high"}
    )
    columns = ["row", "value", "low", "high", "target", "metric"]
    made = scores[columns].merge(d, on=["row", "target", "metric"], how="left")
    return made.rename(columns={"target": "task", "metric": "layer", "value": "skill"})


def _heat_map(heat: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Return the difference from the untrained encoder as colours, grey where it is undecided."""
    shown = heat[~heat["layer"].str.contains(",")]  # single poolings stand in the tables
    columns = list(dict.fromkeys(zip(shown["task"], shown["layer"], strict=True)))
    rows = [*names, *[name for name in dict.fromkeys(heat["row"]) if name not in names]]
    cells = {(r.row, r.task, r.layer): r for r in heat.itertuples()}
    colour = np.full((len(rows), len(columns)), np.nan)
    drawn = Figure(figsize=(1.8 + 0.72 * len(columns), 1.6 + 0.34 * len(rows)))
    axes = drawn.subplots()
    for j, (task, layer) in enumerate(columns):
        for i, row in enumerate(rows):
            one = cells.get((row, task, layer))
            if one is None:
                continue
            decided = one.verdict in ("better", "worse")
            if decided:
                colour[i, j] = one.difference
            plain = not decided
            axes.text(
                j, i, f"{one.skill:.2f}", ha="center", va="center", fontsize=8, color="0.45" if plain else "black"
            )
    limit = np.nanmax(np.abs(colour)) if np.isfinite(colour).any() else 1.0
    axes.set_facecolor("0.92")
    picture = axes.imshow(np.ma.masked_invalid(colour), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{task}\n{layer}" for task, layer in columns], rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.axhline(len(names) - 0.5, color="black", lw=0.8)
    drawn.colorbar(picture, ax=axes, label="skill − untrained (grey: undecided)")
    axes.set_title("skill (numbers) and its difference from the untrained encoder (colours)", fontsize=9, loc="left")
    return drawn


def _in_words(differences: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return for each task which recipes are better or worse than the untrained encoder, and where."""
    said = []
    d = differences[differences["row"].isin(list(names)) & ~differences["metric"].str.contains(",")]
    for task in dict.fromkeys(d["target"]):
        own = d[d["target"] == task]
        parts = []
        for verdict in ("better", "worse"):
            found = own[own["verdict"] == verdict]
            rows = [
                f"{row} ({len(part)} of {own[own['row'] == row].shape[0]} layers)"
                for row, part in found.groupby("row", sort=False)
            ]
            parts.append(f"{verdict} than untrained: {', '.join(rows) if rows else 'none'}")
        said.append(f"{task}: " + "; ".join(parts))
    return said

"""The one run of every task: rows, scores, uncertainty, the curve over labels, the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import refuse_filled
from ..results.figures import curve_figures, score_figure
from ..results.row import Role, Row, names_of
from ..results.scores import tables
from ..results.summary import Summary
from ..results.target import Target
from ..results.uncertainty import CLIMATOLOGY, Earlier, Uncertainty, uncertainty
from .encoders import Contender
from .equal_input import FEWEST_RANDOM, PCA, RAW
from .label_curve import WORDS, Curve, label_curve
from .label_fractions import label_fractions
from .task import Task


def run(task: Task[Any], command: str = "") -> Path:
    """Run a task and return the folder of its tables, pictures and page.

    Raises:
        EarthSSLError: If store, checkpoints and task do not fit together, or `out` is not empty.
    """
    if not task.config.out:
        raise EarthSSLError(f"{task.name}.out: expected a folder for the results, got none; add --out FOLDER")
    refuse_filled(Path(task.config.out), "the task's results")
    # Many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        return summarise(task).write(task.config.out, command)


def all_rows(task: Task[Any], encoders: Sequence[Contender]) -> list[Row]:
    """Return every row of a task's table; without encoders, which need fields, those of its own field alone."""
    window = encoders[0].encoder.config.window if encoders else 0
    rows = [*task.baselines(window), *task.equal_input(window, task.config.random_seeds)]
    for one in encoders:
        rows += task.rows(one, task.layers(one))
    return [*rows, *task.trained(encoders), *task.known()]


def summarise(task: Task[Any]) -> Summary:
    """Return the result of a task: rows → scores and differences → curve over labels → summary."""
    begun = time.perf_counter()
    config = task.config
    encoders = task.encoders()
    targets = task.targets()
    for target in targets:
        target.check_units()  # before anything is trained
    earlier = _earlier(task) if config.uncertainty and any(one.numbers for one in targets) else None
    rows = all_rows(task, encoders)
    scores, differences = tables(targets, rows, draws=config.draws)
    doubts = _uncertainty(task, targets, rows, earlier) if config.uncertainty else Uncertainty()
    curve = _curve(task, rows, encoders, task.shown(targets))
    own = task.extras(rows, scores, differences)
    shown = task.shown(targets)
    main = [(target.name, name) for target in shown for name in target.main or [target.metrics[0].name]]
    headline = [(target.name, target.metrics[0].name) for target in task.headline(targets)]
    speakers = [row for row in rows if task.speaks(row)]
    roles, counted = {row.name: row.role for row in rows}, len(np.unique(task.label_units()))
    return Summary(
        task=task.name,
        title=task.title(),
        convention=task.convention_text(),
        found=task.found(_spoken_of(task, speakers, [name for name, _ in headline]), scores, differences, headline),
        main=main,
        headline=headline,
        speakers=names_of(speakers),
        scores=scores,
        differences=differences,
        record={
            **task.data_record(),
            "samples": task.samples(),
            "rows": [{"row": row.name, "seed": row.seed, "role": str(row.role), **row.chosen} for row in rows],
            "encoders": [{"kind": one.kind, **one.source} for one in encoders],
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
            **own.record,
        },
        figures={
            "scores": score_figure(scores, roles, main),
            **curve_figures(curve.means, roles, task.unit, counted),
            **doubts.figures,
            **own.figures,
        },
        tables={**curve.tables(), **doubts.tables, **own.tables},
        words={
            "label_curve": WORDS.format(all=config.label_draws, some=config.scratch_draws),
            **doubts.words,
            **own.words,
        },
        datasets=own.datasets,
        notes=[*own.notes, *doubts.notes, *task.missing(), *_few_seeds(rows, config.random_seeds), *_others(encoders)],
        reachable=next((row.name for row in rows if row.role is Role.KNOWN), ""),
        unit=(counted, task.unit),
    )


def _earlier(task: Task[Any]) -> Earlier:
    """Return the table one block earlier; made before the table itself, so that what it lacks is said at once."""
    before = task.rehearsal()
    return Earlier(before.targets(), all_rows(before, before.encoders()))


def _uncertainty(
    task: Task[Any], targets: Sequence[Target], rows: Sequence[Row], earlier: Earlier | None
) -> Uncertainty:
    """Return the distributions around the rows' forecasts, by their residuals one block earlier, and their scores."""
    own = [row for row in rows if row.role is not Role.BASELINE and task.speaks(row)]
    shown = names_of([row for row in own if task.curved(row) or row.role not in (Role.PRETRAINED, Role.UNTRAINED)])
    drawn = [CLIMATOLOGY, f"{RAW} [{task.head}]", f"{PCA} [{task.head}]", *shown]
    made = uncertainty(targets, rows, earlier, drawn, task.config.draws)
    if not made.tables:
        return replace(made, notes=["uncertainty: this task has neither numbers nor chances for it; nothing was made."])
    left = [name for name in names_of(rows) if name not in names_of(earlier.rows)] if earlier else []
    said = f"Without distributions, as no row of that name is made one block earlier: {', '.join(left)}."
    return replace(made, notes=[*made.notes, said]) if left else made


def _spoken_of(task: Task[Any], rows: Sequence[Row], targets: Sequence[str]) -> list[Row]:
    """Return the rows that the finding may speak of: those of all its targets, whose means can be compared.

    Of frozen encoders only those of the head that the label curve follows: a task may have several, and the best of
    them by its score would be a choice on the test block.
    """
    whole = [row for row in rows if all(name in row.forecast for name in targets)]
    followed = {row.role for row in whole if row.role in (Role.PRETRAINED, Role.UNTRAINED) and task.curved(row)}
    return [row for row in whole if row.role not in followed or task.curved(row)]


def _curve(task: Task[Any], rows: Sequence[Row], encoders: Sequence[Contender], targets: Sequence[Target]) -> Curve:
    config = task.config
    units = task.label_units()
    some = bool(config.fractions) and len(units) > 0
    shares = label_fractions(units, config.fractions, draws=config.label_draws) if some else []
    return label_curve(
        shares,
        [row for row in rows if task.curved(row)],
        task.refitted,
        lambda units: task.trained(encoders, min(1, config.scratch.seeds), units),
        targets,
        scratch_draws=config.scratch_draws,
        draws=config.draws,
    )


def _few_seeds(rows: Sequence[Row], seeds: int) -> list[str]:
    """Return a note where a table with a raw input has fewer sets of random features than the rule asks for."""
    if seeds >= FEWEST_RANDOM or not any(row.name.startswith(RAW) for row in rows):
        return []
    return [f"Random features of the raw window: {seeds} sets, fewer than {FEWEST_RANDOM}; their mean score is rough."]


def _others(encoders: Sequence[Contender]) -> list[str]:
    """Return a note where encoders were trained on data of another climatology."""
    sources = sorted({one.source["other_statistics"] for one in encoders if "other_statistics" in one.source})
    if not sources:
        return []
    return [f"Encoders were trained on {', '.join(sources)} of another climatology and scale (other_statistics): they "
            "are given this store's anomalies by its own."]  # fmt: skip

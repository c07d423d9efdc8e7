"""A few examples a class, and none at all: one table over tasks.

Classes are told from k examples each, by class means, nearest neighbours, logistic and ridge regression on the frozen
features of encoders and on what they must beat; fields are filled and forecast by the decoders of pretraining as they
are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ...ssl.common.errors import EarthSSLError, check_settings
from ...ssl.common.progress import track
from ...ssl.fields.splits import is_monthly
from ..evaluation.encoders import PRETRAINED, ZERO_SHOT, Contender
from ..evaluation.equal_input import PCA, RAW
from ..evaluation.task import Features, Task, merged
from ..features.eof import window_components
from ..heads.scaling import SCALINGS
from ..results.figures import line_figure
from ..results.finding import finding
from ..results.row import Role, Row
from ..results.scores import joined, tables
from ..results.summary import DIFFERENCES, MOST_COLUMNS, SCORES, Summary
from .shot_rows import CHOSEN, HEADS, Shots, climatology_rows, shot_rows
from .shot_scores import BALANCED, shot_target

CHOICES = ("row", "seed", "role", "target", "head", "features", "setting", "validation_error")
CONVENTION = (
    "k a class: heads see k examples of each class, drawn {draws} times from the training block, those of a class at "
    "least {apart} apart; test years are never seen. Every row has the same examples, heads ({heads}) and scalings "
    "({scalings}), fitted on unlabelled training samples. Features, scaling, setting and head are those of the least "
    "squared error on the whole validation block, its classes weighing alike, in the mean over five draws: the labels "
    "of validation are many more than the examples, for every row alike. Nothing is refitted. balanced_accuracy: mean "
    "over the classes of the share called right (1 / classes of no skill); auc: of the ROC curve, of several classes "
    "the mean of one against the rest; brier_skill: against the climatology of all labels, by whose frequencies the "
    "chances of every row are multiplied. Zero-shot: the decoder of pretraining as it is, beside the task's own "
    "baselines, which are fitted; skill: 1 - squared error / that of the climatology. A row of several seeds scores "
    "their mean. Intervals: 95 %, blocks of test units and draws of the examples resampled together, given the seeds."
)


@dataclass(frozen=True)
class FewShotConfig:
    """Settings of the verb.

    Attributes:
        out: Folder of the study; tasks that are finished there are not done again.
        tasks: Settings of each task by a name of yours: those of its probe with `store`, `checkpoints` and `task` (if
            left out, the name). Tasks of classes (indices with columns of classes, states, storm_tiles) are told from
            examples, those of fields (infilling, forecast) by decoders.
        shots: Examples a class.
        example_draws: Draws of the examples.
        heads: prototype, kNN, ridge; logistic, which takes most of the time.
        scalings: Of features: raw, standardised, whitened; chosen on validation.
        separation_days: Least days between two examples of a class; null: a year of monthly data, 30 days of others.
        draws: Of the bootstrap.
    """

    out: str
    tasks: dict[str, Any]
    shots: list[int] = field(default_factory=lambda: [1, 5, 20])
    example_draws: int = 20
    heads: list[str] = field(default_factory=lambda: ["prototype", "kNN", "ridge"])
    scalings: list[str] = field(default_factory=lambda: list(SCALINGS))
    separation_days: float | None = None
    draws: int = 1000

    def __post_init__(self) -> None:
        rules: Mapping[str, str | Sequence[str]] = {
            "heads": list(HEADS), "scalings": SCALINGS, "shots example_draws": "≥ 1", "draws": "≥ 100",
            "separation_days": "≥ 0",
        }  # fmt: skip
        check_settings("few-shot", self, rules)
        for name in ("shots", "heads", "scalings"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise EarthSSLError(f"few-shot.{name}: expected each once, got {getattr(self, name)}")
        bad = [name for name, own in self.tasks.items() if not isinstance(own, dict) or not own.get("store")]
        if bad or not self.tasks:
            raise EarthSSLError(
                f"few-shot.tasks{'.' + str(bad[0]) if bad else ''}: expected the settings of a probe, with its store, "
                "got none; see docs/evaluate.md"
            )

    def separation(self, task: Task[Any]) -> int:
        """Return the least number of steps between two examples of a class."""
        monthly = is_monthly(task.store.times)
        days = self.separation_days
        if days is None:
            return 12 if monthly else round(30 / task.store.step_days)
        return int(np.ceil(round(days / task.store.step_days, 1 if monthly else 6)))


@dataclass(frozen=True, eq=False)
class ShotTable:
    """What is found of one task.

    Attributes:
        scores: Columns of `SCORES`.
        differences: Columns of `DIFFERENCES`, of rows with the same head.
        choices: Columns of `CHOICES`.
        record: For result.json, plain values.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    choices: pd.DataFrame
    record: Mapping[str, Any]


def shot_table(task: Task[Any], name: str, config: FewShotConfig) -> ShotTable:
    """Return the rows of one task: from a few examples where it tells classes, by decoders where it tells fields.

    Args:
        task: With its encoders.
        name: In the table.
        config: Of the study.

    Raises:
        EarthSSLError: If it has neither classes nor a decoder that can do it, or too few examples.
    """
    with threadpool_limits(1, "blas"):
        labels = task.classified()
        scores, differences, choices = _few(task, name, config) if labels else _none(task, name, config)
    record = {
        **task.data_record(), "samples": task.samples(),
        "encoders": [{"kind": one.kind, **one.source} for one in task.encoders()],
    }  # fmt: skip
    return ShotTable(scores, differences, choices, record)


def _few(task: Task[Any], name: str, config: FewShotConfig) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return scores, differences and choices of classes from a few examples."""
    apart = config.separation(task)
    every = [Shots.drawn(name, one, config.shots, config.example_draws, apart) for one in task.classified()]
    targets = [
        shot_target(
            shots.target(k), one.values[test].argmax(axis=1), one.climatology, one.units[test], task.config.block
        )
        for shots in every
        for one, test in [(shots.label, shots.label.rows["test"])]
        for k in shots.examples
    ]  # fmt: skip
    for target in targets:
        target.check_units()
    rows = [row for shots in every for row in climatology_rows(shots)]
    training = task.training_samples()
    for words, role, seed, features in track(list(_sets(task)), f"few-shot, {name}"):
        made = features()
        for shots in every:
            rows += shot_rows(words, role, seed, made, shots, training, config.heads, config.scalings)
    found = [
        tables([target], [row for row in rows if target.name in row.forecast], draws=config.draws) for target in targets
    ]
    choices = [
        {"row": row.name, "seed": row.seed, "role": str(row.role), "target": target, **row.chosen.get(target, {})}
        for row in rows
        for target in row.forecast
    ]
    return (
        joined([one for one, _ in found], SCORES),
        joined([one for _, one in found], DIFFERENCES),
        pd.DataFrame(choices, columns=list(CHOICES)),
    )


def _sets(task: Task[Any]) -> Iterator[tuple[str, Role, Any, Callable[[], Features]]]:
    """Yield name, role and seed of each set of features, and what makes it."""
    window, training = task.shape.window, task.training_samples()
    raw = task.raw(window)
    if raw is not None:
        yield RAW, Role.BASELINE, None, partial(dict, {f"{raw.shape[-1]} values": raw})
        yield PCA, Role.BASELINE, None, partial(window_components, raw, training, task.components)
    for name, features in task.known_features(window).items():
        yield name, Role.BASELINE, None, partial(dict, features)
    for one in task.encoders():
        yield one.kind, Role(one.kind), one.seed, partial(_embedded, task, one)


def _embedded(task: Task[Any], encoder: Contender) -> Features:
    return merged(task.embedded(encoder, task.layers(encoder)))


def _none(task: Task[Any], name: str, config: FewShotConfig) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return scores, differences and choices of the decoders of pretraining."""
    pretrained = [one for one in task.encoders() if one.kind == PRETRAINED]
    rows = [row for one in pretrained for row in task.zero_shot(one)]
    if len(rows) < max(1, len(pretrained)):
        raise EarthSSLError(
            f"few-shot.tasks.{name}: expected checkpoints whose pretraining had a decoder for the task {task.name} "
            f"(masking fills, lead_time forecasts its own leads), got {len(rows)} of {len(pretrained)}; choose others, "
            "or leads that they were pretrained on"
        )
    rows = [*task.baselines(task.shape.window), *rows]
    scores, differences = tables(task.targets(), rows, draws=config.draws)
    choices = [
        {"row": row.name, "seed": row.seed, "role": str(row.role), "target": f"{name}: {target}"}
        for row in rows
        for target in row.forecast
    ]
    scores, differences = (one.assign(target=[f"{name}: {t}" for t in one["target"]]) for one in (scores, differences))
    return scores, differences, pd.DataFrame(choices, columns=list(CHOICES))


def few_shot_summary(found: Mapping[str, ShotTable], config: FewShotConfig, record: Mapping[str, Any]) -> Summary:
    """Return the table over all tasks: rows of the head that validation chose, and decoders; each head apart.

    Args:
        found: Of each task.
        config: Of the study.
        record: For result.json.
    """
    scores = joined([one.scores for one in found.values()], SCORES)
    differences = joined([one.differences for one in found.values()], DIFFERENCES)
    choices = joined([one.choices for one in found.values()], CHOICES)
    headed = scores["row"].map(_head).isin(config.heads), differences["row"].map(_head).isin(config.heads)
    own, paired = scores[~headed[0]], differences[~headed[1]]
    first = {str(one.target): str(one.metric) for one in own[::-1].itertuples()}
    every = [(target, first[target]) for target in dict.fromkeys(own["target"].astype(str))]
    middle = sorted(config.shots)[len(config.shots) // 2]
    kept = [one for one in every if one[1] != BALANCED or one[0].endswith(f", {middle} a class")]
    main = every if len(every) <= MOST_COLUMNS else kept
    headline = [one for one in kept if one[1] == BALANCED] or kept
    roles = dict(zip(choices["row"], choices["role"], strict=True))
    said = own[own["target"].isin([target for target, _ in headline])].groupby("row")["target"].nunique()
    speakers = [Row(row, Role(roles[row]), {}) for row in said.index[said == len(headline)]]
    apart = (
        "a year (monthly data), 30 days (others)"
        if config.separation_days is None
        else f"{config.separation_days:g} days"
    )
    data = {name: one.record for name, one in found.items()}
    return Summary(
        task="few-shot",
        title=f"A few examples a class, and none: {', '.join(found)}",
        convention=CONVENTION.format(
            draws=config.example_draws, apart=apart, heads=", ".join(config.heads), scalings=", ".join(config.scalings)
        ),
        found=finding(own, paired, speakers, headline),
        main=main,
        headline=headline,
        speakers=[f"{PRETRAINED} [{CHOSEN}]", ZERO_SHOT],
        scores=own,
        differences=paired,
        record={"synthetic": all(one["synthetic"] for one in data.values()), "tasks": data, **record},
        figures={"by_examples_a_class": _figure(own, config)} if any(m == BALANCED for _, m in every) else {},
        tables={
            "choices": choices,
            **(
                {"by_head": scores[headed[0]], "by_head_differences": differences[headed[1]]} if headed[0].any() else {}
            ),
        },
        words={"by_examples_a_class": "Balanced accuracy by examples a class, mean over draws and seeds."},
        notes=_notes(scores, config, middle),
    )


def _head(row: str) -> str:
    return row.rpartition("[")[2].rstrip("]") if row.endswith("]") else ""


def _notes(scores: pd.DataFrame, config: FewShotConfig, middle: int) -> list[str]:
    said = ["Each head alone: by_head.csv; what validation chose: choices.csv."] if len(config.heads) > 1 else []
    own = scores[scores["row"].str.startswith(PRETRAINED)]
    few = sorted(set(own["target"]) - set(own.loc[own["seed"] != "", "target"]))
    if few:
        said.append(f"One pretrained seed: {', '.join(sorted({target.partition(':')[0] for target in few}))}.")
    return [*said, f"The first sentence speaks of {middle} examples a class."]


def _figure(scores: pd.DataFrame, config: FewShotConfig) -> Figure:
    own = scores[(scores["metric"] == BALANCED) & (scores["seed"] == "")]
    panels: dict[str, dict[str, tuple[Any, Any]]] = {}
    for target, part in own.groupby("target", sort=False):
        title, _, k = str(target).rpartition(", ")
        for row, value in zip(part["row"], part["value"], strict=True):
            x, y = panels.setdefault(title, {}).setdefault(str(row).removesuffix(f" [{CHOSEN}]"), ([], []))
            x.append(int(k.split()[0]))
            y.append(value)
    return line_figure(panels, "examples a class", "balanced accuracy", bold=(PRETRAINED,), marker="o")

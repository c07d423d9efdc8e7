"""Excess skill: what a pretext task's skill is worth above the best of its trivial cues."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..metrics.paired_bootstrap import Statistic
from ..results.row import Role, Row
from ..results.scores import joined, tables
from ..results.summary import DIFFERENCES, SCORES, Summary
from ..results.target import Metric, Target
from .courses import PICTURE, PICTURE_WORDS, TABLE, Trained, budget_note, budget_table, course_picture

CONVENTION = (
    "Skill on the validation block: 1 is a solved task, 0 its trivial answer (chance, or the climatology). Every "
    "learnt solver has the same architecture, start and batches; it differs in what its encoder sees. Each trains "
    "until its validation skill stops rising, or to the stated number of steps, and is judged by its best weights (see "
    "the table of budgets); one below its cue is said to be, and whether it was still gaining. "
    "Excess: skill of the task itself less that of its best cue, the cue that scores highest on these batches. "
    "Intervals: bootstrap over validation batches (consecutive windows, or one calendar month), neighbours in pairs, "
    "given one seed of training."
)
KINDS = ("task", "censored", "analytic")


def excess_summary(
    table: pd.DataFrame, title: str, record: dict[str, Any], draws: int = 2000, trained: Sequence[Trained] = ()
) -> Summary:
    """Return the audit's table, one line a task and solver, with the excess over the best cue and its verdict.

    Args:
        table: Columns task, solver, kind ("task", "censored", "analytic"), unit (validation batch), skill.
        title: One line: data, budget.
        record: For result.json.
        draws: Of the bootstrap.
        trained: What each training made of its budget, for the table and the picture of it; its groups are the tasks.

    Raises:
        EarthSSLError: If there are too few validation batches.
    """
    scores, differences, excess = [], [], []
    for task in dict.fromkeys(table["task"]):
        own = table[table["task"] == task].pivot_table(index="unit", columns="solver", values="skill")
        names = list(dict.fromkeys(table.loc[table["task"] == task, "solver"]))
        rows = [Row(name, Role.BASELINE, {task: own[name].to_numpy()}) for name in names]
        target = Target(task, np.arange(len(own)), [Metric("skill", partial(_mean, task))], 2 if len(own) >= 8 else 1)
        found, paired = tables([target], rows, draws=draws, references=names[1:])
        scores.append(found)
        differences.append(paired[paired["row"] == names[0]])
        short = [one.name for one in trained if one.group == task and one.course.still_gaining]
        excess.append(_line(task, names, found, differences[-1], short))
    best = pd.DataFrame(excess)
    notes = [str(line) for line in best["in_words"]]
    budgets = [note for note in (budget_note(trained),) if note]
    return Summary(
        task="audit",
        title=title,
        convention=CONVENTION,
        scores=joined(scores, SCORES),
        differences=joined(differences, DIFFERENCES),
        record=record,
        figures={
            "excess_over_the_best_cue": _bars(best),
            **({PICTURE: course_picture(trained)} if trained else {}),
        },
        tables={"excess": best, **({TABLE: budget_table(trained)} if trained else {})},
        words={PICTURE: PICTURE_WORDS} if trained else {},
        notes=[*notes, *budgets],
    )


def _mean(task: str, rows: Sequence[Row]) -> Statistic:
    skill = np.stack([row.forecast[task] for row in rows])
    return lambda weights: skill @ weights / weights.sum()


def _line(
    task: str, names: list[str], scores: pd.DataFrame, paired: pd.DataFrame, short: Sequence[str]
) -> dict[str, Any]:
    """Return the verdict on one task; `short` names the solvers that were still gaining at the end of the budget."""
    skill = {str(r["row"]): {k: float(r[k]) for k in ("value", "low", "high")} for r in scores.to_dict("records")}
    itself = skill[names[0]]
    line: dict[str, Any] = {
        "task": task, "skill": itself["value"], "skill_low": itself["low"], "skill_high": itself["high"],
    }  # fmt: skip
    # A cue below the trivial answer (skill 0) is no better than that answer, which needs no data at all.
    cue = max(names[1:], key=lambda name: skill[name]["value"], default="")
    if cue and skill[cue]["value"] > 0:
        reference = skill[cue]["value"]
        found = {k: float(v) for k, v in paired[paired["reference"] == cue].iloc[0].items() if k in itself}
    else:
        cue, reference, found = "the trivial answer", 0.0, itself
    value, low, high = found["value"], found["low"], found["high"]
    gaining = names[0] in short
    if gaining and value <= 0:
        verdict = "below its cue, still gaining"
    elif not itself["low"] > 0:
        verdict = "not solved"
    elif low > 0:
        verdict = "above its cues"
    elif value <= 0:
        verdict = "solved by its cue"
    else:
        verdict = "undecided"
    more = ", and still gaining when the budget was spent" if gaining else ""
    if cue in short:
        more += "; the cue was still gaining, so the excess is an upper limit"
    words = {
        "below its cue, still gaining": f"{task}: still below its best cue, {cue} ({reference:.2f}), at this budget; "
        f"excess {value:+.2f} [{low:+.2f}, {high:+.2f}]",
        "not solved": f"{task}: not solved at this budget (skill {itself['value']:.2f})",
        "above its cues": f"{task}: {value:+.2f} [{low:+.2f}, {high:+.2f}] above its best cue, {cue}",
        "undecided": f"{task}: not shown to be above its best cue, {cue}; excess {value:+.2f} [{low:+.2f}, "
        f"{high:+.2f}]",
        "solved by its cue": f"{task}: solved by its cue, {cue} ({reference:.2f}); excess {value:+.2f} [{low:+.2f}, "
        f"{high:+.2f}]",
    }
    return {
        **line, "best_cue": cue, "cue_skill": reference, "excess": value, "excess_low": low, "excess_high": high,
        "verdict": verdict, "in_words": words[verdict] + more,
    }  # fmt: skip


def _bars(best: pd.DataFrame) -> Figure:
    """Return skill of each task, and of its best cue, as bars with intervals of the excess."""
    drawn = Figure(figsize=(8, 0.5 * len(best) + 1.4))
    axes = drawn.subplots()
    place = np.arange(len(best))[::-1]
    axes.barh(place + 0.18, best["skill"], 0.34, color="#0072b2", label="the task itself")
    axes.barh(place - 0.18, best["cue_skill"], 0.34, color="#e0a030", label="its best cue")
    spread = np.stack([best["skill"] - best["skill_low"], best["skill_high"] - best["skill"]])
    axes.errorbar(best["skill"], place + 0.18, xerr=np.maximum(spread, 0), fmt="none", ecolor="black", lw=1)
    axes.set_yticks(place, [f"{t} ({v})" for t, v in zip(best["task"], best["verdict"], strict=True)])
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlim(min(-0.1, float(best["skill_low"].min()) - 0.02, -0.1), 1)
    axes.set_xlabel("skill on validation (0 trivial, 1 solved)")
    axes.legend(loc="lower right", frameon=False)
    return drawn

"""Skill against steps: what each training of an audit or a matrix made of its budget, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...ssl.training.budget import Course
from ..results.figures import line_figure

PICTURE = "skill_against_steps"
PICTURE_WORDS = (
    "Validation skill against steps of each training; a ring at the weights that were kept, level lines at the skill "
    "of cues that need no training."
)
TABLE = "budget"


@dataclass(frozen=True)
class Trained:
    """One training of a study.

    Attributes:
        group: Pretext task or recipe, a panel of the picture.
        name: Solver, or seed.
        course: Its validation skill against steps.
        levels: Skill of cues that need no training, by name, for the panel.
    """

    group: str
    name: str
    course: Course
    levels: Mapping[str, float] = field(default_factory=dict)


def budget_table(found: Sequence[Trained]) -> pd.DataFrame:
    """Return one line a training: steps taken and kept, why it ended, skill at fractions of the budget."""
    return pd.DataFrame([{"task": one.group, "trained": one.name, **one.course.line()} for one in found])


def budget_note(found: Sequence[Trained]) -> str:
    """Return in one sentence which trainings had not stopped gaining when their budget was spent; "" for none."""
    short = [f"{one.group} ({one.name})" for one in found if one.course.still_gaining]
    if not short:
        return ""
    return f"Still gaining when the budget was spent, so more steps would change their rows: {', '.join(short)}"


def course_picture(found: Sequence[Trained]) -> Figure:
    """Return validation skill against steps, one panel a pretext task or recipe."""
    panels: dict[str, dict[str, tuple[Any, Any]]] = {}
    for one in found:
        own, steps = panels.setdefault(one.group, {}), one.course.steps
        own[one.name] = steps, one.course.skill
        for name, skill in one.levels.items():
            own[name] = steps, np.full(len(steps), skill)
    drawn = line_figure(panels, "steps", "skill on validation", marker="", levels=(0,))
    for axes, group in zip(drawn.axes, panels, strict=False):
        courses = [one.course for one in found if one.group == group]
        for course in courses:
            here = course.steps == course.kept
            axes.plot(course.steps[here], course.skill[here], "o", mfc="none", color="black")
        # A collapsed training far below the trivial answer would flatten all others.
        low = min([-0.05, *(float(course.skill.min()) for course in courses if len(course.skill))])
        axes.set_ylim(bottom=max(-1.0, low))
    return drawn

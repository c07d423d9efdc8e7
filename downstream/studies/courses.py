"""Skill against steps: what each training of an audit or a matrix made of its budget, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from ...ssl.training.budget import Course

PICTURE = "skill_against_steps"
PICTURE_WORDS = (
    "Validation skill against steps of each training; a ring at the weights that were kept, broken lines at the skill "
    "of cues that need no training."
)
TABLE = "budget"
PANELS = 4  # side by side


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
    groups = list(dict.fromkeys(one.group for one in found))
    across = min(PANELS, len(groups))
    down = -(-len(groups) // across)
    drawn = Figure(figsize=(3.4 * across, 2.5 * down + 0.3), layout="constrained")
    panels = drawn.subplots(down, across, squeeze=False).ravel()
    for panel, group in zip(panels, groups, strict=False):
        own = [one for one in found if one.group == group]
        for one in own:
            course = one.course
            (line,) = panel.plot(course.steps, course.skill, lw=1.2, label=one.name)
            here = course.steps == course.kept
            panel.plot(course.steps[here], course.skill[here], "o", mfc="none", color=line.get_color())
        levels = {name: skill for one in own for name, skill in one.levels.items()}
        for number, (name, skill) in enumerate(levels.items()):
            panel.axhline(skill, color="0.4", lw=0.9, ls=("--", ":", "-.")[number % 3], label=name)
        panel.axhline(0, color="black", lw=0.6)
        panel.set_title(group, fontsize=9, loc="left")
        panel.tick_params(labelsize=7)
        # A collapsed training far below the trivial answer would flatten all others.
        low = min([-0.05, *(float(one.course.skill.min()) for one in own if len(one.course.skill))])
        panel.set_ylim(bottom=max(-1.0, low))
        panel.legend(fontsize=6, frameon=False)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    drawn.supxlabel("steps", fontsize=9)
    drawn.supylabel("skill on validation", fontsize=9)
    return drawn

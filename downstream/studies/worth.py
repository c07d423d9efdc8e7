"""Is pretraining worth it? What labels and unlabelled fields say of it before any network is trained.

The rule is of three questions. Are there steps without a label? Do features fitted on all steps, linear ones, tell more
from the same labels than the labels alone? Does anything nonlinear? Each is answered by a paired difference on the test
block and held against a margin, not against zero: an encoder does not get all there is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ..evaluation.window_task import WindowTask
from ..metrics.paired_bootstrap import FEWEST_UNITS
from ..results.numbers import number, plain
from ..results.scores import tables
from ..results.target import number_target
from .label_rows import (
    KERNEL_PREDICTABLE,
    LABELS_ONLY,
    LINEAR,
    NONLINEAR,
    PREDICTABLE,
    Evidence,
    Inputs,
    best_of,
    evidence,
    part_name,
)

ENOUGH_UNLABELLED = 2.0  # unlabelled steps for each labelled one, from which on pretraining sees much that labels do not
# What an encoder was seen to fall short of the best linear features by, in skill: .05 to .06 in the control P1. A gain
# whose whole interval is above it leaves an encoder something to win, one whose whole interval is below it does not.
MARGIN = 0.05
SCREEN = 100
CONVENTION = (
    "Skill: 1 - squared error / that of the season of the labels, on the test block. Heads are fitted on the labelled "
    "training steps; features, penalties and the rows compared are chosen on validation. Components and predictable "
    "directions are fitted on all training steps. Intervals: 95 %, {unit}s drawn."
)


class Verdict(StrEnum):
    """What is to be expected of a frozen, pretrained encoder against ridge on PCA and on the raw window."""

    YES, NO, OPEN = "yes", "no", "cannot be told"


@dataclass(frozen=True)
class WorthConfig:
    """Settings of the verb.

    Attributes:
        store: Folder of the training store.
        labels: CSV with a column `time` and columns of numbers, at the last step of each window; null takes the labels
            of the weather planet that the store was made from.
        columns: Those to be judged (a,b or a list); none: all.
        labelled: First and last date of the training labels that there are to be, FIRST:LAST; null for all.
        window: Steps of the input; null for 12 months or 2 steps.
        ahead: Steps ahead that the predictable directions are fitted for.
        draws: Of the bootstrap.
        out: Folder for worth.json and worth.txt; must be new or empty. Null writes nothing.
    """

    store: str
    labels: str | None = None
    columns: list[str] = field(default_factory=list)
    labelled: list[str] | None = None
    window: int | None = None
    ahead: list[int] = field(default_factory=lambda: [1, 2, 3])
    draws: int = 1000
    out: str | None = None

    def __post_init__(self) -> None:
        if self.draws < 100 or (self.window or 1) < 1 or self.window == 0:
            raise EarthSSLError(f"worth: expected draws ≥ 100 and window ≥ 1, got {self.draws} and {self.window}")


@dataclass(frozen=True)
class Gain:
    """A paired difference of skill on the test block.

    Attributes:
        row, reference: What is subtracted from what.
        value, low, high: With its interval.
    """

    row: str
    reference: str
    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the whole interval is above the margin."""
        return self.low >= MARGIN

    @property
    def small(self) -> bool:
        """Whether the whole interval is below the margin."""
        return self.high < MARGIN

    def words(self) -> str:
        """Return the difference with its interval."""
        return f"{number(self.value, True)} [{number(self.low, True)}, {number(self.high, True)}]"


@dataclass(frozen=True)
class Judgement:
    """What is found of one label column.

    Attributes:
        column: Its name.
        verdict: Whether pretraining can be expected to win.
        kind: "" or what would make it win: "linear", "nonlinear".
        reasons: In words.
        rival: The row without a network that an encoder must beat; the best on validation.
        unlabelled_per_label: Training steps for each labelled one.
        linear_share: Best linear skill over the best skill, as chosen on validation.
        half_share: Skill of ridge on PCA or the raw window with half of the labels, over that with all.
        gain_per_doubling: Skill of ridge on PCA or the raw window with all labels, less that with half of them.
        linear_gain: Of predictable directions over what the labels alone give a linear head.
        nonlinear_gain: Of the best nonlinear row over the best linear one.
        labelled, used, unlabelled: Numbers of training steps.
        unit: What the intervals draw.
        scores: Of all rows: row, value, low, high.
    """

    column: str
    verdict: Verdict
    kind: str
    reasons: Sequence[str]
    rival: str
    unlabelled_per_label: float
    linear_share: float
    half_share: float
    gain_per_doubling: Gain
    linear_gain: Gain | None
    nonlinear_gain: Gain
    labelled: int
    used: int
    unlabelled: int
    unit: str
    scores: Sequence[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dict(plain(asdict(self)))


def judge(task: WindowTask, window: int, draws: int = 1000) -> list[Judgement]:
    """Return what is found of each label column of a task, nothing being trained but heads.

    Args:
        task: On windows, with numbers as labels.
        window: Steps of the input.
        draws: Of the bootstrap.

    Raises:
        EarthSSLError: If labels are too few, constant or absent in a block.
    """
    inputs = Inputs.of(task, window)
    return [judged(evidence(task, label, inputs, window), draws) for label in task.labels]


def judged(found: Evidence, draws: int = 1000) -> Judgement:
    """Return the verdict that the rule comes to on the rows of a column."""
    label, name = found.label, found.label.name
    test = label.rows["test"]
    if len(np.unique(label.units[test])) < FEWEST_UNITS:
        raise EarthSSLError(
            f"worth: expected test labels of '{name}' in at least {FEWEST_UNITS} {found.unit}s for intervals, got "
            f"{len(np.unique(label.units[test]))}; lengthen the test block"
        )
    target = number_target(name, label.values[test, 0], label.climatology[:, 0], label.units[test])
    labels_only, linear = best_of(found.rows, name, LABELS_ONLY), best_of(found.rows, name, LINEAR)
    nonlinear = best_of(found.rows, name, NONLINEAR)
    references = sorted({labels_only, linear, part_name(labels_only, 2)})
    scores, paired = tables([target], found.rows, draws=draws, references=references)
    skill = scores[(scores["metric"] == "skill") & (scores["seed"] == "")].set_index("row")
    pairs = paired[paired["metric"] == "skill"].set_index(["row", "reference"])

    def gain(row: str, reference: str) -> Gain:
        one = pairs.loc[(row, reference)]
        return Gain(row, reference, *(float(one[which]) for which in ("value", "low", "high")))

    best_linear, best_nonlinear = (float(skill.loc[row, "value"]) for row in (linear, nonlinear))
    ahead = best_of(found.rows, name, (linear, nonlinear))
    linear_gain = gain(PREDICTABLE, labels_only) if PREDICTABLE in skill.index else None
    numbers: dict[str, Any] = {
        "unlabelled_per_label": found.unlabelled / found.labelled,
        "linear_share": float(np.clip(best_linear / max(best_linear, best_nonlinear, 1e-9), 0, 1)),
        "half_share": float(skill.loc[part_name(labels_only, 2), "value"] / max(skill.loc[labels_only, "value"], 1e-9)),
        "gain_per_doubling": gain(labels_only, part_name(labels_only, 2)),
        "linear_gain": linear_gain,
        "nonlinear_gain": gain(nonlinear, linear),
    }
    top = skill.loc[ahead]
    some = bool(top["low"] > 0 and top["value"] >= MARGIN)
    verdict, kind, reasons = _rule(numbers, some)
    kept = skill.reset_index()[["row", "value", "low", "high"]].to_dict("records")
    return Judgement(
        name, verdict, kind, reasons, ahead, **numbers, labelled=found.labelled, used=found.used,
        unlabelled=found.unlabelled, unit=found.unit, scores=kept,
    )  # fmt: skip


def _rule(numbers: dict[str, Any], some: bool) -> tuple[Verdict, str, list[str]]:
    """Return verdict, kind and reasons.

    Args:
        numbers: Those of a `Judgement`.
        some: Whether the row that validation prefers has skill.
    """
    ratio, linear, nonlinear = (numbers[name] for name in ("unlabelled_per_label", "linear_gain", "nonlinear_gain"))
    curve = numbers["gain_per_doubling"]
    said = [
        f"Unlabelled steps: {number(ratio)} for each labelled one"
        + ("" if ratio >= ENOUGH_UNLABELLED else ", so pretraining sees nothing that the labels do not tell of, too.")
    ]
    if ratio >= ENOUGH_UNLABELLED:
        said[0] += "."
    if linear is not None:
        said.append(
            f"Linear features of all steps (CCA/LIM) − {_short(linear.reference)}: {linear.words()}, "
            + _told(linear, "more than an encoder was seen to fall short of them by", "nothing that an encoder could add")
        )
    said.append(
        f"{_short(nonlinear.row)} − {_short(nonlinear.reference)}: {nonlinear.words()}, "
        + _told(nonlinear, "the label is not linear in the fields", "the label is as good as linear in the fields")
    )
    said.append(
        f"Twice the labels: {curve.words()} for {_short(curve.row)}, "
        + _told(curve, "labels are what is wanting", "the label curve is flat")
    )
    if ratio < ENOUGH_UNLABELLED:
        return Verdict.NO, "", said
    if not some:
        said.insert(0, "No row has skill above the season of the labels: there is nothing to compare with.")
        return Verdict.OPEN, "", said
    if nonlinear.clear:
        return Verdict.YES, "nonlinear", said
    if linear is not None and linear.clear:
        return Verdict.YES, "linear", said
    if nonlinear.small and (linear is None or linear.small):
        return Verdict.NO, "", said
    return Verdict.OPEN, "", said


def _told(gain: Gain, clear: str, small: str) -> str:
    if gain.clear:
        return f"clearly above {MARGIN}: {clear}."
    if gain.small:
        return f"below {MARGIN}: {small}."
    return f"neither clearly above nor below {MARGIN}."


def _short(row: str) -> str:
    return row.replace(" (CCA/LIM)", "").replace(" of the window", "")


def record_of(found: Sequence[Judgement]) -> dict[str, Any]:
    """Return the judgements as plain values, with what the numbers mean."""
    return {
        "convention": CONVENTION.format(unit=found[0].unit),
        "margin": MARGIN,
        "enough_unlabelled": ENOUGH_UNLABELLED,
        "columns": [one.to_json() for one in found],
    }


def worth_text(found: Sequence[Judgement], source: str, window: int, step_days: float) -> str:
    """Return what fits a screen: the table, three ratios and the reasons of one column, or a line for each of several.

    Args:
        found: Of each column.
        source: What the fields are, in words.
        window: Steps of the input.
        step_days: Spacing of the steps, days.
    """
    first = found[0]
    lines = textwrap.wrap(f"Is pretraining worth it? {source}, windows of {window} steps; nothing was trained.", SCREEN)
    return "\n".join([*lines, *(_one(first, step_days) if len(found) == 1 else _several(found))])


def _one(one: Judgement, step_days: float) -> list[str]:
    years = step_days / 365.2425
    some = f" (the heads saw {one.used} of them)" if one.used < one.labelled else ""
    lines = textwrap.wrap(
        f"Label {one.column}: {one.labelled} labelled steps{some} of {one.unlabelled} in the training block "
        f"({one.labelled * years:.3g} of {one.unlabelled * years:.3g} years).", SCREEN,
    )  # fmt: skip
    width = max(len(row["row"]) for row in one.scores) + 2
    lines += ["", f"{'':<{width}}skill on the test block [95 %, {one.unit}s drawn]"]
    for row in one.scores:
        band = "" if row["low"] == row["high"] else f"  [{number(row['low'])}, {number(row['high'])}]"
        lines.append(f"{row['row']:<{width}}{number(row['value'] + 0.0):>6}{band}")
    ratios = (
        ("unlabelled steps for each labelled one", number(one.unlabelled_per_label)),
        ("linear share of the best skill", number(one.linear_share)),
        ("skill with half of the labels / with all", number(one.half_share)),
    )
    lines += ["", *(f"{words:<{width}}{value:>6}" for words, value in ratios), ""]
    lines += textwrap.wrap(f"Verdict: {sentence(one)}", SCREEN)
    for reason in one.reasons:
        lines += textwrap.wrap(reason, SCREEN, initial_indent="- ", subsequent_indent="  ")
    return lines


def _several(found: Sequence[Judgement]) -> list[str]:
    """Return a line for each column: verdict, ratio, skills, gains."""
    names = (*LABELS_ONLY, PREDICTABLE, KERNEL_PREDICTABLE)
    heads = ("raw", "PCA", "CCA/LIM", "kernel", "CCA/LIM − labels only", "nonlinear − linear", "")
    width = max(6, *(len(one.column) for one in found))
    lines = ["", f"{'label':<{width}} {'ratio':>6} {heads[0]:>6} {heads[1]:>6} {heads[2]:>7} {heads[3]:>6} "
             f"{heads[4]:>23} {heads[5]:>23}  pays?"]  # fmt: skip
    for one in found:
        skill = {row["row"]: row["value"] for row in one.scores}
        cells = [number(skill.get(name, np.nan)) for name in names]
        gains = [gain.words() if gain else "–" for gain in (one.linear_gain, one.nonlinear_gain)]
        lines.append(
            f"{one.column:<{width}} {number(one.unlabelled_per_label):>6} {cells[0]:>6} {cells[1]:>6} {cells[2]:>7} "
            f"{cells[3]:>6} {gains[0]:>23} {gains[1]:>23}  {one.verdict}{f' ({one.kind})' if one.kind else ''}"
        )
    lines += ["", "ratio: unlabelled steps for each labelled one; kernel: on predictable directions. For one label with its "]
    lines[-1] += "reasons: --columns NAME."
    return lines


def sentence(one: Judgement) -> str:
    """Return the verdict in words."""
    if one.verdict is Verdict.YES and one.kind == "nonlinear":
        return (
            "yes. A frozen pretrained encoder can be expected to beat every linear head, PCA and raw window, as the label is "
            f"no linear function of the fields; the rival to beat is '{one.rival}'."
        )
    if one.verdict is Verdict.YES:
        return (
            "yes. A frozen pretrained encoder can be expected to beat PCA and the raw window, as unlabelled steps tell which "
            f"directions matter; the rival to beat is '{PREDICTABLE}', which tells the same without a network."
        )
    if one.verdict is Verdict.NO:
        return f"no. A frozen pretrained encoder cannot be expected to beat '{one.rival}'."
    return "cannot be told from these labels."

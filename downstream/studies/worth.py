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

from ...ssl.common.errors import check_settings
from ..evaluation.window_task import WindowTask
from ..results.numbers import number, plain
from ..results.scores import tables
from ..results.target import number_target
from .label_rows import (
    FORECASTS,
    LABELS_ONLY,
    LINEAR,
    NONLINEAR,
    PREDICTABLE,
    Evidence,
    Inputs,
    best_of,
    evidence,
    part_name,
    usable,
)

ENOUGH_UNLABELLED = 2.0  # steps for each labelled one, from which on pretraining sees much that labels do not
# What an encoder was seen to fall short of the best linear features by, in skill: .05 to .06 in the control P1. A gain
# whose whole interval is above it leaves an encoder something to win, one whose whole interval is below it does not.
MARGIN = 0.05
# A kernel finds a part of what is not linear, and an encoder was seen to find more (P2: .47 beside .41; the weather
# planet: .61 beside .38): what is clearly there, however little, counts.
NONLINEAR_MARGIN = 0.01
SCREEN = 100
BAND = ("value", "low", "high")
FLAT = 0.8  # of the skill of all labels that half of them have, from which on the label curve counts as flat
CONVENTION = (
    "Skill: 1 - squared error / that of the season of the labels, on the test block. Heads are fitted on the labelled "
    "training steps; features, penalties and the rows compared are chosen on validation. Components and predictable "
    "directions are fitted on all training steps. Intervals: 95 %, years drawn (quarters of a year where the "
    "test block has fewer than eight)."
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
        check_settings("worth", self, {"ahead window": "≥ 1", "draws": "≥ 100"})


@dataclass(frozen=True)
class Gain:
    """A paired difference of skill on the test block.

    Attributes:
        row, reference: What is subtracted from what.
        value, low, high: With its interval.
        margin: What it is held against.
    """

    row: str
    reference: str
    value: float
    low: float
    high: float

    margin: float = MARGIN

    @property
    def clear(self) -> bool:
        """Whether the whole interval is above the margin."""
        return self.low >= self.margin

    @property
    def small(self) -> bool:
        """Whether the whole interval is below the margin."""
        return self.high < self.margin

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
        rival: The row without a network that an encoder must beat: that whose gain decided, else validation's.
        unlabelled_per_label: Training steps for each labelled one.
        linear_share: Best linear skill over the best skill, as chosen on validation.
        half_share: Skill of ridge on PCA or the raw window with half of the labels, over that with all; NaN
            where that is none to speak of.
        gain_per_doubling: Skill of ridge on PCA or the raw window with all labels, less that with half of them.
        linear_gain: Of predictable directions over what the labels alone give a linear head.
        forecast_gain: Of forecasts of the fields by a kernel, fitted on all steps, over the best linear row.
        nonlinear_gain: Of the best other nonlinear row over the best linear one.
        labelled, used, unlabelled: Numbers of training steps.
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
    forecast_gain: Gain | None
    nonlinear_gain: Gain
    labelled: int
    used: int
    unlabelled: int
    scores: Sequence[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dict(plain(asdict(self)))


def judge(task: WindowTask, window: int, ahead: Sequence[int], draws: int = 1000) -> list[Judgement]:
    """Return what is found of each label column of a task, nothing being trained but heads.

    Args:
        task: On windows, with numbers as labels.
        window: Steps of the input.
        ahead: Steps ahead that the fields are forecast by a kernel.
        draws: Of the bootstrap.

    Raises:
        EarthSSLError: If labels are too few, constant or absent in a block.
    """
    labels = [usable(task, label) for label in task.labels]
    inputs = Inputs.of(task, window, labels, ahead)
    return [
        judged(evidence(task, label, inputs), len(whole.rows["train"]), draws)
        for label, whole in zip(labels, task.labels, strict=True)
    ]


def judged(found: Evidence, labelled: int, draws: int = 1000) -> Judgement:
    """Return the verdict that the rule comes to on the rows of a column; `labelled`: training steps with a label."""
    label, name = found.label, found.label.name
    test = label.rows["test"]
    target = number_target(name, label.values[test, 0], label.climatology[:, 0], label.units[test])
    labels_only, linear = best_of(found.rows, name, LABELS_ONLY), best_of(found.rows, name, LINEAR)
    nonlinear, forecast = best_of(found.rows, name, NONLINEAR), best_of(found.rows, name, FORECASTS)
    references = sorted({labels_only, linear, part_name(labels_only, 2)})
    scores, paired = tables([target], found.rows, draws=draws, references=references)
    own = scores[(scores["metric"] == "skill") & (scores["seed"] == "")]
    kept: list[dict[str, Any]] = [
        {"row": str(one["row"]), **{which: float(one[which]) for which in BAND}} for one in own.to_dict("records")
    ]
    skill = {one["row"]: one for one in kept}
    pairs = {
        (str(one["row"]), str(one["reference"])): {which: float(one[which]) for which in BAND}
        for one in paired[paired["metric"] == "skill"].to_dict("records")
    }

    def gain(row: str, reference: str, margin: float = MARGIN) -> Gain:
        return Gain(row, reference, **pairs[row, reference], margin=margin)

    ahead = best_of(found.rows, name, (*LINEAR, *NONLINEAR, *FORECASTS))
    alone, half = skill[labels_only]["value"], skill[part_name(labels_only, 2)]["value"]
    numbers: dict[str, Any] = {
        "unlabelled_per_label": found.unlabelled / labelled,
        "linear_share": float(np.clip(skill[linear]["value"] / max(skill[ahead]["value"], 1e-9), 0, 1)),
        "half_share": half / alone if alone >= MARGIN else float("nan"),
        "gain_per_doubling": gain(labels_only, part_name(labels_only, 2)),
        "linear_gain": gain(PREDICTABLE, labels_only) if PREDICTABLE in skill else None,
        "forecast_gain": gain(forecast, linear, NONLINEAR_MARGIN) if forecast else None,
        "nonlinear_gain": gain(nonlinear, linear, NONLINEAR_MARGIN),
    }
    top = skill[ahead]
    some = bool(top["low"] > 0 and top["value"] >= MARGIN)
    sure = [row for row, one in skill.items() if one["low"] > 0]
    verdict, kind, reasons = _rule(numbers, sure, some)
    if kind:
        gains = [numbers["linear_gain"]] if kind == "linear" else [numbers["forecast_gain"], numbers["nonlinear_gain"]]
        ahead = max((gain for gain in gains if gain is not None), key=lambda gain: gain.value).row
    return Judgement(
        name, verdict, kind, reasons, ahead, **numbers, labelled=labelled,
        used=len(label.rows["train"]), unlabelled=found.unlabelled, scores=kept,
    )  # fmt: skip


def _rule(numbers: dict[str, Any], sure: Sequence[str], some: bool) -> tuple[Verdict, str, list[str]]:
    """Return verdict, kind and reasons.

    Args:
        numbers: Those of a `Judgement`.
        sure: Rows whose skill has an interval above 0.
        some: Whether the row that validation prefers has a skill that is worth the name.
    """
    ratio, rising = numbers["unlabelled_per_label"], not numbers["half_share"] >= FLAT
    curve, linear, nonlinear = (numbers[name] for name in ("gain_per_doubling", "linear_gain", "nonlinear_gain"))
    forecast = numbers["forecast_gain"]
    lever = ratio >= ENOUGH_UNLABELLED
    said = []
    if not lever:
        said.append(
            f"{number(ratio)} training steps for each labelled one, so pretraining sees next to nothing that labels "
            "do not tell of, too."
        )
    told = (
        (linear, "unlabelled steps tell which directions matter", "linear features of them add nothing"),
        (forecast, "they tell better than linearly what comes next", "forecasts add nothing to linear rows"),
        (nonlinear, "the label is not linear in the fields", "a kernel finds no more in the labels"),
    )
    said += [
        f"{_short(gain.row)} − {_short(gain.reference)}: {gain.words()}, {_told(gain, clear, small)}"
        for gain, clear, small in told
        if gain is not None
    ]
    if np.isfinite(numbers["half_share"]):
        said.append(
            f"Half of the labels have {numbers['half_share']:.0%} of the skill of all ({_short(curve.row)}): "
            + ("labels are what is wanting." if rising else "more of them add little.")
        )
    else:
        said.append(f"The labels alone have no skill to speak of ({_short(curve.row)}), so there is no label curve.")
    if not lever:
        return Verdict.NO, "", said
    for kind, gains in (("nonlinear", (nonlinear, forecast)), ("linear", (linear,))):
        if any(gain is not None and gain.clear and gain.row in sure for gain in gains):
            return Verdict.YES, kind, said
    if not some:
        return Verdict.OPEN, "", ["No row has skill above the season of the labels: nothing to go by.", *said]
    if not rising and all(gain is None or gain.small for gain, _, _ in told):
        return Verdict.NO, "", said
    return Verdict.OPEN, "", said


def _told(gain: Gain, clear: str, small: str) -> str:
    if gain.clear:
        return f"clearly above {gain.margin}: {clear}."
    if gain.small:
        return f"below {gain.margin}: {small}."
    return f"neither clearly above nor below {gain.margin}."


def _short(row: str) -> str:
    return row.replace(" (CCA/LIM)", "").replace(" of the window", "")


def record_of(found: Sequence[Judgement]) -> dict[str, Any]:
    """Return the judgements as plain values, with what the numbers mean."""
    return {
        "convention": CONVENTION,
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
    lines += ["", f"{'':<{width}}skill on the test block [95 %]"]
    for row in one.scores[1:]:  # the first is 0 by definition
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
    """Return a line for each column: ratio, skills, gains, verdict."""
    width = max(8, *(len(one.column) for one in found))
    heads = [f"{'label':<{width}}", f"{'ratio':>6}", f"{'labels':>6}", f"{'half':>5}", f"{'CCA/LIM':>23}",
             f"{'kernel forecast':>23}", f"{'kernel':>23}", "pays?"]  # fmt: skip
    lines = ["", " ".join(heads)]
    for one in found:
        skill = {row["row"]: row["value"] for row in one.scores}
        gains = [gain.words() if gain else "–" for gain in (one.linear_gain, one.forecast_gain, one.nonlinear_gain)]
        labels = number(skill[one.gain_per_doubling.row])
        cells = [
            f"{one.column:<{width}}",
            f"{number(one.unlabelled_per_label):>6}",
            f"{labels:>6}",
            f"{one.half_share:>5.0%}" if np.isfinite(one.half_share) else f"{'–':>5}",
        ]
        lines.append(" ".join([*cells, *(f"{words:>23}" for words in gains), str(one.verdict)]))
    last = (
        "ratio: unlabelled steps for each labelled one. labels: skill of ridge on PCA or raw window; half: share of it "
        "with half of the labels. CCA/LIM − labels; kernel forecast of the fields, and other kernels − best linear "
        "row. One label with its reasons: --columns NAME."
    )
    return [*lines, "", *textwrap.wrap(last, SCREEN + 10)]


def sentence(one: Judgement) -> str:
    """Return the verdict in words."""
    if one.verdict is Verdict.YES and one.kind == "nonlinear":
        return (
            "yes. A frozen, pretrained encoder can be expected to win over linear rows: what there is to find is not "
            f"linear; the rival to beat is '{one.rival}'."
        )
    if one.verdict is Verdict.YES:
        return (
            "yes. A frozen, pretrained encoder can be expected to win over PCA and the raw window: unlabelled steps "
            f"tell which directions matter; the rival to beat, '{PREDICTABLE}', tells it without a network."
        )
    if one.verdict is Verdict.NO:
        return f"no. A frozen, pretrained encoder cannot be expected to beat '{one.rival}'."
    return "cannot be told from these labels."

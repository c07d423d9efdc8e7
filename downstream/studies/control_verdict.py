"""What the controls say: scores with intervals, and in words whether installation and recipe do what they must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from ...ssl.common.files import write_text
from ...ssl.sources.controls.designs import DESIGNS
from ..evaluation.equal_input import PCA, PREDICTABLE, RANDOM, RAW
from ..metrics.paired_bootstrap import Resampled, compare
from ..results.figures import score_figure
from ..results.numbers import number
from ..results.row import Role
from ..results.summary import SIGNS, Summary
from .control_task import TRUTH
from .controls import WINDOWS, ControlsConfig, Scores, read_scores

SKILL, UNTRAINED = "skill", "untrained"
REFERENCES = (PCA, RAW, PREDICTABLE, RANDOM, UNTRAINED)
LINEAR = (PCA, RAW, PREDICTABLE, TRUTH)
BLOCK = 2  # neighbouring test units drawn together
LEADER = "lead_time"  # whom P1 and P2 ask to find what is hidden
STATED = {"P1": {50: 0.25, 200: 0.30, 1000: 0.36}, "P2": {50: 0.30, 200: 0.40, 1000: 0.45}}
CHANCE = 0.05  # skill that counts as none
FALSE_WINNERS = 0.05  # share of them that chance may bring
CONVENTION = (
    "Skill: 1 - squared error / that of the mean, of ridge regression on features of windows of {window} steps; labels "
    "of N training steps drawn at random, {label_draws} draws, the same for all rows; features, number of components, "
    "layer, mean or token components, and penalty chosen on the whole validation block by each draw. All encoders: one "
    "shape and start, {steps} steps of {batch} windows. 95 % intervals: test steps in units of 100, two neighbouring "
    "ones together, and draws of labels, both resampled, given these seeds ({seeds})."
)


class FewLabels(Resampled):
    """Skill of rows, the mean over draws of labels; test units and draws of labels are both resampled."""

    def __init__(self, scores: Scores) -> None:
        self.error, self.reference = scores.error, scores.reference

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self._skill(weights[None], np.full((1, *self.error.shape[:2]), 1 / self.error.shape[1]))[0]

    def resample(self, counts: np.ndarray) -> np.ndarray:
        worlds, labels = self.error.shape[:2]
        rng = np.random.default_rng([worlds, labels, len(counts)])
        drawn = rng.multinomial(labels, np.full(labels, 1 / labels), (len(counts), worlds)) / labels
        return self._skill(counts, drawn)

    def _skill(self, counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
        weights = counts.reshape(len(counts), *self.reference.shape)  # (draw, world, unit)
        error = np.zeros((len(counts), self.error.shape[2]))
        for world, own in enumerate(self.error):
            by_label = np.einsum("bu,dru->bdr", weights[:, world], own, optimize=True)
            error += np.einsum("bd,bdr->br", labels[:, world], by_label)
        return np.asarray(1 - error / (weights * self.reference).sum(axis=(1, 2))[:, None])


def compared(scores: Scores, draws: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the skill of every row with its interval, and paired differences from the reference rows."""
    units = np.arange(scores.reference.size)
    references = [name for name in REFERENCES if name in scores.names]
    return compare(FewLabels(scores), units, scores.names, references, draws=draws, block=BLOCK)


@dataclass(frozen=True)
class Judgement:
    """One thing that a control must show.

    Attributes:
        design: Which.
        words: What was found.
        passed: Whether it is as it must be; None: nothing is asked.
    """

    design: str
    words: str
    passed: bool | None

    def line(self) -> str:
        """Return one line."""
        said = {None: "found", True: "as it must be", False: "NOT as it must be"}[self.passed]
        return f"{self.design}, {said}: {self.words}"


def control_summary(
    config: ControlsConfig, objectives: Sequence[str], record: Mapping[str, Any], notes: Sequence[str] = ()
) -> Summary:
    """Return the table of all finished cells and what they say."""
    scores, differences, judgements = [], [], []
    roles: dict[str, Role] = {}
    for design in config.designs:
        found = read_scores(config, design, objectives)
        tables = {count: compared(own, config.draws) for count, own in found.items()}
        for count, (made, paired) in tables.items():
            place = {"target": f"{design}, {count}", "metric": SKILL}
            scores.append(_named(made, objectives).assign(seed="", **place))
            differences.append(_named(paired, objectives).assign(**place))
        roles |= {_name(n, objectives): Role(r) for n, r in zip(found[config.labels[0]].names, found[
            config.labels[0]].roles, strict=True)}  # fmt: skip
        judgements += judged(config, design, found, tables, objectives)
    every = pd.concat(scores, ignore_index=True)
    main = [(f"{design}, {count}", SKILL) for design in config.designs for count in _shown(config)]
    wrong = [one for one in judgements if one.passed is False]
    asked = [one for one in judgements if one.passed is not None]
    verdict = (
        f"Not as it must be: {'; '.join(f'{one.design}: {one.words}' for one in wrong)}."
        if wrong
        else f"All {len(asked)} checks are as they must be: encoders find what is there to be found, and no more."
    )
    windows = config.steps * config.batch_size
    return Summary(
        task="controls",
        title=f"Controls {', '.join(config.designs)}: skill with few labels, {windows} windows of pretraining",
        convention=CONVENTION.format(
            window=config.encoder.window, label_draws=config.label_draws, steps=config.steps, batch=config.batch_size,
            seeds=", ".join(map(str, config.seeds)),
        ),
        scores=every,
        differences=pd.concat(differences, ignore_index=True),
        record={**record, "passed": not wrong, "checks": [vars(one) for one in judgements]},
        figures={"scores": score_figure(every, roles, main)},
        tables={"checks": pd.DataFrame([vars(one) for one in judgements])},
        found=verdict,
        main=main,
        notes=[*(one.line() for one in judgements), *(_design_words(design) for design in config.designs), *notes],
    )  # fmt: skip


def judged(
    config: ControlsConfig,
    design: str,
    found: Mapping[int, Scores],
    tables: Mapping[int, tuple[pd.DataFrame, pd.DataFrame]],
    objectives: Sequence[str],
) -> list[Judgement]:
    """Return what one design says, given its scores and comparisons by number of labels."""
    pretrained = [name for name in found[config.labels[0]].names if name in objectives]
    if design == "N0":
        return [_no_false_winner(config, found, pretrained)]
    made = [_linear_has_nothing(design, tables)] if design != "P1" else []
    if design in STATED:
        made.append(_leader(config, design, tables, pretrained))
    return [*made, _who_finds(config, design, tables, pretrained)]


def _no_false_winner(config: ControlsConfig, found: Mapping[int, Scores], pretrained: Sequence[str]) -> Judgement:
    """Nobody may beat the best linear use of the unlabelled steps; each world by itself, as many as chance allows.

    That is not principal components: with the fewest labels the noise in these costs .03 (canonical directions of two
    steps are without it), and an encoder that has learnt the dynamics is above them by as much, as is no fault.
    """
    worlds, won = len(config.seeds), 0
    best = dict.fromkeys((PREDICTABLE, PCA), -np.inf)
    for own in found.values():
        for k in range(worlds):
            one = Scores(own.names, own.roles, own.error[k : k + 1], own.reference[k : k + 1])
            paired = compared(one, config.draws)[1]
            mine = paired[paired["row"].isin(pretrained)]
            won += int(((mine["verdict"] == "better") & (mine["reference"] == PREDICTABLE)).sum())
            for reference in best:
                best[reference] = max(best[reference], mine.loc[mine["reference"] == reference, "value"].max())
    count = len(found) * worlds * len(pretrained)
    allowed = int(binom.ppf(0.95, count, FALSE_WINNERS))
    words = (
        f"{won} of {count} comparisons of a pretrained encoder with the best linear features, {PREDICTABLE}, are won "
        f"(chance allows {allowed}); greatest difference {best[PREDICTABLE]:+.3f}, from {PCA} {best[PCA]:+.3f}"
    )
    return Judgement("N0", words, won <= allowed)


def _linear_has_nothing(design: str, tables: Mapping[int, tuple[pd.DataFrame, pd.DataFrame]]) -> Judgement:
    """No linear method may find what is not linear in the state."""
    top = {row: max(_value(scores, row) for scores, _ in tables.values()) for row in LINEAR}
    best = max(top, key=lambda row: top[row])
    words = f"linear methods have none of it (best: {best}, skill {top[best]:.3f})"
    return Judgement(design, words, top[best] <= 2 * CHANCE)


def _leader(
    config: ControlsConfig,
    design: str,
    tables: Mapping[int, tuple[pd.DataFrame, pd.DataFrame]],
    pretrained: Sequence[str],
) -> Judgement:
    """Prediction in time must find it: above untrained and components, and by so much at the full budget."""
    if LEADER not in pretrained:
        return Judgement(design, f"{LEADER} is not among the objectives", None)
    # Shorter runs, and worlds of other signals, need only be above what cannot find it.
    full = config.steps * config.batch_size >= WINDOWS and not config.amplitudes and config.length >= 20_000
    said, good = [], True
    for count, (scores, paired) in tables.items():
        value, floor = _value(scores, LEADER), STATED[design].get(count, 0.0) if full else 0.0
        said.append(f"{value:.2f}" + (f" (at least {floor:.2f})" if floor else "") + f" with {count} labels")
        good &= value >= floor
        if count == min(tables):
            for reference in (UNTRAINED, PCA):
                mine = paired[(paired["row"] == LEADER) & (paired["reference"] == reference)].iloc[0]
                said.append(f"{mine['value']:+.2f} on {reference} ({mine['verdict']})")
                good &= mine["verdict"] == "better"
    return Judgement(design, f"{LEADER} has skill {', '.join(said)}", bool(good))


def _who_finds(
    config: ControlsConfig,
    design: str,
    tables: Mapping[int, tuple[pd.DataFrame, pd.DataFrame]],
    pretrained: Sequence[str],
) -> Judgement:
    """Say who is better than untrained and components, with the fewest and with the most labels."""
    parts = []
    for count in sorted({min(tables), max(tables)}):
        scores, paired = tables[count]
        winners = []
        for row in pretrained:
            mine = paired[(paired["row"] == row) & paired["reference"].isin([UNTRAINED, PCA])]
            if (mine["verdict"] == "better").all() and _value(scores, row) > CHANCE:
                winners.append((_value(scores, row), row))
        told = ", ".join(f"{row} {value:.2f}" for value, row in sorted(winners, reverse=True)) or "nobody"
        parts.append(f"with {count} labels by {told}")
    return Judgement(design, "; ".join(parts), None)


def _value(scores: pd.DataFrame, row: str) -> float:
    return float(scores.loc[scores["row"] == row, "value"].iloc[0])


def _name(row: str, objectives: Sequence[str]) -> str:
    return f"pretrained {row}" if row in objectives else row


def _named(table: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    return table.assign(row=[_name(row, objectives) for row in table["row"]])


def _shown(config: ControlsConfig) -> list[int]:
    """Return the numbers of labels that a terminal has room for."""
    labels = sorted(config.labels)
    return labels if len(labels) * len(config.designs) <= 9 else sorted({labels[0], labels[-1]})


def _design_words(design: str) -> str:
    return f"{design}: {DESIGNS[design].what}; who may win: {DESIGNS[design].winner}."


def write_markdown(folder: Path, summary: Summary) -> None:
    """Write the scores as one Markdown table, ▲ where an encoder is better than untrained and components both."""
    means = summary.scores.set_index(["row", "target"])["value"]
    rows, targets = (list(dict.fromkeys(summary.scores[name])) for name in ("row", "target"))
    verdicts = summary.differences.set_index(["row", "target", "reference"])["verdict"]
    lines = [f"| {SKILL} with N labels | " + " | ".join(targets) + " |", "| --- |" + " --- |" * len(targets)]
    for row in rows:
        cells = []
        for target in targets:
            if (row, target) not in means.index:
                cells.append("–")
                continue
            both = [verdicts.get((row, target, reference)) for reference in (UNTRAINED, PCA)]
            won = row.startswith("pretrained") and set(both) == {"better"}
            cells.append(number(means[row, target]) + (f" {SIGNS['better']}" if won else ""))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    write_text(folder / "table.md", "\n".join(lines) + "\n")

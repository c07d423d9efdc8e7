"""Skill by the number of labels: the logistic rows on a share of the training seasons, or of the training storms.

What a share costs is a smaller sample to fit on: features, their variant and the validation block stay as with all
labels. No storm is split: it has one season.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation.encoders import PRETRAINED
from ...evaluation.label_fractions import label_fractions
from ...metrics.paired_bootstrap import compare
from .models import TRACK, Forecast, Problem, SampleFeatures, logistic
from .scores import AUC, BSS, averaged, ranked

UNITS = ("season", "storm")
WITH_TRACK = " + track"


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores by share of the labels.

    Attributes:
        draws: Columns row, seed, asked, used (share of the units), draw, units, labels, events, BSS, AUC.
        means: Columns row, asked, used, value, low, high: BSS, mean over draws and seeds, with its interval over test
            storms.
        differences: Columns row, reference, asked, used, value, low, high, verdict: paired, of the same means.
    """

    draws: pd.DataFrame
    means: pd.DataFrame
    differences: pd.DataFrame


def curve_rows(
    problem: Problem, features: Sequence[SampleFeatures], rows: Sequence[Forecast]
) -> dict[str, list[tuple[int | None, np.ndarray]]]:
    """Return the columns of the logistic rows whose curves are drawn, by name, for each seed.

    They are the track alone, and every kind of features beside it, in the variant that validation chose with all
    labels.

    Args:
        problem: The event.
        features: Of its samples.
        rows: Made of them with all labels.
    """
    track = problem.predictors.track
    made: dict[str, list[tuple[int | None, np.ndarray]]] = {TRACK: [(None, track)]}
    for one in rows:
        for own in features:
            same = (own.row + WITH_TRACK, own.seed, own.variant) == (one.row, one.seed, one.chosen.get("variant"))
            if same:
                made.setdefault(one.row, []).append((one.seed, np.hstack([own.values, track])))
    return made


def label_curve(
    problem: Problem,
    rows: Mapping[str, Sequence[tuple[int | None, np.ndarray]]],
    fractions: Sequence[float],
    *,
    unit: str = "season",
    draws: int = 5,
    resamples: int = 1000,
) -> Curve:
    """Return what the rows reach on a share of the training units; within a draw the shares are nested.

    Args:
        problem: The event.
        rows: Columns of all samples by name, for each seed.
        fractions: Shares in (0, 1]; at least one unit.
        unit: "season" or "storm".
        draws: Orders of the units to start from.
        resamples: Bootstrap draws over test storms.

    Raises:
        EarthSSLError: If a share is out of range.
    """
    units = problem.samples[unit].to_numpy()
    train, test = problem.inside("train"), problem.inside("test")
    event, storms = problem.event[test], problem.samples["storm"].to_numpy()[test]
    made: list[tuple[dict[str, Any], np.ndarray]] = []
    done: dict[tuple[int, int, str, int | None], np.ndarray] = {}
    for share in label_fractions(units[train], fractions, draws=draws):
        drawn = train & share.rows(units)
        line = {"asked": share.asked, "used": share.used, "draw": share.draw, "units": len(share.years),
                "labels": int(drawn.sum()), "events": int(problem.event[drawn].sum())}  # fmt: skip
        for row, seed, columns in [(row, seed, own) for row, seeds in rows.items() for seed, own in seeds]:
            key = share.draw, len(share.years), row, seed  # of few units, several shares are one and the same
            if key not in done:
                done[key] = _chances(problem, columns, drawn)
            made.append(({"row": row, "seed": "" if seed is None else seed, **line}, done[key]))
    table = pd.DataFrame([line for line, _ in made])
    scored = ranked(np.stack([p for _, p in made]), event, problem.basin[test])
    table = table.assign(**{name: scored[name](np.ones(len(event))) for name in (BSS, AUC)})
    names, means, differences = list(rows), [], []
    references = [name for name in names if not name.startswith(PRETRAINED)]
    for asked in sorted(set(table["asked"])):
        own = [one for one in made if one[0]["asked"] == asked]
        member = np.array([[float(line["row"] == name) for line, _ in own] for name in names])
        skill = ranked(np.stack([p for _, p in own]), event, problem.basin[test])[BSS]
        mean = averaged(member / member.sum(axis=1, keepdims=True), skill)
        scores, paired = compare(mean, storms, names, references, draws=resamples)
        share_ = {"asked": asked, "used": own[0][0]["used"]}
        means.append(scores.assign(**share_))
        differences.append(paired.assign(**share_))
    return Curve(table, pd.concat(means, ignore_index=True), pd.concat(differences, ignore_index=True))


def _chances(problem: Problem, columns: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return test chances of a logistic regression on the drawn samples; by Laplace's rule where they are all alike."""
    event = problem.event[drawn]
    if not 0 < event.sum() < len(event):
        return np.full(int(problem.inside("test").sum()), (event.sum() + 1) / (len(event) + 2))
    return logistic(problem, "", columns, labelled=drawn).test

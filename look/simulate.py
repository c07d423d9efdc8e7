"""`earthssl active --simulate`: how many labels active learning needs, beside labels at random, where all are known.

In each round the head is fitted on the labels so far, chooses the next ones from the training block, and is told
them. Its average precision on the test block, which no choice sees, is drawn against the number of labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..downstream.evaluation.pretraining_leaks import seen_by_pretraining
from ..downstream.finetune.read_labels import read_labels
from ..downstream.metrics.events import Ranking
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import write_json, write_text
from ..ssl.common.progress import track
from ..ssl.inference.frozen_encoder import FrozenEncoder
from ..ssl.store.store import Store
from .active import STRATEGIES, at_random, probabilities, propose
from .application import APART_DAYS
from .states import States

RANDOM = "random"
DRAWS = 300
LEVEL = 0.9


@dataclass(frozen=True)
class Plan:
    """A simulation.

    Attributes:
        seeds: Of the first labels, which all strategies share, and of random choice.
        start: Labels at random to begin with; more where one class is missing.
        batch: Labels in a round.
        budget: Labels at the end.
        share: Of the full-label score that is to be reached.
    """

    seeds: int = 10
    start: int = 20
    batch: int = 20
    budget: int = 400
    share: float = 0.9

    def __post_init__(self) -> None:
        if min(self.seeds, self.start, self.batch) < 1 or self.budget < self.start + self.batch:
            raise EarthSSLError(f"expected seeds, start and batch from 1 and a budget of a round at least, got {self}")
        if not 0 < self.share <= 1:
            raise EarthSSLError(f"expected a share within 0…1, got {self.share}")


@dataclass(frozen=True, eq=False)
class Pool:
    """States with known labels.

    Attributes:
        features: Of the states that may be labelled, (state, feature).
        labels: 0 or 1 of each.
        days: When each is.
        test_features, test_labels: Of the test block.
        test_units: Of each of these, such as its year: drawn anew as wholes.
        unit: What these are called, in the plural.
    """

    features: np.ndarray
    labels: np.ndarray
    days: np.ndarray
    test_features: np.ndarray
    test_labels: np.ndarray
    test_units: np.ndarray
    unit: str = "years"


def pool_of(store: Store, states: States, file: Path, target: str) -> Pool:
    """Return the states of the training and test blocks with their labels.

    Raises:
        EarthSSLError: If the labels are not 0 and 1, or a block has one class only.
    """
    labels = read_labels(str(file), [target], "regression", missing="drop")
    values = labels.values[:, 0]
    if not np.isin(values, [0, 1]).all():
        raise EarthSSLError(f"{file}: expected 0 and 1 in '{target}', got {np.unique(values)[:5].tolist()}")
    times = store.times[states.rows]
    at = np.searchsorted(labels.times, times)
    found = at < len(labels)
    found[found] = labels.times[at[found]] == times[found]
    known = np.where(found, values[np.minimum(at, len(labels) - 1)], np.nan)
    parts = {}
    for part in ("train", "test"):
        inside = store.splits.inside(times.astype("datetime64[ns]"), part) & np.isfinite(known)
        if len(np.unique(known[inside])) < 2:
            raise EarthSSLError(f"{file}: expected both classes of '{target}' in the {part} block, got fewer")
        parts[part] = np.flatnonzero(inside)
    train, test = parts["train"], parts["test"]
    return Pool(
        states.features[train], known[train].astype(int), times[train].astype(np.float64) / 86400,
        states.features[test], known[test].astype(int), times[test].astype("datetime64[Y]").astype(int),
    )  # fmt: skip


def curve(pool: Pool, strategy: str, seed: int, plan: Plan, apart_days: float) -> tuple[list[int], np.ndarray]:
    """Return the numbers of labels, (round,), and the chance of the event in every test state then, (round, state)."""
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(len(pool.labels))
    labelled = [int(k) for k in order[: plan.start]]
    for k in order[plan.start :]:  # until both classes are there
        if len(np.unique(pool.labels[labelled])) == 2:
            break
        labelled.append(int(k))
    chooser = np.random.default_rng([seed, 1])
    counts, told = [], []
    while True:
        numbers = pool.labels[labelled]
        counts.append(len(labelled))
        told.append(probabilities(pool.features[labelled], numbers, pool.test_features, 2)[:, 1])
        more = min(plan.batch, plan.budget - len(labelled))
        if more <= 0:
            return counts, np.array(told)
        if strategy == RANDOM:
            anywhere = np.ones(len(pool.days), bool)
            found = at_random(pool.days, np.array(labelled), more, apart_days, anywhere, chooser)
        else:
            found = propose(pool.features, pool.days, np.array(labelled), numbers, strategy, more, apart_days)
        if not found:
            return counts, np.array(told)
        labelled += found


def check_unseen(store: Store, frozen: FrozenEncoder) -> None:
    """Raise where an encoder was pretrained on the test block of a store.

    Raises:
        EarthSSLError: If it was.
    """
    if seen := seen_by_pretraining(frozen.record.trainings, store):
        raise EarthSSLError(f"{store.path}: expected a test block that the encoder never saw, but {'; '.join(seen)}")


def simulate(store: Store, weights: str, pool: Pool, target: str, plan: Plan, out: Path) -> str:
    """Run the simulation; write `curves.csv`, `table.txt` and `result.json`; return the table.

    Args:
        store: For what the table says of it.
        weights: A digest of the encoder's, for the record.
        pool: What may be labelled, and the test block.
        target: What the labels say.
        plan: How many labels.
        out: Folder of the files.

    Raises:
        EarthSSLError: If the budget is more than there are labels.
    """
    apart = max(APART_DAYS, store.step_days)
    if plan.budget > len(pool.labels):
        raise EarthSSLError(f"expected a budget of at most the {len(pool.labels)} labels, got {plan.budget}")
    full = probabilities(pool.features, pool.labels, pool.test_features, 2)[:, 1]
    runs: dict[str, list[tuple[list[int], np.ndarray]]] = {}
    jobs = [(strategy, seed) for strategy in (RANDOM, *STRATEGIES) for seed in range(plan.seeds)]
    for strategy, seed in track(jobs, "active learning"):
        runs.setdefault(strategy, []).append(curve(pool, strategy, seed, plan, apart))
    result = summary(pool, full, runs, plan)
    frame = pd.DataFrame(
        [(name, seed, n, float(score)) for name, scores in result["curves"].items()
         for seed, (counts, values) in enumerate(scores) for n, score in zip(counts, values, strict=True)],
        columns=["strategy", "seed", "labels", "average_precision"],
    )  # fmt: skip
    table = written(result, plan, target, store, pool)
    write_text(out / "curves.csv", frame.to_csv(index=False))
    write_text(out / "table.txt", table + "\n")
    record = {"target": target, "plan": vars(plan), "store": store.fingerprint, "weights": weights}
    write_json(out / "result.json", {**record, **{name: value for name, value in result.items() if name != "curves"}})
    return table


def summary(
    pool: Pool, full: np.ndarray, runs: dict[str, list[tuple[list[int], np.ndarray]]], plan: Plan
) -> dict[str, Any]:
    """Return scores with 90 % intervals over seeds and units of the test block, drawn together, and the labels needed.

    Args:
        pool: For the test labels.
        full: Chance of the event in the test states from all labels.
        runs: By strategy, of each seed.
        plan: For the share to be reached.

    Returns:
        Plain values: full_score, base_rate, and for each strategy mean score along its curve, its difference from
        random, labels to reach the share (the budget where a seed does not get there), seeds that got there.
    """
    ranked = {
        name: [(counts, Ranking(told, pool.test_labels)) for counts, told in seeds] for name, seeds in runs.items()
    }
    of_full = Ranking(full, pool.test_labels)
    units = np.unique(pool.test_units)
    at = np.searchsorted(units, pool.test_units)
    rng = np.random.default_rng(0)

    def scored(weight: np.ndarray | None) -> tuple[float, dict[str, list[np.ndarray]]]:
        return float(of_full.average_precision(weight)[0]), {
            name: [ranking.average_precision(weight) for _, ranking in seeds] for name, seeds in ranked.items()
        }

    def measures(goal: float, scores: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
        return {
            name: np.array([_measure(counts, values, plan.share * goal)
                            for (counts, _), values in zip(ranked[name], seeds, strict=True)])
            for name, seeds in scores.items()
        }  # fmt: skip

    goal, scores = scored(None)
    own = measures(goal, scores)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for _ in range(DRAWS):
        weight = np.bincount(rng.integers(0, len(units), len(units)), minlength=len(units))[at].astype(float)
        if not 0 < weight @ pool.test_labels < weight.sum():
            continue
        again = measures(*scored(weight))
        chosen = rng.integers(0, plan.seeds, plan.seeds)  # the same seeds for all: they share their first labels
        for name in runs:
            drawn[name].append(again[name][chosen].mean(axis=0))
    rows = {}
    for name in runs:
        mean, gap = own[name].mean(axis=0), own[name].mean(axis=0) - own[RANDOM].mean(axis=0)
        of, against = np.array(drawn[name]), np.array(drawn[name]) - np.array(drawn[RANDOM])
        edges, gap_edges = (np.quantile(one, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0) for one in (of, against))
        rows[name] = {
            "curve": _with(mean, edges, 0), "curve_gap": _with(gap, gap_edges, 0), "end": _with(mean, edges, 1),
            "end_gap": _with(gap, gap_edges, 1), "labels": _with(mean, edges, 2),
            "labels_gap": _with(gap, gap_edges, 2), "reached": int(own[name][:, 3].sum()),
        }  # fmt: skip
    curves = {
        name: [(counts, values) for (counts, _), values in zip(ranked[name], scores[name], strict=True)]
        for name in runs
    }
    rate = float(pool.test_labels.mean())
    return {"full_score": goal, "full_labels": len(pool.labels), "base_rate": rate, "rows": rows, "curves": curves}


def _measure(counts: list[int], values: np.ndarray, goal: float) -> list[float]:
    """Return a curve's mean score, its last, the labels from which on it stays at the goal, whether it does."""
    below = np.flatnonzero(values < goal)
    first = int(below[-1]) + 1 if len(below) else 0
    there = first < len(counts)
    return [float(np.mean(values)), float(values[-1]), float(counts[first] if there else counts[-1]), float(there)]


def _with(values: np.ndarray, edges: np.ndarray, k: int) -> list[float]:
    return [float(values[k]), float(edges[0, k]), float(edges[1, k])]


def written(result: dict[str, Any], plan: Plan, target: str, store: Store, pool: Pool) -> str:
    """Return the table in words."""

    def cell(values: list[float], digits: int, sign: bool = False) -> str:
        form = f"{{:{'+' if sign else ''}.{digits}f}}"
        return f"{form.format(values[0])} [{form.format(values[1])}, {form.format(values[2])}]"

    head = ("choice", "mean AP on the way", "less random", f"AP at {plan.budget}", "less random",
            f"labels to {plan.share:.0%}", "less random", "seeds there")  # fmt: skip
    rows = [head]
    for name, row in result["rows"].items():
        gaps = [""] * 3 if name == RANDOM else [
            cell(row["curve_gap"], 3, True), cell(row["end_gap"], 3, True), cell(row["labels_gap"], 0, True)
        ]  # fmt: skip
        there = f"{row['reached']}/{plan.seeds}"
        own = (cell(row["curve"], 3), cell(row["end"], 3), cell(row["labels"], 0))
        rows.append((name, own[0], gaps[0], own[1], gaps[1], own[2], gaps[2], there))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = ["  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    about = (
        f"{target} of {store.manifest['source']}: AP is average precision on the test block ({result['base_rate']:.1%} "
        f"events; all {result['full_labels']} labels: {result['full_score']:.3f}). 90 % intervals over {plan.seeds} "
        f"seeds and test {pool.unit} together. Where a seed does not stay above {plan.share:.0%} of the full-label "
        f"score, its budget ({plan.budget}) counts."
    )
    return "\n".join([about, "", *lines])

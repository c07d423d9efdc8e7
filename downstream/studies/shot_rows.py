"""Rows of a few examples a class: the same heads, scalings and draws for every set of features.

For each number of examples the features, their scaling and the head's setting are those of the least error on the
validation block, the mean over the first five draws; every class of it weighs alike. Nothing is refitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ssl.common.errors import EarthSSLError, check_known
from ..evaluation.label_fractions import few_shot
from ..evaluation.task import Features
from ..evaluation.window_labels import WindowLabels
from ..heads.base import Head, Samples
from ..heads.linear import LogisticHead, RidgeHead
from ..heads.nearest import NearestHead
from ..heads.prototype import PrototypeHead
from ..heads.scaling import scaled
from ..results.row import Role, Row

HEADS: Mapping[str, Head] = {
    "prototype": PrototypeHead(),
    "kNN": NearestHead((1, 3, 5, 10, 20)),
    "logistic": LogisticHead((1.0, 10.0, 100.0), standardise=False),
    "ridge": RidgeHead((0.001, 0.01, 0.1, 1.0, 10.0), standardise=False),
}
CHOSEN = "chosen head"
MOST_FITTED = 4000  # unlabelled training samples that scalings are fitted on, evenly spread
LEAST_CHANCE = 1e-6
CHOOSING = 5  # draws that settings are chosen by


@dataclass(frozen=True, eq=False)
class Shots:
    """The examples of one label.

    Attributes:
        task: Name of the task in the table.
        label: What is to be told; samples are counted over flattened features.
        examples: By number a class, the samples of each draw.
    """

    task: str
    label: WindowLabels
    examples: Mapping[int, Sequence[np.ndarray]]

    @classmethod
    def drawn(cls, task: str, label: WindowLabels, shots: Sequence[int], draws: int, separation: int) -> Shots:
        """Return draws of examples from the training block.

        Args:
            task: Name in the table.
            label: Of classes.
            shots: Examples a class.
            draws: Of each number.
            separation: Least number of steps between two examples of a class.

        Raises:
            EarthSSLError: If a class has too few examples in training, or none in validation or test.
        """
        classes, rows = label.values.argmax(axis=1), label.rows["train"]
        for part in ("train", "val", "test"):
            seen = np.unique(classes[label.rows[part]])
            absent = [name for k, name in enumerate(label.classes) if k not in seen]
            if absent or len(label.classes) < 2:
                none = f", none of {', '.join(absent)}" if absent else ""
                raise EarthSSLError(
                    f"few-shot.tasks.{task}, {label.name}: expected at least two classes, each with a sample in the "
                    f"{part} block, got {len(seen)}{none}; lengthen the block, or choose other labels"
                )
        steps = label.steps_of(rows)
        try:
            found = {
                k: [rows[few_shot(classes[rows], steps, k, separation=separation, draw=d)] for d in range(draws)]
                for k in sorted(set(shots))
            }
        except EarthSSLError as error:
            raise EarthSSLError(f"few-shot.tasks.{task}, {label.name}: {error}") from None
        return cls(task, label, found)

    def target(self, k: int) -> str:
        """Return the name of what is told from k examples a class."""
        return f"{self.task}: {self.label.name}, {k} a class"


@dataclass(frozen=True, eq=False)
class _Space:
    """One scaling of one set of features at the samples that are asked for."""

    name: str
    values: np.ndarray
    at: Mapping[int, int]

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.values[[self.at[int(row)] for row in rows]]


def shot_rows(
    name: str,
    role: Role,
    seed: Any,
    features: Features,
    shots: Shots,
    training: np.ndarray,
    heads: Sequence[str],
    scalings: Sequence[str],
) -> Iterator[Row]:
    """Yield a row for each number of examples and head, and one of the head that is best on validation.

    Args:
        name, role, seed: Of the features; the row's name has its head in brackets.
        features: Candidates by name, (sample, …, feature).
        shots: What is told, from which examples.
        training: Samples of the training block, labelled or not, along the first axis of the features; indices, mask.
        heads: Out of `HEADS`.
        scalings: Out of scaling.py's.
    """
    check_known("few-shot.heads", heads, list(HEADS))
    label = shots.label
    spaces = list(_spaces(features, shots, training, scalings))
    for k, draws in shots.examples.items():
        best = _choose(spaces, label, draws[:CHOOSING], heads)
        made: dict[str, np.ndarray] = {}
        for one, (_, space, setting) in best.items():
            found = [_chances(HEADS[one], space, label, rows, label.rows["test"], [setting])[0] for rows in draws]
            made[one] = np.stack(found).astype(np.float32)
        first = min(best, key=lambda head: best[head][0])
        for shown, one in [*((head, head) for head in heads), (CHOSEN, first)]:
            error, space, setting = best[one]
            chosen = {"head": one, "features": space.name, "setting": setting, "validation_error": error}
            yield Row(f"{name} [{shown}]", role, {shots.target(k): made[one]}, seed, {shots.target(k): chosen})


def climatology_rows(shots: Shots) -> Iterator[Row]:
    """Yield the row that calls all classes alike: the climatology, once its frequencies are put in."""
    label = shots.label
    for k, draws in shots.examples.items():
        even = np.full((len(draws), len(label.rows["test"]), len(label.classes)), 1 / len(label.classes), np.float32)
        yield Row("climatology", Role.BASELINE, {shots.target(k): even}, reference=False)


def _spaces(features: Features, shots: Shots, training: np.ndarray, scalings: Sequence[str]) -> Iterator[_Space]:
    rows = [
        shots.label.rows["val"],
        shots.label.rows["test"],
        *(own for every in shots.examples.values() for own in every),
    ]
    needed = np.unique(np.concatenate(rows))
    at = {int(row): j for j, row in enumerate(needed)}
    for name, values in features.items():
        flat = values.reshape(-1, values.shape[-1])
        inside = np.zeros(values.shape[:-1], dtype=bool)
        inside[training] = True
        own = np.flatnonzero(inside)
        own = flat[own[:: max(1, -(-len(own) // MOST_FITTED))]]
        own = own[np.isfinite(own).all(axis=1)]
        asked = flat[needed]
        if not np.isfinite(asked).all():
            raise EarthSSLError(f"few-shot, {name}: expected finite features at every sample, got NaN; shorten window")
        for scaling, found in scaled(np.concatenate([asked, own]), own, scalings):
            # The mean squared length is 1, so that one set of penalties suits all features alike.
            length = float(np.sqrt((found[len(asked) :].astype(np.float64) ** 2).sum(axis=1).mean()))
            yield _Space(f"{name}, {scaling}", found[: len(asked)] / np.float32(length or 1.0), at)


def _choose(
    spaces: Sequence[_Space], label: WindowLabels, draws: Sequence[np.ndarray], heads: Sequence[str]
) -> dict[str, tuple[float, _Space, Any]]:
    """Return for each head the least error on validation, mean over the draws, with its features and setting."""
    truth = label.values[label.rows["val"]]
    weight = truth @ (1 / truth.sum(axis=0)) / truth.shape[1]
    best: dict[str, tuple[float, _Space, Any]] = {}
    for space in spaces:
        for name in heads:
            head = HEADS[name]
            settings = head.settings(_samples(space, label, draws[0]))
            errors = np.zeros(len(settings))
            for rows in draws:
                found = _chances(head, space, label, rows, label.rows["val"], settings)
                errors += ((found - truth) ** 2).sum(axis=2) @ weight / len(draws)
            j = int(errors.argmin())
            if name not in best or errors[j] < best[name][0]:
                best[name] = (float(errors[j]), space, settings[j])
    return best


def _samples(space: _Space, label: WindowLabels, rows: np.ndarray) -> Samples:
    return Samples(space.take(rows), label.values[rows], label.steps_of(rows))


def _chances(
    head: Head, space: _Space, label: WindowLabels, rows: np.ndarray, asked: np.ndarray, settings: Sequence[Any]
) -> np.ndarray:
    """Return the chances of classes at the samples asked for, (setting, sample, class)."""
    train, queries = spanned(space.take(rows), space.take(asked))
    found = head.predict(
        Samples(train, label.values[rows], label.steps_of(rows)),
        Samples(queries, label.values[asked], label.steps_of(asked)),
        settings,
    )
    if head.classifies:
        return found
    found = np.clip(found, LEAST_CHANCE, 1)
    return np.asarray(found / found.sum(axis=-1, keepdims=True))


def spanned(examples: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both in the space that the examples span, with one more coordinate: how far a query lies outside it.

    Of a few examples that is a small space, and no head notices: all lengths, distances and inner products of examples
    with each other and with queries stay what they are.

    Args:
        examples: Shape (n, k).
        queries: Shape (m, k).
    """
    if examples.shape[1] <= len(examples) + 1:
        return examples.astype(np.float64), queries.astype(np.float64)
    _, power, basis = np.linalg.svd(examples, full_matrices=False)
    basis = basis[power > 1e-6 * max(power[0], np.finfo(np.float32).tiny)].T
    inside = (queries @ basis).astype(np.float64)
    beyond = (queries.astype(np.float64) ** 2).sum(axis=1) - (inside**2).sum(axis=1)
    made = np.column_stack([inside, np.sqrt(np.maximum(beyond, 0))])
    return np.column_stack([(examples @ basis).astype(np.float64), np.zeros(len(examples))]), made

"""Rows of a fine-tuning's table that need no encoder: climatology, persistence, and the raw input with linear heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import MIB
from ...ssl.model.tokens import season_features
from ...ssl.runtime.memory import free_ram
from ..features.eof import Eof
from ..heads.linear import RidgeHead
from ..metrics.classes import frequencies
from ..metrics.paired_bootstrap import Statistic
from ..results.row import Role, Row
from ..results.target import Metric, Target
from .head import SEASON, near
from .linear_head import chosen_on_validation
from .samples import LabelSamples
from .tuning import BATCH, Problem

PCA_COMPONENTS = (5, 10, 20, 40)
FEWEST_OF_A_PLACE = 5  # training labels, or the climatology of all places holds there


def forecasts(samples: LabelSamples, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is said of the test labels by target: numbers (sample,), probabilities, or fields."""
    if samples.kind != "regression":
        return {samples.labels.names[0]: predicted}
    return {name: predicted[:, k] for k, name in enumerate(samples.labels.names)}


def label_rows(samples: LabelSamples, persistence: bool) -> list[Row]:
    """Return the rows that need labels only: climatology, that of each place, persistence, damped persistence."""
    test = samples.parts["test"]
    climatology = samples.base.at(samples.times[test])
    rows = [_row(samples, "climatology", climatology, reference=False), *_place_rows(samples, climatology)]
    if not persistence:
        return rows
    now, when = samples.past_values(test)
    some = samples.past[test] >= 0
    if samples.kind == "classification":
        return [*rows, *_class_persistence(samples, climatology, now, some)]
    # Of the departure from climatology: that of a seasonal value itself would be no rival.
    departure = np.nan_to_num(np.where(_wide(some, now), now - samples.base.at(when), 0.0))
    rows.append(_row(samples, "persistence", climatology + departure))
    slope = _slope(samples)
    damped = climatology + slope * departure
    return [*rows, _row(samples, "damped persistence", damped, {"slope": float(np.nanmean(slope))})]


def _row(
    samples: LabelSamples,
    name: str,
    predicted: np.ndarray,
    chosen: Mapping[str, object] | None = None,
    reference: bool | None = None,
) -> Row:
    return Row(name, Role.BASELINE, forecasts(samples, predicted), chosen=chosen or {}, reference=reference)


def _place_rows(samples: LabelSamples, climatology: np.ndarray) -> list[Row]:
    """Return the row that knows the places: their mean departure, or frequencies of the classes, in training.

    Where places differ for good, as stations do, it beats the climatology without any weather. None where most test
    labels lie at places of which training has fewer than five, as along the tracks of storms.
    """
    if samples.places is None:
        return []
    train, test = samples.parts["train"], samples.parts["test"]
    place, places = samples.labels.place[samples.rows], samples.labels.place.max() + 1
    count = np.bincount(place[train], minlength=places)
    often = count[place[test]] >= FEWEST_OF_A_PLACE
    if often.mean() < 0.5:
        return []
    if samples.kind == "classification":
        own = frequencies(samples.target[train], len(samples.classes), place[train], places)[place[test]]
    else:
        total = np.zeros((places, samples.target.shape[1]))
        np.add.at(total, place[train], samples.target[train] - samples.base.at(samples.times[train]))
        own = climatology + (total / np.maximum(count, 1)[:, None])[place[test]]
    return [_row(samples, "climatology of the place", np.where(often[:, None], own, climatology))]


def _wide(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *(1,) * (like.ndim - 1))


def _slope(samples: LabelSamples) -> np.ndarray:
    """Return the regression of departures on the latest known ones, fitted in training, by target or cell."""
    train = samples.parts["train"]
    train = train[samples.past[train] >= 0]
    if len(train) < 2:
        return np.zeros(1)
    now, when = samples.past_values(train)
    x = (now - samples.base.at(when)) / samples.base.scale
    y = samples.departures(train)
    both = np.isfinite(x) & np.isfinite(y)
    product, power = (np.where(both, v, 0.0).sum(axis=0) for v in (x * y, x * x))
    return np.where(power > 0, product / np.maximum(power, 1e-30), 0.0)


def _class_persistence(samples: LabelSamples, climatology: np.ndarray, now: np.ndarray, some: np.ndarray) -> list[Row]:
    count = len(samples.classes)
    known = some & (now >= 0)
    persistence = np.where(known[:, None], np.eye(count)[np.maximum(now, 0)], climatology)
    train = samples.parts["train"]
    past, _ = samples.past_values(train)
    own = (samples.past[train] >= 0) & (past >= 0)
    table = frequencies(samples.target[train][own], count, past[own], count)
    damped = np.where(known[:, None], table[np.maximum(now, 0)], climatology)
    return [_row(samples, "persistence", persistence), _row(samples, "damped persistence", damped)]


def pca_fields(problem: Problem) -> Row:
    """Return ridge regression of every cell by itself on principal components; cells with gaps are climatology."""
    samples = problem.samples
    flat = samples.departures(np.arange(len(samples.rows))).reshape(len(samples.rows), -1)
    whole = np.isfinite(flat[np.concatenate([samples.parts["train"], samples.parts["val"]])]).all(axis=0)
    targets = np.where(whole, np.nan_to_num(flat), 0.0)
    choice, _, out = chosen_on_validation(RidgeHead(), samples, components(problem), targets)
    departures = (out * whole).reshape(len(out), *samples.target.shape[1:]) * samples.base.scale
    predicted = samples.base.at(samples.times[samples.parts["test"]]) + departures
    settings = {"features": choice.candidate, "setting": choice.setting}
    return _row(samples, "PCA [ridge, each cell]", predicted, settings)


def season(problem: Problem) -> np.ndarray:
    """Return two harmonics of the year at each sample's last step, (sample, 4)."""
    store = problem.windows.store
    seconds = torch.from_numpy(store.times[problem.samples.last].astype(np.int64))
    return np.asarray(season_features(seconds[:, None])[:, 0, :SEASON].numpy())


def components(problem: Problem) -> dict[str, np.ndarray]:
    """Return principal components of all variables, of the last step and over the window, and the season."""
    samples, store = problem.samples, problem.windows.store
    weight = np.tile(store.grid.area.ravel(), len(store.variables))
    training = np.flatnonzero(store.splits.inside(store.times.astype("datetime64[ns]"), "train"))
    fitted = training[:: steps_between(len(training), len(weight))]
    fields = np.concatenate([values.reshape(len(part), -1) for part, values in problem.windows.pieces(fitted)])
    observed = np.isfinite(fields).all(axis=0)
    most = min(max(PCA_COMPONENTS), len(fitted) - 1, int((observed & (weight > 0)).sum()))
    if most < 1:
        raise EarthSSLError("finetune: expected cells without gaps in training for the PCA baseline, got none")
    eof = Eof.fit(fields, weight, most)
    del fields
    found = np.zeros((len(store.times), most))
    needed = np.unique(samples.last[:, None] - np.arange(samples.window))
    for part, values in problem.windows.pieces(needed):
        found[part] = np.nan_to_num(eof.project(values.reshape(len(part), -1)))
    made = {}
    for count in sorted({min(k, most) for k in PCA_COMPONENTS}):
        for steps in sorted({1, samples.window}):
            lagged = [found[samples.last - lag, :count] for lag in range(steps)]
            made[f"{count} PCs × {steps} steps"] = np.concatenate([*lagged, season(problem)], 1)
    return made


def steps_between(steps: int, values: int) -> int:
    """Return every how manieth step principal components are fitted on: 1 where they fit into half the free memory.

    Args:
        steps: Of the training block.
        values: Of a step.
    """
    free = free_ram()
    if free is None:
        return 1
    held = steps * values * 3 * 8  # as read, widened, and centred, in double precision
    return max(1, -(-held // max(free // 2, 1)))


def patch_values(problem: Problem, patch: tuple[int, int, int]) -> np.ndarray:
    """Return the cells of every patch over the whole window, all variables, 0 where missing, (sample, patch, cell)."""
    return np.concatenate([values.numpy() for _, values in _cells(problem, patch)])


def _cells(
    problem: Problem, patch: tuple[int, int, int], kept: int | None = None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield some samples and the cells of all patches in their windows, (sample, patch, cell), batch by batch.

    Args:
        problem: Labels beside fields.
        patch: Size of a patch.
        kept: Patches that the caller keeps of each sample; None: all.

    Raises:
        EarthSSLError: If what is kept of all samples does not fit into memory.
    """
    count, steps = len(problem.samples.rows), problem.samples.window // patch[0]
    for rows in np.array_split(np.arange(count), -(-count // BATCH)):
        values = problem.patches(rows, patch).values
        # (sample, step, place, variable, cell) -> one vector a place
        cells = values.unflatten(1, (steps, -1)).permute(0, 2, 1, 3, 4).flatten(2)
        if not rows[0]:
            held, free = 2 * count * (kept or cells.shape[1]) * cells.shape[2] * 4, free_ram()  # parts, then joined
            if free is not None and held > free:
                raise EarthSSLError(
                    f"finetune: expected the raw cells of {count} samples, {kept or cells.shape[1]} patches of "
                    f"{cells.shape[2]} values each, to fit into {free / MIB:.0f} MiB of free memory, they take "
                    f"{held / MIB:.0f} MiB; give fewer labels, a shorter window or fewer variables"
                )
        yield rows, cells


def near_cells(problem: Problem, patch: tuple[int, int, int]) -> np.ndarray:
    """Return the cells of the patches nearest to each sample's place over the window, (sample, patch, cell)."""
    places = problem.places(np.arange(len(problem.samples.rows)))
    assert places is not None
    chosen = near(problem.patches(np.arange(1), patch), places, problem.near)
    parts = _cells(problem, patch, chosen.shape[1])
    return np.concatenate([cells[torch.arange(len(cells))[:, None], chosen[rows]].numpy() for rows, cells in parts])


def field_target(
    name: str, truth: np.ndarray, climatology: np.ndarray, area: np.ndarray, units: np.ndarray, block: int
) -> Target:
    """Return the target of fields: skill and RMSE by area, over the cells that are labelled and that every row tells.

    Args:
        name: Of the target.
        truth, climatology: Shape (sample, row, column), NaN where missing.
        area: Share of the sphere of each cell, (row, column).
        units, block: As for `Target`.
    """

    def sums(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        predicted = np.stack([row.forecast[name] for row in rows])
        seen = np.isfinite(truth) & np.isfinite(climatology) & np.isfinite(predicted).all(axis=0)
        weight = seen * area
        if not weight.any():
            raise EarthSSLError("finetune: expected test cells that training saw too, got none; check the labels' gaps")
        known = np.nan_to_num(truth)
        error = (weight * (np.nan_to_num(predicted) - known) ** 2).sum(axis=(2, 3))
        reference = (weight * (np.nan_to_num(climatology) - known) ** 2).sum(axis=(1, 2))
        return error, reference, weight.sum(axis=(1, 2))

    def skill(rows: Sequence[Row]) -> Statistic:
        error, reference, _ = sums(rows)
        return lambda w: 1 - (error @ w) / (reference @ w)

    def rmse(rows: Sequence[Row]) -> Statistic:
        error, _, share = sums(rows)
        return lambda w: np.sqrt((error @ w) / (share @ w))

    return Target(name, units, [Metric("skill", skill), Metric("rmse", rmse, False)], block)

"""The linear head of the ENSO table: ridge regression per calendar month, chosen on validation.

Every row of the comparison that has features (frozen encoder, PCA of the input, …) uses this head with the
same options, so that rows differ in their features only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError
from ...heads.ridge_path import PENALTIES, RidgePath
from ...metrics.seasonal import valid_mean
from ...results.row import Role, Row
from .labels import EnsoLabels


@dataclass(frozen=True)
class HeadOptions:
    """What the head may choose between on validation, and how.

    Attributes:
        penalties: Ridge penalties to try, each times the number of samples n.
        months: Calendar poolings to try: the fit for initial month m takes samples of m only (1), of m and
            its two neighbours (3, also 5, 7, …), or of all (12). Each calendar month keeps its own intercept.
        standardise: Give each feature unit variance over the fitted samples (about the calendar-month means).
        criterion: "rmse" or "r" (`EnsoLabels.validation_score`), averaged over the leads that share a choice.
        penalty_per_lead: Choose the penalty for each lead alone (what can be predicted falls with lead, so
            the best shrinkage grows with it); False: one for all leads of a group.
        lead_groups: Leads that share one choice of features and pooling; None: all leads do.
    """

    penalties: tuple[float, ...] = PENALTIES
    months: tuple[int, ...] = (1, 3, 12)
    standardise: bool = True
    criterion: str = "rmse"
    penalty_per_lead: bool = True
    lead_groups: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise EarthSSLError(f"expected positive ridge penalties, got {list(self.penalties)}")
        wrong = [m for m in self.months if m not in (1, 3, 5, 7, 9, 11, 12)]
        if wrong or not self.months:
            raise EarthSSLError(f"expected calendar poolings out of 1, 3, 5, 7, 9, 11, 12, got {list(self.months)}")

    def groups(self, leads: Sequence[int]) -> list[list[int]]:
        """Return the positions of the leads that share one choice.

        Raises:
            EarthSSLError: If the groups do not name each lead exactly once.
        """
        groups = self.lead_groups if self.lead_groups is not None else (tuple(leads),)
        if sorted(lead for group in groups for lead in group) != list(leads):
            raise EarthSSLError(
                f"expected lead groups that hold each of the leads {list(leads)} once, got {list(groups)}"
            )
        return [[list(leads).index(lead) for lead in group] for group in groups if group]


def monthly_path(
    task: EnsoLabels,
    features: np.ndarray,
    block: str,
    months: int,
    penalties: Sequence[float],
    wanted: np.ndarray,
    *,
    standardise: bool = True,
    labelled: np.ndarray | None = None,
) -> np.ndarray:
    """Return forecasts by heads fitted on a block, for each penalty.

    Args:
        task: Labels and samples.
        features: On all times, shape (time, features); NaN where the window is not available.
        block: "train" or "fit".
        months: Calendar pooling, see `HeadOptions`.
        penalties: Multiples of the number of samples.
        wanted: Times to forecast, bool, shape (time,).
        standardise: See `HeadOptions`.
        labelled: Times whose labels may be read, bool, shape (time,); None: all. Where they hold a calendar month
            once only, the fit over all months has one intercept: a month's own would leave nothing to learn from.

    Returns:
        K, shape (penalties, lead, time); NaN at the times that were not wanted.

    Raises:
        EarthSSLError: If a fitted or wanted sample has no features, or a calendar month no samples.
    """
    fitted = task.samples(block)[0] & (True if labelled is None else labelled)
    _check_features(task, features, fitted | wanted)
    month, targets = task.month, task.target.T
    once = labelled is not None and np.bincount(month[fitted], minlength=12).min() < 2
    forecast = np.full((len(penalties), len(task.leads), len(task.time)), np.nan)
    # Pooling all months is one fit; otherwise one for each initial month.
    for m in [None] if months == 12 else range(12):
        distance = np.abs((month - (m or 0) + 6) % 12 - 6)
        rows = fitted & (m is None or distance <= months // 2)
        served = wanted & (m is None or month == m)
        if len(np.unique(month[rows & (m is None or month == m)])) < (12 if m is None else 1):
            raise EarthSSLError(
                f"expected samples of every calendar month in the {block} block, got {int(rows.sum())} in "
                "all; lengthen the block"
            )
        group = np.zeros_like(month) if once and m is None else month
        path = RidgePath.fit(features[rows], targets[rows], group[rows], standardise=standardise)
        forecast[:, :, served] = path.predict(features[served], penalties, group[served]).transpose(0, 2, 1)
    return forecast


def _check_features(task: EnsoLabels, features: np.ndarray, needed: np.ndarray) -> None:
    if features.ndim != 2 or len(features) != len(task.time) or not features.shape[1]:
        raise EarthSSLError(
            f"expected features of shape ({len(task.time)}, k), one row a month of the record, got "
            f"{features.shape}; fill months without a window with NaN"
        )
    missing = needed & ~np.isfinite(features).all(axis=1)
    if missing.any():
        raise EarthSSLError(
            f"expected finite features for {int(needed.sum())} samples, got NaN or infinity in "
            f"{int(missing.sum())} of them, first at {task.time[missing][0]}; features may not reach further "
            f"back than the task's window of {task.window} months"
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """What validation chose, one entry a lead.

    Attributes:
        candidate: Names of the features.
        months: Calendar poolings.
        penalty: Multiples of n.
        score: Validation score of the choice, larger is better (minus RMSE in K, or r).
        table: All scores, dims (candidate, months, penalty, lead).
    """

    candidate: tuple[str, ...]
    months: tuple[int, ...]
    penalty: tuple[float, ...]
    score: tuple[float, ...]
    table: xr.DataArray


def select(
    task: EnsoLabels,
    candidates: Mapping[str, np.ndarray],
    options: HeadOptions | None = None,
    labelled: np.ndarray | None = None,
) -> Selection:
    """Return the features, pooling and penalty with the best validation score; heads are fitted on train.

    Args:
        task: Labels and samples; the test block is not read.
        candidates: Features by name (a layer, a pooling, a number of PCs), each (time, k).
        options: What to choose between.
        labelled: Training times whose labels may be read; None: all.
    """
    options = options or HeadOptions()
    names = list(candidates)
    if not names:
        raise EarthSSLError("expected at least one set of features to choose from, got none")
    wanted = task.inits("val")
    shape = (len(names), len(options.months), len(options.penalties), len(task.leads))
    scores = np.full(shape, np.nan)
    for a, name in enumerate(names):
        for b, months in enumerate(options.months):
            path = monthly_path(
                task,
                candidates[name],
                "train",
                months,
                options.penalties,
                wanted,
                standardise=options.standardise,
                labelled=labelled,
            )
            scores[a, b] = task.validation_score(path, options.criterion)
    table = xr.DataArray(
        scores,
        dims=("candidate", "months", "penalty", "lead"),
        coords={
            "candidate": names,
            "months": list(options.months),
            "penalty": list(options.penalties),
            "lead": list(task.leads),
        },
        attrs={"criterion": options.criterion},
    )
    return _best(table, options)


def _best(table: xr.DataArray, options: HeadOptions) -> Selection:
    scores, n_leads = table.values, table.sizes["lead"]
    choice = np.zeros((n_leads, 3), dtype=int)
    for group in options.groups([int(lead) for lead in table["lead"].values]):
        within = scores[..., group]
        if options.penalty_per_lead:
            # The best penalty of each lead first, then the features and pooling that do best on average.
            mean = valid_mean(within.max(axis=2), axis=-1)
            a, b = np.unravel_index(np.nanargmax(mean), mean.shape)
            for j in group:
                choice[j] = a, b, np.nanargmax(scores[a, b, :, j])
        else:
            mean = valid_mean(within, axis=-1)
            choice[group] = np.unravel_index(np.nanargmax(mean), mean.shape)
    return Selection(
        candidate=tuple(str(table["candidate"].values[a]) for a in choice[:, 0]),
        months=tuple(int(table["months"].values[b]) for b in choice[:, 1]),
        penalty=tuple(float(table["penalty"].values[c]) for c in choice[:, 2]),
        score=tuple(float(scores[a, b, c, j]) for j, (a, b, c) in enumerate(choice)),
        table=table,
    )


def refit(
    task: EnsoLabels,
    candidates: Mapping[str, np.ndarray],
    selection: Selection,
    *,
    name: str,
    seed: int | None = None,
    standardise: bool = True,
    role: Role = Role.BASELINE,
    labelled: np.ndarray | None = None,
) -> Row:
    """Return the test forecasts of the chosen heads, refitted on train and validation together.

    With `labelled` times only, nothing is refitted: heads are those of these times of the training block.
    """
    block, wanted = "fit" if labelled is None else "train", task.inits("test")
    forecast = np.full(task.target.shape, np.nan)
    for candidate, months in sorted(set(zip(selection.candidate, selection.months, strict=True))):
        leads = [
            j
            for j, pair in enumerate(zip(selection.candidate, selection.months, strict=True))
            if pair == (candidate, months)
        ]
        penalties = sorted({selection.penalty[j] for j in leads})
        path = monthly_path(
            task, candidates[candidate], block, months, penalties, wanted, standardise=standardise, labelled=labelled
        )
        for j in leads:
            forecast[j] = path[penalties.index(selection.penalty[j]), j]
    kept = {candidate: candidates[candidate] for candidate in selection.candidate}
    return task.row(name, forecast, _settings(selection, standardise), seed, role, features=kept)


def _settings(selection: Selection, standardise: bool) -> dict[str, Any]:
    """Return the selection as plain values; one value instead of a list where all leads agree."""
    chosen = {
        "candidate": selection.candidate,
        "months": selection.months,
        "penalty": selection.penalty,
    }
    settings: dict[str, Any] = {
        key: values[0] if len(set(values)) == 1 else list(values) for key, values in chosen.items()
    }
    return {
        **settings,
        "standardise": standardise,
        "criterion": selection.table.attrs["criterion"],
        "validation_score": float(np.mean(selection.score)),
    }


def select_and_refit(
    task: EnsoLabels,
    candidates: Mapping[str, np.ndarray],
    *,
    name: str,
    seed: int | None = None,
    options: HeadOptions | None = None,
    role: Role = Role.BASELINE,
    labelled: np.ndarray | None = None,
) -> Row:
    """Return the row of a set of candidate features: chosen on validation, refitted, forecast for test.

    Args:
        task: Labels and samples.
        candidates: Features by name on all times of the record, each (time, k); NaN rows where the window
            is not available.
        name, seed, role: Of the row.
        options: What validation chooses between, and by which criterion.
        labelled: Training times whose labels may be read, nothing being refitted; None: all.
    """
    options = options or HeadOptions()
    selection = select(task, candidates, options, labelled)
    return refit(
        task, candidates, selection,
        name=name, seed=seed, standardise=options.standardise, role=role, labelled=labelled,
    )  # fmt: skip


def fixed_head(
    task: EnsoLabels,
    features: np.ndarray,
    *,
    name: str,
    penalty: float,
    months: int = 1,
    seed: int | None = None,
) -> Row:
    """Return the row of a head whose settings are given, not chosen; fitted on train and validation."""
    wanted = task.inits("test")
    forecast = monthly_path(task, features, "fit", months, [penalty], wanted)[0]
    return task.row(name, forecast, {"months": months, "penalty": penalty, "standardise": True}, seed)

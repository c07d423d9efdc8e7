"""The linear head of the ENSO table: ridge regression per calendar month, chosen on validation.

Every row of the comparison that has features (frozen encoder, PCA of the input, …) uses this head with the
same options, so that rows differ in their features only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError, check_settings
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
        check_settings("head", self, {"penalties": "> 0"})
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


HEAD = HeadOptions()


def monthly_path(
    labels: EnsoLabels,
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
        labels: Labels and samples.
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
    forecast = np.full((len(penalties), len(labels.leads), len(labels.time)), np.nan)
    for served, path, group in _fits(labels, features, block, months, wanted, standardise, labelled):
        forecast[:, :, served] = path.predict(features[served], penalties, group).transpose(0, 2, 1)
    return forecast


def _fits(
    labels: EnsoLabels, features: np.ndarray, block: str, months: int, wanted: np.ndarray, standardise: bool,
    labelled: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, RidgePath, np.ndarray]]:  # fmt: skip
    """Yield (times to forecast, their fit, its group of each); arguments as for `monthly_path`."""
    fitted = labels.samples(block)[0] & (True if labelled is None else labelled)
    _check_features(labels, features, fitted | wanted)
    month, targets = labels.month, labels.target.T
    once = labelled is not None and np.bincount(month[fitted], minlength=12).min() < 2
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
        yield served, path, group[served]


def _check_features(labels: EnsoLabels, features: np.ndarray, needed: np.ndarray) -> None:
    if features.ndim != 2 or len(features) != len(labels.time) or not features.shape[1]:
        raise EarthSSLError(
            f"expected features of shape ({len(labels.time)}, k), one row a month of the record, got "
            f"{features.shape}; fill months without a window with NaN"
        )
    missing = needed & ~np.isfinite(features).all(axis=1)
    if missing.any():
        raise EarthSSLError(
            f"expected finite features for {int(needed.sum())} samples, got NaN or infinity in "
            f"{int(missing.sum())} of them, first at {labels.time[missing][0]}; features may not reach further "
            f"back than the labels' window of {labels.window} months"
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """What validation chose, one entry a lead.

    Attributes:
        options: What there was to choose from.
        candidate: Names of the features.
        months: Calendar poolings.
        penalty: Multiples of n.
        score: Validation score of the choice, larger is better (minus RMSE in K, or r).
        table: All scores, dims (candidate, months, penalty, lead).
    """

    options: HeadOptions
    candidate: tuple[str, ...]
    months: tuple[int, ...]
    penalty: tuple[float, ...]
    score: tuple[float, ...]
    table: xr.DataArray


def select(
    labels: EnsoLabels,
    candidates: Mapping[str, np.ndarray],
    options: HeadOptions = HEAD,
    labelled: np.ndarray | None = None,
) -> Selection:
    """Return the features, pooling and penalty with the best validation score; heads are fitted on train.

    Args:
        labels: Labels and samples; the test block is not read.
        candidates: Features by name (a layer, a pooling, a number of PCs) on all times of the record, each (time, k);
            NaN rows where the window is not available.
        options: What to choose between.
        labelled: Training times whose labels may be read; None: all.
    """
    if not candidates:
        raise EarthSSLError("expected at least one set of features to choose from, got none")

    def score(features: np.ndarray, months: int) -> np.ndarray:
        path = monthly_path(
            labels, features, "train", months, options.penalties, labels.inits("val"),
            standardise=options.standardise, labelled=labelled,
        )  # fmt: skip
        return labels.validation_score(path, options.criterion)

    scores = np.array([[score(features, months) for months in options.months] for features in candidates.values()])
    names, leads = list(candidates), list(labels.leads)
    choice = np.zeros((len(leads), 3), dtype=int)
    for group in options.groups(leads):
        within = scores[..., group]
        # The best penalty of each lead first, then the features and pooling that do best on average.
        mean = valid_mean(within.max(axis=2, keepdims=True) if options.penalty_per_lead else within, axis=-1)
        a, b, c = np.unravel_index(np.nanargmax(mean), mean.shape)
        for j in group:
            choice[j] = a, b, np.nanargmax(scores[a, b, :, j]) if options.penalty_per_lead else c
    pooled = [("months", list(options.months)), ("penalty", list(options.penalties))]
    return Selection(
        options,
        candidate=tuple(names[a] for a in choice[:, 0]),
        months=tuple(options.months[b] for b in choice[:, 1]),
        penalty=tuple(float(options.penalties[c]) for c in choice[:, 2]),
        score=tuple(float(scores[a, b, c, j]) for j, (a, b, c) in enumerate(choice)),
        table=xr.DataArray(scores, [("candidate", names), *pooled, ("lead", leads)]),
    )


def refit(
    labels: EnsoLabels,
    candidates: Mapping[str, np.ndarray],
    selection: Selection,
    *,
    name: str,
    seed: int | None = None,
    role: Role = Role.BASELINE,
    labelled: np.ndarray | None = None,
) -> Row:
    """Return the test forecasts of the chosen heads, refitted on train and validation together.

    With `labelled` times only, nothing is refitted: heads are those of these times of the training block.
    """
    block, wanted, options = "fit" if labelled is None else "train", labels.inits("test"), selection.options
    forecast, width = np.full((2, *labels.target.shape), np.nan)
    chosen = list(zip(selection.candidate, selection.months, strict=True))
    for candidate, months in sorted(set(chosen)):
        leads = [j for j, pair in enumerate(chosen) if pair == (candidate, months)]
        penalties = sorted({selection.penalty[j] for j in leads})
        features, at = candidates[candidate], [penalties.index(selection.penalty[j]) for j in leads]
        for served, path, group in _fits(labels, features, block, months, wanted, options.standardise, labelled):
            made = path.predict(features[served], penalties, group)
            forecast[np.ix_(np.array(leads), served)] = made[at, :, leads]
            if labelled is None:
                width[np.ix_(np.array(leads), served)] = path.widths(features[served], penalties, group)[at]
    settings: dict[str, Any] = {}
    for key in ("candidate", "months", "penalty"):
        values = getattr(selection, key)
        settings[key] = values[0] if len(set(values)) == 1 else list(values)
    settings |= {"standardise": options.standardise, "criterion": options.criterion,
                 "validation_score": float(np.mean(selection.score))}  # fmt: skip
    kept = {candidate: candidates[candidate] for candidate in selection.candidate}
    wide = labels.of_test(width) if labelled is None else {}
    return labels.row(name, forecast, settings, seed, role, features=kept, width=wide)


def select_and_refit(
    labels: EnsoLabels,
    candidates: Mapping[str, np.ndarray],
    *,
    name: str,
    seed: int | None = None,
    options: HeadOptions = HEAD,
    role: Role = Role.BASELINE,
    labelled: np.ndarray | None = None,
) -> Row:
    """Return the row of a set of candidate features: chosen on validation, refitted, forecast for test.

    Args:
        labels, candidates, options: As for `select`.
        name, seed, role: Of the row.
        labelled: Training times whose labels may be read, nothing being refitted; None: all.
    """
    selection = select(labels, candidates, options, labelled)
    return refit(labels, candidates, selection, name=name, seed=seed, role=role, labelled=labelled)


def fixed_head(labels: EnsoLabels, features: np.ndarray, *, name: str, penalty: float) -> Row:
    """Return the row of a head by calendar month whose penalty is given, fitted on train and validation."""
    forecast = monthly_path(labels, features, "fit", 1, [penalty], labels.inits("test"))[0]
    return labels.row(name, forecast, {"months": 1, "penalty": penalty, "standardise": True})

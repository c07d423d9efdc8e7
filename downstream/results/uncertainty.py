"""The uncertainty of a table: distributions around every row's forecasts, by its residuals one block earlier.

Every row is treated alike, the climatology among them: it is fitted, chosen and refitted once more with the blocks
moved back by one (`Task.rehearsal`), so that the validation block is to it what the test block is to its forecasts.
The residuals there, which no choice has seen, make the distributions; test is read once, for the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scoringrules
from matplotlib.figure import Figure

from ..heads.distribution import blocks_of, fewest_blocks
from ..heads.residuals import CENTRAL, Calibration, Departures, Gaussian
from ..metrics import calibration
from ..metrics.paired_bootstrap import Resampled
from .figures import calibration_figure, reliability_figure
from .row import Role, Row, names_of
from .scores import joined, tables
from .target import Metric, Numbers, Target

NORMAL, POSTERIOR, CONFORMAL, SEEDS, CHANCES = "normal", "ridge posterior", "conformal", "seeds alone", "chances"
CLIMATOLOGY = "climatology"
COLUMNS = ("row", "distribution", "target", "metric", "value", "low", "high")
DIFFERENCES = ("row", "reference", "distribution", "target", "metric", "value", "low", "high", "verdict")
ENOUGH = fewest_blocks(0.9)  # units of the target that intervals of 90 % take; with fewer, shorter blocks of time
PIT_BINS = 12
# what is summed of each sample
WEIGHT, CRPS, VARIANCE, ERROR2, WIDTH, COVERED = range(6)
PIT = COVERED + len(CENTRAL)
PARTS = PIT + PIT_BINS
WORDS = (
    "Coverage: share of the test values inside central intervals, over the share that they are to hold; the diagonal "
    "is right, below it rows are overconfident. PIT: where test values lie in their distributions (of seeds alone, "
    "their ranks): flat is calibrated, a U is too narrow, a hump too wide, a slope is biased. Means over the targets."
)
CHANCE_WORDS = (
    "How often a class came, over the chance that it was given, by tenths; the diagonal is calibrated. Bins with less "
    "than 1 % of the samples are left out."
)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What is shown of it.

    Attributes:
        tables, figures, words, notes: As in `Summary`.
    """

    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Earlier:
    """The same task one block earlier.

    Attributes:
        targets: Its targets, which are of the validation block.
        rows: What each method says of them.
    """

    targets: Sequence[Target]
    rows: Sequence[Row]


def uncertainty(
    targets: Sequence[Target], rows: Sequence[Row], earlier: Earlier | None, spoken: Sequence[str], draws: int
) -> Uncertainty:
    """Return the scores of the distributions of all rows, their paired differences in CRPS skill, and the pictures.

    Args:
        targets: Of the test block.
        rows: What each method says of them.
        earlier: The same one block earlier; None where no target is a number.
        spoken: Names of the rows that pictures show.
        draws: Of the bootstrap.
    """
    known = {one.name: one for one in earlier.targets} if earlier else {}
    scores, differences, ranks, bins = (list[pd.DataFrame]() for _ in range(4))
    for target in targets:
        numbers = target.numbers
        before = known.get((numbers.residuals_of if numbers else "") or target.name)
        if numbers is not None and earlier is not None and before is not None and before.numbers is not None:
            made = _distributions(target, numbers, before, before.numbers, rows, earlier.rows)
            reference = made[CONFORMAL][0].forecast[target.name]  # the climatology's own distribution
            for distribution, own in made.items():
                judged = [_number_metric(name, target.name, reference) for name in _NUMBER_FORMULAS]
                found = _tables(target, judged, own, draws)
                for parts, one in zip((scores, differences), found, strict=True):
                    parts.append(one.assign(distribution=distribution))
                ranks.append(_histogram(target.name, own).assign(distribution=distribution))
        if target.chances is not None:
            at = np.unique(target.units, return_inverse=True)[1]
            own = [replace(row, forecast={target.name: _by_unit(target.chances.of(row), at)}) for row in rows
                   if target.name in row.forecast and target.chances.takes(row)]  # fmt: skip
            if own:
                judged = [_chance_metric(name, target.name) for name in calibration.FORMULAS]
                found = _tables(target, judged, own, draws)
                for parts, one in zip((scores, differences), found, strict=True):
                    parts.append(one.assign(distribution=CHANCES))
                bins.append(_reliability(target.name, target.chances.classes, own))
    return _shown(scores, differences, ranks, bins, spoken)


# ---- Numbers ---------------------------------------------------------------------------------------------------


def _distributions(
    target: Target, now: Numbers, before: Target, then: Numbers, rows: Sequence[Row], earlier: Sequence[Row]
) -> dict[str, list[Row]]:
    """Return rows whose forecasts are what is summed of their distributions, by kind; the climatology comes first."""
    at, name = np.unique(target.units, return_inverse=True)[1], target.name
    block = exchangeable(before.units, then.times)
    made: dict[str, list[Row]] = {kind: [] for kind in (CONFORMAL, NORMAL, POSTERIOR, SEEDS)}
    weight = np.ones_like(now.truth) if now.weight is None else now.weight
    past_weight = np.ones_like(then.truth) if then.weight is None else then.weight

    def put(kind: str, row: Row, parts: np.ndarray) -> None:
        made[kind].append(Row(row.name, row.role, {name: _by_unit(parts, at)}, row.seed, reference=row.reference))

    def dressed(row: Row, said: np.ndarray, past: np.ndarray, widths: Sequence[np.ndarray | None], own: str) -> None:
        width, past_width = (1.0 if one is None else one[:, None] for one in widths)
        fit = Calibration.fit((then.truth - past) / past_width, past_weight, block)
        scale = fit.scale * width
        shapes: dict[str, Departures] = {own: Gaussian()} | ({CONFORMAL: fit.conformal} if own == NORMAL else {})
        for kind, shape in shapes.items():
            put(kind, row, _sums(shape, scale, now.truth - said, weight))

    usual = Row(CLIMATOLOGY, Role.BASELINE, {}, reference=False)
    dressed(usual, now.climatology, then.climatology, (now.width, then.width), NORMAL)
    past = {(row.name, row.seed): row for row in earlier if before.name in row.forecast}
    pairs = [(row, past[row.name, row.seed]) for row in rows
             if name in row.forecast and (row.name, row.seed) in past and row.name != CLIMATOLOGY]  # fmt: skip
    for row, old in pairs:
        dressed(row, now.of(row), then.of(old), (now.width, then.width), NORMAL)
        if name in row.width and before.name in old.width:
            wide = [width / np.sqrt((width**2).mean()) for width in (row.width[name], old.width[before.name])]
            dressed(row, now.of(row), then.of(old), wide, POSTERIOR)
    for several in names_of([row for row, _ in pairs]):
        own = [(row, old) for row, old in pairs if row.name == several]
        if len(own) > 1:
            members, before_members = (np.stack(each) for each in
                                       ([now.of(row) for row, _ in own], [then.of(old) for _, old in own]))  # fmt: skip
            mean = replace(own[0][0], name=f"{several}, mean of {len(own)} seeds", seed=None, reference=False)
            dressed(mean, members.mean(0), before_members.mean(0), (now.width, then.width), NORMAL)
            put(SEEDS, mean, member_sums(members, now.truth, weight))
    return {kind: own for kind, own in made.items() if own}


def exchangeable(units: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """Return which block each sample belongs to: the target's units, or where these are few shorter ones of time."""
    if times is None or len(np.unique(units)) >= ENOUGH:
        return units
    return blocks_of(times, fewest_blocks(max(CENTRAL)))[1]


def _sums(shape: Departures, scale: np.ndarray, error: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return what is summed of distributions, (part, sample), of errors (truth less forecast) of (sample, cell)."""
    seen = weight > 0
    error, scale = np.where(seen, error, 0.0), np.broadcast_to(scale, error.shape)
    departure = error / scale
    out = np.empty((PARTS, len(error)))
    cells = {WEIGHT: np.ones_like(error), CRPS: scale * shape.crps(departure), VARIANCE: scale**2 * shape.variance,
             ERROR2: (error - scale * shape.mean) ** 2, WIDTH: 2 * scale * shape.half.get(0.9, np.nan)}  # fmt: skip
    for k, share in enumerate(CENTRAL):
        cells[COVERED + k] = np.where(np.abs(departure) <= shape.half[share], 1.0, 0.0) if share in shape.half else (
            np.full_like(error, np.nan)
        )  # fmt: skip
    place = np.minimum((shape.below(departure) * PIT_BINS).astype(int), PIT_BINS - 1)
    cells |= {PIT + b: (place == b).astype(float) for b in range(PIT_BINS)}
    for k, values in cells.items():
        out[k] = np.where(seen, weight * values, 0.0).sum(axis=1)
    return out


def member_sums(members: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return what is summed of ensembles as they are, (part, sample): fair CRPS, rank histogram, spread.

    Intervals lie between members; shares that so many members do not hold exactly are NaN. The histogram has each
    rank's samples evenly over its part of 0 … 1. The variance is that which the error of the mean should have,
    (k + 1) / k times the members' own.

    Args:
        members: (member, sample, cell).
        truth, weight: (sample, cell).
    """
    count, seen = len(members), weight > 0
    ordered, y = np.sort(np.moveaxis(members, 0, 1), axis=1), np.where(seen, truth, 0.0)
    mean = members.mean(axis=0)
    cells: dict[int, np.ndarray] = {
        WEIGHT: np.ones_like(y), CRPS: scoringrules.crps_ensemble(y, ordered, m_axis=1, estimator="fair"),
        VARIANCE: members.var(axis=0, ddof=1) * (count + 1) / count, ERROR2: (mean - y) ** 2,
    }  # fmt: skip
    for k, share in enumerate(CENTRAL):
        cells[COVERED + k] = np.full_like(y, np.nan)
        rank = (1 - share) / 2 * (count + 1)
        if round(rank) >= 1 and abs(rank - round(rank)) < 1e-9:
            low, high = ordered[:, round(rank) - 1], ordered[:, count - round(rank)]
            cells[COVERED + k] = ((low <= y) & (y <= high)).astype(float)
            if share == 0.9:
                cells[WIDTH] = high - low
    cells.setdefault(WIDTH, np.full_like(y, np.nan))
    edges = np.linspace(0, 1, PIT_BINS + 1)
    ranks = np.arange(count + 2) / (count + 1)
    overlap = np.clip(np.minimum(ranks[1:, None], edges[1:]) - np.maximum(ranks[:-1, None], edges[:-1]), 0, None)
    below, upto = (ordered < y[:, None]).sum(axis=1), (ordered <= y[:, None]).sum(axis=1)
    shares = (overlap[below] + overlap[upto]) / 2 * (count + 1)
    cells |= {PIT + b: shares[..., b] for b in range(PIT_BINS)}
    return np.stack([np.where(seen, weight * cells[k], 0.0).sum(axis=1) for k in range(PARTS)])


def _mean(part: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda sums, reference: sums[..., part] / sums[..., WEIGHT]


def _spread(sums: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the root mean variance over the RMSE of the mean: 1 is right, less is overconfident."""
    error = sums[..., ERROR2]
    return np.sqrt(np.divide(sums[..., VARIANCE], error, out=np.full_like(error, np.nan), where=error > 0))


def _unevenness(sums: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return Σ |share of a bin − 1 / bins| of the PIT histogram: the reliability index of Delle Monache et al. 2006."""
    share = sums[..., PIT:PARTS] / sums[..., [WEIGHT]]
    return np.asarray(np.abs(share - 1 / PIT_BINS).sum(axis=-1))


def _skill(sums: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 − CRPS / that of the climatology's conformal distribution."""
    share = sums[..., CRPS] / sums[..., WEIGHT] * reference[..., WEIGHT] / reference[..., CRPS]
    return np.asarray(np.round(1 - share, 12) + 0.0)  # the reference's own is 0 but for rounding


_NUMBER_FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "crps_skill": _skill, "crps": _mean(CRPS),
    **{f"coverage_{round(100 * share)}": _mean(COVERED + k) for k, share in enumerate(CENTRAL)},
    "width_90": _mean(WIDTH), "spread_skill": _spread, "pit_unevenness": _unevenness,
}  # fmt: skip
SMALLER = ("crps", "brier", "ece", "reliability")


# ---- Tables ----------------------------------------------------------------------------------------------------


class _Summed(Resampled):
    """A formula of sums over units.

    Attributes:
        sums: Of each row, (row, part, unit); the last row is the reference.
        formula: Takes sums of rows (…, row, part) and of the reference (…, 1, part), returns (…, row).
    """

    def __init__(self, sums: np.ndarray, formula: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self.sums, self.formula = sums, formula

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self.resample(weights[None])[0]

    def resample(self, counts: np.ndarray) -> np.ndarray:
        drawn = np.moveaxis(self.sums @ counts.T, -1, 0)
        return self.formula(drawn[:, :-1], drawn[:, -1:])


def _number_metric(name: str, target: str, reference: np.ndarray) -> Metric:
    def statistic(rows: Sequence[Row]) -> _Summed:
        return _Summed(np.stack([*(row.forecast[target] for row in rows), reference]), _NUMBER_FORMULAS[name])

    def takes(row: Row) -> bool:
        return bool(np.isfinite(_NUMBER_FORMULAS[name](row.forecast[target].sum(-1), reference.sum(-1))))

    return Metric(name, statistic, name not in SMALLER, compared=name == "crps_skill", takes=takes)


def _chance_metric(name: str, target: str) -> Metric:
    """Return a score of the chances of each class, the mean over classes."""

    def formula(sums: np.ndarray, reference: np.ndarray) -> np.ndarray:
        by_class = sums.reshape(*sums.shape[:-1], -1, calibration.SUMS)
        return np.asarray(calibration.FORMULAS[name](by_class).mean(axis=-1))

    def statistic(rows: Sequence[Row]) -> _Summed:
        own = np.stack([row.forecast[target].reshape(-1, row.forecast[target].shape[-1]) for row in rows])
        return _Summed(np.concatenate([own, own[:1]]), formula)

    return Metric(name, statistic, name not in SMALLER, compared=name in ("brier", "ece"))


def _by_unit(parts: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return sums over the samples of each unit, (…, unit), of (…, sample)."""
    units = np.zeros((len(at), at.max() + 1))
    units[np.arange(len(at)), at] = 1.0
    return np.asarray(parts @ units)


def _tables(
    target: Target, metrics: Sequence[Metric], rows: Sequence[Row], draws: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores, means over seeds, and differences; the samples of rows are the target's units."""
    judged = Target(target.name, np.unique(target.units), metrics, target.block)
    scores, differences = tables([judged], rows, draws=draws)
    return scores[scores["seed"] == ""], differences


def _histogram(target: str, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the shares of the bins of each row's PIT, seeds pooled."""
    lines = []
    for name in names_of(rows):
        sums = sum(row.forecast[target].sum(axis=-1) for row in rows if row.name == name)
        share = np.asarray(sums)[PIT:PARTS] / np.asarray(sums)[WEIGHT]
        lines += [(name, target, b / PIT_BINS, (b + 1) / PIT_BINS, share[b]) for b in range(PIT_BINS)]
    return pd.DataFrame(lines, columns=["row", "target", "from", "to", "share"])


def _reliability(target: str, classes: Sequence[str], rows: Sequence[Row]) -> pd.DataFrame:
    """Return mean chance and frequency of each row, class and bin, seeds pooled."""
    lines, bins = [], calibration.BINS
    for name in names_of(rows):
        sums = np.asarray(sum(row.forecast[target].sum(axis=-1) for row in rows if row.name == name))
        for one, own in zip(classes, sums, strict=True):
            weight, chance, occurred = (own[k * bins : (k + 1) * bins] for k in range(3))
            lines += [(name, target, one, b / bins, (b + 1) / bins, weight[b] / weight.sum(), chance[b] / weight[b],
                       occurred[b] / weight[b]) for b in range(bins) if weight[b] > 0]  # fmt: skip
    return pd.DataFrame(lines, columns=["row", "target", "class", "from", "to", "share", "chance", "frequency"])


def _shown(
    scores: Sequence[pd.DataFrame], differences: Sequence[pd.DataFrame], ranks: Sequence[pd.DataFrame],
    bins: Sequence[pd.DataFrame], spoken: Sequence[str],
) -> Uncertainty:  # fmt: skip
    """Return what there is, as tables, pictures and words."""
    made = {"uncertainty": joined(scores, COLUMNS), "uncertainty_differences": joined(differences, DIFFERENCES)}
    figures, words = {}, {}
    if ranks:
        made["rank_histogram"] = pd.concat(ranks, ignore_index=True)
        ranks_of = made["rank_histogram"][made["rank_histogram"]["distribution"] != POSTERIOR]
        figures["uncertainty"] = calibration_figure(made["uncertainty"], ranks_of, spoken, SEEDS)
        words["uncertainty"] = WORDS
    if bins:
        made["reliability"] = pd.concat(bins, ignore_index=True)
        figures["reliability_of_chances"] = reliability_figure(made["reliability"], spoken)
        words["reliability_of_chances"] = CHANCE_WORDS
    kept = {name: one for name, one in made.items() if len(one)}
    return Uncertainty(kept, figures, words, _notes(made["uncertainty"], spoken))


def _notes(scores: pd.DataFrame, spoken: Sequence[str]) -> list[str]:
    """Return what the intervals of the first pretrained row hold, mean over the targets."""
    first = next((name for name in spoken if name.startswith("pretrained")), None)
    own = scores[scores["row"] == first]
    said = []
    for kind in (NORMAL, CONFORMAL):
        means = own[own["distribution"] == kind].groupby("metric", sort=False)["value"].mean()
        if "coverage_90" in means:
            said.append(f"{kind}: 90 % intervals hold {means['coverage_90']:.0%}, CRPS skill "
                        f"{means['crps_skill']:.3f}, spread over error {means['spread_skill']:.2f}")  # fmt: skip
    if "ece" in set(own["metric"]):
        said.append(f"expected calibration error {own.loc[own['metric'] == 'ece', 'value'].mean():.3f}")
    return [f"Uncertainty of {first}, mean over the targets: {'; '.join(said)} (uncertainty.csv)."] if said else []

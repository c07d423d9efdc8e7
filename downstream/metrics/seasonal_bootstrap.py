"""Intervals of skill and of paired differences: block bootstrap over target years.

Years are drawn in circular blocks (Politis & Romano 1992); a drawn year brings all its months, leads and
rows along, so that rows stay paired. Intervals are percentiles of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ...ssl.common.errors import EarthSSLError, nearest
from .seasonal import Row, aligned, all_season_skill, fold_array, root_mean_square_error

ROUNDING = 1e-9
SCORES = {"r": all_season_skill, "rmse": root_mean_square_error}


def year_counts(years: int, draws: int, *, block: int = 2, seed: int = 0) -> np.ndarray:
    """Return how often each year occurs in each draw, shape (draws, years); every draw has `years` years.

    Blocks of consecutive years start anywhere and wrap round; the last one is cut to length.

    Raises:
        EarthSSLError: If there are fewer than two blocks of years.
    """
    if block < 1 or draws < 1 or years < 2 * block:
        raise EarthSSLError(
            f"expected at least {2 * max(block, 1)} years for a bootstrap by blocks of {block}, got {years} "
            f"years and {draws} draws; lengthen the test block or shorten the blocks"
        )
    rng = np.random.default_rng([seed, years, block])
    starts = rng.integers(0, years, size=(draws, -(-years // block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :years] % years
    counts = np.zeros((draws, years))
    np.add.at(counts, (np.arange(draws)[:, None], drawn), 1.0)
    return counts


def resampled_skill(forecast: np.ndarray, observed: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the all-season r of each draw, shape (draws, lead).

    A draw is a set of weights, so all of them are a few matrix products with the years' moments.

    Args:
        forecast, observed: Folded values, shape (lead, years, 12), missing in the same places.
        counts: Times each year occurs, shape (draws, years).
    """
    valid = np.isfinite(forecast) & np.isfinite(observed)
    f, o = _centred(forecast, valid), _centred(observed, valid)
    moments = [_by_draw(values, counts) for values in (valid.astype(float), f, o, f * f, o * o, f * o)]
    n, f1, o1, f2, o2, fo = moments
    f_power, o_power, covariance = n * f2 - f1**2, n * o2 - o1**2, n * fo - f1 * o1
    # Below these a variance is rounding: of a constant forecast, or of a draw that repeats one year.
    f_floor, o_floor = (_floor(values, valid) * n**2 for values in (forecast, observed))
    usable, moving = o_power > o_floor, f_power > f_floor
    scale = np.sqrt(np.where(usable & moving, f_power * o_power, 1.0))
    r = np.where(usable & moving, np.clip(covariance / scale, -1, 1), 0.0)
    months = usable.sum(axis=-1)
    return np.where(months > 0, r.sum(axis=-1) / np.maximum(months, 1), np.nan)


def resampled_rmse(forecast: np.ndarray, observed: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the RMSE of each draw, K, shape (draws, lead); arguments as for `resampled_skill`."""
    valid = np.isfinite(forecast) & np.isfinite(observed)
    error = np.where(valid, forecast - observed, 0.0)
    total = _by_draw(error * error, counts).sum(axis=-1)
    count = _by_draw(valid.astype(float), counts).sum(axis=-1)
    return np.sqrt(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _by_draw(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the sums over the drawn years of (lead, years, 12), shape (draws, lead, 12)."""
    leads, years, months = values.shape
    flat = values.transpose(1, 0, 2).reshape(years, leads * months)
    return (counts @ flat).reshape(len(counts), leads, months)


def _centred(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return values less their mean over years (0 where missing): small moments lose no digits."""
    filled = np.where(valid, values, 0.0)
    mean = filled.sum(axis=1, keepdims=True) / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return np.where(valid, filled - mean, 0.0)


def _floor(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return 1e-20 * (np.where(valid, values, 0.0) ** 2).max(axis=1)[None]


def paired_bootstrap(
    rows: Sequence[Row],
    observed: xr.DataArray,
    references: Sequence[str],
    *,
    score: str = "r",
    draws: int = 2000,
    block: int = 2,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Return each row's score with intervals, and its paired differences from reference rows.

    Rows of one name are seeds of one method: its score is the mean of the seeds' scores, not the score of
    their mean forecast. All rows share the draws.

    Args:
        rows: All rows, references among them.
        observed: Targets of the test samples, dims (lead, init_time).
        references: Names of the rows to subtract.
        score: "r", all-season skill, or "rmse", K.
        draws: Resamples.
        block: Years a block.
        level: Coverage aimed at; with 30 years the true one is lower (.92 for .95 where the truth is known).
        seed: Of the draws.

    Returns:
        Dataset with dims row, reference, lead, bound ("low", "high"): `score`, `mean_score` (over leads),
        `difference` (row - reference), `mean_difference`, each with an `…_interval`; `verdict` and
        `mean_verdict` ("better", "worse", or "" where the interval holds zero); `seeds` and `seed_std`
        (NaN for one seed). Verdicts by lead are not corrected for their number: quote the mean's.

    Raises:
        EarthSSLError: For an unknown score or reference, too few years, or rows that miss samples.
    """
    names = _names(rows, references, score)
    years, truth = fold_array(observed)
    kept = np.isfinite(truth).any(axis=(0, 2))
    counts = year_counts(int(kept.sum()), draws, block=block, seed=seed)
    pairs = [names.index(name) for name in references]
    scored, samples = _sample(rows, names, observed, score, kept, counts)
    point = scored["score"][1]
    result = scored | _intervals(point, samples, level) | _differences(point, samples, pairs, level, score == "r")
    coords = {"row": names, "reference": list(references), "lead": observed["lead"].values, "bound": ["low", "high"]}
    span = f"{years[kept][0]}-{years[kept][-1]}"
    settings = {"score": score, "draws": draws, "block_years": block, "level": level, "seed": seed, "years": span}
    return xr.Dataset(result, coords=coords, attrs=settings)


def _names(rows: Sequence[Row], references: Sequence[str], score: str) -> list[str]:
    """Return the distinct row names in order, once the request is known to make sense."""
    if score not in SCORES:
        raise EarthSSLError(f"expected the score r or rmse, got '{score}'.{nearest(score, SCORES)}")
    names = list(dict.fromkeys(row.name for row in rows))
    for name in references:
        if name not in names:
            raise EarthSSLError(
                f"expected a reference out of the rows {', '.join(names)}, got '{name}'.{nearest(name, names)}"
            )
    return names


def _sample(
    rows: Sequence[Row],
    names: list[str],
    observed: xr.DataArray,
    score: str,
    kept: np.ndarray,
    counts: np.ndarray,
) -> tuple[dict[str, tuple], np.ndarray]:
    """Return the scores of each name (mean over its seeds, and their spread), and its draws (name, draws, lead)."""
    truth = fold_array(observed)[1][:, kept]
    resample = resampled_skill if score == "r" else resampled_rmse
    point: dict[str, list[np.ndarray]] = {name: [] for name in names}
    drawn = {name: np.zeros((len(counts), len(truth))) for name in names}
    for row in rows:
        forecast = fold_array(aligned(row, observed))[1][:, kept]
        point[row.name].append(SCORES[score](forecast, truth))
        drawn[row.name] += resample(forecast, truth, counts)
    missing = np.full(len(truth), np.nan)
    spread = [np.std(p, axis=0, ddof=1) if len(p) > 1 else missing for p in point.values()]
    scored = {
        "score": (("row", "lead"), np.stack([np.mean(p, axis=0) for p in point.values()])),
        "seed_std": (("row", "lead"), np.stack(spread)),
        "seeds": ("row", [len(p) for p in point.values()]),
    }
    return scored, np.stack([drawn[name] / len(point[name]) for name in names])


def _interval(draws: np.ndarray, level: float, axis: int) -> np.ndarray:
    """Return the low and high percentile along `axis`, as a new last axis."""
    return np.moveaxis(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=axis), 0, -1)


def _intervals(point: np.ndarray, samples: np.ndarray, level: float) -> dict[str, tuple]:
    """Return interval variables of scores (row, lead) and draws (row, draws, lead)."""
    return {
        "score_interval": (("row", "lead", "bound"), _interval(samples, level, 1)),
        "mean_score": ("row", point.mean(axis=-1)),
        "mean_score_interval": (("row", "bound"), _interval(samples.mean(axis=-1), level, 1)),
    }


def _differences(
    point: np.ndarray, samples: np.ndarray, references: list[int], level: float, larger_is_better: bool
) -> dict[str, tuple]:
    """Return difference variables, (reference, row, lead, …); draws are subtracted before percentiles."""
    difference = point[None] - point[references][:, None]
    drawn = samples[None] - samples[references][:, None]
    by_lead, overall = _interval(drawn, level, 2), _interval(drawn.mean(axis=-1), level, 2)
    dims = ("reference", "row")
    return {
        "difference": ((*dims, "lead"), difference),
        "difference_interval": ((*dims, "lead", "bound"), by_lead),
        "verdict": ((*dims, "lead"), _verdict(by_lead, larger_is_better)),
        "mean_difference": (dims, difference.mean(axis=-1)),
        "mean_difference_interval": ((*dims, "bound"), overall),
        "mean_verdict": (dims, _verdict(overall, larger_is_better)),
    }


def _verdict(interval: np.ndarray, larger_is_better: bool) -> np.ndarray:
    # Rows that are multiples of each other have equal r up to rounding, which must not count.
    above, below = interval[..., 0] > ROUNDING, interval[..., 1] < -ROUNDING
    better, worse = (above, below) if larger_is_better else (below, above)
    return np.where(better, "better", np.where(worse, "worse", ""))

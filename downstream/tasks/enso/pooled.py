"""One table of several folds: the test months of all, each forecast by what never saw them, scored together.

The folds' forecasts and targets are anomalies from different climatologies, each of its own training and validation.
Here the observed target is one series, whatever fold a month fell into: the folds' climatologies are added to it again,
and the mean of each calendar month over all tested years is taken off. Forecasts stay what they were, anomalies from
the climatology that their fold had to do with: with it added, no anomaly would be forecast as the mean of the other
years, which lies on the other side of the mean of all, and have r well below 0 (the degeneracy of Barnston & van den
Dool 1993, doi 10.1175/1520-0442(1993)006<0963:ADICVS>2.0.CO;2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.files import read_json
from ...results.figures import score_figure
from ...results.finding import finding
from ...results.row import Role, Row, names_of
from ...results.scores import tables
from ...results.summary import Summary
from .task import SKILL, drawn_names, forecasts, reach, season_figure, season_skill, shown, skill_figure, targets
from .tested import MEAN, Tested, target_name

CONVENTION = (
    "Cross-validated: {count} test blocks ({blocks}), each forecast by rows that were fitted, chosen and pretrained on "
    "other years, at least {gap} days away on either side. Target: 3-month mean Niño 3.4, centred `lead` months after "
    "the last input month. Every fold takes its anomalies from the calendar-month means of its own training and "
    "validation, with the gap between the two; forecasts are scored as these anomalies. The observed target is one "
    "series: the anomaly from the mean of each calendar month over all tested years. Skill: mean over the 12 target "
    "months of Pearson's r over the pooled test years. Intervals: paired bootstrap over blocks of {block} test years. "
    "What a row chose on validation may differ from fold to fold."
)


@dataclass(frozen=True, eq=False)
class Pooled(Tested):
    """The test samples of all folds.

    Attributes:
        time, leads: As in `Tested`.
        observed: Targets, K, anomalies from the mean of each calendar month over all of them, (lead, time).
        common: What they are anomalies from, K, (lead, time).
        usual: What the forecasts are anomalies from, each of its fold, K, (lead, time).
        places: Initial months of the test samples of each lead.
    """

    time: np.ndarray
    leads: tuple[int, ...]
    observed: np.ndarray
    common: np.ndarray
    usual: np.ndarray
    places: Sequence[np.ndarray]

    @property
    def target(self) -> np.ndarray:
        return self.observed

    @property
    def usual_target(self) -> np.ndarray:
        return self.common

    @property
    def tested(self) -> Sequence[np.ndarray]:
        return self.places


def pool(made: Sequence[xr.Dataset]) -> tuple[Pooled, dict[str, np.ndarray]]:
    """Return the test samples of all folds and the forecasts of them by row, K, (lead, time), anomalies of the folds.

    Args:
        made: What `forecasts` returned in each fold; rows that are not in every fold are left out.

    Raises:
        EarthSSLError: If folds have other leads, or test a month twice.
    """
    leads = tuple(int(lead) for lead in made[0]["lead"].values)
    if any(tuple(one["lead"].values) != leads for one in made):
        raise EarthSSLError("folds: expected the same leads in every fold, got others; make the folds with one config")
    months = [one["init_time"].values.astype("datetime64[M]") for one in made]
    time = np.arange(min(own[0] for own in months), max(own[-1] for own in months) + 1)
    names = [name for name in made[0]["row"].values if all(name in one["row"].values for one in made)]
    absolute, usual = np.full((2, len(leads), len(time)), np.nan)
    said = {str(name): np.full_like(absolute, np.nan) for name in names}
    for one, own in zip(made, months, strict=True):
        at = (own - time[0]).astype(int)
        there = np.isfinite(one["observed"].values)
        for j in range(len(leads)):
            mine = at[there[j]]
            if np.isfinite(absolute[j, mine]).any():
                raise EarthSSLError(f"folds: expected every month tested once, got {time[mine[0]]} in two folds")
            usual[j, mine] = one["climatology"].values[j, there[j]]
            absolute[j, mine] = usual[j, mine] + one["observed"].values[j, there[j]]
            for name, values in said.items():
                values[j, mine] = one["forecast"].sel(row=name).values[j, there[j]]
    common = _by_month(absolute, time, leads)
    places = [np.flatnonzero(np.isfinite(own)) for own in absolute]
    return Pooled(time, leads, absolute - common, common, usual, places), said


def _by_month(absolute: np.ndarray, time: np.ndarray, leads: Sequence[int]) -> np.ndarray:
    """Return the mean of all targets of the same calendar month and lead, (lead, time)."""
    common = np.full_like(absolute, np.nan)
    for j, lead in enumerate(leads):
        month = (time.astype(int) + lead) % 12
        for m in range(12):
            own = absolute[j, month == m]
            if np.isfinite(own).any():
                common[j, month == m] = np.nanmean(own)
    return common


def pooled_summary(folders: Sequence[Path], title: str, draws: int, block: int) -> Summary:
    """Return the pooled table of the enso probes in some folders.

    Args:
        folders: Results of the probe of each fold.
        title: Of the page; "": made from the first fold's.
        draws, block: Of the bootstrap: draws, and years drawn together.

    Raises:
        EarthSSLError: If a folder lacks its results, or the folds do not fit together.
    """
    records = [read_json(folder / "result.json", "the results of a fold") for folder in folders]
    made = []
    for folder in folders:
        with xr.open_dataset(folder / "forecasts.nc") as opened:
            made.append(opened.load())
    enso, said = pool(made)
    kinds = {f"{one['row']}|{one['seed']}": one for one in records[0]["rows"]}
    rows = [_row(enso, kinds[name], values) for name, values in said.items()]
    every = {name for record in records for name in (f"{one['row']}|{one['seed']}" for one in record["rows"])}
    aims = [replace(one, metrics=[own for own in one.metrics if own.name != "rmse"]) for one in targets(enso, block)]
    scores, differences = tables(aims, rows, draws=draws)
    spoken = [row for row in rows if row.name in records[0]["speakers"]]
    roles, seasons = {row.name: row.role for row in rows}, season_skill(enso, rows)
    main = [(target.name, SKILL) for target in shown(enso.leads, aims)]
    tested = [tuple(end[:7] for end in record["split"]["test"]) for record in records]
    years = aims[0].units
    notes = [reach(scores, drawn_names(spoken), enso.leads), *dict.fromkeys(n for r in records for n in r["notes"][1:])]
    lost = sorted(every - set(said))
    if lost:
        notes.append(f"Left out, as not every fold has them: {', '.join(name.split('|')[0] for name in lost)}.")
    gap = min(days for record in records for days in record["split_proof"]["gaps_days"].values())
    return Summary(
        task="enso",
        title=title or f"Niño 3.4, {len(folders)} folds, test {years.min()} … {years.max()}, {records[0]['source']}",
        convention=CONVENTION.format(
            count=len(folders), gap=round(gap), block=block, blocks=", ".join(f"{a} … {b}" for a, b in tested)
        ),
        found=finding(scores, differences, spoken, [(MEAN, SKILL)]),
        main=main,
        headline=[(MEAN, SKILL)],
        speakers=names_of(spoken),
        scores=scores,
        differences=differences,
        record={
            "source": records[0]["source"],
            "synthetic": records[0]["synthetic"],
            "test_years": f"{years.min()}-{years.max()}",
            "samples": {target_name(lead): len(own) for lead, own in zip(enso.leads, enso.tested, strict=True)},
            "folds": [_fold(folder, record) for folder, record in zip(folders, records, strict=True)],
            "rows": [{"row": row.name, "seed": row.seed, "role": str(row.role)} for row in rows],
        },
        figures={
            "skill_by_lead": skill_figure(scores, spoken),
            "scores": score_figure(scores, roles, main),
            "seasons": season_figure(seasons, spoken),
        },
        words={"skill_by_lead": "All-season skill r of the pooled test years by lead; bands are 95 % intervals."},
        tables={"seasons": seasons},
        datasets={"forecasts": forecasts(enso, rows).assign(fold_climatology=enso.array(enso.of_test(enso.usual)))},
        notes=notes,
        unit=(len(np.unique(years)), "year"),
    )


def _row(enso: Pooled, kind: Mapping[str, Any], values: np.ndarray) -> Row:
    """Return a row of the pooled table; a forecast of no anomaly is compared with no other, as in the folds."""
    more = {"reference": False} if kind["row"] == "climatology" else {}
    return enso.row(kind["row"], values, {}, kind["seed"], Role(kind["role"]), **more)


def _fold(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fold was, for the record."""
    kept = ("split", "split_proof", "store_fingerprint", "encoders", "rows", "seconds")
    return {"folder": folder.parent.name, **{name: record[name] for name in kept}}

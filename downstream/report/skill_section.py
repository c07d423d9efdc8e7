"""The report's first half: the comparison table, skill by lead, paired differences, seasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..evaluation.html import Html, Section, details, element, figure, joined, table
from . import plots
from .probe_results import MEAN, Difference, Estimate, Results, RowInfo
from .verdict import MARKS, bracket, number, with_interval

SHOWN_LEADS = (1, 3, 6, 9, 12, 15, 18)
KINDS = {"baseline": "Baselines", "encoder": "Networks", "known": "Known from the hidden state"}
FIGURE_ROLES = ("persistence", "LIM", "PCA", "untrained", "pretrained", "scratch", "known")


def shown_leads(leads: Sequence[int]) -> list[int]:
    """Return the leads for tables: the usual ones that are there, else up to seven spread evenly."""
    return [lead for lead in SHOWN_LEADS if lead in leads] or _evenly(leads, 7)


def _evenly(leads: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the leads, from the first to the last."""
    return [leads[k] for k in np.unique(np.linspace(0, len(leads) - 1, most).round().astype(int))]


def data_words(results: Results) -> str:
    """Return what the numbers were computed on: "synthetic planet, test years 1990-2014"."""
    years = results.record.get("test_years")
    words = ["synthetic planet"] if results.synthetic else []
    return ", ".join([*words, f"test years {years}".replace("-", "–") if years else "test block"])


def interval_words(results: Results) -> str:
    """Return what the intervals are."""
    r = results.record
    level = f"{100 * float(r.get('level', 0.95)):.0f}\u00a0%"
    how = [f"{r['draws']} draws" if "draws" in r else "", f"blocks of {r['block_years']} years" * ("block_years" in r)]
    return f"{level} intervals from a paired bootstrap over test years ({', '.join(filter(None, how))})".replace(
        " ()", ""
    )


def seed_words(results: Results) -> str:
    """Return how many seeds stand behind the networks."""
    parts = []
    for role in ("pretrained", "untrained", "scratch"):
        row = results.primary(role)
        if row is not None and row.seeds:
            parts.append(f"{role}: seed{'s' * (len(row.seeds) > 1)} {', '.join(row.seeds)}")
    return f"Seeds: {'; '.join(parts)}." if parts else ""


def skill_section(results: Results) -> Section:
    """Return the comparison: every row at chosen leads, and the figure of a readable few."""
    leads = shown_leads(results.leads)
    subject = results.primary("pretrained")
    judges = _judges(results, subject)
    body = _grouped(results, lambda row: _skill_row(results, row, leads, judges, row is subject))
    over = [("", 1), ("r at lead (months)", len(leads)), ("", 1), ("mean over leads, minus …", len(judges))]
    head = ["row", *map(str, leads), "last lead r ≥ .5", *[title for title, _ in judges]]
    caption = (
        "All-season skill r (mean over target months of the correlation over the years) and its interval, "
        f"{data_words(results)}. Right: paired difference from a reference, averaged over leads; ▲ better, ▼ worse, "
        f"· undecided (the interval holds 0; point at it to see). {interval_words(results)}. A row of several seeds "
        f"scores the mean of its seeds' skills. {seed_words(results)}"
    )
    parts = [table(head, body, caption, over=over if judges else over[:3]), _skill_figure(results), _errors(results)]
    return Section("skill", "Skill", joined(parts))


def _grouped(results: Results, cells: Callable[[RowInfo], list[Any]]) -> list[list[Any]]:
    """Return table rows under a heading for each kind."""
    body: list[list[Any]] = []
    for kind in dict.fromkeys(row.kind for row in results.rows):
        body.append([KINDS.get(kind, kind)])
        body += [cells(row) for row in results.rows if row.kind == kind]
    return body


def _errors(results: Results) -> Html:
    """Return RMSE and ratio of standard deviations of every row, and the mean skill of its seeds."""
    few = _evenly(shown_leads(results.leads), 3)

    def cells(row: RowInfo) -> list[Any]:
        curves = [results.curve(row.name, metric) for metric in ("rmse", "std_ratio")]
        seeds = [results.curve(row.name, seed=seed)["value"] for seed in row.seeds]
        means = ", ".join(number(float(curve.mean())) for curve in seeds if len(curve))
        found = [number(_value(curve, lead)) for curve in curves for lead in few]
        return [row.name, *found, number(results.mean_skill(row.name)), means]

    over = [("", 1), ("RMSE (K) at lead", len(few)), ("sd ratio at lead", len(few)), ("r, mean over leads", 2)]
    head = ["row", *map(str, few), *map(str, few), "all seeds", "by seed"]
    caption = (
        f"Error and amplitude, {data_words(results)}. sd ratio: standard deviation of the forecasts over that of the "
        "observations; below 1 they are damped."
    )
    return table(head, _grouped(results, cells), caption, over=over)


def _judges(results: Results, subject: RowInfo | None) -> list[tuple[str, str | None]]:
    """Return the columns of marks: (title, reference), None for "the untrained row of the same pooling"."""
    wanted = results.key_references(subject) if subject else results.references
    twin = results.twin(subject) if subject else None
    if twin is None or twin.name not in wanted:
        return [(name, name) for name in wanted[:4]]
    title = "untrained, same pooling" if twin.variant else twin.name
    return [(title, None), *[(name, name) for name in wanted if name != twin.name][:4]]


def _skill_row(
    results: Results, row: RowInfo, leads: list[int], judges: list[tuple[str, str | None]], hero: bool
) -> list[Any]:
    skill = results.curve(row.name)
    seeds = element("span", f" {len(row.seeds)} seeds", class_="seeds") if len(row.seeds) > 1 else ""
    cells: list[Any] = [joined([element("strong", row.name) if hero else row.name, seeds])]
    cells += [_estimate(skill, lead) for lead in leads]
    last = results.last_lead(row.name)
    cells.append("none" if last is None else last)
    twin = results.twin(row)
    for _, name in judges:
        reference = name or (twin.name if twin is not None else row.name)
        cells.append(mark(results.difference(row.name, reference) if reference != row.name else None))
    return cells


def _value(curve: Any, lead: int) -> float:
    return float(curve["value"].get(lead, float("nan")))


def _estimate(curve: Any, lead: int) -> Html:
    if lead not in curve.index:
        return Html("–")
    one = curve.loc[lead]
    return _stacked(Estimate(float(one["value"]), float(one["low"]), float(one["high"])))


def _stacked(estimate: Estimate, *, plus: bool = False, before: Html | str = "") -> Html:
    """Return a value with its interval below."""
    below = bracket(estimate, plus=plus)
    value = number(estimate.value, plus=plus)
    return joined([before, value, element("span", below, class_="interval") if below else ""])


def mark(found: Difference | None, *, full: bool = False) -> Html:
    """Return a difference as mark and number, coloured and readable aloud; a dash where there is none."""
    if found is None:
        return Html("–")
    sign = element("span", MARKS[found.verdict], class_=found.verdict, title=found.verdict, role="img",
                   aria_label=found.verdict)  # fmt: skip
    if full:
        return _stacked(found.estimate, plus=True, before=joined([sign, " "]))
    said = f"minus {found.reference}: {with_interval(found.estimate, plus=True)}, {found.verdict}"
    return element("span", sign, " ", number(found.estimate.value, plus=True), title=said)


def figure_rows(results: Results) -> list[RowInfo]:
    """Return the few rows that a figure can hold: one of each role, of several LIMs the most skilful."""
    chosen = []
    for role in FIGURE_ROLES:
        lims = results.of_role("LIM") if role == "LIM" else []
        row = max(lims, key=lambda r: results.mean_skill(r.name), default=None) if lims else results.primary(role)
        if row is not None:
            chosen.append(row)
    return chosen or list(results.rows[:6])


def _skill_figure(results: Results) -> Html:
    shaded = ("pretrained", "untrained", "PCA")
    series = []
    for row in figure_rows(results):
        curve = results.curve(row.name)
        band = row.role in shaded
        series.append(
            plots.Series(
                row.name,
                curve.index.to_numpy(dtype=float),
                curve["value"].to_numpy(),
                curve["low"].to_numpy() if band else None,
                curve["high"].to_numpy() if band else None,
                row.role,
            )
        )
    caption = (
        f"Skill by lead, {data_words(results)}. Bands: {interval_words(results)}, for the pretrained, untrained and "
        "PCA rows only. Overlapping bands do not mean equal rows: the rows are paired, so read the differences below."
    )
    return figure(plots.skill_by_lead(series, results.leads, "skill"), caption, 720)


def differences_section(results: Results) -> Section:
    """Return the paired differences: of the pretrained rows by lead, of all rows averaged over leads."""
    subject = results.primary("pretrained")
    leads = shown_leads(results.leads)
    parts: list[Html] = []
    if subject is not None:
        drawn = _difference_figure(results, subject)
        parts += [drawn] if drawn else []
        body = _difference_rows(results, subject, leads)
        head = ["minus", "mean over leads", *map(str, leads)]
        caption = (
            f"Paired differences of skill, {data_words(results)}. {interval_words(results)}. "
            "▲ better, ▼ worse, · undecided. Verdicts by lead are not corrected for their number: rely on the mean."
        )
        if body:
            over = [("", 2), ("at lead (months)", len(leads))]
            parts.append(table(head, body, caption, over=over))
    whole = [[d.row, d.reference, mark(d, full=True)] for (_, _, lead), d in results.pairs.items() if lead == MEAN]
    if whole:
        made = table(
            ["row", "minus", "difference"], whole, "Every comparison made, averaged over leads.", text_columns=2
        )
        parts.append(details(f"All {len(whole)} comparisons averaged over leads", made))
    return Section("differences", "Paired differences", joined(parts))


def _difference_rows(results: Results, subject: RowInfo, leads: list[int]) -> list[list[Any]]:
    body: list[list[Any]] = []
    others = [row for row in results.of_role("pretrained") if row is not subject]
    for row in [subject, *others]:
        twin = results.twin(row)
        # Other poolings only against their own twin: the details hold the rest.
        names = results.key_references(row) if row is subject else [twin.name] if twin is not None else []
        found = {
            name: [results.difference(row.name, name, lead) for lead in [MEAN, *map(str, leads)]] for name in names
        }
        made = [[name, *[mark(one, full=True) for one in all_of]] for name, all_of in found.items() if any(all_of)]
        body += [[joined([element("strong", row.name), " minus …"])], *made] if made else []
    return body


def _difference_figure(results: Results, subject: RowInfo) -> Html | None:
    roles = {row.name: row.role for row in results.rows}
    series = []
    for name in results.key_references(subject)[:6]:
        found = [results.difference(subject.name, name, lead) for lead in results.leads]
        if any(one is None for one in found):
            continue
        values = np.array([[d.estimate.value, d.estimate.low, d.estimate.high] for d in found if d is not None])
        leads = np.array(results.leads, dtype=float)
        style = roles.get(name, "other")
        series.append(plots.Series(name, leads, values[:, 0], values[:, 1], values[:, 2], style))
    if not series:
        return None
    caption = (
        f"{subject.name} minus each reference, by lead, {data_words(results)}: above 0 the encoder is ahead. "
        f"Bands: {interval_words(results)}. {seed_words(results)}"
    )
    return figure(plots.differences_by_lead(series, subject.name, results.leads, "paired"), caption, 640)


def seasons_section(results: Results) -> Section:
    """Return skill by target season and lead for the pretrained row beside PCA; empty where there is none."""
    rows = [row for row in (results.primary("pretrained"), results.primary("PCA")) if row is not None]
    maps = {row.name: found for row in rows if (found := results.season_map(row.name)) is not None}
    if not maps:
        return Section("seasons", "Seasons", Html(""))
    caption = (
        f"Correlation over the years by target season (rows: three months, named by their initials) and lead, "
        f"{data_words(results)}; white line: r = .5. Where skill drops along a diagonal, forecasts fail to cross the "
        "spring barrier. Single cells are not tested: with this many cells, some differ by chance."
    )
    return Section("seasons", "Seasons", figure(plots.season_maps(maps, results.leads, "seasons"), caption, 760))

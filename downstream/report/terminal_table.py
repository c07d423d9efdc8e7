"""The probe's result in a terminal: skill, verdicts, and the share of what could be known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ...ssl.common.files import read_json
from ..metrics.seasonal import last_skilful_lead

LEADS = (1, 3, 6, 9, 12, 15, 18)


def table(folder: Path, leads: Sequence[int] = LEADS) -> str:
    """Return the table of a probe's folder as text, then what the paired differences say.

    ENSO's is made here from its files; the other tasks wrote theirs.
    """
    if (folder / "table.txt").is_file():
        return (folder / "table.txt").read_text(encoding="utf-8").rstrip()
    scores = pd.read_csv(folder / "scores.csv")
    record = read_json(folder / "probe.json", "a probe's record")
    skill = scores[(scores.metric == "skill") & scores.seed.isna()]
    shown = [lead for lead in leads if lead in set(skill.lead)]
    names = list(skill.row.unique())
    width = max(len(name) for name in names)
    what = "synthetic planet, " if record["synthetic"] else ""
    middle = shown[len(shown) // 2]
    lines = [
        f"all-season skill (mean r), {what}test {record['test_years']}",
        f"{'lead (months)':<{width}}  " + "".join(f"{lead:>7}" for lead in shown)
        + f"   95 % at lead {middle}   last lead r ≥ .5",
    ]  # fmt: skip
    for name in names:
        mine = skill[skill.row == name].set_index("lead")
        cells = "".join(f"{mine.loc[lead].value:>7.2f}" for lead in shown)
        interval = f"[{mine.loc[middle].low:5.2f}, {mine.loc[middle].high:5.2f}]"
        last = last_skilful_lead(mine.value.to_numpy(), mine.index.to_numpy())
        lines.append(f"{name:<{width}}  {cells}   {interval:<18}{last or '–':>8}")
    return "\n".join([*lines, *_verdicts(folder), *_known_share(skill, record)])


def _verdicts(folder: Path) -> list[str]:
    """Return a line for each pretrained row: against its untrained twin, and against PCA, over all leads."""
    d = pd.read_csv(folder / "differences.csv", dtype={"lead": str})
    d = d[(d.lead == "mean") & d.row.str.startswith("pretrained")]
    lines = ["", "difference in r, mean over leads [95 %]: better or worse only where the interval excludes 0"]
    for name in d.row.unique():
        twin = name.replace("pretrained", "untrained")
        for reference in (twin, "PCA"):
            for one in d[(d.row == name) & (d.reference == reference)].itertuples():
                lines.append(f"{name} − {reference}: {one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]  {one.verdict}")
    return lines


def _known_share(skill: pd.DataFrame, record: dict) -> list[str]:  # type: ignore[type-arg]
    """Return the share of the best reachable skill, mean over leads, where the data are synthetic."""
    known = [row["name"] for row in record["rows"] if row["kind"] == "known"]
    if not known:
        return []
    means = skill.groupby("row").value.mean()
    best = means[known[0]]
    shares = [f"{name} {means[name] / best:.2f}" for name in means.index if name.startswith(("pretrained", "PCA"))]
    return ["", f"share of the best reachable skill ({best:.2f}, mean over leads): " + ", ".join(shares)]

"""The finding: one sentence of what a table says of the pretrained encoder, and not a word more."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .numbers import number
from .row import Role, Row


def finding(
    scores: pd.DataFrame, differences: pd.DataFrame, rows: Sequence[Row], main: Sequence[tuple[str, str]]
) -> str:
    """Return what was found, from the first metric of each target, averaged over the targets.

    The subject is the pretrained (or fine-tuned) row of the best mean; it is held against its untrained twins, the best
    baseline and the network from scratch, each with the number of targets at which the paired interval excludes zero.

    Args:
        scores: Columns of `SCORES`.
        differences: Columns of `DIFFERENCES`.
        rows: Those that may be spoken of, for their roles.
        main: Target and metric of each target.
    """
    roles = {row.name: row.role for row in rows}
    means = scores[scores["seed"].fillna("").astype(str) == ""].set_index(["target", "metric"])
    means = means[means.index.isin(list(main))]
    over = means.groupby("row", sort=False)["value"].mean()
    where = f"over {len(main)} targets" if len(main) > 1 else f"({main[0][0]})"
    metric = main[0][1].replace("_", " ")

    def best(*wanted: Role) -> str | None:
        own = over[[name for name in over.index if roles.get(name) in wanted]].dropna()
        return None if own.empty else str(own.idxmax())

    subject = best(Role.PRETRAINED, Role.TUNED)
    if subject is None:
        top = best(Role.BASELINE, Role.UNTRAINED, Role.SCRATCH)
        if top is None:
            return "No pretrained encoder is in this table, and no row has a finite score."
        return f"No pretrained encoder is in this table; the best row, {top}, has {metric} {number(over[top])} {where}."
    d = differences.set_index(["target", "metric"])
    d = d[d.index.isin(list(main)) & (d["row"] == subject)]
    said = []
    twin = _twin(subject, roles)
    for words, name in (
        ("the frozen encoder", best(Role.PRETRAINED) if roles[subject] is Role.TUNED else None),
        ("its untrained twin", twin) if twin else ("the best untrained row", best(Role.UNTRAINED)),
        ("the best baseline", best(Role.BASELINE)),
        ("the network from scratch", best(Role.SCRATCH)),
    ):
        if name is None:
            continue
        verdicts = d.loc[d["reference"] == name, "verdict"].value_counts()
        told = ", ".join(f"{verdicts[v]} {v}" for v in ("better", "undecided", "worse") if v in verdicts)
        one = len(main) == 1 and len(verdicts) == 1
        told = str(verdicts.index[0]) if one else told or "not compared"
        said.append(f"against {words} ({name}, {number(over[name])}): {told}")
    count = "" if len(main) == 1 else "; counts are of targets"
    return f"{subject} has {metric} {number(over[subject])} {where}; " + "; ".join(said) + f"{count}."


def _twin(subject: str, roles: dict[str, Role]) -> str | None:
    twin = subject.replace("pretrained", "untrained", 1)
    return twin if roles.get(twin) is Role.UNTRAINED else None

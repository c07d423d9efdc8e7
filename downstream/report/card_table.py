"""From a probe's folder to the table that a model card shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ..results.numbers import number
from ..results.summary import Summary
from .read_summary import read_summary

ERRORS = ("rmse", "mse", "mae", "error", "crps", "brier", "loss")
MOST_ROWS, MOST_VERDICTS = 400, 40  # what the schema allows


def probe_scores(folder: str | Path, weights_sha256: str = "") -> dict[str, Any]:
    """Return the table of a probe, as docs/checkpoint-format.md describes it.

    Args:
        folder: What `earthssl probe` wrote, for any task; its main targets are shown, by their first metric.
        weights_sha256: Of the encoder that is to be described; "" for no check.

    Raises:
        EarthSSLError: If the folder holds no probe, or one of other weights.
    """
    summary = read_summary(folder)
    record = summary.record
    probed = [one.get("sha256") for one in record.get("encoders", []) if one.get("kind") == "pretrained"]
    if weights_sha256 and probed and weights_sha256 not in probed:
        raise EarthSSLError(
            f"{folder}: expected a probe of the encoder with SHA-256 {weights_sha256[:12]}…, got one of "
            f"{', '.join(str(one)[:12] for one in probed)}…; probe this checkpoint"
        )
    main = summary.main_scores()
    metric = main[0][1]
    targets = [target for target, own in main if own == metric]
    scores = summary.scores[(summary.scores["metric"] == metric) & (summary.scores["seed"] == "")]
    roles = {row["row"]: row.get("role", "") for row in record.get("rows", []) if "row" in row}
    rows = [
        {"name": str(one.row), "target": str(one.target), "kind": str(roles.get(one.row, "")),
         "value": _rounded(one.value), "low": _rounded(one.low), "high": _rounded(one.high)}
        for target in targets
        for one in scores[(scores["target"] == target) & scores["value"].notna()].itertuples()
    ]  # fmt: skip
    return {
        "task": summary.task,
        "metric": metric,
        "better": "lower" if any(word in metric.lower() for word in ERRORS) else "higher",
        "test": _test(record),
        "synthetic": bool(record.get("synthetic", False)),
        "rows": rows[:MOST_ROWS],
        "verdicts": _verdicts(summary, targets, metric),
        "convention": summary.convention,
        "command": str(record.get("command", "")),
    }


def _test(record: Mapping[str, Any]) -> str:
    if "test_years" in record:
        return str(record["test_years"])
    first, last = record.get("split", {}).get("test", ["", ""])
    return f"{str(first)[:10]} to {str(last)[:10]}"


def _verdicts(summary: Summary, targets: Sequence[str], metric: str) -> list[str]:
    """Return the paired differences of the pretrained rows from what matters most, in words."""
    d = summary.differences
    lines = {(one["target"], one["row"], one["reference"]): one for one in d[d["metric"] == metric].to_dict("records")}
    pairs = [(row, reference) for row in summary.told() for reference in summary.beaten(row)]
    said = [lines[target, *pair] for target in targets for pair in pairs if (target, *pair) in lines]
    return [
        f"{one['row']} − {one['reference']}, {one['target']}: {number(one['value'], True)} "
        f"[{number(one['low'], True)}, {number(one['high'], True)}] {one['verdict']}"
        for one in said[:MOST_VERDICTS]
    ]


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if pd.notna(value) else None

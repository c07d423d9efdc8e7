"""From a probe's folder to the table that a model card shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import read_json
from ..evaluation.numbers import number

LEADS = (1, 3, 6, 9, 12, 18)
ERRORS = ("rmse", "mse", "mae", "error", "crps", "brier", "loss")
MOST_ROWS, MOST_VERDICTS = 400, 40  # what the schema allows


def probe_scores(folder: str | Path, weights_sha256: str = "") -> dict[str, Any]:
    """Return the table of a probe, as docs/checkpoint-format.md describes it.

    Args:
        folder: What `earthssl probe` wrote, for any task: ENSO's skill at six leads, or the first metric of others.
        weights_sha256: Of the encoder that is to be described; "" for no check. Probes of ENSO record it.

    Raises:
        EarthSSLError: If the folder holds no probe, or one of other weights.
    """
    path = Path(folder)
    file = next((path / name for name in ("probe.json", "result.json") if (path / name).is_file()), None)
    if file is None:
        raise EarthSSLError(f"expected the folder of a probe at {path}, found none; make one with `earthssl probe`")
    record = read_json(file, "a probe's record")
    probed = [one.get("weights_sha256") for one in record.get("checkpoints", [])]
    if weights_sha256 and probed and weights_sha256 not in probed:
        raise EarthSSLError(
            f"{file}: expected a probe of the encoder with SHA-256 {weights_sha256[:12]}…, got one of "
            f"{', '.join(str(one)[:12] for one in probed)}…; probe this checkpoint"
        )
    scores = pd.read_csv(path / "scores.csv", dtype={"seed": str})
    differences = pd.read_csv(path / "differences.csv")
    enso = file.name == "probe.json"
    if enso:
        scores = scores[scores["lead"].isin(LEADS)].assign(target=lambda d: "lead " + d["lead"].astype(str) + " mo")
        differences = differences[differences["lead"] == "mean"].assign(target="mean over leads", metric="skill")
    metric = str(scores["metric"].iloc[0])
    scores = scores[(scores["metric"] == metric) & scores["seed"].isna()]
    kinds = {row.get("name", row.get("row")): row.get("kind", "") for row in record.get("rows", [])}
    rows = [
        {"name": str(one.row), "target": str(one.target), "kind": str(kinds.get(one.row) or ""),
         "value": _rounded(one.value), "low": _rounded(one.low), "high": _rounded(one.high)}
        for one in scores[scores["value"].notna()].head(MOST_ROWS).itertuples()
    ]  # fmt: skip
    return {
        "task": str(record["task"]),
        "metric": "skill: all-season correlation" if enso else metric,
        "better": "lower" if any(word in metric.lower() for word in ERRORS) else "higher",
        "test": _test(record),
        "synthetic": bool(record.get("synthetic", False)),
        "rows": rows,
        "verdicts": _verdicts(differences[differences["metric"] == metric]),
        "convention": str(record["convention"]),
        "command": str(record.get("command", "")),
    }


def _test(record: dict[str, Any]) -> str:
    if "test_years" in record:
        return str(record["test_years"])
    first, last = record.get("split", {}).get("test", ["", ""])
    return f"{str(first)[:10]} to {str(last)[:10]}"


def _verdicts(differences: pd.DataFrame) -> list[str]:
    """Return the paired differences of the pretrained rows against PCA, scratch and untrained twins, in words."""
    rows = differences["row"].astype(str)
    chosen = "pretrained [chosen]" if (rows == "pretrained [chosen]").any() else "pretrained"
    references = differences["reference"].astype(str).str.lower()
    rivals = references.str.contains("pca|scratch|untrained|eof") & ~references.str.contains("fixed")
    own = differences[rows.str.startswith(chosen) & rivals]
    twins = own["reference"].str.startswith("untrained") & (own["reference"].str[9:] != own["row"].str[10:])
    return [
        f"{one.row} − {one.reference}, {one.target}: {number(one.value, True)} [{number(one.low, True)}, "
        f"{number(one.high, True)}] {one.verdict}"
        for one in own[~twins].head(MOST_VERDICTS).itertuples()
    ]


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if pd.notna(value) else None

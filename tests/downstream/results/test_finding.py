"""The finding says what the intervals carry, losses included."""

from __future__ import annotations

import pandas as pd
from earthssl.downstream.results.finding import finding
from earthssl.downstream.results.row import Role, Row

KINDS = {
    "PCA": Role.BASELINE,
    "persistence": Role.BASELINE,
    "untrained [chosen]": Role.UNTRAINED,
    "pretrained [mean]": Role.PRETRAINED,
    "pretrained [chosen]": Role.PRETRAINED,
}
MAIN = [("mean over leads", "skill")]


def said(differences: list[tuple[str, str, float, float, float]], kinds: dict[str, Role]) -> str:
    """What is found where PCA has .6, persistence .4, and every other row .5."""
    scores = [(name, "", "mean over leads", "skill", {"PCA": 0.6, "persistence": 0.4}.get(name, 0.5)) for name in kinds]
    lines = [
        (a, b, "mean over leads", "skill", value, low, high,
         "better" if low > 0 else "worse" if high < 0 else "undecided")
        for a, b, value, low, high in differences
    ]  # fmt: skip
    return finding(
        pd.DataFrame(scores, columns=["row", "seed", "target", "metric", "value"]),
        pd.DataFrame(lines, columns=["row", "reference", "target", "metric", "value", "low", "high", "verdict"]),
        [Row(name, role, {}) for name, role in kinds.items()],
        MAIN,
    )


def test_a_win_an_undecided_difference_and_a_loss() -> None:
    twin, pca = "untrained [chosen]", "PCA"
    kinds = {name: role for name, role in KINDS.items() if name != "pretrained [mean]"}
    pairs = [("pretrained [chosen]", twin, 0.08, 0.03, 0.12), ("pretrained [chosen]", pca, -0.1, -0.2, -0.004)]
    assert said(pairs, kinds) == (
        "pretrained [chosen] has skill 0.500 (mean over leads); against its untrained twin (untrained [chosen], "
        "0.500): better; against the best baseline (PCA, 0.600): worse."
    )
    assert "untrained [chosen], 0.500): undecided" in said([("pretrained [chosen]", twin, 0.01, -0.1, 0.1)], kinds)


def test_nothing_pretrained_and_nothing_compared_are_said() -> None:
    baselines = {name: role for name, role in KINDS.items() if role is Role.BASELINE}
    assert said([], baselines) == (
        "No pretrained encoder is in this table; the best row, PCA, has skill 0.600 (mean over leads)."
    )
    assert "(PCA, 0.600): not compared" in said([], KINDS)

"""The verdict says what the intervals carry, losses included; the small pieces of the page."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.html import Html, element, joined
from earthssl.downstream.report.plots import _spread
from earthssl.downstream.report.probe_results import Estimate, Results, RowInfo, role_of
from earthssl.downstream.report.training_section import duration
from earthssl.downstream.report.verdict import bracket, number, verdict

KINDS = {
    "persistence": "baseline",
    "PCA": "baseline",
    "PCA: 10 PCs, fixed": "baseline",
    "untrained [mean]": "encoder",
    "untrained [chosen]": "encoder",
    "pretrained [mean]": "encoder",
    "pretrained [chosen]": "encoder",
}


def results(differences: list[tuple[str, str, float, float, float]], kinds: dict[str, str] = KINDS) -> Results:
    """Results over two leads: every row reaches r = .6 and .4; differences are averaged over leads."""
    scores = [(name, "", lead, "skill", r, r - 0.1, r + 0.1) for name in kinds for lead, r in ((3, 0.6), (6, 0.4))]
    lines = [
        (a, b, "mean", value, low, high, "better" if low > 0 else "worse" if high < 0 else "undecided")
        for a, b, value, low, high in differences
    ]
    return Results(
        Path("probe"),
        {},
        tuple(RowInfo(name, kind, role_of(name, kind)) for name, kind in kinds.items()),
        pd.DataFrame(scores, columns=["row", "seed", "lead", "metric", "value", "low", "high"]),
        pd.DataFrame(lines, columns=["row", "reference", "lead", "value", "low", "high", "verdict"]),
        None,
    )


def plain(sentences: list[Html]) -> str:
    return html.unescape(re.sub("<[^>]*>", "", " ".join(sentences)))


def test_a_win_and_an_undecided_difference() -> None:
    said = plain(
        verdict(
            results(
                [
                    ("pretrained [chosen]", "untrained [chosen]", 0.08, 0.03, 0.12),
                    ("pretrained [chosen]", "PCA", 0.02, -0.03, 0.06),
                    ("pretrained [chosen]", "PCA: 10 PCs, fixed", 0.2, 0.1, 0.3),
                    ("pretrained [mean]", "untrained [mean]", -0.01, -0.04, 0.001),
                ]
            )
        )
    )
    assert said == (
        "Averaged over leads 3 to 6 months, pretrained [chosen] beats untrained [chosen] by .08 [.03, .12]; against "
        "PCA (+.02 [−.03, +.06]) the difference is undecided. So this test does not show that the encoder offers more "
        "than principal components do. At equal pooling, against its untrained twin, it is undecided with mean (−.01 "
        "[−.04, +.001]). Last lead with r ≥ .5: pretrained [chosen] 3 months, untrained [chosen] 3 months, PCA 3 "
        "months, persistence 3 months."
    )


def test_a_loss_is_stated_as_a_loss_and_not_put_behind_a_win() -> None:
    said = plain(
        verdict(
            results(
                [
                    ("pretrained [chosen]", "untrained [chosen]", -0.09, -0.15, -0.004),
                    ("pretrained [chosen]", "PCA", -0.2, -0.3, -0.1),
                    ("pretrained [chosen]", "persistence", 0.1, 0.05, 0.2),
                ]
            )
        )
    )
    assert "loses to untrained [chosen] by .09 [.004, .15] and PCA by .20 [.10, .30]; beats persistence by .10" in said
    assert "So pretraining cost skill" in said
    assert "with the same head, are the better features here" in said


def test_nothing_pretrained_and_nothing_compared_are_said() -> None:
    baselines = {name: kind for name, kind in KINDS.items() if kind == "baseline"}
    assert "No pretrained encoder" in plain(verdict(results([], baselines)))
    assert "was compared with no other row" in plain(verdict(results([])))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123, ".12"),
        (-0.456, "−.46"),
        (-0.001, ".00"),
        (0.0, ".00"),
        (1.204, "1.20"),
        (0.999, "1.00"),
        (math.nan, "–"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_a_bound_that_excludes_zero_is_seen_to_do_so() -> None:
    assert bracket(Estimate(0.05, 0.002, 0.1), plus=True) == "[+.002, +.10]"
    assert bracket(-Estimate(-0.05, -0.1, -0.002)) == "[.002, .10]"
    assert bracket(Estimate(0.5)) == ""


def test_roles() -> None:
    names = ["persistence", "damped persistence", "cyclostationary LIM", "PCA, all variables", "climatology"]
    assert [role_of(name, "baseline") for name in names] == ["persistence", "other", "LIM", "PCA", "other"]
    names = ["pretrained [mean]", "untrained [mean]", "same network from scratch"]
    assert [role_of(name, "encoder") for name in names] == ["pretrained", "untrained", "scratch"]
    assert role_of("LIM of the true state", "known") == "known"


def test_labels_keep_their_distance_and_order() -> None:
    placed = _spread([0.5, 0.1, 0.52, 0.51], 0.1)
    assert np.diff(np.sort(placed)).min() > 0.099
    assert list(np.argsort(placed)) == [1, 0, 3, 2]
    assert placed[1] == pytest.approx(0.1)


def test_elements_escape_all_but_html() -> None:
    made = element("a", "<b>", Html("<i></i>"), 3, href='"x"', class_="y", id=None)
    assert made == '<a href="&quot;x&quot;" class="y">&lt;b&gt;<i></i>3</a>'
    assert joined(["<", Html("<")]) == "&lt;<"


def test_duration() -> None:
    assert [duration(s) for s in (41.2, 192, 7500, math.nan)] == ["41 s", "3 min 12 s", "2 h 05 min", "–"]

"""Settings that are not as their rules say: which one, what was expected, what came."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from earthssl.ssl.common.errors import EarthSSLError, check_settings

RULES = {"steps seeds": "≥ 1", "lr": "> 0", "decay": "[0, 1)", "share": "(0, 1]", "mode": ("full", "head")}
GOOD = {"steps": 1, "seeds": [1, 2], "lr": 1e-9, "decay": 0, "share": 1, "mode": "full"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "run.steps: expected steps ≥ 1, got 0"),
        ({"seeds": [2, 0]}, r"run.seeds: expected seeds ≥ 1, got \[2, 0\]"),
        ({"seeds": []}, r"run.seeds: expected seeds ≥ 1, at least one, got \[\]"),
        ({"lr": 0}, "run.lr: expected lr > 0, got 0"),
        ({"lr": float("nan")}, "run.lr: expected lr > 0, got nan"),
        ({"decay": 1}, r"run.decay: expected decay in \[0, 1\), got 1"),
        ({"decay": -0.1}, r"run.decay: expected decay in \[0, 1\)"),
        ({"share": 0}, r"run.share: expected share in \(0, 1\]"),
        ({"mode": "ful"}, "run.mode: expected one of full, head, got 'ful'. Did you mean 'full'"),
        ({"mode": []}, "run.mode: expected some of full, head, got none"),
    ],
)
def test_a_setting_against_its_rule(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        check_settings("run", SimpleNamespace(**{**GOOD, **change}), RULES)


@pytest.mark.parametrize("change", [{}, {"steps": None}, {"mode": ["head", "full"]}, {"share": 1e-9}])
def test_what_follows_the_rules_passes(change: dict[str, Any]) -> None:
    check_settings("run", SimpleNamespace(**{**GOOD, **change}), RULES)


def test_a_list_may_be_allowed_to_be_empty() -> None:
    check_settings("run", SimpleNamespace(**{**GOOD, "seeds": []}), RULES, empty=("seeds",))

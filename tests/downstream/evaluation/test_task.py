"""What the finding of a task may speak of: what was fixed before the test block was read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from earthssl.downstream.evaluation.config import TaskConfig
from earthssl.downstream.evaluation.task import Task, summarise
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import number_target

TRUTH = np.tile([-1.0, 1.0], 20)


class Guess(Task[TaskConfig]):
    """Two heads on a frozen encoder; on test the one that is not the main head is perfect."""

    name, what, convention, Config = "guess", "A guess", "", TaskConfig

    def targets(self) -> Any:
        return [number_target("x", TRUTH, np.zeros(40), np.arange(40) // 4)]

    def encoders(self) -> Any:
        return []

    def baselines(self, window: int) -> Any:
        return [
            Row("climatology", Role.BASELINE, {"x": np.zeros(40)}),
            Row("pretrained [ridge]", Role.PRETRAINED, {"x": TRUTH / 2}, 0),
            Row("pretrained [kNN]", Role.PRETRAINED, {"x": TRUTH}, 0),
        ]

    def title(self) -> str:
        return "A guess"

    def data_record(self) -> Any:
        return {}


@pytest.mark.parametrize("head", ["ridge", "kNN"])
def test_the_finding_speaks_of_the_main_head_not_of_the_best_on_test(head: str) -> None:
    task = Guess(TaskConfig("s", "o", draws=1000), None)
    task.head = head
    found = summarise(task)
    assert found.found.startswith(f"pretrained [{head}] has skill {'0.750' if head == 'ridge' else '1.000'}")
    assert found.speakers == ["climatology", "pretrained [ridge]", "pretrained [kNN]"]


def test_the_finding_compares_means_over_the_same_targets() -> None:
    """A baseline that was asked the easier half only is not the best one."""

    class Two(Guess):
        def targets(self) -> Any:
            every = np.zeros(40), np.arange(40) // 4
            return [number_target("easy", TRUTH, *every), number_target("hard", TRUTH, *every)]

        def baselines(self, window: int) -> Any:
            return [
                Row("half asked", Role.BASELINE, {"easy": TRUTH}),
                Row("asked both", Role.BASELINE, {"easy": TRUTH, "hard": 0 * TRUTH}),
                Row("pretrained [ridge]", Role.PRETRAINED, {"easy": TRUTH / 2, "hard": TRUTH / 2}, 0),
            ]

    found = summarise(Two(TaskConfig("s", "o", draws=1000), None)).found
    assert "against the best baseline (asked both, 0.500): 1 better, 1 worse" in found

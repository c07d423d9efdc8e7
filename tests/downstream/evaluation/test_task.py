"""What the finding of a task may speak of: what was fixed before the test block was read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from earthssl.downstream.evaluation.config import TaskConfig
from earthssl.downstream.evaluation.equal_input import RAW
from earthssl.downstream.evaluation.label_fractions import whole_units
from earthssl.downstream.evaluation.run import summarise
from earthssl.downstream.evaluation.task import Task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import number_target
from earthssl.downstream.tasks.registry import NOT_IN_MATRIX, task_class
from earthssl.ssl.common.errors import EarthSSLError

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


def test_too_few_test_units_are_refused_before_anything_is_trained() -> None:
    class Short(Guess):
        def targets(self) -> Any:
            return [number_target("x", TRUTH, np.zeros(40), np.arange(40) // 14)]

        def baselines(self, window: int) -> Any:
            raise AssertionError

    with pytest.raises(EarthSSLError, match=r"'x': expected at least 4 independent units .* got 3; lengthen the test"):
        summarise(Short(TaskConfig("s", "o", draws=1000), None))


def test_few_sets_of_random_features_are_said_where_there_is_a_raw_input() -> None:
    class Raw(Guess):
        def baselines(self, window: int) -> Any:
            return [*super().baselines(window), Row(f"{RAW} [ridge]", Role.BASELINE, {"x": TRUTH / 3})]

    def said(kind: type[Guess], seeds: int) -> bool:
        notes = summarise(kind(TaskConfig("s", "o", draws=1000, random_seeds=seeds), None)).notes
        return any("4 sets, fewer than 5" in note for note in notes)

    assert [said(Raw, 4), said(Raw, 5), said(Guess, 4)] == [True, False, False]


def test_a_year_with_few_labelled_days_is_no_unit() -> None:
    """Half as many as the fullest year is enough, less is not."""
    days = np.repeat([1990, 1991, 1992, 1993], [10, 365, 183, 182])
    assert whole_units(days).tolist() == [1991, 1992]
    assert len(whole_units(days[:0])) == 0


@pytest.mark.parametrize(
    ("name", "most"),
    [("enso", 6000), ("states", 6000), ("forecast", 600), ("infilling", 600), ("rapid_intensification", 3000),
     ("storm_tiles", 900)],
)  # fmt: skip
def test_conventions_say_where_the_raw_input_is_averaged(name: str, most: int) -> None:
    assert f"more than {most} values" in task_class(name).convention.replace("beyond", "more than")


def test_the_matrix_takes_no_cache_of_its_own() -> None:
    assert "cache" in NOT_IN_MATRIX

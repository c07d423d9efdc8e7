"""A table one block earlier: which times it may read, what calibrates it, and that each task has it by the seam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.config import TaskConfig
from earthssl.downstream.evaluation.run import run, summarise
from earthssl.downstream.evaluation.task import Task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import Target, number_target
from earthssl.downstream.tasks.enso.monthly_ridge import HeadOptions
from earthssl.downstream.tasks.enso.task import Enso, EnsoConfig
from earthssl.downstream.tasks.forecast.task import ForecastConfig, ForecastTask
from earthssl.downstream.tasks.infilling.gaps import GapConfig
from earthssl.downstream.tasks.infilling.task import Infilling, InfillingConfig
from earthssl.downstream.tasks.radiation.task import Radiation, RadiationConfig
from earthssl.downstream.tasks.states.task import States, StatesConfig
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

SHAPE = EncoderConfig("nano", 3, (1, 2, 3))
QUICK = ScratchConfig(1, steps=4, batch_size=8, check_every=2)
CHEAP: dict[str, Any] = {"uncertainty": True, "fractions": [], "draws": 1000, "untrained_seeds": 2, "random_seeds": 1}


def test_blocks_are_moved_back_by_one() -> None:
    """Validation of four years, a year apart: training ends a year and two days before its last four years."""
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365).build()
    found = splits.earlier(1.0)
    assert found.test == splits.val
    assert found.val[1] == splits.train[1]
    assert str(found.val[0])[:10] == "1997-01-01"  # 1461 days, one leap day as in 2002–2005
    assert found.train[0] == splits.train[0]
    assert str(found.train[1])[:10] == "1995-12-30"


@pytest.mark.parametrize(
    ("train", "val"),
    [(("2000", "2001"), ("2003", "2004")), (("2004", "2014"), ("2000", "2001"))],
    ids=["too short", "validation first"],
)
def test_what_cannot_be_moved_is_refused(train: tuple[str, str], val: tuple[str, str]) -> None:
    splits = SplitsConfig(train, val, ("2016", "2017"), 100).build()
    with pytest.raises(EarthSSLError, match="set uncertainty: false, or shorten validation"):
        splits.earlier(1.0)


def store_of_columns(file: Path, folder: Path) -> Path:
    splits = SplitsConfig(*((day, day) for day in ("1900-01-01", "1900-01-03", "1900-01-05")), 1)  # type: ignore[misc]
    options = {"path": str(file), "train": 6, "val": 2, "held_out": ["4xCO2"], "seed": 1}
    return prepare(PrepareConfig("columns", str(folder / "s"), splits, options, StatisticsConfig("month", 0, "cell")))


@pytest.fixture(params=["enso", "forecast", "infilling", "states", "radiation"])
def task(request: Any, small_store: Path, columns_file: Path, tmp_path: Path) -> Task[Any]:
    where, store = str(small_store), Store(small_store)
    out = str(tmp_path / "out")
    if request.param == "enso":
        head = HeadOptions(months=(12,))
        config = EnsoConfig(
            where, out, leads=[1, 3], poolings=["mean"], head=head, encoder=SHAPE, scratch=QUICK, **CHEAP
        )
        return Enso(config, store)
    if request.param == "forecast":
        return ForecastTask(ForecastConfig(
            where, out, leads=[1], variables=["sst"], poolings=["last"], components=[4], scratch=QUICK, encoder=SHAPE,
            finetune=FinetuneConfig(steps=2, batch_size=8, warmup_steps=1, check_every=1), **CHEAP,
        ), store)  # fmt: skip
    if request.param == "infilling":
        gaps = {"random": GapConfig("random", 0.3)}
        config = InfillingConfig(
            where, out, variable="sst", gaps=gaps, encoder=SHAPE, observed=[], ranks=(2, 4), scratch=QUICK, **CHEAP
        )
        return Infilling(config, store)
    if request.param == "states":
        config = StatesConfig(
            where, out, leads=[1], heads=["logistic"], shots=[1], window=6, encoder=SHAPE, scratch=QUICK, **CHEAP
        )
        return States(config, store)
    columns = store_of_columns(columns_file, tmp_path)
    short = ScratchConfig(1, 20, 16, check_every=10)
    config = RadiationConfig(
        str(columns), out, mlp=short, scratch=short, hidden=8, trees=False, encoder=EncoderConfig("pico", 1, (1, 2, 3)),
        **CHEAP,
    )  # fmt: skip
    return Radiation(config, Store(columns))


def test_the_rehearsal_is_of_the_validation_block_and_reads_nothing_later(task: Task[Any]) -> None:
    if task.name == "states":
        pytest.skip("classes have their chances without one")
    before = task.rehearsal()
    assert [one.encoder for one in before.encoders()] == [one.encoder for one in task.encoders()]
    if isinstance(task, Radiation):
        known, own = task.known_as, before.known_as  # type: ignore[attr-defined]
        assert set(own.site[own.block == "test"]) == set(known.site[known.block == "val"])
        assert set(own.site[own.block == ""]) == set(known.site[known.block == "test"])
        train, val = (set(own.site[own.block == part]) for part in ("train", "val"))
        assert train | val == set(known.site[known.block == "train"])
        assert not train & val
        assert len(val) == 2
        assert set(before.groups) == {""}  # type: ignore[attr-defined]
        return
    splits = task.store.splits
    assert before.store.splits.test == splits.val
    assert task.store.splits is not before.store.splits
    for target in before.targets():
        if target.numbers is not None:
            assert target.numbers.truth.shape[0] == len(target.units)
    if isinstance(before, Enso):
        last = max(own.max() for one in before.labels for own in one.rows.values())
        assert before.enso.time[last].astype("datetime64[ns]") <= splits.val[1]
        assert before.enso.blocks["fit"][1] == np.datetime64(splits.train[1], "M")
    if isinstance(before, ForecastTask):
        assert all(
            before.store.times[before.own.inits(p, 1) + 1].max() <= splits.val[1] for p in ("train", "val", "test")
        )
    if isinstance(before, Infilling):
        assert before.store.times[before.ends].max() <= splits.val[1]
        assert len(before.anomalies.fit) < len(task.anomalies.fit)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_row_has_distributions(task: Task[Any]) -> None:
    out = run(task)
    table = pd.read_csv(out / "uncertainty.csv")
    scores = pd.read_csv(out / "scores.csv", keep_default_na=False)
    assert set(scores.row) <= set(table.row)
    assert (table[table.metric.str.startswith("coverage")].value.between(0, 1)).all()
    if task.name == "states":
        assert set(table.distribution) == {"chances"}
        assert (out / "reliability_of_chances.png").exists()
        return
    assert {"normal", "conformal", "seeds alone"} <= set(table.distribution)
    assert ("ridge posterior" in set(table.distribution)) == (task.name == "enso")
    assert {"untrained", "climatology"} <= {name.split(" [")[0] for name in table.row}
    assert table.row.str.contains("mean of 2 seeds").any()
    usual = table[(table.row == "climatology") & (table.distribution == "conformal") & (table.metric == "crps_skill")]
    assert (usual.value == 0).all()
    ranks = pd.read_csv(out / "rank_histogram.csv").groupby(["row", "distribution", "target"])["share"].sum()
    assert ranks.to_numpy() == pytest.approx(1)
    assert "uncertainty.png" in {file.name for file in out.iterdir()}
    if task.name == "radiation":
        assert "longwave, unseen experiments" in set(table.target)


# ---- By the seam alone ----------------------------------------------------------------------------------------


class Guess(Task[TaskConfig]):
    """One number a day of ten years; the head halves its error when it is asked about the test block."""

    name, what, convention, Config = "guess", "A guess", "", TaskConfig
    seed, factor = 1, 1.0

    def targets(self) -> list[Target]:
        return [number_target("x", self.truth, np.zeros(400), np.arange(400) // 40)]

    @property
    def truth(self) -> np.ndarray:
        return np.random.default_rng(self.seed).normal(size=400)

    def encoders(self) -> Any:
        return []

    def rehearsal(self) -> Guess:
        made = Guess(self.config, None)
        made.seed, made.factor = 2, 2.0
        return made

    def baselines(self, window: int) -> list[Row]:
        off = np.random.default_rng(self.seed + 10).normal(size=400) * self.factor
        return [Row("pretrained [ridge]", Role.PRETRAINED, {"x": self.truth + off / 4}, 0)]

    def title(self) -> str:
        return "A guess"

    def data_record(self) -> Any:
        return {}


def test_a_head_that_was_worse_before_is_said_to_be_unsure() -> None:
    made = summarise(Guess(TaskConfig("s", "o", draws=1000, uncertainty=True), None))
    table = made.tables["uncertainty"].set_index(["row", "distribution", "metric"]).value
    assert table["pretrained [ridge]", "normal", "spread_skill"] == pytest.approx(2, abs=0.25)
    assert table["pretrained [ridge]", "normal", "coverage_90"] > 0.98
    assert table["pretrained [ridge]", "conformal", "crps_skill"] > 0.6
    assert any("90 % intervals hold" in note for note in made.notes)
    assert {"uncertainty"} == set(made.figures) & {"uncertainty", "reliability_of_chances"}


def test_what_cannot_be_rehearsed_is_said_before_the_table_is_made() -> None:
    class Short(Guess):
        def rehearsal(self) -> Guess:
            raise EarthSSLError("too short")

        def baselines(self, window: int) -> list[Row]:
            raise AssertionError

    with pytest.raises(EarthSSLError, match="too short"):
        summarise(Short(TaskConfig("s", "o", draws=1000, uncertainty=True), None))


def test_rows_and_tasks_without_distributions_are_told() -> None:
    class Other(Guess):
        def baselines(self, window: int) -> list[Row]:
            rows = super().baselines(window)
            return [*rows, replace(rows[0], name="now only")] if self.seed == 1 else rows

        def rehearsal(self) -> Guess:
            made = Other(self.config, None)
            made.seed = 2
            return made

    class Numberless(Guess):
        def targets(self) -> list[Target]:
            return [replace(one, numbers=None) for one in super().targets()]

    config = TaskConfig("s", "o", draws=1000, uncertainty=True)
    assert any(note.endswith("one block earlier: now only.") for note in summarise(Other(config, None)).notes)
    assert any("neither numbers nor chances" in note for note in summarise(Numberless(config, None)).notes)


def test_a_rehearsal_of_later_labels_names_since(small_store: Path, tmp_path: Path) -> None:
    """Training from 1992 to 2000, of which a rehearsal would end in 1995."""
    config = EnsoConfig(
        str(small_store), str(tmp_path), leads=[1], poolings=["mean"], encoder=SHAPE, since="1992-01", **CHEAP
    )
    with pytest.raises(EarthSSLError, match="uncertainty: false, or an earlier since"):
        Enso(config, Store(small_store)).rehearsal()


def test_nothing_is_rehearsed_unasked() -> None:
    class Never(Guess):
        def rehearsal(self) -> Guess:
            raise AssertionError

    made = summarise(Never(replace(TaskConfig("s", "o", draws=1000), uncertainty=False), None))
    assert "uncertainty" not in {*made.tables, *made.figures}

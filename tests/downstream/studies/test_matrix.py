"""The matrix: cells that are done once, rows compared on the same units, verdicts where they belong."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.cli import studies
from earthssl.downstream.evaluation.config import TaskConfig
from earthssl.downstream.evaluation.encoders import Contender
from earthssl.downstream.evaluation.task import Task
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import Metric, Target
from earthssl.downstream.studies.matrix import MatrixConfig, cell_file, label_of
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.budget import StudyTraining

CALLS: list[str] = []
LAYERS = 2


@dataclass(frozen=True)
class FakeConfig(TaskConfig):
    """Settings of the fake."""

    task: str = "fake"
    gain: float = 1.0


class Fake(Task[FakeConfig]):
    """A task whose error is a function of the weights and the layer."""

    name, what, convention, Config = "fake", "nothing", "none", FakeConfig

    def targets(self) -> list[Target]:
        """Return twelve years of three samples, whose climatology has an error of 1."""
        units = np.repeat(np.arange(2000, 2012), 3)
        skill = Metric("skill", lambda rows: lambda w: np.zeros(len(rows)))
        return [Target("it", units, [skill], errors=lambda row: row.forecast["it"], reference_errors=np.ones(36))]

    def raw(self, window: int) -> None:
        """Return nothing: there are no rows on equal input."""

    def training_samples(self) -> np.ndarray:
        """Return none."""
        return np.zeros(0, int)

    def label_units(self) -> np.ndarray:
        """Return none."""
        return np.zeros(0, int)

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
        """Return the size of the first weight over the number of the layer: equal weights, equal errors."""
        CALLS.append("embedded")
        assert not encoder.encoder.training
        assert not any(p.requires_grad for p in encoder.encoder.parameters())
        size = float(next(encoder.encoder.parameters()).abs().mean())
        return {"head": {f"layer {layer}": np.full(36, size / (layer + 1)) for layer in layers}}

    def fitted(self, name: str, role: Role, features: Any, seed: Any = None, units: Any = None) -> Row:
        """Return a row whose errors are the features."""
        (only,) = features.values()
        return Row(name, role, {"it": self.config.gain * only}, seed)

    def baselines(self, window: int) -> list[Row]:
        """Return one reference of skill .25, and the climatology, which is none."""
        CALLS.append("references")
        return [Row("PCA", Role.BASELINE, {"it": np.full(36, 0.75)}),
                Row("climatology", Role.BASELINE, {"it": np.ones(36)}, reference=False)]  # fmt: skip


def fake_config(small_store: Path, out: Path, patch: pytest.MonkeyPatch) -> MatrixConfig:
    """Return the settings of a small matrix on the fake, which stands for every downstream task while patched."""

    def make(name: str, store: Store, options: dict[str, Any] | None, shape: EncoderConfig) -> Fake:
        return Fake(FakeConfig(str(small_store), encoder=shape, **(options or {})), store)

    patch.setattr(studies, "matrix_task", make)
    training = StudyTraining(steps=4, batch_size=8, warmup_steps=1, val_every=4, save_every=2, accelerator="cpu")
    recipes = {"turns": {"orientation": {}}, "arrow of time": {"order": {}}}
    return MatrixConfig(
        str(small_store), str(out), recipes, {"fake": {}, "other": {"gain": 2.0}},
        encoder=EncoderConfig("nano", 3, (1, 2, 3)), training=training, seeds=[0, 1], layers=[0, 2], draws=1000,
    )  # fmt: skip


@pytest.fixture
def config(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MatrixConfig:
    CALLS.clear()
    return fake_config(small_store, tmp_path / "matrix", monkeypatch)


@pytest.fixture(scope="module")
def finished(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a matrix that was made once, to be copied."""
    out = tmp_path_factory.mktemp("finished") / "matrix"
    with pytest.MonkeyPatch.context() as patch:
        studies.matrix(fake_config(small_store, out, patch))
    return out


@pytest.fixture
def done(config: MatrixConfig, finished: Path) -> MatrixConfig:
    """The settings, and in their folder all that a run of them leaves."""
    shutil.copytree(finished, config.out)
    return config


def plain(row: str) -> str:
    """A row's name without what it says of its cue."""
    return row.split(" [")[0]


def test_rows_below_their_cue_say_so(done: MatrixConfig) -> None:
    """In every table, for the seeds that are; in the notes with both numbers."""
    assert label_of("a", 2, 0) == "a"
    assert label_of("a", 2, 2) == "a [below its cue]"
    assert label_of("a", 2, 1) == "a [below its cue at 1 of 2 seeds]"
    for recipe, task, seeds in (("turns", "orientation", [0]), ("arrow-of-time", "order", [])):
        for seed in done.seeds:
            skill = 0.1 if seed in seeds else 0.3
            rows = [(task, task, "task", skill), (task, "a cue", "analytic", 0.2)]
            file = Path(done.out) / "recipes" / recipe / f"seed{seed}" / "standing.csv"
            pd.DataFrame(rows, columns=["task", "solver", "kind", "skill"]).to_csv(file, index=False)
    folder = studies.matrix(done)
    named = {"turns [below its cue at 1 of 2 seeds]", "arrow of time"}
    for table in ("scores", "differences", "matrix"):
        assert named <= set(pd.read_csv(folder / f"{table}.csv").row)
    told = read_json(folder / "result.json", "it")["notes"]
    assert any("turns: pretext skill below its cue (seed 0: orientation 0.10, a cue 0.20)" in note for note in told)


def test_the_table_holds_every_cell_and_nothing_is_done_twice(config: MatrixConfig) -> None:
    """Two recipes and the untrained at two seeds, two tasks, two layers; then only what is missing."""
    folder = studies.matrix(config, "earthssl matrix")
    scores = pd.read_csv(folder / "scores.csv")
    assert {plain(row) for row in scores.row} == {"untrained", "turns", "arrow of time", "PCA"}
    assert set(scores.target) == {"fake", "other"}
    assert set(scores.metric) == {"layer 0", "layer 2"}
    assert scores[scores.row == "PCA"].value.to_numpy() == pytest.approx(0.25)
    differences = pd.read_csv(folder / "differences.csv")
    assert set(differences.reference) == {"untrained"}
    assert CALLS.count("references") == 2
    assert CALLS.count("embedded") == 3 * 2 * 2 * LAYERS
    assert (folder / "report.html").is_file()
    assert {file.stem for file in folder.glob("*.png")} == {
        "pretext_task_by_downstream_task_and_layer", "skill_against_steps",
    }  # fmt: skip
    budgets = pd.read_csv(folder / "budget.csv")
    assert list(budgets.task) == ["turns", "turns", "arrow of time", "arrow of time"]
    assert set(budgets.taken) == {4}
    cell_file(Path(config.out) / "cells", "turns", 1, "other").unlink()
    again = studies.matrix(config)
    assert CALLS.count("references") == 2
    assert CALLS.count("embedded") == 3 * 2 * 2 * LAYERS + LAYERS
    assert pd.read_csv(again / "scores.csv").equals(scores)
    # A recipe more: the old cells stay, the new ones are made.
    more = replace(config, recipes={**config.recipes, "both": {"order": {}, "orientation": {}}})
    studies.matrix(more)
    assert CALLS.count("embedded") == 3 * 2 * 2 * LAYERS + LAYERS + 4 * LAYERS


def test_each_target_stands_alone_beside_the_rows_without_an_encoder(done: MatrixConfig) -> None:
    """A recipe wins where it is better than the untrained encoder and PCA; beside PCA alone is not enough."""
    folder = studies.matrix(done)
    beaten = pd.read_csv(folder / "differences_by_target.csv")
    assert set(beaten.reference) == {"untrained", "PCA"}
    assert set(beaten.target) == {"it"}
    scores = pd.read_csv(folder / "by_target.csv")
    pooled = pd.read_csv(folder / "scores.csv")
    assert scores.value.tolist() == pytest.approx(pooled[pooled.seed.isna()].value.tolist())  # one target: the same
    assert not any("turns" in note for note in read_json(folder / "result.json", "it")["notes"] if "it: better" in note)
    errors = {"untrained": 0.5, "turns": 0.1, "arrow of time": 0.6}  # PCA has .75
    for name, seed in product(errors, done.seeds):
        file = cell_file(Path(done.out) / "cells", name, seed, "fake")
        one = pd.read_csv(file)
        one.loc[one.layer == 2, "error"] = errors[name] * one.reference
        file.write_text(one.to_csv(index=False))
    notes = read_json(studies.matrix(done) / "result.json", "it")["notes"]
    won = [note for note in notes if note.startswith("fake, it: better")]
    assert len(won) == 1
    assert "turns" in won[0]
    assert "arrow" not in won[0]


def test_single_poolings_stand_in_the_tables(done: MatrixConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what validation chose, layer by layer; the picture and the words keep to the chosen."""

    def alone(self: Fake, encoder: Contender, layers: Sequence[int]) -> dict[str, Row]:
        return {
            f"{layer}, {pooling}": Row("x", Role(encoder.kind), {"it": np.full(36, 0.5 * factor)})
            for layer in layers
            for pooling, factor in (("token PCs", 1.0), ("mean", 1.5))
        }

    monkeypatch.setattr(Fake, "by_pooling", alone)
    shutil.rmtree(Path(done.out) / "cells")
    folder = studies.matrix(done)
    scores = pd.read_csv(folder / "scores.csv")
    assert list(dict.fromkeys(scores.metric)) == [
        "layer 0", "layer 0, mean", "layer 0, token PCs", "layer 2", "layer 2, mean", "layer 2, token PCs",
    ]  # fmt: skip
    own = scores[(scores.row.map(plain) == "turns") & (scores.target == "fake")].set_index("metric").value
    assert own["layer 2, token PCs"] == pytest.approx(0.5)
    assert own["layer 0, mean"] == pytest.approx(0.25)
    assert scores[scores.row == "PCA"].value.to_numpy() == pytest.approx(0.25)
    notes = " ".join(read_json(folder / "result.json", "it")["notes"])
    assert "of 6 layers" not in notes


def test_the_same_encoder_is_undecided_and_means_are_over_seeds(done: MatrixConfig) -> None:
    """A recipe whose cells equal those of the untrained encoder differs by nothing."""
    cells = Path(done.out) / "cells"
    for seed in done.seeds:
        text = cell_file(cells, "untrained", seed, "fake").read_text()
        cell_file(cells, "turns", seed, "fake").write_text(text.replace("untrained", "turns"))
    folder = studies.matrix(done)
    d = pd.read_csv(folder / "differences.csv")
    same = d[(d.row.map(plain) == "turns") & (d.target == "fake")]
    assert (same.value == 0).all()
    assert set(same.verdict) == {"undecided"}
    scores = pd.read_csv(folder / "scores.csv").set_index(["row", "target", "metric"]).value
    by_seed = []
    for seed in done.seeds:
        cell = pd.read_csv(cell_file(cells, "untrained", seed, "other"))
        own = cell[cell.layer == 2]
        by_seed.append(1 - own.error.sum() / own.reference.sum())
    assert scores["untrained", "other", "layer 2"] == pytest.approx(np.mean(by_seed))


def test_leave_one_out_joins_recipes(config: MatrixConfig) -> None:
    """All of them, and all but each; recipes that share a task cannot be joined."""
    made = replace(config, leave_one_out=["turns", "arrow of time"]).all_recipes()
    assert made["all"] == {"orientation": {}, "order": {}}
    assert made["all but turns"] == {"order": {}}
    assert made["all but arrow of time"] == {"orientation": {}}
    same = replace(config, recipes={"a": {"order": {}}, "b": {"order": {"frames": 2}}}, leave_one_out=["a", "b"])
    with pytest.raises(EarthSSLError, match="share the pretext task 'order'"):
        same.all_recipes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipes": {}}, "at least one recipe"),
        ({"recipes": {"untrained": {"order": {}}}}, "names other than 'untrained'"),
        ({"leave_one_out": ["turn"]}, "Did you mean 'turns'"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"recipes": {"a": None}}, "pretext tasks with their settings"),
        ({"recipes": {"a b": {"order": {}}, "a-b": {"order": {}}}}, "differ in letters or digits"),
        ({"layers": []}, "some layers"),
    ],
)
def test_bad_settings_are_refused(config: MatrixConfig, change: dict[str, Any], words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        replace(config, **change)


def test_a_matrix_is_gone_on_with_only_as_it_was_begun(done: MatrixConfig) -> None:
    """Another encoder, another recipe under an old name, a layer that is not there, an unknown pretext task."""
    with pytest.raises(EarthSSLError, match="begun with another 'encoder'"):
        studies.matrix(replace(done, encoder=EncoderConfig("nano", 4, (1, 2, 3))))
    with pytest.raises(EarthSSLError, match="recipe 'turns' was begun with another 'objectives'"):
        studies.matrix(replace(done, recipes={**done.recipes, "turns": {"order": {}}}))
    with pytest.raises(EarthSSLError, match="Did you mean 'order'"):
        studies.matrix(replace(done, recipes={"x": {"oder": {}}}))
    with pytest.raises(EarthSSLError, match=r"matrix\.layers: expected 0 to 2, got 3"):
        studies.matrix(replace(done, out=done.out + "2", layers=[3]))


def test_rows_on_other_units_are_refused(done: MatrixConfig) -> None:
    """Cells that were scored on other years cannot be paired."""
    file = cell_file(Path(done.out) / "cells", "turns", 0, "fake")
    file.write_text(file.read_text().replace("2011", "2012"))
    with pytest.raises(EarthSSLError, match="remove its cells"):
        studies.matrix(done)


def test_unknown_downstream_tasks_are_refused(small_store: Path, tmp_path: Path) -> None:
    """By the real registry, before anything is trained."""
    config = MatrixConfig(str(small_store), str(tmp_path / "m"), {"a": {"order": {}}}, {"ensoo": {}})
    with pytest.raises(EarthSSLError, match="Did you mean 'enso'"):
        studies.matrix(config)
    with pytest.raises(EarthSSLError, match=r"matrix\.tasks\.enso: expected .*got 'leadz'.*Did you mean 'leads'"):
        studies.matrix(replace(config, tasks={"enso": {"leadz": [3]}}))
    assert not (tmp_path / "m").exists()

"""Several data sets in one run: drawn by weight, resumed exactly, kept from leaking into one another."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.ssl.checkpoint.read import read
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.data_sets import open_sets, open_stores
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.data.mixture import Draws, Mixture, SetConfig, weights_of
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.runtime.signals import Stopped
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.pretrain import pretrain
from safetensors.torch import load_file

SPLITS = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
SHORT: dict[str, Any] = {"steps": 3, "val_every": 3, "warmup_steps": 1}


def small(data: Any, folder: Path, name: str, splits: SplitsConfig = SPLITS) -> Path:
    """Prepare a store of a dataset."""
    data.to_netcdf(folder / f"{name}.nc")
    options = {"path": str(folder / f"{name}.nc"), "variables": list(data.data_vars)}
    return prepare(PrepareConfig("files", str(folder / name), splits, options, chunk_mb=0.05))


@pytest.fixture(scope="module")
def other(small_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the winds alone, other weather, on a part of the globe, 5×8 cells that the patch does not divide."""
    part = small_data[["v10", "u10"]].isel(lat=slice(1, 6), lon=slice(0, 8))
    mirrored = part.copy(data={name: part[name].values[:, :, ::-1] for name in part.data_vars})
    return small(mirrored, tmp_path_factory.mktemp("other"), "other")


@pytest.fixture(scope="module")
def two(small_config: Callable[..., Any], other: Path) -> Callable[..., Any]:
    """Maker of a config with both stores; the winds come three times as often."""

    def make(out: Path, objectives: dict[str, Any] | None = None, **more: Any) -> Any:
        config = small_config(out, objectives, **more)
        return replace(config, stores={"winds": SetConfig(str(other), 3.0)})

    return make


def history(run: Path) -> dict[tuple[str, str], float]:
    """Return the history of a run by step and name."""
    with open(run / "history.csv", newline="") as handle:
        return {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(handle)}


def weights(checkpoint: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the encoder's and the heads' weights."""
    return (checkpoint / "encoder.safetensors").read_bytes(), (checkpoint / "heads.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(two: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on both sets."""
    return pretrain(two(tmp_path_factory.mktemp("two") / "run", accumulate=2), TASKS).parent


@pytest.fixture(scope="module")
def still(small_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run on home alone whose rate is almost nothing: the weights stay as drawn."""
    return pretrain(small_config(tmp_path_factory.mktemp("still") / "run", **SHORT, lr=1e-30), TASKS).parent


# ---- Which set a batch comes from ------------------------------------------------------------------------------


def test_weights_are_respected() -> None:
    """Counts within four standard deviations of the binomial law; no set follows another's."""
    draws, batches = Draws(3, [1, 2, 0.5]), 20_000
    counts = draws.counts(batches)
    assert sum(counts) == batches
    for count, weight in zip(counts, [1, 2, 0.5], strict=True):
        share = weight / 3.5
        assert abs(count - share * batches) < 4 * (batches * share * (1 - share)) ** 0.5
    sets = np.array([draws.at(k)[0] for k in range(batches)])
    pairs = np.mean((sets[:-1] == 1) & (sets[1:] == 1))
    assert pairs == pytest.approx((2 / 3.5) ** 2, abs=0.015)


def test_a_batch_follows_from_its_number_alone() -> None:
    """In any order, from any number on; the own number is the count of earlier batches of the set."""
    draws = Draws(3, [1, 2, 0.5])
    seen = [0, 0, 0]
    run = []
    for number in range(9000):  # longer than what is drawn at once
        which, own = draws.at(number)
        assert own == seen[which]
        seen[which] += 1
        run.append((which, own))
    assert seen == draws.counts(9000)
    for number in (8999, 4096, 4095, 0):
        assert Draws(3, [1, 2, 0.5]).at(number) == run[number]
    assert [Draws(4, [1, 2, 0.5]).at(k)[0] for k in range(50)] != [which for which, _ in run[:50]]


def test_batches_of_a_mixture_are_those_of_its_sets(small_store: Path, other: Path) -> None:
    """Each is the next batch of its set; from the middle on they are the same; no set repeats another's draws."""
    stores = {"winds": SetConfig(str(other), 3.0)}
    home = Windows(Store(small_store), "train", 3, 5)
    (winds,) = open_sets(stores, open_stores(Store(small_store), stores), 3, 5, home_loading())

    def mixture(first: int = 0) -> Mixture:
        loaders = [TrainLoader(home, 16, 5), TrainLoader(winds.train, 16, winds.seed)]
        return Mixture(loaders, Draws(5, weights_of(stores)), first=lambda: first)

    run = list(islice(mixture(), 40))
    assert {batch.values.shape[2:] for batch in run} == {(3, 7, 12), (2, 5, 8)}
    assert len({batch.number for batch in run}) == 40
    keys = torch.cat([batch.keys for batch in run])
    assert len(keys.unique()) == len(keys)
    alone = [iter(TrainLoader(home, 16, 5)), iter(TrainLoader(winds.train, 16, winds.seed))]
    for number, batch in enumerate(run):
        expected = next(alone[Draws(5, weights_of(stores)).at(number)[0]])
        assert batch.number == expected.number
        assert torch.equal(batch.values, expected.values)
    for number, batch in enumerate(islice(mixture(23), 10), 23):
        assert batch.number == run[number].number
        assert torch.equal(batch.values, run[number].values)


def home_loading() -> Any:
    """Return the default loading."""
    from earthssl.ssl.data.loading import Loading

    return Loading()


# ---- A run on two sets ------------------------------------------------------------------------------------------


def test_the_record_lists_the_sets(whole: Path, small_store: Path, other: Path) -> None:
    """Name, fingerprint, weight, batches; statistics, splits and golden input are home's; no path is kept."""
    _, record = read(whole / "checkpoint")
    sets = record.extra["data_sets"]
    assert [own["name"] for own in sets] == ["home", "winds"]
    assert [own["fingerprint"] for own in sets] == [Store(small_store).fingerprint, Store(other).fingerprint]
    assert [own["weight"] for own in sets] == [1, 3]
    assert [own["batches"] for own in sets] == Draws(0, [1, 3]).counts(24)
    assert all(own["batches"] for own in sets)
    assert sets[1]["variables"] == ["v10", "u10"]
    assert record.fingerprint == sets[0]["fingerprint"]
    assert [own["splits"] for own in record.trainings] == [own["splits"] for own in sets]
    assert record.variables == ("sst", "u10", "v10")
    assert record.grid.same_as(Store(small_store).grid)
    replayed = verify(whole / "checkpoint")
    assert replayed["golden_difference"] <= replayed["tolerance"]
    assert json.loads((whole / "run.json").read_text())["data_sets"] == sets
    for file in ("record.json", "../config.json"):
        assert str(other) not in (whole / "checkpoint" / file).read_text()
    assert record.config["stores"] == {"winds": {"weight": 3.0, "world": "home", "step_days": None}}


def test_every_set_is_validated_apart(whole: Path) -> None:
    """Home's under the names of a run on one set, which select; the other's under names of its own."""
    found = history(whole)
    assert {name for step, name in found if name.startswith("val-")} == {
        "val-winds/loss", "val-winds/masking/loss", "val-winds/masking/skill", "val-winds/masking/skill_u10",
        "val-winds/masking/skill_v10", "val-winds/skill",
    }  # fmt: skip
    assert ("6", "val/masking/skill_sst") in found
    assert found["12", "val/loss"] != found["12", "val-winds/loss"]


def test_home_is_validated_as_if_alone(two: Callable[..., Any], still: Path, tmp_path: Path) -> None:
    """On the same weights home's losses are those of a run on home alone."""
    pretrain(two(tmp_path / "two", **SHORT, lr=1e-30), TASKS)
    assert history(tmp_path / "two")["3", "val/loss"] == history(still)["3", "val/loss"]


def test_a_stopped_run_resumes_to_the_same_bytes(
    whole: Path, two: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal between two saves, while a step's batches are fetched."""
    get = Mixture.get

    def sending(self: Mixture, number: int) -> Any:
        if number == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        return get(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "get", sending)
        with pytest.raises(Stopped, match=r"saved at step [78]"):
            pretrain(two(tmp_path / "run", accumulate=2), TASKS)
    resumed = pretrain(two(tmp_path / "run", accumulate=2, resume=True), TASKS)
    assert weights(resumed) == weights(whole / "checkpoint")
    ours, theirs = history(tmp_path / "run"), history(whole)
    assert {at: ours[at] for at in theirs if at[1].startswith("val")} == {
        at: value for at, value in theirs.items() if at[1].startswith("val")
    }
    assert read(resumed)[1].extra["data_sets"] == read(whole / "checkpoint")[1].extra["data_sets"]


def test_a_run_does_not_go_on_with_other_sets(two: Callable[..., Any], tmp_path: Path, whole: Path) -> None:
    """Another weight or other data under a name are refused; a moved store is not."""
    run = tmp_path / "run"
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("checkpoint"))
    config = two(run, accumulate=2, resume=True)
    heavier = replace(config.stores["winds"], weight=2.0)
    with pytest.raises(EarthSSLError, match="'stores' differs"):
        pretrain(replace(config, stores={"winds": heavier}), TASKS)
    with pytest.raises(EarthSSLError, match="'stores' differs"):
        pretrain(replace(config, stores={}), TASKS)
    shutil.copytree(config.stores["winds"].store, tmp_path / "moved")
    moved = replace(config.stores["winds"], store=str(tmp_path / "moved"))
    assert pretrain(replace(config, stores={"winds": moved}), TASKS).is_dir()


def test_a_variable_that_no_batch_holds_keeps_its_weights(
    small_config: Callable[..., Any], other: Path, still: Path, tmp_path: Path
) -> None:
    """With home as good as never drawn, sst is not seen: its embedding stays as drawn; the winds' move."""
    config = small_config(tmp_path / "run", **SHORT, lr=1e-2)
    trained = pretrain(replace(config, stores={"winds": SetConfig(str(other), 1e9)}), TASKS)
    one, two = (load_file(folder / "encoder.safetensors") for folder in (trained, still / "checkpoint"))
    moved = {}
    for name in ("sst", "u10", "v10"):
        part = f"embedding.blocks.{name}"
        moved[name] = float((one[part] - two[part]).abs().max())
    assert moved["sst"] == 0
    assert min(moved["u10"], moved["v10"]) > 1e-3


# ---- What is refused --------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_listed(small_data: Any, small_store: Path, other: Path, tmp_path: Path) -> None:
    """Blocks that touch, variables home lacks, another time step, a name that cannot be a folder, an absent store."""
    winds = small_data[["u10", "v10"]]
    late = small(winds, tmp_path, "late", SplitsConfig(("1996", "2003"), ("1985", "1989"), ("2007", "2010"), 365))
    seasons = small_data[["sst"]].isel(time=slice(0, None, 3))
    seasonal = small(seasons, tmp_path, "seasonal", SPLITS)
    home = Store(other)
    stores = {
        "late": SetConfig(str(late)),
        "seasonal": SetConfig(str(seasonal)),
        "a/b": SetConfig(str(late)),
        "none": SetConfig(str(tmp_path / "none")),
        "empty": SetConfig(),
    }
    with pytest.raises(EarthSSLError) as raised:
        open_stores(home, stores)
    said = str(raised.value)
    for part in (
        "splits.train of home (1981-01-01 … 2000-12-31) meets splits.val of late (1985-01-01 … 1989-12-31)",
        "splits.train of late (1996-01-01 … 2003-12-31) meets splits.val of home (2002-01-01 … 2005-12-31)",
        "splits.train of seasonal (1981-01-01 … 2000-12-31) meets splits.val of late",  # also among the others
        "stores.seasonal: home lacks sst (it has v10, u10)",
        "time step is 91 days, home's 31; prepare it at home's, or state step_days: 91",
        "got 'a/b'",
        "none, found none",
        "stores.empty.store: expected the folder",
    ):
        assert part in said, f"{part}\n{said}"
    apart = {"late": SetConfig(str(late), world="another")}
    assert list(open_stores(home, apart)) == ["late"]
    stated = {"seasonal": SetConfig(str(seasonal), step_days=92)}
    assert list(open_stores(Store(small_store), stated)) == ["seasonal"]
    with pytest.raises(EarthSSLError, match="stated were 31"):
        open_stores(Store(small_store), {"seasonal": SetConfig(str(seasonal), step_days=31)})


def test_blocks_keep_the_embargo(small_data: Any, small_store: Path, tmp_path: Path) -> None:
    """Half a year before home's validation is too near; the message says what was expected."""
    near = small(
        small_data[["u10"]],
        tmp_path,
        "near",
        SplitsConfig(("1981", "2001-06"), ("2003", "2005"), ("2007", "2010"), 300),
    )
    with pytest.raises(EarthSSLError, match=r"is near splits\.val of home .*: expected 365 days"):
        open_stores(Store(small_store), {"near": SetConfig(str(near))})


def test_a_planet_is_another_world_by_its_seed(small_data: Any, tmp_path: Path) -> None:
    """Another seed may be declared one and need not keep away; the same seed may not."""
    late = SplitsConfig(("2002", "2010"), ("1981", "1990"), ("1992", "2000"), 365)

    def planet(seed: int, splits: SplitsConfig) -> str:
        path = small(small_data[["u10"]], tmp_path, f"{seed}{splits.train[0]}", splits)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["attributes"]["planet"] = json.dumps({"seed": seed})  # as that of ssl/sources/planet/planet.py has it
        (path / "manifest.json").write_text(json.dumps(manifest))
        return str(path)

    home, same, apart = Store(planet(0, SPLITS)), planet(0, late), planet(1, late)
    with pytest.raises(EarthSSLError, match=r"stores\.it\.world: expected that of home, as both are planets of seed 0"):
        open_stores(home, {"it": SetConfig(same, world="planet 1")})
    with pytest.raises(EarthSSLError, match=r"meets splits\.val of home"):
        open_stores(home, {"it": SetConfig(apart)})
    assert list(open_stores(home, {"it": SetConfig(apart, world="planet 1")})) == ["it"]


@pytest.mark.parametrize(
    ("objectives", "said"),
    [({"orientation": {"crop": 6}}, r"stores\.winds"), ({"cross_variable": {}}, r"stores\.winds")],
)
def test_tasks_that_cannot_be_posed_on_a_set_are_refused(
    objectives: dict[str, Any], said: str, two: Callable[..., Any], tmp_path: Path
) -> None:
    """Before anything is written, and the set is named."""
    with pytest.raises(EarthSSLError, match=said):
        pretrain(two(tmp_path / "run", objectives), TASKS)
    assert not (tmp_path / "run").exists()


def test_batches_that_a_set_cannot_fill_are_refused(two: Callable[..., Any], tmp_path: Path) -> None:
    """The set with the fewest windows is the one that says no."""
    config = two(tmp_path / "run", batch_size=300)
    with pytest.raises(EarthSSLError, match="batch_size"):
        pretrain(config, TASKS)


def test_weights_and_home_are_checked(small_store: Path, other: Path) -> None:
    """A weight is above 0; home has no other setting."""
    with pytest.raises(EarthSSLError, match="weight above 0, got 0"):
        SetConfig(str(other), 0)
    with pytest.raises(EarthSSLError, match=r"stores\.home: expected its weight only"):
        open_stores(Store(small_store), {"home": SetConfig(str(other))})
    assert weights_of({"a": SetConfig("x", 2), "home": SetConfig(weight=5)}) == [5, 2]


def test_the_order_of_a_config_changes_nothing(small_store: Path, other: Path) -> None:
    """A run that goes on with its sets written in another order, which its identity allows, draws the same."""
    sets = {name: SetConfig(str(other), weight) for name, weight in (("winds", 3), ("again", 2))}
    back = dict(reversed(sets.items()))
    assert weights_of(sets) == weights_of(back) == [1, 2, 3]
    home = Store(small_store)
    assert list(open_stores(home, sets)) == list(open_stores(home, back)) == ["again", "winds"]

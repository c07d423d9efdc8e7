"""Two real processes (gloo) train as one does at the same global batch."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.mixture import SetConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.runtime.launch import launch
from safetensors.torch import load_file

# name: tasks, training of one process
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "masking": ({"masking": {}}, {"batch_size": 8}),
    "simclr": ({"simclr": {}}, {"batch_size": 16, "batches": "season", "accumulate": 2}),
    "teachers, averaged weights": ({"byol": {}, "vicreg": {}, "latent": {}}, {"batch_size": 16, "ema": 0.5}),
    "components, later windows": (
        {
            "eof_masking": {"components": 24},
            "temporal_latent": {},
            "linear_residual": {"components": 16},
            "interpolation_residual": {"components": 16},
            "stochastic_lead_time": {},
            "variance": {},
        },
        {
            "batch_size": 16,
            "constraints": (
                {"kind": "divergence", "u": "u10", "v": "v10", "how": "hard"},
                {"kind": "integral", "variables": ["sst"]},
                {"kind": "energy", "u": "u10", "v": "v10", "weight": 0.1},
            ),
        },
    ),
}
SHORT = {"steps": 4, "val_every": 4, "log_every": 2, "warmup_steps": 1, "lr": 1e-3}
TWO_SETS = "two data sets"
# Largest relative difference of a loss, by precision.
LOSS = {"32-true": 2e-5, "bf16-mixed": 4e-3}
# Difference of weights: the largest in fp32, the root mean square in bf16, where Adam moves a weight whose gradient is
# noise by a whole step either way. The learning rate is 1e-3, so a step moves a weight by up to that.
WEIGHT = 1e-4


def history(run: Path) -> dict[tuple[str, str], float]:
    """Return the history of a run by step and name."""
    with open(run / "history.csv", newline="") as handle:
        return {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(handle)}


def compare(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], precision: str) -> None:
    """Fail where weights differ, but for the biases of keys: softmax takes them out, Adam moves them by noise."""
    apart = {}
    for name, value in first.items():
        own, other = value, second[name]
        if name.endswith("qkv.bias"):
            width = len(value) // 3
            own, other = (torch.cat([x[:width], x[2 * width :]]) for x in (own, other))
        off = (own - other).abs()
        apart[name] = float(off.max() if precision == "32-true" else off.square().mean().sqrt())
    wrong = {name: size for name, size in apart.items() if not size <= WEIGHT}
    assert not wrong, wrong


@pytest.fixture(scope="module")
def winds(small_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small data's winds on a part of their grid."""
    folder = tmp_path_factory.mktemp("winds")
    small_data[["u10", "v10"]].isel(lon=slice(0, 6)).to_netcdf(folder / "winds.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(folder / "winds.nc"), "variables": ["u10", "v10"]}
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options))


@pytest.fixture(scope="module")
def both(small_config: Callable[..., Any], winds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two processes, which note the windows they see; all in one launch."""
    folder = tmp_path_factory.mktemp("two")
    jobs = []
    for name, (tasks, more) in CASES.items():
        config = small_config(folder / name, tasks, **SHORT, **more)
        half = replace(config.training, batch_size=config.training.batch_size // 2, devices=2)
        jobs.append(replace(config, training=half))
    config = jobs[0]
    jobs.append(replace(config, out=str(folder / "fsdp"), training=replace(config.training, strategy="fsdp")))
    jobs.append(replace(config, out=str(folder / TWO_SETS), stores={"winds": SetConfig(str(winds))}))

    def work() -> Path:
        from earthssl.pretext import TASKS
        from earthssl.ssl.data.loaders import EvalLoader, TrainLoader
        from earthssl.ssl.training.pretrain import pretrain

        # What the loaders take; the health monitor and the checkpoint look at windows beside them.
        batch, get, seen = EvalLoader.__iter__, TrainLoader.get, []

        def validating(self: Any) -> Any:
            seen.append(["val", torch.cat(self.batches).tolist()])
            return batch(self)

        def training(self: Any, number: int) -> Any:
            found = get(self, number)
            start = (number * self.ranks + self.rank) * self.batch_size
            seen.append(["train", self._arranged(0)[start : start + self.batch_size].tolist()])
            return found

        EvalLoader.__iter__, TrainLoader.get = validating, training  # type: ignore[method-assign]
        for config in jobs:
            seen.clear()
            pretrain(config, TASKS)
            (Path(config.out) / f"seen{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(seen))
        return folder

    assert launch(work, 2, 2) == folder
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(
    case: str, both: Path, small_pretrain: Callable[..., Path], tmp_path: Path, auto_precision: str
) -> None:
    """Losses and weights; validation losses too where they do not depend on what is compared in a batch."""
    tasks, more = CASES[case]
    one = small_pretrain(tmp_path / "one", tasks, **SHORT, **more)
    mine, theirs = history(tmp_path / "one"), history(both / case)
    assert mine.keys() == theirs.keys()
    names = [at for at in mine if at[1] == "train/loss" or (at[1] == "val/loss" and case == "masking")]
    assert len(names) >= 2
    for at in names:
        # In validation, masking averages over the cells of each batch, and the batches are others.
        assert theirs[at] == pytest.approx(mine[at], rel=LOSS[auto_precision] if at[1] == "train/loss" else 0.03), at
    if case != "masking":
        return  # weights whose true gradient is nearly 0 part by Adam's steps of noise; the losses above see the others
    for part in ("encoder", "heads"):
        first, second = (load_file(folder / f"{part}.safetensors") for folder in (one, both / case / "checkpoint"))
        compare(first, second, auto_precision)


def test_two_processes_train_on_two_sets_as_one(
    both: Path, winds: Path, small_config: Callable[..., Any], tmp_path: Path, auto_precision: str
) -> None:
    """Both take their slices of a batch of the same set; variables that a set lacks get no gradient on either."""
    from earthssl.pretext import TASKS
    from earthssl.ssl.training.pretrain import pretrain

    config = small_config(tmp_path / "one", {"masking": {}}, **SHORT, batch_size=8)
    one = pretrain(replace(config, stores={"winds": SetConfig(str(winds))}), TASKS)
    mine, theirs = history(tmp_path / "one"), history(both / TWO_SETS)
    assert mine.keys() == theirs.keys()
    for at in mine:
        if at[1] == "train/loss":
            assert theirs[at] == pytest.approx(mine[at], rel=LOSS[auto_precision]), at
    assert ("4", "val-winds/loss") in mine
    files = [folder / "record.json" for folder in (one, both / TWO_SETS / "checkpoint")]
    first, second = (json.loads(file.read_text())["extra"]["data_sets"] for file in files)
    assert first == second
    assert all(own["batches"] for own in first)
    for part in ("encoder", "heads"):
        compare(
            *(load_file(folder / f"{part}.safetensors") for folder in (one, both / TWO_SETS / "checkpoint")),
            auto_precision,
        )


def test_sharded_weights_train_as_whole_ones(both: Path, auto_precision: str) -> None:
    """FSDP2 on CPUs: what DDP gives, in losses, health and weights, up to the order of sums."""
    mine, theirs = history(both / "masking"), history(both / "fsdp")
    assert mine.keys() == theirs.keys()
    for at in mine:
        if at[1].startswith(("train/", "val/", "health/")):
            least = max(1e-3, LOSS[auto_precision])
            assert theirs[at] == pytest.approx(mine[at], rel=least, abs=1e-5), at
    first, second = (load_file(both / run / "checkpoint" / "encoder.safetensors") for run in ("masking", "fsdp"))
    compare(first, second, auto_precision)


def test_each_window_is_seen_once(both: Path) -> None:
    """In training the ranks share out each batch and no window comes twice; in validation all come, once."""
    seen = [json.loads((both / "masking" / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    train = [taken for own in seen for part, windows in own if part == "train" for taken in windows]
    assert len(train) == len(set(train)) >= 4 * 8
    passes = [[windows for part, windows in own if part == "val"] for own in seen]
    assert passes[0]
    for first, second in zip(*passes, strict=True):
        assert sorted(first + second) == list(range(46))


def test_only_rank_0_writes(both: Path) -> None:
    """One history, one state, one checkpoint; nothing half-written is left."""
    names = {entry.name for entry in (both / "masking").iterdir()}
    assert names == {
        ".lock", "checkpoint", "config.json", "example.nc", "history.csv", "last.ckpt", "run.json", "tensorboard",
        "seen0.json", "seen1.json",
    }  # fmt: skip


def test_what_cannot_work_is_refused(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """Several machines without srun or torchrun."""
    with pytest.raises(EarthSSLError, match=r"expected 2 node\(s\) × 1 device\(s\) = 2 processes started with srun"):
        small_pretrain(tmp_path / "run", nodes=2)


def test_sharding_wants_no_teacher(small_config: Callable[..., Any], small_store: Path, tmp_path: Path) -> None:
    """All that stands against it is said at once."""
    from earthssl.pretext import TASKS
    from earthssl.ssl.store.store import Store
    from earthssl.ssl.training.pretrain import assemble

    config = small_config(tmp_path / "run", {"byol": {}}, ema=0.9, devices=2, strategy="fsdp")
    with pytest.raises(EarthSSLError, match=r"strategy fsdp: expected a task without a teacher, training\.ema 0"):
        assemble(config, Store(small_store), TASKS)


@pytest.mark.parametrize(
    ("end", "message"), [("error", "^a mistake$"), ("kill", "process 1 of 2 was killed by SIGKILL")]
)
def test_one_that_ends_badly_ends_all(end: str, message: str) -> None:
    """A mistake is said as it was; a killed process is named; the other, which would wait for ever, is ended."""

    def work() -> Path:
        if os.environ["LOCAL_RANK"] == "0":
            time.sleep(600)
        if end == "error":
            raise EarthSSLError("a mistake")
        os.kill(os.getpid(), signal.SIGKILL)
        return Path()

    begun = time.monotonic()
    with pytest.raises(EarthSSLError, match=message):
        launch(work, 2, 2)
    assert time.monotonic() - begun < 300

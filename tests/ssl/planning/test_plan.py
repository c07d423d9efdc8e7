"""plan: what it says before a run is what the run then takes; its warnings, finders and profiler."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from earthssl.cli.plan import plan
from earthssl.pretext import TASKS
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.mixture import SetConfig
from earthssl.ssl.planning.finders import draw_rates, find_batch, find_rate, smoothed, steepest
from earthssl.ssl.planning.plan import make_plan, rows, table
from earthssl.ssl.planning.profiler import group_of, profile_steps
from earthssl.ssl.planning.store_outline import Sketch, sketch_store
from earthssl.ssl.planning.trial_run import Size, Trial, TrialJob, needed, run_trial
from earthssl.ssl.runtime.memory import Meter, free_ram
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.pretrain import assemble

TINY = {
    "prepare": {
        "source": "planet",
        "options": {"years": 40, "variables": ["sst", "u10"], "region": [-35, 35, 120, 290]},
        "splits": {"train": ["1900", "1919"], "val": ["1922", "1929"], "test": ["1932", "1939"], "embargo_days": 365},
    },
    "pretrain": {
        "encoder": {"size": "nano", "window": 3, "patch": [1, 3, 5]},
        "objectives": {"masking": {"masks": [{"kind": "random", "ratio": 0.5}]}},
        "training": {"steps": 12, "batch_size": 8, "warmup_steps": 2, "val_every": 6, "save_every": 4, "log_every": 4,
                     "accelerator": "cpu"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def sketch(small_store: Path) -> Sketch:
    """The sketch of the small store."""
    return sketch_store(small_store)


@pytest.fixture(scope="module")
def trial(small_config: Callable[..., Any], sketch: Sketch) -> Trial:
    """A trial on the small store."""
    return run_trial(TrialJob(small_config(Path("none")), sketch, seconds=1.0), TASKS)


def test_the_plan_is_what_the_run_takes(
    small_run: Path, small_config: Callable[..., Any], sketch: Sketch, trial: Trial
) -> None:
    """Parameters and windows exactly, files within 5 %, of a real run on the same config."""
    made = make_plan(small_config(small_run), sketch, trial, True)
    run = json.loads((small_run / "run.json").read_text())
    assert made.steps == run["steps"]
    for name in ("encoder_parameters", "head_parameters", "train_windows", "val_windows"):
        assert made.counts[name] == run[name]
    checkpoint = sum(file.stat().st_size for file in (small_run / "checkpoint").iterdir())
    assert made.disk["checkpoint"] == pytest.approx(checkpoint, rel=0.1)
    assert made.disk["last.ckpt"] == pytest.approx((small_run / "last.ckpt").stat().st_size, rel=0.05)
    assert made.epochs == pytest.approx(12 * 8 / run["train_windows"], rel=0.05)
    assert made.run_s > 12 * min(trial.steps_s)
    assert "GFLOP" in table(made)
    assert made.precision == run["precision"]
    assert dict(rows(made))["precision"] == f"{made.precision}: {made.precision_why}"


def test_of_several_sets_home_is_planned(small_config: Callable[..., Any], sketch: Sketch, trial: Trial) -> None:
    """Its epochs are by its share of the batches, and what was left out is said."""
    alone = small_config(Path("none"))
    several = replace(alone, stores={"other": SetConfig("x", 3.0)})
    one, made = (make_plan(config, sketch, trial, True) for config in (alone, several))
    assert made.epochs == pytest.approx(one.epochs / 4)
    assert any("25% of the batches are home's" in words for words in made.warnings)
    assert not any("home's" in words for words in one.warnings)


@pytest.mark.slow
def test_the_command_line_plans_without_a_store_and_its_memory_is_the_runs(tmp_path: Path) -> None:
    """From a config alone to a plan; then the run: its peak memory and its disk lie within a quarter of it."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))

    def earthssl(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "earthssl", *words], cwd=tmp_path, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    made = json.loads(earthssl("plan", "--config", "tiny.yaml", "--json"))
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.yaml"]
    earthssl("prepare", "--config", "tiny.yaml", "--out", "store")
    earthssl("pretrain", "--config", "tiny.yaml", "--store", "store", "--out", "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["memory"]["peak"] / 2**20 == pytest.approx(run["peak_memory_mib"], rel=0.25)
    assert made["counts"]["train_windows"] == run["train_windows"]
    store = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*") if file.is_file())
    assert made["disk"]["store"] == pytest.approx(store, rel=0.1)
    for name in ("encoder_parameters", "head_parameters"):
        assert made["counts"][name] == run[name]


def test_flops_are_those_of_the_matrix_products(small_config: Callable[..., Any], sketch: Sketch, trial: Trial) -> None:
    """6 × weights × tokens of the encoder's and the decoder's blocks, and a little for the rest."""
    config = small_config(Path("none"))
    module, _train, _ = assemble(config, sketch, TASKS)
    tokens = {"visible_tokens": module.encoder.blocks, "tokens": module.objectives.tasks()["masking"].blocks}
    products = {name: sum(p.numel() for p in blocks.parameters() if p.ndim == 2) for name, blocks in tokens.items()}
    blocks = 6 * config.training.batch_size * sum(weights * trial.counts[name] for name, weights in products.items())
    assert blocks < trial.counts["flops_a_step"] < 1.3 * blocks
    assert 0 < trial.counts["visible_tokens"] < trial.counts["tokens"]


def test_a_trial_leaves_the_run_as_it_is(small_config: Callable[..., Any], sketch: Sketch) -> None:
    """The sketch's windows are the store's: as many, at the same times, missing at the same cells."""
    config = small_config(Path("none"))
    store = Store(config.store)
    _, real, _ = assemble(config, store, TASKS)
    _, fake, _ = assemble(config, sketch, TASKS)
    assert np.array_equal(real.starts, fake.starts)
    a, b = real.batch([0, 3]), fake.batch([0, 3])
    for name in ("times", "known", "keys"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert torch.equal(a.valid[:, 0], b.valid[:, 0])


def test_too_little_memory_is_said_with_what_to_do(
    small_config: Callable[..., Any], sketch: Sketch, trial: Trial
) -> None:
    """The proposed batch fits what is free, and its accumulation keeps the windows of a step."""
    config = small_config(Path("none"), batch_size=64)
    base, mib = trial.base_bytes, 2**20
    sizes = [Size(n, base + n * 10 * mib, 0.1) for n in (2, 4, 8, 16)]
    tight = replace(trial, free_bytes=300 * mib, sizes=sizes, fits=False, steps_s=[], peak_bytes=0)
    made = make_plan(config, sketch, tight, True)
    assert any("out of memory" in words for words in made.warnings)
    assert "--training.batch_size 16 --training.accumulate 4" in made.proposals[0]
    assert any("does not fit" in value for _, value in rows(made))
    assert not make_plan(config, sketch, replace(tight, free_bytes=64 * 2**30), True).proposals
    less = replace(tight, sizes=[Size(n, base + n * 2 * mib, 0.13) for n in (2, 4, 8, 16)])
    saving = make_plan(config, sketch, tight, True, less).proposals
    assert "checkpoint_activations true" in saving[1]
    assert "1.30 times" in saving[1]
    hopeless = make_plan(config, sketch, replace(tight, free_bytes=mib), True)
    assert "shorten splits.train" in hopeless.proposals[0]


def test_memory_is_extrapolated_along_the_last_two_sizes() -> None:
    sizes = [Size(2, 120, 0.1), Size(4, 140, 0.1), Size(8, 180, 0.1)]
    assert needed(100, sizes, 32) == 420
    assert needed(100, [], 32) == 100


def test_the_meter_sees_what_is_taken() -> None:
    """64 MiB touched show in the peak, and go away with a reset."""
    meter = Meter(torch.device("cpu"))
    meter.reset()
    before = meter.peak()
    held = mmap.mmap(-1, 64 * 2**20)  # new pages, where an allocator may hand out those it holds already
    for _ in range(64):
        held.write(b"1" * 2**20)
    assert 56 * 2**20 < meter.peak() - before < 120 * 2**20
    held.close()
    assert (free_ram() or 0) > 2**20


def test_the_rate_finder_takes_the_steepest_fall() -> None:
    rates = list(np.geomspace(1e-6, 1, 100))
    loss = [2 - 1 / (1 + np.exp(-4 * (np.log10(rate) + 3))) + max(0.0, np.log10(rate) + 1) for rate in rates]
    assert np.log10(steepest(rates, loss)) == pytest.approx(-3, abs=0.1)
    assert smoothed([1.0, 1.0, 1.0]) == pytest.approx([1, 1, 1])
    with pytest.raises(EarthSSLError, match="never fell"):
        steepest(rates, [1.0 + k for k in range(100)])


def test_the_rate_finder_repeats_itself_and_draws(small_config: Callable[..., Any], tmp_path: Path) -> None:
    config = small_config(tmp_path)
    found = [find_rate(*assemble(config, Store(config.store), TASKS)[:2], batches=40) for _ in range(2)]
    assert found[0] == found[1]
    assert 1e-6 < found[0].best < 1
    assert draw_rates(found[0], tmp_path / "lr.png").stat().st_size > 5000
    assert [file.name for file in tmp_path.iterdir()] == ["lr.png"]


def test_the_batch_finder_takes_what_fits_and_what_is_worth_it(trial: Trial) -> None:
    base, mib = trial.base_bytes, 2**20
    sizes = [Size(n, base + n * 10 * mib, s) for n, s in ((2, 0.02), (4, 0.03), (8, 0.05), (16, 0.099), (32, 0.2))]
    one = replace(trial, sizes=sizes, free_bytes=300 * mib)
    found = find_batch(one, 0)
    assert (found.largest, found.enough) == (16, 8)
    with pytest.raises(EarthSSLError, match="room for a batch"):
        find_batch(one, 299 * mib)


def test_the_profile_names_the_products(small_config: Callable[..., Any], sketch: Sketch, tmp_path: Path) -> None:
    held = ({"kind": "divergence", "u": "u10", "v": "v10", "how": "hard"},)  # the sketch has units enough for it
    module, train, _ = assemble(small_config(tmp_path, constraints=held), sketch, TASKS)
    found = profile_steps(module, train, tmp_path / "trace.json")
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["GEMM"] > 0.02
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert group_of("aten::addmm") == "GEMM"
    assert group_of("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert group_of("aten::copy_") == "other"


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"pretrain": TINY["pretrain"]}))
    with pytest.raises(EarthSSLError, match="--store"):
        plan(tmp_path / "tiny.yaml", None, [])
    with pytest.raises(EarthSSLError, match="lr or batch"):
        plan(tmp_path / "tiny.yaml", None, [], find="rate")
    with pytest.raises(EarthSSLError, match="--store"):
        plan(tmp_path / "tiny.yaml", None, [], find="lr")

"""The engine: what a run is a function of, what it logs, and when it stops."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.fields.batch import drop_variables
from earthssl.ssl.training import pretrain as pretrain_module
from earthssl.ssl.training.config import TrainingConfig
from earthssl.ssl.training.module import parameter_count
from safetensors.torch import load_file


def history(run: Path) -> dict[str, dict[int, float]]:
    """Return the history of a run: name -> step -> value."""
    found: dict[str, dict[int, float]] = {}
    with open(run / "history.csv", newline="") as handle:
        for row in csv.DictReader(handle):
            found.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return found


def encoder_bytes(checkpoint: Path) -> bytes:
    """Return the bytes of the encoder's weights."""
    return (checkpoint / "encoder.safetensors").read_bytes()


def test_variable_dropout_leaves_one(small_windows: Callable[..., Any]) -> None:
    """Each variable goes with its chance, never all; what goes is as if unobserved; a function of the keys."""
    batch = small_windows("train").batch(torch.arange(238))
    keys = fold(torch.arange(238), 1)
    batch = type(batch)(batch.values, batch.valid, batch.times, keys, batch.known, batch.variables, batch.grid)
    for rate in (0.3, 0.95):
        dropped = drop_variables(batch, rate)
        present = dropped.valid.flatten(3).any(-1).any(1)
        assert present.any(1).all()
        lone = rate**3 / 3  # all three would go: one, any one, stays
        assert present.float().mean(0).numpy() == pytest.approx(1 - rate + lone, abs=4 * 0.5 / 238**0.5)
        assert (dropped.values[~dropped.valid] == 0).all()
        kept = present[:, None, :, None, None].expand_as(batch.valid)
        assert torch.equal(dropped.valid, batch.valid & kept)
        assert torch.equal(dropped.values[dropped.valid], batch.values[dropped.valid])
        assert torch.equal(dropped.valid, drop_variables(batch, rate).valid)
    assert drop_variables(batch, 0.0) is batch


def test_loss_falls_and_is_logged(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """How winds and waves of the small data lie is learnt; terms, rate, throughput and waiting are in the history."""
    out = tmp_path / "run"
    small_pretrain(
        out, {"orientation": {}}, steps=80, batch_size=16, lr=3e-3, warmup_steps=20, val_every=40, log_every=5
    )
    found = history(out)
    losses = list(found["train/loss"].values())
    assert losses[0] > 1.2
    assert losses[-1] < 0.5
    assert found["val/loss"][80] < 0.5
    assert found["val/orientation/accuracy"][80] > 0.9
    assert list(found["val/loss"]) == [40, 80]
    assert list(found["train/loss"]) == list(range(5, 81, 5))
    assert all(rate > 0 for rate in found["samples_per_s"].values())
    assert all(0 <= share <= 1 for share in found["data_wait_share"].values())
    rates = found["lr"]
    assert max(rates.values()) == pytest.approx(3e-3)
    assert rates[80] == 0  # after the last step nothing is left
    assert rates[50] == pytest.approx(1.5e-3, rel=1e-5)  # half way down the half cosine
    assert {"health/std", "health/effective_rank", "train/orientation/skill", "val/orientation/loss"} <= set(found)


def test_a_run_is_a_function_of_its_seed(small_run: Path, small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """The same seed gives the same bytes, whatever the state of the global generator; another seed others."""
    torch.manual_seed(12345)
    again = small_pretrain(tmp_path / "again")
    assert encoder_bytes(again) == encoder_bytes(small_run / "checkpoint")
    other = small_pretrain(tmp_path / "other", seed=1)
    assert encoder_bytes(other) != encoder_bytes(small_run / "checkpoint")


def test_watching_changes_nothing(
    small_run: Path, small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the health monitor the weights are the same, bit for bit (the probe's part is in test_monitor)."""

    class Blind(pl.Callback):
        said: list[str] = []

        def __init__(self, *_: Any) -> None:
            """Watch nothing."""

    monkeypatch.setattr(pretrain_module, "HealthMonitor", Blind)
    blind = small_pretrain(tmp_path / "blind")
    assert "health/std" not in history(tmp_path / "blind")
    assert encoder_bytes(blind) == encoder_bytes(small_run / "checkpoint")


def test_accumulation_takes_every_batch_once(
    small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches a step: batches 0 to 23 in 12 steps, in order; other weights than with one."""
    taken: list[int] = []
    get = TrainLoader.get

    def noting(self: TrainLoader, number: int) -> Any:
        taken.append(number)
        return get(self, number)

    monkeypatch.setattr(TrainLoader, "get", noting)
    small_pretrain(tmp_path / "run", accumulate=2)
    assert taken[:24] == list(range(24))
    assert len(taken) <= 26  # the trainer may fetch ahead
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 12


def test_accumulation_equals_the_large_batch(
    small_pretrain: Callable[..., Path], tmp_path: Path, auto_precision: str
) -> None:
    """Of a loss that is a mean over samples: 4 × 4 windows give the step of 16; contrastive losses cannot."""
    options = {"steps": 3, "val_every": 3, "warmup_steps": 1, "lr": 1e-4}
    tasks: dict[str, Any] = {"orientation": {}, "order": {}}
    large = small_pretrain(tmp_path / "large", tasks, batch_size=16, **options)
    small = small_pretrain(tmp_path / "small", tasks, batch_size=4, accumulate=4, **options)
    first, second = (load_file(run / "encoder.safetensors") for run in (large, small))
    for name in first:
        # Of three steps of 1e-4; biases of keys, whose true gradient is 0, move by the noise of sums.
        if auto_precision == "32-true":
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)
            continue
        off = first[name] - second[name]
        if name.endswith("qkv.bias"):
            off = torch.cat([off[: len(off) // 3], off[2 * len(off) // 3 :]])
        assert off.square().mean().sqrt() < 5e-6, name


@pytest.mark.parametrize("weighting", ["fixed", pytest.param("gradnorm", marks=pytest.mark.slow)])
def test_forgotten_activations_change_nothing(
    weighting: str, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """Computed again on the way back, with the same blocks left out, they give the same bytes."""
    from earthssl.ssl.training.multitask import MultitaskConfig

    options = {"steps": 3, "val_every": 3, "drop_path": 0.3, "ema": 0.5}
    tasks: dict[str, Any] = {"masking": {}, "latent": {}}
    found = []
    for forget in (False, True):
        run = tmp_path / str(forget)
        multitask = MultitaskConfig(weighting=weighting)
        found.append(small_pretrain(run, tasks, multitask=multitask, checkpoint_activations=forget, **options))
    assert encoder_bytes(found[0]) == encoder_bytes(found[1])


def test_early_stopping_stops(
    small_pretrain: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss that does not fall ends the run after `patience` validations; the steps really done are recorded."""
    checkpoint = small_pretrain(tmp_path / "run", lr=1e-12, patience=2, val_every=2, steps=12)
    steps = json.loads((tmp_path / "run" / "run.json").read_text())["steps"]
    assert steps < 12
    assert json.loads((checkpoint / "record.json").read_text())["steps"] == steps
    assert max(history(tmp_path / "run")["val/loss"]) == steps
    assert f"{steps}/{steps}" in capsys.readouterr().err  # the bar is full


def test_averaged_weights_are_what_is_kept(
    small_run: Path, small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an average, the checkpoint holds decay × average + (1 - decay) × weights, step by step from the first."""
    from earthssl.ssl.training import callbacks

    seen: list[dict[str, torch.Tensor]] = []
    end = callbacks.Clock.on_train_batch_end

    def noting(self: Any, trainer: Any, module: Any, *rest: Any) -> None:
        seen.append({name: value.detach().clone() for name, value in module.encoder.state_dict().items()})
        end(self, trainer, module, *rest)

    monkeypatch.setattr(callbacks.Clock, "on_train_batch_end", noting)
    checkpoint = small_pretrain(tmp_path / "run", ema=0.8)
    kept = load_file(checkpoint / "encoder.safetensors")
    plain = load_file(small_run / "checkpoint" / "encoder.safetensors")
    average = seen[0]
    for weights in seen[1:]:
        average = {name: 0.8 * average[name] + 0.2 * weights[name] for name in average}
    for name, value in kept.items():
        torch.testing.assert_close(seen[-1][name], plain[name], rtol=0, atol=0)
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-7)
    assert any(not torch.equal(kept[name], plain[name]) for name in kept)


@pytest.mark.slow
def test_half_precision_trains(small_run: Path, small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """bf16-mixed: weights stay float32 and finite, losses are those of float32 to a few percent."""
    tasks: dict[str, Any] = {"masking": {}, "order": {}, "orientation": {}}
    checkpoint = small_pretrain(tmp_path / "run", tasks, precision="bf16-mixed", clip=0.5)
    weights = load_file(checkpoint / "encoder.safetensors")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())
    plain = history(small_run)["val/masking/loss"]
    assert history(tmp_path / "run")["val/masking/loss"][12] == pytest.approx(plain[12], rel=0.1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["skipped_steps"] == []


def test_the_record_of_a_run(small_run: Path) -> None:
    """Seconds, steps, sizes, memory, versions."""
    record = json.loads((small_run / "run.json").read_text())
    weights = load_file(small_run / "checkpoint" / "encoder.safetensors")
    assert record["steps"] == 12
    assert record["encoder_parameters"] == sum(value.numel() for value in weights.values())
    assert record["head_parameters"] > 0
    assert (record["train_windows"], record["val_windows"]) == (238, 46)
    assert 50 < record["peak_memory_mib"] < 10_000
    assert record["seconds"] > 0
    assert {"python", "torch", "timm"} <= set(record["versions"])
    assert ("lightning-bolts" in record["versions"]) == (importlib.util.find_spec("pl_bolts") is not None)
    assert record["threads"] == 1
    assert parameter_count(torch.nn.Linear(3, 2)) == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("batch_size", 0), ("accumulate", 0), ("val_every", 0), ("devices", 0), ("ema", 1.0),
        ("variable_dropout", 1.0), ("variable_dropout", -0.1), ("lr", 0.0), ("lr", float("nan")), ("clip", -1.0),
        ("weight_decay", -1.0), ("patience", -1), ("precision", "fp16"), ("warmup_steps", 0), ("warmup_steps", 1000),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(name: str, value: Any) -> None:
    """One line that names the setting."""
    with pytest.raises(EarthSSLError, match=rf"training\.{name}: expected"):
        TrainingConfig(**{name: value})


def test_a_batch_larger_than_the_data_is_refused(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """It names how many windows there are."""
    with pytest.raises(EarthSSLError, match="238"):
        small_pretrain(tmp_path / "run", batch_size=1000)
    assert not (tmp_path / "run").exists()


def test_one_window_has_nothing_to_be_compared_with(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """Contrastive tasks need two windows a batch; nothing is written."""
    with pytest.raises(EarthSSLError, match="expected at least 2, as simclr compare"):
        small_pretrain(tmp_path / "run", {"simclr": {}}, batch_size=1)
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_none_end_the_run(
    small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that diverged says so at the next validation, and leaves no checkpoint."""
    from earthssl.pretext.prediction.masking import Masking

    forward = Masking.forward

    def broken(self: Any, encoder: Any, batch: Any) -> Any:
        outcome = forward(self, encoder, batch)
        return type(outcome)(outcome.loss * np.nan, outcome.terms)

    monkeypatch.setattr(Masking, "forward", broken)
    with pytest.raises(EarthSSLError, match="diverged"):
        small_pretrain(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_objectives_hear_of_every_step_once(
    small_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the optimiser's step, not after every accumulated batch; the last time at progress 1."""
    from earthssl.pretext import TASKS
    from earthssl.pretext.spatial.orientation import Orientation

    heard: list[float] = []
    monkeypatch.setattr(Orientation, "after_step", lambda self, encoder, progress, taken: heard.append(progress))
    config = small_config(tmp_path / "run", {"orientation": {}}, steps=4, accumulate=2, warmup_steps=1, val_every=4)
    pretrain_module.pretrain(config, TASKS)
    assert heard == [0.25, 0.5, 0.75, 1.0]


def test_tasks_drawn_batch_by_batch_are_logged_apart(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """Terms that come in some batches only are means over those batches."""
    from earthssl.ssl.training.multitask import MultitaskConfig

    out = tmp_path / "run"
    small_pretrain(
        out, {"orientation": {}, "order": {}}, multitask=MultitaskConfig(sampling="one"), steps=12, log_every=6
    )
    found = history(out)
    assert {"train/orientation/skill", "train/order/skill", "val/orientation/loss", "val/order/loss"} <= set(found)
    assert 0 < found["train/order/loss"][12] < 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo looks at gradients that are not there
def test_every_kind_of_mask_is_compiled(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """Six ratios of masks are twelve shapes in training alone: more than dynamo compiles unless it is told."""
    torch._dynamo.reset()
    masks = [{"kind": "random", "ratio": ratio} for ratio in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    small_pretrain(tmp_path / "run", {"masking": {"masks": masks, "rebuild": 0.5}}, steps=60, compile=True)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] > 12
    assert not [reason for reason in counted["graph_break"] if "limit" in reason]

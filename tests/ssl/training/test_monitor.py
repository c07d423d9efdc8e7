"""Callbacks that watch: right in what they measure, and without a trace in what they watch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.monitor import (
    HealthMonitor,
    History,
    OnlineProbe,
    ProbeLabels,
    check_health,
    classify,
    embed_windows,
    spread,
    undisturbed,
)

FIT, CHECK = np.arange(150), np.arange(160, 238)


@pytest.fixture
def encoder() -> Encoder:
    """A new encoder, always the same."""
    torch.manual_seed(0)
    return EncoderConfig("nano", 3, (1, 2, 3), drop_path=0.3).build(("sst", "u10", "v10"))


def labels_of(windows: Any, labels: np.ndarray, classes: int = 0) -> ProbeLabels:
    """Return labels with the usual fit and check windows."""
    return ProbeLabels("it", windows, FIT, CHECK, labels, classes)


def snapshot(module: torch.nn.Module) -> dict[str, Any]:
    """Return everything that must not change."""
    return {
        "modes": [part.training for part in module.modules()],
        "weights": [p.detach().clone() for p in module.parameters()],
        "grads": [p.grad.clone() for p in module.parameters() if p.grad is not None],
        "asked": [p.requires_grad for p in module.parameters()],
        "state": torch.get_rng_state(),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two snapshots are equal, bit for bit."""
    tensors = all(torch.equal(x, y) for name in ("weights", "grads") for x, y in zip(a[name], b[name], strict=True))
    return tensors and torch.equal(a["state"], b["state"]) and a["modes"] == b["modes"] and a["asked"] == b["asked"]


def test_probing_leaves_no_trace(encoder: Encoder, small_windows: Callable[..., Any]) -> None:
    """Modes of every part (a frozen one too), weights, gradients and the random state are as before."""
    windows = small_windows("train")
    encoder.train()
    encoder.blocks[1].eval()
    encoder.blocks[0].norm1.weight.requires_grad_(False)
    encoder(patchify(windows.batch([0, 1]), (1, 2, 3))).sum().backward()
    before = snapshot(encoder)
    months = windows.last_times.astype("datetime64[M]").astype(int) % 12
    lines: list[dict[str, float]] = []

    def sink(_: int, line: dict[str, float]) -> None:
        lines.append(line)

    trainer = SimpleNamespace(is_global_zero=True, global_step=7)
    module = SimpleNamespace(whole=lambda: SimpleNamespace(encoder=encoder))
    for callback in (
        OnlineProbe(labels_of(windows, np.cos(months / 2)), [sink]),
        OnlineProbe(labels_of(windows, (months > 5).astype(int), 2), [sink]),
        HealthMonitor(windows, [sink]),
    ):
        callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
        assert same(before, snapshot(encoder))
    assert [sorted(line)[0] for line in lines] == ["probe/it", "probe/it", "health/effective_rank"]


def test_an_error_inside_leaves_no_trace_either(encoder: Encoder) -> None:
    """Modes and random state come back."""
    encoder.blocks[1].eval()
    before = snapshot(encoder)

    def fail() -> None:
        with undisturbed(encoder):
            torch.rand(3)
            assert not encoder.training
            assert not torch.is_grad_enabled()
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert same(before, snapshot(encoder))
    assert torch.is_grad_enabled()


def test_a_run_with_a_probe_has_the_same_weights(
    small_run: Path, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """Bit for bit; the probe's score is in the history at every validation."""

    def label(store: Any, windows: Any) -> ProbeLabels:
        return labels_of(windows, np.linspace(0, 1, 238))

    probed = small_pretrain(tmp_path / "run", label=label)
    for name in ("encoder.safetensors", "heads.safetensors"):
        assert (probed / name).read_bytes() == (small_run / "checkpoint" / name).read_bytes()
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines if ",probe/it," in line] == ["6", "12"]


def test_a_linear_label_is_found(encoder: Encoder, small_windows: Callable[..., Any]) -> None:
    """Any linear function of the pooled features: r > 0.95 on windows it was not fitted on; noise: near 0."""
    windows = small_windows("train")
    encoder.eval()
    with torch.no_grad():
        pooled, _ = embed_windows(encoder, windows, np.arange(238))
    rng = np.random.default_rng(0)
    standard = (pooled - pooled.mean(0)) / pooled.std(0)
    label = standard @ rng.normal(size=64)
    assert OnlineProbe(labels_of(windows, label), [], ridge=1e-3).score(encoder) > 0.95
    assert OnlineProbe(labels_of(windows, 1e3 + 1e-3 * label), [], ridge=1e-3).score(encoder) > 0.95
    assert abs(OnlineProbe(labels_of(windows, rng.normal(size=238)), []).score(encoder)) < 4 / 78**0.5
    assert OnlineProbe(labels_of(windows, np.ones(238)), []).score(encoder) == 0


def test_separable_classes_are_told(encoder: Encoder, small_windows: Callable[..., Any]) -> None:
    """The quarter of the year, which the encodings hold: accuracy near 1; chance for labels of noise."""
    windows = small_windows("train")
    quarter = windows.last_times.astype("datetime64[M]").astype(int) % 12 // 3
    assert OnlineProbe(labels_of(windows, quarter, 4), []).score(encoder) > 0.9
    random = np.random.default_rng(0).integers(0, 4, 238)
    assert OnlineProbe(labels_of(windows, random, 4), []).score(encoder) < 0.25 + 4 * (0.1875 / 78) ** 0.5


def test_the_classifier_on_blobs() -> None:
    """Three clouds far apart, the same result every time, the random state untouched."""
    rng = np.random.default_rng(1)
    centres = 6 * np.eye(3, 5)
    fit_labels, check_labels = np.arange(90) % 3, np.arange(60) % 3
    fit, check = centres[fit_labels] + rng.normal(size=(90, 5)), centres[check_labels] + rng.normal(size=(60, 5))
    state = torch.get_rng_state()
    predicted = classify(fit, fit_labels, check, 3)
    assert (predicted == check_labels).mean() > 0.97
    assert np.array_equal(predicted, classify(fit, fit_labels, check, 3))
    assert torch.equal(state, torch.get_rng_state())


def test_labels_must_not_overlap(small_windows: Callable[..., Any]) -> None:
    """Not in an index, and not in a month: windows of 3 months from neighbouring starts share two."""
    windows = small_windows("train")
    for fit, check in ((np.arange(10), np.arange(9, 20)), (np.arange(10), np.arange(11, 20))):
        with pytest.raises(EarthSSLError, match="overlap; split them by time"):
            ProbeLabels("it", windows, fit, check, np.zeros(238))
    ProbeLabels("it", windows, np.arange(10), np.arange(12, 20), np.zeros(238))


def test_embedding_in_batches_is_embedding_at_once(encoder: Encoder, small_windows: Callable[..., Any]) -> None:
    """Pooled features and the first windows' tokens, across the borders of batches."""
    windows = small_windows("train")
    encoder.eval()
    chosen = np.array([3, 200, 17, 40, 41])
    with torch.no_grad():
        direct = encoder(patchify(windows.batch(chosen), (1, 2, 3))).numpy()
        pooled, tokens = embed_windows(encoder, windows, chosen, tokens=3, batch_size=2)
    np.testing.assert_allclose(pooled, direct.mean(1), atol=1e-6)
    np.testing.assert_allclose(tokens, direct[:3], atol=1e-6)
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert spread(100, 3).tolist() == [0, 50, 99]
    assert spread(1, 3).tolist() == [0]


def test_health_of_an_encoder(encoder: Encoder, small_windows: Callable[..., Any]) -> None:
    """A constant encoder is found out, and the monitor says so and remembers."""
    windows = small_windows("val")
    assert check_health(encoder, windows).to_json() == check_health(encoder, windows).to_json()
    with torch.no_grad():
        encoder.norm.weight.zero_()
        encoder.norm.bias.fill_(1)
    monitor = HealthMonitor(windows, [])
    module = SimpleNamespace(whole=lambda: SimpleNamespace(encoder=encoder))
    monitor.on_validation_end(SimpleNamespace(is_global_zero=True, global_step=3), module)  # type: ignore[arg-type]
    assert any(words.startswith("step 3: ") and "collapsed" in words for words in monitor.said)


def test_history_keeps_what_came_before_the_state(tmp_path: Path) -> None:
    """A resumed run drops lines after its step and a line cut short; numbers survive to 8 digits."""
    file = tmp_path / "history.csv"
    history = History(file)
    for step in (2, 4, 6):
        history(step, {"train/loss": 1 / 3 / step, "lr": 0.1})
    with open(file, "a") as handle:
        handle.write("8,train")
    again = History(file, first_step=4)
    again(6, {"train/loss": 7.0})
    assert file.read_text().splitlines() == [
        "step,name,value", "2,train/loss,0.16666667", "2,lr,0.1", "4,train/loss,0.083333333", "4,lr,0.1",
        "6,train/loss,7",
    ]  # fmt: skip
    History(file)
    assert file.read_text().splitlines() == ["step,name,value"]

"""Fine-tuning: rates of the groups at every step, what is frozen, drop-path, early stopping, determinism."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.downstream.training.fine_tuning import (
    FinetuneConfig,
    fine_tune,
    first_trained_block,
    parameter_groups,
    schedule_of,
    set_drop_path,
)
from earthssl.downstream.training.loop import Training
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import Patches, patchify
from timm.layers import DropPath
from torch import Tensor, nn


class Network(nn.Module):
    """An encoder and a head for one number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(("sst", "u10", "v10"))
        self.head = nn.Linear(self.encoder.width, 1)

    def forward(self, patches: Patches) -> Tensor:
        """Return a number a window."""
        return self.head(self.encoder(patches).mean(1))[:, 0]


@pytest.fixture(scope="module")
def patches(small_windows: Callable[..., Any]) -> Patches:
    return patchify(small_windows("train").batch(list(range(40))), (1, 2, 3))


def labels(patches: Patches) -> Tensor:
    """The mean sst of each window."""
    return patches.values[:, :, 0].mean((1, 2)) * 3


def some(patches: Patches, rows: np.ndarray) -> Patches:
    chosen = torch.as_tensor(rows)
    values, valid, season = (x[chosen] for x in (patches.values, patches.valid, patches.season))
    made = copy.copy(patches)
    for name, value in (("values", values), ("valid", valid), ("season", season)):
        object.__setattr__(made, name, value)
    return made


def train(patches: Patches, config: FinetuneConfig, seed: int = 0, watch: Any = None) -> tuple[Network, Any]:
    network, y = Network(), labels(patches)

    def loss(rows: np.ndarray) -> Tensor:
        if watch is not None:
            watch(network)
        return ((network(some(patches, rows)) - y[torch.as_tensor(rows)]) ** 2).mean()

    def score() -> float:
        held = np.arange(30, 40)
        return float(((network(some(patches, held)) - y[held]) ** 2).mean())

    return network, fine_tune(network, network.encoder, np.arange(30), loss, score, config, seed, "test")


def config(**more: Any) -> FinetuneConfig:
    usual: dict[str, Any] = {
        "steps": 12,
        "batch_size": 10,
        "warmup_steps": 3,
        "check_every": 4,
        "lr": 1e-3,
        "patience": 0,
        "average": 0.0,
    }
    return FinetuneConfig(**{**usual, **more})


def test_rates_differ_by_exactly_the_decay_at_every_step() -> None:
    """Through warm-up and cosine: neighbouring layers' rates have the ratio of the decay, the head its own share."""
    network = Network()
    own = config(layer_decay=0.6, steps=20, warmup_steps=5, head_lr=0.25)
    groups = parameter_groups(network, network.encoder, own)
    assert {group["layer"] for group in groups} == {0, 1, 2, 3, 4, 5}  # tokens, three blocks, norm, head
    training = Training(
        network, groups, lambda rows: network.head.weight.sum(), np.arange(8), schedule_of(own), (0, "order")
    )
    peaks = []
    for step in training:
        rates = {group["layer"]: group["lr"] for group in training.optimizer.param_groups}
        peaks.append(rates[4])
        assert rates[5] == pytest.approx(0.25 * rates[4], rel=1e-12)
        for layer in range(4):
            assert rates[layer] == pytest.approx(0.6 * rates[layer + 1], rel=1e-12)
        for group in training.optimizer.param_groups:
            assert group["lr"] == rates[group["layer"]], step
    assert peaks[:5] == pytest.approx(1e-3 * np.arange(1, 6) / 5)
    assert peaks[5:] == pytest.approx([5e-4 * (1 + math.cos(math.pi * k / 15)) for k in range(1, 16)])
    assert peaks[-1] == pytest.approx(0, abs=1e-9)


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    network = Network()
    groups = parameter_groups(network, network.encoder, config(weight_decay=0.1))
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])
    by_id = {id(p): group["layer"] for group in groups for p in group["params"]}
    assert by_id[id(network.encoder.encodings.place.weight)] == 0
    assert by_id[id(network.encoder.embedding.bias)] == 0
    assert by_id[id(network.encoder.blocks[2].mlp.fc1.weight)] == 3  # type: ignore[union-attr]
    assert by_id[id(network.encoder.norm.weight)] == 4
    assert by_id[id(network.head.bias)] == 5


@pytest.mark.parametrize(("mode", "trained"), [("head", set()), ("last", {"blocks.1", "blocks.2", "norm"})])
def test_frozen_parameters_stay_bit_equal_and_get_no_gradient(patches: Patches, mode: str, trained: set[str]) -> None:
    before = Network().state_dict()
    network, _ = train(patches, config(mode=mode, blocks=2, drop_path=0.3))
    for name, parameter in network.named_parameters():
        own = name.startswith("head") or any(name.startswith(f"encoder.{part}") for part in trained)
        assert parameter.requires_grad == own, name
        assert (parameter.grad is not None) == own, name
        assert torch.equal(parameter, before[name]) != own, name


def test_full_fine_tuning_moves_everything_the_deeper_the_less(patches: Patches) -> None:
    before = Network().state_dict()
    network, _ = train(patches, config(layer_decay=0.3, drop_path=0.0))
    moved = {
        layer: float((network.state_dict()[f"encoder.blocks.{layer}.mlp.fc1.weight"]
                      - before[f"encoder.blocks.{layer}.mlp.fc1.weight"]).abs().mean())
        for layer in range(3)
    }  # fmt: skip
    assert 0 < moved[0] < 0.5 * moved[1] < 0.25 * moved[2]


def test_drop_path_is_active_while_training_only_and_not_in_frozen_blocks(patches: Patches) -> None:
    network = Network()
    own = config(mode="last", blocks=2, drop_path=0.5)
    set_drop_path(network.encoder, own)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.encoder.blocks]
    assert rates == pytest.approx([0, 0.25, 0.5])
    with torch.no_grad():
        network.eval()
        still = network(patches)
        assert torch.equal(network(patches), still)
        assert torch.equal(Network().eval()(patches), still)
        network.train()
        torch.manual_seed(1)
        assert not torch.allclose(network(patches), still)
    modes = []

    def watch(seen: Network) -> None:
        modes.append([block.training for block in seen.encoder.blocks])
        assert isinstance(seen.encoder.blocks[2].drop_path2, DropPath)

    trained, _ = train(patches, own, watch=watch)
    assert modes
    assert all(mode == [False, True, True] for mode in modes)
    assert not trained.training
    assert not any(module.training for module in trained.modules())


def test_training_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(patches: Patches) -> None:
    first, one = train(patches, config(drop_path=0.4))
    after = torch.get_rng_state()
    Network()  # seeds the generator itself; nothing else may have drawn from it
    assert torch.equal(after, torch.get_rng_state())
    second, two = train(patches, config(drop_path=0.4))
    assert one == two
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    third, _ = train(patches, config(drop_path=0.4), seed=1)
    assert not torch.equal(first.head.weight, third.head.weight)


def test_it_learns_and_keeps_the_best_weights(patches: Patches) -> None:
    network, done = train(patches, config(steps=30, warmup_steps=5, check_every=5, lr=5e-3, drop_path=0.0))
    assert done.score < 0.3 * done.history[0][1]
    assert done.score == min(score for _, score in done.history)
    held = np.arange(30, 40)
    with torch.no_grad():
        left = float(((network(some(patches, held)) - labels(patches)[held]) ** 2).mean())
    assert left == pytest.approx(done.score, rel=1e-5)


def test_training_that_only_harms_stops_early_with_the_weights_it_began_with() -> None:
    network = Network()
    before = copy.deepcopy(network.state_dict())
    scores = iter(range(100))
    done = fine_tune(
        network, network.encoder, np.arange(8), lambda rows: network.head.weight.sum(), lambda: float(next(scores)),
        config(steps=40, check_every=2, patience=3), 0, "test",
    )  # fmt: skip
    assert done.steps == 0
    assert [step for step, _ in done.history] == [0, 1, 2, 4, 6]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "ful"}, "Did you mean 'full'"),
        ({"layer_decay": 0}, r"layer_decay in \(0, 1\]"),
        ({"layer_decay": 1.1}, r"layer_decay in \(0, 1\]"),
        ({"drop_path": 1}, r"drop_path in \[0, 1\)"),
        ({"warmup_steps": 12}, "warmup_steps from 1 to steps - 1"),
        ({"check_every": 13}, "check_every ≤ steps"),
        ({"batch_size": 0}, "batch_size: expected batch_size ≥ 1"),
        ({"lr": 0}, "lr > 0, got 0"),
        ({"head_lr": 0}, "head_lr > 0, got 0"),
        ({"average": 1}, r"average in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        config(**change)


@pytest.mark.parametrize("mode", ["full", "lora", "last"])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(patches: Patches, tmp_path: Path, mode: str) -> None:
    """With drop-path, LoRA's additions and the running mean; the proof counts the steps before it, too."""
    own, y = config(mode=mode, blocks=1, drop_path=0.3, average=0.9), labels(patches)

    def go(file: Path | None, most: int = 99) -> tuple[Network, Any]:
        network, steps = Network(), []

        def loss(rows: np.ndarray) -> Tensor:
            if len(steps) >= most:
                raise KeyboardInterrupt
            steps.append(1)
            return ((network(some(patches, rows)) - y[torch.as_tensor(rows)]) ** 2).mean()

        def score() -> float:
            held = np.arange(30, 40)
            return float(((network(some(patches, held)) - y[held]) ** 2).mean())

        done = fine_tune(network, network.encoder, np.arange(30), loss, score, own, 0, "test", (), file)
        return network, done

    whole, one = go(None)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "state.pt", 7)
    again, two = go(tmp_path / "state.pt")
    assert one == two
    assert two.frozen["steps_without_gradient"] == 12
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_more_blocks_than_there_are_and_no_samples_are_refused() -> None:
    network = Network()
    with pytest.raises(EarthSSLError, match="1 to 3"):
        first_trained_block(network.encoder, config(mode="last", blocks=4))
    with pytest.raises(EarthSSLError, match="expected training samples"):
        fine_tune(network, network.encoder, np.arange(0), lambda r: torch.zeros(()), lambda: 0.0, config(), 0, "test")
    with pytest.raises(EarthSSLError, match="finite validation score"):
        fine_tune(network, network.encoder, np.arange(4), lambda r: torch.zeros(()), lambda: math.nan, config(), 0, "x")


def test_the_head_alone_is_trained_on_the_features_of_the_frozen_encoder(patches: Patches) -> None:
    seen: list[Tensor] = []

    def watch(network: Network) -> None:
        with torch.no_grad():
            seen.append(network.encoder(some(patches, np.arange(3))))

    train(patches, config(mode="head", drop_path=0.5), watch=watch)
    frozen: Encoder = Network().encoder.eval()
    with torch.no_grad():
        expected = frozen(some(patches, np.arange(3)))
    assert all(torch.equal(features, expected) for features in seen)


def test_a_training_that_patience_ends_leaves_a_full_bar(patches: Patches, capsys: pytest.CaptureFixture[str]) -> None:
    """A score that only grows: two more looks, then no more steps, and the bar at 100 %."""
    network, y, scores = Network(), labels(patches), iter(np.arange(10.0))

    def loss(rows: np.ndarray) -> Tensor:
        return ((network(some(patches, rows)) - y[torch.as_tensor(rows)]) ** 2).mean()

    own = config(steps=40, check_every=4, patience=2)
    tuned = fine_tune(network, network.encoder, np.arange(30), loss, lambda: next(scores), own, 0, "tuning")
    assert [step for step, _ in tuned.history] == [0, 1, 2, 4, 8]
    assert tuned.steps == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("tuning"))
    assert "100%" in line, line

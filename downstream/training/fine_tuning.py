"""Fine-tuning: train an encoder, its last blocks, additions of low rank to it, or only the head on it, on labels.

What is not trained is proved to have stayed as it was: no gradient at any step, the same bytes at the end. Every group
of parameters carries its own learning rate, lr × layer_decay^(distance from the head), and the schedule scales each
group's own rate, so that the decay holds at every step. A head that comes as the solution of a linear probe (Kumar et
al. 2022, arXiv 2202.10054) moves at head_lr × lr: at the full rate the first steps, all of one size under Adam, spoil
what was solved before the encoder has changed. A running mean of the weights competes on validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, check_settings
from ...ssl.common.randomness import key
from ...ssl.model.encoder import Encoder
from .loop import Looks, Schedule, Training, best_on_validation, by_decay, warmup_and_half_cosine
from .lora import adapt, merge

MODES = ("head", "last", "full", "lora")


@dataclass(frozen=True)
class FinetuneConfig:
    """How to fine-tune.

    Attributes:
        mode: "head" (the encoder stays as it is), "last" (its last blocks and the head), "full", or "lora"
            (additions of low rank to the attention's layers, and the head; see lora.py).
        blocks: Number of last blocks that "last" trains.
        rank: Of LoRA's additions.
        alpha: LoRA's additions count alpha / rank.
        steps: Most optimiser steps; validation chooses how many count.
        batch_size: Samples a step.
        lr: Peak learning rate of the encoder's last layer (AdamW).
        head_lr: The head's, as a multiple of it: small where the head begins as a solved linear probe.
        layer_decay: Each layer further from the head learns at this times the rate of the next.
        weight_decay: On matrices; vectors have none.
        drop_path: Chance of leaving the last block out of a sample while training; rises linearly with depth.
        warmup_steps: Steps of linear warm-up; a half cosine to 0 follows.
        check_every: Steps between looks at the validation block; the first ones come after an eighth, a quarter and a
            half of that.
        patience: Looks without a better score before stopping; 0 never stops early.
        average: Decay of a running mean of the weights, which validation may choose instead of the weights themselves
            at every look; 0 for none.
        clip: Largest norm of the gradient.
    """

    mode: str = "full"
    blocks: int = 1
    rank: int = 4
    alpha: float = 8.0
    steps: int = 300
    batch_size: int = 32
    lr: float = 5e-4
    head_lr: float = 1.0
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    drop_path: float = 0.1
    warmup_steps: int = 30
    check_every: int = 25
    patience: int = 4
    average: float = 0.98
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_settings("finetune", self, {
            "mode": MODES, "blocks rank steps batch_size check_every": "≥ 1", "alpha lr head_lr clip": "> 0",
            "weight_decay patience": "≥ 0", "average drop_path": "[0, 1)", "layer_decay": "(0, 1]",
        })  # fmt: skip
        if not 1 <= self.warmup_steps < self.steps or self.check_every > self.steps:
            raise EarthSSLError(
                f"finetune: expected warmup_steps from 1 to steps - 1 and check_every ≤ steps, got "
                f"{self.warmup_steps}, {self.check_every} and {self.steps} steps"
            )


@dataclass(frozen=True)
class Finetuned:
    """What a training came to.

    Attributes:
        steps: Steps after which validation was best: the network is left with the weights it had then.
        score: Validation score there; smaller is better.
        history: Step and validation score at each look, from step 0.
        averaged: Whether these are the running mean of the weights.
        solved_again: Whether the head was then solved in closed form on the tuned features (finetune/tuning.py).
        trained: Number of trained values.
        frozen: The proof that the rest stayed as it was: number of tensors and values, their SHA-256 before and
            after, the steps after which none had a gradient, and the layers of them that additions of low rank were
            added to when training was over.
    """

    steps: int
    score: float
    history: list[tuple[int, float]] = field(default_factory=list)
    averaged: bool = False
    trained: int = 0
    frozen: Mapping[str, Any] = field(default_factory=dict)
    solved_again: bool = False


def first_trained_block(encoder: Encoder, config: FinetuneConfig) -> int:
    """Return the number of the first block that is trained; the depth where none is.

    Raises:
        EarthSSLError: If more blocks are to be trained than there are.
    """
    if config.mode == "last":
        if config.blocks > encoder.depth:
            raise EarthSSLError(
                f"finetune.blocks: expected 1 to {encoder.depth} (the encoder's blocks), got {config.blocks}"
            )
        return encoder.depth - config.blocks
    return 0 if config.mode in ("full", "lora") else encoder.depth


def parameter_groups(
    network: nn.Module, encoder: Encoder, config: FinetuneConfig, new: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Freeze what is not trained, and return the trained parameters grouped by layer, each with its own rate.

    Layers count from 0, what makes the tokens, over the blocks to the final norm, at the full rate, and everything of
    the network that is not the encoder: the head, at head_lr of it. With mode "head" the norm stays frozen, so that
    the features are those of the frozen encoder.

    Args:
        network: Holds the encoder and a head.
        encoder: A part of it.
        config: Which layers to train, and the rates.
        new: Variables whose embedding is trained in every mode, at the full rate: pretraining never saw them.

    Returns:
        Groups with params, lr, weight_decay, and their layer.
    """
    first, top = first_trained_block(encoder, config), encoder.depth + 1
    own = {id(p) for p in encoder.parameters()}
    layers: dict[int, list[nn.Parameter]] = {layer: [] for layer in range(top + 1)}
    for name, parameter in encoder.named_parameters():
        parts = name.split(".")
        layer = int(parts[1]) + 1 if parts[0] == "blocks" else top if parts[0] == "norm" else 0
        added = config.mode == "lora" and parts[-1] in ("down", "up")
        fresh = parts[:2] == ["embedding", "blocks"] and parts[-1] in new
        layer = top if fresh else layer
        trained = config.mode == "full" or (config.mode == "last" and layer > first) or added or fresh
        parameter.requires_grad_(trained)
        if trained:
            layers[layer].append(parameter)
        else:
            parameter.grad = None
    layers[top + 1] = [p for p in network.parameters() if id(p) not in own]
    groups = []
    for layer, parameters in layers.items():
        share = config.head_lr if layer > top else config.layer_decay ** (top - layer)
        made = by_decay(parameters, config.lr * share, config.weight_decay)
        groups += [{**group, "layer": layer} for group in made if group["params"]]
    return groups


def schedule_of(config: FinetuneConfig) -> Schedule:
    """Return the schedule: a warm-up, then a half cosine, which scale each group's own learning rate."""
    share = warmup_and_half_cosine(config.steps, config.warmup_steps, after_warmup=True)
    return Schedule(config.steps, config.batch_size, share, config.clip)


def looks_of(config: FinetuneConfig) -> Looks:
    """Return when validation looks: often at the start, where a tuning that harms is to be seen before it has."""
    early = tuple(sorted({max(1, config.check_every // share) for share in (8, 4, 2)}))
    return Looks(config.check_every, early, config.patience, ends=True, average=config.average)


def set_drop_path(encoder: Encoder, config: FinetuneConfig) -> None:
    """Give every trained block its chance of being left out of a sample, which holds in training mode only."""
    first = first_trained_block(encoder, config)
    rates = np.linspace(0, config.drop_path, encoder.depth) if encoder.depth > 1 else [config.drop_path]
    for k, (block, rate) in enumerate(zip(encoder.blocks, rates, strict=True)):
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(float(rate)) if k >= first and rate > 0 else nn.Identity())


def fine_tune(
    network: nn.Module,
    encoder: Encoder,
    samples: np.ndarray,
    loss: Callable[[np.ndarray], Tensor],
    score: Callable[[], float],
    config: FinetuneConfig,
    seed: int,
    label: str,
    new: Collection[str] = (),
    saved: Path | None = None,
) -> Finetuned:
    """Train a network in place and leave it in evaluation mode with the weights that did best on validation.

    The weights it came with compete, too. Order and drop-path are functions of the seed and the step.

    Args:
        network: Holds the encoder and a head.
        encoder: A part of it.
        samples: What `loss` may be asked for, one number each.
        loss: Takes some of the samples and returns the loss, the network in training mode.
        score: Returns the validation score, smaller is better; called in evaluation mode without gradients.
        config: How to train.
        seed: Of order and drop-path.
        label: For the progress bar.
        new: Variables that the encoder was given new embeddings for, see `parameter_groups`.
        saved: File of the state at the last look at validation, from which a training that was killed goes on; what it
            comes to is the same to the bit.

    Raises:
        EarthSSLError: If there is no sample, the first score is not finite, or a frozen weight did not stay so.
    """
    if config.mode == "lora":
        adapt(encoder, config.rank, config.alpha, seed)
    groups = parameter_groups(network, encoder, config, new)
    set_drop_path(encoder, config)
    training = _Tuning(network, encoder, groups, loss, samples, config, seed, label)
    with torch.random.fork_rng(devices=[]):
        best = best_on_validation(training, score, looks_of(config), saved)
    if best is None:
        raise EarthSSLError(f"{label}: expected a finite validation score at the start, got none")
    proof = training.proof()
    network.load_state_dict(best.weights)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    proof["merged_afterwards"] = merge(encoder)
    network.eval()
    return Finetuned(best.steps, best.score, best.history, best.averaged, trained, proof)


class _Tuning(Training):
    """Training that draws anew at every step, and watches over what is frozen."""

    def __init__(
        self, network: nn.Module, encoder: Encoder, groups: list[dict[str, Any]],
        loss: Callable[[np.ndarray], Tensor], samples: np.ndarray, config: FinetuneConfig, seed: int, label: str,
    ) -> None:  # fmt: skip
        super().__init__(network, groups, loss, samples, schedule_of(config), (seed, "finetune order"), label)
        self.encoder, self.config, self.seed, self.taken = encoder, config, seed, 0
        self._frozen = {name: p for name, p in network.named_parameters() if not p.requires_grad}
        self._before = self._sha256()

    def begin(self, step: int) -> None:
        """Put what is trained in training mode; what is frozen works as it will be used."""
        self.network.train()
        if self.config.mode == "head":
            self.encoder.eval()
        for block in list(self.encoder.blocks)[: first_trained_block(self.encoder, self.config)]:
            block.eval()
        torch.manual_seed(key(self.seed, "finetune", step) & (2**63 - 1))

    def check(self, step: int) -> None:
        """Raise an EarthSSLError if a frozen weight got a gradient."""
        wrong = [name for name, p in self._frozen.items() if p.grad is not None or p.requires_grad]
        if wrong:
            raise EarthSSLError(f"fine-tuning, step {step}: the frozen weight {wrong[0]} got a gradient; report this")
        self.taken = step + 1

    def proof(self) -> dict[str, Any]:
        """Return what was checked of the frozen weights, as plain JSON.

        Raises:
            EarthSSLError: If a byte of them differs.
        """
        after = self._sha256()
        if after != self._before:
            raise EarthSSLError("fine-tuning: frozen weights are not what they were before; report this")
        count = sum(p.numel() for p in self._frozen.values())
        return {"tensors": len(self._frozen), "values": count, "sha256_before": self._before,
                "sha256_after": after, "steps_without_gradient": max(self.taken, self.first)}  # fmt: skip

    def _sha256(self) -> str:
        made = hashlib.sha256()
        for name, parameter in self._frozen.items():
            made.update(name.encode())
            made.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return made.hexdigest()

"""Heads trained by gradient on frozen features: attentive pooling with a linear layer, and an MLP.

Attentive pooling (the frozen evaluation of V-JEPA, Bardes et al. 2024, arXiv 2404.08471, cut to its core): a
learnt query attends over the frozen tokens, and one linear layer reads what it gathered.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, check_settings
from ...ssl.common.randomness import key
from ..training.loop import Schedule, Training, by_decay
from .base import Head, Samples, standardised

STEPS = (25, 50, 100, 200, 400)


def _zeros(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer of zeros, made without drawing from torch's global random state."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class AttentivePooling(nn.Module):
    """One learnt query over the tokens, in several heads, then one linear layer.

    With a single query, the product of query and key projection is one vector a head, and the value
    projection is part of the linear layer: this is the whole of cross-attention, in fewer matrices. It starts
    as the mean over the tokens, nearly.
    """

    def __init__(self, width: int, outputs: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.query = nn.Parameter(0.1 * torch.randn(heads, width, generator=generator))
        self.linear = _zeros(heads * width, outputs)

    def attention(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch head token"]:
        """Return each head's weights over the tokens; they sum to 1."""
        logits = torch.einsum("btw,hw->bht", tokens, self.query) / math.sqrt(tokens.shape[-1])
        return logits.softmax(-1)

    def forward(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch output"]:
        """Return logits of classes, or numbers in standard deviations."""
        return self.linear(torch.einsum("bht,btw->bhw", self.attention(tokens), tokens).flatten(1))


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, outputs: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = _zeros(width, hidden), _zeros(hidden, outputs)
        with torch.no_grad():
            self.first.weight.copy_(torch.randn(hidden, width, generator=generator) / math.sqrt(width))

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch output"]:
        """Return logits of classes, or numbers in standard deviations."""
        return self.second(nn.functional.gelu(self.first(features)))


@dataclass(frozen=True)
class TrainedHead(Head):
    """A small network on frozen features; weight decay and the number of steps are its settings.

    Trained by AdamW without augmentation: cross-entropy for classes, squared error of standardised targets
    otherwise. A setting is (weight decay, steps); all numbers of steps come from one training.

    Attributes:
        classifies: Targets are one-hot classes.
        steps: Numbers of optimiser steps to try.
        decays: Weight decays to try.
        lr: Learning rate, constant.
        batch_size: Samples a step, drawn without return in an order that is a function of the seed.
        seed: Of the first weights and of the order.
    """

    classifies: bool = True
    steps: tuple[int, ...] = STEPS
    decays: tuple[float, ...] = (0.01, 0.3)
    lr: float = 1e-2
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self.name, self, {"steps batch_size": "≥ 1", "decays": "≥ 0", "lr": "> 0"})

    @abstractmethod
    def network(self, shape: tuple[int, ...], outputs: int, generator: torch.Generator) -> nn.Module:
        """Return the network for features of a shape (without the sample axis)."""

    def settings(self, train: Samples) -> list[Any]:
        return list(product(sorted(self.decays, reverse=True), sorted(self.steps)))

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        inputs, asked = (
            torch.from_numpy(part.astype(np.float32)) for part in standardised(train.features, queries.features)
        )
        y = np.asarray(train.targets, dtype=np.float64)
        if self.classifies and len(np.unique(y.argmax(axis=1))) < 2:
            raise EarthSSLError(
                f"{self.name}: expected at least two classes among the {len(train)} training samples, got one; "
                "lengthen the training block or move a threshold"
            )
        mean, scale = (0.0, 1.0) if self.classifies else (y.mean(axis=0), np.maximum(y.std(axis=0), 1e-12))
        wanted = torch.from_numpy(((y - mean) / scale).astype(np.float32))
        out = np.empty((len(settings), len(queries), y.shape[1]))
        for decay in {setting[0] for setting in settings}:
            stops = {steps: k for k, (own, steps) in enumerate(settings) if own == decay}
            for steps, network in self._trained(inputs, wanted, decay, sorted(stops)):
                out[stops[steps]] = self._answers(network, asked) * scale + mean
        return out

    def _trained(
        self, inputs: Tensor, wanted: Tensor, decay: float, stops: list[int]
    ) -> Iterator[tuple[int, nn.Module]]:
        """Yield (steps, network) at each stop."""
        generator = torch.Generator().manual_seed(key(self.seed, self.name) & (2**63 - 1))
        network = self.network(tuple(inputs.shape[1:]), wanted.shape[1], generator)

        def loss(chosen: np.ndarray) -> Tensor:
            rows = torch.from_numpy(chosen)
            answer = network(inputs[rows])
            if self.classifies:
                return nn.functional.cross_entropy(answer, wanted[rows])
            return ((answer - wanted[rows]) ** 2).mean()

        training = Training(
            network, by_decay(network.parameters(), self.lr, decay), loss, np.arange(len(inputs)),
            Schedule(stops[-1], self.batch_size), (self.seed, f"{self.name} order"),
        )  # fmt: skip
        for steps in training:
            if steps in stops:
                yield steps, network

    def _answers(self, network: nn.Module, asked: Tensor) -> np.ndarray:
        with torch.no_grad():
            parts = [network(part) for part in asked.split(1024)]
        answer = torch.cat(parts).double()
        answer = answer.softmax(-1) if self.classifies else answer
        if not torch.isfinite(answer).all():
            raise EarthSSLError(f"{self.name}: the training diverged; lower lr from {self.lr:g}")
        return answer.numpy()


@dataclass(frozen=True)
class AttentiveHead(TrainedHead):
    """Attentive pooling over tokens, shape (n, token, feature), then a linear layer.

    Attributes:
        heads: Heads of the one query.
    """

    heads: int = 4
    name: ClassVar[str] = "attentive"

    def network(self, shape: tuple[int, ...], outputs: int, generator: torch.Generator) -> nn.Module:
        if len(shape) != 2:
            raise EarthSSLError(f"attentive: expected features of shape (n, token, feature), got (n, {shape}) ones")
        return AttentivePooling(shape[1], outputs, self.heads, generator)


@dataclass(frozen=True)
class MlpHead(TrainedHead):
    """An MLP with one hidden layer on pooled features, shape (n, feature).

    Attributes:
        hidden: Width of the hidden layer.
    """

    hidden: int = 64
    lr: float = 3e-3
    name: ClassVar[str] = "MLP"

    def network(self, shape: tuple[int, ...], outputs: int, generator: torch.Generator) -> nn.Module:
        if len(shape) != 1:
            raise EarthSSLError(f"MLP: expected features of shape (n, feature), got (n, {shape}) ones; pool the tokens")
        return Mlp(shape[0], outputs, self.hidden, generator)

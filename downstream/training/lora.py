"""LoRA: low-rank additions to the attention's linear layers, trained while the layers themselves stay frozen.

Hu et al. 2022, arXiv 2106.09685. The additions begin at 0, so that the adapted encoder starts as the pretrained one,
and are added to the weights in the end, so that nothing but ordinary weights is saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...ssl.common.randomness import key
from ...ssl.model.encoder import Encoder

ADAPTED = ("qkv", "proj")  # of each block's attention


class LowRank(nn.Module):
    """A linear layer W and a trained addition of low rank: x W + alpha / rank · (x A) B, with B = 0 at first.

    Attributes:
        base: The layer, frozen.
        down: A, (rank, inputs).
        up: B, (outputs, rank).
        share: alpha / rank.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        bound = math.sqrt(3 / base.in_features)  # uniform of variance 1 / inputs
        drawn = torch.rand(rank, base.in_features, generator=generator)
        self.down = nn.Parameter((2 * drawn - 1) * bound)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.share = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output and the addition."""
        return self.base(x) + self.share * ((x @ self.down.T) @ self.up.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the layer with the addition in its weights."""
        addition = self.share * (self.up.double() @ self.down.double())
        self.base.weight.copy_((self.base.weight.double() + addition).float())
        return self.base


def adapt(encoder: Encoder, rank: int, alpha: float, seed: int) -> None:
    """Put low-rank additions beside the attention's layers of every block; what the encoder does stays the same."""
    generator = torch.Generator().manual_seed(key(seed, "lora") & (2**63 - 1))
    for attention, name in _places(encoder):
        setattr(attention, name, LowRank(getattr(attention, name), rank, alpha, generator))


def merge(encoder: Encoder) -> int:
    """Put plain layers back, the additions in their weights, and return how many; without any it stays as it is."""
    count = 0
    for attention, name in _places(encoder):
        layer = getattr(attention, name)
        if isinstance(layer, LowRank):
            setattr(attention, name, layer.merged())
            count += 1
    return count


def _places(encoder: Encoder) -> Iterator[tuple[nn.Module, str]]:
    for block in encoder.blocks:
        attention = block.attn
        assert isinstance(attention, nn.Module)
        for name in ADAPTED:
            yield attention, name

"""The encoder: a transformer over the visible tokens of a batch, built from timm's blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..common.errors import EarthSSLError, nearest
from .tokens import Embedding, Encodings, Patches

SIZES: dict[str, tuple[int, int, int]] = {  # width, depth, heads
    "pico": (16, 2, 2),  # for tests and walk-throughs
    "nano": (64, 3, 4),
    "micro": (128, 6, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


# What values and encodings bring to a token at the start, see EncoderConfig.token_start.
BALANCED, ENCODINGS = "balanced", "encodings"


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder.

    Attributes:
        size: pico, nano, micro, tiny, small, base or large.
        window: Time steps of a window.
        patch: Steps, rows and columns of a patch.
        drop_path: Chance of leaving a block out of a sample, rising linearly with depth to this.
        token_start: How a token begins: balanced (values and encodings with mean square 1 each), or encodings (about 3
            for the encodings and, with how many cells and variables there are, 1 to 2 for the values: encoders made
            before there was a choice). It draws the first weights, and has no part in what trained ones compute.
    """

    size: str = "nano"
    window: int = 3
    patch: tuple[int, int, int] = (1, 4, 4)
    drop_path: float = 0.0
    token_start: str = BALANCED

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise EarthSSLError(
                f"encoder.size: expected {', '.join(SIZES)}, got '{self.size}'." + nearest(self.size, SIZES)
            )
        starts = (BALANCED, ENCODINGS)
        if self.token_start not in starts:
            raise EarthSSLError(
                f"encoder.token_start: expected {' or '.join(starts)}, got '{self.token_start}'."
                + nearest(self.token_start, starts)
            )
        if self.window < 1 or len(self.patch) != 3 or min(self.patch) < 1:
            raise EarthSSLError(
                f"encoder: expected a window ≥ 1 and a patch of three numbers ≥ 1, got {self.window}, {self.patch}"
            )
        if not 0 <= self.drop_path < 1:
            raise EarthSSLError(f"encoder.drop_path: expected a chance in [0, 1), got {self.drop_path}")
        if self.window % self.patch[0]:
            raise EarthSSLError(
                f"encoder.window: expected a multiple of the patch's {self.patch[0]} steps, got {self.window}"
            )

    def build(self, variables: Sequence[str]) -> Encoder:
        """Return a new encoder with a block of embedding weights for each variable."""
        with float32():
            return Encoder(self, tuple(variables))

    def to_json(self) -> dict[str, Any]:
        """Return what names the tensors, as plain JSON: how they began is no part of it."""
        plain = {**asdict(self), "patch": list(self.patch)}
        del plain["token_start"]
        return plain


def fuse_attention(blocks: nn.Module, x: Tensor) -> None:
    """Choose explicit attention for bf16 on a CPU, `scaled_dot_product_attention` elsewhere.

    On a CPU the backward pass of fused attention in bf16 takes five times as long as the explicit one.
    """
    bf16 = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)
    fused = not (x.device.type == "cpu" and bf16)
    for module in blocks.modules():
        if "fused_attn" in module.__dict__:
            module.__dict__["fused_attn"] = fused


@contextmanager
def float32() -> Iterator[None]:
    """Make new tensors float32, whatever default another program in this process has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Gain of queries and keys at the start, chosen on the validation skill of masking on the planet's winds.
ATTENTION_GAIN = 1.7


def transformer(width: int, depth: int, heads: int, drop_path: float = 0.0) -> nn.ModuleList:
    """Return timm's pre-norm blocks with MLP ratio 4, their attention local from the start.

    Keys begin as copies of the queries, so a token first attends to tokens like itself: near ones, as
    positions are waves of place and time (mimetic initialisation, Trockman & Kolter 2023,
    arXiv 2305.09828). With independent ones a small encoder stays for hundreds of steps at the climatology
    before it finds its neighbours: skill .04 against .42 after 300 steps on the planet's zonal wind.
    """
    rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
    from timm.models.vision_transformer import Block  # takes seconds, and only networks need it

    blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, drop_path=rate) for rate in rates)
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for block in blocks:
            weight: Any = block.attn.qkv.weight  # type: ignore[union-attr]
            weight[:width] *= ATTENTION_GAIN
            weight[width : 2 * width] = weight[:width]
    return blocks


class Encoder(nn.Module):
    """Tokens of any subset of the variables, at any places -> features; knows no pretext task and no label."""

    def __init__(self, config: EncoderConfig, variables: tuple[str, ...]) -> None:
        super().__init__()
        width, depth, heads = SIZES[config.size]
        steps, rows, columns = config.patch
        self.config, self.variables, self.width = config, variables, width
        balanced = config.token_start == BALANCED
        self.embedding = Embedding(variables, steps * rows * columns, width, balanced)
        self.encodings = Encodings(width, balanced)
        self.blocks = transformer(width, depth, heads, config.drop_path)
        self.norm = nn.LayerNorm(width)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def forward(
        self,
        patches: Patches,
        keep: Int[Tensor, "batch kept"] | None = None,
        hide: frozenset[str] = frozenset(),
    ) -> Float[Tensor, "batch kept width"]:
        """Return the features of the visible tokens (all where `keep` is None); the others cost nothing."""
        return self.layers(patches, keep, hide)[-1]

    def layers(
        self,
        patches: Patches,
        keep: Int[Tensor, "batch kept"] | None = None,
        hide: frozenset[str] = frozenset(),
    ) -> list[Float[Tensor, "batch kept width"]]:
        """Return the features after every block, each through the final norm: `depth` tensors."""
        x = self.embedding(patches, keep) + self.encodings(patches, keep, hide)
        fuse_attention(self.blocks, x)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return [self.norm(x) for x in outputs] if not self.training else [self.norm(outputs[-1])]

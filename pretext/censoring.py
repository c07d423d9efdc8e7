"""Censoring: what an encoder is left with when the audit asks whether a cue alone solves a pretext task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..ssl.common.errors import EarthSSLError, nearest
from ..ssl.model.encoder import Encoder
from ..ssl.model.tokens import Patches

KINDS = {
    "validity": "validity mask only",
    "position": "position and season only",
    "statistics": "mean and deviation of each patch only",
    "nothing": "no token seen at all",
}


def censored(patches: Patches, kind: str) -> Patches:
    """Return the patches with only a cue left in them.

    Args:
        patches: What the encoder would see.
        kind: "validity" (values 0, the validity kept), "position" (values 0, everything valid), "statistics"
            (half of a patch's cells hold the mean of its valid cells, the other half their standard deviation).

    Raises:
        EarthSSLError: If the kind is unknown.
    """
    zeros = torch.zeros_like(patches.values)
    if kind == "validity":
        return replace(patches, values=zeros)
    if kind == "position":
        return replace(patches, values=zeros, valid=torch.ones_like(patches.valid))
    if kind == "statistics":
        weight = patches.valid.to(patches.values.dtype)
        count = weight.sum(-1, keepdim=True).clamp(min=1)
        mean = (patches.values * weight).sum(-1, keepdim=True) / count
        spread = (((patches.values - mean) ** 2 * weight).sum(-1, keepdim=True) / count).sqrt()
        cells = patches.values.shape[-1]
        first = torch.arange(cells, device=mean.device) < (cells + 1) // 2
        return replace(patches, values=torch.where(first, mean, spread))
    raise unknown_kind(kind)


def unknown_kind(kind: str) -> EarthSSLError:
    """Return the error for a kind of censoring that there is not."""
    return EarthSSLError(f"censor: expected {', '.join(KINDS)}, got '{kind}'." + nearest(kind, list(KINDS)))


@contextmanager
def censoring(encoder: Encoder, kind: str) -> Iterator[None]:
    """Let every call of the encoder see a cue only, until the context is left; "" censors nothing.

    The encoder stays the same object, so teachers and optimisers do not notice.
    """

    def before(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (censored(arguments[0], kind), *arguments[1:])

    def blank(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output * 0

    if kind == "":
        yield
        return
    if kind not in KINDS:
        raise unknown_kind(kind)
    handle = encoder.register_forward_hook(blank) if kind == "nothing" else encoder.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()

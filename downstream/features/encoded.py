"""The one loop over windows: patches, batch by batch, through a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches


def encoded(
    encoder: Encoder, batches: Iterable[Patches], hide: frozenset[str] = frozenset()
) -> Iterator[tuple[Patches, list[Tensor]]]:
    """Yield each batch with the outputs of every block, (window, token, feature), without gradients.

    Args:
        encoder: Frozen; put in evaluation mode here.
        batches: Patches of some windows at a time, as from `StoreWindows.patches`.
        hide: Encodings to leave out, as for `Encoder.layers`.
    """
    encoder.eval()
    for patches in batches:
        with torch.no_grad():
            every = encoder.layers(patches, hide=hide)
        yield patches, every

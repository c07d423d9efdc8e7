"""FineNetwork: an encoder and a linear head for each of its patches, to the fine cells in it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import Patches


class FineNetwork(nn.Module):
    """Tokens of the last step -> what each patch's fine cells depart by; 0 at the start."""

    def __init__(self, encoder: Encoder, tiles: np.ndarray, places: int, outputs: int) -> None:
        """Make a network that says 0.

        Args:
            encoder: Its tokens are read.
            tiles: Place of each token, (token,).
            places: Patches of the whole grid.
            outputs: Numbers told of each.
        """
        super().__init__()
        self.encoder, self.places, self.tiles = encoder, places, torch.from_numpy(tiles)
        self.weight = nn.Parameter(torch.zeros(len(tiles), encoder.width, outputs))
        self.bias = nn.Parameter(torch.zeros(len(tiles), outputs))

    def forward(self, patches: Patches) -> Tensor:
        """Return what is told of each place, (sample, place, output); 0 where there is no token."""
        tokens = self.encoder(patches).unflatten(1, (patches.shape[0], -1))[:, -1]
        told = torch.einsum("npf,pfo->npo", tokens, self.weight) + self.bias
        full = told.new_zeros(len(told), self.places, told.shape[-1])
        return full.index_copy(1, self.tiles, told)

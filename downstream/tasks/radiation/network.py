"""ColumnNetwork: from numbers of a column and, where there is an encoder, its tokens to all that is learnt of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import Patches


class ColumnNetwork(nn.Module):
    """One hidden layer; 0 at the start."""

    def __init__(self, encoder: Encoder | None, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.first, self.last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, inputs: Tensor, patches: Patches | None = None) -> Tensor:
        """Return what is learnt of each column, (column, output), of standardised inputs (column, value)."""
        if self.encoder is not None and patches is not None:
            inputs = torch.cat([self.encoder(patches).flatten(1), inputs], dim=1)
        return self.last(nn.functional.gelu(self.first(inputs)))

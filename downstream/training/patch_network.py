"""A network from windows to every patch of their last step: the encoder and one linear head for all places."""

from __future__ import annotations

from torch import Tensor, nn

from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import patchify


class PatchNetwork(nn.Module):
    """Tokens of the last step -> outputs of each patch; 0 at the start."""

    def __init__(self, encoder: Encoder, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Return the outputs of each place, (batch, place, output)."""
        patches = patchify(batch, self.encoder.config.patch)
        # Every step holds the same places, in the same order.
        return self.head(self.encoder(patches).unflatten(1, (patches.shape[0], -1))[:, -1])

"""Masking: hide tokens or cells and rebuild their fields from the rest (He et al. 2022, arXiv 2111.06377).

Trivial cues and how they are closed: the climatology (fields are anomalies, so that outputting it scores
zero skill); the same place a step earlier (tubes, last steps); neighbours (blocks); a partner variable
(whole-variable masks); the coastline (land patches are no tokens, loss on valid cells only).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import key, uniform
from ...ssl.constraints.field_constraints import FieldConstraints
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder, fuse_attention, transformer
from ...ssl.model.tokens import Encodings, Patches, gather, patchify, unpatchify
from ...ssl.training.objective import Context, Cue, Example, Objective, ObjectiveConfig, Outcome
from ..cues import Interpolation
from .field_scores import every_head, score
from .masks import Mask, MaskConfig, check, draw, thin


@dataclass(frozen=True)
class MaskingConfig(ObjectiveConfig):
    """Settings of masking.

    Attributes:
        weight: Weight of the loss.
        masks: The mixture of masks; one kind is drawn for each batch.
        rebuild: Share of the hidden tokens that the decoder rebuilds in training, drawn anew for each
            sample; validation rebuilds them all, and so does training with constraints that act on whole fields.
        decoder_width: Width of the decoder's tokens.
        decoder_depth: Number of its blocks.
        decoder_heads: Attention heads in each.
    """

    weight: float = 1.0
    masks: list[MaskConfig] = field(default_factory=lambda: [MaskConfig()])
    rebuild: float = 1.0
    decoder_width: int = 64
    decoder_depth: int = 2
    decoder_heads: int = 4

    def __post_init__(self) -> None:
        if not self.masks or not sum(mask.weight for mask in self.masks) > 0:
            raise EarthSSLError("masking.masks: expected at least one kind with a weight above 0, got none")
        if not 0 < self.rebuild <= 1:
            raise EarthSSLError(f"masking.rebuild: expected a share in (0, 1], got {self.rebuild}")
        if self.decoder_width % self.decoder_heads:
            raise EarthSSLError(
                f"masking.decoder_width: expected a multiple of {self.decoder_heads} heads, got {self.decoder_width}"
            )

    def build(self, context: Context) -> Masking:
        """Return the objective."""
        return Masking(self, context)


class Masking(Objective):
    """Reconstruction of hidden tokens by a light decoder; the encoder sees the visible ones only."""

    # The means of visible patches are information about the hidden ones, not a cue.
    censors: ClassVar[tuple[str, ...]] = ("validity", "position", "nothing")
    constrained = True

    def __init__(self, config: MaskingConfig, context: Context) -> None:
        super().__init__()
        steps, rows, columns = context.encoder.config.patch
        width = config.decoder_width
        self.config, self.constraints = config, context.constraints
        self.cells = steps * rows * columns
        self.enter = nn.Linear(context.encoder.width, width)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.encodings = Encodings(width)
        self.blocks = transformer(width, config.decoder_depth, config.decoder_heads)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, self.cells) for name in context.variables})

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the mean over the variables of the area-weighted squared error of hidden, valid cells."""
        patches = patchify(batch, encoder.config.patch)
        for kind in self.config.masks:  # all of them, so that the first batch tells, not the unlucky one
            check(kind, patches)
        mask = draw(self._kind(batch.number), patches, batch.keys)
        # A constraint sees whole fields: hidden tokens that are not rebuilt would hold the truth in them.
        acting = self.constraints is not None and self.constraints.constraints.trained
        share = self.config.rebuild if self.training and not acting else 1.0
        mask = thin(mask, share, batch.keys)
        rebuilt = self.rebuild(encoder, patches, mask).float()
        truth, weight = asked(patches, mask)
        del patches  # the cells a second time, just where memory is at its peak
        penalty: Tensor | float = 0.0
        held: dict[str, Tensor] = {}
        if self.constraints is not None and share == 1:  # those that only measure wait for whole fields: validation
            rebuilt, penalty, held = self.hold(self.constraints, rebuilt, batch, encoder.config.patch, mask)
        found = score(rebuilt, truth, weight, joined=self.training)
        return Outcome(found.loss + penalty, {**found.terms(batch.variables), **held})

    def hold(
        self,
        constraints: FieldConstraints,
        rebuilt: Float[Tensor, "batch token variable cell"],
        batch: Batch,
        patch: tuple[int, int, int],
        mask: Mask,
    ) -> tuple[Float[Tensor, "batch token variable cell"], Tensor, dict[str, Tensor]]:
        """Return the tokens of `mask.order` behind the layers of the constraints, the penalty, and the terms.

        The constraints see whole fields: what was rebuilt where it is hidden, what was observed elsewhere.
        """
        patches = patchify(batch, patch)
        rows = torch.arange(len(batch), device=rebuilt.device)[:, None]
        hidden = mask.concealed().expand(rebuilt.shape)
        mixed = torch.where(hidden, rebuilt.float(), gather(patches.values, mask.order))
        full = patches.values.index_put((rows, mask.order), mixed)
        made = torch.zeros_like(patches.valid).index_put((rows, mask.order), hidden)
        asked = torch.nan_to_num(unpatchify(made.float(), patches, patch)) > 0
        fields = torch.nan_to_num(unpatchify(full, patches, patch))
        scene = constraints.scene(batch.times, batch.values, batch.valid, asked | batch.valid, asked)
        held = constraints.hold(fields, scene, self.training)
        values = patchify(replace(batch, values=held.values), patch).values
        return gather(values, mask.order), held.penalty, held.terms

    def _kind(self, number: int) -> MaskConfig:
        """Return the kind of mask of a batch: a function of seed and batch number, equal on all ranks."""
        weights = torch.tensor([mask.weight for mask in self.config.masks]).cumsum(0)
        at = uniform(torch.tensor([key(0, "mask kind", number)]), 1)[0, 0] * weights[-1]
        return self.config.masks[int(torch.searchsorted(weights, at, right=True).clamp(max=len(weights) - 1))]

    def rebuild(self, encoder: Encoder, patches: Patches, mask: Mask) -> Float[Tensor, "batch token variable cell"]:
        """Return the decoder's fields for the tokens of `mask.order`, in that order.

        The decoder works in that shuffled order, visible tokens first, so nothing is put back in place.
        """
        return self.decode(encoder, patches, mask)

    def decode(
        self, encoder: Encoder, patches: Patches, mask: Mask, told: Float[Tensor, "batch token width"] | None = None
    ) -> Float[Tensor, "batch token variable cell"]:
        """Return what the heads say of the tokens of `mask.order`; `told` is added to them before the decoder."""
        features = encoder(mask.shown(patches), mask.keep)
        visible = self.enter(features)
        queries = self.query.to(visible.dtype).expand(len(visible), mask.order.shape[1] - mask.visible, -1)
        x = torch.cat([visible, queries], 1) + self.encodings(patches, mask.order)
        if told is not None:
            x = x + told
        fuse_attention(self.blocks, x)
        for block in self.blocks:
            x = block(x)
        return every_head(self.heads, self.norm(x), patches.variables)

    @torch.no_grad()
    def example(self, encoder: Encoder, batch: Batch) -> Example:
        """Return the first window with its masked and its rebuilt fields, masked as in the first kind."""
        patches = patchify(batch, encoder.config.patch)
        mask = draw(self.config.masks[0], patches, batch.keys)
        back = mask.order.argsort(1)
        made = self.rebuild(encoder, patches, mask)
        if self.constraints is not None:
            made = self.hold(self.constraints, made, batch, encoder.config.patch, mask)[0]
        rebuilt = gather(made, back)
        hidden = gather(mask.concealed(), back)
        nothing = torch.full_like(patches.values, math.nan)
        fields = {
            "truth": torch.where(patches.valid, patches.values, nothing),
            "shown": torch.where(patches.valid & ~hidden, patches.values, nothing),
            "rebuilt": torch.where(patches.valid, torch.where(hidden, rebuilt, patches.values), nothing),
        }
        size = encoder.config.patch
        return Example(**{name: unpatchify(values, patches, size)[0] for name, values in fields.items()})

    @torch.no_grad()
    def fill(self, encoder: Encoder, batch: Batch) -> Float[Tensor, "batch time variable row column"]:
        """Return fields with every gap rebuilt: what is observed keeps its value, what is never known is NaN.

        Tokens without an observed cell are hidden; those observed in part are seen with their valid share.

        Raises:
            EarthSSLError: If a window holds no observation at all.
        """
        patches = patchify(batch, encoder.config.patch)
        seen = patches.valid.any((2, 3))
        counts = seen.sum(1)
        if not counts.all():
            raise EarthSSLError(
                f"expected some observed cell in every window to be filled, got none in window "
                f"{int((counts == 0).nonzero()[0, 0])}; leave it out"
            )
        order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)
        rebuilt = torch.empty_like(patches.values)
        for count in counts.unique().tolist():  # windows that show equally many tokens go together
            own = counts == count
            part = replace(patches, values=patches.values[own], valid=patches.valid[own], season=patches.season[own])
            made = self.rebuild(encoder, part, Mask(order[own], count))
            rebuilt[own] = gather(made.float(), order[own].argsort(1))
        fields = unpatchify(torch.where(patches.valid, patches.values, rebuilt), patches, encoder.config.patch)
        if self.constraints is not None:  # observed cells keep their values, whatever a layer made of them
            scene = self.constraints.scene(batch.times)
            held = self.constraints.hold(torch.nan_to_num(fields), scene, self.training).values
            fields = torch.where(batch.valid | fields.isnan(), fields, held)
        return torch.where(batch.known.to(fields.device), fields, torch.full_like(fields, math.nan))

    def hidden(
        self, batch: Batch, patch: tuple[int, int, int]
    ) -> tuple[Bool[Tensor, "batch time variable row column"], Bool[Tensor, "batch time variable row column"]]:
        """Return the cells that validation scores the batch on, and those that an encoder may see."""
        patches = patchify(batch, patch)
        mask = draw(self._kind(batch.number), patches, batch.keys)
        concealed = gather(mask.concealed(), mask.order.argsort(1)).expand(patches.values.shape)
        fields = unpatchify(concealed.to(patches.values.dtype), patches, patch)
        return batch.valid & (fields == 1), batch.valid & (fields == 0)

    def cues(self) -> list[Cue]:
        """Return interpolation: neighbours in space and time may give away what is hidden."""
        return [Interpolation()]


def asked(
    patches: Patches, mask: Mask
) -> tuple[Float[Tensor, "batch token variable cell"], Float[Tensor, "batch token variable cell"]]:
    """Return the cells in the order of the mask, and their weights: the area of those that are hidden and valid."""
    weight = (gather(patches.valid, mask.order) & mask.concealed()) * patches.area[mask.order][:, :, None]
    return gather(patches.values, mask.order), weight

"""From tokens and frames of a crop to logits of classes of rain in its middle, at every lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import Patches
from ...training.from_scratch import ScratchConfig, learn

FORMS = DECODER, LINEAR = "decoder", "linear"
CARRIED = 16  # features that a cell has from its token
UNKNOWN = -1
REACH = 2  # cells that two convolutions see beyond the target


@dataclass(frozen=True)
class Layout:
    """Where things lie.

    Attributes:
        leads, classes: How many.
        size, target: Cells along each side of a crop, and of what is told in its middle.
        patch: Rows and columns of a token.
    """

    leads: int
    classes: int
    size: int
    target: int
    patch: tuple[int, int]

    def within(self, field: Tensor, more: int = 0) -> Tensor:
        """Return the middle of fields (…, row, column) of cells, and so many patches more on each side."""
        rows, columns = (
            slice((self.size - self.target) // 2 - more * one, (self.size + self.target) // 2 + more * one)
            for one in self.patch
        )
        return field[..., rows, columns]


class Nowcaster(nn.Module):
    """Logits (sample, lead, class, row, column): log frequencies of the training, and what is learnt; 0 at the start.

    Decoder: features that a cell has from its token, joined by the frames, and two convolutions. Linear: of the
    token, or of the frames of the patch and the eight around it.
    """

    def __init__(
        self, form: str, layout: Layout, channels: int, features: int, usual: np.ndarray, hidden: int,
        encoder: Encoder | None = None,
    ) -> None:  # fmt: skip
        """Make a network.

        Args:
            form: decoder or linear.
            layout: Of crops and targets.
            channels: Of the frames.
            features: Of a token; 0 for none.
            usual: How often each class fell in training, (lead, class).
            hidden: Channels of the convolutions.
            encoder: Makes the tokens; None where they are given.
        """
        super().__init__()
        self.form, self.layout, self.encoder, self.features = form, layout, encoder, features
        rows, columns = layout.patch
        outputs = layout.leads * layout.classes
        self.offset: Tensor
        self.register_buffer("offset", torch.from_numpy(np.log(usual)).float()[..., None, None])
        if form == LINEAR:
            every = outputs * rows * columns
            self.last: nn.Module = nn.Linear(features, every) if features else nn.Conv2d(
                channels, every, (3 * rows, 3 * columns), (rows, columns)
            )  # fmt: skip
        else:
            self.up = nn.Linear(features, CARRIED * rows * columns) if features else None
            self.first = nn.Conv2d(channels + (CARRIED if features else 0), hidden, 3)
            self.second = nn.Conv2d(hidden, hidden, 3)
            self.last = nn.Conv2d(hidden, outputs, 1)
        for values in self.last.parameters():
            nn.init.zeros_(values)

    def forward(self, frames: Tensor, tokens: Tensor | None = None, patches: Patches | None = None) -> Tensor:
        """Return the logits.

        Args:
            frames: Of the whole crop, (sample, channel, row, column).
            tokens: Of its last step, (sample, token, feature).
            patches: For the encoder to make tokens of, where it has one.
        """
        layout, (p, q) = self.layout, self.layout.patch
        if self.encoder is not None and patches is not None:
            tokens = last_step(self.encoder(patches), patches)
        lattice = None if tokens is None else rearrange(tokens, "b (r c) f -> b f r c", r=layout.size // p)
        if self.form == LINEAR:
            if lattice is None:
                found = self.last(layout.within(frames, 1))
            else:
                found = self.last(_patches(lattice, layout, 0).movedim(1, -1)).movedim(-1, 1)
            told = rearrange(found, "b (o p q) r c -> b o (r p) (c q)", p=p, q=q)
        else:
            x = layout.within(frames, 1)
            if lattice is not None and self.up is not None:
                cells = self.up(_patches(lattice, layout, 1).movedim(1, -1))
                x = torch.cat([x, rearrange(cells, "b r c (f p q) -> b f (r p) (c q)", p=p, q=q)], 1)
            x = x[..., p - REACH : p + layout.target + REACH, q - REACH : q + layout.target + REACH]
            for layer in (self.first, self.second):
                x = nn.functional.gelu(layer(x))
            told = self.last(x)
        return rearrange(told, "b (l k) r c -> b l k r c", l=layout.leads) + self.offset


def last_step(tokens: Tensor, patches: Patches) -> Tensor:
    """Return the tokens of the last step, (sample, token, feature)."""
    return tokens.unflatten(1, (patches.shape[0], -1))[:, -1]


def _patches(lattice: Tensor, layout: Layout, more: int) -> Tensor:
    """Return the tokens of the target (sample, feature, row, column), and so many more on each side."""
    (p, q), margin = layout.patch, (layout.size - layout.target) // 2
    rows, columns = (slice(margin // one - more, (margin + layout.target) // one + more) for one in (p, q))
    return lattice[..., rows, columns]


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the cross-entropy over known cells, the mean over the leads that have any."""
    each = nn.functional.cross_entropy(logits.movedim(2, 1), truth, ignore_index=UNKNOWN, reduction="none")
    known = (truth != UNKNOWN).sum((0, 2, 3))
    return (each.sum((0, 2, 3)) / known.clamp(min=1))[known > 0].mean()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network that validation has stopped.

    Attributes:
        chances: Of all samples, float32 (sample, lead, class, row, column).
        steps: Of the training.
        loss: On validation.
    """

    chances: np.ndarray
    steps: int
    loss: float


def fit(
    make: Callable[[], Nowcaster], answer: Callable[[Nowcaster, np.ndarray], Tensor], truth: np.ndarray,
    train: np.ndarray, val: np.ndarray, config: ScratchConfig, seed: int,
) -> Fitted:  # fmt: skip
    """Return a network trained on the training samples; validation chooses its steps, and nothing is refitted.

    Args:
        make: Returns it untrained.
        answer: Returns its logits for some samples.
        truth: Classes, -1 where not known, (sample, lead, row, column).
        train, val: Places of these samples.
        config: How to train.
        seed: Of weights and order.
    """
    wanted = torch.from_numpy(truth.astype(np.int64))

    def chances(network: Nowcaster, chosen: np.ndarray) -> np.ndarray:
        parts = np.array_split(chosen, max(1, len(chosen) // 32))
        with torch.no_grad():
            return np.concatenate([answer(network, part).softmax(2).numpy() for part in parts])

    def score(network: Nowcaster) -> float:
        told = torch.from_numpy(chances(network, val)).clamp(min=1e-9).log()
        return float(loss_of(told, wanted[torch.from_numpy(val)]))

    def cost(network: Nowcaster, chosen: np.ndarray) -> Tensor:
        return loss_of(answer(network, chosen), wanted[torch.from_numpy(chosen)])

    learnt = learn(make, cost, score, train, None, config, seed)
    return Fitted(chances(learnt.network, np.arange(len(truth))), learnt.steps, learnt.score)

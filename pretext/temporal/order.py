"""Temporal order: which way, or in which order, did these steps happen?
(Misra et al. 2016, arXiv 1603.08561; Lee et al. 2017, arXiv 1708.01246; Wei et al. 2018, CVPR).

Trivial cues and how they are closed: season and trend (fields are anomalies, no time of year is given, and
every step loses its area mean, which also takes the trend and any drift of the observing system); spacing
(steps are equally spaced); the coastline (equal in all steps: only cells observed in every step are shown).
A chain of similar states is reversible, so "order" counts a sequence and its reversal as one class; which
way it ran is the separate task "arrow".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import torch
from einops import rearrange, reduce
from jaxtyping import Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import SEASON, patchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig, Outcome, over_chance
from ..cues import Statistics, frame_statistics

MAX_FRAMES = 5  # 5! / 2 = 60 classes; more than that is no longer a task of order


@dataclass(frozen=True)
class OrderConfig(ObjectiveConfig):
    """Settings of temporal order.

    Attributes:
        weight: Weight of the loss.
        kind: "arrow" (forward or reversed) or "order" (which permutation, reversal counted as the same).
        frames: Number of steps shown, 2 to 5.
        spacing: Steps of the window from one to the next.
        hidden: Width of the head's hidden layer.
    """

    weight: float = 1.0
    kind: str = "arrow"
    frames: int = 3
    spacing: int = 1
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.kind not in ("arrow", "order"):
            raise EarthSSLError(f"order.kind: expected arrow or order, got '{self.kind}'")
        least = 2 if self.kind == "arrow" else 3
        if not least <= self.frames <= MAX_FRAMES or self.spacing < 1:
            raise EarthSSLError(
                f"order: expected {least} to {MAX_FRAMES} frames and spacing ≥ 1, got {self.frames}, {self.spacing}"
            )

    def build(self, context: Context) -> Order:
        """Return the objective.

        Raises:
            EarthSSLError: If the frames do not fit in the encoder's window, or a patch spans several steps.
        """
        span = (self.frames - 1) * self.spacing + 1
        window, steps = context.encoder.config.window, context.encoder.config.patch[0]
        if span > window:
            raise EarthSSLError(
                f"order: {self.frames} frames {self.spacing} steps apart span {span} steps, but encoder.window is "
                f"{window}; take fewer frames or a longer window"
            )
        if steps != 1:
            raise EarthSSLError(f"order: expected patches of 1 step, got {steps}; a patch must not hold two frames")
        return Order(self, context)


def arrangements(kind: str, frames: int) -> Int[Tensor, "arrangement frame"]:
    """Return the ways the frames may be shown; row k of an arrow is class k, see `classes`."""
    if kind == "arrow":
        return torch.tensor([list(range(frames)), list(reversed(range(frames)))])
    return torch.tensor(list(permutations(range(frames))))


def classes(kind: str, table: Int[Tensor, "arrangement frame"]) -> Int[Tensor, " arrangement"]:
    """Return the class of each arrangement: what a film and its reversal show alike shares one.

    Run backwards, frame f is frame n - 1 - f: so that is what is merged. (To merge a permutation with the
    same list read from its end, as is sometimes done, would leave the arrow of time in the answer.)
    """
    if kind == "arrow":
        return torch.arange(len(table))
    last = table.shape[1] - 1
    smaller = [min(tuple(row), tuple(last - frame for frame in row)) for row in table.tolist()]
    names = sorted(set(smaller))
    return torch.tensor([names.index(row) for row in smaller])


class Order(Objective):
    """Classify the order of equally spaced steps from their features alone.

    Attributes:
        table: The arrangements that are shown.
        answers: Class of each.
        classes: Number of classes.
    """

    table: Tensor
    answers: Tensor

    def __init__(self, config: OrderConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        table = arrangements(config.kind, config.frames)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("answers", classes(config.kind, table), persistent=False)
        self.classes = int(self.answers.max()) + 1
        width = context.encoder.width
        self.head = nn.Sequential(
            nn.Linear(config.frames * width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, self.classes),
        )

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the cross-entropy of the arrangement, with accuracy and skill over chance."""
        shown, target = self.pose(batch)
        patches = patchify(shown, encoder.config.patch)
        features = encoder(patches, hide=frozenset({SEASON}))
        frames = reduce(features, "b (t n) d -> b t d", "mean", t=self.config.frames)
        logits = self.head(rearrange(frames, "b t d -> b (t d)")).float()
        loss = nn.functional.cross_entropy(logits, target)
        accuracy = (logits.argmax(1) == target).float().mean()
        return Outcome(loss, {"accuracy": accuracy.detach(), "skill": over_chance(accuracy.detach(), self.classes)})

    def pose(self, batch: Batch) -> tuple[Batch, Int[Tensor, " batch"]]:
        """Return what is shown of a batch, by the samples' keys, and the class of each sample."""
        drawn = uniform(fold(batch.keys, key(0, "order")), 2)
        shown, picks = self.show(batch, drawn[:, 0], drawn[:, 1])
        return shown, self.answers[picks]

    def cues(self) -> list[Cue]:
        """Return the chain of similar frames, and each frame's mean and variance."""
        return [ChainSorter(), Statistics("mean and variance of each frame", frame_statistics)]

    def show(self, batch: Batch, where: Tensor, which: Tensor) -> tuple[Batch, Int[Tensor, " batch"]]:
        """Return frames of the windows in drawn arrangements, and the arrangements' rows in the table.

        Args:
            batch: Windows.
            where: Numbers in [0, 1) that pick the first frame, (batch,).
            which: Numbers in [0, 1) that pick the arrangement, (batch,).
        """
        span = (self.config.frames - 1) * self.config.spacing + 1
        first = (where * (batch.values.shape[1] - span + 1)).long()
        picks = (which * len(self.table)).long()
        steps = first[:, None] + self.config.spacing * self.table[picks]
        rows = torch.arange(len(batch), device=steps.device)[:, None]
        valid = batch.valid[rows, steps].all(1, keepdim=True).expand(-1, self.config.frames, -1, -1, -1)
        area = torch.from_numpy(batch.grid.area).to(batch.values) * valid
        values = batch.values[rows, steps] * valid
        mean = (values * area).sum((-1, -2), keepdim=True) / area.sum((-1, -2), keepdim=True).clamp(min=1e-12)
        ordered = batch.times[rows, first[:, None] + self.config.spacing * torch.arange(self.config.frames).to(steps)]
        return replace(batch, values=(values - mean) * valid, valid=valid, times=ordered), picks


class ChainSorter(Cue):
    """Puts frames beside those most like them: what a smooth series gives away without any understanding."""

    name = "chain of nearest frames"

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the skill of the arrangement whose neighbours differ least (area-weighted, squared)."""
        assert isinstance(objective, Order)
        shown, target = objective.pose(batch)
        area = torch.from_numpy(shown.grid.area).to(shown.values)
        apart = shown.values[:, :, None] - shown.values[:, None]
        distance = reduce(apart**2 * area, "b s t v r c -> b s t", "sum")
        # An arrangement shows frame table[k] at place k: undo it, and walk along the frames in time.
        back = objective.table.argsort(1)
        length = distance[:, back[:, :-1], back[:, 1:]].sum(-1)
        guess = objective.answers[length.argmin(1)]
        accuracy = (guess == target).float().mean()
        return float(over_chance(accuracy, objective.classes))

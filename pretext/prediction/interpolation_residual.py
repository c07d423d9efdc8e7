"""Interpolation residual: what does optimal interpolation from the visible cells leave over in the hidden ones?

Fields are masked as in masking. Reduced-space optimal interpolation (Kaplan et al. 1997, doi 10.1029/97JC01734: the
leading patterns of the training windows, their variances and a noise, k × k equations for each mask) is fitted once,
before the first step, and fills what is hidden; that of a training window was fitted without the block of time in
which the window lies. The task is the rest, divided by its spread at each cell: the loss of
the interpolation is 1, of the truth 0. Of linear Gaussian fields nothing can be told, and the loss stays at 1.

Trivial cues and how they are closed: the climatology, neighbours, far places that go along and every other linear
cue that the patterns reach (taken off the target); the coastline as in masking. The decoder is told the interpolation
of what is hidden, nothing of what is seen: that it must have from the encoder. What the audit's censored encoders have
is what can be made of the interpolation alone. An interpolation of what it leaves over at the observed cells stands
beside the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.data.augmentation import EVERY
from ...ssl.data.windows import Windows
from ...ssl.fields.batch import Batch
from ...ssl.fields.reduced_space import ReducedSpaces, conditional_mean, great_circle_km
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, gather, patchify, unpatchify
from ...ssl.training.objective import Context, Cue, Objective, Outcome
from ..cues import Interpolation
from .field_scores import mean_over, score
from .masking import Masking, MaskingConfig, asked
from .masks import Mask, check, draw, thin

NAME = "interpolation_residual"
READ = 16  # windows read at a time for the fit
LARGEST = 2**28  # numbers in memory during the fit
LOCALISED = 8000  # numbers of a window whose covariance, of all pairs, can be localised
HELD_OUT = 0.25  # share of the training windows, the last ones, that choose the settings
JUDGED = 96  # of these at most, evenly spaced
SPREAD = 768  # windows that the spread of the rest is taken from, at most
APART = 0.01  # share of the windows beside a block that its interpolation is not fitted on either
LEAST = 1e-2  # of the variable's spread: a cell whose rest is smaller is divided by this share


@dataclass(frozen=True)
class InterpolationResidualConfig(MaskingConfig):
    """Settings of the interpolation residual; masks and decoder as in masking.

    Attributes:
        components: Patterns at most; the last quarter of the training windows chooses how many, and the noise.
        fit: Training windows, evenly spaced, that the interpolation is fitted on, at most.
        folds: Blocks of training windows, each with an interpolation of its own that is fitted on the others: what is
            left over in windows that it was fitted on is smaller than elsewhere. 0: one for all.
        localisation_km: Distances, through the sphere, at which the localisation of the covariance falls to 0.21, to be
            chosen from likewise; empty for none.
    """

    components: int = 128
    fit: int = 4000
    folds: int = 4
    localisation_km: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1 or self.fit < 2 * self.components:
            raise EarthSSLError(
                f"{NAME}: expected components ≥ 1 and at least two windows for each of them, got {self.components} "
                f"components and {self.fit} windows"
            )
        if self.folds < 0 or self.folds == 1:
            raise EarthSSLError(f"{NAME}.folds: expected 0, or at least 2 blocks, got {self.folds}")
        if not all(0 < one < float("inf") for one in self.localisation_km):
            raise EarthSSLError(f"{NAME}.localisation_km: expected distances above 0, got {self.localisation_km}")

    def build(self, context: Context) -> InterpolationResidual:
        """Return the objective."""
        return InterpolationResidual(self, context)


class InterpolationResidual(Masking):
    """Predict the rest of an interpolation at hidden cells; its decoder is told the interpolation there.

    Until `settle` has fitted the interpolation it is the climatology. It is part of the state: a resumed run and a
    loaded one have that which it was begun with.
    """

    # The interpolation is fitted on windows as they are: of changed ones it would leave over what it did not know.
    bars: ClassVar[tuple[str, ...]] = EVERY
    constrained = False  # what it scores is no field, but what is left of one
    config: InterpolationResidualConfig
    modes: Tensor
    noise: Tensor
    edges: Tensor
    spread: Tensor

    def __init__(self, config: InterpolationResidualConfig, context: Context) -> None:
        super().__init__(config, replace(context, constraints=None))
        shape = context.encoder.config
        self.grid, self.variables, self.window, self.patch = context.grid, context.variables, shape.window, shape.patch
        self.shape = (self.window, len(context.variables), *context.grid.shape)
        size = int(np.prod(self.shape))
        kept = (config.folds + 1) * config.components * size
        if kept > LARGEST:
            raise EarthSSLError(
                f"{NAME}: expected interpolations of at most {LARGEST} numbers, got {config.folds + 1} of "
                f"{config.components} patterns of {size} numbers; lower {NAME}.components or {NAME}.folds"
            )
        # The last is fitted on all windows; each before it is for one block, which it was not fitted on.
        self.register_buffer("modes", torch.zeros(config.folds + 1, config.components, size))
        self.register_buffer("noise", torch.ones(config.folds + 1, size))
        self.register_buffer("edges", torch.zeros(config.folds + 1, dtype=torch.int64))  # the blocks' first seconds
        self.register_buffer("spread", torch.ones(size))
        self.told = nn.Linear(len(context.variables) * self.cells, config.decoder_width)
        for head in self.heads.values():  # a decoder that says nothing is the interpolation
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def settle(self, windows: Windows) -> None:
        """Fit the interpolation on training windows.

        Raises:
            EarthSSLError: If the windows do not fit the memory, or are too few.
        """
        chosen = torch.linspace(0, len(windows) - 1, min(self.config.fit, len(windows))).long().unique()
        size = self.noise.shape[1]
        if len(chosen) * size > LARGEST:
            raise EarthSSLError(
                f"{NAME}: expected at most {LARGEST} numbers to fit the interpolation on, got {len(chosen)} windows of "
                f"{size}; lower {NAME}.fit to {LARGEST // size}, or take a coarser grid or a shorter window"
            )
        if self.config.localisation_km and size > LOCALISED:
            raise EarthSSLError(
                f"{NAME}.localisation_km: expected windows of at most {LOCALISED} numbers, of which a covariance of "
                f"all pairs can be localised, got {size}; leave it empty, or take a coarser grid or a shorter window"
            )
        first = len(chosen) - max(1, int(HELD_OUT * len(chosen)))
        starts = windows.starts[chosen.numpy()]
        clear = int((starts + self.window - 1 < starts[first]).sum())
        if clear < 2:
            raise EarthSSLError(
                f"{NAME}: expected training windows of which the last quarter can choose the patterns, apart from "
                f"those before, got {len(chosen)}; take more data"
            )
        parts = [windows.batch(part).to("cpu").cut(0, self.window) for part in chosen.split(READ)]
        rows = np.concatenate([(part.values * part.valid).flatten(1).numpy() for part in parts])
        judged = chosen[torch.linspace(first, len(chosen) - 1, min(JUDGED, len(chosen) - first)).long()]
        posed = [self._posed(windows, part, number) for number, part in enumerate(judged.split(READ))]
        lat, lon = (x.ravel() for x in np.meshgrid(self.grid.lat, self.grid.lon, indexing="ij"))
        repeat = self.window * len(self.variables)
        apart = np.tile(great_circle_km(lat, lon), (repeat, repeat)) if self.config.localisation_km else None
        root = np.sqrt(np.maximum(self.grid.area / self.grid.area.mean(), 1e-6))
        root = np.broadcast_to(root, self.shape).ravel()
        most = min(self.config.components, size)
        spaces = ReducedSpaces(rows, clear, root, most, apart, self.config.localisation_km)
        found = spaces.choose(lambda modes, noise: self._error(modes, noise, posed))
        times = torch.cat([part.times[:, 0] for part in parts])
        bounds = torch.linspace(0, len(chosen), self.config.folds + 1).round().long()
        gap = APART * float(starts[-1] - starts[0]) + self.window  # steps
        self.modes.zero_()
        for k in range(self.config.folds + 1):
            kept = None
            if k < self.config.folds and len(chosen) >= 2 * self.config.folds:
                kept = (starts <= starts[int(bounds[k])] - gap) | (starts >= starts[int(bounds[k + 1]) - 1] + gap)
                if kept.sum() < max(2, len(chosen) // 4):
                    raise EarthSSLError(
                        f"{NAME}.folds: expected a quarter of the {len(chosen)} windows or more apart from each block, "
                        f"to fit on, got {int(kept.sum())}; set {NAME}.folds to 0, or take more data"
                    )
            modes, noise = spaces.learnt(found.settings, kept)
            self.modes[k, : len(modes)].copy_(torch.from_numpy(modes))
            self.noise[k].copy_(torch.from_numpy(noise))
        self.edges.copy_(torch.cat([times, times[-1:] + 1])[bounds])
        del rows, parts, spaces
        few = chosen[torch.linspace(0, len(chosen) - 1, min(SPREAD, len(chosen))).long()]
        self._fit_spread([self._posed(windows, part, number) for number, part in enumerate(few.split(READ))])

    def _block(self, batch: Batch) -> Tensor:
        """Return which of the interpolations is a training window's: of its block, (batch,)."""
        block = torch.searchsorted(self.edges, batch.times[:, 0].contiguous(), right=True) - 1
        return torch.where(block < 0, self.config.folds, block)

    def _posed(self, windows: Windows, chosen: Tensor, number: int) -> tuple[Batch, Tensor, Tensor]:
        """Return some windows, their hidden and their visible cells: the kinds of masks as often as in training."""
        batch = windows.batch(chosen, number=number).to("cpu").cut(0, self.window)
        patches = patchify(batch, self.patch)
        mask = draw(self._kind(number), patches, batch.keys)
        seen = unpatchify(_shown(patches, mask).float(), patches, self.patch) > 0
        return batch, batch.valid & ~seen, batch.valid & seen

    def _error(self, modes: np.ndarray, noise: np.ndarray, posed: Sequence[tuple[Batch, Tensor, Tensor]]) -> float:
        """Return the error of an interpolation over that of the climatology, mean over variables and batches."""
        own, level = torch.from_numpy(np.ascontiguousarray(modes)).float(), torch.from_numpy(noise).float()
        area = torch.from_numpy(self.grid.area).float()
        skills = []
        for batch, hidden, seen in posed:
            made = conditional_mean(own, level, batch.values.flatten(1), seen.flatten(1)).unflatten(1, self.shape)
            skills.append(float(score(made, batch.values, hidden * area).skill))
        return 1 - float(np.mean(skills))

    def _fit_spread(self, posed: Sequence[tuple[Batch, Tensor, Tensor]]) -> None:
        """Keep the root mean square of what is left over at each cell, not less than a share of its variable's."""
        count, power = torch.zeros(self.shape), torch.zeros(self.shape)
        for batch, hidden, seen in posed:
            made = self._mean(self.modes, self.noise, batch.values.flatten(1), seen.flatten(1), self._block(batch))
            count += hidden.sum(0)
            power += ((batch.values - made.unflatten(1, self.shape)).square() * hidden).sum(0)
        axes = (0, 2, 3)
        usual = (power.sum(axes, keepdim=True) / count.sum(axes, keepdim=True).clamp(min=1)).sqrt()
        spread = (power / count.clamp(min=1)).sqrt()
        spread = torch.where(count > 0, torch.maximum(spread, LEAST * usual), usual).clamp(min=1e-12)
        self.spread.copy_(spread.flatten())

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the error on what the interpolation leaves over, over its power: mean over the variables.

        The interpolation itself is 1, the truth 0. Terms are the skill, 1 - loss, of each variable too. In training the
        interpolation is that of the window's block, else that of all training windows, which `rebuild` takes.

        Raises:
            EarthSSLError: If the batch lies on another grid, or has other variables or another window.
        """
        patches = patchify(batch, self.patch)
        for kind in self.config.masks:
            check(kind, patches)
        whole = draw(self._kind(batch.number), patches, batch.keys)
        mask = thin(whole, self.config.rebuild if self.training else 1.0, batch.keys)
        cue, spread = self._told(patches, _shown(patches, whole), self._block(batch) if self.training else None)
        guess = self._guess(encoder, patches, mask, cue).float()
        truth, weight = asked(patches, mask)
        rest = (truth - gather(cue, mask.order)) / spread[mask.order]
        found = score(guess, rest, weight, joined=self.training)
        return Outcome(mean_over(1 - found.skills, found.power > 0), found.terms(batch.variables))

    def rebuild(self, encoder: Encoder, patches: Patches, mask: Mask) -> Float[Tensor, "batch token variable cell"]:
        """Return the interpolation and the predicted rest for the tokens of `mask.order`, in that order."""
        cue, spread = self._told(patches, _shown(patches, mask))
        guess = self._guess(encoder, patches, mask, cue).float()
        return gather(cue, mask.order) + spread[mask.order] * guess

    def _guess(
        self, encoder: Encoder, patches: Patches, mask: Mask, cue: Tensor
    ) -> Float[Tensor, "batch token variable cell"]:
        """Return the predicted rest in units of its spread; the decoder reads the cue where something is hidden."""
        # Where it is seen the cue is nearly the field itself, which would go round the encoder.
        extra = self.told(torch.where(_shown(patches, mask), torch.zeros_like(cue), cue).flatten(2))
        return self.decode(encoder, patches, mask, gather(extra, mask.order))

    def _told(self, patches: Patches, seen: Tensor, block: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the interpolation from the seen cells, (batch, token, variable, cell), and the spread of its rest.

        By default it is that of all windows.
        """
        values = patches.values
        numbers = torch.arange(values[0].numel(), dtype=torch.float64, device=values.device).view_as(values[:1])
        fields = unpatchify(numbers, patches, self.patch)[0]
        if fields.shape != self.shape or patches.variables != self.variables:
            raise EarthSSLError(
                f"{NAME}: expected windows of {self.window} steps of {', '.join(self.variables)} on the grid "
                f"{self.grid}, which the interpolation was fitted on, got {fields.shape[0]} steps of "
                f"{', '.join(patches.variables)} on {patches.grid}; leave the data or the task out"
            )
        held = fields.flatten().isfinite()
        at = fields.flatten()[held].long()
        modes, level, spread = (
            start.index_copy(-1, at, buffer[..., held])
            for start, buffer in (
                (values.new_zeros(*self.modes.shape[:2], values[0].numel()), self.modes),
                (values.new_ones(len(self.noise), values[0].numel()), self.noise),
                (values.new_ones(values[0].numel()), self.spread),
            )
        )
        with torch.autocast(values.device.type, enabled=False):
            made = self._mean(modes, level, values.float().flatten(1), seen.flatten(1), block)
        return made.view_as(values), spread.view_as(values[0])

    def _mean(self, modes: Tensor, level: Tensor, values: Tensor, seen: Tensor, block: Tensor | None) -> Tensor:
        """Return the interpolations of samples (batch, cell) by those of their blocks, or by that of all windows."""
        if block is None:
            return conditional_mean(modes[-1], level[-1], values, seen)
        made = torch.empty_like(values, dtype=modes.dtype)
        for k in block.unique().tolist():
            own = block == k
            made[own] = conditional_mean(modes[k], level[k], values[own], seen[own])
        return made

    def residual(self, batch: Batch, training: bool) -> Batch:
        """Return what the interpolation leaves over everywhere, in units of its spread: the truth less it.

        Args:
            batch: Some windows.
            training: Whether they are training windows, whose interpolations are those of their blocks.
        """
        patches = patchify(batch, self.patch)
        mask = draw(self._kind(batch.number), patches, batch.keys)
        cue, spread = self._told(patches, _shown(patches, mask), self._block(batch) if training else None)
        fields = torch.nan_to_num(unpatchify((patches.values - cue) / spread, patches, self.patch))
        return replace(batch, values=fields * batch.valid)

    def cues(self) -> list[Cue]:
        """Return the interpolation of what is left over at the observed cells."""
        return [RestInterpolation()]


def _shown(patches: Patches, mask: Mask) -> Bool[Tensor, "batch token variable cell"]:
    """Return the cells that an encoder may see, token by token in place."""
    visible = torch.zeros(len(mask.order), patches.count, dtype=torch.bool, device=mask.order.device)
    visible = visible.scatter(1, mask.keep, torch.ones_like(mask.keep, dtype=torch.bool))
    return mask.shown(patches).valid & visible[..., None, None]


class RestInterpolation(Interpolation):
    """Interpolates what the interpolation leaves over at the observed cells to the hidden ones."""

    name = "interpolation of the rest in space and time"

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Choose the scales by the error on the hidden cells of training windows."""
        assert isinstance(objective, InterpolationResidual)
        super().fit(objective, [objective.residual(batch, training=True) for batch in batches], patch)

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - error / power of the rest on the hidden cells."""
        assert isinstance(objective, InterpolationResidual)
        return super().skill(objective, objective.residual(batch, training=False), patch)

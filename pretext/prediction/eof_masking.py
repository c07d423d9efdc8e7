"""EOF masking: hide principal components of the window and rebuild their field from the others
(after the principal masked autoencoder: Bizeul et al. 2025, arXiv 2502.06314).

The components are extended EOFs: patterns over all steps, variables and cells of a window, fitted once on training
windows. A set of them that carries a stated share of the variance is taken out of every sample; what is left has no
part along them, whatever is missing.

Trivial cues and how they are closed: the climatology (fields are anomalies: predicting nothing is loss 1, skill 0);
neighbours in space and time, and every other linear cue (principal components are uncorrelated: on the windows that
they were fitted on, linear regression on the visible components gives nothing by construction, on others what sampling
leaves over; it stands beside the task in the audit). What is left to be learnt is not linear. Components that alone
carry more than the upper share are never hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.data.windows import Windows
from ...ssl.fields.batch import Batch
from ...ssl.fields.reduced_space import components
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import patchify, unpatchify
from ...ssl.training.objective import Context, Cue, Example, Objective, ObjectiveConfig, Outcome
from .field_scores import FieldScore, every_head, mean_over, score

NAME = "eof_masking"
READ = 64  # windows read at a time for the fit
LARGEST = 2**28  # numbers in memory during the fit, in single and in double precision: 3 GiB
JITTER = 1e-5  # on the diagonal of the products of patterns over observed cells


@dataclass(frozen=True)
class EOFMaskingConfig(ObjectiveConfig):
    """Settings of EOF masking.

    Attributes:
        weight: Weight of the loss.
        share: Least and greatest share of the variance that is hidden (one more component, and so more than the
            greatest, where no other reaches the least).
        components: Leading components that may be hidden; what lies beyond them is always visible.
        fit: Training windows, evenly spaced, that the components are fitted on, at most.
        hidden: Width of the head's hidden layer; 0 for a linear head.
    """

    weight: float = 1.0
    share: tuple[float, float] = (0.15, 0.25)
    components: int = 64
    fit: int = 2000
    hidden: int = 64

    def __post_init__(self) -> None:
        if len(self.share) != 2 or not 0 < self.share[0] <= self.share[1] < 1:
            raise EarthSSLError(
                f"{NAME}.share: expected the least and the greatest share of the variance, 0 < least ≤ greatest < 1, "
                f"got {list(self.share)}"
            )
        if self.components < 2:
            raise EarthSSLError(
                f"{NAME}.components: expected at least 2, some to hide and some to see, got {self.components}"
            )
        if self.fit <= self.components:
            raise EarthSSLError(
                f"{NAME}.fit: expected more windows than the {self.components} components, got {self.fit}"
            )
        if self.hidden < 0:
            raise EarthSSLError(f"{NAME}.hidden: expected a width ≥ 1, or 0 for a linear head, got {self.hidden}")

    def build(self, context: Context) -> EOFMasking:
        """Return the objective.

        Raises:
            EarthSSLError: If a window has no more numbers than there are components.
        """
        return EOFMasking(self, context)


class EOFMasking(Objective):
    """Reconstruction of hidden principal components by a head on the tokens; the encoder sees the field without them.

    Until `settle` has fitted the components, random patterns of equal variance stand in for them, so that memory and
    time can be measured without data. They are part of the state: a resumed run and a loaded one have those that it
    was begun with.
    """

    # The means of what is visible are information about the hidden, not a cue.
    censors: ClassVar[tuple[str, ...]] = ("validity", "position")

    patterns: Tensor
    shares: Tensor
    root: Tensor

    def __init__(self, config: EOFMaskingConfig, context: Context) -> None:
        super().__init__()
        steps, rows, columns = context.encoder.config.patch
        width = context.encoder.width
        self.config, self.window, self.grid = config, context.encoder.config.window, context.grid
        self.variables = context.variables
        self.shape = (self.window, len(context.variables), *context.grid.shape)
        size = math.prod(self.shape)
        if size <= config.components:
            raise EarthSSLError(
                f"{NAME}.components: expected fewer than the {size} numbers of a window, got {config.components}"
            )
        stand_in = torch.randn(size, config.components, generator=torch.Generator().manual_seed(0))
        self.register_buffer("patterns", torch.linalg.qr(stand_in).Q.T.contiguous())
        self.register_buffer("shares", torch.full((config.components,), 1 / config.components))
        area = torch.from_numpy(context.grid.area).float()
        root = (area / area.mean()).clamp(min=1e-6).sqrt()
        self.register_buffer("root", root.expand(self.shape).flatten(), persistent=False)
        self.body = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU()) if config.hidden else nn.Identity()
        entering, cells = config.hidden or width, steps * rows * columns
        self.heads = nn.ModuleDict({name: nn.Linear(entering, cells) for name in context.variables})

    def settle(self, windows: Windows) -> None:
        """Fit the components on training windows; missing cells count as no anomaly.

        Raises:
            EarthSSLError: If the windows do not fit the memory, or no set of components has the share to be hidden.
        """
        chosen = torch.linspace(0, len(windows) - 1, min(self.config.fit, len(windows))).long().unique()
        size = len(self.root)
        if len(chosen) * size > LARGEST:
            raise EarthSSLError(
                f"{NAME}: expected at most {LARGEST} numbers to fit the components on, got {len(chosen)} windows of "
                f"{size}; lower {NAME}.fit to {LARGEST // size}, or take a coarser grid or a shorter window"
            )
        rows = [self.rows(windows.batch(part).to("cpu")).numpy() for part in chosen.split(READ)]
        patterns, shares = components(np.concatenate(rows), self.config.components)
        least, greatest = self.config.share
        small = shares[shares <= greatest]
        if not small.sum() >= least:
            raise EarthSSLError(
                f"{NAME}.share: expected components of at most {greatest:.0%} of the variance that together hold "
                f"{least:.0%}, got {small.sum():.1%} among the leading {self.config.components} (the first holds "
                f"{shares[0]:.0%}); raise the greatest share or {NAME}.components"
            )
        if small.sum() >= shares.sum() * (1 - 1e-9) and shares.sum() <= least:
            raise EarthSSLError(f"{NAME}.share: expected something that stays visible, got all components hidden")
        self.patterns.copy_(torch.from_numpy(patterns).to(self.patterns))
        self.shares.copy_(torch.from_numpy(shares).to(self.shares))

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the error on the hidden field over its power: mean over the variables, weighted by area, valid cells.

        Predicting nothing is 1, the truth 0. Terms are the skill, 1 - loss, of each variable too, and the share of
        the variance that was hidden.
        """
        shown, truth, hidden = self.pose(batch)
        found = self.judge(self.rebuild(encoder, shown, hidden), truth, batch)
        loss = mean_over(1 - found.skills, found.power > 0)
        share = (hidden * self.shares).sum(1).mean()
        return Outcome(loss, found.terms(batch.variables) | {"hidden_share": share})

    def judge(self, guess: Tensor, truth: Tensor, batch: Batch) -> FieldScore:
        """Return the score of a guess of the hidden field."""
        area = torch.from_numpy(batch.grid.area).to(truth)
        return score(guess, truth, batch.valid * area, joined=self.training)

    def pose(
        self, batch: Batch
    ) -> tuple[Batch, Float[Tensor, "batch time variable row column"], Bool[Tensor, "batch component"]]:
        """Return the batch without the hidden components, their field, and which they are, by the samples' keys.

        Raises:
            EarthSSLError: If the batch lies on another grid, or has other variables or another window.
        """
        if batch.values.shape[1:] != self.shape or batch.variables != self.variables:
            raise EarthSSLError(
                f"{NAME}: expected windows of {self.window} steps of {', '.join(self.variables)} on the grid "
                f"{self.grid}, which the components were fitted on, got {batch.values.shape[1]} steps of "
                f"{', '.join(batch.variables)} on {batch.grid}; leave the data or the task out"
            )
        hidden = self.draw(batch.keys)
        with torch.no_grad():
            truth = self.part(batch.values, batch, hidden)
        return replace(batch, values=(batch.values - truth) * batch.valid), truth, hidden

    def draw(self, keys: Int[Tensor, " batch"]) -> Bool[Tensor, "batch component"]:
        """Return which components of each sample are hidden.

        In an order drawn for each sample, components are hidden until the least share is reached, passing over those
        that would bring it above the greatest; where the end is reached first, the first one passed over is hidden too.
        """
        least, greatest = self.config.share
        can = (self.shares > 0) & (self.shares <= greatest)
        order = uniform(fold(keys, key(0, NAME)), len(can)).masked_fill(~can, 2.0).argsort(dim=1, stable=True)
        shares, can = self.shares[order], can[order]
        taken, total = torch.zeros_like(can), shares.new_zeros(len(keys))
        for k in range(can.shape[1]):
            take = can[:, k] & (total < least) & (total + shares[:, k] <= greatest)
            taken[:, k] = take
            total = total + take * shares[:, k]
        left = can & ~taken & (total < least)[:, None]
        taken = taken | (left & (left.cumsum(1) == 1))
        return torch.zeros_like(taken).scatter(1, order, taken)

    def rows(self, batch: Batch) -> Float[Tensor, "batch cell"]:
        """Return the windows as rows, each cell times the root of its area; 0 where missing."""
        window = batch.cut(0, self.window)
        return (window.values * window.valid).flatten(1) * self.root

    def part(
        self,
        fields: Float[Tensor, "batch time variable row column"],
        batch: Batch,
        hidden: Bool[Tensor, "batch component"],
    ) -> Float[Tensor, "batch time variable row column"]:
        """Return the part of fields along the hidden components, 0 where the batch has no observation.

        It is that of least squares over the observed cells, weighted by area, so that what is left of the field is
        orthogonal to the hidden patterns there: with gaps, a plain projection would leave their amplitudes behind.
        """
        with torch.autocast(fields.device.type, enabled=False):
            seen = batch.valid.flatten(1)
            left = fields.float().flatten(1) * self.root * seen
            found = torch.zeros_like(left)
            gaps = (batch.known.to(seen.device) & ~batch.valid).flatten(1).any(1)
            factor = self._factor(seen, gaps, hidden) if bool(gaps.any()) else None
            for _ in range(2):  # a second time for what rounding left
                amplitude = ((left - found) @ self.patterns.T) * hidden
                if factor is not None:
                    amplitude = torch.cholesky_solve(amplitude[..., None], factor)[..., 0]
                found = found + (amplitude @ self.patterns) * seen
            return (found / self.root).unflatten(1, self.shape)

    def _factor(self, seen: Tensor, gaps: Tensor, hidden: Tensor) -> Tensor:
        """Return the Cholesky factors of the hidden patterns' products over the observed cells."""
        identity = torch.eye(len(self.patterns), device=seen.device)
        products = identity.repeat(len(seen), 1, 1)
        for k in gaps.nonzero()[:, 0].tolist():  # one by one: all at once would take batch × components × cells
            products[k] = (self.patterns * seen[k]) @ self.patterns.T
        both = hidden[:, :, None] & hidden[:, None, :]
        return torch.linalg.cholesky(torch.where(both, products, identity) + JITTER * identity)

    def rebuild(
        self, encoder: Encoder, shown: Batch, hidden: Bool[Tensor, "batch component"]
    ) -> Float[Tensor, "batch time variable row column"]:
        """Return the predicted field of the hidden components: what the head says, along them."""
        patch = encoder.config.patch
        patches = patchify(shown, patch)
        cells = every_head(self.heads, self.body(encoder(patches)), shown.variables).float()
        fields = unpatchify(cells, patches, patch)
        return self.part(torch.where(shown.valid, fields, torch.zeros_like(fields)), shown, hidden)

    @torch.no_grad()
    def example(self, encoder: Encoder, batch: Batch) -> Example:
        """Return the first window, what is left of it without the hidden components, and that with the rebuilt ones."""
        shown, _, hidden = self.pose(batch)
        rebuilt = shown.values + self.rebuild(encoder, shown, hidden)
        nothing = torch.full_like(rebuilt, math.nan)
        fields = (batch.values, shown.values, rebuilt)
        return Example(*(torch.where(batch.valid, field, nothing)[0] for field in fields))

    def cues(self) -> list[Cue]:
        """Return the linear regression on the visible components."""
        return [VisibleComponents()]


class VisibleComponents(Cue):
    """Regresses the hidden components on the visible ones, for every draw of them, by their covariances.

    On the windows that the components were fitted on it gives nothing: there they are uncorrelated.
    """

    name = "linear regression on the visible components"
    RIDGE = 1e-3  # of the mean variance of the components

    def __init__(self) -> None:
        self._covariance: Tensor | None = None

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Add up the products of the components over training windows."""
        assert isinstance(objective, EOFMasking)
        amplitudes = torch.cat([objective.rows(batch) @ objective.patterns.T for batch in batches]).double()
        self._covariance = amplitudes.T @ amplitudes / len(amplitudes)

    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the mean over the variables of 1 - error / power of the hidden field."""
        assert isinstance(objective, EOFMasking)
        if self._covariance is None:
            raise EarthSSLError("expected a regression fitted on training windows, got none; call fit first")
        batch = batch.cut(0, objective.window)
        shown, truth, hidden = objective.pose(batch)
        covariance = self._covariance
        identity = torch.eye(len(covariance), dtype=torch.float64)
        ridge = self.RIDGE * covariance.diagonal().mean() * identity
        visible = (~hidden).double()
        both = visible[:, :, None] * visible[:, None, :]
        inner = both * (covariance + ridge) + identity * (1 - visible)[:, None, :]
        amplitude = (objective.rows(shown) @ objective.patterns.T).double() * visible
        weights = torch.linalg.solve(inner, amplitude[..., None])[..., 0] * visible
        guess = ((weights @ covariance) * hidden).float() @ objective.patterns / objective.root
        return float(objective.judge(guess.unflatten(1, objective.shape) * batch.valid, truth, batch).skill)

"""Two views: a window and one some steps later of the same series, changed in what should not matter.

What joint-embedding tasks could tell windows apart by without understanding them, and how it is closed:
- the season and the place: no time of year is given; all windows show the same places, so those stay true
  (unless fields are rolled: then true longitudes would be false, and the layout is given instead);
- levels and trends (area means, the observing system): scale and offset of each variable change from view to view;
- one telling variable: variables are left out, in each view others;
- the same states: the two views share no step (where they did, the skill of the likest map was .80 on the planet,
  against .3 where they do not);
- one telling place: each view shows its own random subset of the tokens, which also costs less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch, drop_variables
from ...ssl.model.encoder import EncoderConfig
from ...ssl.model.tokens import PLACE, SEASON, Patches, patchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig
from ..redundancy import across_ranks
from .retrieval import Alike, Means, Rivals


@dataclass(frozen=True)
class ViewsConfig:
    """How two views of a window are drawn.

    Attributes:
        max_lag: Greatest number of steps from the last of the first view to the first of the second; 1 (the next
            one) to this, drawn for each batch. They never share a step.
        keep: Share of the tokens that each view shows, drawn for each sample.
        scale: Each variable of each view is multiplied by a number within 1 ± this.
        offset: Each variable of each view gets an offset within ± this, in normalised units.
        variable_dropout: Chance of leaving a variable out of a view (one always stays).
        roll: Turn each view by its own longitude, drawn for each batch, and hide the true place. Only worth it
            where what happens counts and not where: an encoder that is to know El Niño should not learn it.
        rivals: Which other windows of the batch are negatives.
    """

    max_lag: int = 3
    keep: float = 0.75
    scale: float = 0.3
    offset: float = 0.3
    variable_dropout: float = 0.1
    roll: bool = False
    rivals: Rivals = field(default_factory=Rivals)

    def __post_init__(self) -> None:
        if self.max_lag < 1:
            raise EarthSSLError(f"views.max_lag: expected a whole number of steps ≥ 1, got {self.max_lag}")
        if not 0 < self.keep <= 1:
            raise EarthSSLError(f"views.keep: expected a share in (0, 1], got {self.keep}")
        for name in ("scale", "variable_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise EarthSSLError(f"views.{name}: expected a number in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.offset < float("inf"):
            raise EarthSSLError(f"views.offset: expected a number ≥ 0, got {self.offset}")


def draw_views(config: ViewsConfig, batch: Batch) -> tuple[Batch, Batch]:
    """Return two views of every window, by the keys of the samples and the number of the batch.

    The lag is the same all over a batch (and on all ranks), so that windows of one season show second views of
    one season, too: were it not, the season would tell which of them belongs to which first view.

    Raises:
        EarthSSLError: If the batch's windows are not two views and the greatest lag long.
    """
    steps = batch.values.shape[1]
    window = (steps - config.max_lag + 1) // 2
    if window < 1 or span(window, config.max_lag) != steps:
        raise EarthSSLError(
            f"views: expected windows that hold two views and a lag of {config.max_lag} steps, got {steps} steps; "
            "take windows of as many steps as the objective's span"
        )
    numbers = uniform(torch.tensor([key(0, "views", batch.number)]), 3)[0].tolist()
    start = window + int(numbers[0] * config.max_lag)
    first = _changed(config, batch.cut(0, window), fold(batch.keys, key(0, "first view")), numbers[1])
    second = _changed(config, batch.cut(start, window), fold(batch.keys, key(0, "second view")), numbers[2])
    return first, second


def span(window: int, max_lag: int) -> int:
    """Return the steps from the first of the first view to the last of the second at the greatest lag."""
    return 2 * window + max_lag - 1


def _changed(config: ViewsConfig, view: Batch, keys: Int[Tensor, " batch"], turn: float) -> Batch:
    """Return a view with its own keys, scales, offsets, missing variables and longitude."""
    view = drop_variables(replace(view, keys=keys), config.variable_dropout)
    numbers = 2 * uniform(fold(keys, 1), 2 * len(view.variables)) - 1
    scale, offset = numbers[:, None, :, None, None].chunk(2, 2)
    values = (view.values * (1 + config.scale * scale) + config.offset * offset) * view.valid
    view = replace(view, values=values)
    if not config.roll:
        return view
    columns = int(turn * view.values.shape[-1])
    # Coastlines turn along; the grid stays: where on it a cell lies is hidden.
    return replace(
        view,
        values=view.values.roll(columns, -1),
        valid=view.valid.roll(columns, -1),
        known=view.known.roll(columns, -1),
    )


def head(width: int, hidden: int, out: int, layer: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Sequential:
    """Return two layers with a batch norm between them, for rows of features.

    Mean features of windows share a large constant (their tokens lie at the same places); a norm over the batch
    takes it out, one over the features does not: SimCLR's skill on a series of lasting maps was .53 against .40
    after 150 steps.
    """
    return nn.Sequential(layer(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), layer(hidden, out))


@dataclass(frozen=True)
class TwoViewsConfig(ObjectiveConfig):
    """Settings that all tasks on two views share.

    Attributes:
        weight: Weight of the loss.
        views: How the views are drawn.
        hidden: Width of the projector's hidden layer.
        out: Width of the embeddings that are compared.
    """

    weight: float = 1.0
    views: ViewsConfig = field(default_factory=ViewsConfig)
    hidden: int = 128
    out: int = 64

    def __post_init__(self) -> None:
        for name in ("hidden", "out"):
            if getattr(self, name) < 1:
                raise EarthSSLError(f"{type(self).__name__}.{name}: expected a width ≥ 1, got {getattr(self, name)}")

    def span(self, encoder: EncoderConfig) -> int:
        """Return the steps of two windows of the encoder at the greatest lag."""
        return span(encoder.window, self.views.max_lag)

    def check(self, context: Context) -> None:
        """Raise an EarthSSLError if the views cannot be drawn on the grid."""
        if self.views.roll and not context.grid.periodic:
            raise EarthSSLError(
                f"views.roll: expected a grid that goes round the globe, got {context.grid}; set it to false"
            )


class TwoViews(Objective):
    """A task that compares embeddings of two views."""

    compares = True

    def __init__(self, config: TwoViewsConfig, context: Context) -> None:
        super().__init__()
        config.check(context)
        self.views = config.views
        self.hide = frozenset({SEASON, PLACE}) if config.views.roll else frozenset({SEASON})
        self.projector = head(context.encoder.width, config.hidden, config.out)

    def draw(self, batch: Batch) -> tuple[Batch, Batch]:
        """Return the two views of every window."""
        return draw_views(self.views, batch)

    def shown(self, patches: Patches, keys: Int[Tensor, " batch"]) -> Int[Tensor, "batch kept"] | None:
        """Return the ids of the random share of the tokens that each view shows, at least one; None for all."""
        if self.views.keep >= 1:
            return None
        count = max(1, round(self.views.keep * patches.count))
        return uniform(fold(keys, 2), patches.count).argsort(dim=1, stable=True)[:, :count]

    def pooled(self, encoder: nn.Module, view: Batch, patch: tuple[int, int, int]) -> Float[Tensor, "batch width"]:
        """Return the mean feature of the tokens that the view shows."""
        patches = patchify(view, patch)
        return encoder(patches, self.shown(patches, view.keys), hide=self.hide).mean(1)

    def features(
        self, encoder: nn.Module, views: tuple[Batch, Batch], patch: tuple[int, int, int]
    ) -> Float[Tensor, "row width"]:
        """Return the mean features of both views as rows (view, sample): in training, those of all ranks.

        What follows is computed of all rows on every rank: batch norms and losses are then those of the joined
        batch. Validation stays within each rank, as its last batches differ in size.
        """
        features = torch.stack([self.pooled(encoder, view, patch).float() for view in views])
        return (across_ranks(features) if self.training else features).flatten(0, 1)

    def rivals(self, views: tuple[Batch, Batch]) -> Bool[Tensor, "row candidate"]:
        """Return the fair negatives of the same rows."""
        times = torch.stack([view.times[:, -1] for view in views])
        return self.views.rivals.allowed(across_ranks(times) if self.training else times)

    def cues(self) -> list[Cue]:
        """Return time of year with area means, and likeness of the fields."""
        return [Means(), Alike()]

"""Retrieval: find a window's other view among the views of the batch, negatives chosen so that season gives no help.

Views are rows in the order (view, sample): row i and row i + samples belong together. A candidate is a fair
negative of a row if it is of another year and of the season of what is looked for: then neither the time of
year nor a slow state that lasts for months tells the right one from the wrong ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.batch import Batch
from ...ssl.model.tokens import YEAR_S, patchify
from ...ssl.training.objective import Cue

DAY_S = 86400.0
TIE = 1e-5  # cosines nearer than this are a tie: below it lies the rounding of collapsed embeddings


@dataclass(frozen=True)
class Rivals:
    """Which other views of a batch are fair negatives.

    Attributes:
        exclude_days: Views nearer in time than this to a row, or to its other view, are no negatives of it:
            their state may be the same.
        season_days: Nor are views whose time of year is farther than this from that of the row's other view:
            too easy. None keeps them.
    """

    exclude_days: float = 180.0
    season_days: float | None = 45.0

    def __post_init__(self) -> None:
        if not self.exclude_days >= 0 or (self.season_days is not None and not self.season_days >= 0):
            raise EarthSSLError(
                f"rivals: expected exclude_days ≥ 0 and season_days ≥ 0 (or null), got {self.exclude_days} and "
                f"{self.season_days}"
            )

    def allowed(self, times: Int[Tensor, "2 sample"]) -> Bool[Tensor, "row candidate"]:
        """Return the fair negatives of every row.

        Args:
            times: When each view ends, UTC seconds.
        """
        # From the earliest on, so that single precision keeps seconds apart enough where double is not at hand.
        days = (times - times.min()).flatten().double() / DAY_S
        other = days.roll(times.shape[1])
        near = torch.minimum((days[:, None] - days).abs(), (other[:, None] - days).abs())
        out = near >= self.exclude_days
        if self.season_days is not None:
            year = YEAR_S / DAY_S
            apart = (other[:, None] - days).remainder(year)
            out = out & (torch.minimum(apart, year - apart) <= self.season_days)
        rows = torch.arange(len(days), device=days.device)
        out[rows, rows] = False
        out[rows, rows.roll(times.shape[1])] = False
        return out


def cosines(z: Float[Tensor, "row width"]) -> Float[Tensor, "row row"]:
    """Return the cosines between all embeddings, in single precision whatever the embeddings come in."""
    with torch.autocast(z.device.type, enabled=False):
        unit = nn.functional.normalize(z.float(), dim=1, eps=1e-6)
        return unit @ unit.T


@torch.no_grad()
def retrieval(
    likeness: Float[Tensor, "row candidate"], allowed: Bool[Tensor, "row candidate"]
) -> dict[str, Float[Tensor, ""]]:
    """Return how often a row's other view is more like it than every fair negative.

    Ties share the point, so that embeddings that are all the same score as chance does.

    Returns:
        accuracy: Mean over the rows that have a negative.
        skill: (accuracy - chance) / (1 - chance), chance being 1 / (1 + negatives); 0 where no row has any.
        negatives: Mean number of negatives of a row.
        alone: Share of the rows without any; they teach nothing and are not scored.
    """
    rows = torch.arange(len(likeness), device=likeness.device)
    right = likeness[rows, rows.roll(len(rows) // 2)][:, None]
    lost = (allowed & (likeness > right + TIE)).any(1)
    tied = (allowed & ((likeness - right).abs() <= TIE)).sum(1)
    count = allowed.sum(1)
    some = (count > 0).to(likeness.dtype)
    scored = some.sum().clamp(min=1)
    accuracy = (some * ~lost / (1 + tied)).sum() / scored
    chance = (some / (1 + count)).sum() / scored
    return {
        "accuracy": accuracy,
        "skill": (accuracy - chance) / (1 - chance),
        "negatives": count.to(likeness.dtype).mean(),
        "alone": 1 - some.mean(),
    }


class Means(Cue):
    """Looks only at time of year and at the area mean of each variable at each step of a view.

    Likeness is minus the distance in units of how much the two views of one window differ (Mahalanobis).
    """

    name = "time of year and area means"

    def __init__(self) -> None:
        self._precision: Tensor | None = None

    def fit(self, objective: Any, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Measure on training windows how the two views of a window differ."""
        posed = [torch.stack([_means(view) for view in objective.draw(batch)]) for batch in batches]
        both = torch.cat(posed, 1)
        apart = both[1] - both[0]
        ridge = 1e-3 * both.flatten(0, 1).var(0).mean().clamp(min=1e-6) * torch.eye(both.shape[2], dtype=both.dtype)
        self._precision = torch.linalg.inv(apart.T @ apart / len(apart) + ridge)

    def skill(self, objective: Any, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the skill of retrieval."""
        if self._precision is None:
            raise EarthSSLError("expected area means fitted on training windows, got none; call fit first")
        views = objective.draw(batch)
        x = torch.stack([_means(view) for view in views]).flatten(0, 1)
        apart = x[:, None] - x
        distance = torch.einsum("abi,ij,abj->ab", apart, self._precision, apart)
        return _skill(-distance, objective, views)


class Alike(Cue):
    """Takes for the other view the one whose map looks most alike: what a smooth, slow series gives away.

    Maps are means over the steps of the tokens that are shown; likeness is the correlation over the globe,
    averaged over the variables.
    """

    name = "fields most alike"

    def skill(self, objective: Any, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the skill of retrieval."""
        views = objective.draw(batch)
        maps = torch.stack([self._map(objective, view, patch) for view in views])
        unit = nn.functional.normalize(maps.flatten(0, 1), dim=2)
        return _skill(torch.einsum("avc,bvc->ab", unit, unit) / unit.shape[1], objective, views)

    def _map(self, objective: Any, view: Batch, patch: tuple[int, int, int]) -> Float[Tensor, "sample variable cell"]:
        """Return the mean map, its area mean removed, weighted so that products are area integrals."""
        patches = patchify(view, patch)
        shown = torch.ones(patches.values.shape[:2], dtype=torch.bool)
        keep = objective.shown(patches, view.keys)
        if keep is not None:
            shown = torch.zeros_like(shown).scatter_(1, keep, True)
        weight = (patches.valid & shown[..., None, None]) * patches.area[:, None]
        form = "b (t n) v c -> b v (n c)"
        total = reduce(weight, form, "sum", t=patches.shape[0])
        mean = reduce(weight * patches.values, form, "sum", t=patches.shape[0]) / total.clamp(min=1e-12)
        centre = (total * mean).sum(-1, keepdim=True) / total.sum(-1, keepdim=True).clamp(min=1e-12)
        return (mean - centre) * total.sqrt()


def _skill(likeness: Tensor, objective: Any, views: tuple[Batch, Batch]) -> float:
    times = torch.stack([view.times[:, -1] for view in views])
    return float(retrieval(likeness, objective.views.rivals.allowed(times))["skill"])


def _means(view: Batch) -> Float[Tensor, "sample number"]:
    """Return sin and cos of the time of year, and area means by step and variable."""
    angle = view.times[:, -1].double() * (2 * torch.pi / YEAR_S)
    area = torch.from_numpy(view.grid.area) * view.valid
    mean = (area * view.values).sum((-1, -2)) / area.sum((-1, -2)).clamp(min=1e-12)
    return torch.cat([angle.sin()[:, None], angle.cos()[:, None], rearrange(mean, "b t v -> b (t v)")], 1)

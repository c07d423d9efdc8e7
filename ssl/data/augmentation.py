"""Augmentation of training batches: changes that keep what is true of a state, each switched on by itself.

Mirrored, turned and noisy windows are windows that might have been: vector components and vorticities turn along, and a
mirrored planet has its seasons half a year later. What the grid, a land mask or standing waves contradict is refused.
Left out on purpose: other amplitudes, mixed variables and mixed seasons, for these are what labels are made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.errors import EarthSSLError
from ..common.randomness import fold, key, uniform
from ..fields.batch import Batch
from ..fields.grid import LatLonGrid
from ..fields.reflections import turn
from ..store.store import Store

HALF_YEAR = 183 * 86400  # seconds, in whole days: the time of day stays
STANDING = 0.05  # of the anomalies' variance: more of a mean state that varies along a latitude is orography or coast
LEAST, GREATEST = 2.0**-25, 1 - 2.0**-24  # between which the normal distribution's quantiles are finite
EVERY = ("mirror", "roll", "noise", "step_dropout", "region_dropout")  # names of the augmentations


@dataclass(frozen=True)
class AugmentConfig:
    """How training batches are changed; nothing by default. Variables are left out by `variable_dropout`.

    Attributes:
        mirror: Chance that a whole batch is mirrored in the equator: rows, northward components, vorticities, and the
            seasons, half a year on. Needs a grid, a land mask and a mean state that are the same on both sides.
        roll: Whether every batch is turned by a longitude of its own. Needs the whole globe, and neither land nor
            standing waves nor steps shorter than a day: all that would stay behind.
        noise: Size of the noise on the encoder's steps, where 1 is that of the anomalies. It has their covariance in
            space, time and over variables: a random sum of the other windows of the batch.
        step_dropout: Chance of leaving a step of the encoder's window out of a sample (one always stays).
        region_dropout: Chance of leaving a region out of a sample, at all of the encoder's steps.
        region: Share of the grid's area that such a region covers: a cap about a place drawn for each sample.
    """

    mirror: float = 0.0
    roll: bool = False
    noise: float = 0.0
    step_dropout: float = 0.0
    region_dropout: float = 0.0
    region: float = 0.1

    def __post_init__(self) -> None:
        for name in ("mirror", "step_dropout", "region_dropout"):
            if not 0 <= getattr(self, name) <= (0.99 if name == "step_dropout" else 1):
                raise EarthSSLError(f"augment.{name}: expected a chance in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.noise < float("inf"):
            raise EarthSSLError(f"augment.noise: expected a size ≥ 0, got {self.noise}")
        if not 0 < self.region < 1:
            raise EarthSSLError(f"augment.region: expected a share in (0, 1), got {self.region}")


def check_augmentation(config: AugmentConfig, store: Store, refused: Iterable[str] = ()) -> None:
    """Refuse what would make a store's windows, or the tasks' answers, untrue.

    Args:
        config: The augmentations.
        store: Whose windows they change.
        refused: Names of those that a task cannot bear.

    Raises:
        EarthSSLError: That says which one, and why.
    """
    asked = {name for name in ("mirror", "roll", "noise", "step_dropout", "region_dropout") if getattr(config, name)}
    barred = sorted(asked & set(refused))
    if barred:
        raise EarthSSLError(
            f"augment.{barred[0]}: expected none, as it would make the answers of one of the pretext tasks untrue (it "
            "asks how the map was turned, or what a rule fitted on the data as they are leaves over); leave either out"
        )
    known, grid = store.statistics.known, store.grid
    if config.mirror:
        if not np.allclose(grid.lat, -grid.lat[::-1], atol=1e-4):
            raise EarthSSLError(
                f"augment.mirror: expected latitudes that are the same on both sides of the equator, got {grid}; set "
                "it to 0, or take another region"
            )
        if not (known == known[:, ::-1]).all():
            raise EarthSSLError(
                "augment.mirror: expected land and sea alike on both sides of the equator, got another mask "
                f"({_unlike(store, known == known[:, ::-1])}); set it to 0"
            )
        _refuse_above_standing(unlike_hemispheres(store), "mirror", "hemispheres of like climates")
    if config.roll:
        if not grid.periodic:
            raise EarthSSLError(f"augment.roll: expected a grid that goes round the globe, got {grid}; set it to false")
        if not (known == known[:, :, :1]).all():
            raise EarthSSLError(
                "augment.roll: expected no land mask, for coasts would stay behind, got one "
                f"({_unlike(store, known == known[:, :, :1])}); set it to false"
            )
        if store.step_days < 1:
            raise EarthSSLError(
                f"augment.roll: expected steps of a day at least, for the sun would stay behind, got {store.step_days} "
                "days; set it to false"
            )
        what = "a mean state without standing waves, for mountains and coasts would stay behind"
        _refuse_above_standing(standing_waves(store), "roll", what)


def _refuse_above_standing(shares: dict[str, float], name: str, expected: str) -> None:
    worst = max(shares, key=shares.__getitem__)
    if shares[worst] > STANDING:
        raise EarthSSLError(
            f"augment.{name}: expected {expected}, got {worst} with {shares[worst]:.0%} of the variance of its "
            f"anomalies (at most {STANDING:.0%}); leave {name} out"
        )


def _unlike(store: Store, alike: np.ndarray) -> str:
    """Return the variables that are not alike everywhere."""
    return ", ".join(name for name, own in zip(store.variables, alike, strict=True) if not own.all())


def standing_waves(store: Store) -> dict[str, float]:
    """Return, by variable, the variance along latitudes of the mean state over the variance of the anomalies."""
    mean = store.statistics.coefficients[:, 0].mean(axis=0)
    return _over_anomalies(store, mean - mean.mean(axis=-1, keepdims=True))


def unlike_hemispheres(store: Store) -> dict[str, float]:
    """Return, by variable, the variance by which the mean state is not its mirror image over that of the anomalies."""
    mean = store.statistics.coefficients[:, 0].mean(axis=0)
    image = turn(torch.from_numpy(np.ascontiguousarray(mean)), store.variables, "north-south").numpy()
    return _over_anomalies(store, (mean - image) / 2)


def _over_anomalies(store: Store, part: np.ndarray) -> dict[str, float]:
    area, scale = store.grid.area, store.statistics.scale
    power = np.nansum(area * part**2, axis=(-1, -2)) / np.nansum(area * scale**2, axis=(-1, -2))
    return dict(zip(store.variables, power.astype(float).tolist(), strict=True))


def augmented(config: AugmentConfig, batch: Batch, window: int) -> Batch:
    """Return the batch changed as configured; draws come from its number and the keys of its samples.

    Args:
        config: The augmentations.
        batch: Windows, of the encoder's steps and those after them.
        window: Steps that the encoder sees: noise and gaps are laid into these alone, so that a forecast is asked for
            what really came.
    """
    if config.mirror and float(_drawn(batch, "mirror")) < config.mirror:
        batch = mirrored(batch)
    if config.roll:
        batch = rolled(batch, int(_drawn(batch, "roll") * batch.values.shape[-1]))
    if config.noise:
        batch = noisy(batch, config.noise, window)
    if config.step_dropout:
        batch = hide(batch, _steps(batch, config.step_dropout, window)[:, :, None, None, None], window)
    if config.region_dropout:
        lost = uniform(fold(batch.keys, key(0, "region dropout")), 1) < config.region_dropout
        cells = region(batch.grid, batch.keys, config.region) & lost[:, :, None]
        batch = hide(batch, cells[:, None, None], window)
    return batch


def _drawn(batch: Batch, purpose: str) -> Tensor:
    """Return a number in [0, 1) that is the same for all of a batch, on every rank."""
    return uniform(torch.tensor([key(0, purpose, batch.number)]), 1)[0, 0]


def mirrored(batch: Batch) -> Batch:
    """Return the batch as on the planet's mirror image: north is south, and summer comes half a year later."""
    kind = "north-south"
    return replace(
        batch,
        values=turn(batch.values, batch.variables, kind),
        valid=batch.valid.flip(-2),
        known=batch.known.flip(-2),
        times=batch.times + HALF_YEAR,
    )


def rolled(batch: Batch, columns: int) -> Batch:
    """Return the batch turned about the poles by so many columns."""
    return replace(
        batch,
        values=batch.values.roll(columns, -1),
        valid=batch.valid.roll(columns, -1),
        known=batch.known.roll(columns, -1),
    )


def noisy(batch: Batch, size: float, window: int) -> Batch:
    """Return the batch with noise on its first steps: a sum of the other samples' windows by random normal factors.

    Its covariance over steps, variables and cells is size² times theirs. A batch of one sample has none.
    """
    count = len(batch)
    if count < 2:
        return batch
    numbers = uniform(fold(batch.keys, key(0, "climatological noise")), count)
    factors = torch.special.ndtri(numbers.clamp(LEAST, GREATEST)).fill_diagonal_(0)
    early = batch.values[:, :window] * batch.valid[:, :window]
    noise = (size / (count - 1) ** 0.5) * (factors @ early.flatten(1)).view_as(early)
    values = torch.cat([early + noise * batch.valid[:, :window], batch.values[:, window:]], 1)
    return replace(batch, values=values)


def _steps(batch: Batch, rate: float, window: int) -> Bool[Tensor, "batch step"]:
    """Return which of the first steps are left out of each sample; one stays."""
    draws = uniform(fold(batch.keys, key(0, "step dropout")), min(window, batch.values.shape[1]))
    return (draws < rate) & (draws < draws.amax(1, keepdim=True))


def region(grid: LatLonGrid, keys: Int[Tensor, " batch"], share: float) -> Bool[Tensor, "batch row column"]:
    """Return a cap of cells for every key that covers a share of the grid's area, about a cell drawn by area."""
    area = torch.from_numpy(grid.area).to(keys.device).flatten()
    points = _points(grid).to(keys.device)
    edges = area.cumsum(0)
    places = uniform(fold(keys, key(0, "region")), 1)[:, 0].to(edges) * edges[-1]
    centre = torch.searchsorted(edges, places, right=True).clamp(max=len(edges) - 1)
    order = (points[centre] @ points.T).argsort(dim=1, descending=True, stable=True)
    inside = area[order].cumsum(1) <= share * edges[-1]
    inside[:, 0] = True
    return torch.zeros_like(inside).scatter(1, order, inside).unflatten(1, grid.shape)


def _points(grid: LatLonGrid) -> Float[Tensor, "cell 3"]:
    """Return the unit vectors of the cells."""
    lat, lon = (torch.from_numpy(np.deg2rad(x)) for x in np.meshgrid(grid.lat, grid.lon, indexing="ij"))
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1).flatten(0, 1)


def hide(batch: Batch, gone: Tensor, window: int) -> Batch:
    """Return the batch with cells of its first steps, (batch, step, variable, row, column) or 1, unobserved."""
    shown = torch.cat([(~gone).expand_as(batch.valid[:, :window]), torch.ones_like(batch.valid[:, window:])], 1)
    return replace(batch, values=batch.values * shown, valid=batch.valid & shown)

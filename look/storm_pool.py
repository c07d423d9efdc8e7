"""Storms for the simulation of active learning: a label says whether a storm's centre lies in a tile at a time.

Tiles are the encoder's patches, their features its tokens of the last step from its last block, as in `storm_tiles`.
"""

from __future__ import annotations

import numpy as np

from ..downstream.storms.best_tracks import best_tracks, tidy
from ..downstream.tasks.storm_tiles.labels import TileLabels
from ..ssl.common.errors import EarthSSLError
from ..ssl.inference.frozen_encoder import FrozenEncoder
from ..ssl.sources.planet.recorded import recorded_planet
from ..ssl.store.store import Store
from .simulate import Pool
from .states import Progress, Work, fits

PLANET = "planet"
SPACING_HOURS = 24  # neighbouring steps say nearly the same
MOST_TRAINING, MOST_TEST = 50_000, 20_000  # tiles; of more, times evenly spread
UNIT_WEEKS = 2  # storms live no longer
NO_DAY = 1e6  # days between tiles, so that only labels of one tile must lie apart


def storm_pool(store: Store, frozen: FrozenEncoder, tracks: str, least_wind_kt: float) -> tuple[Pool, str]:
    """Return the tiles of the training and test blocks with their labels, and what the labels say.

    Args:
        store: With steps of a day at most.
        frozen: The encoder: its patches are the tiles.
        tracks: planet (those of the store's own planet), ibtracs, or a table as `best_tracks` takes it.
        least_wind_kt: Records with less wind are no storm.

    Raises:
        EarthSSLError: If the encoder does not fit, there are no such tracks, or a block has one class only.
    """
    fits(frozen, store)
    table = tidy(recorded_planet(store.manifest["attributes"]).tracks(), PLANET) if tracks == PLANET else None
    found = TileLabels.from_store(
        store, best_tracks(tracks) if table is None else table, frozen.record.encoder, SPACING_HOURS, least_wind_kt
    )
    places = found.storms.shape[1]
    train, test = (_thinned(np.flatnonzero(found.part == part), most // places)
                   for part, most in (("train", MOST_TRAINING), ("test", MOST_TEST)))  # fmt: skip
    work = Work(frozen, store, Progress(), len(train) + len(test))
    features, test_features = (work.both(found.steps[chosen])[0] for chosen in (train, test))
    if features.shape[1] % places:
        raise EarthSSLError(f"{store.path}: expected all variables of the checkpoint, got fewer: tiles do not match")
    days = found.times.astype(np.float64) / 86400
    return Pool(
        features.reshape(len(train) * places, -1), found.storms[train].ravel().astype(int),
        (days[train][:, None] + NO_DAY * np.arange(places)).ravel(),
        test_features.reshape(len(test) * places, -1), found.storms[test].ravel().astype(int),
        np.repeat(found.week[test] // UNIT_WEEKS, places), "fortnights",
    ), found.name  # fmt: skip


def _thinned(chosen: np.ndarray, most: int) -> np.ndarray:
    """Return some of these, evenly spread."""
    return chosen[np.unique(np.linspace(0, len(chosen) - 1, max(1, min(most, len(chosen)))).astype(int))]

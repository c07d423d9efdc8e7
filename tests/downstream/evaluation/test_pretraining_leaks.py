"""What an encoder was trained on, before and beside, must lie apart from the test block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.downstream.evaluation.encoders import check_fits
from earthssl.downstream.evaluation.pretraining_leaks import seen_by_pretraining
from earthssl.ssl.checkpoint.read import read
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.store.store import Store

LATE = ("2050-01-01", "2051-01-01")
CLEAN = ("1981-01-01", "2000-01-01"), ("2001-01-01", "2002-01-01")
SEEN = ("1981-01-01", "2007-06-01"), ("2020-01-01", "2021-01-01")


def earlier(blocks: tuple[Any, Any], source: str = "files: ERA5", **more: Any) -> dict[str, Any]:
    splits = {"train": blocks[0], "val": blocks[1], "test": LATE, "embargo_days": 0}
    return {"source": source, "splits": splits, **more}


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store(small_store)


def test_what_any_ancestor_saw_was_seen(store: Store) -> None:
    assert seen_by_pretraining([earlier(CLEAN)], store) == []
    said = seen_by_pretraining([earlier(SEEN), earlier(CLEAN)], store)
    assert len(said) == 1
    assert "train block (1981-01-01…2007-06-01) reaches into the store's test block" in said[0]


def test_blocks_nearer_than_the_embargo_are_named(store: Store) -> None:
    end = store.splits.test[0] - 86400 * 10**9 * 10
    near = CLEAN[0], ("2001-01-01", str(end)[:10])
    assert store.splits.embargo_days > 11
    assert "nearer than the embargo" in seen_by_pretraining([earlier(near)], store)[0]


def test_planets_share_no_history_with_the_earth_nor_with_planets_of_other_seeds(store: Store) -> None:
    assert seen_by_pretraining([earlier(SEEN, "planet (synthetic)")], store) == []
    planet = Store(store.path)
    planet.manifest = {**store.manifest, "source": "planet (synthetic)", "attributes": {"planet": '{"seed": 3}'}}
    assert seen_by_pretraining([earlier(SEEN, "planet (synthetic)", planet_seed=4)], planet) == []
    for known in ({"planet_seed": 3}, {}):
        assert seen_by_pretraining([earlier(SEEN, "planet (synthetic)", **known)], planet)


def test_columns_share_sites_or_not_whatever_their_made_up_dates_say(small_run: Path, store: Store) -> None:
    own, other, old = (
        "RFMIP-IRF columns (deal 0123456789ab)",
        "RFMIP-IRF columns (deal fedcba987654)",
        "RFMIP-IRF columns",
    )
    columns = Store(store.path)
    columns.manifest = {**store.manifest, "source": own}
    assert seen_by_pretraining([earlier(CLEAN, f"{own} and more.nc")], columns) == []
    for source in (other, old):
        for trainings in ([earlier(CLEAN, source)], [earlier(CLEAN, source), earlier(CLEAN, own)]):  # before, too
            said = seen_by_pretraining(trainings, columns)
            assert len(said) == 1
            assert "may have seen the store's test sites or held-out experiments" in said[0]
    _, record = read(small_run / "checkpoint")
    for same in (False, True):
        with pytest.raises(EarthSSLError, match=r"splits: the encoder's columns were dealt out otherwise"):
            check_fits(small_run, replace(record, source=other), columns, record, other_statistics=same)


def test_data_sets_beside_home_and_earlier_checkpoints_count(small_run: Path, store: Store) -> None:
    _, record = read(small_run / "checkpoint")
    check_fits(small_run, record, store, record)
    beside = [{"world": "home"}, {**earlier(SEEN, record.source), "world": "home"}]
    free_run = [beside[0], {**beside[1], "world": "model"}]  # of a climate model: not the weather of the store
    for extra, fits in (
        ({"data_sets": beside}, False),
        ({"data_sets": free_run}, True),
        ({"ancestors": [earlier(SEEN, record.source)]}, False),
        ({"ancestors": [earlier(CLEAN, record.source)]}, True),
    ):
        own = replace(record, extra=extra)
        if fits:
            check_fits(small_run, own, store, own)
            continue
        with pytest.raises(EarthSSLError, match=r"train block .* reaches into the store's test block"):
            check_fits(small_run, own, store, own)


def test_another_climatology_is_taken_where_it_is_said(small_run: Path, store: Store) -> None:
    """Another planet's mean state and scale; but not another kind of climatology, nor silently."""
    _, record = read(small_run / "checkpoint")
    old = record.statistics
    warmer = replace(record, fingerprint="other", statistics=replace(old, coefficients=old.coefficients + 1))
    with pytest.raises(EarthSSLError, match=r"normalised otherwise .* set other_statistics"):
        check_fits(small_run, warmer, store, warmer)
    check_fits(small_run, warmer, store, warmer, other_statistics=True)
    scaled = replace(warmer, statistics=replace(old, scale=np.repeat(old.scale[..., :1, :1], 2, axis=-1)))
    with pytest.raises(EarthSSLError, match="normalised otherwise"):
        check_fits(small_run, scaled, store, scaled, other_statistics=True)


def test_another_region_of_the_same_spacing_is_taken_where_it_is_said(small_run: Path, store: Store) -> None:
    _, record = read(small_run / "checkpoint")
    grid = record.grid
    moved = replace(record, grid=LatLonGrid(grid.lat, grid.lon + 1.0))
    with pytest.raises(EarthSSLError, match="grid: expected "):
        check_fits(small_run, moved, store, moved)
    check_fits(small_run, moved, store, moved, other_grid=True)
    smaller = replace(moved, fingerprint="other", statistics=replace(record.statistics, **{
        name: getattr(record.statistics, name)[..., 1:, 1:] for name in ("scale", "coefficients")
    }))  # fmt: skip
    check_fits(small_run, smaller, store, smaller, other_statistics=True, other_grid=True)
    with pytest.raises(EarthSSLError, match="normalised otherwise"):
        check_fits(small_run, smaller, store, smaller, other_grid=True)
    one = np.ones_like(smaller.statistics.scale)
    even = replace(smaller, statistics=replace(smaller.statistics, scale=one))
    with pytest.raises(EarthSSLError, match="normalised otherwise"):
        check_fits(small_run, even, store, even, other_statistics=True, other_grid=True)
    coarser = replace(record, grid=LatLonGrid(grid.lat[::2], grid.lon[::2]))
    with pytest.raises(EarthSSLError, match="grid: expected "):
        check_fits(small_run, coarser, store, coarser, other_grid=True)

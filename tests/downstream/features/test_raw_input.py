"""What every table reads without an encoder: the raw window, random features of it, and directions that predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from earthssl.downstream.features import raw_window as module
from earthssl.downstream.features.eof import window_components
from earthssl.downstream.features.predictable import predictable_directions
from earthssl.downstream.features.random_features import random_relu
from earthssl.downstream.features.raw_window import raw_window
from earthssl.ssl.store.store import Store


def test_the_raw_window_holds_every_known_value_newest_first(small_store: Path) -> None:
    store = Store(small_store)
    raw = raw_window(store, 3)
    fields = store.read(np.arange(len(store.times)))
    known = np.isfinite(fields).any(axis=0)
    assert raw.shape == (len(store.times), 3 * known.sum())
    assert np.isnan(raw[:2]).all()
    assert np.isfinite(raw[2:]).all()
    root = np.broadcast_to(np.sqrt(store.grid.area / store.grid.area.mean()), known.shape)
    own = (np.nan_to_num(fields) * root)[:, known]
    assert raw[7] == pytest.approx(np.concatenate([own[7], own[6], own[5]]), rel=1e-5, abs=1e-6)


def test_too_many_values_are_averaged_over_blocks_by_area(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(small_store)
    monkeypatch.setattr(module, "MOST_VALUES", 100)
    raw = raw_window(store, 1)
    assert 0 < raw.shape[1] <= 100
    fields = store.read(np.arange(4))[:, 1]  # u10, everywhere known
    factor = next(f for f in range(1, 9) if 3 * -(-7 // f) * -(-12 // f) <= 100)
    area = np.broadcast_to(store.grid.area, (7, 12))
    block = (slice(None), slice(0, factor), slice(0, factor))
    mean = (fields[block] * area[block[1:]]).sum((1, 2)) / area[block[1:]].sum()
    found = raw[:4, raw.shape[1] // 3 :]
    ratio = found / mean[:, None]
    assert np.ptp(ratio, axis=0).min() < 1e-4  # one of the columns is this mean, times a constant


def test_random_features_are_a_function_of_the_seed_and_of_training_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 6)).astype(np.float32)
    values[3] = np.nan
    training = np.arange(30)
    first, again, other = (random_relu(values, training, 20, seed) for seed in (0, 0, 1))
    assert first.shape == (50, 20)
    assert np.array_equal(first, again, equal_nan=True)
    assert not np.array_equal(first, other, equal_nan=True)
    assert np.isnan(first[3]).all()
    assert (first[np.arange(50) != 3] >= 0).all()
    later = values.copy()
    later[40:] *= 5
    assert np.array_equal(random_relu(later, training, 20, 0)[:40], first[:40], equal_nan=True)
    # Standardised: neither unit nor origin of a value matters.
    assert random_relu(values * 1000 + 7, training, 20, 0)[4] == pytest.approx(first[4], abs=1e-2)


def test_random_features_tell_what_is_not_linear_in_the_values() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2000, 2))
    wanted = values[:, 0] * values[:, 1]
    for features, least, most in ((values, -0.1, 0.1), (random_relu(values, np.arange(1000), 200, 0), 0.8, 1.0)):
        design = np.column_stack([features, np.ones(len(features))])
        weights = np.linalg.lstsq(design[:1000], wanted[:1000], rcond=1e-6)[0]
        error = wanted[1000:] - design[1000:] @ weights
        assert least < 1 - error.var() / wanted[1000:].var() < most


def test_components_are_those_of_the_training_samples_and_keep_gaps() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 3, 5)) * [5, 3, 1, 0.5, 0.1]
    values[7, 1] = np.nan
    found = window_components(values, np.arange(20), [2, 4, 50])
    assert list(found) == ["2 components", "4 components", "5 components"]
    assert np.isnan(found["2 components"][7, 1]).all()
    own = values[:20].reshape(-1, 5)
    own = own[np.isfinite(own).all(1)]
    direction = np.linalg.svd(own - own.mean(0))[2][0]
    expected = (values[30, 2] - own.mean(0)) @ direction
    assert abs(found["2 components"][30, 2, 0]) == pytest.approx(abs(expected))


def test_predictable_directions_of_a_wave_forecast_it_perfectly(wave_store: Path) -> None:
    """The future is a linear function of the present: two directions hold it; of noise there would be none."""
    store = Store(wave_store)
    found = predictable_directions(store, 1, [2])
    features = next(iter(found.values()))
    ahead = store.read(np.arange(len(store.times)))[:, 0, 3, 2]
    rows = np.arange(len(store.times) - 2)
    test = rows >= 300
    design = np.column_stack([features[rows], np.ones(len(rows))])
    weights = np.linalg.lstsq(design[~test], ahead[rows + 2][~test], rcond=None)[0]
    error = ahead[rows + 2][test] - design[test] @ weights
    assert error.var() < 1e-4 * ahead.var()

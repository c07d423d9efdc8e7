"""States and analogues: brute force, exclusion windows, the file that keeps them, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.look.states import Progress, States, analogues, cached, compute, fits
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.store.store import Store


@pytest.fixture
def states(make_look: Callable[..., Any]) -> States:
    return make_look().progress.states()


def test_features_are_components_of_the_encoders_tokens(states: States, small_store: Path, small_run: Path) -> None:
    """Distances between states are those of the singular vectors of the last step's tokens in training."""
    store, frozen = Store(small_store), load_encoder(small_run)
    tokens = frozen.embed(store.dataset(), pooling="tokens", check_range=False)
    last = tokens.values[:, tokens["step"].values == frozen.record.encoder.window - 1].reshape(len(tokens), -1)
    assert states.rows.tolist() == list(range(2, 360))
    training = last[store.splits.inside(store.times[states.rows].astype("datetime64[ns]"), "train")].astype(float)
    _, _, vectors = np.linalg.svd(training - training.mean(0), full_matrices=False)
    expected = (last - training.mean(0)) @ vectors[:50].T
    kept = np.linalg.norm(states.features[50] - states.features, axis=1)
    np.testing.assert_allclose(kept, np.linalg.norm(expected[50] - expected, axis=1), rtol=1e-3, atol=1e-3)
    assert states.features.shape == (358, 50)


@pytest.mark.parametrize("space", ["features", "components", "fields"])
def test_analogues_are_the_nearest_by_brute_force(states: States, small_store: Path, space: str) -> None:
    store, step, days = Store(small_store), 120, 100.0
    if space == "fields":
        fields = store.read_all()
        area = store.grid.area
        gap = np.square(fields - fields[step])
        valid = np.isfinite(gap)
        distance = np.sqrt((np.where(valid, gap, 0) * area).sum((1, 2, 3)) / (valid * area).sum((1, 2, 3)))[states.rows]
    else:
        values = getattr(states, space)
        distance = np.linalg.norm(values - values[states.rows == step], axis=1)
    when = store.times[states.rows].astype("datetime64[D]").astype(int)
    far = np.abs(when - when[states.rows == step]) > days
    usual = distance[far].mean()
    order = [k for k in np.argsort(distance) if far[k]]
    expected: list[int] = []
    for k in order:
        if len(expected) < 5 and all(abs(when[k] - when[j]) > days for j in expected):
            expected.append(int(k))
    found = analogues(states, store, step, space, 5, days)
    assert [one.step for one in found] == states.rows[expected].tolist()
    np.testing.assert_allclose([one.distance for one in found], distance[expected] / usual, rtol=1e-4)


def test_without_exclusion_the_neighbour_counts_but_never_the_date_itself(states: States, small_store: Path) -> None:
    found = analogues(states, Store(small_store), 120, "components", 400, 0)
    steps = [one.step for one in found]
    assert 120 not in steps
    assert len(steps) == len(set(steps)) == 357


def test_what_cannot_be_asked_is_refused(states: States, small_store: Path) -> None:
    store = Store(small_store)
    with pytest.raises(EarthSSLError, match="a window of the encoder ends"):
        analogues(states, store, 1, "features", 3, 0)  # before the first whole window
    with pytest.raises(EarthSSLError, match="exclude: expected"):
        analogues(states, store, 9, "features", 3, -1)
    with pytest.raises(EarthSSLError, match="space: expected"):
        analogues(states, store, 9, "colours", 3, 0)


def test_the_file_is_used_again_and_made_again_where_it_is_cut(small_store: Path, small_run: Path, look_states: Path,
                                                              tmp_path: Path) -> None:  # fmt: skip
    store, frozen = Store(small_store), load_encoder(small_run)
    first = cached(tmp_path, frozen, store, "weights")
    file = next(tmp_path.glob("states-*"))
    before = file.stat().st_mtime_ns
    second = cached(tmp_path, frozen, store, "weights")
    assert file.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.features, second.features)
    file.write_bytes(file.read_bytes()[:1000])
    third = cached(tmp_path, frozen, store, "weights")
    np.testing.assert_array_equal(first.features, third.features)
    cached(tmp_path, frozen, store, "other weights")
    assert len(list(tmp_path.glob("*"))) == 2


def test_the_page_gets_from_one_to_twenty_analogues(make_look: Callable[..., Any]) -> None:
    look = make_look()
    for count, expected in ((-1, 1), (0, 1), (3, 3), (10**9, 20)):
        query = {"step": "120", "exclude": "0", "spaces": "features", "count": str(count)}
        assert len(json.loads(look.get("api/analogues", query).body)["features"]) == expected


def test_a_stop_ends_the_work_and_leaves_nothing(small_store: Path, small_run: Path, tmp_path: Path) -> None:
    progress = Progress()
    with pytest.raises(EarthSSLError, match="being computed"):
        progress.states()
    progress.stopped.set()
    with pytest.raises(EarthSSLError, match="stopped"):
        cached(tmp_path, load_encoder(small_run), Store(small_store), "w", progress)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_one(small_store: Path, small_run: Path) -> None:
    progress = Progress()
    compute(load_encoder(small_run), Store(small_store), progress)
    assert progress.share == 1


def test_an_encoder_of_another_grid_is_refused(small_store: Path) -> None:
    with pytest.raises(EarthSSLError, match="on the checkpoint's grid"):
        fits(load_encoder("registry/ersst"), Store(small_store))

"""Features of the frozen encoder: the same as `embed` gives, cached, and fitted on training times only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.downstream.features.frozen_features import RawFeatures, cache_name, cached, candidates, extract
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store


@pytest.fixture(scope="module")
def made(small_store: Path) -> tuple[Any, Store, RawFeatures]:
    store = Store(small_store)
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3)).build(store.variables)
    return encoder, store, extract(encoder, store, [1, 2], "test", batch_size=50)


def training(store: Store) -> np.ndarray:
    return store.splits.inside(store.times.astype("datetime64[ns]"), "train")


def test_every_month_with_a_whole_window_has_features(made: tuple[Any, Store, RawFeatures]) -> None:
    _, store, raw = made
    assert raw.rows.tolist() == list(range(2, len(store.times)))
    assert raw.mean.shape == (2, len(raw.rows), 64)
    assert raw.tokens.shape[:2] == raw.mean.shape[:2]


def test_pooled_features_are_means_of_the_tokens(made: tuple[Any, Store, RawFeatures]) -> None:
    _, _, raw = made
    assert np.allclose(raw.last, raw.tokens.astype(np.float32).mean(2), atol=2e-3)  # tokens are float16


def test_features_of_a_window_see_that_window_only(made: tuple[Any, Store, RawFeatures]) -> None:
    """Poison every month after one and every month before its window: its features stay as they are."""
    encoder, store, raw = made
    at = 100

    class Poisoned(Store):
        def read(self, steps: Any) -> np.ndarray:
            values = super().read(steps)
            values[: at - 2] += 100
            values[at + 1 :] -= 100
            return values

    other = extract(encoder, Poisoned(store.path), [1, 2], "poisoned", batch_size=50)
    k = int(np.flatnonzero(raw.rows == at)[0])
    assert np.array_equal(other.mean[:, k], raw.mean[:, k])
    assert not np.allclose(other.mean[:, k + 1], raw.mean[:, k + 1])
    assert not np.allclose(other.mean[:, k - 1], raw.mean[:, k - 1])


def test_components_are_fitted_on_training_months_only(made: tuple[Any, Store, RawFeatures]) -> None:
    _, store, raw = made
    train = training(store)
    before = candidates(raw, len(store.times), train, [1, 2], ["pcs"], [4])["pcs"]
    later = raw.tokens.copy()
    later[:, ~train[raw.rows]] += 5
    changed = RawFeatures(**{**vars(raw), "tokens": later})
    after = candidates(changed, len(store.times), train, [1, 2], ["pcs"], [4])["pcs"]
    for name, values in before.items():
        assert np.array_equal(after[name][train], values[train], equal_nan=True), name


def test_candidates_are_named_and_placed(made: tuple[Any, Store, RawFeatures]) -> None:
    _, store, raw = made
    found = candidates(raw, len(store.times), training(store), [1, 2], ["mean", "last", "mean+pcs"], [4, 6])
    assert {pooling: len(sets) for pooling, sets in found.items()} == {"mean": 2, "last": 2, "mean+pcs": 4}
    for values in (values for sets in found.values() for values in sets.values()):
        assert len(values) == len(store.times)
        assert np.isnan(values[:2]).all()
        assert np.isfinite(values[2:]).all()
    assert found["mean+pcs"]["layer 3, mean + 4 PCs of last step's tokens"].shape[1] == 68


def test_an_unknown_pooling_names_the_nearest(made: tuple[Any, Store, RawFeatures]) -> None:
    _, store, raw = made
    with pytest.raises(EarthSSLError, match="Did you mean 'mean'"):
        candidates(raw, len(store.times), training(store), [1, 2], ["meen"], [4])


def test_the_cache_returns_what_it_was_given_and_survives_damage(
    made: tuple[Any, Store, RawFeatures], tmp_path: Path
) -> None:
    encoder, store, raw = made
    file = tmp_path / "cache" / cache_name("weights", store, [1, 2])
    first = cached(file, encoder, store, [1, 2], "test")
    again = cached(file, torch.nn.Identity(), store, [1, 2], "test")  # type: ignore[arg-type]
    for name in vars(raw):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    file.write_bytes(file.read_bytes()[:100])
    mended = cached(file, encoder, store, [1, 2], "test")
    assert np.array_equal(mended.mean, first.mean)
    assert cache_name("weights", store, [2]) != file.name != cache_name("others", store, [1, 2])

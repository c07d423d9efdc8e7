"""Features by patch: cut as the encoder cuts, put together again, and never from the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from earthssl.downstream.features.patches import PatchFeatures, PatchGrid, encoder_features, pca_features, raw_features
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import from_fields
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.store.store import Store


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store(small_store)


@pytest.fixture(scope="module")
def encoder(store: Store) -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", 4, (2, 2, 3)).build(store.variables).requires_grad_(False)


@pytest.mark.parametrize("patch", [(2, 3), (3, 5), (7, 12)])
def test_cut_and_join_are_inverse(store: Store, patch: tuple[int, int]) -> None:
    """Also on grids that the patch does not divide; of some of the variables as of all."""
    grid = PatchGrid(store, patch)
    fields = store.read([5, 9])
    for chosen in ([0, 1, 2], [0], [2]):
        part = fields[:, chosen]
        joined = grid.join(grid.cut(part), len(chosen))
        np.testing.assert_array_equal(joined, part)


def test_places_are_those_of_the_encoders_tokens(store: Store, encoder: Encoder) -> None:
    grid = PatchGrid(store, (2, 3))
    fields = torch.from_numpy(store.read([8, 9]))[None]
    known = torch.from_numpy(store.statistics.known)
    zeros = torch.zeros(1, dtype=torch.int64)
    batch = from_fields(fields, torch.zeros(1, 2, dtype=torch.int64), zeros, known, store.variables, store.grid)
    values = patchify(batch, (1, 2, 3)).values[0].flatten(1).numpy().reshape(2, -1, 18)
    np.testing.assert_array_equal(np.nan_to_num(grid.cut(store.read([8, 9]))), values)
    assert grid.area.sum() == pytest.approx(1)
    weight = grid.weight([0])
    assert weight.shape == (len(grid.area), 6)
    assert (weight.max(axis=1) == pytest.approx(grid.area)) or (weight == 0).any()
    known_cells = (weight > 0).sum()
    assert known_cells == store.statistics.known[0].sum()


def test_features_are_the_tokens_of_the_last_patch_and_their_mean_in_time(store: Store, encoder: Encoder) -> None:
    fields = store.read_all()
    found = encoder_features(
        encoder, store, fields, np.arange(90, 110), [0, 2], ["last", "mean+last"], "test", batch_size=8
    )
    at = 100
    known, zeros = torch.from_numpy(store.statistics.known), torch.zeros(1, dtype=torch.int64)
    seconds = torch.from_numpy(store.times.astype(np.int64))[None, at - 3 : at + 1]
    window = torch.from_numpy(fields[at - 3 : at + 1])[None]
    patches = patchify(from_fields(window, seconds, zeros, known, store.variables, store.grid), (2, 2, 3))
    with torch.no_grad():
        tokens = encoder.eval().layers(patches)[2][0]
    steps = [tokens[patches.step == k].numpy() for k in range(2)]
    np.testing.assert_allclose(found[2, "last"].at(np.array([at]))[0], steps[1], atol=4e-3)  # float16
    both = found[2, "mean+last"].at(np.array([at]))[0]
    np.testing.assert_allclose(both[:, :64], (steps[0] + steps[1]) / 2, atol=4e-3)
    np.testing.assert_allclose(both[:, 64:], steps[1], atol=4e-3)
    assert found[0, "last"].rows.tolist() == list(range(90, 110))


def test_features_see_their_window_only(store: Store, encoder: Encoder) -> None:
    fields, poisoned, at = store.read_all(), store.read_all(), np.array([60])
    poisoned[61:] += 9
    poisoned[:57] -= 9
    grid = PatchGrid(store, (2, 3))
    for make in (
        lambda f: encoder_features(encoder, store, f, np.arange(58, 64), [1], ["mean+last"], "test")[1, "mean+last"],
        lambda f: raw_features(f, grid, 4, store.times),
    ):
        own, other = make(fields), make(poisoned)
        np.testing.assert_array_equal(own.at(at), other.at(at))
        assert not np.array_equal(own.at(at + 1), other.at(at + 1))


def test_raw_features_are_the_values_oldest_first(store: Store) -> None:
    grid, fields = PatchGrid(store, (2, 3)), store.read_all()
    raw = raw_features(fields, grid, 2, store.times)
    np.testing.assert_array_equal(
        raw.at(np.array([7]))[0], np.nan_to_num(np.concatenate(grid.cut(fields[6:8]), axis=-1))
    )


def test_components_are_those_of_the_weighted_patches() -> None:
    """Against numpy's SVD of all patches of the training windows; as many as asked, or as there are."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3, 6)) @ rng.normal(size=(6, 6))
    weight, train = np.array([1.0, 2.0, 0.5]), np.arange(4, 34)
    raw = PatchFeatures(np.arange(4, 54), values)
    found = pca_features(raw, train, weight, 3)
    x = values[:30]
    mean = (x * weight[:, None]).sum((0, 1)) / weight.sum() / 30
    root = np.sqrt(weight)[:, None]
    _, _, patterns = np.linalg.svd(((x - mean) * root).reshape(-1, 6), full_matrices=False)
    expected = (values - mean) @ patterns[:3].T
    np.testing.assert_allclose(np.abs(found.values), np.abs(expected), atol=1e-4)
    flat = PatchFeatures(raw.rows, values[..., :2] @ rng.normal(size=(2, 6)))
    assert pca_features(flat, train, weight, 6).values.shape[-1] == 2


def test_unknown_requests_are_refused(store: Store, encoder: Encoder) -> None:
    fields = store.read_all()
    with pytest.raises(EarthSSLError, match="Did you mean 'last'"):
        encoder_features(encoder, store, fields, np.arange(9, 12), [0], ["lost"], "test")
    with pytest.raises(EarthSSLError, match="expected 0 to 2, got 3"):
        encoder_features(encoder, store, fields, np.arange(9, 12), [3], ["last"], "test")
    with pytest.raises(EarthSSLError, match="windows of 4 unbroken steps"):
        encoder_features(encoder, store, fields, np.arange(2, 5), [0], ["last"], "test")
    with pytest.raises(EarthSSLError, match="where a whole window ends"):
        raw_features(fields, PatchGrid(store, (2, 3)), 4, store.times).at(np.array([2]))


def test_features_side_by_side(store: Store) -> None:
    grid, fields = PatchGrid(store, (2, 3)), store.read_all()
    one, two = raw_features(fields, grid, 1, store.times), raw_features(fields, grid, 3, store.times)
    both = one.joined(two)
    assert both.rows.tolist() == two.rows.tolist()
    at = np.array([20])
    np.testing.assert_array_equal(both.at(at), np.concatenate([one.at(at), two.at(at)], -1))

"""Windows of a store: which there are, and that batches through an encoder are what one pass gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from earthssl.downstream.features.store_windows import StoreWindows, encoded
from earthssl.ssl.data.loading import Loading
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.store.store import Store


def test_every_unbroken_window_has_its_last_step(small_store: Path) -> None:
    store = Store(small_store)
    windows = StoreWindows(store, 3)
    assert np.array_equal(windows.ends(), np.arange(2, len(store.times)))  # months without a gap
    batch = windows.batch(np.array([2, 7]))
    assert batch.times[1].tolist() == store.times[5:8].astype(np.int64).tolist()
    own = StoreWindows(store, 3, np.ones((len(store.times), *store.shape[1:]), np.float32))
    assert (own.batch(np.array([9])).values == 1).all()


def test_streamed_windows_are_those_held_bit_for_bit(small_store: Path) -> None:
    store = Store(small_store)
    held, streamed = StoreWindows(store, 3), StoreWindows(store, 3, loading=Loading("streaming"))
    assert (held.streams, streamed.streams) == (False, True)
    one, two = (windows.batch(np.array([2, 40, 7])) for windows in (held, streamed))
    for name in ("values", "valid", "times", "keys", "known"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    for (steps, a), (again, b) in zip(held.pieces(), streamed.pieces(), strict=True):
        assert np.array_equal(steps, again)
        assert np.array_equal(a, b, equal_nan=True)
    assert torch.equal(torch.nan_to_num(held.fields), torch.nan_to_num(streamed.fields))


def test_batches_through_an_encoder_are_one_pass_in_evaluation_mode(small_store: Path) -> None:
    store = Store(small_store)
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, (1, 2, 3), drop_path=0.5).build(store.variables).train()
    windows = StoreWindows(store, 3)
    last = windows.ends()[:7]
    found = list(encoded(encoder, windows.patches(last, (1, 2, 3), 3, "windows")))
    assert [patches.values.shape[0] for patches, _ in found] == [3, 3, 1]
    assert not encoder.training
    with torch.no_grad():
        whole = encoder.layers(patchify(windows.batch(last), (1, 2, 3)))
    for k, layer in enumerate(whole):
        outputs = torch.cat([every[k] for _, every in found])
        assert not outputs.requires_grad
        assert torch.allclose(outputs, layer, atol=1e-5)

"""Networks on crops: what they are given, what they can learn, and what they must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.downstream.storms.crop_network import CropPatches, train_on_crops
from earthssl.downstream.storms.crops import CropConfig, StormCrops
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import PLACE, patchify
from earthssl.ssl.store.store import Store

PATCH = (1, 2, 2)
CONFIG = FinetuneConfig(steps=60, batch_size=32, lr=3e-3, layer_decay=1.0, warmup_steps=5, check_every=20, drop_path=0)


@pytest.fixture(scope="module")
def crops(wave_store: Path) -> StormCrops:
    """Crops of 90° around places anywhere, north and south, some across 0° E."""
    store, rng = Store(wave_store), np.random.default_rng(0)
    samples = pd.DataFrame({
        "storm": np.arange(120), "time": rng.choice(store.times[2:], 120), "lat": rng.uniform(-40, 40, 120),
        "lon": rng.uniform(0, 360, 120), "heading": rng.uniform(0, 360, 120),
    })  # fmt: skip
    return StormCrops(store, samples, 2, CropConfig(45.0), PATCH[1:])


@pytest.fixture(scope="module")
def encoder(wave_store: Path) -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", 2, PATCH).build(Store(wave_store).variables)


def blocks(count: int) -> dict[str, np.ndarray]:
    at = np.arange(count)
    return {"train": at < count * 2 // 3, "val": at >= count * 2 // 3}


def test_any_mixture_of_samples_is_encoded_as_its_own_box(crops: StormCrops, encoder: Encoder) -> None:
    held = CropPatches(crops, PATCH)
    assert len(held) == 120
    encoder.eval()
    rows = np.array([7, 3, 90])
    with torch.no_grad():
        mixed = encoder(held.take(rows), hide=held.hide)
        for k, row in enumerate(rows):
            alone = encoder(held.take(rows[k : k + 1]), hide=held.hide)
            torch.testing.assert_close(mixed[k], alone[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                held.take(np.array([row])).values.sum(), np.nansum(crops.fields()[row]), rtol=1e-3, atol=1e-3
            )
    assert not torch.equal(held.take(rows).place[0], held.take(rows).place[1])


def test_rotated_crops_have_no_place(small_store: Path) -> None:
    store = Store(small_store)
    samples = pd.DataFrame({"storm": [0], "time": store.times[5:6], "lat": [10.0], "lon": [0.0], "heading": [90]})
    rotated = StormCrops(store, samples, 2, CropConfig(45.0, rotated=True), PATCH[1:])
    held = CropPatches(rotated, PATCH)
    assert held.hide == {PLACE}
    (crop,) = list(rotated)
    torch.testing.assert_close(held.take(np.array([0])).values, patchify(crop.batch, PATCH).values)


def test_it_learns_what_the_crop_shows_and_what_stands_beside_it(crops: StormCrops, encoder: Encoder) -> None:
    """Two thirds of the samples teach; what the rest say must follow a law of crop and number."""
    held, rng = CropPatches(crops, PATCH), np.random.default_rng(1)
    numbers = rng.standard_normal((120, 1))
    shown = crops.fields()[:, -1, 0].mean(axis=(1, 2))
    target = 5 + 2 * numbers[:, 0] + 3 * shown / shown.std()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = train_on_crops(held, encoder, numbers, target, blocks(120), CONFIG, 0, classes=False, label="x")
    val = blocks(120)["val"]
    assert np.corrcoef(found.values[val], target[val])[0, 1] > 0.8
    assert abs(found.values.mean() - 5) < 1
    assert found.trained.steps > 0
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    again = train_on_crops(held, encoder, numbers, target, blocks(120), CONFIG, 0, classes=False, label="x")
    np.testing.assert_array_equal(found.values, again.values)


def test_of_nothing_to_learn_the_frequency_stays(crops: StormCrops, encoder: Encoder) -> None:
    """Labels that validation contradicts: no step is taken, and every chance is the training frequency."""
    held = CropPatches(crops, PATCH)
    numbers = np.arange(120.0)[:, None] % 2
    event = np.where(blocks(120)["val"], 1 - numbers[:, 0], numbers[:, 0])
    found = train_on_crops(held, encoder, numbers, event, blocks(120), CONFIG, 0, classes=True, label="x")
    assert found.trained.steps == 0
    np.testing.assert_allclose(found.values, 0.0, atol=1e-6)


def test_what_cannot_be_learnt_is_refused(crops: StormCrops, encoder: Encoder) -> None:
    held, numbers = CropPatches(crops, PATCH), np.zeros((120, 1))
    with pytest.raises(EarthSSLError, match="training targets that differ, got 80 of 0"):
        train_on_crops(held, encoder, numbers, np.zeros(120), blocks(120), CONFIG, 0, classes=True, label="x")
    with pytest.raises(EarthSSLError, match="of the same samples"):
        train_on_crops(held, encoder, numbers, np.zeros(7), blocks(120), CONFIG, 0, classes=True, label="x")

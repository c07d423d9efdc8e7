"""The patch head, and the network that is trained whole, on a wave whose future is in every patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from earthssl.downstream.features.patches import PatchGrid, encoder_features
from earthssl.downstream.tasks.forecast.baselines import Damped, bases_of
from earthssl.downstream.tasks.forecast.linear import patch_components, patch_head
from earthssl.downstream.tasks.forecast.network import fine_tuned, from_scratch
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.store.store import Store


@pytest.fixture(scope="module")
def wave(wave_store: Path) -> ForecastSamples:
    return ForecastSamples.of(Store(wave_store), [2, 4], 2)


@pytest.fixture(scope="module")
def small(small_store: Path) -> ForecastSamples:
    return ForecastSamples.of(Store(small_store), [1, 3], 2, ["u10", "sst"])


def encoder_of(samples: ForecastSamples, patch: tuple[int, int, int]) -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", 2, patch).build(samples.store.variables).eval().requires_grad_(False)


def skill(samples: ForecastSamples, forecast: object, lead: int) -> float:
    inits = samples.inits("test", lead)
    error = samples.squared_errors(forecast(inits, lead), inits, lead)  # type: ignore[operator]
    power = samples.squared_errors(np.zeros_like(samples.present(inits)), inits, lead)
    return 1 - float(error.mean() / power.mean())


def pca(samples: ForecastSamples, grid: PatchGrid, count: int) -> dict[str, np.ndarray]:
    return {"PCA": patch_components(samples, grid, count).at_all(len(samples.times))}


def test_one_head_for_all_places_has_the_wave(wave: ForecastSamples) -> None:
    grid = PatchGrid(wave.store, (4, 4))
    for base in ("anomaly", "change"):
        head = patch_head(wave, grid, pca(wave, grid, 8), bases_of(wave, [base]))
        assert skill(wave, head, 2) > 0.9999
        assert skill(wave, head, 4) > 0.9999
    # What damped persistence can have of it: the cosine of its phase.
    assert skill(wave, Damped.fit(wave), 4) == pytest.approx(np.cos(2 * np.pi * 4 / 9) ** 2, abs=0.02)


def test_an_untrained_encoder_is_read_beside_land(small: ForecastSamples) -> None:
    grid, encoder = PatchGrid(small.store, (2, 3)), encoder_of(small, (1, 2, 3))
    found = encoder_features(encoder, small.store, small.fields, small.every(), [1, 2], ["last", "mean+last"], "test")
    named = {f"{layer} {pooling}": one.at_all(len(small.times)) for (layer, pooling), one in found.items()}
    head = patch_head(small, grid, named, bases_of(small))
    assert skill(small, head, 1) > 0.3
    assert np.isfinite(head(small.inits("test", 3), 3)).all()
    assert set(head.settings) == {"u10 1 mo", "sst 1 mo", "u10 3 mo", "sst 3 mo"}


def test_validation_chooses_what_is_best_there(small: ForecastSamples) -> None:
    """The choice of all candidates has, on validation, the least of the errors of each alone."""
    grid = PatchGrid(small.store, (2, 3))
    one = pca(small, grid, 6)["PCA"]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=one.shape).astype(np.float32)
    both = patch_head(small, grid, {"PCA": one, "noise": noise}, bases_of(small))
    parts = [
        patch_head(small, grid, {name: features}, bases_of(small, [base]))
        for name, features in (("PCA", one), ("noise", noise))
        for base in ("anomaly", "change", "departure")
    ]
    for at, chosen in both.chosen.items():
        assert chosen.error == pytest.approx(min(part.chosen[at].error for part in parts))
        assert chosen.features == "PCA"


def test_fits_and_choices_do_not_see_the_test_block(small: ForecastSamples) -> None:
    fields = small.fields.copy()
    fields[305:] += 50
    poisoned = ForecastSamples(small.store, fields, small.names, small.leads, small.window)
    grid = PatchGrid(small.store, (2, 3))
    inits = small.inits("val", 3)
    own, other = (patch_head(s, grid, pca(s, grid, 6), bases_of(s)) for s in (small, poisoned))
    assert own.settings == other.settings
    np.testing.assert_array_equal(own(inits, 3), other(inits, 3))


def test_nothing_to_choose_from_is_refused(small: ForecastSamples) -> None:
    with pytest.raises(EarthSSLError, match="got none of one of them"):
        patch_head(small, PatchGrid(small.store, (2, 3)), {}, bases_of(small))


SHORT = FinetuneConfig(steps=30, batch_size=24, warmup_steps=3, check_every=10, lr=5e-3, layer_decay=0.9, drop_path=0.0)


def test_a_network_starts_at_damped_persistence_and_learns_the_wave(wave: ForecastSamples) -> None:
    grid, damped, encoder = PatchGrid(wave.store, (4, 4)), Damped.fit(wave), encoder_of(wave, (1, 4, 4))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    made = fine_tuned(wave, grid, damped, encoder, SHORT, 0, "test")
    inits = wave.inits("val", 2)
    errors = [wave.squared_errors(damped(wave.inits("val", k), k), wave.inits("val", k), k).mean() for k in (2, 4)]
    assert made.settings["history"][0] == [0, pytest.approx(float(np.mean(errors)))]
    assert made.settings["validation error"] < 0.5 * made.settings["history"][0][1]
    assert skill(wave, damped, 2) == pytest.approx(np.cos(2 * np.pi * 2 / 9) ** 2, abs=0.02)
    assert skill(wave, made, 2) > 0.8
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(p.requires_grad for p in encoder.parameters())
    again = fine_tuned(wave, grid, damped, encoder, SHORT, 0, "test")
    np.testing.assert_array_equal(made(inits, 2), again(inits, 2))


def test_a_network_is_trained_beside_land(small: ForecastSamples) -> None:
    config = FinetuneConfig(mode="last", steps=4, batch_size=16, warmup_steps=1, check_every=2)
    grid, damped = PatchGrid(small.store, (2, 3)), Damped.fit(small)
    made = fine_tuned(small, grid, damped, encoder_of(small, (1, 2, 3)), config, 0, "test")
    forecast = made(small.inits("test", 3), 3)
    assert np.isfinite(forecast).all()
    assert made.settings["validation error"] <= made.settings["history"][0][1]


def test_a_network_from_scratch_learns_the_wave(wave: ForecastSamples) -> None:
    """From damped persistence on; the same for the same seed, another for another; fewer months make another."""
    grid, damped, shape = PatchGrid(wave.store, (4, 4)), Damped.fit(wave), EncoderConfig("nano", 2, (1, 4, 4))
    config = ScratchConfig(1, 30, 24, lr=5e-3, check_every=10)
    made, again, other = (from_scratch(wave, grid, damped, shape, config, seed) for seed in (0, 0, 1))
    inits = wave.inits("val", 2)
    assert skill(wave, made, 2) > 0.8 > skill(wave, damped, 2)
    np.testing.assert_array_equal(made(inits, 2), again(inits, 2))
    assert not np.array_equal(made(inits, 2), other(inits, 2))
    few = wave.trained_on(np.array([1990]), "year")
    taught = from_scratch(few, grid, damped, shape, config, 0)
    assert not np.array_equal(made(inits, 2), taught(inits, 2))
    assert skill(wave, taught, 2) > skill(wave, damped, 2)

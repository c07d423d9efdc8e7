"""The controls: what is hidden is where it should be, and nothing else tells of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.controls.controls import MEAN, UNIT, Control, ControlConfig
from earthssl.ssl.sources.controls.designs import DESIGNS, DWELL, LEAD, lorenz
from earthssl.ssl.sources.controls.recorded import recorded_control
from earthssl.ssl.sources.planet.recorded import recorded_planet, recorded_seed

STEPS = 20_000


@pytest.fixture(scope="module")
def worlds() -> dict[str, Control]:
    return {name: Control(ControlConfig(design=name, steps=STEPS)) for name in DESIGNS}


def told(features: np.ndarray, label: np.ndarray) -> float:
    """Skill on the last quarter of a least-squares fit on the first half."""
    fit, test = slice(0, len(label) // 2), slice(len(label) * 3 // 4, None)
    given = np.column_stack([features, np.ones(len(label))])
    said = given @ np.linalg.lstsq(given[fit], label[fit], rcond=None)[0]
    return 1 - float(((said - label)[test] ** 2).mean() / label[test].var())


def components(world: Control, count: int, window: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Leading components of the window, and the labels of its last step."""
    fields = world.values().reshape(STEPS, -1)
    both = np.hstack([fields[window - 1 - k : STEPS - k] for k in range(window)])
    train = both[: STEPS // 2] - both[: STEPS // 2].mean(axis=0)
    basis = np.linalg.eigh(train.T @ train)[1][:, ::-1][:, :count]
    return both @ basis, world.truth.label[window - 1 :]


@pytest.mark.parametrize("name", sorted(DESIGNS))
def test_signal_and_noise_have_their_variances(worlds: dict[str, Control], name: str) -> None:
    world = worlds[name]
    assert world.truth.signal.var() == pytest.approx(1, abs=0.12)
    assert world.design.noise(STEPS, 0).var() == pytest.approx(0.25 if name == "P4" else 1, abs=0.05)


def test_of_p1_the_signal_is_three_and_a_half_percent_of_the_variance(worlds: dict[str, Control]) -> None:
    share = 0.2**2 * worlds["P1"].truth.signal.var() / worlds["P1"].values().var()
    assert share == pytest.approx(0.035, abs=0.003)


def test_n0_the_leading_three_components_are_the_state(worlds: dict[str, Control]) -> None:
    leading, _ = components(worlds["N0"], 3, window=1)
    state = worlds["N0"].truth.state
    assert all(told(leading, state[:, k]) > 0.95 for k in range(3))


def test_the_oscillator_forgets_as_its_damping_says(worlds: dict[str, Control]) -> None:
    """Turning does not forget, damping does: the state tells r^(2 lead) of what is asked."""
    truth = worlds["N0"].truth
    assert told(truth.state, truth.label) == pytest.approx(0.93 ** (2 * LEAD), abs=0.03)


def test_p1_is_not_in_the_leading_components(worlds: dict[str, Control]) -> None:
    assert told(*components(worlds["P1"], 10)) < 0.1
    assert told(*components(worlds["P1"], 150)) > 0.4


def test_p2_is_not_linear_even_in_the_true_state_but_a_function_of_it(worlds: dict[str, Control]) -> None:
    state, label = worlds["P2"].truth.state, worlds["P2"].truth.label
    assert told(state, label) < 0.06
    train, test = state[: STEPS // 2], state[-1000:]
    nearest = ((test[:, None, :] - train) ** 2).sum(axis=2).argmin(axis=1)
    assert (label[nearest] == label[-1000:]).mean() > 0.95


def test_the_lorenz_equations_stand_still_where_they_must() -> None:
    """Statistics of a long run: X and Y are symmetric, Z is not; and neighbouring samples are of one orbit."""
    found = lorenz(STEPS, 1)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=0.03)
    assert (np.sign(found[1:, 0]) == np.sign(found[:-1, 0])).mean() > 0.7


@pytest.mark.parametrize("name", ["P3", "P4"])
def test_drift_and_tilt_are_hidden_from_every_linear_method(worlds: dict[str, Control], name: str) -> None:
    for count in (10, 150):
        assert abs(told(*components(worlds[name], count))) < 0.05
    assert told(worlds[name].truth.state, worlds[name].truth.label) < 0.01


def test_p3_and_p4_are_in_products_of_their_fields(worlds: dict[str, Control]) -> None:
    """Products of two steps tell the drift, products of two places the tilt: by hand, on the fields as given."""
    drift, tilt = worlds["P3"], worlds["P4"]
    waves = np.fft.rfft(drift.values(), axis=2)[:, :, 2:8]
    turned = (waves[1:] * waves[:-1].conj()).imag.mean(axis=1)
    assert told(turned, drift.truth.label[1:]) > 0.4
    waves = np.fft.rfft(tilt.values(), axis=2)[:, :, 3:8]
    leaning = (waves[:, 1:] * waves[:, :-1].conj()).imag.sum(axis=(1, 2))
    assert (np.sign(leaning) == np.sign(tilt.truth.label) * np.sign(leaning @ tilt.truth.label)).mean() > 0.8


@pytest.mark.parametrize("name", ["P3", "P4"])
def test_the_two_kinds_have_one_spectrum_and_stay(worlds: dict[str, Control], name: str) -> None:
    world = worlds[name]
    values, label = world.values(), world.truth.label
    power = {sign: (np.abs(np.fft.rfft(values[label == sign], axis=2)) ** 2).mean(axis=(0, 1)) for sign in (-1, 1)}
    np.testing.assert_allclose(power[1], power[-1], rtol=0.1)
    assert STEPS / (np.diff(label) != 0).sum() == pytest.approx(DWELL, rel=0.2)


@pytest.mark.parametrize("name", sorted(DESIGNS))
def test_a_longer_world_begins_with_the_shorter_one(name: str) -> None:
    short, long = (Control(ControlConfig(design=name, steps=steps, seed=3)) for steps in (200, 300))
    np.testing.assert_allclose(short.truth.label, long.truth.label[:200])
    np.testing.assert_allclose(short.values(), long.values()[:200], atol=1e-12)


def test_the_same_options_are_the_same_world_and_others_are_not() -> None:
    def fields(**options: object) -> np.ndarray:
        return open_source("controls", steps=200, **options).z500.values

    assert np.array_equal(fields(seed=1), fields(seed=1))
    for others in ({"seed": 2}, {"seed": 1, "design": "P3"}, {"seed": 1, "amplitude": 0.5}):
        assert not np.array_equal(fields(seed=1), fields(**others))


def test_the_dataset_is_canonical_and_remembers_its_truth() -> None:
    data = open_source("controls", design="P2", steps=200, seed=5)
    assert data.sizes == {"time": 200, "lat": 8, "lon": 32}
    assert data.z500.dtype == np.float32
    assert "synthetic" in data.source
    again = recorded_control(data.attrs)
    assert again.config == ControlConfig("P2", 200, 5)
    np.testing.assert_allclose((data.z500 - MEAN) / UNIT, again.values(), atol=1e-5)
    hidden = again.hidden()
    assert set(np.unique(hidden.label)) == {-1, 1}
    assert hidden.state.sizes == {"time": 200, "component": 3}


def test_no_other_planet_is_taken_for_a_control_nor_a_control_for_one() -> None:
    data = open_source("controls", steps=200)
    with pytest.raises(EarthSSLError, match="expected a store of the synthetic planet, got control planet P2"):
        recorded_planet(data.attrs)
    with pytest.raises(EarthSSLError, match="expected a store of a control"):
        recorded_control({"source": "ERSST"})
    seeds = {recorded_seed(open_source("controls", steps=200, design=d, seed=s).attrs) for d in DESIGNS for s in (0, 1)}
    assert len(seeds) == 10
    assert json.loads(data.planet)["dynamics"] == "control"


def test_blocks_are_apart_by_more_than_any_label_looks_ahead() -> None:
    splits = SplitsConfig(**Control(ControlConfig(steps=1000)).splits()).build()
    assert splits.embargo_days > LEAD


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"design": "P9"}, "one of N0, P1, P2, P3, P4, got 'P9'"),
        ({"steps": 10}, "a whole number within 200"),
        ({"seed": -1}, "expected seed"),
        ({"amplitude": -1.0}, "a number from 0"),
        ({"years": 3}, "one of design, steps, seed, amplitude"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        open_source("controls", **options)

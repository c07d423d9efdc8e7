"""The quasi-geostrophic model: budgets, waves and balance that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.ssl.sources.weather.model import Model
from earthssl.ssl.sources.weather.sphere import Sphere
from earthssl.ssl.sources.weather.vertical import ONE_DAY, ROTATION, SPEED, stretching
from earthssl.ssl.sources.weather.world import World, relaxed_shear, world

SPHERE = Sphere(21)
FLAT = World(mountains=0.0)


def free(of: World = FLAT, dtype: torch.dtype = torch.float64) -> Model:
    return Model(SPHERE, of, dtype, adiabatic=True)


def random_state(model: Model, members: int = 2, speed: float = 12.0) -> torch.Tensor:
    """Eddies with winds of so many m/s root mean square, of total wavenumber 3 to 12, on a zonal flow."""
    rng = np.random.default_rng(3)
    n = SPHERE.known[1]
    packed = rng.normal(size=(members, 3, len(n))) * ((n > 2) & (n < 13)) / np.maximum(n, 1) ** 2
    stream = np.moveaxis(SPHERE.unpacked(packed), (0, 1), (-1, -2))
    wind = np.sqrt((stream**2 * (np.arange(22) * np.arange(1, 23.0))[:, None, None]).sum(axis=(0, 1)).mean())
    stream *= speed / SPEED / wind
    zonal = relaxed_shear(SPHERE, World(wave=(0.0, 0.0)), 1.0) / SPEED
    stream += np.stack([1.6 * zonal, 0.6 * zonal, 0 * zonal], axis=-1)[..., None]
    return model.state_of(torch.tensor(stream, dtype=model.dtype))


def budget_errors(model: Model, steps_a_day: int, days: int = 2) -> tuple[float, float]:
    """Relative change of energy and of enstrophy in so many days, largest over levels and members."""
    state = random_state(model)
    driving = model.driving(np.zeros(2))
    energy, enstrophy = model.energy(state), model.enstrophy(state)
    for _ in range(days * steps_a_day):
        state = model.step(state, driving, 1 / steps_a_day)
    change = (model.energy(state) / energy - 1).abs().max(), (model.enstrophy(state) / enstrophy - 1).abs().max()
    return float(change[0]), float(change[1])


@pytest.mark.parametrize("of", [FLAT, World()], ids=["flat", "mountains"])
def test_advection_makes_neither_energy_nor_enstrophy(of: World) -> None:
    """At every instant, to rounding: the quadrature is exact, mountains exchange and do not make."""
    model = free(of)
    state = random_state(model)
    rate = model.tendency(state, model.driving(np.zeros(2)))
    power = (rate * model.stream(state)).sum().abs() / (rate.abs() * model.stream(state).abs()).sum()
    total = state + model._planetary
    growth = (rate * total).sum(dim=(0, 1)).abs() / (rate.abs() * total.abs()).sum(dim=(0, 1))
    assert power < 1e-14
    assert (growth < 1e-14).all()


def test_the_budgets_close_with_the_step() -> None:
    """Halving the step of a fourth-order scheme divides the drift by 2⁵ (for what oscillates), 2⁴ at the least."""
    coarse, fine = budget_errors(free(), 12), budget_errors(free(), 24)
    assert coarse[0] < 2e-4
    assert coarse[1] < 6e-4
    assert fine[0] < coarse[0] / 14
    assert fine[1] < coarse[1] / 14


def test_budgets_in_single_precision() -> None:
    energy, enstrophy = budget_errors(free(dtype=torch.float32), 12)
    assert energy < 2e-4
    assert enstrophy < 6e-4


@pytest.mark.parametrize(("n", "m"), [(3, 2), (5, 4), (8, 3), (12, 7)])
def test_barotropic_rossby_haurwitz_waves_go_west_as_they_must(n: int, m: int) -> None:
    """A single harmonic is an exact solution: it turns by -2/(n(n + 1)) of the Earth's own turning."""
    model = free()
    stream = torch.zeros(43, 22, 3, 1, dtype=torch.float64)
    stream[2 * m - 1, n] = 0.02 / n  # winds of about 9 m/s
    state = model.state_of(stream)
    driving = model.driving(np.zeros(1))
    days = 5
    for _ in range(12 * days):
        state = model.step(state, driving, 1 / 12)
    after = model.stream(state)[:, :, 1, 0]
    shift = float(torch.atan2(after[2 * m, n], after[2 * m - 1, n])) / m
    expected = -2 / (n * (n + 1)) * days * ONE_DAY
    turn = 2 * np.pi / m
    assert (shift - expected + turn / 2) % turn - turn / 2 == pytest.approx(0, abs=2e-3 * abs(expected))
    rest = after.clone()
    rest[2 * m - 1 : 2 * m + 1, n] = 0
    assert rest.abs().max() < 1e-10
    assert torch.hypot(after[2 * m, n], after[2 * m - 1, n]) == pytest.approx(0.02 / n, rel=1e-3)


def test_a_baroclinic_wave_is_slower_by_its_stretching() -> None:
    """In each vertical mode, an eigenvector of the stretching with value -λ, c = -2Ω/(n(n + 1) + λ)."""
    model = free()
    values, vectors = np.linalg.eigh(stretching(FLAT))
    n, m, days = 6, 4, 10
    for value, vector in zip(values, vectors.T, strict=True):
        stream = torch.zeros(43, 22, 3, 1, dtype=torch.float64)
        stream[2 * m - 1, n, :, 0] = 1e-6 * torch.tensor(vector)
        state = model.state_of(stream)
        driving = model.driving(np.zeros(1))
        for _ in range(12 * days):
            state = model.step(state, driving, 1 / 12)
        after = model.stream(state)[:, n, :, 0].numpy() @ vector
        shift = np.unwrap([0, np.arctan2(after[2 * m], after[2 * m - 1])])[1] / m
        expected = -2 / (n * (n + 1) - value) * days * ONE_DAY
        turn = 2 * np.pi / m
        assert (shift - expected + turn / 2) % turn - turn / 2 == pytest.approx(0, abs=2e-3 * abs(expected))


def test_a_zonal_flow_without_waves_is_steady() -> None:
    model = free()
    zonal = relaxed_shear(SPHERE, World(wave=(0.0, 0.0)), 1.0) / SPEED
    state = model.state_of(torch.tensor(np.stack([1.6 * zonal, 0.6 * zonal, 0 * zonal], axis=-1)[..., None]))
    rate = model.tendency(state, model.driving(np.zeros(1)))
    assert rate.abs().max() < 1e-14


def test_the_driven_zonal_flow_relaxes_to_its_goal_and_stays() -> None:
    """Without mountains, waves and disturbances nothing is unstable: temperatures take the season's."""
    of = World(mountains=0.0, wave=(0.0, 0.0), land_drag=1.0, diffusion=1e12)
    model = Model(SPHERE, of, torch.float64)
    goal = relaxed_shear(SPHERE, of, 1.0) / SPEED
    stream = np.stack([(1 + of.lower_shear) * goal, of.lower_shear * goal, 0 * goal], axis=-1)[..., None]
    state = model.state_of(torch.tensor(stream))
    rate = model.tendency(state, model.driving(np.array([15.0])))
    assert rate.abs().max() < 1e-12


def test_relaxation_takes_its_time() -> None:
    """A purely baroclinic departure of the largest scale, no friction: it falls by e in the relaxation time at large λ.

    With dq/dt = -S(ψ - ψ*)/τ and q = (∇² + S)ψ, mode λ decays at λ/(λ + n(n + 1))/τ.
    """
    of = World(mountains=0.0, shear=(0.0, 0.0), wave=(0.0, 0.0), drag=1e15, diffusion=1e15)
    model = Model(SPHERE, of, torch.float64)
    value, vectors = np.linalg.eigh(stretching(of))
    stream = torch.zeros(43, 22, 3, 1, dtype=torch.float64)
    stream[0, 2, :, 0] = 1e-3 * torch.tensor(vectors[:, 0])
    rate = model.stream(model.tendency(model.state_of(stream), model.driving(np.zeros(1))))
    expected = value[0] / (6 - value[0]) / (of.relaxation * ONE_DAY)
    np.testing.assert_allclose(rate[0, 2, :, 0] / stream[0, 2, :, 0], expected, rtol=1e-9)


def test_friction_slows_the_lowest_level_by_its_rate() -> None:
    """Of a flow that all three levels share, and with one rate everywhere, dq3/dt = -ζ3/τ."""
    of = World(mountains=0.0, shear=(0.0, 0.0), wave=(0.0, 0.0), land_drag=1.0, relaxation=1e9, diffusion=1e9)
    model = Model(SPHERE, of, torch.float64)
    stream = torch.zeros(43, 22, 3, 1, dtype=torch.float64)
    stream[0, 3] = 0.01
    rate = model.tendency(model.state_of(stream), model.driving(np.zeros(1)))
    np.testing.assert_allclose(rate[0, 3, 2, 0], 12 * 0.01 / (3 * ONE_DAY), rtol=1e-6)
    assert rate[:, :, :2].abs().max() < 1e-8


def test_diffusion_at_the_smallest_scale_takes_its_days() -> None:
    of = World(mountains=0.0, shear=(0.0, 0.0), wave=(0.0, 0.0), drag=1e9, relaxation=1e9)
    model = Model(SPHERE, of, torch.float64)
    state = torch.zeros(43, 22, 3, 1, dtype=torch.float64)
    state[0, 21] = 1e-4
    rate = model.tendency(state, model.driving(np.zeros(1)))
    np.testing.assert_allclose(rate[0, 21] / state[0, 21], -1 / (2 * ONE_DAY), rtol=1e-6)


def test_inversion_goes_round() -> None:
    model = free()
    state = random_state(model)
    torch.testing.assert_close(model.state_of(model.stream(state)), state, atol=1e-12, rtol=1e-10)


def test_members_do_not_feel_one_another() -> None:
    model = Model(SPHERE, world(0), torch.float64)
    state = random_state(model, members=3)
    days = np.array([0.0, 100.0, 250.0])
    together = model.step(state, model.driving(days), 1 / 12)
    for k in range(3):
        alone = model.step(state[..., k : k + 1], model.driving(days[k : k + 1]), 1 / 12)
        torch.testing.assert_close(together[..., k : k + 1], alone, atol=1e-13, rtol=1e-10)


def test_winter_is_in_january_in_the_north_and_in_july_in_the_south() -> None:
    model = Model(SPHERE, world(0), torch.float64)
    january, july = (model.driving(np.array([day])) for day in (15.0, 197.6))
    goal = [SPHERE.synthesis(part[:, :, 0, 0].numpy(), north=True).mean(axis=1) for part in (january, july)]
    north, south = int(np.abs(SPHERE.lat - 40).argmin()), int(np.abs(SPHERE.lat + 40).argmin())
    assert abs(goal[0][north]) > 1.2 * abs(goal[1][north])
    assert abs(goal[1][south]) > 1.2 * abs(goal[0][south])


def test_worlds_are_a_family() -> None:
    assert world(0) == World()
    assert world(5) == world(5)
    assert world(5) != world(6)
    shears = np.array([world(k).shear for k in range(1, 60)]) / np.array(World().shear)
    assert 0.88 <= shears.min() < 0.92
    assert 1.08 < shears.max() <= 1.12
    assert ROTATION * 86400 == ONE_DAY

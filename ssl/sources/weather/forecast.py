"""Forecast: the model itself run on from true or from imperfectly observed states, the best forecast there can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...common.errors import EarthSSLError
from .history import from_model, to_model
from .vertical import stream_of
from .weather import ORIGIN, Weather

TOGETHER = 16  # states run side by side


def forecast(
    planet: Weather,
    times: Any,
    leads: Sequence[int],
    members: int = 1,
    noise: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """Return stream functions forecast by the true model, (member, initial time, lead, level, known), float32.

    Without noise, one member from the true state: the truth again, but for rounding that grows. With noise, the state
    is first observed with an error, the same for all members, and each member starts from the observed state with
    another error of that size, so that the truth could be one of them: the mean over the members is about the best
    forecast that an observer with such errors can make. `Weather.fields` makes maps of the result.

    Args:
        planet: Whose world, and whose true states.
        times: Initial times, some of the planet's.
        leads: Whole days from 0.
        members: Ensemble size; more than one needs noise.
        noise: Standard deviation of the errors, as a share of the natural one of each level and total wavenumber.
        seed: Of the errors.

    Raises:
        EarthSSLError: If a time is none of the planet's, or an option is out of range.
    """
    if not len(leads) or min(leads) < 0 or any(lead != int(lead) for lead in leads):
        raise EarthSSLError(f"weather forecast: expected leads in whole days from 0, got {list(leads)}")
    if members < 1 or noise < 0 or (members > 1 and noise == 0):
        raise EarthSSLError(
            f"weather forecast: expected members from 1, and noise above 0 for more than one (without it all are the "
            f"same), got members {members}, noise {noise}"
        )
    times = np.atleast_1d(np.asarray(times, dtype="datetime64[ns]"))
    truth = planet.states(times)
    rng = np.random.default_rng([planet.config.seed, planet.config.world, seed, 7])
    starts = np.repeat(truth[None], members, axis=0)
    if noise:
        size = noise * natural_spread(planet)
        starts = starts + size * rng.normal(size=truth.shape) + size * rng.normal(size=starts.shape)
    days = (times - ORIGIN) / np.timedelta64(1, "D")
    flat = starts.astype(np.float32).reshape(-1, *truth.shape[1:])
    every = np.tile(days, members)
    made = [_run(planet, flat[k : k + TOGETHER], every[k : k + TOGETHER], leads) for k in range(0, len(flat), TOGETHER)]
    states = np.concatenate(made).reshape(members, len(times), len(leads), *truth.shape[1:])
    return stream_of(planet.sphere, planet.world, states)


def natural_spread(planet: Weather) -> np.ndarray:
    """Return the standard deviation of the states about their mean, (level, known), the same for all of one wavenumber.

    From a state every 10 days of the planet's first year (all members), mean over the components.
    """
    plan = planet.history.plan
    steps = np.arange(0, min(365, plan.days) * plan.per_day, 10 * plan.per_day)
    sample = np.concatenate([planet.history.states(k, steps) for k in range(len(plan.first_days))])
    variance = sample.var(axis=0)
    n = planet.sphere.known[1]
    by_n = np.stack([np.bincount(n, row) for row in variance]) / np.bincount(n)
    return np.asarray(np.sqrt(by_n[:, n]))


def _run(planet: Weather, starts: np.ndarray, days: np.ndarray, leads: Sequence[int]) -> np.ndarray:
    """Return the states (start, lead, level, known) so many days after the starts (start, level, known)."""
    import torch

    from .model import STEPS, Model

    model = Model(planet.sphere, planet.world)
    a_day = STEPS[planet.sphere.truncation]
    found = {}
    with torch.inference_mode():
        state = to_model(planet.sphere, starts)
        for day in range(max(leads) + 1):
            if day in leads:
                found[day] = from_model(planet.sphere, state)
            driving = model.driving(np.floor(days) + day)
            for _ in range(a_day):
                state = model.step(state, driving, 1 / a_day)
    return np.stack([found[lead] for lead in leads], axis=1)


def doubling_time(planet: Weather, times: Any, size: float = 1e-4, days: tuple[int, int] = (8, 18)) -> float:
    """Return the doubling time, days, of small differences in z500 poleward of 20°, mean over the initial times.

    Two forecasts a time from states that differ by noise of the given size, a share of the natural spread; the growth
    is that of the root mean square between two leads, the first after the errors have shed what does not grow: most of
    the noise is of the largest scales, which keep for a week what the growing shapes then overtake.
    """
    pair = forecast(planet, times, days, members=2, noise=size)
    z = planet.fields(pair, "z500")
    weight = np.where(np.abs(planet.grid.lat) > 20, planet.sphere.nodes[1], 0)[:, None]
    growth = ((z[0] - z[1]).astype(np.float64) ** 2 * weight).mean(axis=(-2, -1))
    rate = np.log(growth[:, 1] / growth[:, 0]).mean() / 2 / (days[1] - days[0])
    return float(np.log(2) / rate)

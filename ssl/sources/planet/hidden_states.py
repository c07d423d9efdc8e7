"""Hidden: the states of the synthetic planet, day by day: its ENSO, its waves and the red noise of ocean and air."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .enso_oscillator import STATES, Oscillator
from .geography import AIR_MODES, OCEAN_MODES, WAVES

MONTH = 365.25 / 12  # days
SPIN_UP = 30  # years before the start


def daily_states(seed: int, oscillator: Oscillator, days: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield for each year the daily states from 1 January to 1 January, (days + 1, states).

    Columns: the oscillator's, real and imaginary parts of the waves, ocean modes, air modes.

    Args:
        seed: Of the history.
        oscillator: Its ENSO.
        days: Of each year.
    """
    dt = 1 / MONTH
    spin_up = np.random.default_rng([seed, 0]).standard_normal((SPIN_UP * 365, 2))
    months = (np.arange(len(spin_up)) % 365) * 12 / 365
    slow = oscillator.run(np.zeros(len(STATES)), months, dt, spin_up)[-1]
    decay = np.concatenate([_wave_step(), ocean_decay(), _air_decay()])
    kick = np.sqrt(1 - np.abs(decay) ** 2)
    modes = _unit_noise(np.random.default_rng([seed, 1]), 1)[0]
    for year, count in enumerate(days):
        noise = np.random.default_rng([seed, 2, year]).standard_normal((count, 2))
        run = oscillator.run(slow, np.arange(count) * 12 / count, dt, noise)
        slow_days = np.vstack([slow, run])
        kicks = kick * _unit_noise(np.random.default_rng([seed, 3, year]), count)
        path = np.empty((count + 1, len(decay)), complex)
        path[0] = modes
        for day in range(count):
            modes = path[day + 1] = decay * modes + kicks[day]
        slow = slow_days[-1]
        waves = path[:, : len(WAVES)]
        yield np.concatenate([slow_days, waves.real, waves.imag, path[:, len(WAVES) :].real], axis=1)


def assemble(states: np.ndarray, year: int, trend_k_per_century: float, variance: float) -> np.ndarray:
    """Return the columns of geography.COLUMNS for a year's daily states, (days + 1, columns).

    Args:
        states: From `daily_states`.
        year: Counted from the start.
        trend_k_per_century: Global warming.
        variance: Of the oscillator, K².
    """
    fraction = 2 * np.pi * np.arange(len(states)) / (len(states) - 1)
    t_e, h_w, wind, _, lagged = states[:, : len(STATES)].T
    trend = trend_k_per_century * (year + fraction / (2 * np.pi)) / 100
    climate = [np.ones(len(states))]
    climate += [turn(times * fraction) for times in (1, 2) for turn in (np.cos, np.sin)]
    known = [*climate, trend, t_e, h_w, wind, t_e**2 - variance, lagged]
    return np.column_stack([*known, states[:, len(STATES) :]])


def ocean_decay() -> np.ndarray:
    """Daily factor of each ocean mode: memories of 50 to 250 days."""
    return np.exp(-1 / np.linspace(50, 250, OCEAN_MODES))


def _air_decay() -> np.ndarray:
    """Daily factor of each air mode: memories of 3 to 7 days."""
    return np.exp(-1 / np.linspace(3, 7, AIR_MODES))


def _wave_step() -> np.ndarray:
    """Complex daily factor of each wave: decay, and the turn that carries its phase west."""
    return np.array([np.exp(-1 / wave.memory + 2j * np.pi / wave.period) for wave in WAVES])


def _unit_noise(rng: np.random.Generator, days: int) -> np.ndarray:
    """Noise for waves (complex; each part of unit variance) and modes (real), (days, waves + modes)."""
    waves = rng.standard_normal((days, len(WAVES), 2))
    modes = rng.standard_normal((days, OCEAN_MODES + AIR_MODES))
    return np.concatenate([waves[..., 0] + 1j * waves[..., 1], modes.astype(complex)], axis=1)

"""Oscillator: a nonlinear stochastic recharge oscillator, the hidden ENSO of the synthetic planet.

The two slow states and the red wind noise, time in months:

    dT/dt = R(t) T + F1 h + b (T² - s²) - c T³ + σ w max(1 + B T, 0)
    dh/dt = -ε h - F2 T - b2 (T² - s²) + σ_h ξ
    dw/dt = -m w + √(2 m) ξ'

T is the eastern Pacific SST anomaly (K), h the warm-water volume of the western Pacific (in K of the T
it can cause), w wind-burst noise of unit variance. R(t) swings through the year and makes the spring
barrier and the winter peak; the quadratic term and the state-dependent noise make El Niño stronger and
shorter than La Niña, which is how the arrow of time shows. s² takes out the mean they would leave behind.

Jin 1997 (J. Atmos. Sci. 54, 811) for the oscillator, Stein et al. 2010 (Phys. Rev. Lett. 105, 238501)
for the seasonal growth, Jin et al. 2007 (Geophys. Res. Lett. 34, L03807) and Levine & Jin 2010
(J. Atmos. Sci. 67, 529) for the state-dependent noise, Timmermann et al. 2018 (Nature 559, 535) for the
whole. The numbers are not fitted to one data set: they are chosen so that the index has the spread,
period, season, skewness, persistence and reachable skill of the observed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

STATES = ("t_e", "h_w", "wind", "lag_half", "t_lagged")

# What another world has otherwise, and by how much (standard deviation of the logarithm).
VARIED = (
    "damping", "season", "recharge", "discharge", "leak", "quadratic", "wind_noise", "state_dependence", "heat_noise",
    "delay",
)  # fmt: skip
SPREAD = 0.15
PEAK_SPREAD = 0.7  # months

# A number or an array: the arithmetic below serves one planet and thousands of ensemble members alike.
Real = Any


@dataclass(frozen=True)
class Oscillator:
    """Parameters of the recharge oscillator; rates per month, temperatures in K.

    Attributes:
        damping: Mean of -R(t).
        season: Amplitude of R(t).
        season_peak: Months after 1 January at which R(t) is largest.
        recharge: F1, how h warms T.
        discharge: F2, how T empties h.
        leak: ε, damping of h.
        quadratic: b, a warm anomaly feeds itself.
        cubic: c, what bounds it.
        quadratic_h: b2, strong events of either sign empty h.
        variance: s², K², the mean of T² that the quadratic terms must not turn into a mean of T.
        wind_noise: σ.
        state_dependence: B, K⁻¹.
        wind_damping: m.
        heat_noise: σ_h, K month^-½.
        delay: Mean delay of the lagged state, months (two equal stages, half each).
    """

    damping: float = 0.07
    season: float = 0.15
    season_peak: float = 8.5
    recharge: float = 0.16
    discharge: float = 0.13
    leak: float = 0.02
    quadratic: float = 0.055
    cubic: float = 0.013
    quadratic_h: float = 0.01
    variance: float = 0.72
    wind_noise: float = 0.125
    state_dependence: float = 0.75
    wind_damping: float = 1.0
    heat_noise: float = 0.215
    delay: float = 3.5

    @classmethod
    def of_world(cls, world: int) -> Oscillator:
        """Return the parameters of a world: 0 has the usual ones, every other number its own, drawn about them.

        Each of `VARIED` is multiplied by a log-normal factor (cut at two standard deviations), and the season of growth
        is moved by a month or so. The nonlinear bounds stay, so that no world runs away.

        Args:
            world: Its number, from 0.
        """
        usual = cls()
        if world == 0:
            return usual
        draws = np.random.default_rng([world, 7]).standard_normal(len(VARIED) + 1).clip(-2, 2)
        factors = np.exp(SPREAD * draws[:-1])
        made = {name: float(getattr(usual, name) * factor) for name, factor in zip(VARIED, factors, strict=True)}
        return replace(usual, **made, season_peak=float(usual.season_peak + PEAK_SPREAD * draws[-1]))

    def growth(self, month: Real) -> Real:
        """Return R at `month` months (0–12, fractions allowed) after 1 January, per month."""
        return self.season * np.cos(2 * np.pi * (month - self.season_peak) / 12) - self.damping

    def stepper(self, dt: float) -> Callable[[Real, Real, Real, Real, Real, Real], tuple[Real, Real, Real]]:
        """Return f(t, h, w, growth, ξ, ξ') -> (t, h, w) one step of `dt` months later.

        Works on floats and on arrays. h sees the new T (semi-implicit), which keeps the oscillation from
        gaining energy out of the step length; w is stepped exactly.
        """
        keep = float(np.exp(-self.wind_damping * dt))
        kick = float(np.sqrt(1 - keep * keep))
        heat = self.heat_noise * float(np.sqrt(dt))

        def step(t: Real, h: Real, w: Real, growth: Real, xi: Real, xi_wind: Real) -> tuple[Real, Real, Real]:
            excess = t * t - self.variance
            gain = 1 + self.state_dependence * t
            burst = self.wind_noise * w * gain * (gain > 0)
            tendency = (
                (growth - self.cubic * (excess + self.variance)) * t
                + self.recharge * h
                + self.quadratic * excess
                + burst
            )
            t = t + dt * tendency
            h = h - dt * (self.leak * h + self.discharge * t + self.quadratic_h * excess) + heat * xi
            return t, h, keep * w + kick * xi_wind

        return step

    def run(self, start: np.ndarray, months: np.ndarray, dt: float, noise: np.ndarray) -> np.ndarray:
        """Return the states after each step, shape (steps, 5), columns as in STATES.

        Args:
            start: The five states before the first step.
            months: Time of year at the start of each step, months after 1 January, shape (steps,).
            dt: Step, months.
            noise: Standard normal numbers, shape (steps, 2): of h, of the wind.
        """
        step = self.stepper(dt)
        fraction = dt / (self.delay / 2)
        t, h, w, half, lagged = (float(value) for value in start)
        states = []
        # plain floats: ten times faster here than arrays of one element
        for growth, (xi, xi_wind) in zip(self.growth(months).tolist(), noise.tolist(), strict=True):
            lagged += fraction * (half - lagged)
            half += fraction * (t - half)
            t, h, w = step(t, h, w, growth, xi, xi_wind)
            states.append((t, h, w, half, lagged))
        return np.array(states)

    def expected_index(
        self,
        start: np.ndarray,
        month: np.ndarray,
        months: int,
        weights: tuple[float, float, float],
        rng: np.random.Generator,
        members: int,
        steps: int = 10,
    ) -> np.ndarray:
        """Return the ensemble-mean monthly mean of a·T + b·(T² - s²) + c·h, shape (months, initial times).

        Args:
            start: States t_e, h_w, wind at the initial times, shape (initial times, ≥ 3).
            month: Calendar month (0–11) whose first instant each initial time is.
            months: How many whole months to run.
            weights: a, b, c.
            rng: Draws the members' noise.
            members: Ensemble size; even, since each draw is used with both signs.
            steps: Steps a month.
        """
        step = self.stepper(1 / steps)
        shape = (2, members // 2, len(start))
        t, h, w = (np.broadcast_to(start[:, state], shape) for state in range(3))
        a, b, c = weights
        means = np.zeros((months, len(start)))
        for count in range(months):
            for part in range(steps):
                growth = self.growth(month + count + part / steps)
                draw = rng.standard_normal((2, *shape[1:]))
                signed = np.stack([draw, -draw], axis=1)
                t, h, w = step(t, h, w, growth, signed[0], signed[1])
                value = a * t + b * (t * t - self.variance) + c * h
                means[count] += value.mean(axis=(0, 1)) / steps
        return means

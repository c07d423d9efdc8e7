"""Fast: a fast intensity simulator for tropical cyclones, the hidden intensity of the synthetic planet's storms.

Two states and the red noise of the ventilation, V the largest wind (m/s), m the moisture of the inner core (0–1):

    dV/dt = ½ C/h (α β Vp² m³ − (1 − γ m³) V²) + σ ξ
    dm/dt = ½ C/h ((1 − m) V − e^x χ S m)
    dx/dt = −x/τ + s √(2/τ) ξ'

Vp is the potential intensity, S the shear of the wind from 850 to 200 hPa (m/s), χ the saturation deficit of the
middle troposphere; β = 1 − ε − κ, γ = ε + α κ. Over land Vp is 0. Emanuel 2017 (Nat. Hazards 88, 779,
doi 10.1007/s11069-017-2890-7) for the equations; C, ε, κ and h (of the western Pacific) as in the code of
Lin et al. 2023 (arXiv 2302.09455). The ocean's own feedback is left out (α = 1). The two noises are not in the
paper: they stand for all that the large scale does not decide, and are so strong that rapid intensification
is as rare and as hard to foresee as on Earth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

KNOT = 1852 / 3600  # m s-1
HOURS = 6  # between the records of a storm
SUBSTEPS = 6  # of the integration in these hours
NOISES = 2  # numbers a substep draws: of the wind, of the ventilation

Real = Any  # a number or an array: one storm and thousands of ensemble members alike


@dataclass(frozen=True)
class Fast:
    """Parameters of the simulator.

    Attributes:
        exchange: C, coefficient of surface enthalpy exchange.
        depth: h, of the boundary layer, m.
        efficiency: ε, thermodynamic efficiency.
        warmth: κ.
        gusts: σ, m/s per √day.
        ventilation_noise: s, standard deviation of x.
        ventilation_memory: τ, hours.
    """

    exchange: float = 1.2e-3
    depth: float = 1800.0
    efficiency: float = 0.33
    warmth: float = 0.1
    gusts: float = 4.0
    ventilation_noise: float = 1.2
    ventilation_memory: float = 12.0

    def tendency(self, v: Real, m: Real, potential: Real, ventilation: Real) -> tuple[Real, Real]:
        """Return dV/dt (m s-2) and dm/dt (s-1) without noise; `ventilation` is e^x χ S, m/s."""
        rate = 0.5 * self.exchange / self.depth
        cubed = m * m * m
        beta, gamma = 1 - self.efficiency - self.warmth, self.efficiency + self.warmth
        gain = beta * potential * potential * cubed - (1 - gamma * cubed) * v * v
        return rate * gain, rate * ((1 - m) * v - ventilation * m)

    def advance(
        self,
        state: tuple[Real, Real, Real],
        before: tuple[Real, Real],
        after: tuple[Real, Real],
        noise: Real,
    ) -> tuple[Real, Real, Real]:
        """Return V, m and x six hours later.

        Args:
            state: V, m, x.
            before: Vp (m/s) and χ S (m/s) at the beginning; they change linearly to
            after: the ones at the end.
            noise: Standard normal numbers, leading axes SUBSTEPS and NOISES.
        """
        v, m, x = state
        dt = HOURS * 3600 / SUBSTEPS
        gust = self.gusts * np.sqrt(dt / 86400)
        keep = np.exp(-dt / 3600 / self.ventilation_memory)
        kick = self.ventilation_noise * np.sqrt(1 - keep * keep)
        for k in range(SUBSTEPS):
            share = (k + 0.5) / SUBSTEPS
            potential, ventilation = (a + share * (b - a) for a, b in zip(before, after, strict=True))
            dv, dm = self.tendency(v, m, potential, np.exp(x) * ventilation)
            v = np.maximum(v + dt * dv + gust * noise[k, 0], 0.0)
            m = np.clip(m + dt * dm, 0.0, 1.0)
            x = keep * x + kick * noise[k, 1]
        return v, m, x


def potential_intensity(sst: Real) -> Real:
    """Return Vp, m/s, of the sea surface temperature, K (DeMaria & Kaplan 1994, J. Climate 7, 1324)."""
    return 28.2 + 55.8 * np.exp(0.1813 * (sst - 303.15))


def saturation_deficit(humidity: Real) -> Real:
    """Return χ of the relative humidity (%) of the middle troposphere.

    The moist-entropy deficit over the disequilibrium of sea and air (Tang & Emanuel 2012, Bull. Am. Meteorol.
    Soc. 93, 1901), the latter kept constant: 0.7 at 65 %.
    """
    return 2.0 * (1 - humidity / 100)

"""Model: three levels of quasi-geostrophic flow on the sphere (Marshall & Molteni 1993, J. Atmos. Sci. 50, 1792-1818).

Potential vorticity at 200, 500 and 800 hPa,

    q1 = ∇²ψ1 - R1⁻² (ψ1 - ψ2) + f
    q2 = ∇²ψ2 + R1⁻² (ψ1 - ψ2) - R2⁻² (ψ2 - ψ3) + f
    q3 = ∇²ψ3 + R2⁻² (ψ2 - ψ3) + f (1 + h/H),

is carried by the wind, relaxed to a season's temperatures, slowed by Ekman friction at 800 hPa and diffused by ∇⁸. The
state is q without f and mountains. Units within: radius of the Earth, and its turning by one radian (86400 s are
6.30 of them). The fluxes are formed on the Gaussian grid without aliasing, so that without driving and damping energy
and enstrophy change by the time step's error alone.

All transforms are plain matrix products over all levels and members at once, as spectra of real numbers: at T21 that is
twice as fast as an FFT of 64 points and complex spectra (torch-harmonics 0.9.3, which also holds torch below 2.15).
"""

from __future__ import annotations

import numpy as np
import torch

from .sphere import Sphere
from .vertical import ONE_DAY, SPEED, forward_matrices, inversion, stretching
from .world import World, heights, land, relaxed_shear

YEAR = 365.2425  # days
COLDEST = 15.0  # day of the year in the middle of the northern winter
STEPS = {21: 12, 42: 24}  # steps a day by truncation


class Model:
    """The right-hand side and the Runge-Kutta step, for many members at once.

    States are (component, n, level, member) with the components of `Sphere`.

    Args:
        sphere: Its truncation and grid.
        world: Its parameters.
        dtype: float32, or float64 for budgets.
        adiabatic: Leave out driving and damping (relaxation, friction, diffusion); mountains stay.
        device: Where to compute.
    """

    def __init__(
        self,
        sphere: Sphere,
        world: World,
        dtype: torch.dtype = torch.float32,
        *,
        adiabatic: bool = False,
        device: str = "cpu",
    ) -> None:
        self.sphere, self.world, self.adiabatic = sphere, world, adiabatic
        self.dtype, self._options = dtype, {"dtype": dtype, "device": device}
        rows, columns = sphere.shape
        count, size = len(sphere.order), sphere.truncation + 1
        sine, weight = sphere.nodes
        self._synthesis = self._tensor(sphere.legendre)
        self._synthesis_slope = self._tensor(-sphere.legendre_slope)
        # by parts: (1 - s²)⁻¹ (∂(Uq)/∂lon P) + ∂(Vq)/∂s P, all against the slopes of the harmonics
        share = (weight / (1 - sine**2) / columns)[:, None]
        self._analysis = self._tensor((sphere.legendre * share).transpose(0, 2, 1))
        self._analysis_slope = self._tensor((sphere.legendre_slope * share).transpose(0, 2, 1))
        self._fourier = self._tensor(sphere.fourier)
        self._fourier_slope = self._tensor(sphere.fourier_slope)
        # what each level adds to stream functions and linear tendencies: (level, either, 1, n, level, 1)
        linear = np.stack([inversion(world, sphere.truncation), self._damping()])
        self._linear = self._tensor(np.moveaxis(linear, -1, 0)[:, :, None, :, :, None])
        self._planetary = self._tensor(self._absolute())[..., None]
        friction = np.where(land(sphere), world.land_drag, 1.0) / (world.drag * ONE_DAY)
        self._friction = self._tensor(friction.T)[:, :, None]  # (column, row, 1)
        self._steady, self._seasonal = (self._tensor(part)[..., None] for part in self._driving())
        self._shape = (count, size, rows, columns)

    def _absolute(self) -> np.ndarray:
        """Coefficients of f at each level, with the mountains at the lowest, (component, n, level)."""
        sine, _ = self.sphere.nodes
        coriolis = np.broadcast_to(2 * sine[:, None], self.sphere.shape)
        hills = self.world.mountains * heights(self.sphere) / self.world.scale_height
        fields = np.stack([coriolis, coriolis, coriolis * (1 + hills)])
        spectra = self.sphere.analysis(fields)
        spectra[:, 0, 0] = 0  # a constant is carried nowhere
        return np.moveaxis(spectra, 0, -1)

    def _damping(self) -> np.ndarray:
        """Linear tendency by n: relaxation without its goal, and diffusion, (n, level, level)."""
        n = np.arange(self.sphere.truncation + 1)
        if self.adiabatic:
            return np.zeros((len(n), 3, 3))
        backward = inversion(self.world, self.sphere.truncation)
        relaxation = -stretching(self.world) @ backward / (self.world.relaxation * ONE_DAY)
        rate = (n * (n + 1.0) / (n[-1] * (n[-1] + 1))) ** 4 / (self.world.diffusion * ONE_DAY)
        return np.asarray(relaxation - rate[:, None, None] * np.eye(3))

    def _driving(self) -> tuple[np.ndarray, np.ndarray]:
        """Goal of the relaxation as a tendency: the mean over the year and its winter part, (component, n, level)."""
        if self.adiabatic:
            nothing = np.zeros((len(self.sphere.order), self.sphere.truncation + 1, 3))
            return nothing, nothing
        cold, warm = (relaxed_shear(self.sphere, self.world, winter) / SPEED for winter in (1.0, -1.0))
        parts = []
        for upper in ((cold + warm) / 2, (cold - warm) / 2):
            lower = self.world.lower_shear * upper
            goal = np.stack([upper + lower, lower, np.zeros_like(upper)], axis=-1)
            parts.append(goal @ stretching(self.world).T / (self.world.relaxation * ONE_DAY))
        return parts[0], parts[1]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(values), **self._options)  # type: ignore[arg-type]

    def driving(self, days: np.ndarray) -> torch.Tensor:
        """Return the driving of a day (member,), counted from a 1 January, (component, n, level, member)."""
        winter = self._tensor(np.cos(2 * np.pi * (np.asarray(days, np.float64) - COLDEST) / YEAR))
        return self._steady + self._seasonal * winter

    def tendency(self, state: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """Return the rate of change of states (component, n, level, member), the driving being given."""
        count, size, rows, columns = self._shape
        members = state.shape[-1]
        wide = 3 * members
        stream, damping = self._by_level(state)
        stream = stream.reshape(count, size, wide)
        total = (state + self._planetary).reshape(count, size, wide)
        rows_v = torch.bmm(self._synthesis, stream).view(count, rows * wide)
        rows_q = torch.bmm(self._synthesis, total).view(count, rows * wide)
        rows_u = torch.bmm(self._synthesis_slope, stream).view(count, rows * wide)
        u = (self._fourier @ rows_u).view(columns, rows, wide)
        v = (self._fourier_slope @ rows_v).view(columns, rows, wide)
        q = (self._fourier @ rows_q).view(columns, rows, wide)
        east, north = u * q, v * q
        if not self.adiabatic:  # friction is a flux of the lowest level's momentum: -div(k grad ψ)
            lowest = slice(2 * members, None)
            east[..., lowest] += self._friction * v[..., lowest]
            north[..., lowest] -= self._friction * u[..., lowest]
        along_east = (self._fourier_slope.T @ east.view(columns, -1)).view(count, rows, wide)
        along_north = (self._fourier.T @ north.view(columns, -1)).view(count, rows, wide)
        rate = torch.bmm(self._analysis, along_east)
        rate = torch.baddbmm(rate, self._analysis_slope, along_north)
        return rate.view(count, size, 3, members) + damping + driving

    def _by_level(self, state: torch.Tensor) -> torch.Tensor:
        """Return stream functions and linear tendencies of states, (2, component, n, level, member).

        Three products of whole arrays: a small matrix for each harmonic would cost three times as much.
        """
        first, second, third = (state[None, :, :, k : k + 1] for k in range(3))
        found = first * self._linear[0]
        found = torch.addcmul(found, second, self._linear[1])
        return torch.addcmul(found, third, self._linear[2])

    def step(self, state: torch.Tensor, driving: torch.Tensor, length: float) -> torch.Tensor:
        """Return the states one step of the classical fourth-order Runge-Kutta scheme later, `length` in days."""
        by = length * ONE_DAY
        first = self.tendency(state, driving)
        second = self.tendency(state + (by / 2) * first, driving)
        third = self.tendency(state + (by / 2) * second, driving)
        fourth = self.tendency(state + by * third, driving)
        return state + (by / 6) * (first + 2 * (second + third) + fourth)

    def stream(self, state: torch.Tensor) -> torch.Tensor:
        """Return the stream function of states, both (component, n, level, member), in units of radius² × turning."""
        return self._by_level(state)[0]

    def state_of(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the states of stream functions, the inverse of `stream`."""
        forward = forward_matrices(self.world, self.sphere.truncation)
        return torch.einsum("nij,knjb->knib", self._tensor(forward), stream)

    def energy(self, state: torch.Tensor) -> torch.Tensor:
        """Return kinetic and available potential energy, summed over the levels, mean over the sphere, (member,)."""
        return -(state * self.stream(state)).sum(dim=(0, 1, 2)) / 2

    def enstrophy(self, state: torch.Tensor) -> torch.Tensor:
        """Return half the mean square of the potential vorticity of each level, f within, (level, member)."""
        return ((state + self._planetary) ** 2).sum(dim=(0, 1)) / 2

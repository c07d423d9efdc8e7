"""Model: three levels of quasi-geostrophic flow on the sphere (Marshall & Molteni 1993, J. Atmos. Sci. 50, 1792-1818).

Potential vorticity at 200, 500 and 800 hPa,

    q1 = ∇²ψ1 - R1⁻² (ψ1 - ψ2) + f
    q2 = ∇²ψ2 + R1⁻² (ψ1 - ψ2) - R2⁻² (ψ2 - ψ3) + f
    q3 = ∇²ψ3 + R2⁻² (ψ2 - ψ3) + f (1 + h/H),

is carried by the wind, relaxed to a season's temperatures, slowed by Ekman friction at 800 hPa and diffused by ∇⁸. The
state is q without f and mountains. Units within: radius of the Earth, and its turning by one radian (86400 s are
6.30 of them). The fluxes are formed on the Gaussian grid without aliasing, so that without driving and damping energy
and enstrophy change by the time step's error alone.

All transforms are plain matrix products over all levels and members at once. At T21 that is an order of magnitude
cheaper than complex spectra and an FFT of 64 points, and it needs nothing beyond torch.
"""

from __future__ import annotations

import numpy as np
import torch

from .sphere import Sphere
from .world import DAY, World, heights, land, relaxed_shear

RADIUS = 6.371e6  # m
ROTATION = 7.292e-5  # rad s-1
SPEED = RADIUS * ROTATION  # m s-1: one of wind
ONE_DAY = DAY * ROTATION
YEAR = 365.2425  # days
COLDEST = 15.0  # day of the year in the middle of the northern winter
LEVELS = (200, 500, 800)  # hPa
STEPS = {21: 12, 42: 24}  # steps a day by truncation


def stretching(of: World) -> np.ndarray:
    """Return what a stream function adds to the potential vorticity of each level by stretching, (level, level)."""
    first, second = ((RADIUS / (1000 * radius)) ** 2 for radius in of.radii)
    return np.array([[-first, first, 0], [first, -first - second, second], [0, second, -second]])


def forward_matrices(of: World, truncation: int) -> np.ndarray:
    """Return potential vorticity from stream function, (n, level, level); 0 for n = 0, which carries no wind."""
    n = np.arange(truncation + 1)
    matrices = -(n * (n + 1.0))[:, None, None] * np.eye(3) + stretching(of)
    matrices[0] = 0
    return matrices


def inversion(of: World, truncation: int) -> np.ndarray:
    """Return stream function from potential vorticity, (n, level, level); 0 for n = 0."""
    matrices = forward_matrices(of, truncation)
    matrices[1:] = np.linalg.inv(matrices[1:])
    return matrices


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
        both = np.concatenate([sphere.legendre * share, sphere.legendre_slope * share], axis=1)
        self._analysis = self._tensor(both.transpose(0, 2, 1))
        self._fourier = self._tensor(sphere.fourier)
        self._fourier_slope = self._tensor(sphere.fourier_slope)
        linear = np.concatenate([inversion(world, sphere.truncation), self._damping()], axis=1)  # (n, stream function and tendency, level)
        self._linear = self._tensor(np.broadcast_to(linear, (count, *linear.shape)).reshape(-1, 6, 3))
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
        relaxation = -stretching(self.world) @ inversion(self.world, self.sphere.truncation) / (self.world.relaxation * ONE_DAY)
        rate = (n * (n + 1) / (21 * 22.0)) ** 4 / (self.world.diffusion * ONE_DAY)
        if self.sphere.truncation > 21:  # the smallest scales of the finer grid live as long as those of T21 do
            rate = (n * (n + 1) / (self.sphere.truncation * (self.sphere.truncation + 1.0))) ** 4
            rate /= self.world.diffusion * ONE_DAY
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
        linear = torch.bmm(self._linear, state.reshape(count * size, 3, members)).view(count, size, 2, wide)
        stream = linear[:, :, 0]
        total = (state + self._planetary).reshape(count, size, wide)
        rows_v_q = torch.bmm(self._synthesis, torch.cat([stream, total], dim=2)).view(count, rows, 2, wide)
        rows_u = torch.bmm(self._synthesis_slope, stream).view(count, rows * wide)
        u = (self._fourier @ rows_u).view(columns, rows, wide)
        v = (self._fourier_slope @ rows_v_q[:, :, 0].reshape(count, rows * wide)).view(columns, rows, wide)
        q = (self._fourier @ rows_v_q[:, :, 1].reshape(count, rows * wide)).view(columns, rows, wide)
        east, north = u * q, v * q
        if not self.adiabatic:  # friction is a flux of the lowest level's momentum: -div(k grad ψ)
            lowest = slice(2 * members, None)
            east[..., lowest] += self._friction * v[..., lowest]
            north[..., lowest] -= self._friction * u[..., lowest]
        along = torch.cat(
            [
                (self._fourier_slope.T @ east.view(columns, -1)).view(count, rows, wide),
                (self._fourier.T @ north.view(columns, -1)).view(count, rows, wide),
            ],
            dim=1,
        )
        rate = torch.bmm(self._analysis, along)
        rate += linear[:, :, 1]
        return rate.view(count, size, 3, members) + driving

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
        inverse = self._tensor(inversion(self.world, self.sphere.truncation))
        return torch.einsum("nij,knjb->knib", inverse, state)

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

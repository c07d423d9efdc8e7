"""The source `lorenz96`: the slow variables of the Lorenz '96 system with two scales. Always label it as synthetic.

Lorenz (1996), "Predictability: a problem partly solved"; as a test of parameterisations Wilks (2005),
doi:10.1256/qj.04.03, and Arnold et al. (2013), doi:10.1098/rsta.2011.0479. K slow variables X on a ring, J fast
ones Y for each of them:

    dX_k/dt = -X_{k-1} (X_{k-2} - X_{k+1}) - X_k + F - U_k,    U_k = (h c / b) Σ_j Y_{j,k}
    dY_j/dt = -c b Y_{j+1} (Y_{j+2} - Y_{j-1}) - c Y_j + (h c / b) X_{k(j)}

A model that does not resolve Y must be told U. The fields hold X alone, as geopotential at 500 hPa on a ring of K
longitudes, so that every verb takes them; nothing of them is the atmosphere's. U stays known: `Lorenz96.subgrid`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import xarray as xr

from ..common.randomness import key
from .planet.options import check_names, check_whole, mistake, recorded_options
from .planet.recorded import LORENZ96

_mistake = partial(mistake, LORENZ96)
VARIABLE = "z500"
MEAN, UNIT = 54_000.0, 200.0  # m2 s-2: of X = 0, and of a step of 1
LATITUDES = (10.0, -10.0)  # two rows alike: a grid needs two
START = np.datetime64("1900-01-01")
GAP = 30  # days between two members, which know nothing of each other
MOST_DAYS = 130_000  # nanoseconds from 1678 to 2262 are all that a time stamp holds
COUPLING, SCALES, SPEED = 1.0, 10.0, 10.0  # h, b, c of all the literature on parameterisation
SPREAD_AT_START, FAST_AT_START = 5.0, 0.1


def resolved(x: np.ndarray, forcing: float) -> np.ndarray:
    """Return what the slow variables do to themselves, advection, damping and forcing; (K, …), like `x`."""
    k = np.arange(len(x))
    return -x[k - 1] * (x[k - 2] - x[(k + 1) % len(x)]) - x + forcing


def two_scale(x: np.ndarray, y: np.ndarray, forcing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the tendencies of slow (K, …) and fast variables (K × J, …), those of one slow variable side by side."""
    ratio = COUPLING * SPEED / SCALES
    ring = np.concatenate([y[-1:], y, y[:2]])  # from the one before the first to the second after the last
    n, each = len(y), len(y) // len(x)
    fast = ring[3:] - ring[:n]
    fast *= ring[2 : n + 2]
    fast *= -SCALES
    fast -= y
    fast *= SPEED
    fast += np.repeat(ratio * x, each, axis=0)
    return resolved(x, forcing) - subgrid_of(y, len(x)), fast


def subgrid_of(y: np.ndarray, slow: int) -> np.ndarray:
    """Return U, what the fast variables (K × J, …) take from each slow one, (K, …)."""
    return np.asarray(COUPLING * SPEED / SCALES * y.reshape(slow, -1, *y.shape[1:]).sum(axis=1))


def rk4(tendency: Callable[..., tuple[np.ndarray, ...]], state: tuple[np.ndarray, ...], dt: float) -> tuple[Any, ...]:
    """Return the state a step later, by the classical Runge–Kutta scheme of fourth order."""
    first = tendency(*state)
    second = tendency(*(s + dt / 2 * k for s, k in zip(state, first, strict=True)))
    third = tendency(*(s + dt / 2 * k for s, k in zip(state, second, strict=True)))
    fourth = tendency(*(s + dt * k for s, k in zip(state, third, strict=True)))
    stages = zip(state, first, second, third, fourth, strict=True)
    return tuple(s + dt / 6 * (a + 2 * (b + c) + d) for s, a, b, c, d in stages)


@dataclass(frozen=True)
class Lorenz96Config:
    """Options of the source.

    Attributes:
        members: Trajectories, laid end to end with gaps of 30 days; each has a start of its own.
        samples: Fields of each, one a day.
        interval: Time units from one field to the next: a "day". The literature takes 1 time unit for five real days.
        seed: Of the starts.
        slow: K.
        fast: J.
        forcing: F.
        dt: Step of the integration (Runge–Kutta, fourth order).
        spinup: Time units before the first field.

    Raises:
        EarthSSLError: If an option is out of range.
    """

    members: int = 40
    samples: int = 1000
    interval: float = 0.05
    seed: int = 0
    slow: int = 8
    fast: int = 32
    forcing: float = 20.0
    dt: float = 0.001
    spinup: float = 5.0

    def __post_init__(self) -> None:
        check_whole(LORENZ96, self, {"members": (1, 1000), "samples": (10, MOST_DAYS), "seed": (0, 2**31),
                                     "slow": (4, 360), "fast": (4, 1000)})  # fmt: skip
        for name, above, top in (("interval", 0, 10), ("forcing", 0, 30), ("dt", 0, 0.005), ("spinup", -1e-9, 1000)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not above < value <= top:
                raise _mistake(name, f"a number {'from' if above else 'above'} 0, at most {top}", value)
        if abs(self.interval / self.dt - round(self.interval / self.dt)) > 1e-6 or self.interval < self.dt:
            raise _mistake("interval", f"a multiple of dt ({self.dt})", self.interval)
        if self.members * (self.samples + GAP) > MOST_DAYS:
            raise _mistake("members × (samples + 30)", f"at most {MOST_DAYS} days", self.members * (self.samples + GAP))


class Lorenz96:
    """One set of trajectories.

    Args:
        config: Its options.
    """

    def __init__(self, config: Lorenz96Config | None = None) -> None:
        self.config = config or Lorenz96Config()

    @cached_property
    def time(self) -> np.ndarray:
        """Times of the fields, datetime64[ns], (member × sample,)."""
        first = np.arange(self.config.members)[:, None] * (self.config.samples + GAP)
        return np.asarray((START + (first + np.arange(self.config.samples)).ravel()).astype("datetime64[ns]"))

    @property
    def slow(self) -> np.ndarray:
        """X, float64 (member, sample, K)."""
        return self._fields[0]

    @property
    def subgrid(self) -> np.ndarray:
        """U at the same times, float64 (member, sample, K)."""
        return self._fields[1]

    @cached_property
    def _fields(self) -> tuple[np.ndarray, np.ndarray]:
        return self.sampled(self.config.interval)

    def sampled(self, interval: float) -> tuple[np.ndarray, np.ndarray]:
        """Return X and U of the same trajectories at another interval, float64 (member, sample, K) each.

        Raises:
            EarthSSLError: If the interval is no multiple of dt, or the fields' no multiple of it.
        """
        config = self.config
        inner, each = interval / config.dt, config.interval / interval
        if min(inner, each) < 1 - 1e-6 or max(abs(inner - round(inner)), abs(each - round(each))) > 1e-6:
            raise _mistake("the interval", f"a multiple of dt ({config.dt}) that divides {config.interval}", interval)
        state, count = self.start(), config.samples * round(each)
        slow, subgrid = np.empty((2, count, config.slow, config.members))

        def tendency(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return two_scale(x, y, config.forcing)

        for _ in range(round(config.spinup / config.dt)):
            state = rk4(tendency, state, config.dt)
        for sample in range(count):
            slow[sample], subgrid[sample] = state[0], subgrid_of(state[1], config.slow)
            for _ in range(round(inner)):
                state = rk4(tendency, state, config.dt)
        if not np.isfinite(slow).all():
            raise _mistake("the integration", "bounded", f"values without bound; lower dt ({config.dt})")
        return np.moveaxis(slow, -1, 0), np.moveaxis(subgrid, -1, 0)

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the start of the members, X (K, member) and Y (K × J, member); each a function of seed and member."""
        config = self.config
        parts = []
        for member in range(config.members):
            rng = np.random.default_rng(key(config.seed, f"lorenz96, member {member}") & (2**63 - 1))
            x = SPREAD_AT_START * rng.standard_normal(config.slow)
            parts.append((x, FAST_AT_START * rng.standard_normal(config.slow * config.fast)))
        x, y = (np.stack(own, axis=-1) for own in zip(*parts, strict=True))
        return x, y

    def dataset(self) -> xr.Dataset:
        """Return X as fields: dims (time, lat, lon), float32, as geopotential at 500 hPa, two rows alike."""
        config = self.config
        coords = {"time": self.time, "lat": np.array(LATITUDES), "lon": 360 / config.slow * np.arange(config.slow)}
        ring = (MEAN + UNIT * self.slow.reshape(-1, 1, config.slow)).astype(np.float32)
        attrs = {"units": "m2 s-2", "long_name": "geopotential at 500 hPa", "standard_name": "geopotential"}
        about = {
            "source": "Lorenz '96 with two scales (synthetic)",
            "licence": "CC0",
            "citation": "Lorenz (1996), Predictability: a problem partly solved; not observations",
            "planet": json.dumps({"dynamics": LORENZ96, **dataclasses.asdict(config)}),
        }
        fields = np.repeat(ring, len(LATITUDES), axis=1)
        return xr.Dataset({VARIABLE: (("time", "lat", "lon"), fields, attrs)}, coords, about)


def open_lorenz96(**options: Any) -> xr.Dataset:
    """Return the dataset of the system with the given Lorenz96Config options.

    Raises:
        EarthSSLError: If an option is unknown or out of range.
    """
    check_names(LORENZ96, Lorenz96Config, options)
    return Lorenz96(Lorenz96Config(**options)).dataset()


def recorded_lorenz96(attributes: Mapping[str, Any]) -> Lorenz96:
    """Return the system that data were made from; it is integrated again where its values are asked for.

    Args:
        attributes: Of the data, as the manifest of a store holds them.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    return Lorenz96(Lorenz96Config(**recorded_options(attributes, LORENZ96, "Lorenz '96", "lorenz96")))

"""The designs of the controls: what is hidden in their fields, and what is asked.

All hidden noise is drawn step by step from generators of its own, so that a longer world begins with the shorter one of
the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ...common.randomness import key

ROWS, COLUMNS = 8, 32
LEAD = 4  # steps from the present to what is asked of N0, P1 and P2
NOISES = 48  # patterns of the noise
SMOOTH_SIGNAL, SMOOTH_NOISE = 1.0, 2.5  # cells: deviation of the Gaussian that smooths patterns
DWELL = 40  # mean number of steps between two changes of a drift or a tilt

# Lorenz (1963), doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2, with its own parameters.
SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
SAMPLED, SUBSTEPS = 0.15, 10
CENTRE, SPREAD = np.array([0.0, 0.0, 23.55]), np.array([7.92, 9.01, 8.62])  # of a long run


@dataclass(frozen=True, eq=False)
class Hidden:
    """What a world is made of.

    Attributes:
        signal: The part of the fields that the label is hidden in, unit variance, (time, row, column).
        state: True state behind it, (time, component).
        label: What is asked at each step, (time,): a number of unit variance, or -1 and 1.
    """

    signal: np.ndarray
    state: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Design:
    """One kind of world.

    Attributes:
        name: N0, P1, …
        amplitude: Of the signal, by default.
        what: What is hidden and what is asked, in words.
        winner: Who may win, in words.
        binary: Whether the label is one of two.
        hide: Returns what is hidden, given the number of steps and the seed.
        noise: Returns the noise, (time, row, column), given the same.
    """

    name: str
    amplitude: float
    what: str
    winner: str
    binary: bool
    hide: Callable[[int, int], Hidden]
    noise: Callable[[int, int], np.ndarray]


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one purpose of a world's seed."""
    return np.random.default_rng(key(seed, f"controls, {purpose}") & (2**63 - 1))


def smooth_patterns(seed: int, purpose: str, count: int, cells: float) -> np.ndarray:
    """Return random patterns of mean square 1, smooth over so many cells, (count, row, column); longitude wraps."""
    raw = generator(seed, purpose).standard_normal((count, ROWS, COLUMNS))
    made = gaussian_filter(raw, (0, cells, cells), mode=("constant", "reflect", "wrap"))
    return np.asarray(made / np.sqrt((made**2).mean(axis=(1, 2), keepdims=True)))


def oscillator(steps: int, seed: int) -> np.ndarray:
    """Return a damped oscillator (r = .93 a step, period 12) and an AR(1) of .9, unit variance, (time, 3)."""
    angle = 2 * np.pi / 12
    turn = 0.93 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    noise = generator(seed, "oscillator").standard_normal((steps, 3))
    z = np.empty((steps, 3))
    z[0] = noise[0]
    for t in range(1, steps):
        z[t, :2] = turn @ z[t - 1, :2] + np.sqrt(1 - 0.93**2) * noise[t, :2]
        z[t, 2] = 0.9 * z[t - 1, 2] + np.sqrt(1 - 0.9**2) * noise[t, 2]
    return z


def lorenz(steps: int, seed: int) -> np.ndarray:
    """Return X, Y, Z of the Lorenz equations every .15 of their time, less their mean, unit variance, (time, 3)."""

    def tendency(x: float, y: float, z: float) -> tuple[float, float, float]:
        return SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z

    x, y, z = (float(v) for v in CENTRE + SPREAD * generator(seed, "Lorenz").standard_normal(3))
    h, spin_up = SAMPLED / SUBSTEPS, 100
    found = np.empty((steps, 3))
    for t in range(-spin_up, steps):
        if t >= 0:
            found[t] = x, y, z
        for _ in range(SUBSTEPS):  # Runge and Kutta's fourth order
            a, b, c = tendency(x, y, z)
            d, e, f = tendency(x + h / 2 * a, y + h / 2 * b, z + h / 2 * c)
            g, i, j = tendency(x + h / 2 * d, y + h / 2 * e, z + h / 2 * f)
            k, m, n = tendency(x + h * g, y + h * i, z + h * j)
            x, y, z = x + h / 6 * (a + 2 * d + 2 * g + k), y + h / 6 * (b + 2 * e + 2 * i + m), z + h / 6 * (
                c + 2 * f + 2 * j + n)  # fmt: skip
    return (found - CENTRE) / SPREAD


def switching(steps: int, seed: int) -> np.ndarray:
    """Return -1 or 1 at each step, changing with a chance of 1 in `DWELL`, (time,)."""
    rng = generator(seed, "switch")
    first = 1 if rng.random() < 0.5 else -1
    return np.asarray(first * np.where(np.cumsum(rng.random(steps) < 1 / DWELL) % 2, -1, 1))


def _of_patterns(z: np.ndarray, label: np.ndarray, steps: int, seed: int) -> Hidden:
    patterns = smooth_patterns(seed, "signal", z.shape[1], SMOOTH_SIGNAL)
    signal = np.tensordot(z[:steps] / np.sqrt(z.shape[1]), patterns, 1)
    return Hidden(signal, z[:steps], label)


def hide_oscillator(steps: int, seed: int) -> Hidden:
    """Return N0 and P1: an oscillator on smooth patterns; asked is its first component `LEAD` steps on."""
    z = oscillator(steps + LEAD, seed)
    return _of_patterns(z, z[LEAD:, 0], steps, seed)


def hide_lorenz(steps: int, seed: int) -> Hidden:
    """Return P2: the Lorenz equations on smooth patterns; asked is the sign of X `LEAD` steps on."""
    z = lorenz(steps + LEAD, seed)
    return _of_patterns(z, np.where(z[LEAD:, 0] > 0, 1.0, -1.0), steps, seed)


def weather_noise(steps: int, seed: int) -> np.ndarray:
    """Return noise white in time on `NOISES` smooth patterns, amplitudes falling from 1.6 to .8, unit variance."""
    size = np.linspace(1.6, 0.8, NOISES)
    patterns = smooth_patterns(seed, "noise", NOISES, SMOOTH_NOISE) * (size / np.sqrt((size**2).sum()))[:, None, None]
    return np.asarray(np.tensordot(generator(seed, "weather").standard_normal((steps, NOISES)), patterns, 1))


WAVES = np.arange(2, 8)  # zonal wavenumbers of the eddies
MERIDIONAL = 4
MEMORY_EDDIES, MEMORY_STRIPES = 0.95, 0.8
TURN = 0.4 + 0.1 * WAVES  # radians a step that an eddy drifts
STRIPES = np.array([(k, m) for k in range(3, 8) for m in (1, 2)])  # wavenumbers: zonal, and meridional in eight rows


def _eddy_patterns() -> np.ndarray:
    """Return exp(i k longitude) × cosine of the row, (wave, meridional, row, column); real parts of variance 1/2."""
    zonal = np.exp(1j * WAVES[:, None] * 2 * np.pi * np.arange(COLUMNS) / COLUMNS)
    cosines = np.cos(np.pi * np.arange(MERIDIONAL)[:, None] * (np.arange(ROWS) + 0.5) / ROWS)
    cosines /= np.sqrt((cosines**2).mean(axis=1, keepdims=True))
    return np.asarray(zonal[:, None, None, :] * cosines[None, :, :, None])


def _complex(rng: np.random.Generator, *shape: int) -> np.ndarray:
    both = rng.standard_normal((*shape, 2))
    return np.asarray((both[..., 0] + 1j * both[..., 1]) / np.sqrt(2))


def _projected(w: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Return the real field of complex amplitudes, unit variance where theirs is 1."""
    flat = w.reshape(len(w), -1) * np.sqrt(2 / np.prod(w.shape[1:]))
    patterns = patterns.reshape(flat.shape[1], -1)
    field = flat.real @ patterns.real - flat.imag @ patterns.imag
    return np.asarray(field.reshape(len(w), ROWS, COLUMNS))


def hide_drift(steps: int, seed: int) -> Hidden:
    """Return P3: eddies of one spectrum that drift east or west; asked is which way they drift now."""
    z = switching(steps, seed)
    noise = _complex(generator(seed, "eddies"), steps, len(WAVES), MERIDIONAL)
    w = np.empty_like(noise)
    w[0] = noise[0]
    turn = {sign: MEMORY_EDDIES * np.exp(-1j * sign * TURN)[:, None] for sign in (-1, 1)}
    for t in range(1, steps):
        w[t] = turn[int(z[t])] * w[t - 1] + np.sqrt(1 - MEMORY_EDDIES**2) * noise[t]
    flat = w.reshape(steps, -1)
    return Hidden(_projected(w, _eddy_patterns()), np.hstack([flat.real, flat.imag]), z.astype(float))


def eddy_noise(steps: int, seed: int) -> np.ndarray:
    """Return noise of the eddies' patterns and variance, white in time: no two steps extrapolate to a third."""
    noise = _complex(generator(seed, "eddy noise"), steps, len(WAVES), MERIDIONAL)
    return _projected(noise, _eddy_patterns())


def hide_tilt(steps: int, seed: int) -> Hidden:
    """Return P4: stripes that run NE–SW (1) or NW–SE (-1), of random amplitude; asked is which of the two."""
    z, rng = switching(steps, seed), generator(seed, "stripes")
    drawn = rng.standard_normal((steps, 2 * len(STRIPES) + 1))
    noise = (drawn[:, 1 : 1 + len(STRIPES)] + 1j * drawn[:, 1 + len(STRIPES) :]) / np.sqrt(2)
    w = np.empty_like(noise)
    w[0] = noise[0]
    for t in range(1, steps):
        w[t] = MEMORY_STRIPES * w[t - 1] + np.sqrt(1 - MEMORY_STRIPES**2) * noise[t]
    amplitude = np.exp(0.5 * drawn[:, 0] - 0.25)  # log-normal, mean square 1
    east, south = np.arange(COLUMNS) * 2 * np.pi / COLUMNS, np.arange(ROWS)[:, None] * 2 * np.pi / ROWS
    # Rows go south: a crest k·east + m·south = const that moves west where it goes south runs NE–SW.
    fields = {
        sign: _projected(w, np.array([np.exp(1j * (k * east + sign * m * south)) for k, m in STRIPES]))
        for sign in (-1, 1)
    }
    signal = np.where((z == 1)[:, None, None], fields[1], fields[-1]) * amplitude[:, None, None]
    return Hidden(signal, np.hstack([w.real, w.imag]), z.astype(float))


def cell_noise(steps: int, seed: int) -> np.ndarray:
    """Return noise white in time and space, of variance 1/4."""
    return 0.5 * generator(seed, "cell noise").standard_normal((steps, ROWS, COLUMNS))


DESIGNS = {
    one.name: one
    for one in (
        Design("N0", 3.0, "a linear Gaussian oscillator that is most of the variance; its state 4 steps on",
               "nobody over the best linear features", False, hide_oscillator, weather_noise),
        Design("P1", 0.2, "the same oscillator as 3.5 % of the variance; its state 4 steps on",
               "who looks for what is predictable: canonical correlations, pretraining in time", False,
               hide_oscillator, weather_noise),
        Design("P2", 0.6, "the Lorenz equations as 25 % of the variance; the sign of X 4 steps on",
               "nonlinear prediction in time alone", True, hide_lorenz, weather_noise),
        Design("P3", 1.0, "eddies that drift east or west, in as much noise; which way they drift",
               "who joins two steps nonlinearly: no linear method, and no method that looks at one step", True,
               hide_drift, eddy_noise),
        Design("P4", 1.0, "stripes NE–SW or NW–SE of random amplitude; which of the two",
               "who joins neighbouring cells nonlinearly: no linear method", True, hide_tilt, cell_noise),
    )
}  # fmt: skip

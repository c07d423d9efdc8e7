"""Output: the fields that users know, from the model's three stream functions.

Geopotential follows from the stream function by linear balance, ∇²Φ = ∇·(f ∇ψ), temperature from thickness by
hydrostatic balance, and both sit on a standard atmosphere, which the model does not forecast. Between and below its
levels Φ and ψ are the parabola in log pressure through them, so temperature is linear in log pressure, and height,
wind and temperature of every level belong together. Near the equator balance says little: geopotential is nearly flat.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from ...fields.variables import lookup
from .sphere import Sphere, coupling
from .vertical import LEVELS, SPEED

GAS = 287.05  # J kg-1 K-1, dry air
GRAVITY = 9.80665
SEA_LEVEL, SURFACE_K, LAPSE = 1013.25, 288.15, 0.0065  # hPa, K, K m-1
NAMES = (
    "z200", "z500", "z850", "u200", "u500", "u850", "v200", "v500", "v850", "t500", "t850",
)  # fmt: skip
VARIABLES = {name: (lookup(name).units, lookup(name).long_name, lookup(name).standard_name) for name in NAMES}
_NAME = re.compile(r"([zuvt])(\d+)")


def linear_balance(sphere: Sphere, stream: np.ndarray) -> np.ndarray:
    """Return the geopotential in linear balance with a stream function, coefficients (…, component, n).

    Both without units: geopotential in SPEED². Its mean over the sphere is 0.
    """
    n, m = np.arange(sphere.truncation + 1), sphere.order[:, None]
    below = np.zeros_like(stream)
    below[..., 1:] = stream[..., :-1]
    above = np.zeros_like(stream)
    above[..., :-1] = stream[..., 1:]
    factor = 2 * coupling(n, m) * (n - 1) / np.maximum(n, 1), 2 * coupling(n + 1, m) * (n + 2) / (n + 1)
    geopotential = factor[0] * below + factor[1] * above
    geopotential[..., 0] = 0
    return np.asarray(geopotential)


def level_weights(hpa: float) -> np.ndarray:
    """Return the weights of the model's levels in a value at a pressure: the parabola in log pressure, (3,)."""
    x, at = np.log(np.array(LEVELS)), np.log(hpa)
    return np.array([np.prod([(at - x[j]) / (x[k] - x[j]) for j in range(3) if j != k]) for k in range(3)])


def slope_weights(hpa: float) -> np.ndarray:
    """Return the weights of the model's levels in the derivative by log pressure at a pressure, (3,)."""
    x, at = np.log(np.array(LEVELS)), np.log(hpa)
    weights = []
    for k in range(3):
        i, j = (other for other in range(3) if other != k)
        weights.append((2 * at - x[i] - x[j]) / ((x[k] - x[i]) * (x[k] - x[j])))
    return np.array(weights)


def standard_atmosphere(hpa: float) -> tuple[float, float]:
    """Return geopotential, m2 s-2, and temperature, K, of the standard atmosphere, below the tropopause or above."""
    tropopause = SEA_LEVEL * ((SURFACE_K - LAPSE * 11000) / SURFACE_K) ** (GRAVITY / (GAS * LAPSE))
    cold = SURFACE_K - LAPSE * 11000
    if hpa < tropopause:
        return GRAVITY * 11000 + GAS * cold * float(np.log(tropopause / hpa)), cold
    temperature = SURFACE_K * (hpa / SEA_LEVEL) ** (GAS * LAPSE / GRAVITY)
    return GRAVITY * (SURFACE_K - temperature) / LAPSE, temperature


def fields(sphere: Sphere, stream: np.ndarray, name: str) -> np.ndarray:
    """Return a variable on the grid, (…, row, column), canonical units, in the type of the stream functions.

    Args:
        sphere: Of the stream functions.
        stream: Those of the model's levels, packed, (…, level, known), in radius² × turning.
        name: One of VARIABLES.
    """
    kind, level = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    hpa = float(level)
    weights = slope_weights(hpa) if kind == "t" else level_weights(hpa)
    one = sphere.unpacked(np.tensordot(stream, weights.astype(stream.dtype), axes=([-2], [0])))
    if kind in "zt":
        one = linear_balance(sphere, one)
    kernel, circle = _kernels(sphere.truncation, kind, str(stream.dtype))
    rows = np.matmul(np.moveaxis(one, -2, 0).reshape(len(sphere.order), -1, sphere.truncation + 1), kernel)
    field = np.tensordot(rows, circle, axes=([0], [1])).reshape(*stream.shape[:-2], *sphere.shape)
    if kind == "z":
        field += standard_atmosphere(hpa)[0]
    elif kind == "t":
        field += standard_atmosphere(hpa)[1]
    return np.asarray(field, stream.dtype)


@lru_cache(maxsize=16)
def _kernels(truncation: int, kind: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return matrices (component, n, row) and (column, component) with units and 1/cos(lat) worked in."""
    sphere = Sphere(truncation)
    cosine = np.sqrt(1 - sphere.nodes[0] ** 2)[:, None]
    rows, circle = sphere.legendre, sphere.fourier
    if kind == "z":
        rows = SPEED**2 * rows
    elif kind == "t":  # T = -Φ' / R, the derivative by log pressure
        rows = -(SPEED**2) / GAS * rows
    elif kind == "u":
        rows = -SPEED * sphere.legendre_slope / cosine
    else:
        rows, circle = SPEED * rows / cosine, sphere.fourier_slope
    return rows.transpose(0, 2, 1).astype(dtype), circle.astype(dtype)

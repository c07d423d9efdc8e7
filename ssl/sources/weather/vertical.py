"""Vertical: the three levels, the units of the model, and potential vorticity from stream functions, without torch."""

from __future__ import annotations

import numpy as np

from .sphere import Sphere
from .world import World

RADIUS = 6.371e6  # m
ROTATION = 7.292e-5  # rad s-1
SPEED = RADIUS * ROTATION  # m s-1: one of wind
ONE_DAY = 86400 * ROTATION
LEVELS = (200, 500, 800)  # hPa


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


def stream_of(sphere: Sphere, of: World, states: np.ndarray) -> np.ndarray:
    """Return the stream functions of states, both packed (…, level, known), float32."""
    inverse = inversion(of, sphere.truncation)[sphere.known[1]].astype(np.float32)
    return np.asarray(np.einsum("pij,...jp->...ip", inverse, states))

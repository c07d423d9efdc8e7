"""Linear inverse models: x(t + 1) = G x(t) + noise, with one G or one for each calendar month.

Stationary: Penland & Sardeshmukh 1995, doi 10.1175/1520-0442(1995)008<1999:TOGOTS>2.0.CO;2.
Cyclostationary: Shin et al. 2021, doi 10.1175/JCLI-D-20-0291.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....ssl.common.errors import EarthSSLError


@dataclass(frozen=True, eq=False)
class Lim:
    """Propagators over one month.

    Attributes:
        propagators: G of each calendar month of departure, shape (12, k, k); all equal where stationary.
    """

    propagators: np.ndarray

    @classmethod
    def stationary(cls, states: np.ndarray) -> Lim:
        """Return the LIM with G = C(1) C(0)^-1 from consecutive monthly states, shape (time, k).

        Both covariances run over the same pairs, which makes G the least-squares propagator.
        Pairs with a missing state are left out.
        """
        earlier, later = states[:-1], states[1:]
        paired = np.isfinite(earlier).all(axis=1) & np.isfinite(later).all(axis=1)
        propagator = _propagator(earlier[paired], later[paired], 0.0)
        return cls(np.broadcast_to(propagator, (12, *propagator.shape)))

    @classmethod
    def cyclostationary(cls, states: np.ndarray, month: np.ndarray, *, window: int = 3, ridge: float = 1e-3) -> Lim:
        """Return the LIM with a propagator for each calendar month.

        Args:
            states: Consecutive monthly states, best of unit variance (the ridge is absolute), (time, k).
            month: Calendar month of each state, 0…11, shape (time,).
            window: Calendar months, centred on the month of departure, that share a propagator; odd.
            ridge: Added to the diagonal of C(0), times the number of pairs n.
        """
        if window not in (1, 3, 5, 7, 9, 11):
            raise EarthSSLError(f"expected an odd window of 1 to 11 months, got {window}")
        earlier, later = states[:-1], states[1:]
        paired = np.isfinite(earlier).all(axis=1) & np.isfinite(later).all(axis=1)
        distance = np.abs((month[:-1, None] - np.arange(12)[None, :] + 6) % 12 - 6)
        near = paired[:, None] & (distance <= window // 2)
        return cls(np.stack([_propagator(earlier[near[:, m]], later[near[:, m]], ridge) for m in range(12)]))

    def forecast(self, states: np.ndarray, month: np.ndarray, steps: int) -> np.ndarray:
        """Return the expected states 0…`steps` months after each state.

        Args:
            states: Initial states, shape (n, k).
            month: Calendar month of each, 0…11, shape (n,).
            steps: Months ahead.

        Returns:
            Shape (steps + 1, n, k); the first is the initial state itself.
        """
        path = [np.asarray(states, dtype=np.float64)]
        for step in range(steps):
            path.append(np.einsum("nij,nj->ni", self.propagators[(month + step) % 12], path[-1]))
        return np.stack(path)


def _propagator(earlier: np.ndarray, later: np.ndarray, ridge: float) -> np.ndarray:
    """Return G = (later^T earlier)(earlier^T earlier + ridge n I)^-1 of paired states, shape (k, k)."""
    n, k = earlier.shape
    if n <= k:
        raise EarthSSLError(
            f"expected more pairs of months than the LIM has components ({k}), got {n}; "
            "use fewer EOFs or a longer fit period"
        )
    power = earlier.T @ earlier + ridge * n * np.eye(k)
    return np.linalg.solve(power, earlier.T @ later).T

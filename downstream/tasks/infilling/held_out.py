"""Fill gaps with settings chosen on training fields kept out, seen through the very same gaps.

Reduced space: Kaplan et al. 1997, doi 10.1029/97JC01734. Optimal interpolation as in fillers.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import copy

import numpy as np
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.reduced_space import ReducedSpaces, conditional_mean, memory_weights
from .fillers import Filler, OptimalInterpolation
from .gaps import Places


class HeldOut(Filler):
    """A filler whose settings are those that best fill the very same gaps in training fields kept out.

    These are the last quarter of training. What is chosen is then learnt from all of training.
    """

    MOST = 48  # fields to choose on, evenly spaced

    def __init__(self, places: Places, training: np.ndarray) -> None:
        """Keep training fields, (times, cells).

        Raises:
            EarthSSLError: If they have gaps, or are too few.
        """
        self.places, self.training = places, np.asarray(training, dtype=np.float64)
        self.early = len(training) - len(training) // 4
        if not np.isfinite(self.training).all() or len(training) < 4:
            raise EarthSSLError(
                f"{self.name}: expected at least 4 training fields without gaps, got {len(training)} and "
                f"{int((~np.isfinite(self.training)).sum())} missing values; train on more, leave out what has gaps"
            )
        late = np.arange(self.early, len(training))
        self.judged = late[np.linspace(0, len(late) - 1, min(self.MOST, len(late))).round().astype(int)]

    def estimate(self, values: np.ndarray) -> np.ndarray:
        """Return what the chosen settings make of the fields."""
        seen = np.isfinite(values)
        alike = seen[np.linspace(0, len(seen) - 1, len(self.judged)).round().astype(int)]
        return self.chosen(alike)(values)

    @abstractmethod
    def chosen(self, alike: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return how to estimate fields, given the cells that are to be seen of those that settings are judged on."""

    def error(self, made: np.ndarray, alike: np.ndarray) -> float:
        """Return the squared error at hidden cells of the fields kept out, over that of no anomaly."""
        truth = self.training[self.judged]
        weight = np.where(alike, 0.0, self.places.area)
        return float((weight * (made - truth) ** 2).sum() / max((weight * truth**2).sum(), 1e-300))

    def shown(self, alike: np.ndarray) -> np.ndarray:
        """Return the fields kept out, NaN where they are not to be seen."""
        return np.where(alike, self.training[self.judged], np.nan)


class ChosenInterpolation(HeldOut):
    """Optimal interpolation whose mixture, localisation, noise and memory are chosen on training fields kept out."""

    name = "optimal interpolation, settings chosen"
    MEMORIES = (np.inf, 1.0, 0.5)  # shares of the fields over which their weights fall to 1/e, back from the last one
    SHARES = (0.5, 0.9, 0.97)
    LOCALISATIONS_KM = (5000.0, 8000.0, 12000.0, 20000.0)
    NUGGETS = (0.02, 0.005, 0.05)
    KEPT = 2**30  # bytes of covariances kept for the next kind of gaps

    def __init__(self, places: Places, training: np.ndarray) -> None:
        super().__init__(places, training)
        self._learnt: dict[tuple[bool, float, float, float], OptimalInterpolation] = {}

    def chosen(self, alike: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        best = [self.SHARES[0], self.LOCALISATIONS_KM[0], self.NUGGETS[0], self.MEMORIES[0]]
        least = np.inf
        # One setting after another; the localisation twice, for it depends on how far the sample is trusted.
        for position, options in ((1, self.LOCALISATIONS_KM), (0, self.SHARES), (1, self.LOCALISATIONS_KM),
                                  (3, self.MEMORIES), (2, self.NUGGETS)):  # fmt: skip
            for option in options:
                asked = [*best[:position], option, *best[position + 1 :]]
                error = self.error(self._method(True, *asked).estimate(self.shown(alike)), alike)
                if error < least:
                    least, best = error, asked
        return self._method(False, *best).estimate

    def _method(
        self, early: bool, share: float, localisation_km: float, nugget: float, memory: float
    ) -> OptimalInterpolation:
        key = (early, share, localisation_km, memory)
        if key not in self._learnt:
            if (len(self._learnt) + 1) * 8 * len(self.places) ** 2 > self.KEPT and self._learnt:
                self._learnt.pop(next(iter(self._learnt)))  # the first that was learnt
            fields = self.training[: self.early] if early else self.training
            self._learnt[key] = OptimalInterpolation(
                self.places, fields * np.sqrt(memory_weights(len(fields), memory))[:, None],
                share=share, localisation_km=localisation_km, nugget=1.0, straight=True,
            )  # fmt: skip
        method = copy(self._learnt[key])  # the covariance is large, and the same for every noise
        method.noise *= nugget
        return method


class ReducedSpaceInterpolation(HeldOut):
    """Optimal interpolation by the leading patterns of a localised covariance.

    Localisation, number of patterns, noise and how far back fields count are chosen on training fields kept out; the
    mean of training is no part of it, as in optimal interpolation.
    """

    name = "reduced-space optimal interpolation"
    LOCALISATIONS_KM = (8000.0, 12000.0, 20000.0)

    def __init__(self, places: Places, training: np.ndarray, most: int = 384) -> None:
        super().__init__(places, training)
        self.most = min(most, len(places))
        self.spaces = ReducedSpaces(
            self.training - self.training.mean(0), self.early, np.sqrt(places.area / places.area.mean()), self.most,
            places.distance_km, self.LOCALISATIONS_KM,
        )  # fmt: skip

    def chosen(self, alike: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        shown = self.shown(alike)
        found = self.spaces.choose(lambda modes, noise: self.error(_most_probable(modes, noise, shown), alike))
        return lambda values: _most_probable(found.modes, found.noise, values)


def _most_probable(modes: np.ndarray, noise: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return `conditional_mean` of fields with NaN where nothing is observed."""
    own, level, fields = (
        torch.from_numpy(np.ascontiguousarray(x)).float() for x in (modes, noise, np.nan_to_num(values))
    )
    return np.asarray(conditional_mean(own, level, fields, torch.from_numpy(np.isfinite(values))).double().numpy())

"""The weather planet at T42 as T21 sees it: truncated states, and what T21 lacks of their rate of change."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from ....ssl.sources.weather import output
from ....ssl.sources.weather.history import from_model, to_model
from ....ssl.sources.weather.model import STEPS, Model
from ....ssl.sources.weather.sphere import Sphere
from ....ssl.sources.weather.vertical import stream_of
from ....ssl.sources.weather.weather import Weather
from ....ssl.sources.weather.world import World

TRUNCATION = 21
DAY = STEPS[TRUNCATION]  # steps of the coupled model a day
FINER = STEPS[42] // DAY  # steps of T42 in one of them
TOGETHER = 64  # states of T42 at once


def truncated(fine: Sphere, coarse: Sphere, packed: np.ndarray) -> np.ndarray:
    """Return packed coefficients (…, known) of a finer truncation without those that a coarser one lacks."""
    return coarse.packed(fine.unpacked(packed)[..., : len(coarse.order), : coarse.truncation + 1])


def subgrid(fine: Model, coarse: Model, states: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the truncated rate of change of states less that of the coarse model in the truncated states.

    Exact at an instant. Both rates are whole: what the coarse model says itself of scales that it does not resolve,
    its diffusion, is taken back, and the fine model's, which is weak there, and its eddies come in its place.

    Args:
        fine, coarse: Of one world.
        states: Of the fine model, packed, (case, level, known).
        days: For the driving, counted from a 1 January, (case,).

    Returns:
        Packed coefficients of the coarse truncation, (case, level, known), turnings of the Earth per radian of it.
    """
    with torch.inference_mode():
        true = from_model(fine.sphere, fine.tendency(to_model(fine.sphere, states), fine.driving(days)))
        inside = truncated(fine.sphere, coarse.sphere, states)
        own = from_model(coarse.sphere, coarse.tendency(to_model(coarse.sphere, inside), coarse.driving(days)))
    return np.asarray(truncated(fine.sphere, coarse.sphere, true) - own)


def fields_of(world: World, states: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return variables of T21 states (…, level, known) on its grid, canonical units, (…, variable, row, column)."""
    sphere = Sphere(TRUNCATION)
    stream = stream_of(sphere, world, np.asarray(states, np.float32))
    return np.stack([output.fields(sphere, stream, name) for name in names], axis=-3)


class Truth:
    """Years of the planet at T42, one a member, kept in its cache.

    Attributes:
        planet: At T42; its states are made when they are first asked for.
        first: Day of each member's 1 January, for the driving, (member,).
        days: Whole days of each member.
    """

    def __init__(self, planet: Weather) -> None:
        self.planet = planet
        self.first = np.array(planet.history.plan.first_days)
        self.days = min(365, planet.history.plan.days)

    @cached_property
    def fine(self) -> Model:
        """The model at T42."""
        return Model(self.planet.sphere, self.planet.world)

    @cached_property
    def coarse(self) -> Model:
        """The model at T21."""
        return Model(Sphere(TRUNCATION), self.planet.world)

    def fine_states(self, members: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return states of T42 at midnight of days of members, (case,) each, packed (case, level, known)."""
        found = np.empty((len(members), 3, len(self.planet.sphere.known[0])), np.float32)
        for member in np.unique(members):
            rows = members == member
            found[rows] = self.planet.history.states(int(member), days[rows])
        return found

    def states(self, members: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return the same truncated to T21."""
        return truncated(self.planet.sphere, self.coarse.sphere, self.fine_states(members, days))

    def subgrid(self, members: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return `subgrid` of these states, (case, level, known)."""
        found = []
        for k in range(0, len(members), TOGETHER):
            member, day = members[k : k + TOGETHER], days[k : k + TOGETHER]
            found.append(subgrid(self.fine, self.coarse, self.fine_states(member, day), self.first[member] + day))
        return np.concatenate(found)

    def course(self, members: np.ndarray, days: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Return truncated states and subgrid terms at every T21 step from days on, (case, steps + 1, level, known).

        T42 is run again from the states it kept, so this is the truth between two midnights.
        """
        states, terms = [], []
        with torch.inference_mode():
            state = to_model(self.planet.sphere, self.fine_states(members, days))
            for step in range(steps + 1):
                now = from_model(self.planet.sphere, state)
                at = self.first[members] + days + step // DAY
                states.append(truncated(self.planet.sphere, self.coarse.sphere, now))
                terms.append(subgrid(self.fine, self.coarse, now, at))
                driving = self.fine.driving(at)
                for _ in range(FINER if step < steps else 0):
                    state = self.fine.step(state, driving, 1 / (FINER * DAY))
        return np.stack(states, axis=1), np.stack(terms, axis=1)

    @cached_property
    def climate(self) -> np.ndarray:
        """Truncated states of all days, (day, member, level, known)."""
        count = len(self.first)
        members, days = np.repeat(np.arange(count), self.days), np.tile(np.arange(self.days), count)
        own = self.states(members, days)
        return np.ascontiguousarray(own.reshape(count, self.days, *own.shape[1:]).swapaxes(0, 1))

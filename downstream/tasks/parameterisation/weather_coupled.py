"""The weather planet at T21 coupled to a closure: long runs, their climate beside that of T42, and short forecasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ....ssl.sources.weather import output
from ....ssl.sources.weather.history import from_model, to_model
from ....ssl.sources.weather.model import Model
from ....ssl.sources.weather.vertical import SPEED, stream_of
from ...results.figures import line_figure
from .coupled import NOISE, Course, hellinger
from .weather_closures import Closure
from .weather_truth import DAY

BLOWN_UP = 5.0  # root mean square of the potential vorticity over the largest of the truth: beyond, a run is lost
PLACES = [(lat, lon) for lat in (60.0, 45.0, 30.0, -45.0) for lon in (0.0, 90.0, 180.0, 270.0)]
BINS = np.concatenate([[-np.inf], np.linspace(-3.5, 3.5, 29), [np.inf]])  # deviations of the truth
BANDS = {"n 1–7": slice(1, 8), "n 8–14": slice(8, 15), "n 15–21": slice(15, 22)}
ITSELF = "T42 itself"
SMALLEST = 1e-3  # share of the true energy: less counts as this


def run(
    closure: Closure,
    model: Model,
    past: np.ndarray,
    days: np.ndarray,
    noises: Sequence[str],
    *,
    fields: Callable[[np.ndarray], np.ndarray],
    every: int,
    keep: Sequence[int],
    bound: float,
    seed: int,
) -> dict[str, Course]:
    """Return the course of members from given starts, once for each kind of noise, side by side.

    Mean, drag and noise act at every step, what maps add is asked for at every so many and held between; all of it
    stays for the four stages of a step, as physics does in a model.

    Args:
        closure: What is told of the scales beyond T21.
        model: T21.
        past: States at every model step up to the start, (member, step, level, known): a multiple of a day, and one.
        days: For the driving and the season, counted from 2000, (member,).
        noises: Kinds: `DETERMINISTIC`, `NOISE`.
        fields: Returns the maps that the closure reads of states (…, level, known), (…, variable, row, column).
        every: Model steps from one question to the closure's maps to the next; divides a day.
        keep: Model steps that are kept, ascending.
        bound: Sum of squares of a state beyond which a run is lost.
        seed: Of the noise, whose start is drawn from its stationary distribution.

    Returns:
        States and subgrid terms as `Course`, (kept, member, level, known).
    """
    rng, count, kinds = np.random.default_rng(seed), len(past), len(noises)
    noisy = [k for k, kind in enumerate(noises) if kind == NOISE]
    at, sphere = np.tile(days, kinds), model.sphere
    phi = np.zeros(past.shape[-1]) if closure.phi is None else closure.phi
    noise = closure.innovations(rng, count) if noisy else None
    local: np.ndarray | float = 0.0
    ring: list[np.ndarray] = []
    if closure.local is not None:
        ring = [np.tile(fields(past[:, k]), (kinds, 1, 1, 1)) for k in range(0, past.shape[1] - 1, every)]
    ended = np.full(count * kinds, -1)
    places = {step: k for k, step in enumerate(keep)}
    kept = np.zeros((2, len(keep), count * kinds, *past.shape[2:]), np.float32)
    with torch.inference_mode():
        state = to_model(sphere, np.tile(past[:, -1], (kinds, 1, 1)).astype(np.float32))
        for step in range(keep[-1] + 1):
            now = from_model(sphere, state)
            if step % DAY == 0:
                driving = model.driving(at + step // DAY)
            if closure.local is not None and step % every == 0:
                ring.append(fields(now))
                back = DAY // every
                local = closure.added(np.stack(ring[::back], axis=1), at + step / DAY)
                ring = ring[1:]
            term = (closure.fixed(now) + local).astype(np.float32)
            if noise is not None:
                for k in noisy:
                    term[k * count : (k + 1) * count] += noise
            term[ended >= 0] = 0.0
            if step in places:
                kept[:, places[step]] = now, term
            state = model.step(state, driving + to_model(sphere, term), 1 / DAY)
            with np.errstate(invalid="ignore"):
                lost = ~((state**2).sum(dim=(0, 1, 2)).numpy() < bound)
            ended[lost & (ended < 0)] = step
            if (ended >= 0).any():
                state[..., torch.from_numpy(ended >= 0)] = 0.0
            if noise is not None:
                noise = phi * noise + np.sqrt(1 - phi**2) * closure.innovations(rng, count)
    parts = [slice(k * count, (k + 1) * count) for k in range(kinds)]
    return {kind: Course(kept[0], kept[1], ended).of(part) for kind, part in zip(noises, parts, strict=True)}


class Measured:
    """The climate of runs, by run: what a meteorologist looks at.

    Attributes:
        z500: Mean height of 500 hPa, m, (run, row, column).
        variance: Its variance about that mean, m2, (run, row, column).
        u200: Zonal mean wind at 200 hPa, m s-1, (run, row).
        by_n, by_m: Kinetic energy by total and by zonal wavenumber, mean over levels, m2 s-2, (run, wavenumber).
        at: z500 at places, (run, time, place).
    """

    def __init__(self, model: Model, states: np.ndarray) -> None:
        """Measure states (time, run, level, known)."""
        sphere, runs = model.sphere, range(states.shape[1])
        rows = [int(np.abs(sphere.lat - lat).argmin()) for lat, _ in PLACES]
        columns = [int(np.abs(sphere.lon - lon).argmin()) for _, lon in PLACES]
        component, n = sphere.known
        found = []
        for k in runs:
            stream = stream_of(sphere, model.world, states[:, k])
            z = output.fields(sphere, stream, "z500") / np.float32(output.GRAVITY)
            energy = (stream.astype(np.float64) ** 2).mean(axis=(0, 1)) * n * (n + 1) / 2 * SPEED**2
            found.append((
                z.mean(axis=0), z.var(axis=0), output.fields(sphere, stream, "u200").mean(axis=(0, 2)),
                np.bincount(n, energy), np.bincount(sphere.order[component], energy), z[:, rows, columns],
            ))  # fmt: skip
        self.z500, self.variance, self.u200, self.by_n, self.by_m, self.at = map(np.stack, zip(*found, strict=True))

    def of(self, runs: np.ndarray) -> Measured:
        """Return some of the runs."""
        some = copy(self)
        for name, values in vars(self).items():
            setattr(some, name, values[runs])
        return some

    def densities(self, truth: Measured) -> np.ndarray:
        """Return the share of the values at each place in bins of the truth's deviations, (run, place, bin)."""
        mean, sd = truth.at.mean(axis=(0, 1)), truth.at.std(axis=(0, 1))
        scaled = (self.at - mean) / sd
        return np.array([[np.histogram(own, BINS)[0] / len(own) for own in one.T] for one in scaled])


def scores(own: Measured, truth: Measured, area: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return what each run misses of the true climate, (6, run).

    1 - the Hellinger distance of z500 at places (mean over them; 0 for a lost run); root mean square of log10 of the
    kinetic energy over the truth's by total wavenumber, and by zonal one; root mean square error of mean z500, m, and
    of the zonal mean wind at 200 hPa, m s-1; the variance of z500 over the truth's.

    Args:
        own, truth: Runs, and the truth.
        area: Weight of the rows, sum 1, (row,).
        lost: Whether a run was lost, (run,).
    """
    both, true = own.densities(truth), truth.densities(truth).mean(axis=0)
    close = [1 - np.mean([hellinger(p, q) for p, q in zip(one, true, strict=True)]) for one in both]

    def off(energy: np.ndarray, goal: np.ndarray) -> np.ndarray:
        logs = np.log10(np.maximum(energy[:, 1:] / goal.mean(axis=0)[1:], SMALLEST))
        return np.sqrt((logs**2).mean(axis=1))

    height = ((own.z500 - truth.z500.mean(axis=0)) ** 2).mean(axis=2) @ area
    wind = (own.u200 - truth.u200.mean(axis=0)) ** 2 @ area
    wide = own.variance.mean(axis=2) @ area / (truth.variance.mean(axis=(0, 2)) @ area)
    return np.stack([np.where(lost, 0.0, close), off(own.by_n, truth.by_n), off(own.by_m, truth.by_m),
                     np.sqrt(height), np.sqrt(wind), wide])  # fmt: skip


SCORES = ("closeness", "spectrum_off_n", "spectrum_off_m", "z500_off_m", "u200_off", "variance_ratio")


def climate_row(
    name: str, own: Measured, course: Course, truth: Measured, terms: np.ndarray, area: np.ndarray
) -> dict[str, float | str]:
    """Return the line of a row in the table of climates: means over its runs that were not lost.

    Args:
        name: Of the row.
        own, course: Its runs.
        truth: The truth.
        terms: True subgrid terms, (sample, level, known).
        area: Weight of the rows, (row,).
    """
    lost = course.ended >= 0
    found: dict[str, float | str] = {"row": name, "runs": len(lost), "blown up": int(lost.sum())}
    found["blow-up after, days"] = course.ended[lost].mean() / DAY if lost.any() else np.nan
    if lost.all():
        return found
    stays = ~lost
    found |= dict(zip(SCORES, scores(own, truth, area, lost)[:, stays].mean(axis=1).tolist(), strict=True))
    jet = own.u200[stays].mean(axis=0)
    found |= {"jet north, m s-1": jet[: len(jet) // 2].max(), "jet south, m s-1": jet[len(jet) // 2 :].max()}
    for band, part in BANDS.items():
        mine, true = (one[:, part].sum(axis=1).mean() for one in (own.by_n[stays], truth.by_n))
        found[f"energy over truth, {band}"] = float(mine / true)
    mean_square = course.subgrid[:, stays].var(axis=(0, 1)).sum()
    return found | {"sd of subgrid over truth": float(np.sqrt(mean_square / terms.var(axis=0).sum()))}


def floor_row(
    truth: np.ndarray, model: Model, test: np.ndarray, years: int, terms: np.ndarray, area: np.ndarray
) -> tuple[dict[str, float | str], str]:
    """Return `climate_row` of the truth's own test years, each stretch beside the years not in it, and its range.

    Args:
        truth: States of all years, (day, year, level, known).
        model: Of their truncation.
        test: Test years.
        years: Of a stretch, as long as the runs; at most all of `test`.
        terms: True subgrid terms, (sample, level, known).
        area: Weight of the rows, (row,).
    """
    known, length = Measured(model, truth), min(years, len(test))
    found = []
    for first in range(0, len(test) - length + 1, length):
        own = test[first : first + length]
        stretch = Measured(model, np.concatenate([truth[:, [year]] for year in own]))
        course = Course(truth[:1, :1], terms[:, None], np.array([-1]))
        others = known.of(np.setdiff1d(np.arange(truth.shape[1]), own))
        found.append(climate_row(ITSELF, stretch, course, others, terms, area))
    table = pd.DataFrame(found)
    told = ", ".join(
        f"{name} {one.mean():.3g} ({one.min():.3g} to {one.max():.3g})" for name, one in table[list(SCORES)].items()
    )
    line = {**table.mean(numeric_only=True), "row": ITSELF, "runs": len(found), "blown up": 0, "seed": ""}
    return line, f"{ITSELF}, {length} of its years against the others: {told}."


def climate_figure(measured: Mapping[str, Measured], truth: Measured, lat: np.ndarray) -> Figure:
    """Return energy by wavenumber over the truth's, and the zonal mean wind less the truth's, of every row."""
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {
        "kinetic energy over T42's, by total wavenumber": {}, "by zonal wavenumber": {},
        "zonal mean wind at 200 hPa less T42's, m/s, by latitude": {},
    }  # fmt: skip
    first, second, third = panels.values()
    for name, own in measured.items():
        for panel, mine, true in ((first, own.by_n, truth.by_n), (second, own.by_m, truth.by_m)):
            panel[name] = np.arange(1, mine.shape[1]), mine.mean(axis=0)[1:] / np.maximum(true.mean(axis=0)[1:], 1e-12)
        third[name] = lat, own.u200.mean(axis=0) - truth.u200.mean(axis=0)
    return line_figure(panels, "", marker="")

"""Nowcasts without an encoder: what falls now, where it stands or carried along, yes or no and as chances."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import uniform_filter

from ....ssl.common.errors import EarthSSLError
from ....ssl.sources.radar.frames import Frames
from .samples import Samples
from .scores import Scorer

Fields = Callable[[int], np.ndarray]  # number of a frame -> rain at the leads, mm/h, NaN unknown, (lead, row, column)
NEEDED = ("pysteps", "cv2")
AROUND = (1, 5, 9, 17, 33)  # cells along each side of the neighbourhood, to choose from
FINER = (0.02, 0.1)  # mm/h: means over neighbourhoods are told apart by these, too
WORTH = 20.0  # cells that the climatology counts as, beside those of training
DRY = 0.1  # mm/h: below it there is no echo to follow


def check_pysteps() -> None:
    """Raise an EarthSSLError where the library of the extrapolation is not installed."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise EarthSSLError(
            f"nowcasting.extrapolation: expected the packages pysteps and opencv-python-headless, {', '.join(absent)} "
            "not found; install earthssl[nowcasting], or have no such row: --extrapolation false (earthssl run: "
            "--probe.extrapolation false)"
        )


def standing(frames: Frames, leads: Sequence[int]) -> Fields:
    """Return the last frame at every lead (Eulerian persistence)."""
    return lambda at: np.broadcast_to(frames.rain[at], (len(leads), *frames.rain.shape[1:]))


def carried(frames: Frames, leads: Sequence[int], window: int) -> Fields:
    """Return the last frame carried along the motion of the window's, by pysteps (Pulkkinen et al. 2019).

    Motion: Lucas & Kanade's optical flow of the whole composite, in dB; extrapolation: backward semi-Lagrangian. What
    comes from beyond the composite's edge, or from where the radars see nothing, is not known.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        from pysteps.extrapolation.semilagrangian import extrapolate
        from pysteps.motion.lucaskanade import dense_lucaskanade

    def fields(at: int) -> np.ndarray:
        echoes = 10 * np.log10(np.maximum(np.nan_to_num(frames.rain[at - window + 1 : at + 1]), DRY))
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            motion = dense_lucaskanade(echoes)
            found = extrapolate(frames.rain[at].astype(np.float64), motion, max(leads), allow_nonfinite_values=True)
        return np.asarray(found)[np.asarray(leads) - 1].astype(np.float32)

    return fields


def as_it_is(rain: np.ndarray, scorer: Scorer) -> np.ndarray:
    """Return rain (sample, lead, row, column) as chances of 0 and 1, (…, lead, class, row, column); unknown is dry."""
    return np.moveaxis(np.eye(scorer.classes, dtype=np.float32)[scorer.class_of(np.nan_to_num(rain))], -1, 2)


def around(fields: Fields, size: int) -> Fields:
    """Return the means of known cells in squares around each cell; NaN where none is."""

    def means(at: int) -> np.ndarray:
        every = fields(at)
        whole = every[:1] if every.strides[0] == 0 else every  # one field at all leads
        known = np.isfinite(whole)
        over = (1, size, size)
        share = uniform_filter(known.astype(np.float32), over, mode="nearest")
        total = uniform_filter(np.where(known, whole, 0).astype(np.float32), over, mode="nearest")
        mean = np.where(share > 1e-4, np.maximum(total, 0) / np.maximum(share, 1e-4), np.nan).astype(np.float32)
        return np.broadcast_to(mean, every.shape)

    return means


def dressed(samples: Samples, fields: Fields, scorer: Scorer) -> tuple[np.ndarray, dict[str, int]]:
    """Return how often each class fell in training where as much was forecast, (sample, lead, class, row, column).

    As much: the class of the cell itself and of the mean over a square around it, whose size validation chooses
    for each lead by the CRPS. Returned, too, are these sizes in cells.
    """
    own = _number(samples.cut(fields), scorer.thresholds)
    count, train, val = scorer.classes, samples.inside("train"), samples.inside("val")
    truth = scorer.class_of(samples.rain)
    made = np.empty((*truth.shape[:2], count, *truth.shape[2:]), np.float32)
    best, chosen = np.full(truth.shape[1], np.inf), dict[str, int]()
    edges = (*FINER, *scorer.thresholds)
    for size in AROUND:
        near = _number(samples.cut(around(fields, size)), edges) if size > 1 else np.zeros_like(own)
        group = own * (len(edges) + 2) + near
        groups = (len(scorer.thresholds) + 2) * (len(edges) + 2)
        for k in range(truth.shape[1]):
            known = truth[train, k] >= 0
            pair = group[train, k][known] * count + truth[train, k][known]
            counts = np.bincount(pair, minlength=groups * count).reshape(groups, count)
            chance = (counts + WORTH * scorer.usual[k]) / (counts.sum(axis=1, keepdims=True) + WORTH)
            told = np.moveaxis(chance.astype(np.float32)[group[:, k]], -1, 1)
            loss = scorer.crps(told[val], samples.rain[val, k])
            if loss < best[k]:
                best[k], made[:, k], chosen[scorer.names[k]] = loss, told, size
    return made, chosen


def _number(rain: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return the number of the interval of each value, len(edges) + 1 where it is not known."""
    return np.where(np.isfinite(rain), np.searchsorted(edges, rain, side="right"), len(edges) + 1)

"""Samples of the task: the last frame of a window at a crop, and the rain of its middle at the leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ....ssl.sources.radar.frames import Frames
from ....ssl.sources.radar.radar import Crops

BLOCKS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Samples:
    """What is told, crop by crop.

    Attributes:
        steps: Last input step of each in the store, (sample,).
        at: The same frame in the file, (sample,).
        row, column: Of the first cell of the target in the composite, (sample,).
        block: Name of its block, (sample,).
        rain: Of the target at the leads, mm/h, NaN where not known, float32 (sample, lead, row, column).
        times: True times of `at`, datetime64[s] (sample,).
    """

    steps: np.ndarray
    at: np.ndarray
    row: np.ndarray
    column: np.ndarray
    block: np.ndarray
    rain: np.ndarray
    times: np.ndarray

    def inside(self, block: str) -> np.ndarray:
        """Return the places of the samples of a block."""
        return np.flatnonzero(self.block == block)

    @cached_property
    def side(self) -> int:
        """Cells along each side of a target."""
        return int(self.rain.shape[-1])

    def cut(self, fields: Callable[[int], np.ndarray]) -> np.ndarray:
        """Return the targets' parts of fields, (sample, …, row, column).

        Args:
            fields: Of a frame of the file, (…, row, column) of the composite; called once for each.
        """
        made: np.ndarray | None = None
        for at in np.unique(self.at):
            whole = fields(int(at))
            for k in np.flatnonzero(self.at == at):
                row, column = self.row[k], self.column[k]
                part = whole[..., row : row + self.side, column : column + self.side]
                if made is None:
                    made = np.empty((len(self.at), *part.shape), whole.dtype)
                made[k] = part
        assert made is not None
        return made


def samples_of(crops: Crops, frames: Frames, window: int, leads: Sequence[int], target: int) -> Samples:
    """Return all samples whose windows lie inside a run of frames.

    Test samples are known at all leads, so that leads share their samples; others at the first one at least, and
    nothing beyond their run is looked at.

    Args:
        crops: Which runs the store holds.
        frames: Of the file, coarsened as they were.
        window: Steps of an encoder.
        leads: Steps ahead, ascending.
        target: Cells along each side of what is told, in the middle of a crop.
    """
    margin = (crops.size - target) // 2
    parts: dict[str, list[np.ndarray | list[str]]] = {"steps": [], "at": [], "row": [], "column": [], "block": []}
    rain, every = [], np.asarray(leads)
    for run in range(len(crops.first)):
        known, block = int(crops.frames[run]), str(crops.block[run])
        ends = np.arange(window - 1, known - (every[-1] if block == "test" else every[0]))
        if not len(ends):
            continue
        begin = int(np.searchsorted(frames.times, crops.begins[run]))
        row, column = int(crops.row[run]) + margin, int(crops.column[run]) + margin
        own = frames.rain[begin : begin + known, row : row + target, column : column + target]
        later = ends[:, None] + every
        rain.append(np.where((later < known)[..., None, None], own[np.minimum(later, known - 1)], np.nan))
        parts["steps"].append(int(crops.first[run]) + ends)
        parts["at"].append(begin + ends)
        parts["row"].append(np.full(len(ends), row))
        parts["column"].append(np.full(len(ends), column))
        parts["block"].append([block] * len(ends))
    if not rain:
        nothing = np.zeros(0, int)
        shape = (0, len(every), target, target)
        return Samples(nothing, nothing, nothing, nothing, nothing.astype(str), np.zeros(shape, np.float32),
                       frames.times[:0])  # fmt: skip
    joined = {name: np.concatenate(own) for name, own in parts.items()}
    return Samples(**joined, rain=np.concatenate(rain).astype(np.float32), times=frames.times[joined["at"]])

"""The source `radar`: square crops of a radar composite, frame by frame, as fields that every verb takes.

A composite has neither latitude and longitude nor years: an event is some hours. So crops at fixed places are cut
from spans of time, and laid one after the other on a made-up calendar: a block is a day, a frame a second of it, and a
gap follows every crop, which no window crosses. A crop's cells lie half a degree apart about 0°N 180°E, for the waves
of place of an encoder to tell them apart; nothing of places or dates in the store is the atmosphere's. What was cut
where and when stands in the attributes, and the spans of test hours keep their distance in true time from all that is
trained on. More frames (other radars, other hours) may join the training block without labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError
from ...common.files import digest, sha256
from ...fields.splits import Block, period
from ..metadata.deals import deals, recorded
from ..planet.options import check_names, check_whole, mistake
from .frames import MINUTE, NAME, Frames, name_of, read_frames, sampled

RADAR = "radar"
CALLED = "radar crops"  # in what a store says of its source
BLOCKS = ("train", "val", "test")
SPACING, CENTRE = 0.5, 180.0  # degrees
MOST_CELLS = 256
START, APART, GAP = np.datetime64("1900-01-01", "s"), 2 * 86_400, 10  # first day; from block to block; after a crop, s
DAY = 86_400
WET = 0.1  # mm/h
KEPT_APART = re.compile(r", test hours (\S+) minutes apart")
_mistake = partial(mistake, RADAR)


@dataclass(frozen=True)
class RadarConfig:
    """Options of the source.

    Attributes:
        path: NetCDF file of `rain_rate` (frame, row, column) with `time` (frame).
        train: Spans of time, each [first, last], UTC, of frames one step apart.
        val: The same of the validation block.
        test: The same of the test block.
        apart_minutes: Least time between a test span and any frame that is trained on or chosen by: window + lead.
        cell_km: Side of a cell of the file, km.
        coarsen: Cells along each side that become one.
        size: Cells along each side of a crop.
        stride: Cells from one crop to the next.
        least_valid: Least share of cells that the radars see, over all frames.
        unlabelled: Another such file, for pretraining alone, which may have gaps; empty for none.
        unlabelled_every: Take every so manieth of its frames, counted from each gap.
        unlabelled_coarsen: The same as `coarsen`.
        unlabelled_crops: Most crops to take from it, evenly spread.
        least_wet: Least share of its cells, over all frames of a crop, with 0.1 mm/h.

    Raises:
        EarthSSLError: If an option is out of range.
    """

    path: str = ""
    train: list[list[str]] = field(default_factory=list)
    val: list[list[str]] = field(default_factory=list)
    test: list[list[str]] = field(default_factory=list)
    apart_minutes: float = 75.0
    cell_km: float = 1.0
    coarsen: int = 1
    size: int = 64
    stride: int = 32
    least_valid: float = 0.95
    unlabelled: str = ""
    unlabelled_every: int = 1
    unlabelled_coarsen: int = 1
    unlabelled_crops: int = 400
    least_wet: float = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise _mistake("path", "a file of radar frames", self.path)
        if self.unlabelled and not isinstance(self.unlabelled, str):
            raise _mistake("unlabelled", "a file of radar frames, or empty", self.unlabelled)
        whole = {"coarsen": (1, 64), "size": (2, MOST_CELLS), "stride": (1, 10_000), "unlabelled_every": (1, 1000),
                 "unlabelled_coarsen": (1, 64), "unlabelled_crops": (1, 10_000)}  # fmt: skip
        check_whole(RADAR, self, whole)
        for name, most in (("least_valid", 1), ("least_wet", 1), ("apart_minutes", 1e6), ("cell_km", 1e3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise _mistake(name, f"a number within 0…{most:g}", value)
        for block in BLOCKS:
            spans = getattr(self, block)
            if not isinstance(spans, list) or not spans or not all(
                isinstance(one, list | tuple) and len(one) == 2 for one in spans
            ):  # fmt: skip
                raise _mistake(block, "spans such as [[2016-09-28T14:45, 2016-09-28T16:20]], at least one", spans)

    def spans(self, block: str) -> list[Block]:
        """Return the spans of a block, first and last instant."""
        return [period(f"{RADAR}.{block}", one) for one in getattr(self, block)]


@dataclass(frozen=True, eq=False)
class Crops:
    """Which crop every labelled run of frames of a store is.

    Attributes:
        first: Index in the store of its first frame, (run,).
        frames: How many follow each other, (run,).
        begins: True time of the first, datetime64[s] (run,).
        block: Name of its block, (run,).
        row, column: Of its first cell in the coarsened composite, (run,).
        steps: Frames of the store, unlabelled ones among them.
        unlabelled: Crops without labels.
        size, coarsen, apart_minutes: As configured.
        cell_km: Side of a coarsened cell.
        step_minutes: Between frames.
        file, sha256: Where they come from.
    """

    first: np.ndarray
    frames: np.ndarray
    begins: np.ndarray
    block: np.ndarray
    row: np.ndarray
    column: np.ndarray
    steps: int
    unlabelled: int
    size: int
    coarsen: int
    apart_minutes: float
    cell_km: float
    step_minutes: float
    file: str
    sha256: str


def open_radar(**options: Any) -> xr.Dataset:
    """Return crops of radar frames as fields: dims (time, lat, lon), `rain_rate` in mm/h.

    Raises:
        EarthSSLError: If an option is unknown or out of range, or the files do not hold what is asked for.
    """
    check_names(RADAR, RadarConfig, options)
    config = RadarConfig(**options)
    config = replace(config, path=str(Path(config.path).expanduser()),
                     unlabelled=config.unlabelled and str(Path(config.unlabelled).expanduser()))  # fmt: skip
    frames = read_frames(config.path, config.coarsen)
    spans = {block: config.spans(block) for block in BLOCKS}
    more = _runs(read_frames(config.unlabelled, config.unlabelled_coarsen), config) if config.unlabelled else []
    _check_apart(config, spans, more)
    places = _places(frames, config, 0.0)
    if not places:
        raise _no_crop(frames, config, 0.0)
    groups: list[dict[str, Any]] = []  # crops of the same frames
    fields, times = [], []
    for turn, block in enumerate(BLOCKS):
        now = START + APART * turn
        parts = [(_inside(frames, span, f"{RADAR}.{block}"), frames, places, True) for span in spans[block]]
        if block == "train" and more:
            parts += [(np.arange(len(run.times)), run, own, False) for run, own in _unlabelled(more, config)]
        for own, taken, where, labelled in parts:
            for row, column in where:
                fields.append(taken.rain[own, row : row + config.size, column : column + config.size])
                times.append(now + np.arange(len(own)))
                now = times[-1][-1] + GAP
            groups.append({"block": block, "labelled": labelled, "begins": str(taken.times[own[0]]),
                           "frames": len(own), "places": where})  # fmt: skip
        if now >= START + APART * turn + DAY:
            raise _mistake("stride", f"so large that a block holds fewer than {DAY} frames", config.stride)
    half = (config.size - 1) / 2
    axis = SPACING * (np.arange(config.size) - half)
    record = {"groups": groups, "size": config.size, "coarsen": config.coarsen, "apart_minutes": config.apart_minutes,
              "cell_km": config.cell_km * config.coarsen,
              "step_minutes": float(frames.step / MINUTE), "file": str(Path(config.path).absolute()),
              "sha256": sha256(Path(config.path)),
              "unlabelled_sha256": sha256(Path(config.unlabelled)) if config.unlabelled else None}  # fmt: skip
    beside = f" and {name_of(config.unlabelled)}" if config.unlabelled else ""
    deal = f"(deal {_deal(record, frames)}), test hours {config.apart_minutes:g} minutes apart"
    about = {"source": f"{CALLED} of {name_of(config.path)} {deal}{beside}",
             "licence": frames.licence, RADAR: json.dumps(record)}  # fmt: skip
    attrs = {"units": "mm h-1", "long_name": "rain rate of a crop"}
    coords = {"time": np.concatenate(times).astype("datetime64[ns]"), "lat": axis[::-1], "lon": CENTRE + axis}
    return xr.Dataset({NAME: (("time", "lat", "lon"), np.concatenate(fields), attrs)}, coords, about)


def recorded_crops(attributes: Mapping[str, Any]) -> Crops:
    """Return which crop each labelled run of frames of a store is.

    Args:
        attributes: Of the data, as the manifest of a store holds them.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    known = recorded(attributes, RADAR)
    runs: list[tuple[int, int, np.datetime64, str, int, int]] = []
    at, unlabelled = 0, 0
    for group in known["groups"]:
        for row, column in group["places"]:
            if group["labelled"]:
                begins = np.datetime64(group["begins"], "s")
                runs.append((at, group["frames"], begins, group["block"], row, column))
            else:
                unlabelled += 1
            at += group["frames"]
    names = "first", "frames", "begins", "block", "row", "column"
    arrays: dict[str, Any] = {name: np.array(part) for name, part in zip(names, zip(*runs, strict=True), strict=True)}
    same = {
        name: known[name] for name in ("size", "coarsen", "apart_minutes", "cell_km", "step_minutes", "file", "sha256")
    }
    return Crops(**arrays, steps=at, unlabelled=unlabelled, **same)


def cut_otherwise(earlier: str, source: str) -> str:
    """Return in words why an encoder trained on crops may have seen another store's test hours; else nothing.

    Dates of such stores are made up, so that blocks of time say nothing: spans, file and crops must be the same.
    Unlabelled frames may differ where they keep from the test hours, which are the same, as far as the other store's.

    Args:
        earlier, source: What the store of the training, and the store with the test block, say of their source.
    """
    found = deals(CALLED, earlier, source)
    if found is None:
        return ""
    if found[2]:
        apart = [float(one.group(1)) if (one := KEPT_APART.search(words)) else 0.0 for words in (earlier, source)]
        if apart[0] >= apart[1]:
            return ""
        return (f"the encoder's frames keep {apart[0]:g} minutes from the test hours (the store's: {apart[1]:g}), too "
                "few for its windows and leads; prepare both with one apart_minutes, and pretrain anew")  # fmt: skip
    return (f"the encoder's frames were cut otherwise (deal {found[0]}; the store's: {found[1]}), so it may have seen "
            "the store's test hours; give both stores the same file, spans and crops, and pretrain anew")  # fmt: skip


def _deal(record: Mapping[str, Any], frames: Frames) -> str:
    """Return the digest of the labelled crops: where, when, and what they hold."""
    values = hashlib.sha256(np.ascontiguousarray(frames.rain).tobytes()).hexdigest()
    labelled = [group for group in record["groups"] if group["labelled"]]
    return digest({"groups": labelled, "size": record["size"], "values": values})[:12]


def _check_apart(config: RadarConfig, spans: Mapping[str, Sequence[Block]], more: Sequence[Frames]) -> None:
    """Refuse spans that overlap, and trained hours too near to test hours."""
    every = sorted(((span, block) for block, own in spans.items() for span in own), key=lambda one: one[0][0])
    for (one, block), (other, after) in pairwise(every):
        if other[0] <= one[1]:
            raise EarthSSLError(f"{RADAR}: expected spans that do not overlap, got {block} to {one[1]!s:.16} and "
                                f"{after} from {other[0]!s:.16}; move one")  # fmt: skip
    trained = [(span, block) for span, block in every if block != "test"]
    for run in more:
        trained.append(((run.times[0].astype("datetime64[ns]"), run.times[-1].astype("datetime64[ns]")), "unlabelled"))
    for span, block in trained:
        for test in spans["test"]:
            gap = float(max(test[0] - span[1], span[0] - test[1]) / MINUTE)
            if gap + 1 < config.apart_minutes:  # a span ends with its minute
                raise EarthSSLError(
                    f"{RADAR}.{block}: expected nothing within apart_minutes {config.apart_minutes:g} of the test span "
                    f"{test[0]!s:.16}…{test[1]!s:.16}, got {span[0]!s:.16}…{span[1]!s:.16}; move one of them"
                )


def _inside(frames: Frames, span: Block, where: str) -> np.ndarray:
    """Return the frames of a span, ascending, one step apart."""
    times = frames.times.astype("datetime64[ns]")
    found = np.flatnonzero((times >= span[0]) & (times <= span[1]))
    if len(found) < 2 or (np.diff(frames.times[found]) != frames.step).any():
        raise EarthSSLError(
            f"{where}: expected two frames or more, {frames.step / MINUTE:g} minutes apart without a gap, in "
            f"{span[0]!s:.16}…{span[1]!s:.16}, got {len(found)}; {name_of(frames.file)} has {frames.times[0]!s:.16}…"
            f"{frames.times[-1]!s:.16}: choose spans inside its events"
        )
    return found


def _places(frames: Frames, config: RadarConfig, least_wet: float) -> list[list[int]]:
    """Return the first row and column of every crop that the radars see; if asked, of wet ones."""
    valid = np.isfinite(frames.rain).mean(axis=0)
    wet = (np.nan_to_num(frames.rain) >= WET).mean(axis=0)
    size, found = config.size, []
    for row in range(0, frames.rain.shape[1] - size + 1, config.stride):
        for column in range(0, frames.rain.shape[2] - size + 1, config.stride):
            here = slice(row, row + size), slice(column, column + size)
            if valid[here].mean() >= config.least_valid and (not least_wet or wet[here].mean() >= least_wet):
                found.append([row, column])
    return found


def _no_crop(frames: Frames, config: RadarConfig, least_wet: float) -> EarthSSLError:
    return EarthSSLError(
        f"{frames.file}: expected a crop of {config.size}×{config.size} cells with a share of {config.least_valid:g} "
        "seen" + (f" and {least_wet:g} wet" if least_wet else "") + f", got none on {frames.rain.shape[1]}×"
        f"{frames.rain.shape[2]} cells; make size or least_valid smaller"
    )  # fmt: skip


def _runs(frames: Frames, config: RadarConfig) -> list[Frames]:
    """Return the unlabelled frames from gap to gap, every so manieth: in a store times say nothing of gaps."""
    bounds = [0, *(np.flatnonzero(np.diff(frames.times) != frames.step) + 1), len(frames.times)]
    runs = [Frames(frames.file, frames.times[a:b], frames.rain[a:b], frames.licence) for a, b in pairwise(bounds)]
    runs = [one for run in runs if len((one := sampled(run, config.unlabelled_every)).times) > 1]
    if not runs:
        raise EarthSSLError(
            f"{frames.file}: expected two frames or more, {config.unlabelled_every} × {frames.step / MINUTE:g} minutes "
            "apart, got none; set unlabelled_every to 1, or choose another file"
        )
    return runs


def _unlabelled(runs: Sequence[Frames], config: RadarConfig) -> list[tuple[Frames, list[list[int]]]]:
    """Return the wet crops of each run that has any: of all together no more than asked for, evenly spread."""
    found = [(k, place) for k, run in enumerate(runs) for place in _places(run, config, config.least_wet)]
    if not found:
        raise _no_crop(runs[0], config, config.least_wet)
    if len(found) > config.unlabelled_crops:
        found = [found[k] for k in np.linspace(0, len(found) - 1, config.unlabelled_crops).astype(int)]
    every = [(run, [place for number, place in found if number == k]) for k, run in enumerate(runs)]
    return [(run, places) for run, places in every if places]

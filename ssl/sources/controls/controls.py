"""The source `controls`: daily fields of a world with a known answer. Always label what it gives as synthetic.

field(t) = amplitude × signal(t) + noise(t) + .3 × noise of every cell, see `designs`; given as geopotential at 500 hPa,
so that every verb takes it, but nothing of it is the atmosphere's.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import xarray as xr

from ...common.errors import nearest
from ..planet.options import check_names, check_whole, mistake
from ..planet.recorded import CONTROL
from .designs import COLUMNS, DESIGNS, ROWS, Design, Hidden, generator

_mistake = partial(mistake, "controls")
VARIABLE = "z500"
MEAN, UNIT = 54_000.0, 500.0  # m2 s-2: of the fields, and of a value of 1
CELL_NOISE = 0.3
START = np.datetime64("1900-01-01")
FEWEST, MOST = 200, 130_000
BLOCKS = {"train": (0.0, 0.5), "val": (0.525, 0.745), "test": (0.75, 0.995)}  # shares of the steps


@dataclass(frozen=True)
class ControlConfig:
    """Options of a control.

    Attributes:
        design: N0, P1, P2, P3 or P4, see `designs.DESIGNS`.
        steps: Length, days from 1900-01-01.
        seed: Of its patterns and its history.
        amplitude: Of the signal; null takes the design's own.

    Raises:
        EarthSSLError: If an option is out of range.
    """

    design: str = "P2"
    steps: int = 20_000
    seed: int = 0
    amplitude: float | None = None

    def __post_init__(self) -> None:
        if self.design not in DESIGNS:
            raise _mistake("design", f"one of {', '.join(DESIGNS)}", self.design, nearest(str(self.design), DESIGNS))
        check_whole("controls", self, {"steps": (FEWEST, MOST), "seed": (0, 2**31)})
        if self.amplitude is not None and not (
            isinstance(self.amplitude, (int, float)) and 0 <= self.amplitude < float("inf")
        ):
            raise _mistake("amplitude", "a number from 0, or null", self.amplitude)


class Control:
    """One world of a design.

    Args:
        config: Its options.
    """

    def __init__(self, config: ControlConfig | None = None) -> None:
        self.config = config or ControlConfig()

    @property
    def design(self) -> Design:
        """What is hidden in it."""
        return DESIGNS[self.config.design]

    @property
    def amplitude(self) -> float:
        """Of the signal."""
        return self.design.amplitude if self.config.amplitude is None else float(self.config.amplitude)

    @property
    def time(self) -> np.ndarray:
        """Times of the fields, datetime64[ns], shape (steps,)."""
        return np.asarray((START + np.arange(self.config.steps)).astype("datetime64[ns]"))

    @cached_property
    def truth(self) -> Hidden:
        """What is hidden in the fields."""
        return self.design.hide(self.config.steps, self.config.seed)

    def values(self) -> np.ndarray:
        """Return the fields in units of their own, (time, row, column)."""
        steps, seed = self.config.steps, self.config.seed
        cells = generator(seed, "cells").standard_normal((steps, ROWS, COLUMNS))
        return self.amplitude * self.truth.signal + self.design.noise(steps, seed) + CELL_NOISE * cells

    def splits(self) -> dict[str, Any]:
        """Return blocks for `prepare`: half of the steps to train on, the rest to choose and to test on, with gaps."""
        steps = self.config.steps
        found: dict[str, Any] = {
            part: [str(START + round(first * steps)), str(START + round(last * steps) - 1)]
            for part, (first, last) in BLOCKS.items()
        }
        return {**found, "embargo_days": steps // 200}

    def dataset(self) -> xr.Dataset:
        """Return the fields: dims (time, lat, lon), float32, as geopotential at 500 hPa."""
        coords = {
            "time": self.time,
            "lat": 28.0 - 8.0 * np.arange(ROWS),
            "lon": 360 / COLUMNS * np.arange(COLUMNS),
        }
        fields = (MEAN + UNIT * self.values()).astype(np.float32)
        attrs = {"units": "m2 s-2", "long_name": "geopotential at 500 hPa", "standard_name": "geopotential"}
        about = {
            "source": f"control planet {self.config.design} (synthetic)",
            "licence": "CC0",
            "citation": "earthssl synthetic control; not observations",
            "planet": json.dumps({"dynamics": CONTROL, **dataclasses.asdict(self.config)}),
        }
        return xr.Dataset({VARIABLE: (("time", "lat", "lon"), fields, attrs)}, coords, about)

    def hidden(self) -> xr.Dataset:
        """Return the hidden truth: `label` (time) and `state` (time, component)."""
        arrays = {"label": ("time", self.truth.label), "state": (("time", "component"), self.truth.state)}
        return xr.Dataset(arrays, {"time": self.time}, {"source": f"control planet {self.config.design} (synthetic)"})


def open_controls(**options: Any) -> xr.Dataset:
    """Return the dataset of a control with the given ControlConfig options.

    Raises:
        EarthSSLError: If an option is unknown or out of range.
    """
    check_names("controls", ControlConfig, options)
    return Control(ControlConfig(**options)).dataset()

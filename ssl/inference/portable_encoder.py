"""PortableEncoder: raw fields and times in, features out, as one module of plain tensor arithmetic.

Everything that `FrozenEncoder.embed` does between reading and labelling, for programs that have neither this package
nor Python: the calendar, the climatology, the patches and their places are all inside.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..common.errors import EarthSSLError
from ..fields.month_stamps import DAY_S
from ..fields.normalisation import YEAR_DAYS, Statistics
from ..fields.plausible import limits
from ..fields.variables import lookup
from ..model.tokens import YEAR_S
from .frozen_encoder import POOLINGS, FrozenEncoder
from .portable_calendar import Dates


class PortableEncoder(nn.Module):
    """A frozen encoder that takes raw fields.

    Attributes:
        width: Features.
        tokens: Tokens of a window.
    """

    coefficients: Tensor
    scale: Tensor
    kept: Tensor
    step: Tensor
    last: Tensor
    where: Tensor
    weights: Tensor

    def __init__(self, frozen: FrozenEncoder, pooling: str = "mean", layer: int = -1) -> None:
        """Take over weights, statistics and geometry.

        Args:
            frozen: The encoder; its weights are shared.
            pooling: mean, last or tokens.
            layer: Block whose output is taken.
        """
        super().__init__()
        if pooling not in POOLINGS:
            raise EarthSSLError(f"pooling: expected {', '.join(POOLINGS)}, got '{pooling}'")
        record, encoder = frozen.record, frozen.encoder
        if not -encoder.depth <= layer < encoder.depth:
            raise EarthSSLError(f"layer: expected {-encoder.depth} to {encoder.depth - 1}, got {layer}")
        config, statistics = encoder.config, record.statistics
        self.pooling, self.width = pooling, encoder.width
        self.patch, self.shape = config.patch, record.grid.shape
        self.harmonics = statistics.harmonics
        self.transforms = tuple(statistics.transforms) if any(statistics.transforms) else ()
        self.keep("coefficients", torch.from_numpy(np.ascontiguousarray(statistics.coefficients)))
        self.keep("scale", torch.from_numpy(np.ascontiguousarray(statistics.scale)))
        self.dates = Dates(record)
        self._place(frozen)
        self.keep("weights", torch.cat([encoder.embedding.blocks[name] for name in record.variables], 0))
        self.season = encoder.encodings.season
        self.blocks = nn.ModuleList(list(encoder.blocks)[: layer % encoder.depth + 1])
        self.norm = encoder.norm
        self.eval().requires_grad_(False)

    def keep(self, name: str, values: Tensor) -> None:
        """Register a constant."""
        self.register_buffer(name, values.detach().clone())

    def _place(self, frozen: FrozenEncoder) -> None:
        """Keep what does not depend on the fields: which patches exist, and the encoding of where they are."""
        record, encoder = frozen.record, frozen.encoder
        patches = frozen.patches(record.variables)
        self.tokens, self.slots = patches.count, patches.shape
        per_slot = patches.shape[1] * patches.shape[2]
        self.keep("kept", patches.step * per_slot + patches.cell)
        self.keep("step", patches.step)
        self.keep("last", (patches.step == patches.shape[0] - 1).float() / (patches.step == patches.shape[0] - 1).sum())
        with torch.no_grad():
            where = encoder.encodings.place(patches.place) + encoder.encodings.slot(patches.slot)
        self.keep("where", where + encoder.embedding.bias)

    def forward(self, fields: Tensor, seconds: Tensor) -> Tensor:
        """Return features, float32: (window, feature), or (window, token, feature) with pooling "tokens".

        Args:
            fields: float32 (window, step, variable, row, column) in the units of the record, on its grid (north to
                south, longitudes ascending from 0), NaN where missing: a whole variable may be.
            seconds: int64 (window, step), since 1970-01-01 UTC; months may be stamped on any of their days. NaN comes
                back for a window with a month or an hour that the climatology does not know.
        """
        rows, day_of_year, of_day, stamped = self.dates(seconds).unbind(-1)
        normal = (self._transformed(fields) - self._climatology(rows.clamp(min=0), day_of_year, of_day)) / self.scale
        x = self._tokens(normal, stamped)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.pooling == "mean":
            x = x.mean(1)
        elif self.pooling == "last":
            x = (x * self.last[:, None]).sum(1)
        strange = (rows < 0).any(1).reshape(-1, *(1,) * (x.ndim - 1))
        return torch.where(strange, torch.full_like(x, math.nan), x)

    def _transformed(self, fields: Tensor) -> Tensor:
        if not self.transforms:
            return fields
        parts = []
        for k, scale in enumerate(self.transforms):
            part = fields[:, :, k]
            if scale:
                wide = part.double()
                part = (torch.sign(wide) * torch.log1p(torch.abs(wide) / scale)).float()
            parts.append(part)
        return torch.stack(parts, 2)

    def _climatology(self, rows: Tensor, day_of_year: Tensor, of_day: Tensor) -> Tensor:
        fields = self.coefficients[rows, 0]
        phase = (day_of_year.double() + of_day.double() / DAY_S) * (2 * math.pi / YEAR_DAYS)
        for k in range(1, self.harmonics + 1):
            for term, wave in ((2 * k - 1, torch.cos(k * phase)), (2 * k, torch.sin(k * phase))):
                fields = fields + wave.float()[:, :, None, None, None] * self.coefficients[rows, term]
        return fields

    def _tokens(self, normal: Tensor, seconds: Tensor) -> Tensor:
        valid = torch.isfinite(normal)
        values = self._cut(torch.where(valid, normal, torch.zeros_like(normal)))
        share = self._cut(valid.to(values.dtype)).mean(-1, keepdim=True)
        x = torch.cat([values, share], -1).flatten(2) @ self.weights + self.where
        ends = seconds[:, self.patch[0] - 1 :: self.patch[0]].double()
        year, day = ends % YEAR_S * (2 * math.pi / YEAR_S), ends % DAY_S * (2 * math.pi / DAY_S)
        waves = [f(angle) for angle in (year, 2 * year, day) for f in (torch.sin, torch.cos)]
        return x + self.season(torch.stack(waves, -1).float())[:, self.step]

    def _cut(self, fields: Tensor) -> Tensor:
        """Return the patches that can hold a value, (window, token, variable, cell)."""
        (steps, rows, columns), (t, r, c) = self.patch, self.slots
        padding = (0, c * columns - self.shape[1], 0, r * rows - self.shape[0])
        x = nn.functional.pad(fields, padding)
        x = x.reshape(-1, t, steps, fields.shape[2], r, rows, c, columns).permute(0, 1, 4, 6, 3, 2, 5, 7)
        return x.reshape(-1, t * r * c, fields.shape[2], steps * rows * columns)[:, self.kept]


def example(frozen: FrozenEncoder, windows: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random fields near the climatology, a tenth of the cells missing, and times all over a century.

    Shapes are those of `PortableEncoder.forward`.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(-10_000, 18_000, windows).astype("datetime64[D]")
    return near_climatology(frozen, times_from(frozen, first, rng), rng, 0.1)


def times_from(frozen: FrozenEncoder, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return times of windows that the climatology knows, from each first date on; datetime64[s] (window, step).

    Months are stamped at the beginning, or at any hour of their first 28 days; each window's alike.
    """
    statistics, count = frozen.record.statistics, len(frozen.record.statistics.keys)
    place = rng.integers(0, count, (len(first), 1)) + np.arange(frozen.record.encoder.window)
    keys, turns = np.array(statistics.keys)[place % count], place // count
    if statistics.groups == "month":
        months = first.astype("datetime64[Y]").astype("datetime64[M]")[:, None] + (keys - 1 + 12 * turns)
        stamp = rng.integers(0, 28 * 24, (len(first), 1)).astype("timedelta64[h]")
        stamp[::2] = 0  # midnights on the first are the dates at which rounding moves a month
        return np.asarray(months.astype("datetime64[s]") + stamp)
    later = (keys * 3600 + turns * DAY_S).astype("timedelta64[s]")
    return np.asarray(first.astype("datetime64[D]").astype("datetime64[s]")[:, None] + later)


def near_climatology(
    frozen: FrozenEncoder, times: np.ndarray, rng: np.random.Generator, missing: float
) -> tuple[Tensor, Tensor]:
    """Return random fields near the climatology of the times, a share of the cells missing, and the seconds.

    Values are possible ones: what no place on Earth has, `embed` refuses.
    """
    statistics: Statistics = frozen.record.statistics
    flat = times.reshape(-1)
    noise = rng.standard_normal((len(flat), *statistics.scale.shape)).astype(np.float32)
    noise[rng.random(noise.shape) < missing] = np.nan
    fields = statistics.denormalise(noise, flat).astype(np.float32).reshape(*times.shape, *statistics.scale.shape)
    for k, name in enumerate(frozen.record.variables):
        fields[:, :, k] = np.clip(fields[:, :, k], *limits(lookup(name)))
    return torch.from_numpy(fields), torch.from_numpy(times.astype("datetime64[s]").astype(np.int64))

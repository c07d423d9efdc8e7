"""Tiles: pieces of a map cut out in rows and columns with gaps, for tasks that ask where they lay.

Trivial cues and how they are closed, for every task of tiles:
- borders that continue: a gap of one tile between neighbours wherever the grid has room, and jitter;
- level and spread of a tile: its mean and deviation are removed, for each variable, by area over its valid cells;
- position: every tile is encoded as a map of its own that lies nowhere, without place, layout or season;
- coastlines and gaps: a cell is shown only if it is valid in all tiles of the tiling, whichever are shown and in
  whatever order, so the mask is the same for all classes. A tiling with too little in common (land, for SST) is
  drawn again, before the class is looked at. (Drawing again until the shown tiles alone are ocean would tie where
  they lie to the class.)
- poles, where the cells of a tile are slivers: rows beyond a latitude are not used. Tiles are shifted and never
  turned or carried over a pole, so vector components stay eastward and northward.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.fields.grid import LatLonGrid
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import LAYOUT, PLACE, SEASON, patchify
from ...ssl.training.objective import Context, Cue, Objective, Outcome, over_chance
from .tile_borders import Borders

ATTEMPTS = 200
FLAT = 1e-3  # deviation, in units of the field's own, below which a tile is not blown up to 1
HIDE = frozenset({PLACE, LAYOUT, SEASON})
AXES = ("rows", "columns")


@dataclass(frozen=True)
class Tiling:
    """How tiles are cut out of a map.

    Attributes:
        shape: Rows and columns of tiles.
        tile: Rows and columns of cells in a tile, multiples of the patch's.
        gap: Least cells between neighbouring tiles along rows and columns; None takes one tile.
        jitter: Cells by which each tile is moved at random: neighbours are gap to gap + 2 jitter apart.
        poles: Rows beyond this latitude are not used, degrees.
        cover: Share of a tile's cells that must be valid in all tiles for a variable to be shown.
        frames: Steps of the window shown, counted back from the last; 0 takes all.
        one_variable: Show one variable a tile, drawn for each.
    """

    shape: tuple[int, int] = (3, 3)
    tile: tuple[int, int] = (8, 8)
    gap: tuple[int, int] | None = None
    jitter: int = 1
    poles: float = 70.0
    cover: float = 0.25
    frames: int = 1
    one_variable: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or min(self.shape) < 1 or self.count < 2:
            raise EarthSSLError(f"tiles.shape: expected rows × columns of at least 2 tiles, got {self.shape}")
        if len(self.tile) != 2 or min(self.tile) < 2:
            raise EarthSSLError(f"tiles.tile: expected rows and columns of at least 2 cells, got {self.tile}")
        if self.gap is not None and (len(self.gap) != 2 or min(self.gap) < 0):
            raise EarthSSLError(f"tiles.gap: expected cells ≥ 0 along rows and columns, got {self.gap}")
        if self.jitter < 0 or self.frames < 0:
            raise EarthSSLError(f"tiles: expected jitter and frames ≥ 0, got {self.jitter}, {self.frames}")
        if not 0 < self.poles <= 90:
            raise EarthSSLError(f"tiles.poles: expected a latitude in (0, 90], got {self.poles}")
        if not 0 < self.cover <= 1:
            raise EarthSSLError(f"tiles.cover: expected a share in (0, 1], got {self.cover}")

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.shape[0] * self.shape[1]

    @property
    def gaps(self) -> tuple[int, int]:
        """Least cells between neighbours along rows and columns."""
        return self.tile if self.gap is None else self.gap

    def rows(self, grid: LatLonGrid) -> tuple[int, int]:
        """Return the first usable row of the grid and how many there are."""
        inside = np.flatnonzero(np.abs(grid.lat) <= self.poles + 1e-6)
        return (int(inside[0]), len(inside)) if len(inside) else (0, 0)

    def extent(self, axis: int, gap: int | None = None, side: int | None = None) -> int:
        """Return the cells that the tiling takes along an axis (0 rows, 1 columns), jitter included."""
        count, gap = self.shape[axis], self.gaps[axis] if gap is None else gap
        return count * ((side or self.tile[axis]) + self.jitter) + (count - 1) * gap

    def fits(self, grid: LatLonGrid, axis: int, gap: int | None = None, side: int | None = None) -> bool:
        """Whether the tiling fits the grid along an axis.

        Round the globe the way back from the last tile to the first must be longer than any gap: two tiles
        opposite each other are both east and west of one another.
        """
        taken, gap = self.extent(axis, gap, side), self.gaps[axis] if gap is None else gap
        if axis == 0:
            return taken <= self.rows(grid)[1]
        if not grid.periodic or self.shape[1] == 1:
            return taken <= grid.shape[1]
        return taken + gap + 2 * self.jitter < grid.shape[1]

    def check(self, context: Context, where: str, *, strict: bool = False) -> None:
        """Raise unless the tiling suits the encoder and the grid, with gaps of a tile if there is room.

        Args:
            context: Encoder and grid.
            where: Name of the setting, for the error.
            strict: Refuse gaps below one tile even where the grid has no room for them.

        Raises:
            EarthSSLError: If it does not; says what fits.
        """
        steps, *patch = context.encoder.config.patch
        window, grid = context.encoder.config.window, context.grid
        if self.frames % steps or self.frames > window:
            raise EarthSSLError(
                f"{where}.frames: expected 0 to {window}, a multiple of the patch's {steps} steps, got {self.frames}"
            )
        for axis, name in enumerate(AXES):
            side, gap = self.tile[axis], self.gaps[axis]
            if side % patch[axis]:
                raise EarthSSLError(
                    f"{where}.tile: expected a multiple of the patch's {patch[axis]} {name} of cells, got {side}"
                )
            if self.shape[axis] == 1 and self.fits(grid, axis):
                continue  # no neighbour along this axis
            roomy = self.fits(grid, axis, side)
            if gap < side and (roomy or strict):
                raise EarthSSLError(f"{where}.gap: expected at least one tile ({side} {name} of cells), got {gap}")
            if not self.fits(grid, axis):
                raise EarthSSLError(
                    f"{where}: {self.shape[axis]} {name} of tiles of {side} cells with gaps of {gap} and jitter "
                    f"{self.jitter} do not fit the {self._space(grid, axis)}; {self._remedy(grid, axis, patch, strict)}"
                )

    def _space(self, grid: LatLonGrid, axis: int) -> str:
        if axis == 0:
            return f"{self.rows(grid)[1]} rows within {self.poles:g}° of the equator"
        closed = " that go round the globe" if grid.periodic else ""
        return f"{grid.shape[1]} columns{closed}"

    def _remedy(self, grid: LatLonGrid, axis: int, patch: list[int], strict: bool) -> str:
        """Return what would fit along the axis: the largest tile with such a gap, or the widest gap."""
        sides = [s for s in range(patch[axis], grid.shape[axis] + 1, patch[axis]) if s > 1]
        fitting = [side for side in sides if self.fits(grid, axis, side, side)]
        ways = [f"take tiles of {fitting[-1]} cells"] if fitting else []
        gaps = [gap for gap in range(self.tile[axis]) if self.fits(grid, axis, gap)]
        if gaps and not strict:
            ways.append(f"set gap to {gaps[-1]} along the {AXES[axis]}")
        if axis == 0 and self.poles < 90:
            ways.append("raise poles")
        return ", or ".join([*ways, f"take fewer {AXES[axis]} of tiles, less jitter or smaller patches"])

    def place(
        self, grid: LatLonGrid, keys: Int[Tensor, " sample"]
    ) -> tuple[Int[Tensor, "sample tile"], Int[Tensor, "sample tile"]]:
        """Return the first row and column of every tile, row by row; columns may run past the grid's last.

        One corner is drawn for each key, anywhere on the usable grid, and a shift for each tile.
        """
        drawn = uniform(keys, 2 + 2 * self.count)
        first, space = self.rows(grid)
        corners = grid.shape[1] if grid.periodic else grid.shape[1] - self.extent(1) + 1
        top = first + (drawn[:, 0] * (space - self.extent(0) + 1)).long()
        left = (drawn[:, 1] * corners).long()
        shifts = (drawn[:, 2:] * (self.jitter + 1)).long().unflatten(1, (2, self.count))
        pitch = [self.tile[axis] + self.gaps[axis] + self.jitter for axis in (0, 1)]
        tile = torch.arange(self.count, device=keys.device)
        row, column = tile // self.shape[1], tile % self.shape[1]
        return top[:, None] + row * pitch[0] + shifts[:, 0], left[:, None] + column * pitch[1] + shifts[:, 1]

    def cut(
        self,
        x: Tensor,
        samples: Int[Tensor, " sample"],
        tops: Int[Tensor, "sample tile"],
        lefts: Int[Tensor, "sample tile"],
    ) -> Tensor:
        """Return the tiles of the samples' fields, (sample, tile, time, variable, row, column)."""
        height, width = (torch.arange(side, device=x.device) for side in self.tile)
        rows = (tops[..., None] + height)[..., :, None]
        columns = ((lefts[..., None] + width) % x.shape[-1])[..., None, :]
        pieces = x[samples[:, None, None, None], :, :, rows, columns]
        return rearrange(pieces, "b k h w t v -> b k t v h w")

    def show(
        self, batch: Batch, which: Int[Tensor, "batch shown"], purpose: str
    ) -> tuple[Batch, Int[Tensor, " sample"]]:
        """Return the tiles as maps of their own, and the samples that have any.

        A sample is left out if no tiling with enough valid cells was found for it (a window of gaps); there may be
        none at all.

        Args:
            batch: Windows.
            which: Tiles to be shown of each sample, counted row by row.
            purpose: Name of what draws.

        Returns:
            A batch of (sample × shown) tiles, those of a sample following one another, and the samples' indices.

        Raises:
            EarthSSLError: If there is no tiling with enough cells that ever hold a value (land).
        """
        frames = self.frames or batch.values.shape[1]
        batch = batch.cut(batch.values.shape[1] - frames, frames)
        tops, lefts, common = self._find(batch, purpose)
        enough = reduce(common.float(), "b t v h w -> b v", "mean") >= self.cover
        samples = enough.any(1).nonzero()[:, 0]
        if not len(samples):
            self._expect_known(batch, purpose)
        which, shown = which[samples], which.shape[1]
        rows, columns = tops[samples].gather(1, which), lefts[samples].gather(1, which)
        seen = enough[samples][:, None].expand(-1, shown, -1)
        if self.one_variable:
            seen = _one(seen, uniform(fold(batch.keys[samples], key(0, f"{purpose} variable")), shown))
        valid = common[samples][:, None] & seen[:, :, None, :, None, None]
        values = self.cut(batch.values, samples, rows, columns)
        area = self.cut(torch.from_numpy(batch.grid.area).to(values)[None, None, None], samples * 0, rows, columns)
        tiles = Batch(
            values=normalise(values, valid, area).flatten(0, 1),
            valid=valid.flatten(0, 1),
            times=batch.times[samples].repeat_interleave(shown, 0),
            keys=batch.keys[samples].repeat_interleave(shown),
            known=torch.ones(len(batch.variables), *self.tile, dtype=torch.bool),
            variables=batch.variables,
            grid=nowhere(batch.grid, self.tile),
            number=batch.number,
        )
        return tiles, samples

    def _expect_known(self, batch: Batch, purpose: str) -> None:
        """Raise unless some tiling would have enough valid cells if nothing were missing that can be observed."""
        whole = batch.known.to(batch.valid.device).expand(len(batch), 1, -1, -1, -1)
        _, _, common = self._find(replace(batch, valid=whole), purpose)
        if not (reduce(common.float(), "b t v h w -> b v", "mean") >= self.cover).any():
            raise EarthSSLError(
                f"{purpose}: expected tilings of which {self.cover:g} of a tile's cells are valid in all tiles, found "
                f"none in {ATTEMPTS} draws (land?); take smaller or fewer tiles, smaller gaps, or lower tiles.cover"
            )

    def _find(
        self, batch: Batch, purpose: str
    ) -> tuple[Tensor, Tensor, Bool[Tensor, "batch time variable row column"]]:
        """Return rows and columns of the tiles of each sample, and the cells that are valid in all of them."""
        unplaced = torch.arange(len(batch), device=batch.keys.device)
        tops, lefts = (unplaced.new_zeros(len(batch), self.count) for _ in range(2))
        common = batch.valid.new_zeros(*batch.valid.shape[:3], *self.tile)
        for attempt in range(ATTEMPTS):
            keys = fold(batch.keys[unplaced], key(0, f"{purpose} tiling", attempt))
            tops[unplaced], lefts[unplaced] = self.place(batch.grid, keys)
            seen = self.cut(batch.valid, unplaced, tops[unplaced], lefts[unplaced]).all(1)
            common[unplaced] = seen
            enough = reduce(seen.float(), "b t v h w -> b v", "mean") >= self.cover
            unplaced = unplaced[~enough.any(1)]
            if not len(unplaced):
                break
        return tops, lefts, common


@lru_cache(maxsize=8)
def nowhere(grid: LatLonGrid, tile: tuple[int, int]) -> LatLonGrid:
    """Return the cells of a tile moved to the equator and the prime meridian; the same object each time."""
    rows, columns = tile
    lat = ((rows - 1) / 2 - np.arange(rows)) * float(np.abs(np.diff(grid.lat)).mean())
    return LatLonGrid(lat, np.arange(columns) * float(np.diff(grid.lon).mean()))


def normalise(
    values: Float[Tensor, "*tile time variable row column"],
    valid: Bool[Tensor, "*tile time variable row column"],
    area: Float[Tensor, "*tile 1 1 row column"],
) -> Float[Tensor, "*tile time variable row column"]:
    """Return tiles of mean 0 and deviation 1 of each variable over all valid cells and frames, by area; else 0."""
    weight = area * valid
    total = weight.sum((-4, -2, -1), keepdim=True).clamp(min=1e-12)
    centred = (values - (weight * values).sum((-4, -2, -1), keepdim=True) / total) * valid
    variance = (weight * centred.square()).sum((-4, -2, -1), keepdim=True) / total
    return centred / variance.sqrt().clamp(min=FLAT)


def _one(
    seen: Bool[Tensor, "sample shown variable"], drawn: Float[Tensor, "sample shown"]
) -> Bool[Tensor, "sample shown variable"]:
    """Return one of the variables that are seen in each tile."""
    nth = (drawn * seen.sum(-1)).long()
    return seen & (seen.cumsum(-1) - 1 == nth[..., None])


class TileTask(Objective):
    """Classify how shown tiles lay to one another, from the mean features of each.

    Attributes:
        name: Of the task; what it draws with.
        tiling: Where tiles may lie.
        shown: Number of tiles shown of each sample.
        classes: Number of answers.
    """

    def __init__(self, name: str, tiling: Tiling, shown: int, classes: int, hidden: int, context: Context) -> None:
        super().__init__()
        self.name, self.tiling, self.shown, self.classes = name, tiling, shown, classes
        self.head = nn.Sequential(
            nn.Linear(shown * context.encoder.width, hidden), nn.GELU(), nn.Linear(hidden, classes)
        )

    @abstractmethod
    def which(self, batch: Batch, picks: Int[Tensor, " batch"]) -> Int[Tensor, "batch shown"]:
        """Return the tiles, counted row by row, that pose the picked classes."""

    @abstractmethod
    def mismatch(self, shown: Batch) -> Float[Tensor, "sample class number"]:
        """Return how badly borders of the shown tiles agree if each class were true: `tile_borders.KINDS`, repeated."""

    def pose(self, batch: Batch) -> tuple[Batch, Int[Tensor, " sample"]]:
        """Return the tiles shown, those of a sample following one another, and each sample's class.

        Samples without a tiling of enough valid cells are left out.
        """
        picks = (uniform(fold(batch.keys, key(0, self.name)), 1)[:, 0] * self.classes).long()
        tiles, samples = self.tiling.show(batch, self.which(batch, picks), self.name)
        return tiles, picks[samples]

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the cross-entropy of the class, with accuracy and skill over chance.

        `left_out` is the share of the windows that pose nothing. A batch of nothing else has a loss and a gradient of
        0, and neither accuracy nor skill.
        """
        tiles, target = self.pose(batch)
        left_out = torch.tensor(1 - len(target) / len(batch), device=batch.values.device)
        if not len(target):
            trained = [p for p in (*encoder.parameters(), *self.parameters()) if p.requires_grad]
            return Outcome(sum((0.0 * p.sum() for p in trained), 0.0 * left_out), {"left_out": left_out}, posed=False)
        features = encoder(patchify(tiles, encoder.config.patch), hide=HIDE)
        logits = self.head(reduce(features, "(b k) n d -> b (k d)", "mean", k=self.shown)).float()
        loss = nn.functional.cross_entropy(logits, target)
        accuracy = (logits.argmax(1) == target).float().mean().detach()
        skill = over_chance(accuracy, self.classes)
        return Outcome(loss, {"accuracy": accuracy, "skill": skill, "left_out": left_out})

    def cues(self) -> list[Cue]:
        """Return the solver that joins tiles where their borders agree best."""
        return [Borders()]

"""Gaps: which cells are observed, as in a real month, under swaths, beside clouds, at stations, outside blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError, check_known, check_settings
from ....ssl.common.randomness import key
from ....ssl.fields.grid import LatLonGrid
from ....ssl.fields.reduced_space import EARTH_RADIUS_KM, great_circle_km, unit_vectors
from ....ssl.sources.axes import canonical_axes
from ....ssl.sources.canonical import FILL
from ....ssl.sources.conventions import limited
from ....ssl.sources.local_files import check_whole
from ....ssl.sources.regrid import oriented
from ...evaluation.label_tables import far_marks

KINDS = ("file", "random", "swath", "cloud", "stations", "block")
INCLINATION = 98.2  # degrees, of a sun-synchronous orbit
TRIES = 10000


@dataclass(frozen=True)
class GapConfig:
    """One kind of gaps.

    Attributes:
        kind: file (the gaps of a real month), random (cells anywhere), swath (slanted strips under satellite
            tracks are observed), cloud (smooth blobs are hidden), stations (few cells of a fixed network
            report), block (whole boxes are hidden).
        observed: Share of the cells that are observed, exact to rounding ("random", "swath", "cloud").
        tracks: Great circles under which a swath lies.
        blob_km: Size of the clouds.
        stations: Cells that report; each time drawn out of a network of twice as many.
        boxes: How many boxes are hidden; they do not overlap, and half of each at least is known.
        box: Height and width of a box, degrees.
        fixed: The same gaps at all times; else they are drawn anew for each.
        seed: Of the draws.
        path: NetCDF file with missing values ("file").
        month: Which of its months ("file"), such as 1877-09.
    """

    kind: str = "random"
    observed: float = 0.3
    tracks: int = 6
    blob_km: float = 1500.0
    stations: int = 50
    boxes: int = 4
    box: tuple[float, float] = (30.0, 60.0)
    fixed: bool = False
    seed: int = 0
    path: str = ""
    month: str = ""

    def __post_init__(self) -> None:
        check_known("gaps", [self.kind], KINDS)
        rules = {"observed": "(0, 1)", "tracks stations boxes": "≥ 1", "blob_km": "> 0"}
        check_settings(f"gaps.{self.kind}", self, rules)
        if not (0 < self.box[0] <= 180 and 0 < self.box[1] <= 360):
            raise EarthSSLError(f"gaps.{self.kind}.box: expected height ≤ 180 and width ≤ 360 degrees, got {self.box}")
        if self.kind == "file" and not (self.path and self.month):
            raise EarthSSLError("gaps.file: expected a path and a month such as 1877-09, got none; name them")


class Gaps:
    """Masks of one kind on a grid; each is a function of (seed, index).

    Attributes:
        config: The kind.
        grid: Where the cells lie.
        known: Cells that can be observed at all (not land), (rows, columns).
    """

    def __init__(self, config: GapConfig, grid: LatLonGrid, known: np.ndarray) -> None:
        if known.shape != grid.shape or not known.any():
            raise EarthSSLError(
                f"gaps: expected some known cells on the grid {grid}, got {int(known.sum())} of shape {known.shape}"
            )
        self.config, self.grid, self.known = config, grid, known
        self._fixed: np.ndarray | None = None

    def observed(self, index: int) -> np.ndarray:
        """Return which cells are observed at a time, bool (rows, columns); never outside `known`.

        Args:
            index: Number of the time; without effect where the gaps are fixed.

        Raises:
            EarthSSLError: If nothing would be observed, or nothing hidden.
        """
        if self._fixed is not None:
            return self._fixed
        config = self.config
        fixed = config.fixed or config.kind == "file"
        rng = np.random.default_rng(key(config.seed, f"gaps {config.kind}", 0 if fixed else index) & (2**63 - 1))
        seen = np.asarray(getattr(self, f"_{config.kind}")(rng)) & self.known
        count, cells = int(seen.sum()), int(self.known.sum())
        if not 0 < count < cells:
            what = "hides nothing" if count else "leaves nothing observed"
            raise EarthSSLError(
                f"gaps.{config.kind}: the mask {what} of {cells} known cells; expected some observed and some hidden: "
                "change its share, number or size"
            )
        if fixed:
            self._fixed = seen
        return seen

    @cached_property
    def _points(self) -> np.ndarray:
        return unit_vectors(np.repeat(self.grid.lat, self.grid.shape[1]), np.tile(self.grid.lon, self.grid.shape[0]))

    def _lowest(self, score: np.ndarray) -> np.ndarray:
        """Return the asked share of the known cells: those with the lowest scores."""
        ranked = np.where(self.known.ravel(), score, np.inf).argsort(kind="stable")
        return self._mask(ranked[: round(self.config.observed * int(self.known.sum()))])

    def _mask(self, cells: np.ndarray) -> np.ndarray:
        return np.isin(np.arange(self.known.size), cells).reshape(self.known.shape)

    def _random(self, rng: np.random.Generator) -> np.ndarray:
        return self._lowest(rng.random(self.known.size))

    def _swath(self, rng: np.random.Generator) -> np.ndarray:
        """Cells nearest to great circles whose nodes lie evenly round the equator, from a random start."""
        start = rng.random() * 360 / self.config.tracks
        node = start + np.arange(self.config.tracks) * 360 / self.config.tracks
        poles = unit_vectors(np.full(self.config.tracks, 90 - INCLINATION), node)
        return self._lowest(np.abs(self._points @ poles.T).min(1))

    def _cloud(self, rng: np.random.Generator) -> np.ndarray:
        """Cells where a smooth random field is low; it is a sum of bumps placed evenly by area."""
        width = self.config.blob_km / EARTH_RADIUS_KM
        count = int(np.clip(8 / width**2, 12, 4000))
        centres = rng.normal(size=(count, 3))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        return self._lowest(np.exp((self._points @ centres.T - 1) / width**2) @ rng.normal(size=count))

    def _stations(self, rng: np.random.Generator) -> np.ndarray:
        """Some of the stations of a network that is always the same and even by area."""
        cells = np.flatnonzero(self.known)
        if self.config.stations >= len(cells):
            raise EarthSSLError(
                f"gaps.stations: expected fewer stations than the {len(cells)} known cells, got {self.config.stations}"
            )
        home = np.random.default_rng(key(self.config.seed, "gaps network") & (2**63 - 1))
        # Smallest exponential waiting times at rates of the area: a sample without replacement.
        wait = home.exponential(size=len(cells)) / self.grid.area[self.known]
        network = cells[wait.argsort(kind="stable")[: 2 * self.config.stations]]
        return self._mask(rng.permutation(network)[: self.config.stations])

    def _block(self, rng: np.random.Generator) -> np.ndarray:
        """Everything outside boxes with centres even by area over the rows of the grid."""
        height, width = self.config.box
        hidden = np.zeros(self.known.shape, bool)
        edges = np.sin(np.deg2rad(self.grid.lat_bounds[[-1, 0]]))
        placed = 0
        for _ in range(TRIES):
            lat = np.rad2deg(np.arcsin(rng.uniform(*edges)))
            lon = rng.uniform(self.grid.lon_bounds[0], self.grid.lon_bounds[-1])
            box = in_box(self.grid, lat, lon, height, width)
            known = (self.grid.area * (box & self.known)).sum()
            if box.any() and known >= 0.5 * (self.grid.area * box).sum() and not (box & hidden).any():
                hidden |= box
                placed += 1
                if placed == self.config.boxes:
                    return ~hidden
        raise EarthSSLError(
            f"gaps.block: expected room for {self.config.boxes} boxes of {height:g}×{width:g}° on {self.grid}, got it "
            f"for {placed}; ask for fewer or smaller ones"
        )

    def _file(self, rng: np.random.Generator) -> np.ndarray:
        return read_mask(self.config.path, self.config.month, self.grid)


@dataclass(frozen=True, eq=False)
class Places:
    """The cells that are to be filled.

    Attributes:
        lat, lon: Centres, degrees, shape (cells,).
        area: Share of the sphere of each, shape (cells,).
    """

    lat: np.ndarray
    lon: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.lat)

    @cached_property
    def distance_km(self) -> np.ndarray:
        """Great-circle distance between any two cells, shape (cells, cells)."""
        return great_circle_km(self.lat, self.lon)


def in_box(grid: LatLonGrid, lat: float, lon: float, height: float, width: float) -> np.ndarray:
    """Return the cells whose centres lie in a box round a centre, degrees, across 0°E too, (rows, columns)."""
    rows = np.abs(grid.lat - lat) <= height / 2
    columns = np.abs((grid.lon - lon + 180) % 360 - 180) <= width / 2
    return rows[:, None] & columns[None, :]


def read_mask(path: str | Path, month: str, grid: LatLonGrid) -> np.ndarray:
    """Return where the only field of a NetCDF file holds a value in a month, on the cells of a grid, bool.

    The file may cover more than the grid; its cells must be the same.

    Raises:
        EarthSSLError: If the file, the month or a cell of the grid is not there, or an undeclared mark of what is
            missing stands among the values.
    """
    file = Path(path)
    if not file.is_file():
        raise EarthSSLError(f"gaps.file.path: expected a NetCDF file with gaps at {file}, found none; mend the path")
    check_whole(file)
    try:
        with xr.open_dataset(file, engine="netcdf4") as opened:
            ds = oriented(canonical_axes(opened, str(file)), str(file)).load()
    except (OSError, ValueError, RuntimeError) as error:
        raise EarthSSLError(f"{file}: expected NetCDF, but it cannot be read ({error}); fetch it again") from None
    fields = [str(name) for name, var in ds.data_vars.items() if set(var.dims) == {"time", "lat", "lon"}]
    if len(fields) != 1:
        raise EarthSSLError(f"{file}: expected one field in (time, lat, lon), got {', '.join(fields) or 'none'}")
    months = ds["time"].values.astype("datetime64[M]")
    found = np.flatnonzero(months == _month(month))
    if len(found) != 1:
        raise EarthSSLError(
            f"{file}: expected the month {month} once, found it {len(found)} times; there are "
            f"{', '.join(map(str, months[:12])) or 'none'}{' …' if len(months) > 12 else ''}"
        )
    own = limited(ds[fields[0]].isel(time=found[0]).transpose("lat", "lon"))
    own = own.where(abs(own) < FILL)
    marks, (low, high) = far_marks(own.values)
    if marks.any():
        raise EarthSSLError(
            f"{file}: expected values or NaN of '{fields[0]}' in {month}, got {own.values[marks][0]:g}, far from the "
            f"others ({low:.3g} to {high:.3g}) and a usual mark of what is missing ({int(marks.sum())} such); declare "
            "it as _FillValue"
        )
    try:
        own = own.sel(lat=grid.lat, lon=grid.lon, method="nearest", tolerance=1e-3)
    except KeyError:
        raise EarthSSLError(
            f"{file}: expected its mask to hold the cells of the grid {grid}, got "
            f"{LatLonGrid(ds['lat'].values, ds['lon'].values)}; regrid the data (option resolution of prepare)"
        ) from None
    return np.isfinite(own.values)


def _month(text: str) -> np.datetime64:
    try:
        return np.datetime64(text, "M")
    except ValueError:
        raise EarthSSLError(f"gaps.file.month: expected a month such as 1877-09, got '{text}'") from None

"""Closures of the weather planet at T21: a mean, a drag by scale, what patches of the map add to them, and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.model.encoder import Encoder
from ....ssl.sources.weather.sphere import Sphere
from ....ssl.sources.weather.weather import ORIGIN
from ....ssl.store.store import Store
from ...heads.ridge_path import RidgePath
from .closures import exported

# Windows of fields (case, step, variable, row, column) and the days of their last steps (case,), counted from 2000 ->
Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]  # features of patches, (case, patch row, patch column, feature)
Local = Callable[[np.ndarray, np.ndarray], np.ndarray]  # a part of the subgrid term, (case, level, row, column)
PENALTIES = tuple(10.0**k for k in range(-6, 4))
OWN, PLACE, AROUND = "a head a row", "a head a patch", "a head a row, patches around too"
WIDEST = 128  # features of a patch of which those of its neighbours are tried as well
CHUNK = 32  # windows encoded at once
LEVELS = 3
T21 = Sphere(21)


@dataclass(frozen=True, eq=False)
class Closure:
    """What a T21 model is told of the scales beyond it, as a rate of change of its potential vorticity.

    Attributes:
        mean: Constant part, (level, known).
        centre: State at which the drag is nothing, (level, known).
        drag: Rate by which each level's coefficient answers to those of all levels, (known, level, level).
        local: What maps add to it; None for nothing.
        gain: Factor on that, by coefficient, (known,).
        patterns: Fields of residuals whose random sums are the noise, (pattern, level, known); none: no noise.
        phi: Autocorrelation of the noise from one model step to the next, by coefficient, (known,).
    """

    mean: np.ndarray
    centre: np.ndarray
    drag: np.ndarray
    local: Local | None = None
    gain: np.ndarray | float = 1.0
    patterns: np.ndarray | None = None
    phi: np.ndarray | None = None

    def fixed(self, states: np.ndarray) -> np.ndarray:
        """Return mean and drag of states (…, level, known), the same shape."""
        return np.asarray(self.mean + np.einsum("kij,...jk->...ik", self.drag, states - self.centre))

    def added(self, fields: np.ndarray, days: np.ndarray) -> np.ndarray | float:
        """Return what maps add, packed (case, level, known); 0 where they add nothing."""
        return 0.0 if self.local is None else self.gain * analysed(self.local(fields, days))

    def told(self, states: np.ndarray, fields: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return the whole of it without noise, (case, level, known)."""
        return np.asarray(self.fixed(states) + self.added(fields, days))

    def innovations(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return noise without memory, with the covariance of the patterns, (count, level, known)."""
        assert self.patterns is not None
        draws = rng.standard_normal((count, len(self.patterns)), dtype=np.float32) / np.sqrt(len(self.patterns))
        return np.tensordot(draws, self.patterns, axes=1)


def none(known: int) -> Closure:
    """Return the closure that says nothing."""
    nothing = np.zeros((LEVELS, known), np.float32)
    return Closure(nothing, nothing, np.zeros((known, LEVELS, LEVELS), np.float32))


def constant(subgrid: np.ndarray) -> Closure:
    """Return the mean of subgrid terms (sample, level, known) as a closure."""
    return replace(none(subgrid.shape[2]), mean=subgrid.mean(axis=0))


def linear(sphere: Sphere, states: np.ndarray, subgrid: np.ndarray) -> Closure:
    """Return the mean with a regression on all levels for each total wavenumber, the same for all of its harmonics.

    Args:
        sphere: T21.
        states, subgrid: (sample, level, known).
    """
    made, n = constant(subgrid), sphere.known[1]
    centre, drag = states.mean(axis=0), np.zeros((sphere.truncation + 1, LEVELS, LEVELS))
    x, y = (one.astype(np.float64) for one in (states - centre, subgrid - made.mean))
    for k in range(1, sphere.truncation + 1):
        seen, told = (one[:, :, n == k].swapaxes(1, 2).reshape(-1, LEVELS) for one in (x, y))
        drag[k] = np.linalg.lstsq(seen, told, rcond=None)[0].T
    return replace(made, centre=centre, drag=drag[n].astype(np.float32))


def analysed(grid: np.ndarray) -> np.ndarray:
    """Return maps (…, row, column) on the T21 grid as packed coefficients (…, known), float32."""
    return T21.packed(T21.analysis(grid)).astype(np.float32)


def mapped(packed: np.ndarray) -> np.ndarray:
    """Return packed coefficients (…, known) as maps on the T21 grid, the inverse, float32."""
    return T21.synthesis(T21.unpacked(packed)).astype(np.float32)


# ---- Readers -------------------------------------------------------------------------------------------------


def instants(days: np.ndarray, window: int) -> np.ndarray:
    """Return the midnights of the windows that end on days counted from 2000, datetime64[s] (case, step)."""
    last = ORIGIN.astype("datetime64[s]") + 86400 * np.floor(days).astype(np.int64)
    return np.asarray(last[:, None] + 86400 * np.arange(1 - window, 1))


def raw_patches(store: Store, patch: tuple[int, int], fields: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the normalised values of each patch, as an encoder is given them."""
    return np.asarray(cut(normalised(store, fields, days).reshape(len(fields), -1, *fields.shape[-2:]), patch))


def random_patches(
    weights: tuple[np.ndarray, np.ndarray], reader: Reader, fields: np.ndarray, days: np.ndarray
) -> np.ndarray:
    """Return random ReLU features of what a reader reads of windows."""
    return relu(weights, reader(fields, days))


def relu(weights: tuple[np.ndarray, np.ndarray], raw: np.ndarray) -> np.ndarray:
    """Return random ReLU features of raw patches."""
    return np.asarray(np.maximum(raw.astype(np.float32) @ weights[0] + weights[1], 0))


def normalised(store: Store, fields: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the fields of windows less the climatology of the store, over its scale, same shape."""
    times = instants(days, fields.shape[1]).ravel().astype("datetime64[ns]")
    flat = fields.reshape(-1, *fields.shape[2:])
    return np.asarray(store.statistics.normalise(flat, times).reshape(fields.shape))


class ExportedPatches:
    """The tokens of an exported encoder at the last step, as a model in another language would call it."""

    def __init__(self, encoder: Encoder, store: Store, layer: int, kind: str) -> None:
        """Export the encoder and read the file back.

        Args:
            encoder: Frozen.
            store: Whose climatology, scale and grid it was trained with.
            layer: Block whose tokens are read.
            kind: torchscript or onnx.
        """
        patch = encoder.config.patch
        self._program = exported(encoder, store, layer, kind)
        self._shape = store.grid.shape[0] // patch[1], store.grid.shape[1] // patch[2]

    def __call__(self, fields: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return the tokens of each patch, (case, patch row, patch column, feature)."""
        seconds = instants(days, fields.shape[1]).astype(np.int64)
        count, parts = self._shape[0] * self._shape[1], []
        for k in range(0, len(fields), CHUNK):
            own = (torch.from_numpy(np.ascontiguousarray(one[k : k + CHUNK])) for one in (fields, seconds))
            parts.append(np.asarray(self._program(*own))[:, -count:])
        return np.concatenate(parts).reshape(len(fields), *self._shape, -1)


def cut(grid: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Return maps (case, value, row, column) by patch, (case, patch row, patch column, value × cell)."""
    cases, values, rows, columns = grid.shape
    split = grid.reshape(cases, values, rows // patch[0], patch[0], columns // patch[1], patch[1])
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(cases, rows // patch[0], columns // patch[1], -1)


def joined(patches: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Return the maps (case, value, row, column) of patches, the inverse of `cut`."""
    cases, rows, columns, _ = patches.shape
    split = patches.reshape(cases, rows, columns, -1, *patch).transpose(0, 3, 1, 4, 2, 5)
    return split.reshape(cases, -1, rows * patch[0], columns * patch[1])


def around(features: np.ndarray) -> np.ndarray:
    """Return features (case, row, column, feature) with those of the eight patches around, 0 beyond the poles."""
    wide = np.pad(features, ((0, 0), (1, 1), (0, 0), (0, 0)))
    rows = features.shape[1]
    return np.concatenate([np.roll(wide[:, r : r + rows], s, axis=2) for r in range(3) for s in (1, 0, -1)], axis=-1)


# ---- Heads ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PatchHead:
    """Linear heads from the features of a patch to the subgrid term in its cells.

    Attributes:
        scope: OWN, PLACE or AROUND.
        weight: (group, feature, output); a group is a row of patches, or a patch.
        bias: (group, 1, output).
        patch: Rows and columns of a patch.
        reader: Returns the features of windows.
    """

    scope: str
    weight: np.ndarray
    bias: np.ndarray
    patch: tuple[int, int]
    reader: Reader | None = None

    def __call__(self, fields: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return maps (case, level, row, column) of windows of fields."""
        assert self.reader is not None
        return self.of(self.reader(fields, days))

    def of(self, features: np.ndarray) -> np.ndarray:
        """Return maps of features (case, patch row, patch column, feature)."""
        cases, rows, columns = features.shape[:3]
        said = np.matmul(grouped(features, self.scope), self.weight) + self.bias
        if self.scope == PLACE:
            back = said.swapaxes(0, 1).reshape(cases, rows, columns, -1)
        else:
            back = said.reshape(rows, cases, columns, -1).swapaxes(0, 1)
        return joined(back, self.patch)


def grouped(values: np.ndarray, scope: str) -> np.ndarray:
    """Return values (case, row, column, value) by group, (group, sample, value)."""
    if scope == PLACE:
        return values.reshape(len(values), -1, values.shape[3]).swapaxes(0, 1)
    values = around(values) if scope == AROUND else values
    return values.swapaxes(0, 1).reshape(values.shape[1], -1, values.shape[3])


def fit_head(
    features: Mapping[str, np.ndarray], wanted: np.ndarray, train: np.ndarray, val: np.ndarray, weight: np.ndarray,
    patch: tuple[int, int],
) -> tuple[float, str, float, PatchHead]:  # fmt: skip
    """Return validation error, candidate, penalty and head of the ridge regressions that are best on validation.

    Args:
        features: Candidates, (sample, patch row, patch column, feature).
        wanted: Maps, (sample, level, row, column).
        train, val: Samples, bool.
        weight: Of the error of each map, (level, row, 1).
        patch: Rows and columns of a patch.
    """
    best: tuple[float, str, float, PatchHead] | None = None
    targets, shares = cut(wanted, patch), cut(np.broadcast_to(weight, (1, *wanted.shape[1:])), patch)
    for name, values in features.items():
        for scope in (OWN, PLACE, AROUND) if values.shape[-1] <= WIDEST else (OWN, PLACE):
            outputs = PLACE if scope == PLACE else OWN
            x, y = grouped(values[train], scope), grouped(targets[train], outputs)
            paths = [RidgePath.fit(*pair) for pair in zip(x, y, strict=True)]
            x, y, share = grouped(values[val], scope), grouped(targets[val], outputs), grouped(shares, outputs)[:, :1]
            errors = np.zeros(len(PENALTIES))
            for path, seen, true, own in zip(paths, x, y, share, strict=True):
                errors += ((path.predict(seen, PENALTIES) - true) ** 2 * own).sum(axis=(1, 2))
            if best is None or errors.min() < best[0]:
                penalty = PENALTIES[int(errors.argmin())]
                found = [path.coefficients(penalty) for path in paths]
                bias = [path.target_mean - path.feature_mean @ own for path, own in zip(paths, found, strict=True)]
                head = PatchHead(scope, np.stack(found).astype(np.float32), np.stack(bias).astype(np.float32), patch)
                best = float(errors.min()), name, penalty, head
    assert best is not None
    return best


class LocalNetwork(nn.Module):
    """Three convolutions round the globe, from normalised windows and latitude to maps of the subgrid term."""

    def __init__(self, channels: int, width: int, sine: np.ndarray) -> None:
        """Draw the weights; the last layer is 0.

        Args:
            channels: Steps × variables of a window.
            width: Channels within.
            sine: Of the latitude of the rows.
        """
        super().__init__()
        self.register_buffer("place", torch.from_numpy(np.stack([sine, sine**2])[:, :, None].astype(np.float32)))
        sizes = (channels + 2, width, width, LEVELS)
        layers = [nn.Conv2d(a, b, 3) for a, b in pairwise(sizes)]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(cast(Tensor, layers[-1].bias))
        self.layers = nn.ModuleList(layers)

    def forward(self, values: Tensor) -> Tensor:
        """Return maps (case, level, row, column) of values (case, channel, row, column)."""
        x = torch.cat([values, cast(Tensor, self.place).expand(len(values), -1, -1, values.shape[-1])], dim=1)
        for k, layer in enumerate(self.layers):
            x = nn.functional.pad(nn.functional.gelu(x) if k else x, (1, 1, 0, 0), mode="circular")
            x = layer(nn.functional.pad(x, (0, 0, 1, 1), mode="replicate"))
        return x


def network_local(
    network: LocalNetwork, store: Store, scale: np.ndarray, fields: np.ndarray, days: np.ndarray
) -> np.ndarray:
    """Return what a network says of windows, times scale (level, 1, 1), (case, level, row, column)."""
    values = normalised(store, fields, days).reshape(len(fields), -1, *fields.shape[-2:])
    with torch.no_grad():
        parts = [network(part).numpy() for part in torch.from_numpy(values).split(CHUNK)]
    return np.asarray(np.concatenate(parts) * scale)


def shrunk(closure: Closure, fields: np.ndarray, days: np.ndarray, left: np.ndarray, n: np.ndarray) -> Closure:
    """Return a closure whose maps have the gain, 0 to 1 by total wavenumber, that is best on validation.

    Most of the term is of the smallest scales, and what is fitted to these adds noise to the largest.

    Args:
        closure: With maps.
        fields, days: Windows of validation samples.
        left: What mean and drag leave of their subgrid terms, (sample, level, known).
        n: Total wavenumber of the coefficients, (known,).
    """
    said = np.asarray(closure.added(fields, days))
    products, squares = (np.bincount(n, one.sum(axis=(0, 1))) for one in (said * left, said**2))
    return replace(closure, gain=np.clip(products / np.maximum(squares, 1e-30), 0, 1)[n].astype(np.float32))


def with_noise(
    closure: Closure, residuals: np.ndarray, size: float, course: np.ndarray, lag: int, n: np.ndarray
) -> Closure:
    """Return a closure with noise that has the covariance of residuals and their memory by total wavenumber.

    Args:
        closure: Without.
        residuals: What it leaves of training samples, (sample, level, known).
        size: Factor on them: what it leaves elsewhere over what it leaves of these.
        course: What it leaves at successive model steps, (case, step, level, known).
        lag: Steps over which the autocorrelation is measured; its root is that of one step.
        n: Total wavenumber of the coefficients, (known,).
    """
    mean = residuals.mean(axis=0)
    left = course - mean
    products, squares = (one.mean(axis=(0, 1)).sum(axis=0) for one in (left[:, lag:] * left[:, :-lag], left**2))
    r = np.bincount(n, products) / np.maximum(np.bincount(n, squares), 1e-30)
    phi = np.clip(r, 0, 1 - 1e-6) ** (1 / lag)
    return replace(closure, patterns=(size * (residuals - mean)).astype(np.float32), phi=phi[n].astype(np.float32))

"""Tuning: frozen features of the labelled windows, their linear probe, and encoder and head trained on from there."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import MIB
from ...ssl.fields.grid import LatLonGrid
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, patchify
from ...ssl.runtime.memory import free_ram
from ..features.eof import Eof
from ..features.store_windows import StoreWindows, encoded
from ..metrics.classes import one_hot, squared_error
from ..training.fine_tuning import FinetuneConfig, Finetuned, fine_tune
from ..training.label_constraints import LabelConstraints
from .head import TaskHead, TaskNetwork, cells_of, cut_fields, near, pooled, poolings_of, season_of
from .linear_head import LinearHead, fit_linear, fit_patches
from .samples import LabelSamples

BATCH = 64
FIT_WINDOWS = 2000  # components of tokens are fitted on at most so many training windows, evenly spread


# Principal components of the last step's tokens, x · basis - offset: (patch × width, component) and (component,).
Projection = tuple[Tensor, Tensor]
NONE: Projection = torch.zeros(0, 0), torch.zeros(0)


@dataclass(frozen=True, eq=False)
class FrozenTokens:
    """Outputs of some layers for every sample.

    Attributes:
        mean: Over all tokens, by layer counted from 0, (window, width).
        newest: Over those of the last step, by layer, (window, width).
        last: Tokens of the last step, by layer, float16 (window, patch, width); empty where they do not fit.
        season: Of each window, (window, 4).
        window: Which window each sample belongs to, (sample,).
        train: Windows of the training samples, ascending: principal components need no labels.
        chosen: Patches nearest to each sample's place, (sample, near); None for labels of the whole field.
        area: Share of the sphere of each patch, (patch,).
    """

    mean: dict[int, Tensor]
    newest: dict[int, Tensor]
    last: dict[int, Tensor]
    season: Tensor
    window: np.ndarray
    train: np.ndarray
    chosen: Tensor | None
    area: np.ndarray

    @classmethod
    def extract(
        cls, encoder: Encoder, windows: StoreWindows, samples: LabelSamples, layers: Sequence[int], nearest: int,
        label: str,
    ) -> FrozenTokens:  # fmt: skip
        """Return the tokens of an encoder; it is put in evaluation mode.

        Args:
            encoder: Frozen.
            windows: Of the store.
            samples: Whose windows are wanted.
            layers: Blocks whose outputs are wanted, counted from 0.
            nearest: Number of patches near a place.
            label: For the progress bar.

        Raises:
            EarthSSLError: If labels of places or fields need tokens that do not fit into memory.
        """
        rows, window = np.unique(samples.last, return_inverse=True)
        places, kept = samples.places, True
        seasons: list[Tensor] = []
        mean, newest, last = defaultdict(list), defaultdict(list), defaultdict(list)
        for patches, every in encoded(encoder, windows.patches(rows, encoder.config.patch, BATCH, label)):
            count = patches.count // patches.shape[0]
            if not seasons:
                kept = _tokens_fit(len(rows), len(layers), count, encoder.width, needed=samples.kind == "field" or
                                   places is not None)  # fmt: skip
            for layer in layers:
                tokens = every[layer].unflatten(1, (patches.shape[0], -1))[:, -1]
                mean[layer].append(every[layer].mean(1))
                newest[layer].append(tokens.mean(1))
                if kept:
                    last[layer].append(tokens.half())
            seasons.append(season_of(patches))
        chosen = None if places is None else near(patches, torch.from_numpy(places), nearest)
        area = patches.area.sum(1).numpy()[-count:]
        joined = [{layer: torch.cat(parts) for layer, parts in own.items()} for own in (mean, newest, last)]
        train = np.unique(window[samples.parts["train"]])
        return cls(joined[0], joined[1], joined[2], torch.cat(seasons), window, train, chosen, area)

    def projection(self, layer: int, count: int) -> Projection:
        """Return principal components fitted on (at most 2000 of) the training windows, as many as they carry."""
        fitted = self.train[:: -(-len(self.train) // FIT_WINDOWS)]
        flat = self.last[layer][torch.from_numpy(fitted)].flatten(1).float().numpy()
        weight = np.repeat(self.area, self.last[layer].shape[2])
        most = min(count, len(fitted) - 1, flat.shape[1])
        eof = Eof.fit(flat, weight, most)
        basis = np.nan_to_num(eof.patterns).T * eof.weight[:, None]
        offset = np.nan_to_num(eof.mean) @ basis
        return torch.from_numpy(basis).float(), torch.from_numpy(offset).float()

    def inputs(self, layer: int, pooling: str, projection: Projection = NONE) -> np.ndarray:
        """Return the inputs of a head for all samples, (sample, feature), or (sample, patch, feature) for patches."""
        window = torch.from_numpy(self.window)
        mean = self.mean[layer][window]
        last = self.newest[layer][window][:, None] if pooling in ("mean", "last") else self.last[layer][window].float()
        return np.asarray(pooled(pooling, mean, last, self.season[window], self.chosen, *projection).numpy())


def _tokens_fit(windows: int, layers: int, patches: int, width: int, needed: bool) -> bool:
    """Return whether tokens of the last step fit into half the free memory, in 16 bits, twice: in parts and joined.

    Raises:
        EarthSSLError: If they do not and are needed.
    """
    held, free = 2 * windows * layers * patches * width * 2, free_ram()
    if free is None or held <= free // 2:
        return True
    if needed:
        raise EarthSSLError(
            f"finetune: expected the features of {windows} windows, {layers} layers of {patches} patches, to fit into "
            f"half of {free / MIB:.0f} MiB of free memory, they take {held / MIB:.0f} MiB; give fewer labels, larger "
            "patches, or one layer (--layers [-1])"
        )
    return False


@dataclass(frozen=True, eq=False)
class Problem:
    """The labels beside the data they are predicted from.

    Attributes:
        samples: The labels.
        windows: The fields, normalised.
        near: Patches that are pooled at a label's place.
        components: Numbers of principal components to try.
        pooling: auto, or one of `poolings_of`.
        constraints: What networks are held to; None for nothing.
    """

    samples: LabelSamples
    windows: StoreWindows
    near: int = 4
    components: tuple[int, ...] = (10, 20)
    pooling: str = "auto"
    constraints: LabelConstraints | None = None
    _cut: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False)

    def on(self, train: np.ndarray) -> Problem:
        """Return the same with some of the training samples only; the labels' climatology stays that of all."""
        return replace(self, samples=replace(self.samples, parts={**self.samples.parts, "train": train}))

    def patches(self, rows: np.ndarray, patch: tuple[int, int, int]) -> Patches:
        """Return the patches of some samples' windows."""
        return patchify(self.windows.batch(self.samples.last[rows]), patch)

    @property
    def grid(self) -> LatLonGrid:
        """Grid of fields as labels: the store's, or a finer one."""
        return self.samples.labels.grid or self.windows.store.grid

    @property
    def factor(self) -> tuple[int, int]:
        """Rows and columns of the labels' cells in each of the store's."""
        (high, wide), (rows, columns) = self.grid.shape, self.windows.store.grid.shape
        return high // rows, wide // columns

    def places(self, rows: np.ndarray) -> Tensor | None:
        """Return the places of some samples, (sample, 2)."""
        places = self.samples.places
        return None if places is None else torch.from_numpy(places[rows])

    def cut(self, patch: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return field labels as patches: standardised departures (sample, patch, cell), and area (patch, cell)."""
        if patch not in self._cut:
            samples = self.samples
            like = self.patches(np.arange(1), patch)
            departures = torch.from_numpy(samples.departures(np.arange(len(samples.rows)))).float()
            targets = cut_fields(departures, like, self.factor)
            seen = torch.isfinite(targets[torch.from_numpy(samples.parts["train"])]).any(0)
            own = cut_fields(torch.from_numpy(self.grid.area).float()[None], like, self.factor)[0]
            area = torch.nan_to_num(own) * seen
            self._cut[patch] = targets.numpy(), area.double().numpy()
        return self._cut[patch]

    def held(self, out: Tensor, rows: np.ndarray, patches: Patches) -> tuple[Tensor, Tensor | float]:
        """Return a network's outputs for some samples behind the layers of the constraints, and the penalty."""
        if self.constraints is None:
            return out, 0.0
        samples = self.samples
        base = torch.from_numpy(np.nan_to_num(samples.base.at(samples.times[rows])))
        truth = torch.from_numpy(samples.departures(rows))
        if samples.kind != "field":
            return self.constraints.hold(out, base, truth)
        fields = torch.nan_to_num(cells_of(out, patches, self.factor))
        made, penalty = self.constraints.hold(fields, base, truth)
        return torch.nan_to_num(cut_fields(made, patches, self.factor)), penalty

    def in_units(self, values: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
        """Return what is said of the test samples, standardised departures in the labels' units, chances as they are.

        Args:
            values: Numbers (sample, target), probabilities (sample, class), or patches of fields (sample, patch, cell).
            patch: Size of these.

        Returns:
            Numbers, probabilities, or fields (sample, row, column).
        """
        samples, test = self.samples, self.samples.parts["test"]
        if samples.kind == "classification":
            return values
        if samples.kind == "field":
            like = self.patches(test[:1], patch)
            values = cells_of(torch.from_numpy(values), like, self.factor).double().numpy()
        return samples.base.at(samples.times[test]) + values * samples.base.scale

    def linear(self, tokens: FrozenTokens, patch: tuple[int, int, int], layers: Sequence[int]) -> Probe:
        """Return the linear probe of some layers of an encoder, and what it takes to lay it into a network."""
        samples = self.samples
        known = poolings_of(samples.kind, samples.places is not None)
        if not tokens.last:
            known = tuple(one for one in known if one != "mean+pcs")
            if self.pooling == "mean+pcs":
                raise EarthSSLError("finetune.pooling: mean+pcs holds the tokens of all windows, which do not fit into "
                                    "memory; take mean, last or auto, or give fewer labels")  # fmt: skip
        named: dict[str, tuple[str, Projection]] = {}
        features: dict[str, np.ndarray] = {}
        for layer, pooling in product(layers, known if self.pooling == "auto" else (self.pooling,)):
            counts = self.components if pooling == "mean+pcs" else (0,)
            every = tokens.projection(layer, max(counts)) if max(counts) else NONE
            for count in counts:
                own = every[0][:, :count], every[1][:count]
                name = f"layer {layer + 1}, {pooling.replace('pcs', f'{len(own[1])} pcs')}"
                named[name] = pooling, own
                features[name] = tokens.inputs(layer, pooling, own)
        head = self.head(features, patch, into_a_network=True)
        pooling, projection = named[head.features]
        return Probe(head, pooling, projection, features[head.features])

    def head(
        self, features: Mapping[str, np.ndarray], patch: tuple[int, int, int], into_a_network: bool = False
    ) -> LinearHead:
        """Return the linear head on features at all samples; see `fit_linear` and `fit_patches`."""
        if self.samples.kind == "field":
            return fit_patches(self.samples, features, *self.cut(patch))
        return fit_linear(self.samples, features, into_a_network)


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear probe: the head, how its features are pooled, their principal components, and they at all samples."""

    head: LinearHead
    pooling: str
    projection: Projection
    features: np.ndarray


def make_network(problem: Problem, encoder: Encoder, probe: Probe) -> TaskNetwork:
    """Return a copy of an encoder with the head of a probe of its last layer: it says at first what the probe says."""
    samples, head, (basis, offset) = problem.samples, probe.head, probe.projection
    shape: dict[str, Any] = {
        "kind": samples.kind, "pooling": probe.pooling, "outputs": len(head.bias), "features": len(head.centre),
        "near": problem.near, "pcs": list(basis.shape) if len(offset) else None,
        "base": list(samples.base.values.shape), "scale": len(samples.base.scale), "monthly": samples.base.monthly,
        "lead": samples.lead,
    }  # fmt: skip
    if problem.constraints is not None and samples.kind == "field":
        shape["known"] = True
    made = TaskHead(shape)
    with torch.no_grad():
        for own, value in ((made.linear.weight, head.weight), (made.linear.bias, head.bias),
                           (made.centre, head.centre), (made.spread, head.spread)):  # fmt: skip
            own.copy_(torch.from_numpy(value))
        made.basis.copy_(basis)
        made.offset.copy_(offset)
        made.set_base(samples.base)
    return TaskNetwork(copy.deepcopy(encoder).requires_grad_(True), made)


def tune(
    problem: Problem,
    network: TaskNetwork,
    config: FinetuneConfig,
    seed: int,
    label: str,
    new: Collection[str] = (),
    saved: Path | None = None,
) -> Finetuned:
    """Train a network on the training labels, in place; validation chooses the step, and whether the head is new.

    Arguments: see `fine_tune`.
    """
    samples, patch = problem.samples, network.encoder.config.patch

    def error(out: Tensor, rows: np.ndarray) -> Tensor:
        if samples.kind == "regression":
            return ((out - torch.from_numpy(samples.departures(rows)).to(out.dtype)) ** 2).mean()
        targets, area = (torch.from_numpy(values) for values in problem.cut(patch))
        wanted = targets[torch.from_numpy(rows)]
        weight = torch.isfinite(wanted) * area.to(out.dtype)
        return (weight * (out - torch.nan_to_num(wanted)) ** 2).sum() / weight.sum().clamp(min=1e-12)

    def loss(rows: np.ndarray) -> Tensor:
        patches = problem.patches(rows, patch)
        out, penalty = problem.held(network(patches, problem.places(rows)), rows, patches)
        if samples.kind == "classification":
            return nn.functional.cross_entropy(out, torch.from_numpy(samples.target[rows]))
        return error(out, rows) + penalty

    def score() -> float:
        rows = samples.parts["val"]
        out, penalty = outputs_and_penalty(problem, network, rows)
        if samples.kind == "classification":
            return float(squared_error(softmax(out, -1), one_hot(samples.target[rows], len(samples.classes))).mean())
        return float(error(torch.from_numpy(out), rows)) + penalty

    done = fine_tune(network, network.encoder, samples.parts["train"], loss, score, config, seed, label, new, saved)
    held = problem.constraints is not None and problem.constraints.trained  # which no closed form knows
    if config.mode == "head" or not done.steps or held:
        return done
    better = solve_again(problem, network, done.score)
    return done if better is None else replace(done, score=better, solved_again=True)


def solve_again(problem: Problem, network: TaskNetwork, score: float) -> float | None:
    """Solve the head anew on the tuned encoder's features; return its validation score where it is the better one.

    The head moves slowly while the encoder learns, so that features have become better than what it makes of them. It
    is solved on the training labels, its penalty chosen on validation, as that of the linear probe; where validation
    does not prefer it, the network stays as it is. Fields keep their head.

    Args:
        problem: Labels beside fields.
        network: Tuned, in evaluation mode; its head is replaced in place.
        score: Its validation score.
    """
    samples, head = problem.samples, network.head
    if samples.kind == "field" or head.kind == "field":
        return None
    rows = np.concatenate([samples.parts["train"], samples.parts["val"]])
    made = np.zeros((len(samples.rows), head.linear.in_features), np.float32)
    with torch.no_grad():
        for part in np.array_split(rows, max(1, -(-len(rows) // BATCH))):
            patches, places = problem.patches(part, network.encoder.config.patch), problem.places(part)
            made[part] = head.inputs(network.encoder(patches), patches, places).numpy()
    # The test samples are not asked for: validation stands in their place.
    own = replace(samples, parts={**samples.parts, "test": samples.parts["val"]})
    found = fit_linear(own, {"tuned": made})
    # Ridge sums the squared errors of several targets, networks take their mean.
    error = found.error / (found.weight.shape[0] if samples.kind == "regression" else 1)
    if not error < score:
        return None
    with torch.no_grad():
        for old, value in ((head.linear.weight, found.weight), (head.linear.bias, found.bias),
                           (head.centre, found.centre), (head.spread, found.spread)):  # fmt: skip
            old.copy_(torch.from_numpy(value))
    return error


def outputs(problem: Problem, network: TaskNetwork, rows: np.ndarray) -> np.ndarray:
    """Return what a network in evaluation mode says of samples, standardised departures or logits."""
    return outputs_and_penalty(problem, network, rows)[0]


def outputs_and_penalty(problem: Problem, network: TaskNetwork, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what `outputs` does, behind the layers of the constraints, and the mean of their penalties."""
    made, penalties = [], 0.0
    with torch.no_grad():
        for part in np.array_split(rows, max(1, -(-len(rows) // BATCH))):
            patches = problem.patches(part, network.encoder.config.patch)
            out, penalty = problem.held(network(patches, problem.places(part)).double(), part, patches)
            made.append(out.numpy())
            penalties += float(penalty) * len(part)
    return np.concatenate(made), penalties / len(rows)

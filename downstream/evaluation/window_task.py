"""WindowTask: a task whose samples are windows of a store, each with a class or numbers to be told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...ssl.fields.splits import unbroken_starts
from ..features.frozen_features import RawFeatures, cache_name, cached, candidates, extract
from ..features.predictable import predictable_directions
from ..features.raw_window import raw_window
from ..heads.base import Choice, Head, Samples, choose, choose_each
from ..heads.linear import LogisticHead, RidgeHead
from ..metrics.classes import frequencies
from ..results.row import Role, Row
from ..results.target import Target, class_target, number_target
from ..training.from_scratch import SCRATCH
from .config import TaskConfig
from .encoders import Contender
from .label_fractions import whole_units
from .task import Features, Task, merged
from .window_labels import WindowLabels, of_same_samples
from .window_network import window_networks

POOLINGS = ("mean", "pcs", "mean+pcs")
COMPONENTS = (10, 20)
BESIDE = {"mean": "mean", "pcs": "token PCs"}  # poolings that the matrix shows alone, and what it calls them
C = TypeVar("C", bound=TaskConfig)


class WindowTask(Task[C]):
    """A task on windows of a store.

    Attributes:
        head: Name of the head of the common rows: "logistic" where labels are classes, "ridge" where they are numbers.
        fit_steps: Most training steps that components of tokens are fitted on, evenly spread; None: all.
    """

    head: str = "ridge"
    fit_steps: int | None = None
    _pass: tuple[Contender, tuple[int, ...], dict[int, dict[str, dict[str, np.ndarray]]]] | None = None

    @property
    @abstractmethod
    def labels(self) -> Sequence[WindowLabels]:
        """What is to be told, one entry a target."""

    def beside(self, features: np.ndarray) -> np.ndarray:
        """Return features, (time, k), with what every linear head is given beside them (the season, say)."""
        return features

    def classified(self) -> Sequence[WindowLabels]:
        return [one for one in self.labels if one.classes]

    def targets(self) -> Sequence[Target]:
        return [_target(one, self.config.block, self.store.times) for one in self.labels]

    def label_units(self) -> np.ndarray:
        """Return the units that are whole in every target, see `whole_units`: at long leads the first are not."""
        return reduce(np.intersect1d, [whole_units(one.units[one.rows["train"]]) for one in self.labels])

    def training_samples(self) -> np.ndarray:
        return np.unique(np.concatenate([one.rows["train"] for one in self.labels]))

    def training_windows(self) -> np.ndarray:
        """Return the last steps of all windows that end in training, with a label or without."""
        times = self.store.times.astype("datetime64[ns]")
        ends = unbroken_starts(times, self.shape.window) + self.shape.window - 1
        return np.asarray(ends[self.store.splits.inside(times, "train")[ends]])

    def samples(self) -> Mapping[str, Any]:
        return {one.name: {part: len(rows) for part, rows in one.rows.items()} for one in self.labels}

    def raw(self, window: int) -> np.ndarray:
        return raw_window(self.store, window)

    def predictable(self, window: int) -> Features:
        leads = [lead for lead in self.leads if lead > 0]
        return predictable_directions(self.store, window, leads) if leads else {}

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        given = {key: self.beside(values) for key, values in features.items()}
        return self.by_head(self._main_head, name, role, given, seed, units)

    @property
    def _main_head(self) -> Head:
        return LogisticHead() if self.labels[0].classes else RidgeHead()

    def by_head(
        self, head: Head, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        """Return the row of any head on features as they are; see `fitted`."""
        forecast, chosen, kept = {}, {}, {}
        width: dict[str, np.ndarray] = {}
        # Numbers of the same samples share a fit where a head fits each output by itself.
        together = head.separable and not self.labels[0].classes
        for group in of_same_samples(self.labels) if together else [[one] for one in self.labels]:
            label = replace(group[0], values=np.concatenate([one.values for one in group], axis=1))
            train, val = ({n: label.samples(f, part) for n, f in features.items()} for part in ("train", "val"))
            if units is not None:
                mine = np.isin(label.units[label.rows["train"]], units)
                train = {n: one.take(mine) for n, one in train.items()}
            doubt = self.config.uncertainty and units is None and not label.classes
            found, choices, widths = _fitted(head, label, features, train, val, refit=units is None, doubt=doubt)
            for k, (one, values, choice) in enumerate(zip(group, found, choices, strict=True)):
                forecast[one.name] = values
                if k in widths:
                    width[one.name] = widths[k]
                if choice:
                    kept[choice.candidate] = features[choice.candidate]
                    chosen[one.name] = {"features": choice.candidate, "setting": choice.setting,
                                        "validation_error": choice.error}  # fmt: skip
        return Row(name, role, forecast, seed, chosen, features=kept, width=width)

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        """Return a row of the main head with the labels of some units only, on the features chosen with all of them.

        Where targets chose different ones, each target chooses among those.
        """
        return self.by_head(self._main_head, row.name, row.role, row.features, row.seed, units)

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        return {self.head: merged(self.pooled(encoder, layers))}

    def by_layer(self, encoder: Contender, layers: Sequence[int]) -> Mapping[int, Row]:
        sets, role = self._layered(encoder, layers), Role(encoder.kind)
        name = f"{encoder.kind} [{self.head}]"
        return {layer: self.fitted(name, role, merged(own), encoder.seed) for layer, own in sets.items()}

    def by_pooling(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Row]:
        made = {}
        for layer, sets in self._layered(encoder, layers).items():
            for pooling, words in BESIDE.items():
                if sets.get(pooling) and len(sets) > 1:
                    name = f"{encoder.kind} [{self.head}]"
                    row = self.fitted(name, Role(encoder.kind), sets[pooling], encoder.seed)
                    made[f"{layer}, {words}"] = row
        return made

    def _layered(self, encoder: Contender, layers: Sequence[int]) -> dict[int, dict[str, dict[str, np.ndarray]]]:
        """Return the candidates of each layer by pooling and name, all from one pass, which is made once an encoder."""
        if self._pass is None or self._pass[0] is not encoder or self._pass[1] != tuple(layers):
            raw = self.frozen(encoder, layers)
            sets = {layer: self._pools(raw.of_layer(k), [layer]) for k, layer in enumerate(layers)}
            self._pass = (encoder, tuple(layers), sets)
        return self._pass[2]

    def pooled(self, encoder: Contender, layers: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
        """Return candidates of an encoder's features on all steps, by pooling and name."""
        return self._pools(self.frozen(encoder, layers), layers)

    def _pools(self, raw: RawFeatures, layers: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
        poolings = getattr(self.config, "poolings", POOLINGS)
        components = getattr(self.config, "components", COMPONENTS)
        return candidates(raw, len(self.store.times), self.fitted_steps(), layers, poolings, components)

    def fitted_steps(self) -> np.ndarray:
        """Return the steps that components of tokens are fitted on, a mask (time,): `fit_steps` of training, or all."""
        inside = self.store.splits.inside(self.store.times, "train")
        if self.fit_steps is None:
            return inside
        steps = np.flatnonzero(inside)
        kept = np.zeros(len(inside), dtype=bool)
        kept[steps[:: -(-len(steps) // self.fit_steps)]] = True
        return kept

    def frozen(self, encoder: Contender, layers: Sequence[int]) -> RawFeatures:
        """Return the features of an encoder for all windows, cached where there is a place for it."""
        label = f"features, {encoder.kind} seed {encoder.seed}"
        if not (self.config.out or self.config.cache):
            return extract(encoder.encoder, self.store, layers, label)
        out = Path(self.config.out)
        cache = Path(self.config.cache) if self.config.cache else out.with_name(out.name + "-features")
        file = cache / cache_name(encoder.features_key, self.store, layers)
        return cached(file, encoder.encoder, self.store, layers, label)

    def learnt(self) -> Sequence[WindowLabels]:
        """Return what networks from scratch are to tell: all labels."""
        return self.labels

    def validation_error(self) -> Callable[[Sequence[np.ndarray]], float] | None:
        """Return what networks from scratch are chosen by; None: mean squared error. See `window_networks`."""
        return None

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        count = self.config.scratch.seeds if seeds is None else seeds
        labels, shape = self.learnt(), encoders[0].encoder.config
        if not labels:
            return
        networks = window_networks(
            self.config.scratch, shape, self.store, labels, count, units, self.validation_error()
        )
        for seed, found in enumerate(networks):
            chosen = {
                "features": "labels only, mean over the tokens",
                "steps": found.steps,
                "validation_error": found.score,
            }
            yield Row(SCRATCH, Role.SCRATCH, found.forecast, seed, chosen)


def _target(label: WindowLabels, block: int, times: np.ndarray) -> Target:
    test = label.rows["test"]
    truth, units = label.values[test], label.units[test]
    if label.classes:
        return class_target(label.name, truth.argmax(axis=1), label.climatology, units, block, label.classes)
    return number_target(label.name, truth[:, 0], label.climatology[:, 0], units, block, times[test])


def _fitted(
    head: Head, label: WindowLabels, features: Features, train: dict[str, Samples], val: dict[str, Samples],
    refit: bool, doubt: bool,
) -> tuple[list[np.ndarray], Sequence[Choice | None], dict[int, np.ndarray]]:  # fmt: skip
    """Return test predictions and what validation chose, for classes once, for numbers of each output; and widths.

    Laplace's rule speaks where training shows one class only. Widths are of outputs whose head has them, with `doubt`.
    """
    some = next(iter(train.values()))
    if label.classes and not refit and len(np.unique(some.targets.argmax(axis=1))) < 2:
        seen = frequencies(some.targets.argmax(axis=1), len(label.classes))
        return [np.tile(seen, (len(label.rows["test"]), 1))], [None], {}
    choices = [choose(head, train, val)] if label.classes else choose_each(head, train, val)
    found: list[np.ndarray] = [np.zeros(0)] * len(choices)
    widths: dict[int, np.ndarray] = {}
    for name in dict.fromkeys(choice.candidate for choice in choices):
        own = [k for k, choice in enumerate(choices) if choice.candidate == name]
        if not refit:
            fit = train[name]
        elif "fit" in label.rows:
            fit = label.samples(features[name], "fit")
        else:
            fit = Samples.joined(train[name], val[name])
        settings = list(dict.fromkeys(choices[k].setting for k in own))
        test = label.samples(features[name], "test")
        made, wide = head.predict(fit, test, settings), head.spreads(fit, test, settings) if doubt else None
        for k in own:
            at = settings.index(choices[k].setting)
            found[k] = made[at] if label.classes else made[at][:, k]
            if wide is not None:
                widths[k] = wide[at]
    return found, choices, widths

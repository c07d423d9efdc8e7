"""Task: the one seam of downstream tasks; what every task has. The one run of them all is in run.py.

A task says what is forecast (`targets`), what the raw input is (`raw`), how a head reads features (`fitted`), and which
baselines its field knows. The rows that every table owes its reader come from here: the encoders with their untrained
twins, ridge on the raw window, random features of it, its principal components, predictable directions, the network
from scratch, the curve over labels, paired intervals, pictures and the page. docs/extend.md builds one in sixty lines.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ...ssl.common.errors import EarthSSLError
from ...ssl.model.encoder import EncoderConfig
from ...ssl.store.store import Store
from ..results.finding import finding
from ..results.row import Role, Row
from ..results.target import Target
from .config import TaskConfig
from .encoders import Contender, Decoder, contenders, layers_to_read
from .equal_input import PCA_COMPONENTS, RAW, equal_input_rows
from .window_labels import WindowLabels

Features = Mapping[str, np.ndarray]  # candidates by name, (sample, …, feature); validation chooses among them

Decoders = Callable[[Sequence[str]], Mapping[str, Decoder]]
C = TypeVar("C", bound=TaskConfig)


@dataclass(frozen=True, eq=False)
class Extras:
    """What a task shows beside the common table.

    Attributes:
        figures, words, tables, datasets, notes: As in `Summary`.
        record: More plain values for result.json.
    """

    figures: Mapping[str, Figure] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    datasets: Mapping[str, xr.Dataset] = field(default_factory=dict)
    notes: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC, Generic[C]):
    """One downstream task on one store.

    Attributes:
        name: As in `task:` of a config.
        what: What is forecast, for the title.
        convention: What the numbers mean: target, split, selection, intervals.
        Config: Class of its settings.
        unit: What is independent of its like: "year", "storm", "week".
        head: Name of the head that the common rows have.
        leads: Steps from the last input step to the target; empty where nothing is forecast ahead.
        components: Numbers of principal components of the raw window to choose from.
        other_grid: Whether encoders may have been pretrained on another region of the same spacing.
        several_blocks: Whether the training years may lie in several blocks, see `Splits`.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    convention: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    unit: str = "year"
    head: str = "ridge"
    leads: Sequence[int] = ()
    components: Sequence[int] = PCA_COMPONENTS
    other_grid: bool = False
    several_blocks: ClassVar[bool] = False

    def __init__(self, config: C, store: Store | None, decoders: Decoders | None = None) -> None:
        """Read what the task needs, and refuse what does not fit.

        Args:
            config: Its settings.
            store: Fields, splits and statistics; None where the config names none.
            decoders: Returns for each checkpoint what the heads of its pretraining can do. It comes from outside:
                downstream/ knows no pretext task.
        """
        self.config, self._store = config, store
        self.decoders = decoders or (lambda checkpoints: {})
        self.decoded: dict[str, Decoder] = {}
        self._encoders: list[Contender] = []
        count = 1 if store is None else len(store.splits.train_blocks)
        if store is not None and count > 1 and not self.several_blocks:
            raise EarthSSLError(
                f"{self.name}.store: expected one training block, got {count} in {store.path}, with which this task "
                "cannot deal; prepare a store with one (splits.train)"
            )

    @property
    def store(self) -> Store:
        """Fields, splits and statistics.

        Raises:
            EarthSSLError: If there are none.
        """
        if self._store is None:
            raise EarthSSLError(f"{self.name}.store: expected the folder of a training store, got none; set store")
        return self._store

    @abstractmethod
    def targets(self) -> Sequence[Target]:
        """Return what is forecast on the test block."""

    def raw(self, window: int) -> np.ndarray | None:
        """Return the encoder's own input at all samples, (sample, …, value); None where the table has rows for it."""
        return None

    def training_samples(self) -> np.ndarray:
        """Return which samples belong to the training block, indices or a mask."""
        return np.zeros(0, dtype=int)

    def predictable(self, window: int) -> Features:
        """Return directions of the window that predict the fields at the task's leads, see features/predictable.py."""
        return {}

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        """Return the row of the task's head on features, its candidate and settings chosen on validation.

        Args:
            name, role, seed: Of the row.
            features: Candidates by name, at all samples.
            units: Training units whose labels the head may read, nothing being refitted; None: all, and the head is
                refitted as the task's convention says.
        """
        raise NotImplementedError(f"task {self.name}: no head is fitted, so it has neither raw input nor features")

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        """Return the frozen features of an encoder at all samples: candidates, by the words in the row's brackets.

        Empty where a task makes its `rows` in a way of its own.
        """
        return {}

    def label_units(self) -> np.ndarray:
        """Return the independent units (years, storms, weeks) of the training block with labels; none: no curve."""
        return np.zeros(0, dtype=int)

    def by_layer(self, encoder: Contender, layers: Sequence[int]) -> Mapping[int, Row]:
        """Return the row of each layer, as the matrix asks for it: the main head on all its features."""
        found = {}
        for layer in layers:
            name, sets = f"{encoder.kind} [{self.head}]", self.embedded(encoder, [layer])
            if sets:
                found[layer] = self.fitted(name, Role(encoder.kind), merged(sets), encoder.seed)
            else:
                found[layer] = next(row for row in self.rows(encoder, [layer]) if row.name == name)
        return found

    def by_pooling(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Row]:
        """Return more rows of single layers, named "LAYER, POOLING", one pooling alone in each; none by default."""
        return {}

    def baselines(self, window: int) -> Iterable[Row]:
        """Return the rows of the task's own field that need no encoder: persistence, climatology, …

        Args:
            window: Steps that the encoders see; rows that have features see as many.
        """
        return ()

    def equal_input(self, window: int, random_seeds: int) -> Iterable[Row]:
        """Return the rows that see what an encoder sees, without an encoder; none without a raw input."""
        raw = self.raw(window)
        if raw is None:
            return ()
        return equal_input_rows(
            self.fitted,
            self.head,
            raw,
            self.training_samples(),
            random_seeds,
            self.predictable(window),
            self.components,
        )

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        """Return the rows of a frozen encoder: a head on each group of its features."""
        for words, features in self.embedded(encoder, layers).items():
            yield self.fitted(f"{encoder.kind} [{words}]", Role(encoder.kind), features, encoder.seed)

    def classified(self) -> Sequence[WindowLabels]:
        """Return what classes a few examples may be given of, over the samples of `raw` and `embedded`, flattened."""
        return ()

    def known_features(self, window: int) -> Mapping[str, Features]:
        """Return more features without an encoder by the name of their row, for rows of a few examples."""
        return {}

    def decoder(self, encoder: Contender) -> Decoder:
        """Return what the heads of an encoder's pretraining can do, read once."""
        path = str(encoder.source.get("path", ""))
        if path and path not in self.decoded:
            self.decoded[path] = self.decoders([path]).get(path, Decoder())
        return self.decoded.get(path, Decoder())

    def zero_shot(self, encoder: Contender) -> Iterable[Row]:
        """Return the row of the decoder of pretraining, nothing being fitted; none where it cannot do the task."""
        return ()

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        """Return a row anew from the labels of some units; its features stay as chosen with all labels."""
        return self.fitted(row.name, row.role, row.features, row.seed, units)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        """Return the rows of networks trained on the labels: from scratch, fine-tuned.

        Args:
            encoders: Whose shape, and weights, they may start from.
            seeds: Number of networks from scratch; None: as configured, with fine-tuned ones where the task has them.
            units: Training units whose labels they may read; None: all.
        """
        return ()

    def known(self) -> Iterable[Row]:
        """Return the best reachable forecast, where the data have a known truth behind them."""
        return ()

    def speaks(self, row: Row) -> bool:
        """Return whether a row may speak for its role in the finding and the terminal; the test block has no say."""
        return True

    def headline(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Return the targets that the finding is averaged over."""
        return targets

    def shown(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Return the targets of pictures, of the terminal, and of the curve over labels."""
        return targets

    def curved(self, row: Row) -> bool:
        """Return whether the label curve follows a row; the network from scratch is always in it."""
        frozen = row.role in (Role.PRETRAINED, Role.UNTRAINED) and row.name.endswith(f"[{self.head}]")
        return frozen or row.name == f"{RAW} [{self.head}]"

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        """Return pictures, tables and notes of the task's own."""
        return Extras()

    def found(
        self,
        rows: Sequence[Row],
        scores: pd.DataFrame,
        differences: pd.DataFrame,
        main: Sequence[tuple[str, str]],
    ) -> str:
        """Return one sentence of what was found; `main` are each target and its first metric."""
        return finding(scores, differences, rows, main)

    def rehearsal(self) -> Task[C]:
        """Return the task one block earlier: its test block is the validation block of this one; the encoders stay.

        What distributions around forecasts are calibrated on, see `Splits.earlier`.

        Raises:
            EarthSSLError: If the training block is too short for it.
        """
        store = copy.copy(self.store)
        store.splits = store.splits.earlier(store.step_days)
        made = type(self)(replace(self.config, fractions=[]), store, self.decoders)
        made._encoders = self.encoders()
        return made

    def missing(self) -> list[str]:
        """Return notes of what the table should hold and does not."""
        said = []
        if not self.config.checkpoints:
            said.append("No pretrained encoder is in this table: checkpoints is empty.")
        if not self.config.scratch.seeds:
            said.append("No network is trained from scratch: scratch.seeds is 0.")
        return said

    def samples(self) -> Mapping[str, Any]:
        """Return how many samples each block has, plain values for the record."""
        return {}

    def layers(self, encoder: Contender) -> list[int]:
        """Return the blocks of an encoder that its rows read, counted from 0."""
        return layers_to_read(self.config.layers, encoder.encoder.depth)

    def encoders(self) -> list[Contender]:
        """Return the encoders of the table, read once: pretrained ones, then untrained twins."""
        if not self._encoders:
            twins = max(self.config.untrained_seeds, 0 if self.config.checkpoints else 1)
            own = self.config
            self._encoders = contenders(
                self.store, own.checkpoints, twins, own.encoder, own.other_statistics, self.other_grid
            )
            layers_to_read(self.config.layers, self._encoders[0].encoder.depth)  # a wrong one is refused at once
            self.check(self._encoders[0].encoder.config)
        return self._encoders

    @property
    def shape(self) -> EncoderConfig:
        """Shape of the encoders of the table."""
        return self.encoders()[0].encoder.config

    def data_record(self) -> Mapping[str, Any]:
        """Return what the data are and how they are divided: `source`, `synthetic`, `split`, …, plain values."""
        store = self.store
        return {
            "source": store.manifest["source"],
            "synthetic": store.synthetic,
            "split": store.splits.to_json(),
            "split_proof": store.manifest["split_proof"],
            "store_fingerprint": store.fingerprint,
        }

    def check(self, shape: EncoderConfig) -> None:
        """Refuse encoders of a shape that the task's samples do not suit.

        Raises:
            EarthSSLError: If the encoder wants more than a sample holds.
        """

    def source(self) -> str:
        """Return the words for where the data come from."""
        return "the synthetic planet" if self.store.synthetic else str(self.store.manifest["source"])

    def title(self) -> str:
        """Return one line: what, on which data, over which test block."""
        first, last = (str(instant)[:10] for instant in self.store.splits.test)
        return f"{self.what}, {self.source()}, test {first} … {last}"

    def convention_text(self) -> str:
        """Return the convention with the settings in it."""
        return self.convention


def merged(sets: Mapping[str, Features]) -> dict[str, np.ndarray]:
    """Return all candidates of several sets as one."""
    return {name: values for named in sets.values() for name, values in named.items()}

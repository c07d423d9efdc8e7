"""StatesTask: the three states as the matrix asks for them, one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ....ssl.model.encoder import Encoder
from ....ssl.store.store import Store
from ...evaluation.frozen_task import Evaluation, FrozenTask
from ...features.frozen_features import candidates, extract
from ...heads.linear import LogisticHead
from ...metrics.classes import one_hot, squared_error
from ..enso.state_labels import STATES, StateLabels, check_window
from .rows import Classified, classify, components, index_row, with_season


class StatesTask(FrozenTask):
    """The three states by logistic regression on one layer, for the matrix.

    Errors are Brier's, summed over the classes; the reference is the frequencies by season. All leads count
    together.
    """

    name = "states"
    unit = "year"

    def __init__(
        self,
        store: Store,
        leads: Sequence[int] = (0,),
        window: int = 12,
        threshold: float = 0.5,
        poolings: Sequence[str] = ("mean", "pcs", "mean+pcs"),
        components: Sequence[int] = (10, 20),
    ) -> None:
        """Make the labels; the arguments are those of `StatesConfig`."""
        self.store = store
        self.labels = StateLabels.from_store(store, leads, window, threshold)
        self.poolings, self.components = list(poolings), list(components)

    def evaluate(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Evaluation]:
        check_window(self.labels, encoder.config)
        raw = extract(encoder, self.store, layers, "features, states")
        training = self.labels.enso.within("train")
        sets = candidates(raw, len(self.store.times), training, layers, self.poolings, self.components)
        pooled = with_season(self.labels, {name: one for named in sets.values() for name, one in named.items()})
        found = {}
        for layer in layers:
            own = {name: values for name, values in pooled.items() if name.startswith(f"layer {layer + 1},")}
            found[layer] = self._evaluation(
                {lead: classify(self.labels, LogisticHead(), own, lead, "", None) for lead in self.labels.leads}
            )
        return found

    def references(self) -> dict[str, Evaluation]:
        pcs = components(self.store, self.labels, [20])
        named, head = {"PCA": "20 PCs × 3 months"}, LogisticHead()
        rows: dict[str, dict[int, Classified]] = {}
        for lead in self.labels.leads:
            damped = self.labels.baselines(lead)["damped persistence"]
            for one in (
                Classified("damped persistence", None, damped),
                index_row(self.labels, lead),
                *(classify(self.labels, head, own, lead, named.get(name, name), None) for name, own in pcs.items()),
            ):
                rows.setdefault(one.row, {})[lead] = one
        return {name: self._evaluation(found) for name, found in rows.items()}

    def _evaluation(self, found: Mapping[int, Classified]) -> Evaluation:
        parts = []
        for lead, one in found.items():
            rows = self.labels.rows("test", lead)
            truth = one_hot(self.labels.target(rows, lead), len(STATES))
            clim = self.labels.baselines(lead)["climatology"]
            errors = squared_error(one.probabilities, truth), squared_error(clim, truth)
            parts.append((self.labels.years(rows, lead), *errors))
        return Evaluation(*(np.concatenate(part) for part in zip(*parts, strict=True)))

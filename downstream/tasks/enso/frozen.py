"""ENSO for the matrix: squared errors of Niño 3.4 forecasts from one layer of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ....ssl.model.encoder import Encoder
from ....ssl.store.store import Store
from ...evaluation.frozen_task import Evaluation, FrozenTask
from ...features.frozen_features import candidates, extract
from ...metrics.seasonal import Row, aligned
from .baselines import damped_persistence, pca
from .labels import EnsoTask, sst_variable
from .monthly_ridge import HeadOptions, select_and_refit

PCA_WINDOW = 3  # months


class EnsoFrozenTask(FrozenTask):
    """Niño 3.4 of later seasons by ridge regression, with the targets, samples and head of the ENSO probe.

    Errors are squared, K²; the reference is the squared anomaly, which is what the climatology's forecast
    misses. All leads count together.
    """

    name = "enso"
    unit = "year"

    def __init__(
        self,
        store: Store,
        leads: Sequence[int] = (3, 6, 9),
        window: int = 12,
        poolings: Sequence[str] = ("mean", "pcs", "mean+pcs"),
        components: Sequence[int] = (10, 20),
        head: HeadOptions | None = None,
    ) -> None:
        """Make the labels.

        Args:
            store: Monthly, with sst or ssta over the Niño 3.4 box.
            leads: Months from the last input month to the central month of the target season.
            window: Most input months of any encoder: all are scored on the same samples.
            poolings, components: Of the features, see frozen_features.py; chosen on validation, for each layer.
            head: What the ridge head may choose between.
        """
        self.store = store
        sst = store.dataset([sst_variable(store.variables, store.path)])
        self.labels = EnsoTask.from_dataset(sst, store.splits, list(leads), max(window, PCA_WINDOW))
        self.poolings, self.components = list(poolings), list(components)
        self.head = head or HeadOptions()

    def evaluate(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Evaluation]:
        if encoder.config.window > self.labels.window:
            raise EarthSSLError(
                f"enso: expected encoders with a window of at most {self.labels.window} months, got "
                f"{encoder.config.window}; raise the task's option window (the gaps between the blocks must hold it)"
            )
        raw = extract(encoder, self.store, layers, "features, enso")
        training = self.store.splits.inside(self.store.times.astype("datetime64[ns]"), "train")
        sets = candidates(raw, len(self.store.times), training, layers, self.poolings, self.components)
        found = {}
        for layer in layers:
            own = {
                name: values
                for named in sets.values()
                for name, values in named.items()
                if name.startswith(f"layer {layer + 1},")
            }
            found[layer] = self._evaluation(select_and_refit(self.labels, own, name="encoder", options=self.head))
        return found

    def references(self) -> dict[str, Evaluation]:
        rows = {
            "damped persistence": damped_persistence(self.labels),
            "20 PCs × 3 months": pca(self.labels, [20], window=PCA_WINDOW, options=self.head),
        }
        return {name: self._evaluation(row) for name, row in rows.items()}

    def _evaluation(self, row: Row) -> Evaluation:
        """Return the errors of a row's test forecasts; the unit is the year of the target's central month."""
        observed = self.labels.observed()
        forecast = aligned(row, observed).values
        lead = np.array(self.labels.leads)[:, None]
        months = observed["init_time"].values.astype("datetime64[M]")[None, :] + lead
        scored = np.isfinite(observed.values)
        truth = observed.values[scored]
        years = months[scored].astype("datetime64[Y]").astype(int) + 1970
        return Evaluation(years, (forecast[scored] - truth) ** 2, truth**2)

"""Filling gaps from a frozen encoder's tokens, for the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ....ssl.model.encoder import Encoder
from ....ssl.store.store import Store
from ...evaluation.frozen_task import Evaluation, FrozenTask
from .anomalies import Anomalies
from .eof_fillers import baselines
from .gappy import Gappy
from .gaps import GapConfig


class InfillingTask(FrozenTask):
    """Hidden cells rebuilt by a linear head on frozen tokens, for the matrix.

    Errors are squared, summed over the hidden cells of a month by area, in the variable's unit; the reference
    is the climatology, that is the squared anomaly.
    """

    name = "infilling"
    unit = "year"

    def __init__(
        self,
        store: Store,
        variable: str | None = None,
        window: int = 12,
        references: Sequence[str] = ("nearest", "ordinary kriging", "optimal interpolation"),
        kind: str = "cloud",
        **gaps: Any,
    ) -> None:
        """Draw the gaps.

        Args:
            store: Any, with up to some thousands of cells.
            variable: Canonical name; None for the store's first.
            window: Longest window of any encoder, steps: all are scored on the same ones, whose windows lie in a block.
            references: Names of the baselines to set beside the encoders.
            kind: Of the gaps.
            **gaps: More settings of `GapConfig`.

        Raises:
            EarthSSLError: If the settings, the store and the variable do not fit together.
        """
        try:
            config = GapConfig(kind, **gaps)
        except TypeError as error:
            raise EarthSSLError(f"infilling: expected settings of the gaps, got another ({error})") from None
        if window < 1:
            raise EarthSSLError(f"infilling.window: expected at least 1 step, got {window}")
        self.anomalies = Anomalies.of(store, variable)
        self.gappy = Gappy(self.anomalies, config)
        self.ends = self.anomalies.ends("test", window)
        self.window, self._references = window, tuple(references)

    def evaluate(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Evaluation]:
        """Return the errors of a head on each layer, see `Gappy.probed`.

        Raises:
            EarthSSLError: If the encoder's window is longer than the task's.
        """
        length = encoder.config.window
        if length > self.window:
            raise EarthSSLError(
                f"infilling: expected encoders with a window of at most {self.window} steps, got {length}; raise the "
                "task's option window"
            )
        common = np.isin(self.anomalies.ends("test", length), self.ends)
        probed = self.gappy.probed(encoder, layers)
        return {layer: self._evaluation(one.values[common]) for layer, one in probed.items()}

    def references(self) -> dict[str, Evaluation]:
        """Return the errors of the baselines asked for.

        Raises:
            EarthSSLError: If one is unknown.
        """
        methods = {method.name: method for method in baselines(self.anomalies)}
        unknown = [name for name in self._references if name not in methods]
        if unknown:
            raise EarthSSLError(f"infilling.references: expected some of {', '.join(methods)}, got '{unknown[0]}'")
        shown = self.gappy.observed(self.ends)
        return {name: self._evaluation(methods[name].fill(shown)) for name in self._references}

    def _evaluation(self, estimate: np.ndarray) -> Evaluation:
        own = self.anomalies
        truth, hidden = own.values[self.ends], self.gappy.hidden(self.ends)
        weight = np.where(hidden, own.places.area / own.places.area.sum(), 0.0)
        years = own.store.times[self.ends].astype("datetime64[Y]").astype(int) + 1970
        error = (weight * np.where(hidden, estimate - truth, 0.0) ** 2).sum(1)
        return Evaluation(years, error, (weight * np.where(hidden, truth, 0.0) ** 2).sum(1))

"""Anomalies of one variable of a store, and the same with gaps: for fillers, and as windows for an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.batch import Batch, from_fields
from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import patchify, unpatchify
from ...heads.patch_head import Moments, PatchHead
from .anomalies import Anomalies
from .gaps import GapConfig, Gaps

# Fields of windows (window, time, variable, row, column), normalised, NaN where nothing is observed, and their times
# (window, time), datetime64[s]; returns the fields without gaps wherever the store ever holds a value.
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]

AT_ONCE = 64  # windows in a batch


class Gappy:
    """Anomalies seen through gaps of one kind; the gaps of a step are the same for everyone who looks."""

    def __init__(self, anomalies: Anomalies, config: GapConfig) -> None:
        """Draw the gaps of all steps.

        Raises:
            EarthSSLError: If a mask leaves nothing observed or nothing hidden.
        """
        self.anomalies, self.config = anomalies, config
        gaps = Gaps(config, anomalies.store.grid, anomalies.known)
        self.seen = np.stack([gaps.observed(step) for step in range(len(anomalies.store.times))])

    def observed(self, steps: np.ndarray) -> np.ndarray:
        """Return the anomalies at the steps, NaN in the gaps, (step, cells).

        Raises:
            EarthSSLError: If a step is left without an observation.
        """
        shown = np.where(self.seen[steps][:, self.anomalies.known], self.anomalies.values[steps], np.nan)
        empty = steps[~np.isfinite(shown).any(1)]
        if len(empty):
            raise EarthSSLError(
                f"infilling: expected some observed cell at every time, got none at "
                f"{self.anomalies.store.times[empty[0]]}: the truth is missing there; leave that time out of the store"
            )
        return shown

    def hidden(self, steps: np.ndarray) -> np.ndarray:
        """Return the cells that count and are scored: in a gap, and known in truth, (step, cells)."""
        return ~self.seen[steps][:, self.anomalies.known] & np.isfinite(self.anomalies.values[steps])

    def windows(self, ends: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (last steps, normalised fields with gaps in all variables alike, times) of some windows at once."""
        store = self.anomalies.store
        for part in np.array_split(ends, -(-len(ends) // AT_ONCE)):
            steps = part[:, None] + np.arange(1 - length, 1)
            fields = store.read(steps.ravel()).reshape(len(part), length, *store.shape[1:])
            # The gaps of the last step throughout: gaps drawn anew each month would show in one month what they hide
            # in the next, to encoders of several steps only.
            seen = self.seen[part][:, None, None]
            yield part, np.where(seen, fields, np.float32(np.nan)), store.times[steps]

    def filled(self, fill: Fill, ends: np.ndarray, length: int) -> np.ndarray:
        """Return what a trained filler of windows makes of their last steps, (window, cells).

        Raises:
            EarthSSLError: If it leaves a cell without a value.
        """
        own, parts = self.anomalies, []
        for last, fields, times in self.windows(ends, length):
            made = np.asarray(fill(fields, times))[:, -1, own.position]
            parts.append(own.from_normalised(made, last))
        out = np.concatenate(parts)
        if not np.isfinite(out).all():
            raise EarthSSLError(
                f"infilling: expected a value in every cell that counts, got {int((~np.isfinite(out)).sum())} without; "
                "the encoder was trained on another grid or another variable"
            )
        return out

    def probed(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Probed]:
        """Return what a linear head on each layer's frozen tokens makes of the test block's gaps.

        Every patch is given to the encoder, those without an observation as missing in all cells. The head maps
        a token of the last step to the cells of its patch, is the same at all places, is fitted on the hidden
        cells of training, its penalty chosen on validation, and refitted on both.
        """
        train, val = (self._moments(encoder, layers, part) for part in ("train", "val"))
        fitted = {layer: PatchHead.chosen(train[layer], val[layer]) for layer in layers}
        values = self._estimated(encoder, {layer: head for layer, (head, _) in fitted.items()})
        made = {}
        for layer, (_, penalty) in fitted.items():
            missed = val[layer].error(PatchHead.fit(train[layer], penalty))
            made[layer] = Probed(penalty, 1 - missed / float(val[layer].power.sum()), values[layer])
        return made

    def _moments(self, encoder: Encoder, layers: Sequence[int], part: str) -> dict[int, Moments]:
        length = encoder.config.window
        sums: dict[int, Moments] = {}
        for last, fields, times in self.windows(self.anomalies.ends(part, length), length):
            features = _tokens(encoder, self._batch(fields, times), layers)
            targets, weight = self._posed(last, encoder.config.patch, length)
            for layer in layers:
                new = Moments.of(features[layer], targets, weight)
                sums[layer] = sums[layer] + new if layer in sums else new
        return sums

    def _posed(self, last: np.ndarray, shape: tuple[int, int, int], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden cells of each patch of the last step (window, token, cell), normalised, and weights.

        Squared errors count by area and in the variable's unit, however the store is scaled.
        """
        own = self.anomalies
        truth = np.where(own.on_grid(self.hidden(last).astype(float)) == 1, own.normalised[last], np.nan)
        weight = own.store.grid.area / own.places.area.mean() * own.store.statistics.scale[own.position] ** 2

        def cut(maps: np.ndarray) -> np.ndarray:
            whole = np.broadcast_to(maps[:, None, None], (len(maps), length, *own.store.shape[1:]))
            times = np.broadcast_to(own.store.times[last[0]], whole.shape[:2])  # only the values matter here
            patches = patchify(self._batch(whole, times), shape)
            final, cells = patches.step == patches.shape[0] - 1, shape[1] * shape[2]
            values = torch.where(patches.valid, patches.values, torch.nan)[:, final, own.position, -cells:]
            return values.numpy().astype(np.float64)

        return cut(truth), np.nan_to_num(cut(weight[None])[0])

    def _batch(self, fields: np.ndarray, times: np.ndarray) -> Batch:
        store = self.anomalies.store
        return from_fields(
            torch.from_numpy(np.ascontiguousarray(fields, np.float32)),
            torch.from_numpy(times.astype("datetime64[s]").astype(np.int64)),
            torch.zeros(len(fields), dtype=torch.int64),
            torch.from_numpy(store.statistics.known),
            store.variables,
            store.grid,
        )

    def _estimated(self, encoder: Encoder, heads: dict[int, PatchHead]) -> dict[int, np.ndarray]:
        """Return each head's test fields as anomalies, (window, cells)."""
        length, shape = encoder.config.window, encoder.config.patch
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in heads}
        for last, fields, times in self.windows(self.anomalies.ends("test", length), length):
            shown = self._batch(fields, times)
            patches = patchify(shown, shape)
            tokens = _tokens(encoder, shown, list(heads))
            for layer, head in heads.items():
                made = torch.from_numpy(head.predict(tokens[layer]))
                full = made.new_full((*patches.values.shape[:2], 1, patches.values.shape[-1]), torch.nan)
                full[:, patches.step == patches.shape[0] - 1, 0, -made.shape[-1] :] = made
                maps = unpatchify(full.float(), patches, shape)[:, -1, 0].double().numpy()
                parts[layer].append(self.anomalies.from_normalised(maps, last))
        return {layer: np.concatenate(own) for layer, own in parts.items()}


@dataclass(frozen=True, eq=False)
class Probed:
    """A fitted head on one layer.

    Attributes:
        penalty: As chosen.
        validation: Skill on validation before the refit: 1 - squared error / power.
        values: Its estimates on test, anomalies, (window, cells).
    """

    penalty: float
    validation: float
    values: np.ndarray


@torch.no_grad()
def _tokens(encoder: Encoder, batch: Batch, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the features of the last step's tokens after each layer, (window, token, feature)."""
    patches = patchify(batch, encoder.config.patch)
    outputs = encoder.eval().layers(patches)
    final = patches.step == patches.shape[0] - 1
    return {layer: outputs[layer][:, final].numpy() for layer in layers}

"""What an encoder's pretext tasks make of a window: masked and rebuilt, or forecast, beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..ssl.checkpoint.record import Record
from ..ssl.common.errors import EarthSSLError
from ..ssl.model.tokens import patchify, unpatchify
from ..ssl.store.store import Store
from ..ssl.training.objective import Objective
from .windows import common, window_batch


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """Anomalies of one variable at one time, in its units, (row, column), NaN where there is nothing.

    Attributes:
        truth: As it was.
        shown: What the encoder saw of it; of a forecast: its last step.
        made: What it made of it.
        error: made - truth where it was hidden.
        rms: Root mean square of the error, area-weighted.
        usual: That of the truth in the same cells: what the climatology would get.
    """

    truth: np.ndarray
    shown: np.ndarray
    made: np.ndarray
    error: np.ndarray
    rms: float
    usual: float


class Decoders:
    """The trained objectives of a checkpoint; loaded when first asked for."""

    def __init__(self, load: Callable[[], tuple[Any, Mapping[str, Any]]], record: Record, store: Store) -> None:
        """Keep what is needed.

        Args:
            load: Returns the encoder and its objectives by name.
            record: Of the checkpoint.
            store: On its grid.
        """
        self._load, self.record, self.store = load, record, store

    @cached_property
    def _loaded(self) -> tuple[Any, dict[str, Any]]:
        encoder, objectives = self._load()
        shows = {
            name: one for name, one in objectives.items() if one.forecasts or type(one).example is not Objective.example
        }
        return encoder, shows

    def describe(self) -> list[dict[str, Any]]:
        """Return the tasks that have fields to show: their names, and the leads of forecasts."""
        if common(self.record, self.store) != self.record.variables:
            return []  # a decoder rebuilds all of its variables
        return [{"name": name, "leads": list(one.config.leads) if one.forecasts else []}
                for name, one in self._loaded[1].items()]  # fmt: skip

    def show(self, name: str, variable: str, step: int, draw: int = 0, lead: int = 0) -> Rebuilt:
        """Return the window that ends at a step as a task sees and makes it.

        Args:
            name: Of the task.
            variable: What is shown.
            step: Last step of the window.
            draw: Number of the draw of masks.
            lead: Steps ahead, for a forecast.

        Raises:
            EarthSSLError: If there is no such task, variable or window, or the store ends before the lead.
        """
        tasks = {one["name"]: one["leads"] for one in self.describe()}
        window = self.record.encoder.window
        if name not in tasks:
            raise EarthSSLError(f"task: expected {', '.join(tasks) or 'none'}, got '{name[:60]}'")
        if variable not in self.record.variables:
            raise EarthSSLError(f"variable: expected {', '.join(self.record.variables)}, got '{variable[:60]}'")
        if tasks[name] and lead not in tasks[name]:
            raise EarthSSLError(f"lead: expected {', '.join(map(str, tasks[name]))}, got {lead}")
        last = step + (lead if tasks[name] else 0)
        if not window - 1 <= step <= last < len(self.store.times):
            raise EarthSSLError(f"step: expected a window of {window} steps and the lead within the store, got {step}")
        steps = np.arange(step - window + 1, step + 1)[None]
        k = self.record.variables.index(variable)
        encoder, objectives = self._loaded
        with torch.no_grad():
            batch = window_batch(self.record, self.store, self.store.read(steps[0]), steps, draw)
            if tasks[name]:
                target = window_batch(self.record, self.store, self.store.read([last]), np.array([[last]]))
                layout = patchify(target, objectives[name].patch)
                picks = torch.tensor([[tasks[name].index(lead)]])
                said = objectives[name].predict(encoder, batch, picks, times=target.times)
                guess = unpatchify(said, layout, objectives[name].patch)
                truth, shown, made = (_seen(target)[0, 0], _seen(batch)[0, -1], guess[0, 0])
            else:
                example = objectives[name].example(encoder, batch)
                truth, shown, made = (one[-1] for one in (example.truth, example.shown, example.rebuilt))
        values = [self._in_units(one[k].float().numpy(), k, when) for one, when in
                  ((truth, last), (shown, step), (made, last))]  # fmt: skip
        hidden = np.isfinite(values[0])
        if not tasks[name] and not np.isfinite(values[1][hidden]).all():  # else all cells are seen in part, or ahead
            hidden &= ~np.isfinite(values[1])
        error = np.where(hidden, values[2] - values[0], np.nan)
        made_known = np.where(np.isfinite(values[0]), values[2], np.nan)
        weight = np.where(hidden, self.store.grid.area, 0)
        rms, usual = (
            float(np.sqrt((weight * np.square(np.nan_to_num(one))).sum() / max(weight.sum(), 1e-30)))
            for one in (error, values[0])
        )
        return Rebuilt(values[0], values[1], made_known, error, rms, usual)

    def _in_units(self, normal: np.ndarray, k: int, step: int) -> np.ndarray:
        """Return normalised values as anomalies in units."""
        statistics, times = self.record.statistics.select([k]), self.store.times[[step]]
        field, none = normal[None, None], np.zeros_like(normal)[None, None]
        gap = statistics.denormalise(field, times) - statistics.denormalise(none, times)
        return np.asarray(gap[0, 0], np.float32)


def _seen(batch: Any) -> torch.Tensor:
    return torch.where(batch.valid, batch.values, torch.full_like(batch.values, torch.nan))

"""FieldConstraints: constraints on the fields of a store, that a pretext task rebuilds or forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..common.errors import EarthSSLError
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Calendar, Statistics, restored
from ..fields.variables import lookup
from .config import PENALTY, ConstraintConfig
from .constraints import Constraints
from .scene import Scene, Units

Places = dict[torch.device, tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Held:
    """Fields behind the layers, and what the constraints say of them.

    Attributes:
        values: Departures, (sample, time, variable, row, column).
        penalty: To be added to the loss.
        terms: For the log, detached: violation_NAME, and while validating violation_NAME_before (the layers) and
            violation_NAME_truth.
    """

    values: Tensor
    penalty: Tensor
    terms: dict[str, Tensor]


class FieldConstraints:
    """Constraints beside the climatology and scale that give normalised fields their units.

    Args:
        settings: The constraints.
        variables, grid, statistics: Of the store.

    Raises:
        EarthSSLError: If constraints and store do not fit together.
    """

    def __init__(
        self,
        settings: Sequence[ConstraintConfig],
        variables: Sequence[str],
        grid: LatLonGrid,
        statistics: Statistics,
    ) -> None:
        self.variables, self.grid, self.statistics = tuple(variables), grid, statistics
        units = [lookup(name).units for name in variables]
        self.constraints = Constraints(settings, variables, units, grid, statistics.known)
        self._calendar = Calendar(statistics.groups, statistics.keys, statistics.harmonics)
        self._transforms = statistics.transforms or (0.0,) * len(self.variables)
        self._spread = self._spreads()
        self._on: Places = {}

    def __deepcopy__(self, memo: object) -> FieldConstraints:
        """Return itself: nothing in it changes, and an average of weights needs no second climatology."""
        return self

    def _spreads(self) -> tuple[float, ...]:
        """Return by how much one standard deviation lifts each variable from its mean, in units, by area."""
        base = np.nan_to_num(self.statistics.coefficients[:, 0]).mean(0)[None]
        lifted = restored(base + self.statistics.scale, self._transforms) - restored(base, self._transforms)
        weight = self.grid.area * self.statistics.known
        total = weight.sum((-1, -2))
        return tuple(float(one) for one in (lifted[0] * weight).sum((-1, -2)) / np.where(total > 0, total, 1.0))

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return the coefficients of the climatology, the scale, and the area of known cells, on a device."""
        if device not in self._on:
            coefficients = torch.from_numpy(np.nan_to_num(self.statistics.coefficients))
            area = torch.from_numpy(self.grid.area * self.statistics.known).float()
            parts = (coefficients, torch.from_numpy(self.statistics.scale), area)
            self._on[device] = tuple(part.to(device) for part in parts)  # type: ignore[assignment]
        return self._on[device]

    def units(self, times: Tensor, dtype: torch.dtype = torch.float32) -> Units:
        """Return the units of fields at times, seconds since 1970, (sample, time)."""
        coefficients, scale, _ = self._tensors(times.device)
        when = times.flatten().cpu().numpy().astype("datetime64[s]")
        base, row = self._calendar.of(when)
        # A store has no time that its climatology does not know; the sketch of one, in `plan`, has one row for all.
        rows = torch.from_numpy(np.minimum(row, len(coefficients) - 1)).to(times.device)
        basis = torch.from_numpy(base).to(times.device, dtype)
        offset = torch.zeros(len(when), *scale.shape, dtype=dtype, device=times.device)
        for term in range(basis.shape[1]):
            offset = offset + basis[:, term, None, None, None] * coefficients[rows, term].to(dtype)
        return Units(offset.unflatten(0, times.shape), scale.to(dtype)[None, None], self._transforms, self._spread)

    def scene(
        self,
        times: Tensor,
        truth: Tensor | None = None,
        seen: Tensor | None = None,
        there: Tensor | None = None,
        asked: Tensor | None = None,
        start: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Scene:
        """Return what belongs to fields at times, (sample, time).

        Args:
            times: Seconds since 1970.
            truth, seen: Normalised fields, and where they were observed.
            there: Cells that hold a prediction; None: every known one.
            asked: Cells that the decoder made; None: all.
            start: Normalised fields of the last step that the encoder saw, where they were observed, and its times,
                (sample, 1, …).
        """
        area = self._tensors(times.device)[2]
        weight = area.expand(*times.shape, *area.shape) if there is None else area * there
        before = None
        if start is not None and self.constraints.needs_start:
            fields, observed, when = start
            before = (self.units(when).values(fields), area * observed)
        return Scene(self.units(times), weight, asked, truth, seen, before)

    def hold(self, x: Tensor, scene: Scene, training: bool) -> Held:
        """Return fields behind the layers, the penalty and the terms; in single precision whatever the surroundings.

        Args:
            x: Normalised fields, (sample, time, variable, row, column), some number where there is no prediction.
            scene: See `scene`.
            training: Whether the terms that only validation logs are left out.

        Raises:
            EarthSSLError: If what the constraints compare with is not there.
        """
        every = self.constraints
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            for one in every.every:
                if one.needs_start and scene.start is None:
                    raise EarthSSLError(
                        f"constraints, integral: {one.name} keeps the area mean of the last step seen, which only "
                        "forecasts have (lead_time, stochastic_lead_time); give total, in units"
                    )
            made = every.layers(x, scene) if every.layered else x
            penalty = every.penalty(made, scene)
            terms = {f"violation_{name}": own for name, own in every.violations(made, scene).items()}
            if not training:
                if every.layered:
                    terms |= {f"violation_{name}_before": own for name, own in every.violations(x, scene).items()}
                if scene.truth is not None:
                    true = every.violations(scene.truth, scene.of_truth())
                    terms |= {f"violation_{name}_truth": own for name, own in true.items()}
            if any(one.config.how == PENALTY for one in every.every):
                terms["penalty"] = penalty.detach()
        return Held(made, penalty, terms)


def check_training(settings: Sequence[ConstraintConfig], *, turned: bool, stores: int) -> None:
    """Refuse what would make physical values untrue.

    Args:
        settings: The constraints.
        turned: Whether batches are mirrored or turned about the axis.
        stores: Number of data sets beside home.

    Raises:
        EarthSSLError: That says what.
    """
    if settings and turned:
        raise EarthSSLError(
            "constraints: expected augment.mirror 0 and augment.roll false, as values in units are made with the "
            "climatology of their place, got one of them; leave either out"
        )
    if settings and stores:
        raise EarthSSLError(
            f"constraints: expected one store, whose climatology and grid give values in units, got {stores} more; "
            "leave either out"
        )

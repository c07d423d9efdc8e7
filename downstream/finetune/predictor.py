"""FinetunedEncoder: a fine-tuned checkpoint in use, xarray in and labels in their units out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ...ssl.checkpoint.read import load_exactly, read, read_task
from ...ssl.checkpoint.record import Record
from ...ssl.common.config import build
from ...ssl.common.errors import EarthSSLError
from ...ssl.common.progress import track
from ...ssl.constraints.config import ConstraintConfig
from ...ssl.fields.batch import from_fields
from ...ssl.fields.grid import LatLonGrid
from ...ssl.fields.month_stamps import stamped
from ...ssl.hub.pull import load_folder
from ...ssl.inference.frozen_encoder import Series, known_to
from ...ssl.inference.screening import screen
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import patchify
from ...ssl.sources.regrid import LEAST_VALID
from ..heads.distribution import LEVELS, Spread
from ..training.label_constraints import LabelConstraints
from .head import LOCAL, TaskHead, TaskNetwork, cells_of
from .samples import later


class FinetunedEncoder:
    """An encoder and its head in evaluation mode without gradients, and the record they were saved with.

    Attributes:
        network: Encoder and head.
        record: `record.task` says what it was tuned for.
    """

    def __init__(self, encoder: Encoder, head: TaskHead, record: Record) -> None:
        self.network = TaskNetwork(encoder, head).eval().requires_grad_(False)
        self.record = record
        settings = [build(ConstraintConfig, own, "constraints") for own in self.task.get("constraints", [])]
        names, units = ([str(one[key]) for one in self.task["targets"]] for key in ("name", "units"))
        scale = head.scale.numpy()
        self.constraints = (
            LabelConstraints(settings, head.kind, names, units, scale, self.grid, head.observed()) if settings else None
        )

    @property
    def task(self) -> dict[str, Any]:
        """What it was tuned for."""
        assert self.record.task is not None
        return self.record.task

    @property
    def grid(self) -> LatLonGrid:
        """Grid of predictions that are fields: the encoder's, or the finer one of the labels."""
        return grid_of(self.record)

    def predict(
        self,
        data: xr.Dataset | xr.DataArray,
        places: Sequence[tuple[float, float]] | np.ndarray | None = None,
        batch_size: int = 64,
        *,
        check_range: bool = True,
        units: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        missing: Mapping[str, Any] | None = None,
        least_valid: float = LEAST_VALID,
        base: tuple[str, str] | None = None,
    ) -> xr.DataArray:
        """Return what the labels would be for every window of unbroken steps in the data.

        Args:
            data: Fields in any spelling that `open_source` understands (names, units, orientation), on the grid of the
                checkpoint or on a finer or shifted one. Variables may be missing: the encoder takes any subset, and
                warns.
            places: Latitude and longitude, degrees, of each place to predict for, (place, 2), if the labels had places.
            batch_size: Windows at once.
            check_range, units, rename, missing, least_valid, base: As for `FrozenEncoder.embed`.

        Returns:
            Numbers (time, target) with their units, probabilities (time, class), or fields (time, lat, lon); with
            places, (time, place, …). `time` is that of the label, `lead` steps after the window's last, which is kept
            as `last_step`. One target alone has no dimension of its own. Layers of constraints are part of the
            network; by how much what is returned violates them, and did before them, are attributes violation_NAME.

        Raises:
            EarthSSLError: If the data do not fit the record, or places are missing or too many.
        """
        chosen = self._places(places)
        screened = screen(
            data, self.record, units=units, rename=rename, missing=missing, check_range=check_range,
            least_valid=least_valid, base=base, use="predicting",
        )  # fmt: skip
        for text in screened.said:
            warnings.warn(text, stacklevel=2)
        series = Series.of(screened, self.record.encoder.window)
        names, starts, length, grid = series.variables, series.starts, series.length, self.record.grid
        times = series.data["time"].values
        raw = np.stack([series.data[name].values for name in names], 1)
        fields = torch.from_numpy(series.statistics.normalise(raw, times))
        known = known_to(self.record, len(names))
        seconds = torch.from_numpy(stamped(times.astype("datetime64[s]").astype(np.int64), self.record.stamp_s))
        ends = times[starts + length - 1].astype("datetime64[s]")
        when = later(ends, self._steps(times), int(self.task["lead"]))
        parts, before_layers = [], []
        for begin in track(range(0, len(starts), batch_size), "predict"):
            steps = torch.from_numpy(starts[begin : begin + batch_size])[:, None] + torch.arange(length)
            keys = torch.zeros(len(steps), dtype=torch.int64)
            batch = from_fields(fields[steps], seconds[steps], keys, known, names, grid)
            said, before = self._outputs(batch, when[begin : begin + batch_size], chosen)
            parts.append(said)
            before_layers.append(before)
        made = self._label(np.concatenate(parts), when, ends, chosen, self.grid)
        return made.assign_attrs(screened.changes).assign_attrs(self._violations(parts, before_layers))

    def _violations(self, parts: Sequence[np.ndarray], raw: Sequence[np.ndarray]) -> dict[str, str]:
        """Return an attribute for each constraint that needs no truth."""
        own = self.constraints
        if own is None:
            return {}
        after, before = (
            own.violations(np.concatenate([one.reshape(-1, *own.shape(one)) for one in every]))
            for every in (parts, raw)
        )
        # Rows leave out what is not finite, on either side.
        earlier = {one["constraint"]: one["violation"] for one in own.rows(before)} if own.constraints.layered else {}
        made = {}
        for row in own.rows(after):
            name = row["constraint"]
            said = f", before the layers {earlier[name]:.3g}" if name in earlier else ""
            made[f"violation_{name}"] = f"{row['violation']:.3g} {row['unit']} ({row['how']}){said}"
        return made

    def distribution(self, data: xr.Dataset | xr.DataArray, coverage: float = 0.9, **more: Any) -> xr.Dataset:
        """Return what `predict` does with what may come instead: an interval and quantiles, fitted on validation.

        The same width everywhere: the residuals of the validation labels, by blocks of time (see `spread`).

        Args:
            data: As for `predict`.
            coverage: Share of the labels that the interval is to hold: one of those recorded.
            more: As for `predict`: places, batch_size, …

        Returns:
            `prediction`, `low` and `high` (conformal), and `quantile` with a dimension `level`, in the targets' units.

        Raises:
            EarthSSLError: If the labels are no numbers, or the coverage is not recorded.
        """
        recorded = self.task.get("distribution")
        if recorded is None:
            what = {"classification": "classes: predict returns their calibrated chances", "field": "fields"}
            raise EarthSSLError(
                f"distribution: expected a checkpoint tuned on numbers that recorded one, got "
                f"{what.get(self.task['kind'], 'an older one: tune it again')}"
            )
        spread = Spread.from_json(recorded)
        if coverage not in spread.half_widths:
            known = ", ".join(map(str, spread.half_widths)) or "none, for lack of blocks"
            raise EarthSSLError(
                f"distribution.coverage: expected {known} "
                f"({spread.blocks} {spread.unit}s of validation labels), got {coverage}"
            )
        said = self.predict(data, **more)
        single = "target" not in said.dims
        half, quantiles = np.asarray(spread.half_widths[coverage]), np.asarray(spread.quantiles)
        dims = () if single else ("target",)
        width = xr.DataArray(half[0] if single else half, dims=dims)
        shape = xr.DataArray(
            quantiles[0] if single else quantiles, {"level": list(LEVELS)}, dims=(*dims, "level"), name="quantile"
        )
        attrs = {"coverage": coverage, "blocks": spread.blocks, "unit_of_blocks": spread.unit}
        made = {"prediction": said, "low": said - width, "high": said + width, "quantile": said + shape}
        return xr.Dataset({name: one.assign_attrs(said.attrs) for name, one in made.items()}, attrs=attrs)

    def _steps(self, times: np.ndarray) -> np.ndarray:
        """Return times that tell the spacing of the data: their own, or those of the record where there is but one."""
        if len(times) > 1:
            return times.astype("datetime64[s]")
        step_s = np.timedelta64(round(self.record.step_days * 86400), "s")
        return np.asarray([times[0], times[0] + step_s]).astype("datetime64[s]")

    def _places(self, places: Sequence[tuple[float, float]] | np.ndarray | None) -> torch.Tensor | None:
        local = self.task["pooling"] in LOCAL
        if local != (places is not None):
            what = "places=[(lat, lon), …] to predict for, as its labels had places" if local else "no places"
            raise EarthSSLError(f"predict: expected {what}, got {'none' if places is None else 'some'}")
        if places is None:
            return None
        found = np.asarray(places, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not (np.abs(found[:, 0]) <= 90).all():
            raise EarthSSLError(
                f"predict: expected places as (lat, lon) within ±90° and 0…360°, got shape {found.shape}; give a list "
                "of pairs"
            )
        return torch.from_numpy(found)

    @torch.no_grad()
    def _outputs(self, batch: Any, times: np.ndarray, places: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions for a batch, (window, …) or (window, place, …), and what they were before the layers."""
        head = self.network.head
        patches = patchify(batch, self.network.encoder.config.patch)
        tokens = self.network.encoder(patches)
        if places is None:
            out = head(tokens, patches).double()
        else:
            each = [head(tokens, patches, one.expand(len(tokens), 2)) for one in places]
            out = torch.stack(each, 1).double()
        if head.kind == "classification":
            chances = np.asarray(out.softmax(-1).numpy())
            return chances, chances
        base = head.base_at(times)
        if head.kind == "field":
            (high, wide), (rows, columns) = self.grid.shape, patches.grid.shape
            factor = (high // rows, wide // columns)
            out = cells_of(out, patches, factor)
        elif places is not None:
            base = base[:, None].expand(out.shape)
        raw = np.asarray((out * head.scale + base).numpy())
        if self.constraints is None:
            return raw, raw
        flat, own = out.reshape(-1, *self.constraints.shape(raw)), base.reshape(-1, *self.constraints.shape(raw))
        held = self.constraints.hold(torch.nan_to_num(flat), own)[0].reshape(out.shape)
        held = torch.where(out.isnan(), out, held)
        return np.asarray((held * head.scale + base).numpy()), raw

    def _label(
        self, values: np.ndarray, times: np.ndarray, ends: np.ndarray, places: torch.Tensor | None, grid: LatLonGrid
    ) -> xr.DataArray:
        task = self.task
        coords: dict[str, Any] = {
            "time": times.astype("datetime64[ns]"), "last_step": ("time", ends.astype("datetime64[ns]")),
        }  # fmt: skip
        dims, names, units = ["time"], [one["name"] for one in task["targets"]], [o["units"] for o in task["targets"]]
        attrs = {"fingerprint": self.record.fingerprint, "kind": task["kind"], "lead_steps": task["lead"]}
        if places is not None:
            dims.append("place")
            coords |= {"lat": ("place", places[:, 0].numpy()), "lon": ("place", places[:, 1].numpy())}
        name = names[0]
        if task["kind"] == "field":
            dims += ["lat", "lon"]
            coords |= {"lat": grid.lat, "lon": grid.lon}
            attrs["units"] = units[0]
        elif task["kind"] == "classification":
            dims.append("class")
            coords["class"] = list(task["classes"])
            attrs |= {"units": "1", "long_name": f"probability of each class of {name}"}
        elif len(names) == 1:
            values = values[..., 0]
            attrs["units"] = units[0]
        else:
            dims.append("target")
            coords |= {"target": names, "units": ("target", units)}
            name = "prediction"
        return xr.DataArray(values, coords, dims, name, attrs)


def grid_of(record: Record) -> LatLonGrid:
    """Return the grid of predictions that are fields: that of the record, or of the task where it has a finer one."""
    finer = (record.task or {}).get("grid")
    return record.grid if finer is None else LatLonGrid.from_json(finer)


def load_finetuned(address: str | Path) -> FinetunedEncoder:
    """Return a fine-tuned checkpoint, ready to predict.

    Args:
        address: The checkpoint's folder, that of the run that `earthssl finetune` wrote, or whatever `pull` takes.

    Raises:
        EarthSSLError: If it is not whole, or is not fine-tuned.
    """
    path = load_folder(address)
    encoder, record = read(path)
    if record.task is None:
        raise EarthSSLError(
            f"{path}: expected a fine-tuned checkpoint, got a pretrained encoder; load it with load_encoder, or tune "
            "it with `earthssl finetune`"
        )
    weights = read_task(path)
    try:
        head = TaskHead(checked_shape(record.task["head"], weights))
        if record.task["kind"] == "field" and tuple(head.base.shape[1:]) != (own := grid_of(record)).shape:
            raise ValueError(f"grid: expected {tuple(head.base.shape[1:])} cells, got {own}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EarthSSLError(f"{path}: the record's task lacks or mistypes a field ({error}); fetch it again") from None
    load_exactly(head, weights, path / "task.safetensors")
    return FinetunedEncoder(encoder, head, record)


def checked_shape(shape: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the shape of a head, sure to be that of its weights: a record alone makes nothing large.

    Raises:
        ValueError: If they differ.
    """
    own = {
        "linear.weight": (shape["outputs"], shape["features"]), "basis": tuple(shape["pcs"] or (0, 0)),
        "base": tuple(shape["base"]), "scale": (shape["scale"],),
    }  # fmt: skip
    if shape.get("known"):
        own["known"] = tuple(shape["base"][1:])
    for name, wanted in own.items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != wanted:
            raise ValueError(f"{name}: expected shape {wanted}, got {found}")
    return shape

"""Writing what a fine-tuning came to: a checkpoint folder that needs no training code, and its test predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ...ssl.checkpoint.record import Record
from ...ssl.checkpoint.start_from import Transfer
from ...ssl.checkpoint.write import save
from ...ssl.common.files import sha256
from ...ssl.common.versions import versions
from ...ssl.constraints.config import ConstraintConfig
from ...ssl.data.windows import Windows
from ...ssl.fields.grid import LatLonGrid
from ...ssl.model.encoder import Encoder
from ...ssl.sources.planet.recorded import seed_record
from ...ssl.training.monitor import check_health
from ..heads.distribution import LEVELS, Spread
from ..results.numbers import plain
from ..results.row import Row
from ..training.fine_tuning import Finetuned
from ..training.label_constraints import LabelConstraints
from .head import TaskHead, TaskNetwork
from .samples import LabelSamples
from .tuning import Problem, outputs


@dataclass(frozen=True, eq=False)
class Tuned:
    """A network of one mode and seed.

    Attributes:
        mode, seed: Of it.
        network: In evaluation mode.
        trained: How far training went, and the proof of what stayed frozen.
        predicted: What it says of the test labels: numbers in units, probabilities, or fields in units.
        spread: Distribution of the labels around it; None but for numbers.
    """

    mode: str
    seed: int
    network: TaskNetwork
    trained: Finetuned
    predicted: np.ndarray
    spread: Spread | None = None

    def to_state(self) -> dict[str, Any]:
        """Return it, without its spread, as tensors and plain values."""
        own = {key: getattr(self.trained, key) for key in Finetuned.__dataclass_fields__}
        own |= {"frozen": dict(self.trained.frozen), "history": [list(one) for one in self.trained.history]}
        return {"shape": self.network.head.shape, "weights": self.network.state_dict(),
                "said": torch.from_numpy(self.predicted), "trained": own}  # fmt: skip

    @classmethod
    def from_state(cls, mode: str, seed: int, encoder: Encoder, state: Mapping[str, Any]) -> Tuned:
        """Return what `to_state` gave, in evaluation mode, in an encoder of the same shape."""
        network = TaskNetwork(encoder, TaskHead(state["shape"]))
        network.load_state_dict(state["weights"])
        own = {**state["trained"], "history": [(int(a), float(b)) for a, b in state["trained"]["history"]]}
        return cls(mode, seed, network.eval(), Finetuned(**own), state["said"].numpy())


@dataclass(frozen=True, eq=False)
class Parent:
    """The encoder that a fine-tuning began with.

    Attributes:
        folder: Of its checkpoint.
        record: What it says of itself.
        transfer: What was kept, resized, new.
        new: Variables added.
    """

    folder: Path
    record: Record
    transfer: Transfer
    new: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder, or of the run that holds it."""
        folder = self.folder.absolute()
        return folder.parent.name if folder.name == "checkpoint" else folder.name

    @property
    def sha256(self) -> str:
        """Of its encoder's weights."""
        return sha256(self.folder / "encoder.safetensors")


def save_tuned(
    folder: Path, tuned: Tuned, problem: Problem, parent: Parent, config: Mapping[str, Any], scores: pd.DataFrame
) -> Path:
    """Write the checkpoint folder of a tuned network and return it.

    Args:
        folder: New or empty.
        tuned: The network.
        problem: What it was tuned on.
        parent: Where it began.
        config: As configured, plain values.
        scores: Of its row.
    """
    store, samples, network = problem.windows.store, problem.samples, tuned.network
    validation = Windows(store, "val", network.encoder.config.window, 0)
    record = Record(
        encoder=network.encoder.config,
        variables=store.variables,
        units=tuple(store.manifest["units"]),
        step_days=store.step_days,
        grid=store.grid,
        statistics=store.statistics,
        splits=store.splits,
        fingerprint=store.fingerprint,
        seed=tuned.seed,
        steps=tuned.trained.steps,
        config=plain({**config, "labels": Path(samples.labels.where).name}),
        licence=_licences(parent.record.licence, store.manifest["attributes"].get("licence", "")),
        source=store.manifest["source"],
        versions=versions(),
        health=check_health(network.encoder, validation).to_json(),
        extra={
            "transfer": parent.transfer.to_json(),
            "split_proof": store.manifest["split_proof"],
            "ancestors": parent.record.trainings,
            **seed_record(store.manifest["attributes"]),
        },
        task=plain(_task(tuned, problem, parent, scores, config)),
    )
    golden = problem.windows.batch(samples.last[samples.parts["val"][:1]])
    return save(folder, network.encoder, {}, record, golden, network.head)


def _task(
    tuned: Tuned, problem: Problem, parent: Parent, scores: pd.DataFrame, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the record says of the task."""
    samples, finer = problem.samples, problem.samples.kind == "field" and problem.factor != (1, 1)
    head, labels, base = tuned.network.head, samples.labels, samples.base
    return {
        "kind": samples.kind,
        "targets": [{"name": n, "units": u} for n, u in zip(labels.names, labels.units, strict=True)],
        "classes": list(samples.classes),
        "pooling": head.pooling,
        "layer": -1,
        "lead": samples.lead,
        "head": head.shape,
        "label_mean": base.values if samples.kind == "regression" else None,
        "label_std": base.scale if samples.kind != "classification" else None,
        "mode": tuned.mode,
        "parent": {"name": parent.name, "sha256": parent.sha256},
        "variables_added": list(parent.new),
        "distribution": None if tuned.spread is None else tuned.spread.to_json(),
        "frozen": dict(tuned.trained.frozen),
        **({"grid": problem.grid.to_json()} if finer else {}),
        **({"constraints": config["constraints"]} if config.get("constraints") else {}),
        "labels_sha256": sha256(Path(labels.where)),
        "scores": [
            {"metric": one.metric, "target": one.target, "value": one.value, "low": one.low, "high": one.high}
            for one in scores.itertuples()
        ],
    }


def _licences(first: str, second: str) -> str:
    return first if not second or second == first else f"{first}; data of the fine-tuning: {second}"


def predictions(problem: Problem, tuned: Tuned, title: str) -> xr.Dataset:
    """Return a network's predictions of the test labels, with quantiles of numbers, what was observed, climatology."""
    predicted = tuned.predicted
    samples, labels = problem.samples, problem.samples.labels
    test = samples.parts["test"]
    times = samples.times[test].astype("datetime64[ns]")
    coords: dict[str, Any] = {"time": ("sample", times)}
    if samples.places is not None:
        coords |= {"lat": ("sample", samples.places[test][:, 0]), "lon": ("sample", samples.places[test][:, 1])}
    climatology = samples.base.at(samples.times[test])
    three = {"predicted": predicted, "observed": samples.target[test], "climatology": climatology}
    made: dict[str, Any] = {}
    if samples.kind == "field":
        grid, attrs = problem.grid, {"units": labels.units[0], "long_name": labels.names[0]}
        coords = {"time": times, "lat": grid.lat, "lon": grid.lon}
        made = {name: (("time", "lat", "lon"), values.astype(np.float32), attrs) for name, values in three.items()}
    elif samples.kind == "classification":
        words = np.asarray(samples.classes)
        coords["class"] = words
        made = {
            "probability": (("sample", "class"), predicted),
            "climatology": (("sample", "class"), climatology),
            "predicted": ("sample", words[predicted.argmax(1)]),
            "observed": ("sample", words[samples.target[test]]),
        }
    else:
        coords |= {"target": list(labels.names), "units": ("target", list(labels.units))}
        made = {name: (("sample", "target"), values) for name, values in three.items()}
        if tuned.spread is not None:
            coords["level"] = list(LEVELS)
            made["quantile"] = (
                ("sample", "target", "level"),
                predicted[..., None] + np.asarray(tuned.spread.quantiles),
            )
    return xr.Dataset(made, coords, {"title": title, "block": "test"})


def constraints_of(
    settings: Sequence[ConstraintConfig], samples: LabelSamples, grid: LatLonGrid
) -> LabelConstraints | None:
    """Return the constraints on predictions of the labels; None where there are none.

    Raises:
        EarthSSLError: If they do not fit the labels.
    """
    if not settings:
        return None
    labels, base = samples.labels, samples.base
    known = base.known if samples.kind == "field" else None
    return LabelConstraints(settings, samples.kind, labels.names, labels.units, base.scale, grid, known)


def violation_table(problem: Problem, rows: Sequence[Row], chosen: Tuned) -> dict[str, pd.DataFrame]:
    """Return by how much every row's test predictions violate each constraint, beside the labels themselves.

    Of the saved network also what it says before the layers. Empty where there are no constraints.
    """
    own, samples = problem.constraints, problem.samples
    if own is None:
        return {}
    test, names = samples.parts["test"], samples.labels.names
    truth = samples.target[test].astype(np.float64)
    said: dict[str, list[np.ndarray]] = {"labels": [truth]}
    for row in rows:
        values = [np.asarray(row.forecast[name], np.float64) for name in names]
        said.setdefault(row.name, []).append(values[0] if samples.kind == "field" else np.stack(values, 1))
    if own.constraints.layered:
        free = outputs(replace(problem, constraints=None), chosen.network, test)
        patch = chosen.network.encoder.config.patch
        said["saved network, before its layers"] = [np.asarray(problem.in_units(free, patch), np.float64)]
    found = []
    for name, every in said.items():
        each = [own.violations(values, truth) for values in every]
        mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        found += [{"row": name, **one} for one in own.rows(mean)]
    return {"constraints": pd.DataFrame(found)}

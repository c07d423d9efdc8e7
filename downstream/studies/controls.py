"""Controls: worlds with a known answer, and whether what was pretrained on them does what it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...ssl.common.errors import EarthSSLError, check_known, check_settings
from ...ssl.common.files import read_json, write_json
from ...ssl.model.encoder import EncoderConfig
from ...ssl.sources.controls.designs import DESIGNS
from ...ssl.store.store import Store
from ...ssl.training.config import TrainingConfig
from ..evaluation.encoders import Contender, features_key, untrained
from ..results.numbers import plain
from ..results.row import Row
from .control_task import ControlTask, ControlTaskConfig

REFERENCES = "references"
DEFAULT = ("N0", "P1", "P2")
ALL = "all"
WINDOWS = 96_000  # steps × batch from which on the stated skills are asked for


@dataclass(frozen=True)
class ControlsConfig:
    """Which worlds, which pretext tasks, and how long.

    Attributes:
        out: Folder; what is finished there is not done again.
        designs: Of N0, P1, P2, P3, P4.
        objectives: Names of pretext tasks, or of mixes of them (masking+latent+variance), or one name, or all.
        recipes: Settings of a pretext task in place of those of the study, by its name.
        seeds: Of worlds, networks and labels.
        steps: Optimiser steps of every pretraining.
        batch_size: Windows a step: the budget of every encoder is steps × batch_size.
        lr: Peak learning rate.
        warmup: Share of the steps that it rises over.
        rates: Another learning rate for a pretext task, by its name.
        encoder: Shape of every encoder.
        length: Steps of every world; half of them are trained on.
        amplitudes: Another amplitude of the signal, by design.
        labels: Numbers of labelled steps.
        label_draws: Draws of these.
        draws: Of the bootstrap.
    """

    out: str = "runs/controls"
    designs: list[str] = field(default_factory=lambda: list(DEFAULT))
    objectives: list[str] | str = field(default_factory=lambda: ["lead_time"])
    recipes: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int = 3000
    batch_size: int = 32
    lr: float = 2e-3
    warmup: float = 0.1
    rates: dict[str, float] = field(default_factory=lambda: {"byol": 5e-4})
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig("nano", 2, (1, 4, 4)))
    length: int = 20_000
    amplitudes: dict[str, float] = field(default_factory=dict)
    labels: list[int] = field(default_factory=lambda: [50, 200, 1000])
    label_draws: int = 5
    draws: int = 2000

    def __post_init__(self) -> None:
        check_known("controls.designs", self.designs, tuple(DESIGNS))
        if self.amplitudes:
            check_known("controls.amplitudes", list(self.amplitudes), tuple(DESIGNS))
        for name in ("designs", "objectives", "seeds", "labels"):
            found = getattr(self, name)
            found = [found] if isinstance(found, str) else found
            if not found or len(set(found)) < len(found):
                raise EarthSSLError(f"controls.{name}: expected some, each once, got {found}")
        check_settings("controls", self, {
            "steps": "≥ 10", "warmup": "(0, 1)", "labels": "≥ 2", "seeds": "≥ 0", "label_draws": "≥ 1",
            "draws": "≥ 1000",
        })  # fmt: skip

    def training(self, objective: str, seed: int) -> TrainingConfig:
        """Return the schedule of one encoder."""
        warm = max(1, round(self.warmup * self.steps))
        return TrainingConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.rates.get(objective, self.lr),
            warmup_steps=warm,
            val_every=self.steps,
            save_every=max(1, self.steps // 5),
            precision="32-true",
            seed=seed,
        )

    def source(self, design: str, seed: int) -> dict[str, Any]:
        """Return the options of the world of a design and a seed."""
        return {
            "design": design, "seed": seed, "steps": self.length,
            **({"amplitude": self.amplitudes[design]} if design in self.amplitudes else {}),
        }  # fmt: skip

    def task(self) -> ControlTaskConfig:
        """Return the settings of the task, the same for all worlds."""
        return ControlTaskConfig(
            store="", encoder=self.encoder, labels=self.labels, label_draws=self.label_draws, draws=self.draws
        )


def cell_file(out: Path, design: str, name: str, seed: int) -> Path:
    """Return the file of the results of an objective, or of the references, on one world."""
    return out / "cells" / f"{design}-{name}-seed{seed}.json"


def references_once(config: ControlsConfig, store: Store, design: str, seed: int) -> None:
    """Score what needs no pretraining on one world, and keep it, unless it is there."""
    file = cell_file(Path(config.out), design, REFERENCES, seed)
    if file.is_file():
        return
    task = ControlTask(config.task(), store)
    twin = untrained(config.encoder, store, seed)
    rows = [*task.references(), task.encoded(Contender("untrained", seed, twin, features_key(twin), {}))]
    write_cell(file, task, rows, seed, {})


def encoder_once(
    config: ControlsConfig, store: Store, design: str, objective: str, seed: int, encoder: Any, about: Mapping[str, Any]
) -> None:
    """Score a pretrained encoder on one world and keep it; `about` is kept beside its scores."""
    task = ControlTask(config.task(), store)
    row = task.encoded(Contender("pretrained", seed, encoder, features_key(encoder), {}))
    named = Row(objective, row.role, {}, seed, features=row.features)
    write_cell(cell_file(Path(config.out), design, objective, seed), task, [named], seed, about)


def write_cell(file: Path, task: ControlTask, rows: Sequence[Row], seed: int, about: Mapping[str, Any]) -> None:
    """Write the scores of some rows on one world, all or nothing."""
    scores = {row.name: {"role": str(row.role), "scores": task.scored(row, seed)} for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, plain({**about, "rows": scores}))


@dataclass(frozen=True, eq=False)
class Scores:
    """The errors of rows on the worlds of one design, with one number of labels.

    Attributes:
        names: Of the rows.
        roles: Of the rows.
        error: Squared errors summed over test units, (world, draw of labels, row, unit).
        reference: The same of the climatology, (world, unit).
    """

    names: list[str]
    roles: list[str]
    error: np.ndarray
    reference: np.ndarray


def read_scores(config: ControlsConfig, design: str, objectives: Sequence[str]) -> dict[int, Scores]:
    """Return the scores of a design by number of labels, from the cells that are there for every seed."""
    out, found = Path(config.out), {}
    files = {name: [cell_file(out, design, name, seed) for seed in config.seeds] for name in (REFERENCES, *objectives)}
    whole = [name for name, own in files.items() if all(file.is_file() for file in own)]
    cells = [{name: read_json(files[name][k], "a cell")["rows"] for name in whole} for k in range(len(config.seeds))]
    rows = [{row: one for cell in world.values() for row, one in cell.items()} for world in cells]
    names = list(rows[0])
    for count in config.labels:
        own = [[[one for one in world[name]["scores"] if one["labels"] == count] for name in names] for world in rows]
        error = np.array([[[one["error"] for one in row] for row in world] for world in own]).transpose(0, 2, 1, 3)
        reference = np.array([world[0][0]["reference"] for world in own])
        found[count] = Scores(names, [rows[0][name]["role"] for name in names], error, reference)
    return found

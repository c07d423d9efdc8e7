"""finetune: a pretrained encoder tuned on a user's own labels, beside everything that the result must beat."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ...ssl.checkpoint.read import read
from ...ssl.checkpoint.start_from import start_from
from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.common.files import disk_full_is_clear, refuse_filled, sha256
from ...ssl.common.randomness import key
from ...ssl.fields.splits import DAY
from ...ssl.hub.pull import load_folder
from ...ssl.model.encoder import Encoder
from ...ssl.store.store import Store
from ..evaluation.encoders import layers_to_read
from ..evaluation.pretraining_leaks import seen_by_pretraining
from ..evaluation.summary import Summary
from ..features.store_windows import StoreWindows
from ..training.fine_tuning import MODES, FinetuneConfig
from ..training.from_scratch import SCRATCH
from .head import check_pooling
from .read_labels import read_labels
from .rows import TunedRow, label_rows, last_probe, network_row, probe_row, raw_rows
from .samples import LabelSamples
from .save import Parent, Tuned, predictions, save_tuned
from .scores import tuned_tables, unit_of
from .tuning import Probe, Problem, make_network, outputs, tune

PROBE = "pretrained [linear probe]"
UNTRAINED = "untrained [linear probe]"
CONVENTION = (
    "Labels lie {lead} steps after the last of {window} input steps; window and label lie inside one block. Every row "
    "is fitted on the training block, its settings (features, penalty, number of steps) are chosen on the validation "
    "block, and the test block is read once; nothing is fitted again on validation. Climatology: the training labels' "
    "{base}; all rows predict departures from it. Persistence: the departure (or class) of the latest label of the "
    "same place at or before the last input step (before it at lead 0), which the encoders are not given; damped: its "
    "regression in training. Skill: {skill}. Every network begins as the linear probe of its own last layer. "
    "Intervals: paired bootstrap over blocks of {block} "
    "test {unit}(s), given these seeds; a row of several seeds scores the mean of its seeds' scores. {pretraining}"
)


def tuned_name(mode: str) -> str:
    """Return the name of the row of a mode."""
    return f"pretrained, fine-tuned [{mode}]"


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(FinetuneConfig):
    """What to tune on which labels, and how.

    Attributes:
        checkpoint: Address or folder of the pretrained encoder (or of its run).
        store: Folder of a training store of your own data (`earthssl prepare`).
        labels: CSV with a column of ISO times in UTC, a column for each target, and lat and lon where labels belong to
            places; or NetCDF with variables (time) or, for fields, (time, lat, lon).
        target: Column or variable to predict; a list for several numbers.
        out: Folder of the results; must be new or empty.
        kind: regression, classification or field.
        units: Of each target where the file does not say, as CSV cannot; a list for several.
        time: Name of the column or coordinate of time.
        missing: "refuse" labels without a value, or "drop" them.
        lead: Steps from the window's last input step to the label.
        mode: head, last, full or lora; the network that is saved. Embeddings of new variables are trained in each.
        compare: Other modes for the table.
        blocks: Number of last blocks that "last" trains.
        rank: Of LoRA's additions.
        alpha: LoRA's additions count alpha / rank.
        pooling: mean, last, mean+pcs; near, near+mean for labels with places; auto: chosen on validation.
        near: Patches whose features are pooled at a place.
        components: Numbers of principal components that mean+pcs chooses between.
        window, patch: Steps of a window; steps, rows and columns of a patch; null for those of the checkpoint.
        layers: Blocks that the linear probe reads; null for the last third, at least two.
        seeds: Number of trainings of each mode; the one that does best on validation is saved.
        scratch_seeds, untrained_seeds: Number of networks from scratch, and of untrained encoders.
        persistence: Whether the labels' past is known when a prediction is made, so that persistence is a rival.
        allow_seen: Go on although pretraining saw times of the test block; the table says so.
        unit: year, month, week or day: drawn as a whole for intervals; auto for the longest of which there are eight.
        block: Neighbouring units drawn together.
        draws: Bootstrap draws.
        steps: Most optimiser steps (AdamW); validation chooses how many count.
        batch_size: Samples a step.
        lr: Peak learning rate of the head.
        layer_decay: Each layer further from the head learns at this times the rate of the next.
        weight_decay: On matrices; vectors have none.
        drop_path: Chance of leaving the last block out of a sample while training; rises linearly with depth.
        warmup_steps: Steps of linear warm-up; a half cosine to 0 follows.
        check_every: Steps between looks at the validation block.
        patience: Looks without a better score before stopping; 0 never stops early.
        clip: Largest norm of the gradient.
    """

    checkpoint: str
    store: str
    labels: str
    target: str | list[str]
    out: str
    kind: str = "regression"
    units: str | list[str] | None = None
    time: str = "time"
    missing: str = "refuse"
    lead: int = 0
    compare: list[str] | None = None
    pooling: str = "auto"
    near: int = 4
    components: list[int] | None = None
    window: int | None = None
    patch: tuple[int, int, int] | None = None
    layers: list[int] | None = None
    seeds: int = 3
    scratch_seeds: int = 2
    untrained_seeds: int = 2
    persistence: bool = True
    allow_seen: bool = False
    unit: str = "auto"
    block: int = 1
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in self.compare or []:
            if mode not in MODES or mode == self.mode:
                raise EarthSSLError(
                    f"finetune.compare: expected modes beside '{self.mode}' out of {', '.join(MODES)}, got '{mode}'."
                    + nearest(mode, MODES)
                )
        for name in ("near", "seeds", "block"):
            if getattr(self, name) < 1:
                raise EarthSSLError(f"finetune.{name}: expected a whole number ≥ 1, got {getattr(self, name)}")
        if min(self.scratch_seeds, self.untrained_seeds) < 0 or self.draws < 1000:
            raise EarthSSLError(
                f"finetune: expected scratch_seeds and untrained_seeds ≥ 0 and draws ≥ 1000, got {self.scratch_seeds}, "
                f"{self.untrained_seeds} and {self.draws}"
            )
        if self.units is not None and not isinstance(self.units, str) and len(self.units) != len(self.targets):
            raise EarthSSLError(
                f"finetune.units: expected one for each of {len(self.targets)} targets, got {self.units}"
            )
        if min(self.components or [1]) < 1:
            raise EarthSSLError(f"finetune.components: expected numbers from 1, got {self.components}")

    @property
    def targets(self) -> list[str]:
        """Names of what is predicted."""
        return [self.target] if isinstance(self.target, str) else list(self.target)

    def training(self, mode: str) -> FinetuneConfig:
        """Return how a mode is trained; networks from scratch ("scratch") in full and without layer decay."""
        own = {f.name: getattr(self, f.name) for f in fields(FinetuneConfig)}
        if mode == "scratch":
            return FinetuneConfig(**{**own, "mode": "full", "layer_decay": 1.0})
        return FinetuneConfig(**{**own, "mode": mode})


def finetune(config: FinetuningConfig, command: str = "") -> Path:
    """Fine-tune, and return the folder of the results: `checkpoint`, `predictions.nc`, the table and its page.

    Args:
        config: What to do.
        command: As typed, for the record.

    Raises:
        EarthSSLError: If checkpoint, store and labels do not fit together, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the results")
    # Many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        return _Run(config).go(command)


class _Run:
    """One fine-tuning: what it reads, checked before anything is trained."""

    def __init__(self, config: FinetuningConfig) -> None:
        self.begun = time.perf_counter()
        self.config = config
        labels = read_labels(config.labels, config.targets, config.kind, time=config.time, missing=config.missing)
        if config.units is not None:
            own = [config.units] * len(labels.names) if isinstance(config.units, str) else config.units
            units = tuple(said or given for said, given in zip(labels.units, own, strict=True))
            labels = replace(labels, units=units)
        self.store = store = Store(config.store)
        folder = load_folder(config.checkpoint)
        donor, record = read(folder)
        shape = replace(
            donor.config, window=config.window or donor.config.window, patch=config.patch or donor.config.patch,
            drop_path=0.0,
        )  # fmt: skip
        self.shape = shape
        encoder = self._untrained(0)
        transfer = start_from(folder, encoder, store.grid, store.step_days)
        self.encoder = encoder.eval().requires_grad_(False)
        new = tuple(name for name in store.variables if name not in donor.variables)
        self.parent = Parent(folder, record, transfer, new)
        self.seen = "; ".join(seen_by_pretraining(record.trainings, store))
        if self.seen and not config.allow_seen:
            raise EarthSSLError(
                f"{folder}: {self.seen}; so its score there would not be honest. Move the test block (and the gap "
                "before it) beyond, or set allow_seen: true, and the table will say so"
            )
        samples = LabelSamples.match(labels, store, shape.window, config.lead)
        if config.pooling != "auto":
            check_pooling(config.pooling, config.kind, samples.places is not None)
        self.unit, self.units = unit_of(samples.times[samples.parts["test"]], config.unit)
        components = tuple(config.components or (10, 20))
        self.problem = Problem(samples, StoreWindows(store, shape.window), config.near, components, config.pooling)
        self.start: Probe | None = None  # of the pretrained encoder, the same for every mode and seed
        self.layers = layers_to_read(config.layers, donor.depth)

    def _untrained(self, seed: int) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "init") & (2**63 - 1))
            return self.shape.build(self.store.variables)

    def go(self, command: str) -> Path:
        """Train, score, and write everything or nothing."""
        print("\n".join(self.parent.transfer.lines()), file=sys.stderr)
        rows = self._references()
        tuned = [one for mode in [self.config.mode, *(self.config.compare or [])] for one in self._tuned(mode)]
        rows += [one.row for one in tuned]
        chosen = min((one for one in tuned if one.mode == self.config.mode), key=lambda one: one.trained.score)
        return self._write(rows, tuned, chosen, command)

    def _references(self) -> list[TunedRow]:
        config, problem, patch = self.config, self.problem, self.shape.patch
        rows = label_rows(problem.samples, config.persistence) + raw_rows(problem, patch)
        rows.append(probe_row(problem, self.encoder, PROBE, None, self.layers))
        for seed in range(config.untrained_seeds):
            rows.append(probe_row(problem, self._untrained(seed), UNTRAINED, seed, self.layers))
        for seed in range(config.scratch_seeds):
            rows.append(self._train(self._untrained(seed), "scratch", seed, SCRATCH, ()).row)
        return rows

    def _tuned(self, mode: str) -> list[Tuned]:
        return [
            self._train(self.encoder, mode, seed, tuned_name(mode), self.parent.new)
            for seed in range(self.config.seeds)
        ]

    def _train(self, encoder: Encoder, mode: str, seed: int, name: str, new: Sequence[str]) -> Tuned:
        problem = self.problem
        label = f"fine-tune {mode}" if mode != "scratch" else "train from scratch"
        if mode == "scratch":
            probe = last_probe(problem, encoder, f"{label}, features")
        else:
            self.start = probe = self.start or last_probe(problem, encoder, "fine-tune, features")
        network = make_network(problem, encoder, probe)
        trained = tune(problem, network, self.config.training(mode), seed, f"{label} seed {seed}", new)
        out = outputs(problem, network, problem.samples.parts["test"])
        settings = {"pooling": network.head.pooling, "steps": trained.steps, "validation_error": trained.score,
                    "trained_values": trained.trained, "frozen": dict(trained.frozen)}  # fmt: skip
        row = network_row(problem, name, seed, out, self.shape.patch, settings)
        return Tuned(mode, seed, network, trained, row)

    def _write(self, rows: Sequence[TunedRow], tuned: Sequence[Tuned], chosen: Tuned, command: str) -> Path:
        config, samples, out = self.config, self.problem.samples, Path(self.config.out)
        scores, differences = tuned_tables(samples, rows, self.store.grid.area, self.units, config.draws, config.block)
        summary = Summary(
            task="finetune",
            title=self._title(),
            convention=self._convention(),
            scores=scores,
            differences=differences,
            record={
                "source": self.store.manifest["source"],
                "synthetic": "planet" in self.store.manifest["attributes"],
                "store_fingerprint": self.store.fingerprint,
                "split": self.store.splits.to_json(),
                "labels": {"file": Path(config.labels).name, "sha256": sha256(Path(config.labels))},
                "samples": samples.counts,
                "left_out": samples.left_out,
                "class_counts": samples.class_counts if samples.classes else None,
                "checkpoint": {"path": str(self.parent.folder), "sha256": self.parent.sha256},
                "transfer": self.parent.transfer.to_json(),
                "new_variables": list(self.parent.new),
                "saved": {"mode": chosen.mode, "seed": chosen.seed, "validation_error": chosen.trained.score},
                "rows": [{"row": row.name, "seed": row.seed, **row.settings} for row in rows],
                "seconds": time.perf_counter() - self.begun,
                "config": asdict(config),
            },
            notes=self._notes(),
        )  # fmt: skip
        own = scores[(scores["row"] == tuned_name(chosen.mode)) & (scores["seed"] == "")]
        kept = {name: value for name, value in asdict(config).items() if name not in ("out", "store", "checkpoint")}
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        making = out.with_name(f".{out.name}.tuning.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        try:
            with disk_full_is_clear(out):
                summary.write(making, command)
                save_tuned(making / "checkpoint", chosen, self.problem, self.parent, kept, own)
                predictions(self.problem, chosen.row, rows[0], summary.title).to_netcdf(making / "predictions.nc")
                if out.exists():
                    out.rmdir()
                os.replace(making, out)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return out

    def _title(self) -> str:
        first, last = (str(t)[:10] for t in self.problem.samples.times[self.problem.samples.parts["test"]][[0, -1]])
        store = self.store
        source = "the synthetic planet" if "planet" in store.manifest["attributes"] else store.manifest["source"]
        return f"Fine-tuning on {', '.join(self.config.targets)}, {source}, test {first}…{last}"

    def _convention(self) -> str:
        samples = self.problem.samples
        what = {
            "regression": "1 - squared error over that of climatology; r: of departures from it",
            "field": "1 - squared error over that of climatology, by area over labelled cells that have a patch",
            "classification": "Brier skill against climatology; log loss: probabilities below 0.001 count as 0.001",
        }[samples.kind]
        base = "frequencies" if samples.kind == "classification" else "mean"
        return CONVENTION.format(
            lead=samples.lead, window=samples.window, skill=what, unit=self.unit, block=self.config.block,
            base=f"{base} of each calendar month" if samples.base.monthly else f"overall {base}",
            pretraining=f"NOT UNSEEN: {self.seen}." if self.seen else "",
        )  # fmt: skip

    def _notes(self) -> list[str]:
        samples = self.problem.samples
        said = [f"Samples: {', '.join(f'{part} {count}' for part, count in samples.counts.items())}."]
        lost = [f"{count} {why}" for why, count in samples.left_out.items() if count]
        if lost:
            said.append(f"Labels left out: {'; '.join(lost)}.")
        if samples.classes:
            parts = (
                f"{part}: " + ", ".join(f"{word} {n}" for word, n in own.items())
                for part, own in samples.class_counts.items()
            )
            said.append(f"Classes. {'; '.join(parts)}.")
        own, step = (float(np.median(np.diff(np.unique(t))) / DAY) for t in (samples.labels.times, self.store.times))
        if own > 1.5 * step:
            said.append(
                f"Labels are {own:.3g} days apart, the store's steps {step:.3g}: each belongs to the step of its time "
                "as written (a month: its first)."
            )
        if samples.places is not None:
            said.append("Climatology is one for all places; that of the place is of each place's own training labels.")
        if self.parent.new:
            new = ", ".join(self.parent.new)
            said.append(f"New variables, not seen by pretraining: {new}; zero at first, trained in every mode.")
        if self.seen:
            said.append(f"Not an honest test: {self.seen}.")
        if not self.config.scratch_seeds:
            said.append("No network is trained from scratch: scratch_seeds is 0.")
        return said

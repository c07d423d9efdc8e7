"""Fine-tuning as a task of the seam: rows on labels of a user's own, from climatology to the tuned network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from ...ssl.checkpoint.read import read
from ...ssl.checkpoint.start_from import start_from
from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import digest, sha256
from ...ssl.fields.splits import DAY
from ...ssl.hub.pull import load_folder
from ...ssl.model.encoder import Encoder
from ...ssl.store.store import Store
from ..evaluation.config import TaskConfig
from ..evaluation.encoders import PRETRAINED, UNTRAINED, Contender, untrained
from ..evaluation.equal_input import RAW
from ..evaluation.pretraining_leaks import seen_by_pretraining
from ..evaluation.task import Extras, Features, Task
from ..features.predictable import predictable_directions
from ..features.raw_window import MOST_VALUES, values_of_windows
from ..features.store_windows import StoreWindows
from ..heads.distribution import (
    COVERAGES,
    LEVELS,
    Spread,
    blocks_of,
    divide_logits,
    fewest_blocks,
    temperature,
    unit_numbers,
)
from ..results.row import Role, Row
from ..results.target import Target, class_target, number_target
from ..training.from_scratch import SCRATCH
from ..training.unfinished import Unfinished
from .config import OWN, FinetuningConfig
from .head import TaskNetwork, check_pooling
from .own_grid import labels_onto
from .read_labels import read_labels
from .rows import components, field_target, forecasts, label_rows, near_cells, patch_values, pca_fields, season
from .samples import LabelSamples, unit_of
from .save import Parent, Tuned, constraints_of, violation_table
from .tuning import FrozenTokens, Probe, Problem, make_network, outputs, tune

PROBE = "linear probe"
CONVENTION = (
    "Labels lie {lead} steps after the last of {window} input steps; window and label lie inside one block. Every row "
    "is fitted on the training block, its settings (features, penalty, number of steps) are chosen on the validation "
    "block, and the test block is read once; nothing is fitted again on validation. Climatology: the training labels' "
    "{base}; all rows predict departures from it. Persistence: the departure (or class) of the latest label of the "
    "same place at or before the last input step (before it at lead 0), which the encoders are not given; damped: its "
    "regression in training. Raw window: {raw}. Skill: {skill}. Every network begins as the linear probe of its own "
    "last layer; its chances of classes, alone among the rows, are calibrated by a temperature fitted on validation. "
    "Curve over labels: fitted on the training labels of the drawn {unit}s alone, the climatology staying "
    "that of all, settings chosen on the whole validation block. Intervals: paired bootstrap over blocks of {block} "
    "test {unit}(s), given these seeds; a row of several seeds scores the mean of its seeds' scores. {pretraining}"
)


def tuned_name(mode: str) -> str:
    """Return the name of the row of a mode."""
    return f"pretrained, fine-tuned [{mode}]"


class Finetuning(Task[TaskConfig]):
    """One fine-tuning: what it reads, checked before anything is trained.

    Attributes:
        own: Its settings.
        problem: Labels beside fields.
        parent: The encoder that it begins with.
        tuned: The networks that were tuned.
        unfinished: Keeps networks that are done; by default nothing.
    """

    name = "finetune"
    what = "Fine-tuning"
    convention = CONVENTION
    Config = TaskConfig

    def __init__(self, config: FinetuningConfig, store: Store) -> None:
        """Read checkpoint and labels.

        Raises:
            EarthSSLError: If checkpoint, store and labels do not fit together.
        """
        super().__init__(config.table(), store)
        self.own = config
        labels = read_labels(config.labels, config.targets, config.kind, time=config.time, missing=config.missing)
        if config.units is not None:
            own = [config.units] * len(labels.names) if isinstance(config.units, str) else config.units
            units = tuple(said or given for said, given in zip(labels.units, own, strict=True))
            labels = replace(labels, units=units)
        folder = load_folder(config.checkpoint)
        donor, record = read(folder)
        self.encoder_shape = replace(
            donor.config, window=config.window or donor.config.window, patch=config.patch or donor.config.patch,
            drop_path=0.0,
        )  # fmt: skip
        encoder = untrained(self.encoder_shape, store, 0)
        transfer = start_from(folder, encoder, store.grid, store.step_days)
        self.encoder = encoder
        new = tuple(name for name in store.variables if name not in donor.variables)
        self.parent = Parent(folder, record, transfer, new)
        self.seen = "; ".join(seen_by_pretraining(record.trainings, store))
        if self.seen and not config.allow_seen:
            raise EarthSSLError(
                f"{folder}: {self.seen}; so its score there would not be honest. Move the test block (and the gap "
                "before it) beyond, or set allow_seen: true, and the table will say so"
            )
        samples = LabelSamples.match(
            labels_onto(labels, store.grid, config.label_grid == OWN), store, self.encoder_shape.window, config.lead
        )
        check_pooling(config.pooling, config.kind, samples.places is not None)
        self.unit, self.units = unit_of(samples.times[samples.parts["test"]], config.unit)
        counts = tuple(config.components or (10, 20))
        self.problem = Problem(
            samples, StoreWindows(store, self.encoder_shape.window), config.near, counts, config.pooling,
            constraints_of(config.constraints, samples, samples.labels.grid or store.grid),
        )  # fmt: skip
        self.head = "logistic" if samples.kind == "classification" else "ridge"
        self.tuned: list[Tuned] = []
        self.unfinished = Unfinished()
        self._chosen: Tuned | None = None
        self._tokens: dict[str, FrozenTokens] = {}  # of the last layer, by encoder
        self._starts: dict[str, Probe] = {}

    @property
    def chosen(self) -> Tuned:
        """The network that is saved: of the main mode, the best on validation; with the distribution around it."""
        if self._chosen is None:
            best = min((one for one in self.tuned if one.mode == self.own.mode), key=lambda one: one.trained.score)
            self._chosen = replace(best, spread=self._spread(best))
        return self._chosen

    # ---- Labels ----

    def targets(self) -> Sequence[Target]:
        samples, block = self.problem.samples, self.config.block
        test = samples.parts["test"]
        truth, climatology = samples.target[test], samples.base.at(samples.times[test])
        names = samples.labels.names
        if samples.kind == "classification":
            return [class_target(names[0], truth, climatology, self.units, block)]
        if samples.kind == "field":
            return [field_target(names[0], truth, climatology, self.problem.grid.area, self.units, block)]
        return [number_target(n, truth[:, k], climatology[:, k], self.units, block) for k, n in enumerate(names)]

    def training_samples(self) -> np.ndarray:
        return self.problem.samples.parts["train"]

    def _training_units(self) -> np.ndarray:
        return unit_numbers(self.problem.samples.times[self.training_samples()], self.unit)

    def label_units(self) -> np.ndarray:
        return np.unique(self._training_units())

    def _on(self, units: np.ndarray | None) -> Problem:
        if units is None:
            return self.problem
        return self.problem.on(self.training_samples()[np.isin(self._training_units(), units)])

    # ---- Rows ----

    def baselines(self, window: int) -> Iterable[Row]:
        samples, problem = self.problem.samples, self.problem
        yield from label_rows(samples, self.own.persistence)
        if samples.kind == "field":
            yield pca_fields(problem)
            return
        yield self._headed(f"PCA [{self.head}]", Role.BASELINE, components(problem))
        if samples.places is not None:
            cells = {"cells of the nearest patches": near_cells(problem, self.encoder_shape.patch).mean(1)}
            yield self.fitted(f"raw input near the place [{self.head}]", Role.BASELINE, cells)

    def raw(self, window: int) -> np.ndarray:
        problem, patch = self.problem, self.encoder_shape.patch
        if problem.samples.kind == "field":
            return patch_values(problem, patch)
        if problem.samples.places is not None:
            return near_cells(problem, patch).reshape(len(problem.samples.rows), -1)
        return values_of_windows(self.store, window, problem.samples.last)

    def predictable(self, window: int) -> Features:
        samples = self.problem.samples
        if not samples.lead or samples.kind == "field" or samples.places is not None or self.problem.windows.streams:
            return {}
        found = predictable_directions(self.store, window, [samples.lead])
        return {name: values[samples.last] for name, values in found.items()}

    def fitted(
        self, name: str, role: Role, features: Features, seed: int | str | None = None, units: np.ndarray | None = None
    ) -> Row:
        """Return the row of the linear head on features, the season beside them where the labels are no fields."""
        if self.problem.samples.kind != "field":
            own = season(self.problem)
            features = {name: np.concatenate([values, own], 1) for name, values in features.items()}
        return self._headed(name, role, features, seed, units)

    def _headed(
        self, name: str, role: Role, features: Features, seed: int | str | None = None, units: np.ndarray | None = None
    ) -> Row:
        problem, patch = self._on(units), self.encoder_shape.patch
        head = problem.head(features, patch)
        forecast = forecasts(problem.samples, problem.in_units(head.predicted, patch))
        row = Row(name, role, forecast, seed, head.settings, features={head.features: features[head.features]})
        return row if self.curved(row) else replace(row, features={})

    def encoders(self) -> list[Contender]:
        source = {"path": str(self.parent.folder), "sha256": self.parent.sha256}
        found = [Contender(PRETRAINED, self.parent.record.seed, self.encoder, self.parent.sha256, source)]
        for seed in range(self.own.untrained_seeds):
            twin = untrained(self.encoder_shape, self.store, seed)
            found.append(Contender(UNTRAINED, seed, twin, "", {"seed": seed}))
        return found

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        name = f"{encoder.kind} [{PROBE}]"
        problem, label = self.problem, f"{encoder.kind} {PROBE}"
        tokens = FrozenTokens.extract(
            encoder.encoder, problem.windows, problem.samples, layers, problem.near, label
        )  # fmt: skip
        probe = problem.linear(tokens, self.encoder_shape.patch, layers)
        seed = None if encoder.kind == PRETRAINED else encoder.seed
        row = self._headed(name, Role(encoder.kind), {probe.head.features: probe.features}, seed)
        yield replace(row, chosen=probe.head.settings, reference=True)

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        made = self._headed(row.name, row.role, row.features, row.seed, units)
        return replace(made, reference=row.reference)

    def curved(self, row: Row) -> bool:
        return row.name in (f"{RAW} [{self.head}]", f"{PRETRAINED} [{PROBE}]", f"{UNTRAINED} [{PROBE}]")

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        """Return the rows of networks: from scratch, and of every mode; on some units one of each."""
        own = self.own
        for seed in range(own.scratch_seeds if seeds is None else seeds):
            yield self._trained("scratch", seed, units)[1]
        few = units is not None
        for mode in [own.mode] if few else [own.mode, *(own.compare or [])]:
            for seed in range(1 if few else own.seeds):
                tuned, row = self._trained(mode, seed, units)
                if not few:
                    self.tuned.append(tuned)
                yield row

    def _trained(self, mode: str, seed: int, units: np.ndarray | None) -> tuple[Tuned, Row]:
        problem, scratch = self._on(units), mode == "scratch"
        label = "train from scratch" if scratch else f"fine-tune {mode}"
        name = f"{mode}-seed{seed}" + ("" if units is None else f"-{digest(np.sort(units).tolist())[:16]}")
        kept = self.unfinished.result(name)
        if kept is None:
            encoder = untrained(self.encoder_shape, self.store, seed) if scratch else self.encoder
            start = self._start(f"scratch {seed}" if scratch else PRETRAINED, encoder, units)
            network = make_network(problem, encoder, start)
            new, state = () if scratch else self.parent.new, self.unfinished.state(name)
            trained = tune(problem, network, self.own.training(mode), seed, f"{label} seed {seed}", new, state)
            tuned = Tuned(mode, seed, network, trained, self._said(problem, network))
            self.unfinished.keep(name, tuned.to_state())
        else:
            tuned = Tuned.from_state(mode, seed, untrained(self.encoder_shape, self.store, seed), kept)
        trained = tuned.trained
        settings = {"pooling": tuned.network.head.pooling, "steps": trained.steps, "averaged": trained.averaged,
                    "head_solved_again": trained.solved_again, "validation_error": trained.score,
                    "trained_values": trained.trained, "frozen": dict(trained.frozen)}  # fmt: skip
        name, role = (SCRATCH, Role.SCRATCH) if scratch else (tuned_name(mode), Role.TUNED)
        return tuned, Row(name, role, forecasts(problem.samples, tuned.predicted), seed, settings)

    def _said(self, problem: Problem, network: TaskNetwork) -> np.ndarray:
        """Return what a network says of the test labels; chances are calibrated on validation, in the network."""
        samples = problem.samples
        if samples.kind == "classification":
            val = samples.parts["val"]
            divide_logits(network.head.linear, temperature(outputs(problem, network, val), samples.target[val]))
        out = outputs(problem, network, samples.parts["test"])
        return problem.in_units(softmax(out, -1) if samples.kind == "classification" else out, self.encoder_shape.patch)

    def _spread(self, tuned: Tuned) -> Spread | None:
        samples = self.problem.samples
        if samples.kind != "regression":
            return None
        val = samples.parts["val"]
        departures = outputs(self.problem, tuned.network, val) - samples.departures(val)
        unit, block = blocks_of(samples.times[val], fewest_blocks(max(COVERAGES)))
        return Spread.fit(-departures * samples.base.scale, block, unit)

    def _start(self, name: str, encoder: Encoder, units: np.ndarray | None) -> Probe:
        """Return the linear probe of an encoder's last layer, which its training starts from."""
        if units is None and name in self._starts:
            return self._starts[name]
        layers, problem, patch = [encoder.depth - 1], self.problem, self.encoder_shape.patch
        if name not in self._tokens:
            self._tokens[name] = FrozenTokens.extract(
                encoder, problem.windows, problem.samples, layers, problem.near, f"features, {name}"
            )
        found = self._on(units).linear(self._tokens[name], patch, layers)
        if units is None:
            self._starts[name] = found
        return found

    # ---- Words ----

    def title(self) -> str:
        samples = self.problem.samples
        first, last = (str(t)[:10] for t in samples.times[samples.parts["test"]][[0, -1]])
        return f"{self.what} on {', '.join(self.own.targets)}, {self.source()}, test {first}…{last}"

    def convention_text(self) -> str:
        samples = self.problem.samples
        skill = {
            "regression": "1 - squared error over that of climatology; r: of departures from it",
            "field": "1 - squared error over that of climatology, by area over labelled cells that have a patch",
            "classification": "Brier skill against climatology; log loss: probabilities below 0.001 count as 0.001",
        }[samples.kind]
        raw = f"every value that the encoder sees; of more than {MOST_VALUES}, cells are averaged over square blocks"
        if samples.kind == "field":
            raw = "the cells of the patch itself, all variables, over the window"
        elif samples.places is not None:
            raw = f"the cells of the {self.own.near} patches nearest to the place, all variables, over the window"
        base = "frequencies" if samples.kind == "classification" else "mean"
        return self.convention.format(
            lead=samples.lead, window=samples.window, skill=skill, unit=self.unit, block=self.config.block,
            base=f"{base} of each calendar month" if samples.base.monthly else f"overall {base}", raw=raw,
            pretraining=f"NOT UNSEEN: {self.seen}." if self.seen else "",
        )  # fmt: skip

    def samples(self) -> Mapping[str, Any]:
        return self.problem.samples.counts

    def found(
        self,
        rows: Sequence[Row],
        scores: pd.DataFrame,
        differences: pd.DataFrame,
        main: Sequence[tuple[str, str]],
    ) -> str:
        # Of several modes the one that was asked for speaks, whichever did best on test.
        own = [row for row in rows if row.role is not Role.TUNED or row.name == tuned_name(self.own.mode)]
        return super().found(own, scores, differences, main)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        samples, chosen = self.problem.samples, self.chosen
        record = {
            "labels": {"file": Path(self.own.labels).name, "sha256": sha256(Path(self.own.labels))},
            "left_out": samples.left_out,
            "class_counts": samples.class_counts if samples.classes else None,
            "checkpoint": {"path": str(self.parent.folder), "sha256": self.parent.sha256},
            "transfer": self.parent.transfer.to_json(),
            "new_variables": list(self.parent.new),
            "saved": {"mode": chosen.mode, "seed": chosen.seed, "validation_error": chosen.trained.score},
            "config": asdict(self.own),
        }
        tables = violation_table(self.problem, rows, chosen)
        found = self._distribution(chosen)
        if found is None:
            return Extras(record=record, notes=self._notes(), tables=tables)
        spread, tests = found
        widest = tests[tests["coverage"] == tests["coverage"].max()]
        notes = [
            f"Interval of {one['coverage']:.0%}, {one['target']}: ±{one['half_width']:.4g}, holds "
            f"{one['test_coverage']:.0%} of the test labels (conformal, {spread.blocks} {spread.unit}s of validation); "
            f"CRPS {one['crps']:.4g}, that of climatology {one['crps_climatology']:.4g}."
            for one in widest.to_dict("records")
        ]
        return Extras(record=record, notes=[*self._notes(), *notes], tables={**tables, "distribution": tests})

    def _distribution(self, chosen: Tuned) -> tuple[Spread, pd.DataFrame] | None:
        """Return the distribution around the saved network and its scores on test."""
        if chosen.spread is None:
            return None
        samples = self.problem.samples
        train, test = samples.parts["train"], samples.parts["test"]
        usual = np.quantile(samples.departures(train) * samples.base.scale, LEVELS, axis=0).T
        climatology = samples.base.at(samples.times[test])[..., None] + usual
        return chosen.spread, chosen.spread.scores(
            samples.labels.names, samples.target[test], chosen.predicted, climatology
        )

    def _notes(self) -> list[str]:
        samples = self.problem.samples
        said = [f"Samples: {', '.join(f'{part} {count}' for part, count in samples.counts.items())}."]
        lost = [f"{count} {why}" for why, count in samples.left_out.items() if count]
        if lost:
            said.append(f"Labels left out: {'; '.join(lost)}.")
        attributes = self.store.manifest["attributes"]
        said += [f"Fields: {attributes[name]}." for name in ("regridded", "anomalies") if name in attributes]
        if samples.labels.regridded:
            said.append(f"Labels: {samples.labels.regridded}.")
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
        if self.problem.windows.streams:
            said.append("The store is larger than half of the free memory: windows are read as they are asked for, and "
                        "there are no rows of predictable directions, which hold all of it.")  # fmt: skip
        if self.seen:
            said.append(f"Not an honest test: {self.seen}.")
        return said

    def missing(self) -> list[str]:
        return [] if self.own.scratch_seeds else ["No network is trained from scratch: scratch_seeds is 0."]

"""parameterisation_weather: what T42 does to the scales of T21, from short windows of maps, offline and coupled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.randomness import key
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.weather.output import GRAVITY
from ....ssl.sources.weather.recorded import recorded_weather
from ....ssl.sources.weather.sphere import SIZES
from ....ssl.sources.weather.weather import Weather
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender
from ...evaluation.equal_input import RANDOM, RANDOM_FEATURES, RAW
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.random_features import random_weights
from ...results.row import Role, Row
from ...results.target import Target, additive
from ...training.from_scratch import learn
from .coupled import DETERMINISTIC, NOISE, Course, ensemble_scores, forecast_target
from .figures import spread_figure
from .weather_closures import (
    T21,
    Closure,
    ExportedPatches,
    LocalNetwork,
    Reader,
    constant,
    fit_head,
    linear,
    mapped,
    network_local,
    none,
    normalised,
    random_patches,
    raw_patches,
    relu,
    shrunk,
    with_noise,
)
from .weather_config import CONVENTION, WeatherParameterisationConfig
from .weather_coupled import BANDS, BLOWN_UP, SCORES, Measured, climate_figure, climate_row, floor_row, run, scores
from .weather_truth import DAY, TRUNCATION, Truth, fields_of

SUBGRID, CLIMATE = "subgrid term", "climate, coupled"
NETWORK = "local network from scratch"
OFTEN = (DETERMINISTIC, NOISE)
CALIBRATION = 16  # stretches of a day from training years that the memory of residuals is measured on
PATTERNS = 400  # residuals that the noise is made of
YEAR = 365  # days
MASK = 2**63 - 1


class WeatherParameterisation(Task[WeatherParameterisationConfig]):
    """The subgrid term of T21, and what a model coupled to it does."""

    name, what, convention = "parameterisation_weather", "Subgrid term of T21, from T42", CONVENTION
    Config = WeatherParameterisationConfig
    unit = "year of T42"

    def __init__(
        self, config: WeatherParameterisationConfig, store: Store, decoders: Decoders | None = None,
        truth: Truth | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, store, decoders)
        planet = recorded_weather(store.manifest["attributes"])
        if planet.config.truncation != TRUNCATION or store.grid.shape != SIZES[TRUNCATION] or store.step_days != 1:
            raise EarthSSLError(
                f"{self.name}.store: expected daily fields of the whole globe at T21, 32 × 64, got T"
                f"{planet.config.truncation}, {store.grid.shape[0]} × {store.grid.shape[1]}, a step of "
                f"{store.step_days:g} days; prepare the source weather without region, coarsen or step"
            )
        counts = {"train": config.train_years, "val": config.val_years, "test": config.test_years}
        years, first = sum(counts.values()), 0
        options: dict[str, Any] = {"years": years, "members": years, "truncation": 42, "seed": config.truth_seed}
        self.truth = truth or Truth(Weather(replace(planet.config, **options, start="1900-01-01")))
        self.parts: dict[str, np.ndarray] = {}
        for block, count in counts.items():
            self.parts[block], first = np.arange(first, first + count), first + count
        days = np.arange(self.shape.window - 1, self.truth.days, config.spacing)
        self.members, self.dates = np.repeat(np.arange(years), len(days)), np.tile(days, years)
        self.patch = self.shape.patch[1], self.shape.patch[2]
        self.area = T21.nodes[1]
        self.bases: dict[str, Closure] = {}
        self.measured: dict[str, Measured] = {}
        self.climates: list[dict[str, Any]] = []
        self.offline: list[dict[str, Any]] = []

    def check(self, shape: EncoderConfig) -> None:
        _, rows, columns = shape.patch
        if SIZES[TRUNCATION][0] % rows or SIZES[TRUNCATION][1] % columns or shape.patch[0] != 1:
            raise EarthSSLError(
                f"{self.name}.encoder: expected patches of one step that divide 32 rows and 64 columns, got "
                f"{list(shape.patch)}; set encoder.patch to [1, 4, 4]"
            )

    # ---- Samples ---------------------------------------------------------------------------------------------

    @cached_property
    def subgrid(self) -> np.ndarray:
        """Subgrid terms of all samples, (sample, level, known)."""
        return self.truth.subgrid(self.members, self.dates)

    @cached_property
    def states(self) -> np.ndarray:
        """States of all samples, (sample, level, known)."""
        return self.truth.states(self.members, self.dates)

    @cached_property
    def fields(self) -> np.ndarray:
        """Fields of the windows of all samples, (sample, step, variable, row, column)."""
        back = range(1 - self.shape.window, 1)
        return np.stack([self.maps(self.truth.states(self.members, self.dates + k)) for k in back], axis=1)

    @cached_property
    def spread(self) -> np.ndarray:
        """Standard deviation of each level's term over training samples, (level,)."""
        return np.asarray(np.sqrt(self.subgrid[self.inside("train")].var(axis=0).sum(axis=1)))

    @property
    def days(self) -> np.ndarray:
        """Day of each sample counted from 2000, (sample,)."""
        return self.truth.first[self.members] + self.dates

    def maps(self, states: np.ndarray) -> np.ndarray:
        """Return the store's variables of states (…, level, known), (…, variable, row, column)."""
        return fields_of(self.truth.planet.world, states, self.store.variables)

    def inside(self, block: str, units: np.ndarray | None = None) -> np.ndarray:
        """Return which samples lie in a block, or in some of its years, bool (sample,)."""
        return np.isin(self.members, self.parts[block] if units is None else units)

    def training_samples(self) -> np.ndarray:
        return self.inside("train")

    def label_units(self) -> np.ndarray:
        return self.parts["train"]

    def raw(self, window: int) -> np.ndarray:
        return raw_patches(self.store, self.patch, self.fields, self.days)

    # ---- Targets ---------------------------------------------------------------------------------------------

    def errors(self, said: np.ndarray) -> np.ndarray:
        """Return squared errors of test samples over the variance of each level, mean and by level, (4, sample)."""
        by_level = ((said - self.subgrid[self.inside("test")]) ** 2).sum(axis=2).T / self.spread[:, None] ** 2
        return np.concatenate([by_level.mean(axis=0, keepdims=True), by_level])

    @cached_property
    def cases(self) -> tuple[np.ndarray, np.ndarray]:
        """Member and day at which each forecast begins, (case,) each."""
        test, each = self.parts["test"], -(-self.config.cases // len(self.parts["test"]))
        first, last = self.shape.window - 1, self.truth.days - 1 - max(self.config.forecast_leads)
        days = (first + (last - first) * (np.arange(each) + 0.5) / each).astype(int)  # middles of equal parts
        return np.repeat(test, each)[: self.config.cases], np.tile(days, len(test))[: self.config.cases]

    def heights(self, states: np.ndarray) -> np.ndarray:
        """Return z500, m, poleward of 20° of states (…, level, known), (…, cell)."""
        rows = np.abs(T21.lat) > 20
        z = fields_of(self.truth.planet.world, states, ("z500",))[..., 0, rows, :] / GRAVITY
        return z.reshape(*z.shape[:-2], -1)

    def over_cells(self, members: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return `ensemble_scores` of fields (member, case, cell), the mean over their area, (3, case)."""
        found = ensemble_scores(members.reshape(len(members), -1), truth.ravel()).reshape(3, *truth.shape)
        weight = np.repeat(self.area[np.abs(T21.lat) > 20], SIZES[TRUNCATION][1])
        return np.asarray(found @ (weight / weight.sum()))

    def targets(self) -> Sequence[Target]:
        test, mean = self.inside("test"), self.subgrid[self.inside("train")].mean(axis=0)
        reference = self.errors(np.broadcast_to(mean, self.subgrid[test].shape))
        months = self.members[test] * 12 + self.dates[test] * 12 // 366
        skills = [
            additive(name, partial(part_of, SUBGRID, k), partial(skill, reference[k]))
            for k, name in enumerate(("skill", "skill_200", "skill_500", "skill_800"))
        ]
        found = [Target(SUBGRID, months, skills, main=["skill"])]
        members, days = self.cases
        for lead in self.config.forecast_leads:
            truth = self.heights(self.truth.states(members, days + lead))
            near = np.clip(days + lead + np.array([-15, 0, 15])[:, None], 0, self.truth.days - 1)  # (3, case)
            years = np.repeat(self.parts["train"], 3)[:, None] + 0 * days
            known = self.truth.states(years.ravel(), np.tile(near, (len(self.parts["train"]), 1)).ravel())
            reference = self.over_cells(self.heights(known).reshape(len(years), *truth.shape), truth)[0]
            found.append(forecast_target(f"z500 in {lead}", reference, members * 12 + days * 12 // 366))
        better = [additive(name, partial(part_of, CLIMATE, k), mean_of, larger_is_better=name == SCORES[0],
                           compared=name != SCORES[-1]) for k, name in enumerate(SCORES)]  # fmt: skip
        return [*found, Target(CLIMATE, np.arange(self.config.runs), better)]

    def headline(self, targets: Sequence[Target]) -> Sequence[Target]:
        return targets[:1]

    # ---- Rows ------------------------------------------------------------------------------------------------

    def drag(self, units: np.ndarray | None = None) -> Closure:
        """Return the mean and drag of training years."""
        train = self.inside("train", units)
        return linear(T21, self.states[train], self.subgrid[train])

    def shrunk(self, closure: Closure, fields: np.ndarray) -> Closure:
        """Return a closure with the gain that is best on validation; fields are those of all samples."""
        val = self.inside("val")
        left = self.subgrid[val] - closure.fixed(self.states[val])
        return shrunk(closure, fields[val], self.days[val], left, T21.known[1])

    def row(self, name: str, role: Role, said: np.ndarray, seed: Any = None, **chosen: Any) -> Row:
        """Return the row of subgrid terms of test samples, and note their share of the variance by scale."""
        true, n = self.subgrid[self.inside("test")], T21.known[1]
        line: dict[str, Any] = {"row": name, "seed": "" if seed is None else seed}
        for band, part in BANDS.items():
            own = (n >= part.start) & (n < part.stop)
            scale = (true[:, :, own].var(axis=0).sum(axis=1), (true - said)[:, :, own], said[:, :, own].var(axis=0))
            left = ((scale[1] ** 2).mean(axis=0).sum(axis=1) / scale[0]).mean()
            line |= {f"R² {band}": 1 - left, f"sd over truth {band}": np.sqrt(scale[2].sum(axis=1) / scale[0]).mean()}
        self.offline.append(line)
        return Row(name, role, {SUBGRID: self.errors(said)}, seed, chosen)

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        base, test = self.drag(units), self.inside("test")
        left = mapped(self.subgrid - base.fixed(self.states))
        weight = self.area[:, None] / self.spread[:, None, None] ** 2
        error, candidate, penalty, head = fit_head(
            features, left, self.inside("train", units), self.inside("val"), weight, self.patch
        )
        own = features[candidate]  # in the place of fields
        whole = self.shrunk(replace(base, local=replace(head, reader=as_read)), own)
        said = whole.told(self.states[test], own[test], self.days[test])
        chosen = {"features": candidate, "heads": head.scope, "penalty": penalty, "validation error": error}
        if units is not None:
            return Row(name, role, {SUBGRID: self.errors(said)}, seed, chosen)
        self.bases[f"{name} {seed}"] = replace(whole, local=head)
        row = self.row(name, role, said, seed, **chosen)
        return replace(row, features={candidate: own})

    def baselines(self, window: int) -> Iterable[Row]:
        test, train = self.inside("test"), self.inside("train")
        rows = {"no closure": none(self.subgrid.shape[2]), "constant": constant(self.subgrid[train]),
                "drag by wavenumber": self.drag()}  # fmt: skip
        for name, closure in rows.items():
            said = closure.fixed(self.states[test])
            kinds = OFTEN if name.startswith("drag") else OFTEN[:1]
            yield from self.coupled(self.row(name, Role.BASELINE, said), closure, kinds)

    def equal_input(self, window: int, random_seeds: int) -> Iterable[Row]:
        raw = self.raw(window)
        reader = partial(raw_patches, self.store, self.patch)
        row = self.fitted(f"{RAW} [{self.head}]", Role.BASELINE, {f"{raw.shape[-1]} values": raw})
        yield from self.read(row, reader)
        for seed in range(random_seeds):
            weights = random_weights(raw, self.training_samples(), RANDOM_FEATURES, seed)
            made = {f"{RANDOM_FEATURES} ReLU": relu(weights, raw)}
            row = self.fitted(f"{RANDOM} [{self.head}]", Role.BASELINE, made, seed)
            if seed:
                yield replace(row, features={})
            else:
                yield from self.read(row, partial(random_patches, weights, reader))

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        readers = {
            f"layer {k + 1}": ExportedPatches(encoder.encoder, self.store, k, self.config.export) for k in layers
        }
        features = {name: reader(self.fields, self.days) for name, reader in readers.items()}
        row = self.fitted(f"{encoder.kind} [{self.head}]", Role(encoder.kind), features, encoder.seed)
        yield from self.read(row, readers[next(iter(row.features))])

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        config, base, test = self.config.scratch, self.drag(units), self.inside("test")
        left = torch.from_numpy(mapped(self.subgrid - base.fixed(self.states)) / self.spread[:, None, None]).float()
        values = torch.from_numpy(normalised(self.store, self.fields, self.days)).flatten(1, 2)
        area = torch.from_numpy(self.area[:, None]).float()
        train, val = np.flatnonzero(self.inside("train", units)), np.flatnonzero(self.inside("val"))

        def loss(network: LocalNetwork, samples: np.ndarray) -> torch.Tensor:
            return ((network(values[samples]) - left[samples]) ** 2 * area).mean()

        def new() -> LocalNetwork:
            return LocalNetwork(values.shape[1], self.config.width, T21.nodes[0])

        for seed in range(config.seeds if seeds is None else seeds):
            found = learn(new, loss, lambda network: float(loss(network, val)), train, None, config, seed)
            local = partial(network_local, found.network.eval(), self.store, self.spread[:, None, None])
            closure = self.shrunk(replace(base, local=local), self.fields)
            said = closure.told(self.states[test], self.fields[test], self.days[test])
            if units is not None:
                yield Row(NETWORK, Role.SCRATCH, {SUBGRID: self.errors(said)}, seed)
            else:
                yield from self.coupled(self.row(NETWORK, Role.SCRATCH, said, seed, steps=found.steps), closure, OFTEN)

    # ---- Coupled ---------------------------------------------------------------------------------------------

    def read(self, row: Row, reader: Reader) -> Iterable[Row]:
        """Yield a row of heads and the rows of its closure coupled, its features read by `reader`."""
        base = self.bases[f"{row.name} {row.seed}"]
        return self.coupled(row, replace(base, local=replace(base.local, reader=reader)), OFTEN)  # type: ignore[type-var]

    @cached_property
    def stretches(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """States and subgrid terms at every step of stretches of a day, their fields' windows, and their days."""
        back, train = self.shape.window - 1, self.parts["train"]
        members = np.resize(train, CALIBRATION)
        days = np.linspace(0, self.truth.days - 2 - back, CALIBRATION).astype(int)
        states, terms = self.truth.course(members, days, (back + 1) * DAY)
        maps = self.maps(states)
        steps = np.arange(back * DAY, (back + 1) * DAY + 1)
        windows = maps[:, steps[:, None] + DAY * np.arange(-back, 1)]
        return states[:, steps], terms[:, steps], windows, (self.truth.first[members] + days)[:, None] + steps / DAY

    def noisy(self, closure: Closure) -> Closure:
        """Return a closure with noise from what it leaves of training, validation and successive steps."""

        def left(samples: np.ndarray) -> np.ndarray:
            return self.subgrid[samples] - closure.told(self.states[samples], self.fields[samples], self.days[samples])

        train, val = np.flatnonzero(self.inside("train")), np.flatnonzero(self.inside("val"))
        residuals, other = left(train[:: -(-len(train) // PATTERNS)]), left(val)
        states, terms, windows, days = self.stretches
        flat = (one.reshape(-1, *one.shape[2:]) for one in (states, windows, days))
        course = terms - closure.told(*flat).reshape(terms.shape)
        size = float(np.sqrt((other**2).sum() / len(other) / ((residuals**2).sum() / len(residuals))))
        return with_noise(closure, residuals, size, course, self.config.noise_lag, T21.known[1])

    @cached_property
    def long_starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Past and day of the starts of the long runs."""
        turns, test = np.arange(self.config.runs), self.parts["test"]
        members, days = test[turns % len(test)], self.shape.window - 1 + 5 * (turns // len(test))
        return self.pasts(members, days % self.truth.days), self.truth.first[members] + days % self.truth.days

    @cached_property
    def short_starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Past and day of the starts of the forecasts."""
        members, days = self.cases
        return self.pasts(members, days), self.truth.first[members] + days

    def pasts(self, members: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return truncated states at every step of the days before starts, and at them."""
        back = self.shape.window - 1
        return self.truth.course(members, days - back, back * DAY)[0]

    @cached_property
    def known_climate(self) -> Measured:
        """The climate of T42, truncated."""
        return Measured(self.truth.coarse, self.truth.climate)

    def coupled(self, row: Row, closure: Closure, kinds: Sequence[str]) -> Iterable[Row]:
        """Yield a row with the scores of its closure coupled, and one for each kind of noise."""
        config = self.config
        closure = self.noisy(closure) if NOISE in kinds else closure
        bound = float(BLOWN_UP**2 * (self.truth.climate**2).sum(axis=(2, 3)).max())
        couple = partial(run, closure, self.truth.coarse, fields=self.maps, every=config.every, bound=bound)
        keep = range(0, YEAR * config.years * DAY, DAY)
        long = couple(*self.long_starts, kinds, keep=keep, seed=key(config.seed, "climate") & MASK)
        short = self.forecasts(couple, kinds)
        for kind in kinds:
            name, course = row.name + kind, long[kind]
            seen = Measured(self.truth.coarse, course.slow)
            test = self.subgrid[self.inside("test")]
            line = climate_row(name, seen, course, self.known_climate, test, self.area)
            memory = {} if kind == DETERMINISTIC or closure.phi is None else {"phi": float(closure.phi.mean())}
            self.climates.append({**line, "seed": "" if row.seed is None else row.seed, **memory})
            if (course.ended < 0).all():
                self.measured[name] = seen
            climate = scores(seen, self.known_climate, self.area, course.ended >= 0)
            own = {CLIMATE: climate, **short[kind]}
            if kind == DETERMINISTIC:
                yield replace(row, forecast={**row.forecast, **own}, features=row.features if self.curved(row) else {})
            else:
                yield replace(row, name=name, forecast=own, features={})

    def forecasts(self, couple: Any, kinds: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """Return the scores of ensemble forecasts, by kind of noise and target."""
        (past, days), (members, dates), leads = self.short_starts, self.cases, self.config.forecast_leads
        found: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in kinds}
        order = sorted(leads)
        for kind in kinds:
            count = 1 if kind == DETERMINISTIC else self.config.members
            starts = np.repeat(past, count, axis=0), np.repeat(days, count)
            made: Course = couple(*starts, [kind], keep=[lead * DAY for lead in order],
                                  seed=key(self.config.seed, "forecasts") & MASK)[kind]  # fmt: skip
            for lead, states in zip(order, made.slow, strict=True):
                ensemble = self.heights(states).reshape(len(past), count, -1).swapaxes(0, 1)
                truth = self.heights(self.truth.states(members, dates + lead))
                found[kind][f"z500 in {lead}"] = self.over_cells(ensemble, truth)
        return found

    def samples(self) -> Mapping[str, Any]:
        return {
            block: {"years": len(own), "samples": int(self.inside(block).sum())} for block, own in self.parts.items()
        }

    def convention_text(self) -> str:
        return self.convention.format(**vars(self.config))

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        terms, years = self.subgrid[self.inside("test")], self.config.years
        itself, told = floor_row(self.truth.climate, self.truth.coarse, self.parts["test"], years, terms, self.area)
        return Extras(
            figures={
                "climate": climate_figure(self.measured, self.known_climate, T21.lat), "spread": spread_figure(scores),
            },
            words={"climate": "Long runs of each closure beside T42 truncated to T21. T42's own years stand beside; "
                   "closer than these is chance.",
                   "spread": "Root mean variance of the ensembles over the RMSE of their mean: 1 is calibrated."},
            tables={"climate": pd.DataFrame([*self.climates, itself]), "by_wavenumber": pd.DataFrame(self.offline)},
            notes=[told] + [f"{one['row']}: {one['blown up']} of {one['runs']} runs blew up."
                   for one in self.climates if one["blown up"]],
        )  # fmt: skip


def as_read(features: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return features that stand in the place of the fields they were read from."""
    return features


def part_of(target: str, k: int, row: Row) -> np.ndarray:
    """Return one of the parts of what a row says of a target."""
    return row.forecast[target][k]


def skill(reference: np.ndarray, error: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return 1 - the error over that of the reference."""
    return np.asarray(1 - error / (reference @ weights))


def mean_of(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean."""
    return np.asarray(sums / weights.sum())

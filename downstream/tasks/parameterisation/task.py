"""parameterisation: the subgrid term of Lorenz '96 from a short history of its slow variables, offline and coupled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.randomness import key
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.lorenz96 import GAP, recorded_lorenz96
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.equal_input import RANDOM, RANDOM_FEATURES, RAW
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.random_features import random_weights
from ...features.store_windows import StoreWindows, encoded
from ...heads.ridge_path import RidgePath
from ...results.row import Role, Row
from ...results.target import Target, additive, number_target
from ...training.from_scratch import SCRATCH, learn
from ...training.patch_network import PatchNetwork
from .closures import EXPORTS, Closure, ExportedReader, Reader, around, cubic, linear, neighbours, nothing
from .coupled import (
    DETERMINISTIC,
    NOISE,
    STATE_NOISE,
    Course,
    climate_table,
    closeness,
    density,
    ensemble_scores,
    forecast_target,
    hellinger,
    run,
)
from .figures import climate_figure, spread_figure

SUBGRID, CLIMATE = "U", "climate, coupled"
OFTEN = (DETERMINISTIC, NOISE)
KINDS = {
    "no closure": (nothing, (DETERMINISTIC,)),
    "linear in X": (linear, OFTEN),
    "cubic in X": (cubic, (*OFTEN, STATE_NOISE)),
}
OWN, WHOLE = "own token", "all tokens"
PENALTIES = tuple(10.0**k for k in range(-9, 1))  # histories are nearly collinear
MASK = 2**63 - 1
CALIBRATION = (8, 5.0)  # training members, and time units of each, that the memory of residuals is measured on
CONVENTION = (
    "Target: U of each slow variable, what the fast ones take from it, at the last step of a window; a sample every "
    "{spacing} fields. Skill: R², 1 - squared error / that of the training mean. Heads: ridge on training members; "
    "layer, tokens (a variable's own or all, round the ring from itself on) and penalty chosen on validation, nothing "
    "refitted with it; of the network from scratch, steps too, and its last layer is refitted as every head. Coupled: "
    "X alone, Runge-Kutta of fourth order, steps of {step:g}, the closure called once a step, encoders as exported "
    "files ({export}) that are fed raw fields and times. Climate: {runs} runs of {steps} steps from test states; 1 - "
    "Hellinger distance to the truth, of X and of X and U together, bins of .5; 0 for a run that blew up (|X| > 100). "
    "Forecasts: {cases} test states, perfect start, {members} members (deterministic: 1); fair CRPS against that of "
    "the climatology. AR(1): noise with the deviation and memory of the residuals; by state: the deviation is linear "
    "in the closure's features. Intervals: paired bootstrap over test members, of the climate over runs, given these "
    "seeds and this truth."
)


@dataclass(frozen=True)
class ParameterisationConfig(TaskConfig):
    """Settings of the task, beside those of every task; store: of the source `lorenz96`.

    Attributes:
        spacing: Fields from one sample to the next: neighbours say nearly the same.
        step: Time units of a step of the coupled model; divides the fields' interval.
        steps: Of each long run.
        runs: Long runs, each from a start and with noise of its own.
        forecast_leads: Time units.
        cases: Forecasts, from evenly spaced test states.
        members: Of a stochastic forecast.
        noise_lag: Model steps over which the memory of the residuals is measured.
        export: torchscript or onnx (extra `onnx`): the kind of file that encoders are coupled through.
        seed: Of the noise.
    """

    task: str = "parameterisation"
    spacing: int = 5
    step: float = 0.005
    steps: int = 100_000
    runs: int = 10
    forecast_leads: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    cases: int = 100
    members: int = 20
    noise_lag: int = 1
    export: str = "torchscript"
    seed: int = 0
    block: int = 1
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig("pico", 3, (3, 2, 1)))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({
            "spacing noise_lag": "≥ 1", "steps": "≥ 100", "runs cases": "≥ 4", "members": "≥ 2", "seed": "≥ 0",
            "step": "(0, inf)", "forecast_leads": "> 0", "export": EXPORTS,
        })  # fmt: skip


class Parameterisation(Task[ParameterisationConfig]):
    """U from X, and what a model coupled to it does."""

    name, what, convention = "parameterisation", "Subgrid term of Lorenz '96", CONVENTION
    Config = ParameterisationConfig
    unit = "member"

    def __init__(self, config: ParameterisationConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.system = recorded_lorenz96(store.manifest["attributes"])
        self.made = made = self.system.config
        ratio, self.stride = made.interval / config.step, round(made.interval / config.step)
        config.expect(
            self.stride >= 1 and abs(ratio - self.stride) < 1e-6 and abs(config.step / made.dt % 1 - 0.5) > 0.499,
            f"a divisor of the fields' interval {made.interval:g} and a multiple of the truth's dt {made.dt:g}", "step",
        )  # fmt: skip
        self.horizon = [round(lead / config.step) for lead in config.forecast_leads]
        config.expect(
            len(set(self.horizon)) == len(self.horizon)
            and np.allclose(np.array(config.forecast_leads) / config.step, self.horizon, rtol=0, atol=1e-6),
            f"multiples of the step {config.step:g}, each once", "forecast_leads",
        )  # fmt: skip
        most = made.samples * self.stride // 2
        config.expect(
            min(self.horizon) >= 1 and max(self.horizon) <= most,
            f"leads from {config.step:g} to half a member, {most * config.step:g}", "forecast_leads",
        )  # fmt: skip
        if len(store.times) != made.members * made.samples:
            raise EarthSSLError(
                f"parameterisation.store: expected all {made.members * made.samples} fields of the source, got "
                f"{len(store.times)}; prepare it with all of its times"
            )
        self.parts = {block: self._members(block) for block in ("train", "val", "test")}
        self.last = np.arange(self.shape.window - 1, made.samples, config.spacing)  # sample that each window ends at
        self.ends = (np.arange(made.members)[:, None] * made.samples + self.last).ravel()  # the same in the store
        self.courses: dict[str, Course] = {}
        self.closures: list[dict[str, Any]] = []

    def _members(self, block: str) -> np.ndarray:
        """Return the members of a block, refusing one that cuts through a member."""
        inside = self.store.splits.inside(self.store.times, block).reshape(self.made.members, -1)
        whole, begun, least = inside.all(axis=1), inside.any(axis=1), 4 if block == "test" else 1
        if (whole != begun).any() or whole.sum() < least:
            raise EarthSSLError(
                f"parameterisation.store: expected a {block} block of at least {least} whole members (one begins every "
                f"{self.made.samples + GAP} days and has {self.made.samples}), got {begun.sum()}, {whole.sum()} of "
                "them whole; set its dates"
            )
        return np.flatnonzero(whole)

    @cached_property
    def fine(self) -> tuple[np.ndarray, np.ndarray]:
        """X and U of the truth at every model step, (member, step, K)."""
        return self.system.sampled(self.config.step)

    @cached_property
    def subgrid(self) -> np.ndarray:
        """U of all samples, (sample, K)."""
        return np.asarray(self.fine[1][:, self.last * self.stride].reshape(-1, self.made.slow))

    @cached_property
    def truth(self) -> Course:
        """All members of the truth, at the fields' interval."""
        slow, subgrid = (one[:, :: self.stride].swapaxes(0, 1) for one in self.fine)
        return Course(slow, subgrid, np.full(self.made.members, -1))

    def windows(self, window: int) -> np.ndarray:
        """Return X of the windows of all samples, (sample, step, K)."""
        steps = (self.last[:, None] + np.arange(1 - window, 1)) * self.stride
        return np.asarray(self.fine[0][:, steps].reshape(-1, window, self.made.slow))

    def inside(self, block: str, units: np.ndarray | None = None) -> np.ndarray:
        """Return which samples lie in a block, or in some of its members, bool (sample,)."""
        chosen = np.isin(np.arange(self.made.members), self.parts[block] if units is None else units)
        return np.repeat(chosen, len(self.last))

    def check(self, shape: EncoderConfig) -> None:
        if shape.patch[1:] != (2, 1):
            raise EarthSSLError(
                f"parameterisation.encoder: expected a patch of 2 rows and 1 column, a token for each slow variable, "
                f"got {list(shape.patch)}; set encoder.patch to [{shape.patch[0]}, 2, 1]"
            )

    @cached_property
    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Member and model step at which each forecast begins, (case,) each."""
        test, each = self.parts["test"], -(-self.config.cases // len(self.parts["test"]))
        latest = self.fine[0].shape[1] - max(self.horizon) - 1
        times = np.linspace((self.shape.window - 1) * self.stride, latest, each).astype(int)
        return np.repeat(test, each)[: self.config.cases], np.tile(times, len(test))[: self.config.cases]

    def targets(self) -> Sequence[Target]:
        test, members = self.inside("test"), np.repeat(np.arange(self.made.members), len(self.last))
        mean = np.full(test.sum() * self.made.slow, self.subgrid[self.inside("train")].mean())
        offline = number_target(SUBGRID, self.subgrid[test].ravel(), mean, np.repeat(members[test], self.made.slow))
        found = [replace(offline, numbers=None)]  # closures have noise of their own, judged in forecasts
        climatology = self.fine[0][self.parts["train"]][:, :: 100 * self.stride].ravel()
        for lead, steps in zip(self.config.forecast_leads, self.horizon, strict=True):
            truth = self.fine[0][self.starts[0], self.starts[1] + steps].ravel()
            reference = ensemble_scores(np.tile(climatology[:, None], (1, len(truth))), truth)[0]
            found.append(forecast_target(f"X in {lead:g}", reference, np.repeat(self.starts[0], self.made.slow)))
        close = [
            additive(f"closeness of {what}", partial(run_scores, k), lambda sums, w: sums / w.sum())
            for k, what in enumerate(("X", "X and U"))
        ]
        return [*found, Target(CLIMATE, np.arange(self.config.runs), close)]

    def raw(self, window: int) -> np.ndarray:
        return neighbours(self.windows(window)).astype(np.float32)

    def training_samples(self) -> np.ndarray:
        return self.inside("train")

    def label_units(self) -> np.ndarray:
        return self.parts["train"]

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        train, val, test = self.inside("train", units), self.inside("val"), self.inside("test")
        found = []
        for candidate, values in features.items():
            path = RidgePath.fit(flat(values[train]), self.subgrid[train].reshape(-1, 1))
            said = path.predict(flat(values[val]), PENALTIES)[:, :, 0]
            errors = ((said - self.subgrid[val].ravel()) ** 2).mean(axis=1)
            found.append((float(errors.min()), candidate, PENALTIES[int(errors.argmin())], path))
        error, candidate, penalty, path = min(found, key=lambda one: one[0])
        said = path.predict(flat(features[candidate][test]), [penalty])[0, :, 0]
        chosen = {"features": candidate, "penalty": penalty, "validation mse": error}
        return Row(name, role, {SUBGRID: said}, seed, chosen, features={candidate: features[candidate]})

    def baselines(self, window: int) -> Iterable[Row]:
        for name, (reader, kinds) in KINDS.items():
            row = self.fitted(name, Role.BASELINE, {name: reader(self.windows(1), 0)})
            if reader is nothing:
                row = replace(row, forecast={SUBGRID: np.zeros_like(row.forecast[SUBGRID])})
            yield from self.coupled(row, reader, 1, kinds)

    def equal_input(self, window: int, random_seeds: int) -> Iterable[Row]:
        weights = random_weights(self.raw(window), self.training_samples(), RANDOM_FEATURES, 0)
        for row in super().equal_input(window, random_seeds):
            if row.name.startswith(f"{RAW} ["):
                yield from self.coupled(row, neighbours, window, OFTEN)
            elif row.name.startswith(RANDOM) and row.seed == 0:
                yield from self.coupled(row, partial(relu, weights), window, OFTEN)
            else:
                yield replace(row, features={})

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        windows, count = StoreWindows(self.store, encoder.encoder.config.window), self.made.slow
        patches = windows.patches(self.ends, encoder.encoder.config.patch, 512, f"tokens, {encoder.kind}")
        found = [
            torch.stack([every[layer][:, -count:] for layer in layers])
            for _, every in encoded(encoder.encoder, patches)
        ]
        tokens = {f"layer {layer + 1}": own.numpy() for layer, own in zip(layers, torch.cat(found, dim=1), strict=True)}
        own = {f"{name}, {OWN}": values for name, values in tokens.items()}
        return {self.head: own | {f"{name}, {WHOLE}": around(values) for name, values in tokens.items()}}

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        for row in super().rows(encoder, layers):
            yield from self.encoder_rows(row, encoder, (*OFTEN, STATE_NOISE) if row.role is Role.PRETRAINED else OFTEN)

    def encoder_rows(self, row: Row, encoder: Contender, kinds: Sequence[str]) -> Iterable[Row]:
        """Return the rows of an encoder coupled through a file."""
        layer, tokens = str(next(iter(row.features))).removeprefix("layer ").split(", ")
        reader = ExportedReader(
            encoder.encoder, self.store, int(layer) - 1, self.config.export, self.stride, tokens == WHOLE
        )
        return self.coupled(row, reader, encoder.encoder.config.window, kinds)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        windows, config = StoreWindows(self.store, self.shape.window), self.config.scratch
        train, val = np.flatnonzero(self.inside("train", units)), np.flatnonzero(self.inside("val"))
        wanted = torch.from_numpy((self.subgrid - self.subgrid[train].mean()) / self.subgrid[train].std()).float()

        def loss(network: PatchNetwork, samples: np.ndarray) -> torch.Tensor:
            return ((network(windows.batch(self.ends[samples]))[..., 0] - wanted[samples]) ** 2).mean()

        def new() -> PatchNetwork:
            return PatchNetwork(self.shape.build(self.store.variables), 1)

        for seed in range(config.seeds if seeds is None else seeds):
            found = learn(new, loss, lambda network: float(loss(network, val)), train, None, config, seed)
            encoder = Contender(SCRATCH, seed, found.network.encoder.requires_grad_(False), "", {})
            layer = encoder.encoder.depth - 1
            own = {f"layer {layer + 1}, {OWN}": self.embedded(encoder, [layer])[self.head][f"layer {layer + 1}, {OWN}"]}
            row = self.fitted(SCRATCH, Role.SCRATCH, own, seed, units)
            row = replace(row, chosen={**row.chosen, "steps": found.steps})
            yield from [replace(row, features={})] if units is not None else self.encoder_rows(row, encoder, OFTEN)

    def coupled(self, row: Row, reader: Reader, window: int, kinds: Sequence[str]) -> Iterable[Row]:
        """Yield a row with the scores of its closure coupled, and one for each kind of noise."""
        config, train, past = self.config, self.inside("train"), (window - 1) * self.stride
        features = next(iter(row.features.values()))
        closure = Closure.fit(reader, window, flat(features[train]), self.subgrid[train].ravel(), row.chosen["penalty"])
        if reader is nothing:
            closure = replace(closure, weight=0 * closure.weight, bias=0 * closure.bias)
        if len(kinds) > 1:
            stretch = slice(max(round(CALIBRATION[1] / config.step), past + 10 * config.noise_lag))
            slow, subgrid = (one[self.parts["train"][: CALIBRATION[0]], stretch] for one in self.fine)
            closure = closure.calibrated(slow, subgrid, self.stride, config.noise_lag)
        couple = partial(run, closure, dt=config.step, stride=self.stride, forcing=self.made.forcing)
        test, turns = self.parts["test"], np.arange(config.runs)
        begins = (self.shape.window - 1) * self.stride + turns // len(test) * self.stride
        long = couple(self.pasts(test[turns % len(test)], begins, past), kinds, config.steps, keep=self.stride,
                      seed=key(config.seed, "climate") & MASK)  # fmt: skip
        short = self.forecasts(couple, self.pasts(*self.starts, past), kinds)
        seed = "" if row.seed is None else f", seed {row.seed}"
        told = row.forecast[SUBGRID].std() / self.subgrid[self.inside("test")].std()
        self.closures.append({"row": row.name, "seed": row.seed, "residual": closure.spread, "phi": closure.phi[0],
                              "phi by state": closure.phi[1], "sd U offline over truth": float(told)})  # fmt: skip
        for kind in kinds:
            self.courses[f"{row.name}{kind}{seed}"] = long[kind]
            scores = {CLIMATE: closeness(long[kind], self.truth), **short[kind]}
            if kind == DETERMINISTIC:
                yield replace(
                    row, forecast={**row.forecast, **scores}, features=row.features if self.curved(row) else {}
                )
            else:
                yield replace(row, name=row.name + kind, forecast=scores, features={})

    def pasts(self, members: np.ndarray, times: np.ndarray, past: int) -> np.ndarray:
        """Return X of the truth up to some model steps, (case, past + 1, K)."""
        return np.stack([self.fine[0][m, t - past : t + 1] for m, t in zip(members, times, strict=True)])

    def forecasts(
        self, couple: Callable[..., dict[str, Course]], history: np.ndarray, kinds: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return the scores of ensemble forecasts, by kind of noise and target."""
        found: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in kinds}
        for count, own in ((1, kinds[:1]), (self.config.members, kinds[1:])):
            made = couple(np.repeat(history, count, axis=0), own, max(self.horizon) + 1, keep=self.horizon,
                          seed=key(self.config.seed, "forecasts") & MASK) if own else {}  # fmt: skip
            for kind, course in made.items():
                for k, (lead, steps) in enumerate(zip(self.config.forecast_leads, self.horizon, strict=True)):
                    ensemble = course.slow[k].reshape(len(history), count, -1).swapaxes(0, 1).reshape(count, -1)
                    truth = self.fine[0][self.starts[0], self.starts[1] + steps].ravel()
                    found[kind][f"X in {lead:g}"] = ensemble_scores(ensemble, truth)
        return found

    def headline(self, targets: Sequence[Target]) -> Sequence[Target]:
        return targets[:1]

    def samples(self) -> Mapping[str, Any]:
        return {block: {"members": len(own), "samples": len(own) * len(self.last)} for block, own in self.parts.items()}

    def convention_text(self) -> str:
        return self.convention.format(**vars(self.config))

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        table, half = climate_table(self.courses, self.truth, self.config.step), self.made.members // 2
        floor = [
            density(one.slow, one.subgrid) for one in (self.truth.of(slice(half)), self.truth.of(slice(half, None)))
        ]
        return Extras(
            figures={"climate": climate_figure(self.courses, self.truth), "spread": spread_figure(scores)},
            words={"climate": "Density of X over the truth's (left) and standard deviation of U given X, long runs.",
                   "spread": "Root mean variance of the ensembles over the RMSE of their mean: 1 is calibrated."},
            tables={"climate": table, "closures": pd.DataFrame(self.closures)},
            notes=[f"Hellinger distance of X and U between halves of the truth: {hellinger(*floor):.3f}.",
                   *(f"{one['row']}: {one['blown up']} of {one['runs']} runs blew up."
                     for one in table.to_dict("records") if one["blown up"])],
            record={"members": {name: own.tolist() for name, own in self.parts.items()}},
        )  # fmt: skip


def relu(weights: tuple[np.ndarray, np.ndarray], history: np.ndarray, step: int = 0) -> np.ndarray:
    """Return random ReLU features of the window as each variable sees it, (member, K, feature)."""
    return np.asarray(np.maximum(neighbours(history).astype(np.float32) @ weights[0] + weights[1], 0), np.float64)


def run_scores(k: int, row: Row) -> np.ndarray:
    """Return one of the closenesses of each long run of a row, (run,)."""
    return row.forecast[CLIMATE][k]


def flat(values: np.ndarray) -> np.ndarray:
    """Return (sample, K, feature) as (sample × K, feature)."""
    return np.asarray(values.reshape(-1, values.shape[-1]), dtype=np.float64)

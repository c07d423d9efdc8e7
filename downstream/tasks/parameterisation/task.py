"""parameterisation: the subgrid term of Lorenz '96 from a short history of its slow variables, offline and coupled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.randomness import key
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import patchify
from ....ssl.sources.lorenz96 import GAP, recorded_lorenz96
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.equal_input import RAW
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.store_windows import StoreWindows, encoded
from ...heads.ridge_path import PENALTIES, RidgePath
from ...results.row import Role, Row
from ...results.target import Metric, Target, additive, number_target
from ...training.from_scratch import SCRATCH, ScratchConfig, learn, seeded
from ...training.patch_network import PatchNetwork
from .closures import (
    DETERMINISTIC,
    NOISE,
    STATE_NOISE,
    Closure,
    ExportedReader,
    Reader,
    fit,
    neighbours,
    network_closure,
    powers,
)
from .coupled import Course, climate_table, closeness, density, ensemble_scores, hellinger, run
from .figures import climate_figure, spread_figure

NONE, LINEAR, CUBIC = "no closure", "linear in X", "cubic in X"
SUBGRID, CLIMATE = "U", "climate, coupled"
EXPORTS = ("torchscript", "onnx")
CALIBRATION = (8, 5.0)  # training members, and time units of each, that the memory of residuals is measured on
CONVENTION = (
    "Target: U of each slow variable, what the fast ones take from it, at the last step of a window; samples every "
    "{spacing} fields. Skill: R², 1 - squared error / that of the training mean. Heads are fitted on training members, "
    "layer and penalty chosen on validation, nothing is refitted with it; random features and components see the window "
    "from each variable round the ring. Coupled: a model of X alone, Runge–Kutta of fourth order, steps of {step:g}, the "
    "closure called once a step; encoders as exported files ({export}), fed raw fields and times. Climate: {runs} runs of "
    "{steps} steps from test states; score: 1 - Hellinger distance to the truth, of X in bins of .5 and of X and U "
    "together, 0 for a run that blew up (|X| > 100). Forecasts: {cases} test states, perfect start, {members} members "
    "(deterministic: 1); CRPS (fair) against that of the climatology. AR(1): noise of the residuals' deviation and "
    "memory; by state: of a deviation that is a function of the closure's features. Intervals: paired bootstrap over "
    "test members, for the climate over runs, given these seeds and this truth."
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
        self.expect(self.spacing >= 1, "spacing ≥ 1", "spacing")
        self.expect(self.step > 0, "a step above 0", "step")
        self.expect(self.steps >= 100, "steps ≥ 100", "steps")
        self.expect(self.runs >= 4, "runs ≥ 4, for intervals", "runs")
        self.expect(min(self.forecast_leads, default=0) > 0, "leads above 0, at least one", "forecast_leads")
        self.expect(len(set(self.forecast_leads)) == len(self.forecast_leads), "each lead once", "forecast_leads")
        self.expect(self.cases >= 4, "cases ≥ 4", "cases")
        self.expect(self.members >= 2, "members ≥ 2, for a spread", "members")
        self.expect(self.noise_lag >= 1, "noise_lag ≥ 1", "noise_lag")
        self.expect(self.export in EXPORTS, " or ".join(EXPORTS), "export")
        self.expect(self.seed >= 0, "seed ≥ 0", "seed")


class Parameterisation(Task[ParameterisationConfig]):
    """U from X, and what a model coupled to it does."""

    name = "parameterisation"
    what = "Subgrid term of Lorenz '96"
    convention = CONVENTION
    Config = ParameterisationConfig
    unit = "member"

    def __init__(self, config: ParameterisationConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.system = recorded_lorenz96(store.manifest["attributes"])
        made, stride = self.system.config, self.system.config.interval / config.step
        config.expect(
            stride >= 1 - 1e-6 and abs(stride - round(stride)) < 1e-6 and config.step >= made.dt - 1e-9,
            f"a divisor of the fields' interval {made.interval} from the truth's dt {made.dt} on", "step",
        )  # fmt: skip
        self.stride = round(stride)
        self.horizon = [round(lead / config.step) for lead in config.forecast_leads]
        whole = self.system.config.samples * self.stride
        config.expect(
            max(self.horizon) < whole // 2 and min(self.horizon) >= 1,
            f"leads from {config.step} to half a member, {whole // 2 * config.step:g}", "forecast_leads",
        )  # fmt: skip
        if len(store.times) != made.members * made.samples:
            raise EarthSSLError(
                f"parameterisation.store: expected all {made.members * made.samples} fields of the source, got "
                f"{len(store.times)}; prepare it without option time, splits that hold whole members"
            )
        self.courses: dict[str, Course] = {}
        self.closures: dict[str, dict[str, Any]] = {}

    @cached_property
    def fine(self) -> tuple[np.ndarray, np.ndarray]:
        """X and U of the truth at every model step, (member, step, K)."""
        return self.system.sampled(self.config.step)

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Members of each block.

        Raises:
            EarthSSLError: If a block cuts through a member, or the test block holds fewer than four.
        """
        made, store = self.system.config, self.store
        inside = {block: store.splits.inside(store.times, block).reshape(made.members, -1)
                  for block in ("train", "val", "test")}  # fmt: skip
        for block, mask in inside.items():
            if (mask.any(axis=1) != mask.all(axis=1)).any() or mask.all(axis=1).sum() < (4 if block == "test" else 1):
                raise EarthSSLError(
                    f"parameterisation.store: expected a {block} block of whole members (every "
                    f"{made.samples + GAP} days one of {made.samples}), at least 4 to test on, got "
                    f"{mask.any(axis=1).sum()} begun and {mask.all(axis=1).sum()} whole; set its dates"
                )
        return {block: np.flatnonzero(mask.all(axis=1)) for block, mask in inside.items()}

    @cached_property
    def last(self) -> np.ndarray:
        """Sample of each member at which windows end, (time,)."""
        made = self.system.config
        return np.arange(self.shape.window - 1, made.samples, self.config.spacing)

    @cached_property
    def rows_of_store(self) -> np.ndarray:
        """Steps of the store of all samples, member by member, (member × time,)."""
        made = self.system.config
        return np.asarray((np.arange(made.members)[:, None] * made.samples + self.last).ravel())

    @cached_property
    def subgrid(self) -> np.ndarray:
        """U of all samples, (member × time, K)."""
        fine = self.fine[1][:, :: self.stride][:, self.last]
        return np.asarray(fine.reshape(-1, fine.shape[2]))

    def inside(self, block: str, units: np.ndarray | None = None) -> np.ndarray:
        """Return which samples lie in a block, or in some of its members, bool (member × time,)."""
        found = np.isin(np.arange(self.system.config.members), self.parts[block] if units is None else units)
        return np.repeat(found, len(self.last))

    def check(self, shape: EncoderConfig) -> None:
        steps, rows, columns = shape.patch
        if (rows, columns) != (2, 1):
            raise EarthSSLError(
                f"parameterisation.encoder: expected a patch of 2 rows and 1 column, a token for each slow variable, "
                f"got {list(shape.patch)}; set encoder.patch to [{steps}, 2, 1]"
            )

    @cached_property
    def climatology(self) -> np.ndarray:
        """X of some training states, for the CRPS of the climatology, (state,)."""
        return self.fine[0][self.parts["train"]][:, :: 20 * self.stride].ravel()

    @cached_property
    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Member and model step at which each forecast begins, test members in turn, (case,) each."""
        test, config = self.parts["test"], self.config
        most = self.fine[0].shape[1] - max(self.horizon) - 1
        each = -(-config.cases // len(test))
        times = np.linspace((self.shape.window - 1) * self.stride, most, each).astype(int)
        members = np.repeat(test, each)[: config.cases]
        return members, np.tile(times, len(test))[: config.cases]

    def targets(self) -> Sequence[Target]:
        test, slow = self.inside("test"), self.system.config.slow
        members = np.repeat(np.repeat(np.arange(self.system.config.members), len(self.last))[test], slow)
        mean = np.full(test.sum() * slow, self.subgrid[self.inside("train")].mean())
        found = [number_target(SUBGRID, self.subgrid[test].ravel(), mean, members)]
        begun = np.repeat(self.starts[0], slow)
        for lead, steps in zip(self.config.forecast_leads, self.horizon, strict=True):
            name, truth = f"X in {lead:g}", self.fine[0][self.starts[0], self.starts[1] + steps].ravel()
            found.append(forecast_target(name, truth, self.climatology, begun))
        runs = np.arange(self.config.runs)
        return [*found, Target(CLIMATE, runs, [closeness_metric(0, "X"), closeness_metric(1, "X and U")], 1)]

    def raw(self, window: int) -> np.ndarray:
        x = self.system_windows(self.rows_of_store, window)
        return neighbours(x).astype(np.float32)

    def system_windows(self, rows: np.ndarray, window: int) -> np.ndarray:
        """Return X of the windows that end at some steps of the store, (window, step, K)."""
        made = self.system.config
        member, sample = np.divmod(rows, made.samples)
        steps = (sample[:, None] + np.arange(1 - window, 1)) * self.stride
        return np.asarray(self.fine[0][member[:, None], steps])

    def training_samples(self) -> np.ndarray:
        return self.inside("train")

    def label_units(self) -> np.ndarray:
        return self.parts["train"]

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        train, val, test = self.inside("train", units), self.inside("val"), self.inside("test")
        best: tuple[float, str, float, RidgePath] | None = None
        for candidate, values in features.items():
            path = RidgePath.fit(flat(values[train]), self.subgrid[train].reshape(-1, 1))
            said = path.predict(flat(values[val]), PENALTIES)[:, :, 0]
            errors = ((said - self.subgrid[val].ravel()) ** 2).mean(axis=1)
            k = int(errors.argmin())
            if best is None or errors[k] < best[0]:
                best = (float(errors[k]), candidate, PENALTIES[k], path)
        assert best is not None
        error, candidate, penalty, path = best
        said = path.predict(flat(features[candidate][test]), [penalty])[0, :, 0]
        chosen = {"features": candidate, "penalty": penalty, "validation mse": error}
        kept = {candidate: features[candidate]} if name.endswith(f"[{self.head}]") else {}
        return Row(name, role, {SUBGRID: said}, seed, chosen, features=kept)

    def baselines(self, window: int) -> Iterable[Row]:
        now = self.system_windows(self.rows_of_store, 1)
        train = self.inside("train")
        for name, degree, kinds in ((NONE, 0, [DETERMINISTIC]), (LINEAR, 1, [DETERMINISTIC, NOISE]),
                                    (CUBIC, 3, [DETERMINISTIC, NOISE, STATE_NOISE])):  # fmt: skip
            reader = powers(degree)
            values = reader(now, 0)
            closure = fit(reader, 1, flat(values[train]), self.subgrid[train].ravel(), None)
            if not degree:
                closure = Closure(1, reader, np.zeros((1, 2)), np.zeros(2))
            said = closure(now[self.inside("test")])[0].ravel()
            yield from self.coupled(Row(name, Role.BASELINE, {SUBGRID: said}), closure, kinds)

    def equal_input(self, window: int, random_seeds: int) -> Iterable[Row]:
        for row in super().equal_input(window, random_seeds):
            if row.name.startswith(f"{RAW} ["):
                yield from self.coupled(row, self.closure_of(row, neighbours, window), [DETERMINISTIC, NOISE])
            else:
                yield row

    def closure_of(self, row: Row, reader: Reader, window: int) -> Closure:
        """Return the closure of a row whose head is ridge, fitted as the row was."""
        train, values = self.inside("train"), next(iter(row.features.values()))
        return fit(reader, window, flat(values[train]), self.subgrid[train].ravel(), row.chosen["penalty"])

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        windows = StoreWindows(self.store, encoder.encoder.config.window)
        count, found = self.system.config.slow, []
        patches = windows.patches(self.rows_of_store, encoder.encoder.config.patch, 512, f"tokens, {encoder.kind}")
        for _, every in encoded(encoder.encoder, patches):
            found.append(torch.stack([every[layer][:, -count:] for layer in layers]).numpy())
        tokens = np.concatenate(found, axis=1)
        return {self.head: {f"layer {layer + 1}": own for layer, own in zip(layers, tokens, strict=True)}}

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        kinds = [DETERMINISTIC, NOISE, STATE_NOISE]
        for row in super().rows(encoder, layers):
            layer = int(str(row.chosen["features"]).removeprefix("layer ")) - 1
            reader = self.exported(encoder.encoder, layer)
            yield from self.coupled(row, self.closure_of(row, reader, encoder.encoder.config.window), kinds)

    def exported(self, encoder: Encoder, layer: int) -> ExportedReader:
        """Return the reader of an encoder through a file."""
        reader = ExportedReader(encoder, self.store, layer, self.config.export)
        reader.steps_a_day = self.stride
        return reader

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        count, windows = self.config.scratch.seeds if seeds is None else seeds, StoreWindows(self.store, self.shape.window)
        train, val, test = self.inside("train", units), self.inside("val"), self.inside("test")
        mean, spread = self.subgrid[train].mean(), self.subgrid[train].std()
        wanted = torch.from_numpy((self.subgrid - mean) / spread).float()

        def said(network: PatchNetwork, samples: np.ndarray) -> torch.Tensor:
            return network(patchify(windows.batch(self.rows_of_store[samples]), self.shape.patch))[..., 0]

        def loss(network: PatchNetwork, samples: np.ndarray) -> torch.Tensor:
            return ((said(network, samples) - wanted[samples]) ** 2).mean()

        @torch.no_grad()
        def told(network: PatchNetwork, samples: np.ndarray) -> np.ndarray:
            network.eval()
            parts = np.array_split(samples, max(1, len(samples) // 512))
            return np.concatenate([said(network, part).numpy() for part in parts]).astype(np.float64)

        def score(network: PatchNetwork) -> float:
            return float(((told(network, np.flatnonzero(val)) - wanted[val].numpy()) ** 2).mean())

        for seed in range(count):

            def make(seed: int = seed) -> PatchNetwork:
                seeded(seed)
                return PatchNetwork(self.shape.build(self.store.variables), 1)

            found = learn(make, loss, score, np.flatnonzero(train), None, self.config.scratch, seed)
            out = mean + spread * told(found.network, np.flatnonzero(test)).ravel()
            row = Row(SCRATCH, Role.SCRATCH, {SUBGRID: out}, seed, {"steps": found.steps, "validation": found.score})
            if units is not None:
                yield row
                continue
            head = {"weight": spread * found.network.head.weight[0].detach().double().numpy(),
                    "bias": mean + spread * float(found.network.head.bias[0]),
                    "said": mean + spread * told(found.network, np.flatnonzero(train)).ravel()}  # fmt: skip
            reader = self.exported(found.network.encoder, found.network.encoder.depth - 1)
            closure = network_closure(reader, self.shape.window, head, self.subgrid[train].ravel())
            yield from self.coupled(row, closure, [DETERMINISTIC, NOISE])

    def coupled(self, row: Row, closure: Closure, kinds: Sequence[str]) -> Iterable[Row]:
        """Yield a row with its coupled scores, and one for each kind of noise."""
        config, made, test = self.config, self.system.config, self.parts["test"]
        members, units = self.parts["train"][: CALIBRATION[0]], round(CALIBRATION[1] / config.step)
        stretch = (slice(None), slice(0, max(units, (closure.window + 1) * self.stride)))
        if len(kinds) > 1:
            fine = [one[members][stretch] for one in self.fine]
            closure = closure.calibrated(*fine, self.stride, config.noise_lag)
        past = (closure.window - 1) * self.stride
        common: dict[str, Any] = {"dt": config.step, "stride": self.stride, "forcing": made.forcing}
        begins = past + (np.arange(config.runs) // len(test)) * self.stride * 20
        history = np.stack([self.fine[0][test[k % len(test)], begins[k] - past : begins[k] + 1]
                            for k in range(config.runs)])  # fmt: skip
        long = run(closure, history, kinds, config.steps, keep=self.stride, seed=self.noise_seed("climate"), **common)
        short = self.forecasts(closure, kinds, past, common)
        suffix = "" if row.seed is None else f", seed {row.seed}"
        self.closures[row.name + suffix] = {"spread": closure.spread, "phi": closure.phi[0], "phi by state": closure.phi[1]}
        for kind in kinds:
            self.courses[f"{row.name}{kind}{suffix}"] = long[kind]
            forecast = {CLIMATE: closeness(long[kind], self.truth), **short[kind]}
            if kind == DETERMINISTIC:
                forecast = {**row.forecast, **forecast}
            features = row.features if kind == DETERMINISTIC else {}
            yield Row(row.name + kind, row.role, forecast, row.seed, row.chosen, row.reference, features=features)

    def forecasts(
        self, closure: Closure, kinds: Sequence[str], past: int, common: Mapping[str, Any]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return the scores of ensemble forecasts, by kind of noise and target."""
        member, time = self.starts
        history = np.stack([self.fine[0][m, t - past : t + 1] for m, t in zip(member, time, strict=True)])
        found: dict[str, dict[str, np.ndarray]] = {}
        for noisy in (False, True):
            own = [kind for kind in kinds if (kind != DETERMINISTIC) == noisy]
            if not own:
                continue
            count = self.config.members if noisy else 1
            made = run(closure, np.repeat(history, count, axis=0), own, max(self.horizon) + 1, keep=self.horizon,
                       seed=self.noise_seed("forecasts"), **common)  # fmt: skip
            for kind, course in made.items():
                found[kind] = {}
                for k, (lead, steps) in enumerate(zip(self.config.forecast_leads, self.horizon, strict=True)):
                    ensemble = course.slow[k].reshape(len(member), count, -1).swapaxes(0, 1).reshape(count, -1)
                    truth = self.fine[0][member, time + steps].ravel()
                    found[kind][f"X in {lead:g}"] = ensemble_scores(ensemble, truth)
        return found

    def noise_seed(self, purpose: str) -> int:
        """Return the seed of the noise of one purpose."""
        return key(self.config.seed, f"parameterisation, {purpose}") & (2**63 - 1)

    @cached_property
    def truth(self) -> Course:
        """All members of the truth, at the fields' interval."""
        slow, subgrid = (np.moveaxis(one[:, :: self.stride], 0, 1) for one in self.fine)
        return Course(slow, subgrid, np.full(slow.shape[1], -1))

    def shown(self, targets: Sequence[Target]) -> Sequence[Target]:
        return targets

    def headline(self, targets: Sequence[Target]) -> Sequence[Target]:
        return targets[:1]

    def curved(self, row: Row) -> bool:
        return super().curved(row) and bool(row.features)

    def samples(self) -> Mapping[str, Any]:
        return {block: {"members": len(own), "samples": len(own) * len(self.last)} for block, own in self.parts.items()}

    def convention_text(self) -> str:
        config = self.config
        return self.convention.format(spacing=config.spacing, step=config.step, export=config.export, runs=config.runs,
                                      steps=config.steps, cases=config.cases, members=config.members)  # fmt: skip

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        table = climate_table(self.courses, self.truth, self.config.step)
        half = len(self.truth.ended) // 2
        floor = [density(one.slow, one.subgrid) for one in (self.truth.of(slice(half)), self.truth.of(slice(half, None)))]
        lost = table[table["blown up"] > 0]
        notes = [f"Sampling floor of the Hellinger distance of X and U: {hellinger(*floor):.3f} between halves of the truth."]
        notes += [f"{one['row']}: {one['blown up']} of {one['runs']} runs blew up." for _, one in lost.iterrows()]
        return Extras(
            figures={"climate": climate_figure(self.courses, self.truth), "spread": spread_figure(scores)},
            words={"climate": "Density of X (left) and standard deviation of U given X (right) in the long runs.",
                   "spread": "Root mean variance of the ensembles over the RMSE of their mean: 1 is calibrated."},
            tables={"climate": table},
            notes=notes,
            record={"closures": self.closures, "members": {name: own.tolist() for name, own in self.parts.items()}},
        )  # fmt: skip


def flat(values: np.ndarray) -> np.ndarray:
    """Return (time, K, feature) as (time × K, feature)."""
    return np.asarray(values.reshape(-1, values.shape[-1]), dtype=np.float64)


def forecast_target(name: str, truth: np.ndarray, climatology: np.ndarray, units: np.ndarray) -> Target:
    """Return the target of ensemble forecasts, whose rows hold `ensemble_scores`.

    Args:
        name: Of the target.
        truth: (case,).
        climatology: An ensemble that knows nothing of the state, (state,).
        units: Independent unit of each case.
    """
    reference = ensemble_scores(np.tile(climatology[:, None], (1, len(truth))), truth)[0]

    def part(k: int) -> Any:
        return lambda row: row.forecast[name][k]

    metrics = [
        additive("crps_skill", part(0), lambda error, w: 1 - error / (reference @ w)),
        additive("crps", part(0), lambda error, w: error / w.sum(), larger_is_better=False),
        additive("rmse", part(1), lambda error, w: np.sqrt(error / w.sum()), larger_is_better=False),
        additive("spread_over_error", lambda row: row.forecast[name][1:],
                 lambda both, w: np.sqrt(both[1] / np.maximum(both[0], 1e-12)), compared=False),
    ]  # fmt: skip
    return Target(name, units, metrics, 1)


def closeness_metric(k: int, what: str) -> Metric:
    """Return the mean closeness of a row's runs to the truth, see `closeness`."""
    return additive(f"closeness of {what}", lambda row: row.forecast[CLIMATE][k], lambda sums, w: sums / w.sum())

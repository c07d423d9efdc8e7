"""Closures of the weather planet: identities of truncation, planted drags, noise with its moments, the whole task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run as run_task
from earthssl.downstream.tasks.parameterisation import weather_closures as closures
from earthssl.downstream.tasks.parameterisation import weather_task
from earthssl.downstream.tasks.parameterisation.coupled import DETERMINISTIC, NOISE
from earthssl.downstream.tasks.parameterisation.weather_coupled import (
    SCORES,
    Measured,
    climate_row,
    floor_row,
    run,
    scores,
)
from earthssl.downstream.tasks.parameterisation.weather_task import (
    WeatherParameterisation,
    WeatherParameterisationConfig,
)
from earthssl.downstream.tasks.parameterisation.weather_truth import Truth, subgrid, truncated
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.sources.weather.history import from_model, to_model
from earthssl.ssl.sources.weather.model import Model
from earthssl.ssl.sources.weather.sphere import Sphere
from earthssl.ssl.sources.weather.vertical import ONE_DAY
from earthssl.ssl.sources.weather.weather import Weather, WeatherConfig
from earthssl.ssl.sources.weather.world import World

T21 = closures.T21
N = T21.known[1]
STILL = World(shear=(0.0, 0.0), wave=(0.0, 0.0), mountains=0.0, land_drag=1.0)  # nothing that the grid would show


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(T21, World())


def states(count: int, size: float = 0.02, seed: int = 0) -> np.ndarray:
    """Random states of the planet's size, weaker at smaller scales."""
    made = size * np.random.default_rng(seed).normal(size=(count, 3, len(N))) / np.maximum(N, 1)
    return np.asarray(made * (N > 0), np.float32)


def going(closure: closures.Closure, model: Model, past: np.ndarray, noises: Any, steps: int, **more: Any) -> Any:
    """Couple with every step kept; the map of a state is its first coefficient everywhere."""
    options = {"every": 3, "keep": range(steps), "bound": np.inf, "seed": 0, "fields": first_coefficient, **more}
    return run(closure, model, past, np.zeros(len(past)), noises, **options)


def first_coefficient(packed: np.ndarray) -> np.ndarray:
    return packed[..., 0, 1, None, None, None] * np.ones((1, 32, 64))


# ---- The subgrid term ----------------------------------------------------------------------------------------


def test_what_lies_within_t21_moves_alike_at_both_truncations_but_for_diffusion() -> None:
    """Products of T21 are exact on either grid, so the term is the difference of two linear dampings, by n alone."""
    fine, coarse = (Model(Sphere(truncation), STILL, torch.float64) for truncation in (42, 21))
    small = states(2).astype(np.float64)
    wide = np.zeros((2, 3, 85, 43))
    wide[..., :43, :22] = T21.unpacked(small)
    packed = fine.sphere.packed(wide)
    np.testing.assert_array_equal(truncated(fine.sphere, T21, packed), small)
    rates = [(N * (N + 1) / (top * (top + 1))) ** 4 / (2 * ONE_DAY) for top in (21, 42)]
    found = subgrid(fine, coarse, packed, np.zeros(2))
    np.testing.assert_allclose(found, (rates[0] - rates[1]) * small, atol=1e-12)
    ideal = [Model(Sphere(truncation), STILL, torch.float64, adiabatic=True) for truncation in (42, 21)]
    assert np.abs(subgrid(*ideal, packed, np.zeros(2))).max() < 1e-12
    wide[..., 30] = 1e-3  # smaller scales are felt through products with larger ones, and only so
    felt = subgrid(*ideal, fine.sphere.packed(wide), np.zeros(2))
    assert np.abs(felt).max() > 1e-6


# ---- Coupling ------------------------------------------------------------------------------------------------


def test_a_closure_of_zero_is_the_bare_model_bit_for_bit(model: Model) -> None:
    start = states(2)
    silent = replace(closures.none(len(N)), local=lambda fields, days: np.zeros((len(fields), 3, 32, 64)))
    with torch.inference_mode():
        state, driving = to_model(T21, start), model.driving(np.zeros(2))
        for _ in range(5):
            state = model.step(state, driving, 1 / 12)
        expected = from_model(T21, state)
    for closure in (closures.none(len(N)), silent):
        course = going(closure, model, start[:, None], [DETERMINISTIC], 6)[DETERMINISTIC]
        np.testing.assert_array_equal(course.slow[5], expected)
        assert (course.subgrid == 0).all()


def test_a_drag_acts_at_its_rate_and_a_run_that_grows_is_told_while_others_go_on() -> None:
    """Adiabatic, one harmonic alone carries itself nowhere: a step multiplies it by 1 + rate × length, exactly."""
    model = Model(T21, replace(STILL, radii=(1e6, 1e6)), adiabatic=True)
    start = np.zeros((2, 1, 3, len(N)), np.float32)
    start[0, 0, 0, np.flatnonzero((T21.known[0] == 0) & (N == 5))] = 0.01  # zonal
    closure = replace(closures.none(len(N)), drag=np.tile(0.5 * np.eye(3, dtype=np.float32), (len(N), 1, 1)))
    factor = 1 + 0.5 * ONE_DAY / 12
    course = going(closure, model, start, [DETERMINISTIC], 5, bound=0.01**2 * factor**6.5)[DETERMINISTIC]
    power = np.sqrt((course.slow**2).sum(axis=(2, 3)))
    np.testing.assert_allclose(power[:4, 0], 0.01 * factor ** np.arange(4), rtol=1e-5)
    assert course.ended.tolist() == [3, -1]
    assert (course.slow[4] == 0).all()


def test_maps_are_asked_for_every_so_often_and_see_the_day_before(model: Model) -> None:
    """A closure that says the oldest field of its window, 24 h ago."""
    past = states(13, 0.5)[None]
    seen = []

    def oldest(fields: np.ndarray, days: np.ndarray) -> np.ndarray:
        seen.append((fields[0, :, 0, 0, 0], days[0]))
        return np.zeros((len(fields), 3, 32, 64))

    course = going(replace(closures.none(len(N)), local=oldest), model, past, [DETERMINISTIC], 14)[DETERMINISTIC]
    values = np.concatenate([past[0, :-1, 0, 1], course.slow[:, 0, 0, 1]])
    assert [day for _, day in seen] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    for k, (both, _) in enumerate(seen):
        np.testing.assert_array_equal(both, values[[3 * k, 3 * k + 12]])


def test_noise_has_the_covariance_of_the_residuals_and_their_memory(model: Model) -> None:
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(20, 3, len(N))).astype(np.float32)
    patterns[:, 1] = patterns[:, 0]
    phi = np.where(N < 10, 0.9, 0.3).astype(np.float32)
    noisy = replace(closures.none(len(N)), patterns=1e-6 * patterns, phi=phi)
    course = going(noisy, model, 0 * states(40)[:, None], [DETERMINISTIC, NOISE], 3)
    assert (course[DETERMINISTIC].subgrid == 0).all()
    noise = 1e6 * course[NOISE].subgrid
    np.testing.assert_array_equal(noise[:, :, 0], noise[:, :, 1])
    for part, expected in ((N < 10, 0.9), (N >= 10, 0.3)):
        own = noise[..., part]
        assert own.var() == pytest.approx((patterns[..., part] ** 2).mean(), rel=0.1)
        assert (own[1:] * own[:-1]).mean() / (own**2).mean() == pytest.approx(expected, abs=0.03)


# ---- Fits ----------------------------------------------------------------------------------------------------


def test_a_planted_drag_by_scale_is_found() -> None:
    rng, now = np.random.default_rng(0), states(60)
    rate = rng.normal(size=(22, 3, 3))
    rate[0] = 0
    told = 0.3 + np.einsum("kij,skj->sik", rate[N], now.swapaxes(1, 2))
    told = np.asarray(told, np.float32)
    made = closures.linear(T21, now, told)
    np.testing.assert_allclose(made.drag, rate[N], atol=2e-3)
    np.testing.assert_allclose(made.fixed(now), told, atol=1e-5)


def test_the_memory_of_residuals_is_that_of_the_process_at_any_lag() -> None:
    rng, phi = np.random.default_rng(0), np.where(N < 8, 0.8, 0.4)
    left = np.empty((8, 40, 3, len(N)))
    left[:, 0] = rng.normal(size=left[:, 0].shape)
    for k in range(1, 40):
        left[:, k] = phi * left[:, k - 1] + np.sqrt(1 - phi**2) * rng.normal(size=left[:, 0].shape)
    flat = left.reshape(-1, 3, len(N))
    for lag in (1, 2):
        made = closures.with_noise(closures.none(len(N)), flat + 5, 1.5, left + 5, lag, N)
        assert made.phi is not None
        np.testing.assert_allclose(made.phi[N > 3], phi[N > 3], atol=0.05)
    assert made.patterns is not None
    np.testing.assert_allclose(made.patterns, 1.5 * (flat - flat.mean(axis=0)), atol=1e-5)


def test_patches_are_cut_and_joined_and_see_their_neighbours_round_the_globe() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 32, 64))
    patches = closures.cut(maps, (4, 4))
    np.testing.assert_array_equal(patches[1, 2, 5].reshape(3, 4, 4), maps[1, :, 8:12, 20:24])
    np.testing.assert_array_equal(closures.joined(patches, (4, 4)), maps)
    wide = closures.around(patches).reshape(2, 8, 16, 3, 3, 48)
    np.testing.assert_array_equal(wide[0, 3, 0, 0, 0], patches[0, 2, 15])
    np.testing.assert_array_equal(wide[0, 3, 15, 2, 2], patches[0, 4, 0])
    assert (wide[:, 0, :, 0] == 0).all()
    packed = states(2)
    np.testing.assert_allclose(closures.analysed(closures.mapped(packed)), packed, atol=1e-7)


@pytest.mark.parametrize("scope", [closures.OWN, closures.PLACE, closures.AROUND])
def test_heads_find_what_was_planted(scope: str) -> None:
    """A linear term by row, by place, or of the patch to the west; its scope is the one that validation chooses."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 2, 4, 3)).astype(np.float32)
    weight = rng.normal(size=(2, 4, 3, 12)) if scope == closures.PLACE else rng.normal(size=(2, 1, 3, 12))
    seen = np.roll(features, 1, axis=2) if scope == closures.AROUND else features
    wanted = closures.joined(np.matmul(seen[:, :, :, None], weight)[:, :, :, 0] + 1, (2, 2))
    train = np.arange(120) < 90
    _, _, _, head = closures.fit_head({"it": features}, wanted, train, ~train, np.ones((3, 4, 1)), (2, 2))
    assert head.scope == scope
    np.testing.assert_allclose(head.of(features), wanted, atol=1e-3)


def test_what_is_not_there_on_validation_gets_no_gain() -> None:
    rng = np.random.default_rng(0)
    left = rng.normal(size=(40, 3, len(N))).astype(np.float32)
    said = np.where(N < 8, rng.normal(size=left.shape), 2 * left)
    closure = replace(closures.none(len(N)), local=lambda fields, days: closures.mapped(said))
    gain = closures.shrunk(closure, left, np.zeros(40), left, N).gain
    np.testing.assert_allclose(np.asarray(gain)[N >= 8], 0.5, atol=1e-3)
    assert np.asarray(gain)[(N < 8) & (N > 1)].max() < 0.2


def test_the_local_network_is_the_same_at_every_longitude() -> None:
    torch.manual_seed(0)
    network = closures.LocalNetwork(6, 4, T21.nodes[0])
    values = torch.randn(2, 6, 32, 64)
    assert (network(values) == 0).all()
    torch.nn.init.normal_(network.layers[-1].weight)
    torch.testing.assert_close(network(values.roll(9, -1)), network(values).roll(9, -1), atol=1e-5, rtol=0)


# ---- Scores --------------------------------------------------------------------------------------------------


def test_the_truth_is_close_to_itself_and_a_stronger_run_is_not(model: Model) -> None:
    now = np.stack([states(40, seed=k) for k in range(2)], axis=1)
    truth, strong = Measured(model, now[:, :1]), Measured(model, 2 * now[:, :1])
    area = T21.nodes[1]
    np.testing.assert_allclose(scores(truth, truth, area, np.array([False]))[:, 0], [1, 0, 0, 0, 0, 1], atol=1e-5)
    found = scores(strong, truth, area, np.array([False]))[:, 0]
    np.testing.assert_allclose(found[[1, 2, 5]], [np.log10(4), np.log10(4), 4], rtol=1e-4)
    assert 0.3 < found[0] < 0.9
    assert scores(strong, truth, area, np.array([True]))[0, 0] == 0
    course = SimpleNamespace(ended=np.array([-1]), subgrid=3 * now[:, :1])
    line = climate_row("it", strong, course, truth, now[:, 0], area)  # type: ignore[arg-type]
    assert line["energy over truth, n 8–14"] == pytest.approx(4, rel=1e-4)
    assert line["sd of subgrid over truth"] == pytest.approx(3, rel=1e-4)
    assert line["blown up"] == 0


def test_the_floor_is_one_part_of_the_truth_beside_the_others(model: Model) -> None:
    """Four years, of which the last is twice as strong: beside three calm ones it is as far as a strong run."""
    now = np.stack([states(40, seed=k) * (2 if k == 3 else 1) for k in range(4)], axis=1)
    line, told = floor_row(now, model, np.array([3]), 1, now[:, 3], T21.nodes[1])
    lost = np.array([False])
    own, others = Measured(model, now[:, 3:]), Measured(model, now[:, :3])
    np.testing.assert_allclose([line[name] for name in SCORES], scores(own, others, T21.nodes[1], lost)[:, 0])
    assert line["runs"] == 1
    assert "T42 itself, 1 of its years against the others: closeness 0." in told
    both, _ = floor_row(now, model, np.array([1, 2, 3]), 2, now[:, 3], T21.nodes[1])
    assert both["runs"] == 1  # one stretch of two years; the third is no whole one


# ---- The task ------------------------------------------------------------------------------------------------

SPLITS = SplitsConfig(("1900-01-01", "1900-12-31"), ("1901-02-01", "1901-05-31"), ("1901-07-01", "1901-12-31"), 20)
PLANET = {"dynamics": "quasi-geostrophic", "years": 1}


@pytest.fixture(scope="module")
def config() -> WeatherParameterisationConfig:
    return WeatherParameterisationConfig(
        "store", train_years=2, test_years=4, spacing=2, years=1, runs=4, every=6, forecast_leads=[1], cases=4,
        members=2, draws=1000, untrained_seeds=1, random_seeds=1, fractions=[], width=4,
        scratch=ScratchConfig(1, 10, 8, check_every=5), encoder=EncoderConfig("pico", 2, (1, 4, 4)),
    )  # fmt: skip


def store_of(**more: Any) -> Any:
    """What the task asks of a store of the planet, without files."""
    shape = (3, 32, 64)
    level, scale = np.full((1, 1, *shape), 5e4, np.float32), np.full(shape, 1e3, np.float32)
    known: dict[str, Any] = {
        "manifest": {"attributes": {"planet": json.dumps(PLANET)}, "units": ["m2 s-2"] * 3, "source": "weather"},
        "step_days": 1.0, "grid": LatLonGrid(T21.lat, T21.lon), "variables": ("z200", "z500", "z850"),
        "statistics": Statistics("hour", (0,), 0, level, scale), "fingerprint": "", "splits": SPLITS.build(),
    }  # fmt: skip
    return SimpleNamespace(**{**known, **more})


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("train_years", 0, "train_years ≥ 1, got 0"),
        ("val_years", 0, "val_years ≥ 1"),
        ("test_years", -1, "test_years ≥ 1"),
        ("truth_seed", -1, "truth_seed ≥ 0"),
        ("spacing", 0, "spacing ≥ 1"),
        ("spacing", 31, "at most 30 days"),
        ("years", 0, "years ≥ 1"),
        ("runs", 3, "runs ≥ 4"),
        ("every", 5, "a divisor of the 12 steps of a day, got every 5"),
        ("every", 24, "a divisor of the 12 steps of a day"),
        ("forecast_leads", [], "forecast_leads > 0, at least one"),
        ("forecast_leads", [1.5], "whole days, at most 30"),
        ("forecast_leads", [1, 31], "whole days, at most 30"),
        ("forecast_leads", [2, 2], "forecast_leads each once"),
        ("cases", 1, "cases ≥ 4"),
        ("members", 1, "members ≥ 2"),
        ("noise_lag", 13, "at most the 12 steps of a day"),
        ("export", "fortran", "one of torchscript, onnx, got 'fortran'"),
        ("width", 0, "width ≥ 1"),
        (
            "encoder",
            EncoderConfig("pico", 2, (1, 5, 4)),
            r"divide 32 rows and 64 columns.*to \[1, 4, 4\]",
        ),
        ("encoder", EncoderConfig("pico", 2, (2, 4, 4)), "patches of one step"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(
    config: WeatherParameterisationConfig, setting: str, value: Any, said: str
) -> None:
    with pytest.raises(EarthSSLError, match=said) as caught:
        WeatherParameterisation(replace(config, **{setting: value}), store_of())
    assert "\n" not in str(caught.value)


def test_a_store_of_something_else_is_refused(
    config: WeatherParameterisationConfig, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = {"attributes": {"planet": json.dumps({**PLANET, "truncation": 42})}}
    for more in ({"step_days": 0.5}, {"grid": LatLonGrid(T21.lat[:16], T21.lon)}, {"manifest": fine}):
        with pytest.raises(EarthSSLError, match="daily fields of the whole globe at T21, 32 × 64, got T"):
            WeatherParameterisation(config, store_of(**more))
    words = ["probe", "--task", "parameterisation_weather", "--store", str(small_store), "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert "expected a store of the weather planet" in said
    assert len(said.splitlines()) == 1


class ShortTruth(Truth):
    """Two weeks of seven years of states at random, which change slowly, in the place of T42's own."""

    def __init__(self, cache: Path) -> None:
        super().__init__(Weather(WeatherConfig(years=7, members=7, truncation=42, cache=str(cache))))
        self.days = 14

    def fine_states(self, members: np.ndarray, days: np.ndarray) -> np.ndarray:
        sphere, first = self.planet.sphere, self.planet.history.first_disturbances()
        found = from_model(sphere, self.fine.state_of(to_model(sphere, first[members])))
        n, phase = sphere.known[1], days[:, None, None] + np.arange(len(sphere.known[0]))
        return np.asarray(found * (1 + 0.1 * np.sin(phase) * (n > 3)), np.float32)


def test_forecasts_begin_in_the_middles_of_equal_parts(config: WeatherParameterisationConfig, tmp_path: Path) -> None:
    members, days = WeatherParameterisation(config, store_of(), truth=ShortTruth(tmp_path)).cases
    assert members.tolist() == [3, 4, 5, 6]
    assert days.tolist() == [6] * 4  # one a year: not at its first day
    days = WeatherParameterisation(replace(config, cases=8), store_of(), truth=ShortTruth(tmp_path)).cases[1]
    assert days.tolist() == [3, 9] * 4


@pytest.mark.slow
def test_the_whole_task(config: WeatherParameterisationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row has every score, coupled and not, and the curve over labels has its rows."""
    monkeypatch.setattr(weather_task, "YEAR", 6)
    curve = {"fractions": [0.5, 1.0], "label_draws": 1}
    store = store_of(synthetic=True, fingerprint="it", path=tmp_path / "store")
    store.manifest["split_proof"] = {}
    out = run_task(WeatherParameterisation(replace(config, out=str(tmp_path / "out"), **curve), store,
                                           truth=ShortTruth(tmp_path)))  # fmt: skip
    scored = pd.read_csv(out / "scores.csv")
    for row in ("no closure", "constant", "drag by wavenumber", "raw window [ridge]", "untrained [ridge]",
                "random features of the raw window [ridge]", "local network from scratch"):  # fmt: skip
        found = scored[scored["row"] == row]
        assert set(found["target"]) == {"subgrid term", "z500 in 1", "climate, coupled"}
        assert np.isfinite(found["value"]).all()
    assert "untrained [ridge], AR(1)" in set(scored["row"])
    shares = pd.read_csv(out / "label_curve.csv")
    assert {"raw window [ridge]", "untrained [ridge]", "local network from scratch"} <= set(shares["row"])
    climate = pd.read_csv(out / "climate.csv").set_index("row")
    assert (climate.loc[["no closure", "constant"], "blown up"] == 0).all()  # what is learnt of such a truth may well
    assert climate.loc["T42 itself", "runs"] == 4
    assert climate.loc["no closure", "sd of subgrid over truth"] == 0
    assert {"climate.png", "spread.png", "report.html", "by_wavenumber.csv"} <= {file.name for file in out.iterdir()}


@pytest.mark.slow
def test_an_exported_encoder_says_what_the_encoder_says(config: WeatherParameterisationConfig) -> None:
    """Its tokens of raw maps at noon are those of the normalised windows of that day and the day before."""
    task = WeatherParameterisation(config, store_of())
    encoder = task.encoders()[0].encoder
    fields = (5e4 + 1e3 * np.random.default_rng(0).normal(size=(2, 2, 3, 32, 64))).astype(np.float32)
    days = np.array([-3000.5, 17.5])
    told = closures.ExportedPatches(encoder, task.store, 0, "torchscript")(fields, days)
    seconds = torch.from_numpy(closures.instants(days, 2).astype(np.int64))
    assert str(closures.instants(days, 2)[1, 1]) == "2000-01-18T00:00:00"
    known = torch.ones(3, 32, 64, dtype=torch.bool)
    values = torch.from_numpy(closures.normalised(task.store, fields, days))
    keys = torch.zeros(2, dtype=torch.int64)
    batch = from_fields(values, seconds, keys, known, task.store.variables, task.store.grid)
    tokens = encoder.layers(patchify(batch, (1, 4, 4)))[0][:, -128:]
    np.testing.assert_allclose(told.reshape(2, 128, -1), tokens.numpy(), atol=1e-4)

"""Constraints on fields: each layer does what it says in units, penalties are 0 where they hold, gradients flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from earthssl.ssl.common.config import build
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.constraints.config import ConstraintConfig
from earthssl.ssl.constraints.field_constraints import FieldConstraints, check_training
from earthssl.ssl.constraints.scene import Scene, area_mean
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics

NAMES = ("tp", "z500", "u500", "v500")
GRID = LatLonGrid(np.linspace(82.5, -82.5, 12), np.arange(16) * 22.5)
REGION = LatLonGrid(np.linspace(40, 10, 7), np.arange(6) * 5.0)
TIMES = torch.tensor([[0, 86400], [40 * 86400, 41 * 86400], [200 * 86400, 201 * 86400]])


def statistics(grid: LatLonGrid = GRID, land: bool = False) -> Statistics:
    """Return a climatology by hour with one harmonic of the year; precipitation is kept as its logarithm."""
    rng = np.random.default_rng(0)
    mean = np.array([1.0, 5e4, 3.0, 0.0])[:, None, None] * np.ones((4, *grid.shape))
    spread = np.array([1.5, 1e3, 8.0, 8.0])[:, None, None] * (1 + 0.3 * rng.random((4, *grid.shape)))
    terms = np.stack([mean, 0.1 * spread, 0.05 * spread])[None]
    if land:
        terms[:, :, :2, 2:5, 3:6] = np.nan
    return Statistics("hour", (0,), 1, terms.astype(np.float32), spread.astype(np.float32), (1e-4, 0.0, 0.0, 0.0))


def constraints(*settings: dict[str, Any], grid: LatLonGrid = GRID, land: bool = False) -> FieldConstraints:
    """Return the constraints, as YAML gives them."""
    made = [build(ConstraintConfig, own, "constraints") for own in settings]
    return FieldConstraints(made, NAMES, grid, statistics(grid, land))


def fields(seed: int = 0) -> torch.Tensor:
    """Return normalised fields that are noise."""
    return 2 * torch.randn(3, 2, 4, *GRID.shape, generator=torch.Generator().manual_seed(seed))


def in_units(x: torch.Tensor, land: bool = False) -> np.ndarray:
    """Return fields in units by the statistics themselves, (sample, time, …), NaN on land."""
    times = TIMES.flatten().numpy().astype("datetime64[s]")
    made = statistics(land=land).denormalise(x.flatten(0, 1).double().numpy(), times)
    return np.asarray(made.reshape(x.shape))


def test_units_are_those_of_the_statistics() -> None:
    """To the units and back, also of a variable kept as its logarithm."""
    own, x = constraints({"kind": "energy", "u": "u500", "v": "v500"}), fields()
    units = own.units(TIMES)
    np.testing.assert_allclose(units.values(x).numpy(), in_units(x), rtol=2e-5, atol=1e-8)
    np.testing.assert_allclose(units.departures(units.values(x)).numpy(), x.numpy(), rtol=1e-3, atol=2e-4)


def test_softplus_makes_values_positive_and_leaves_large_ones() -> None:
    own, x = constraints({"kind": "non_negative", "variables": ["tp"], "how": "hard"}), fields()
    before, held = in_units(x)[:, :, 0], own.hold(x, own.scene(TIMES), False)
    after = in_units(held.values)[:, :, 0]
    assert before.min() < -1e-4
    assert after.min() > -1e-11
    np.testing.assert_allclose(after[before > 5e-3], before[before > 5e-3], rtol=1e-2)
    assert torch.equal(held.values[:, :, 1:], x[:, :, 1:])
    assert held.terms["violation_non_negative_tp_before"] > 1e-5 > 1e-9 > held.terms["violation_non_negative_tp"] >= 0
    area = GRID.area[None, None]
    by_hand = (np.maximum(-before, 0) * area).sum((-1, -2)).mean() / GRID.area.sum()
    assert float(held.terms["violation_non_negative_tp_before"]) == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.parametrize("form", ["clamp", "sigmoid"])
def test_bounded_values_lie_between_their_bounds(form: str) -> None:
    """Clamped ones are unchanged inside; a sigmoid has slope 1 half-way."""
    setting = {"kind": "bounded", "variables": ["u500", "v500"], "lower": -10, "upper": 12.0}
    own, x = constraints({**setting, "how": "hard", "form": form}), fields()
    made = in_units(own.hold(x, own.scene(TIMES), False).values)[:, :, 2:]
    before = in_units(x)[:, :, 2:]
    assert before.min() < -20
    assert before.max() > 20
    assert made.min() > -10 - 1e-5
    assert made.max() < 12 + 1e-5
    if form == "clamp":
        np.testing.assert_allclose(made, np.clip(before, -10, 12), atol=1e-5)
    else:
        near = np.abs(before - 1) < 0.5
        np.testing.assert_allclose(made[near], before[near], atol=0.01)


def test_the_penalty_of_a_bound_is_the_mean_square_beyond_it() -> None:
    own, x = constraints({"kind": "bounded", "variables": ["u500"], "lower": -10, "weight": 2.0}), fields()
    beyond = np.maximum(-10 - in_units(x)[:, :, 2], 0) / statistics().scale[2]
    by_hand = 2 * (beyond**2 * GRID.area).sum((-1, -2)).mean() / GRID.area.sum()
    assert float(own.hold(x, own.scene(TIMES), True).penalty) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("form", ["scale", "shift"])
@pytest.mark.parametrize(("name", "total"), [("z500", 51_234.0), ("tp", 2e-3)])
def test_a_rescaled_field_has_the_total(form: str, name: str, total: float) -> None:
    """The area mean by cell bounds, in single precision: to 1e-6 of it, to 1e-4 where values are kept as logarithms."""
    own = constraints({"kind": "integral", "variables": [name], "how": "hard", "form": form, "total": total})
    k, x = NAMES.index(name), fields().abs()
    made = own.hold(x, own.scene(TIMES), False)
    after, before = in_units(made.values)[:, :, k], in_units(x)[:, :, k]
    mean = (after * GRID.area).sum((-1, -2)) / GRID.area.sum()
    np.testing.assert_allclose(mean, total, rtol=1e-4 if name == "tp" else 1e-6)
    ratio = after / before
    if form == "scale":
        np.testing.assert_allclose(ratio, ratio[:, :, :1, :1] * np.ones_like(ratio), rtol=1e-3)
    else:
        added = after - before
        np.testing.assert_allclose(added, added.mean((-1, -2), keepdims=True) * np.ones_like(added), rtol=1e-3)


def test_fields_of_both_signs_are_shifted_and_those_of_one_are_scaled() -> None:
    """A good forecast of a wind, whose mean is near 0, stays one; a sample that blows one way all over is scaled."""
    own = constraints({"kind": "integral", "variables": ["v500"], "how": "hard"})
    units, area = own.units(TIMES), torch.from_numpy(GRID.area)
    before, last = (units.values(fields(seed))[:, :, 3].double() for seed in (0, 1))
    before[0], last[0] = before[0].abs() + 1, last[0].abs() + 1  # all northward
    kept = area_mean(last[:, :1], area)
    before[1:] += (0.02 * kept[1:] - area_mean(before[1:], area))[..., None, None]  # a factor would be 50
    x, start = fields(), fields()[:, :1]
    x[:, :, 3] = ((before - units.offset[:, :, 3]) / units.scale[:, :, 3]).float()
    start[:, :, 3] = ((last - units.offset[:, :, 3]) / units.scale[:, :, 3])[:, :1].float()
    scene = own.scene(TIMES, start=(start, torch.ones_like(start, dtype=torch.bool), TIMES[:, :1]))
    after = units.values(own.hold(x, scene, False).values)[:, :, 3].double()
    torch.testing.assert_close(area_mean(after, area), kept.expand(3, 2), atol=1e-4, rtol=1e-5)
    factor = (kept / area_mean(before, area))[0, :, None, None]
    torch.testing.assert_close(after[0], factor * before[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[1:], before[1:] + 0.98 * kept[1:, :, None, None], atol=1e-4, rtol=1e-4)
    # a rounding's worth of the other sign is none: rain of a softplus
    rain = constraints({"kind": "integral", "variables": ["tp"], "how": "hard", "total": 2e-3})
    wet = fields().abs()
    wet[:, :, 0, 0, 0] = rain.units(TIMES).standard(-1e-8, 0)[:, :, 0, 0]
    grown = in_units(rain.hold(wet, rain.scene(TIMES), False).values)[:, :, 0] / in_units(wet)[:, :, 0]
    np.testing.assert_allclose(grown[..., 1:, 1:], grown[..., 1:2, 1:2] * np.ones_like(grown[..., 1:, 1:]), rtol=1e-3)


def test_the_total_of_the_last_step_is_kept_over_the_cells_that_both_hold() -> None:
    """Cells that were missing then, or are never known (land), count on neither side."""
    own = constraints({"kind": "integral", "variables": ["z500"], "how": "hard"}, land=True)
    x, last = fields(), fields(1)[:, :1]
    seen = torch.ones_like(last, dtype=torch.bool)
    seen[:, :, 1, 7:9, 2:9] = False
    scene = own.scene(TIMES, start=(last * seen, seen, TIMES[:, :1]))
    made = own.hold(x, scene, False)
    weight = GRID.area * statistics(land=True).known[1] * seen[0, 0, 1].numpy()
    after = np.nan_to_num(in_units(made.values, land=True)[:, :, 1])
    before = np.nan_to_num(statistics(land=True).denormalise(last[:, 0].double().numpy(), TIMES[:, 0].numpy().astype(
        "datetime64[s]"))[:, 1])  # fmt: skip
    kept = (before * weight).sum((-1, -2)) / weight.sum()
    np.testing.assert_allclose((after * weight).sum((-1, -2)) / weight.sum(), kept[:, None] * np.ones(2), rtol=1e-6)
    assert float(made.terms["violation_integral_z500"]) < 0.05 < float(made.terms["violation_integral_z500_before"])


def test_a_projected_wind_has_no_divergence_in_units() -> None:
    """Although scales differ from cell to cell, so that the anomalies themselves are no wind."""
    own, x = constraints({"kind": "divergence", "u": "u500", "v": "v500", "how": "hard"}), fields()
    made = own.hold(x, own.scene(TIMES, x, torch.ones_like(x, dtype=torch.bool)), False)
    before, after = (float(made.terms[f"violation_divergence_u500_v500{end}"]) for end in ("_before", ""))
    assert after < 1e-5 * before
    assert before > 1e-7
    assert float(made.terms["violation_divergence_u500_v500_truth"]) == pytest.approx(before)
    again = own.hold(made.values, own.scene(TIMES), False).values
    assert float((again - made.values).abs().max()) < 1e-5
    assert torch.equal(made.values[:, :, :2], x[:, :, :2])


def test_energy_is_compared_where_the_truth_was_observed() -> None:
    """Half of every value has a quarter of the energy: 3/4 of it is missing, and (3/4)² is the penalty."""
    own = constraints({"kind": "energy", "u": "u500", "v": "v500"})
    units, truth = own.units(TIMES), fields()
    x = units.departures(units.values(truth) / 2)
    seen = torch.ones_like(truth, dtype=torch.bool)
    seen[:, :, 2, :4] = False  # v alone is no wind
    x = torch.where(seen, x, 50.0)
    made = own.hold(x, own.scene(TIMES, truth * seen, seen), False)
    assert float(made.terms["violation_energy_u500_v500"]) == pytest.approx(0.75, rel=1e-4)
    assert float(made.penalty) == pytest.approx(0.75**2, rel=1e-4)
    assert float(made.terms["violation_energy_u500_v500_truth"]) == 0
    assert own.constraints.violations(x, own.scene(TIMES)) == {}  # without the truth nothing is said


EVERY = (
    {"kind": "divergence", "u": "u500", "v": "v500", "how": "hard"},
    {"kind": "non_negative", "variables": ["tp"], "how": "hard"},
    {"kind": "integral", "variables": ["tp"], "how": "hard", "total": 1e-3},
    {"kind": "bounded", "variables": ["z500"], "lower": 4.8e4, "upper": 5.4e4, "how": "hard", "form": "sigmoid"},
    {"kind": "bounded", "variables": ["u500"], "upper": 5.0},
    {"kind": "integral", "variables": ["z500"], "total": 5e4},
    {"kind": "energy", "u": "u500", "v": "v500"},
)


def test_gradients_flow_through_all_of_them() -> None:
    """Those of the penalties as finite differences have them, in double precision; layers pass one to every value."""
    own, x = constraints(*EVERY), fields().requires_grad_()
    scene = own.scene(TIMES, fields(1), torch.ones(x.shape, dtype=torch.bool))
    made = own.hold(x, scene, True)
    (made.penalty + made.values.square().mean()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(float((x.grad[:, :, k].abs() > 0).float().mean()) > 0.9 for k in range(4))

    def loss(y: torch.Tensor) -> torch.Tensor:
        return own.constraints.penalty(own.constraints.layers(y, double), double).double()

    units = own.units(TIMES, torch.float64)
    double = Scene(units, scene.weight.double(), None, fields(1).double(), torch.ones(x.shape, dtype=torch.bool))
    y = fields().double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(y), y)
    direction = fields(2).double()
    with torch.no_grad():
        slope = (loss(y + 1e-4 * direction) - loss(y - 1e-4 * direction)) / 2e-4
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-2)


def test_half_precision_around_it_changes_nothing() -> None:
    """Under autocast to bfloat16 all is done in single precision, on what the decoder gave in either."""
    own, x = constraints(*EVERY), fields()
    scene = own.scene(TIMES, fields(1), torch.ones(x.shape, dtype=torch.bool))
    plain = own.hold(x.bfloat16().float(), scene, False)
    with torch.autocast("cpu", torch.bfloat16):
        half = own.hold(x.bfloat16(), scene, False)
    assert half.values.dtype == torch.float32
    assert torch.equal(half.values, plain.values)
    assert torch.equal(half.penalty, plain.penalty)


def test_means_by_area_leave_out_what_has_no_weight() -> None:
    x, weight = torch.tensor([[[1.0, 5.0], [9.0, float(2**24) + 1]]]), torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert area_mean(x, weight).tolist() == [4.0]
    assert area_mean(x, torch.zeros(2, 2)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"kind": "divergences", "u": "u500", "v": "v500"}, "Did you mean 'divergence'"),
        ({"kind": "bounded", "variables": ["tp"], "lowr": 0}, "Did you mean 'lower'"),
        ({"kind": "divergence", "u": "u500"}, "both components of a wind, u and v, got u 'u500' and v ''"),
        ({"kind": "divergence", "u": "v500", "v": "u500"}, "the component u of a wind, got 'v500'"),
        ({"kind": "divergence", "u": "u500", "v": "v850"}, "two components of one wind, u500 and v500"),
        ({"kind": "non_negative", "variables": ["tpp"]}, "Did you mean 'tp'"),
        (
            {"kind": "non_negative", "variables": ["tp"], "weight": -1},
            r"non_negative\.weight: expected weight in \(0, inf\)",
        ),
        (
            {"kind": "non_negative", "variables": ["tp"], "weight": 2, "how": "hard"},
            "a weight with how penalty only, got 2",
        ),
        (
            {"kind": "energy", "u": "u500", "v": "v500", "weight": 2, "how": "report"},
            "penalty only, got 2.* with report",
        ),
        ({"kind": "non_negative", "variables": ["tp"], "sharpness": 9}, "a sharpness with how hard only.* got 9"),
        ({"kind": "non_negative", "variables": ["tp"], "how": "hard", "sharpness": float("inf")}, "sharpness in"),
        ({"kind": "bounded", "variables": ["tp"], "lower": 2, "upper": 1}, "lower below upper, got 2"),
        ({"kind": "bounded", "variables": ["tp"]}, "a bound at least"),
        ({"kind": "bounded", "variables": ["tp"], "lower": 0, "how": "hard", "form": "sigmoid"}, "give both"),
        ({"kind": "bounded", "variables": [], "lower": 0}, "the names of its variables"),
        ({"kind": "energy", "u": "u500", "v": "v500", "how": "hard"}, "the truth's energy is not known beforehand"),
        ({"kind": "energy", "variables": ["tp", "z500"]}, "of one unit, to be added up, got tp in m, z500 in m2 s-2"),
        ({"kind": "divergence", "u": "u500", "v": "v500", "lower": 1}, "got lower; leave it out"),
        ({"kind": "integral", "variables": ["tp"], "how": "hard", "form": "shft"}, "Did you mean 'shift'"),
        ({"kind": "integral", "variables": ["tp"], "how": "Hard"}, "Did you mean 'hard'"),
        ({"kind": "non_negative", "variables": ["tp"], "form": "softplus"}, "a form with how hard only"),
        ({"kind": "non_negative", "variables": ["tp", "tp"]}, "each variable once"),
    ],
)
def test_what_cannot_be_is_refused(setting: dict[str, Any], why: str) -> None:
    with pytest.raises(EarthSSLError, match=why):
        constraints(setting)


def test_what_a_store_cannot_give_is_refused() -> None:
    """Regions, land under a wind, two of the same, augmentations that turn the map, other stores."""
    wind = {"kind": "divergence", "u": "u500", "v": "v500"}
    with pytest.raises(EarthSSLError, match="the whole globe, got a region"):
        constraints(wind, grid=REGION)
    with pytest.raises(EarthSSLError, match="each once, got divergence_u500_v500 twice"):
        constraints(wind, {**wind, "how": "hard"})
    gaps = statistics()
    gaps.coefficients[:, :, 2, 0, 0] = np.nan
    with pytest.raises(EarthSSLError, match="u500 and v500 at every cell"):
        FieldConstraints([ConstraintConfig(**wind)], NAMES, GRID, gaps)
    own = constraints({"kind": "integral", "variables": ["tp"]})
    with pytest.raises(EarthSSLError, match="which only forecasts have"):
        own.hold(fields(), own.scene(TIMES), True)
    with pytest.raises(EarthSSLError, match=r"expected augment\.mirror 0"):
        check_training([ConstraintConfig(**wind)], turned=True, stores=0)
    with pytest.raises(EarthSSLError, match="expected one store"):
        check_training([ConstraintConfig(**wind)], turned=False, stores=1)

"""Turning fields: a group, whose inverse turns back, and under which winds keep their meaning."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.reflections import FLIPS, TURNS, invariant, is_pseudoscalar, turn, turn_cells
from torch import Tensor

NAMES = ("sst", "u10", "v10", "vo850", "d850")
INVERSE = {"quarter turn": "three-quarter turn", "three-quarter turn": "quarter turn"}
ALL = sorted({*FLIPS, *TURNS})


def random(rows: int = 6, columns: int = 6, seed: int = 0) -> Tensor:
    """Random fields of all variables, (2, variable, row, column)."""
    return torch.randn(2, 5, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ALL)
def test_the_inverse_turns_back(kind: str) -> None:
    """Every kind, undone, leaves the fields as they were."""
    x = random()
    assert torch.equal(turn(turn(x, NAMES, kind), NAMES, INVERSE.get(kind, kind)), x)


@pytest.mark.parametrize("group", [FLIPS, TURNS])
def test_two_turns_are_one(group: tuple[str, ...]) -> None:
    """Closure: one after another is again one of the four, for values and vectors alike; each occurs once a row."""
    x = random()
    single = {kind: turn(x, NAMES, kind) for kind in group}
    for first in group:
        results = []
        for second in group:
            both = turn(single[first], NAMES, second)
            results += [kind for kind in group if torch.equal(single[kind], both)]
        assert sorted(results) == sorted(group)


def test_flips_keep_any_shape() -> None:
    """Rectangles stay as they are; quarter turns of them are refused."""
    x = random(3, 5)
    for kind in FLIPS:
        assert turn(x, NAMES, kind).shape == x.shape
    with pytest.raises(EarthSSLError, match="square field, got 3×5"):
        turn(x, NAMES, "quarter turn")
    with pytest.raises(EarthSSLError, match="expected an orientation"):
        turn_cells(x, "upside down")


def test_by_hand() -> None:
    """Rows go south, columns east: a west wind in the north-west corner becomes a south wind in the south-west."""
    cells = torch.tensor([[1.0, 2], [3, 4]])
    assert turn_cells(cells, "quarter turn").tolist() == [[2, 4], [1, 3]]
    assert turn_cells(cells, "three-quarter turn").tolist() == [[3, 1], [4, 2]]
    assert turn_cells(cells, "east-west").tolist() == [[2, 1], [4, 3]]
    assert turn_cells(cells, "north-south").tolist() == [[3, 4], [1, 2]]
    wind = torch.zeros(2, 2, 2)
    wind[0, 0, 0] = 1  # u at the north-west
    turned = turn(wind, ("u10", "v10"), "quarter turn")
    assert turned[1, 1, 0] == 1
    assert turned.abs().sum() == 1
    assert turn(wind, ("u10", "v10"), "east-west")[0, 0, 1] == -1
    assert turn(wind, ("u10", "v10"), "north-south")[0, 1, 0] == 1


def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return divergence and vorticity of (…, (u, v), row, column) on a doubly periodic square, rows going south."""
    u, v = x[..., 0, :, :], x[..., 1, :, :]

    def east(f: Tensor) -> Tensor:
        return (f.roll(-1, -1) - f.roll(1, -1)) / 2

    def north(f: Tensor) -> Tensor:
        return (f.roll(1, -2) - f.roll(-1, -2)) / 2

    return east(u) + north(v), east(v) - north(u)


@pytest.mark.parametrize("kind", ALL)
def test_divergence_and_vorticity_turn_along(kind: str) -> None:
    """The turned wind has the turned divergence, and the turned vorticity, of opposite sign in a mirror."""
    wind = random()[:, 1:3]
    divergence, vorticity = derivatives(wind)
    turned = derivatives(turn(wind, ("u10", "v10"), kind))
    sign = -1 if kind in ("east-west", "north-south") else 1
    torch.testing.assert_close(turned[0], turn_cells(divergence, kind))
    torch.testing.assert_close(turned[1], sign * turn_cells(vorticity, kind))
    # The variables of these names turn in the same way.
    scalars = torch.stack([divergence, vorticity], 1)
    both = turn(scalars, ("d850", "vo850"), kind)
    torch.testing.assert_close(both[:, 0], turned[0])
    torch.testing.assert_close(both[:, 1], turned[1])


def test_order_of_the_channels_does_not_matter() -> None:
    """Each component finds its partner by name; winds of two levels do not mix."""
    names = ("v850", "sst", "u10", "u850", "v10")
    x = random()
    for kind in TURNS:
        turned = turn(x, names, kind)
        for pair in (("u850", "v850"), ("u10", "v10")):
            places = [names.index(name) for name in pair]
            assert torch.equal(turned[:, places], turn(x[:, places], pair, kind))


def test_a_component_alone_cannot_take_a_quarter_turn() -> None:
    """The partner is missing and named; reflections and the half turn need none."""
    x = random()[:, :2]
    for kind in FLIPS:
        turn(x, ("sst", "u10"), kind)
    for kind, order in product(("quarter turn", "three-quarter turn"), (("sst", "u10"), ("v10", "sst"))):
        with pytest.raises(EarthSSLError, match="needs its partner"):
            turn(x, order, kind)


def test_pseudoscalars() -> None:
    """Vorticity changes its sign in a mirror; temperature, divergence and velocity potential do not."""
    assert all(is_pseudoscalar(name) for name in ("vo", "vo850"))
    assert not any(is_pseudoscalar(name) for name in ("sst", "d850", "z500", "u10", "v10", "w500"))


@pytest.mark.parametrize("group", [FLIPS, TURNS])
def test_the_invariant_mask_is_invariant(group: tuple[str, ...]) -> None:
    """Turned in any way it is the same, and it is the largest such part of the mask."""
    mask = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.2
    kept = invariant(mask, group)
    assert kept.any()
    assert not (kept & ~mask).any()
    everywhere = torch.stack([turn_cells(mask, kind) for kind in group]).all(0)
    for kind in group:
        assert torch.equal(turn_cells(kept, kind), kept)
    assert torch.equal(kept, everywhere)

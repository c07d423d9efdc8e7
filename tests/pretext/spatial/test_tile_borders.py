"""Borders: agreement by hand, and a solver that finds which agreement counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.pretext.spatial.tile_borders import KINDS, UNRELATED, Borders, across
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from torch import Tensor

ONE = torch.tensor([[1.0, 2, 3], [4, 5, 8]])[None, None]
TWO = torch.tensor([[5.0, 9, 9], [6, 7, 8]])[None, None]
YES = torch.ones_like(ONE, dtype=torch.bool)


def numbers(one: Tensor, two: Tensor, way: tuple[int, int], one_seen: Tensor = YES, two_seen: Tensor = YES) -> dict:
    """Return the mismatch by its kinds."""
    return dict(zip(KINDS, across(one, one_seen, two, two_seen, way).tolist(), strict=True))


def test_levels_of_facing_borders_by_hand() -> None:
    """East compares the right edge with the left one, south the last row with the first, south-east one corner."""
    expected = {
        (0, 1): ((3 - 5) ** 2 + (8 - 6) ** 2) / 2,
        (0, -1): ((1 - 9) ** 2 + (4 - 8) ** 2) / 2,
        (1, 0): ((4 - 5) ** 2 + (5 - 9) ** 2 + (8 - 9) ** 2) / 3,
        (-1, 0): ((1 - 6) ** 2 + (2 - 7) ** 2 + (3 - 8) ** 2) / 3,
        (1, 1): (8 - 5) ** 2,
        (-1, -1): (1 - 8) ** 2,
        (-1, 1): (3 - 6) ** 2,
        (1, -1): (4 - 9) ** 2,
    }
    for way, level in expected.items():
        assert numbers(ONE, TWO, way)["level"] == pytest.approx(level)


def test_slopes_and_what_lies_ahead_by_hand() -> None:
    """Eastward one rises by 1 and 3, two by 4 and 1: half a cell on they are at 3.5 and 9.5, 3 and 5.5."""
    east = numbers(ONE, TWO, (0, 1))
    assert east["slope"] == pytest.approx(((1 - 4) ** 2 + (3 - 1) ** 2) / 2)
    assert east["extrapolation"] == pytest.approx(((3.5 - 3) ** 2 + (9.5 - 5.5) ** 2) / 2)
    assert numbers(TWO, ONE, (0, -1)) == pytest.approx(east)  # the same border seen from the other side


def test_a_ramp_goes_on() -> None:
    """Two halves of a plane agree in slope and half way between, whatever the direction; levels differ by a step."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = (2 * x + 3 * y)[None, None]
    yes = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    for way, step in (((0, 1), 2), ((1, 0), 3), ((1, 1), 5)):
        second = plane[..., 4 * way[0] : 4 * way[0] + 4, 4 * way[1] : 4 * way[1] + 4]
        found = numbers(plane[..., :4, :4], second, way, yes, yes)
        assert found["slope"] == pytest.approx(0)
        assert found["extrapolation"] == pytest.approx(0)
        assert found["level"] == pytest.approx(step**2)


def test_patterns_along_a_border_do_not_see_level_and_scale() -> None:
    """1 - Pearson's correlation, and 1 for a single cell."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 1, 1, 5, 5))
    yes = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    expected = 1 - np.corrcoef(one[0, 0, :, -1], two[0, 0, :, 0])[0, 1]
    a, b = torch.from_numpy(one).float(), torch.from_numpy(two).float()
    assert numbers(a, b, (0, 1), yes, yes)["pattern"] == pytest.approx(expected, rel=1e-4)
    assert numbers(3 + 2 * a, b / 2 - 1, (0, 1), yes, yes)["pattern"] == pytest.approx(expected, rel=1e-4)
    assert numbers(a, b, (1, 1), yes, yes)["pattern"] == pytest.approx(1)


def test_only_cells_valid_in_both_count() -> None:
    """A hidden cell leaves the others; with nothing in common the tiles are unrelated."""
    some = YES.clone()
    some[..., 1, 0] = False
    assert numbers(ONE, TWO, (0, 1), YES, some)["level"] == pytest.approx(4)
    hidden = numbers(ONE, TWO, (-1, 1), YES, some)
    assert hidden == pytest.approx({"level": UNRELATED, "slope": UNRELATED, "extrapolation": UNRELATED, "pattern": 1})
    inner = YES.clone()
    inner[..., :, 1] = False
    without = numbers(ONE, TWO, (0, 1), inner, YES)
    assert without["level"] == pytest.approx(4)
    assert without["slope"] == UNRELATED


class Posed:
    """A task of 5 classes of which one of eight numbers, of very unequal size, tells the class (the second "slope")."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def pose(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Return the batch as it is, and classes drawn for it."""
        return batch, torch.from_numpy(np.random.default_rng(batch.number).integers(5, size=400))

    def mismatch(self, shown: Batch) -> Tensor:
        """Return noise, the number of the true class smaller by the strength."""
        target = self.pose(shown)[1].numpy()
        x = np.random.default_rng(1000 + shown.number).normal(size=(400, 5, 8))
        x[np.arange(400), target, 5] -= self.strength
        return torch.from_numpy(x * 10.0 ** np.arange(8))


def test_the_fit_finds_the_agreement_that_counts() -> None:
    """Of numbers of any size; unfitted it looks at levels, here nothing; and nothing is found where nothing is."""
    grid, known = LatLonGrid(np.array([10.0, 0]), np.array([0.0, 10])), torch.ones(1, 2, 2, dtype=torch.bool)
    none = torch.zeros(1, dtype=torch.int64)
    batches = [from_fields(torch.zeros(1, 1, 1, 2, 2), none[None], none, known, ("t2m",), grid, k) for k in range(6)]
    chance, patch = 4 * (0.2 * 0.8 / 400) ** 0.5 / 0.8, (1, 2, 2)
    cue = Borders()
    assert abs(cue.skill(Posed(4.0), batches[5], patch)) < chance
    cue.fit(Posed(4.0), batches[:5], patch)
    assert cue.skill(Posed(4.0), batches[5], patch) > 0.9
    cue.fit(Posed(0.0), batches[:5], patch)
    assert abs(cue.skill(Posed(0.0), batches[5], patch)) < chance

"""Tokens: patches there and back on any grid, places on the sphere, and one block of weights a variable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.tokens import (
    PLACE_FEATURES,
    SEASON_FEATURES,
    SLOT_FEATURES,
    Embedding,
    Encodings,
    Patches,
    gather,
    gather_rows,
    padded,
    patchify,
    unpatchify,
)

DAY = 86400
NAMES = ("sst", "u10", "v10")


def globe(rows: int, columns: int) -> LatLonGrid:
    """A global grid; with rows on the poles where their number is odd."""
    spacing = 180 / (rows - 1 if rows % 2 else rows)
    return LatLonGrid(90 - spacing * (np.arange(rows) + (0 if rows % 2 else 0.5)), np.arange(columns) * 360 / columns)


def batch(
    grid: LatLonGrid,
    steps: int = 2,
    names: Sequence[str] = NAMES,
    missing: float = 0.1,
    size: int = 2,
    land: np.ndarray | None = None,
    start: int = 0,
) -> Batch:
    """Random fields with gaps; no variable holds anything on land."""
    rng = np.random.default_rng(0)
    shape = (size, steps, len(names), *grid.shape)
    fields = rng.normal(size=shape).astype(np.float32)
    fields[rng.random(shape) < missing] = np.nan
    known = np.ones(shape[2:], bool)
    if land is not None:
        fields[..., land] = np.nan
        known[:, land] = False
    times = start + DAY * (torch.arange(steps)[None] + 100 * torch.arange(size)[:, None])
    return from_fields(
        torch.from_numpy(fields), times, torch.arange(size), torch.from_numpy(known), tuple(names), grid
    )  # fmt: skip


GRIDS = [((8, 16), (1, 4, 4)), ((8, 16), (2, 2, 8)), ((12, 22), (2, 4, 4)), ((73, 144), (1, 4, 4)), ((7, 5), (1, 3, 4))]


@pytest.mark.parametrize(("shape", "patch"), GRIDS)
def test_there_and_back_is_the_identity(shape: tuple[int, int], patch: tuple[int, int, int]) -> None:
    made = batch(globe(*shape))
    patches = patchify(made, patch)
    assert torch.equal(unpatchify(patches.values, patches, patch), made.values)
    assert torch.equal(unpatchify(patches.valid.float(), patches, patch), made.valid.float())
    rows, columns = math.ceil(shape[0] / patch[1]), math.ceil(shape[1] / patch[2])
    assert patches.shape == (2 // patch[0], rows, columns)
    assert patches.count == math.prod(patches.shape)


@pytest.mark.parametrize(("shape", "patch"), GRIDS)
def test_every_cell_is_in_one_token_with_its_area(shape: tuple[int, int], patch: tuple[int, int, int]) -> None:
    grid = globe(*shape)
    made = batch(grid)
    patches = patchify(made, patch)
    p, q, s = patch
    seen = 0
    for token in range(patches.count):
        step, cell = int(patches.step[token]), int(patches.cell[token])
        row, column = divmod(cell, patches.shape[2])
        inside = np.ndindex(p, q, s)
        for k, (i, j, l) in enumerate(inside):  # noqa: E741
            time, y, x = step * p + i, row * q + j, column * s + l
            if y < shape[0] and x < shape[1]:
                seen += 1
                if token % 7 == 0:  # a sample: comparing one by one is slow
                    assert torch.equal(patches.values[:, token, :, k], made.values[:, time, :, y, x])
                    assert patches.area[token, k].item() == pytest.approx(grid.area[y, x], rel=1e-6)
            else:
                assert not patches.valid[:, token, :, k].any()
                assert patches.area[token, k] == 0
    assert seen == 2 * shape[0] * shape[1]
    assert patches.area.double().sum().item() == pytest.approx(2.0, rel=1e-5)  # the sphere in each of two steps


def test_sizes_are_rounded_up_to_whole_patches() -> None:
    assert [padded(size, 4) for size in (1, 4, 5, 73, 144)] == [4, 4, 8, 76, 144]


def test_land_has_no_tokens() -> None:
    grid, land = globe(8, 16), np.zeros((8, 16), bool)
    land[0:4, 4:8] = True  # a whole patch
    land[4:8, 0:3] = True  # a part of one
    made = batch(grid, land=land)
    patches = patchify(made, (1, 4, 4))
    assert patches.count == 2 * 7
    assert patches.cell.tolist() == [0, 2, 3, 4, 5, 6, 7] * 2
    assert patches.step.tolist() == [0] * 7 + [1] * 7
    back = unpatchify(patches.values, patches, (1, 4, 4))
    assert back[..., :4, 4:8].isnan().all()
    outside = torch.ones(8, 16, dtype=torch.bool)
    outside[:4, 4:8] = False
    assert torch.equal(back[..., outside], made.values[..., outside])
    with pytest.raises(EarthSSLError, match="every variable is missing everywhere"):
        patchify(batch(grid, land=np.ones((8, 16), bool)), (1, 4, 4))


def test_a_window_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(EarthSSLError, match=r"multiple of 2 steps \(patch\), got 3"):
        patchify(batch(globe(8, 16), steps=3), (2, 4, 4))


def unit(lat: float, lon: float) -> np.ndarray:
    """The point on the unit sphere, by hand."""
    y, x = np.deg2rad(lat), np.deg2rad(lon)
    return np.array([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])


def test_places_are_the_true_centres_on_the_sphere() -> None:
    patches = patchify(batch(globe(73, 144), steps=1), (1, 4, 4))
    place = patches.place.numpy()
    assert place.shape == (19 * 36, PLACE_FEATURES)
    np.testing.assert_allclose(place[0, :3], unit(90 - 3.75, 3.75), atol=1e-6)
    np.testing.assert_allclose(place[36 * 9 + 5, :3], unit(90 - 2.5 * 37.5, 2.5 * 21.5), atol=1e-6)
    # The last row of patches holds one true row, on the pole; the padding south of it lies nowhere.
    np.testing.assert_allclose(place[36 * 18 :, :3], np.tile([0, 0, -1], (36, 1)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(place[:, :3], axis=1), 1, atol=1e-6)


def test_the_same_place_has_the_same_features_on_another_grid() -> None:
    whole = globe(72, 144)
    part = LatLonGrid(whole.lat[20:44], whole.lon[100:])
    a, b = patchify(batch(whole), (1, 4, 4)), patchify(batch(part), (1, 4, 4))
    same = [36 * row + column for row in range(5, 11) for column in range(25, 36)]
    torch.testing.assert_close(a.place[same], b.place[: 6 * 11], rtol=0, atol=1e-6)
    assert not torch.allclose(a.layout[same], b.layout[: 6 * 11])  # where it is in the grid differs


def test_turning_the_planet_turns_the_places() -> None:
    here = patchify(batch(LatLonGrid([50, 40, 30, 20], np.arange(40.0, 120, 5))), (1, 2, 4)).place
    there = patchify(batch(LatLonGrid([50, 40, 30, 20], np.arange(130.0, 210, 5))), (1, 2, 4)).place
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90° about the axis
    torch.testing.assert_close(there[:, :3], here[:, :3] @ quarter.T, rtol=0, atol=1e-6)
    latitude = slice(3, 13)
    torch.testing.assert_close(there[:, latitude], here[:, latitude], rtol=0, atol=1e-6)
    torch.testing.assert_close(there[:, 13 + 4 :], here[:, 13 + 4 :], rtol=0, atol=2e-6)  # 4, 8, 16 waves: as before


def season(start: str, steps: int = 1) -> torch.Tensor:
    """Season features of a batch that starts then."""
    seconds = int(np.datetime64(start, "s").astype(np.int64))
    return patchify(batch(globe(8, 16), steps=steps, start=seconds), (1, 8, 16)).season


def test_the_season_comes_back_after_a_year_and_the_hour_after_a_day() -> None:
    assert season("2001-03-05").shape == (2, 1, SEASON_FEATURES)
    torch.testing.assert_close(season("2001-03-05"), season("2009-03-05"), rtol=0, atol=0.03)
    torch.testing.assert_close(season("1869-03-05"), season("2009-03-05"), rtol=0, atol=0.03)  # before 1970 too
    assert (season("2001-03-05") - season("2001-09-03"))[0, 0, :2].norm() == pytest.approx(2, abs=1e-3)
    hour = season("2001-03-05T06:00")[0, 0, 4:]
    torch.testing.assert_close(hour, torch.tensor([1.0, 0.0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(season("2001-03-05", steps=2)[:, 1], season("2001-03-06")[:, 0], rtol=0, atol=1e-6)


def test_a_patch_of_several_steps_has_the_season_of_its_last() -> None:
    made = batch(globe(8, 16), steps=4, start=50 * 365 * DAY)
    single, double = (patchify(made, (steps, 8, 16)).season for steps in (1, 2))
    assert torch.equal(double, single[:, [1, 3]])
    assert not torch.allclose(double, single[:, [0, 2]], atol=1e-3)


def test_slots_count_back_from_the_last_step() -> None:
    short, long = (patchify(batch(globe(8, 16), steps=n), (1, 8, 16)).slot for n in (3, 8))
    assert short.shape == (3, SLOT_FEATURES)
    assert torch.equal(long[-3:], short)
    assert len({tuple(row.tolist()) for row in long}) == 8


def pick(made: Batch, names: Sequence[str]) -> Batch:
    """The batch with some of its variables, in that order."""
    at = [made.variables.index(name) for name in names]
    return Batch(
        made.values[:, :, at], made.valid[:, :, at], made.times, made.keys, torch.ones_like(made.known[at]),
        tuple(names), made.grid,
    )  # fmt: skip


@pytest.fixture
def embedding() -> Embedding:
    """Weights of three variables for patches of 16 cells."""
    torch.manual_seed(0)
    made = Embedding(NAMES, 16, 12)
    torch.nn.init.normal_(made.bias)
    return made


def test_a_token_is_the_sum_over_the_variables_present(embedding: Embedding) -> None:
    made = batch(globe(8, 16))
    bias = embedding.bias

    def embed(names: Sequence[str]) -> torch.Tensor:
        return embedding(patchify(pick(made, names), (1, 4, 4)), None) - bias

    alone = {name: embed([name]) for name in NAMES}
    torch.testing.assert_close(embed(NAMES), sum(alone.values()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embed(["v10", "sst"]), alone["sst"] + alone["v10"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embed(NAMES[::-1]), embed(NAMES), rtol=1e-5, atol=1e-5)  # the order does not matter


def test_a_variable_that_is_hidden_or_missing_adds_nothing(embedding: Embedding) -> None:
    made = batch(globe(8, 16))
    patches = patchify(made, (1, 4, 4))
    hidden = patches.without(torch.tensor([[False, True, False], [False, False, False]]))
    assert not hidden.valid[0, :, 1].any()
    assert (hidden.values[0, :, 1] == 0).all()
    assert torch.equal(hidden.values[1], patches.values[1])
    less = embedding(patchify(pick(made, ["sst", "v10"]), (1, 4, 4)), None)
    torch.testing.assert_close(embedding(hidden, None)[0], less[0], rtol=1e-5, atol=1e-5)
    nothing = patches.without(torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(embedding(nothing, None), embedding.bias.expand(2, patches.count, -1))


def test_missing_is_told_from_average(embedding: Embedding) -> None:
    grid = globe(8, 16)
    made = batch(grid, missing=0.0)
    average = Batch(torch.zeros_like(made.values), made.valid, made.times, made.keys, made.known, NAMES, grid)
    missing = Batch(average.values, ~made.valid, made.times, made.keys, made.known, NAMES, grid)
    both = [embedding(patchify(b, (1, 4, 4)), None) for b in (average, missing)]
    assert (both[0] - both[1]).abs().min() > 1e-4


def test_some_tokens_are_embedded_as_among_all(embedding: Embedding) -> None:
    patches = patchify(batch(globe(8, 16)), (1, 4, 4))
    ids = torch.tensor([[3, 0, 15], [7, 7, 1]])
    everything = embedding(patches, None)
    torch.testing.assert_close(embedding(patches, ids), gather(everything, ids), rtol=1e-5, atol=1e-5)


def test_a_variable_without_weights_is_refused(embedding: Embedding) -> None:
    with pytest.raises(EarthSSLError, match=r"knows sst, u10, v10, got u100; leave it out\. Did you mean 'u10'"):
        embedding(patchify(batch(globe(8, 16), names=["u100"]), (1, 4, 4)), None)


@pytest.mark.parametrize("rest", [(), (5,), (3, 4)])
def test_gather_takes_what_take_along_dim_takes(rest: tuple[int, ...]) -> None:
    x = torch.randn(4, 9, *rest, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(1))
    expected = torch.take_along_dim(x, ids.reshape(4, 6, *(1,) * len(rest)).expand(4, 6, *rest), 1)
    assert torch.equal(gather(x, ids), expected)
    if len(rest) == 1:
        assert torch.equal(gather_rows(x[0], ids), torch.stack([x[0][row] for row in ids]))


def encoded(patches: Patches, ids: torch.Tensor | None, hide: Sequence[str] = ()) -> torch.Tensor:
    """Encodings with fixed weights."""
    torch.manual_seed(1)
    return Encodings(8)(patches, ids, frozenset(hide))


@pytest.mark.parametrize("hide", [(), ("place",), ("season",), ("place", "season")])
def test_some_encodings_are_those_among_all(hide: tuple[str, ...]) -> None:
    land = np.zeros((8, 16), bool)
    land[:4, :4] = True
    patches = patchify(batch(globe(8, 16), steps=4, land=land), (2, 4, 4))
    ids = torch.tensor([[13, 0, 6], [7, 7, 1]])
    torch.testing.assert_close(encoded(patches, ids, hide), gather(encoded(patches, None, hide), ids))


def test_what_is_hidden_does_not_show() -> None:
    here = patchify(batch(LatLonGrid([50, 40, 30, 20], np.arange(40.0, 120, 5))), (1, 2, 4))
    there = patchify(batch(LatLonGrid([10, 0, -10, -20], np.arange(130.0, 210, 5))), (1, 2, 4))
    later = patchify(batch(here.grid, start=77 * DAY), (1, 2, 4))
    assert torch.equal(encoded(here, None, ["place"]), encoded(there, None, ["place"]))
    assert torch.equal(encoded(here, None, ["season"]), encoded(later, None, ["season"]))
    assert not torch.allclose(encoded(here, None), encoded(there, None))
    assert not torch.allclose(encoded(here, None), encoded(later, None))
    # every sample of a batch has its own season, every step its own slot
    plain = encoded(here, None)
    assert not torch.allclose(plain[0], plain[1])
    assert not torch.allclose(plain[:, :8], plain[:, 8:])

"""Masks: exact counts, nothing favoured, shapes that mean what they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.masks import BUMPS, KINDS, MaskConfig, _bumps, _cell_points, draw, visible_count
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold, key, uniform
from earthssl.ssl.fields.batch import from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.tokens import Patches, patchify, unpatchify


def keys(count: int, seed: int = 1) -> torch.Tensor:
    """Random keys of so many samples."""
    return fold(torch.full((count,), seed), torch.arange(count))


def globe(rows: int, columns: int, steps: int = 1, variables: int = 1) -> Patches:
    """Patches of one cell on a global grid without land."""
    lat = 90 - (np.arange(rows) + 0.5) * 180 / rows
    grid = LatLonGrid(lat, np.arange(columns) * 360 / columns)
    names = ("sst", "u10", "v10", "msl")[:variables]
    fields = torch.zeros(1, steps, variables, rows, columns)
    known = torch.ones(variables, rows, columns, dtype=torch.bool)
    times = torch.zeros(1, steps, dtype=torch.int64)
    return patchify(from_fields(fields, times, keys(1), known, names, grid), (1, 1, 1))


@pytest.fixture(scope="module")
def patches(small_windows: Callable[..., Any]) -> Patches:
    """Patches of 1×2×3 cells of the small store: padding below, land in the middle."""
    return patchify(small_windows("train").batch([0, 1]), (1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9])
def test_visible_and_hidden_make_up_all(kind: str, ratio: float, patches: Patches) -> None:
    """Disjoint, complete, and of the same exact number in every sample."""
    mask = draw(MaskConfig(kind, ratio=ratio), patches, keys(50))
    both = torch.cat([mask.keep, mask.hidden], 1).sort(1).values
    assert torch.equal(both, torch.arange(patches.count).expand(50, -1))
    whole = kind in ("tube", "block")
    unit = patches.shape[0] if whole else 1
    assert mask.keep.shape[1] == mask.visible == unit * round(patches.count / unit * (1 - ratio))
    assert (mask.hidden_variables is not None) == (kind == "variable")
    if mask.hidden_variables is not None:
        assert mask.hidden_variables.shape == (50, 3)
        assert mask.hidden_variables.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_a_function_of_its_key(kind: str, patches: Patches) -> None:
    """The same key gives the same mask in whatever company; other keys and other kinds give others."""
    config = MaskConfig(kind)
    first, again, alone = draw(config, patches, keys(20)), draw(config, patches, keys(20)), keys(20)[7:8]
    assert torch.equal(first.order, again.order)
    assert torch.equal(draw(config, patches, alone).order[0], first.order[7])
    different = {tuple(sorted(row.tolist())) for row in first.keep}
    assert len(different) > 10
    other = draw(config, patches, keys(20, seed=2))
    assert not torch.equal(first.order, other.order)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "last"])
def test_every_token_is_sometimes_seen_and_sometimes_hidden(kind: str, patches: Patches) -> None:
    """Every row and column, the last of each and the padded ones too, is context and is target."""
    mask = draw(MaskConfig(kind, ratio=0.5), patches, keys(600))
    seen = torch.zeros(600, patches.count).scatter_(1, mask.keep, 1).mean(0)
    assert float(seen.min()) > 0.15
    assert float(seen.max()) < 0.85
    rows, columns = patches.cell // patches.shape[2], patches.cell % patches.shape[2]
    assert int(rows.max()) == patches.shape[1] - 1
    assert int(columns.max()) == patches.shape[2] - 1


def test_random_masks_favour_no_token() -> None:
    """2 000 draws at ratio 0.75: every token is hidden in 75 % of them, to four standard errors."""
    mask = draw(MaskConfig("random", ratio=0.75), globe(6, 10), keys(2000))
    hidden = torch.zeros(2000, 60).scatter_(1, mask.hidden, 1).mean(0)
    assert float((hidden - 0.75).abs().max()) < 4 * (0.75 * 0.25 / 2000) ** 0.5


def test_blocks_are_uniform_on_the_sphere() -> None:
    """Hidden as often in the north as in the south and at every longitude, poles included."""
    patches = globe(12, 24)
    mask = draw(MaskConfig("block", ratio=0.5, blocks=1), patches, keys(3000))
    hidden = torch.zeros(3000, patches.count).scatter_(1, mask.hidden, 1).mean(0).reshape(12, 24)
    assert float((hidden.mean(1) - 0.5).abs().max()) < 0.03
    assert float((hidden.mean(0) - 0.5).abs().max()) < 0.03
    assert float((hidden - 0.5).abs().max()) < 0.06
    area = torch.from_numpy(patches.grid.area).float()
    assert float((hidden * area).sum()) == pytest.approx(0.5, abs=0.01)


def test_blocks_are_caps_that_wrap() -> None:
    """By great-circle distances: hidden are the places nearest the drawn centres, across 0°E and the poles too."""
    patches = globe(12, 24)
    grid, samples = patches.grid, keys(200)
    mask = draw(MaskConfig("block", ratio=0.2, blocks=2), patches, samples)
    numbers = uniform(fold(fold(samples, key(0, "mask block")), 1), 4).double().numpy()
    lat, lon = np.deg2rad(np.repeat(grid.lat, 24)), np.deg2rad(np.tile(grid.lon, 12))
    wrapped = 0
    for hidden, drawn in zip(mask.hidden, numbers, strict=True):
        y, x = np.arcsin(2 * drawn[:2] - 1), 2 * np.pi * drawn[2:] + np.deg2rad(grid.lon_bounds[0])
        half = (
            np.sin((lat[:, None] - y) / 2) ** 2 + np.cos(lat[:, None]) * np.cos(y) * np.sin((lon[:, None] - x) / 2) ** 2
        )
        distance = 2 * np.arcsin(np.sqrt(half)).min(1)
        mine = np.zeros(288, bool)
        mine[hidden.numpy()] = True
        assert mine.sum() == 58
        assert distance[mine].max() <= distance[~mine].min() + 1e-5
        middle = mine.reshape(12, 24)[6]
        wrapped += bool(middle[0] and middle[-1] and not middle.all())
    assert wrapped > 10


def test_tubes_hide_the_same_places_at_all_steps(patches: Patches) -> None:
    """Exactly: no place is visible at one step and hidden at another; for blocks as well."""
    for kind in ("tube", "block"):
        for sample in draw(MaskConfig(kind, ratio=0.4), patches, keys(40)).keep:
            by_step = [set(patches.cell[sample[patches.step[sample] == t]].tolist()) for t in range(3)]
            assert by_step[0] == by_step[1] == by_step[2]
            assert by_step[0]


def test_last_hides_the_last_steps() -> None:
    """Whole steps from the end; the step at the border in part."""
    patches = globe(4, 5, steps=4)
    steps = patches.step[draw(MaskConfig("last", ratio=0.5), patches, keys(9)).hidden]
    assert set(steps.flatten().tolist()) == {2, 3}
    steps = patches.step[draw(MaskConfig("last", ratio=0.6), patches, keys(9)).hidden]
    assert ((steps == 1).sum(1) == 8).all()


def test_variable_hides_one_to_all_but_one() -> None:
    """Of four variables: 1, 2 or 3, each variable about equally often; of a single one: none."""
    hidden = draw(MaskConfig("variable"), globe(4, 5, variables=4), keys(900)).hidden_variables
    assert hidden is not None
    counts = hidden.sum(1)
    assert set(counts.tolist()) == {1, 2, 3}
    assert float((hidden.float().mean(0) - 0.5).abs().max()) < 0.07
    alone = draw(MaskConfig("variable"), globe(4, 5), keys(9)).hidden_variables
    assert alone is not None
    assert not alone.any()


def coarse(steps: int = 1, cell: float = 10.0, patch: tuple[int, int, int] = (1, 3, 3)) -> Patches:
    """Patches of nine cells on a global grid without land."""
    lat, lon = np.arange(90 - cell / 2, -90, -cell), np.arange(cell / 2, 360, cell)
    fields = torch.zeros(1, steps, 2, len(lat), len(lon))
    known = torch.ones(2, len(lat), len(lon), dtype=torch.bool)
    times = torch.zeros(1, steps, dtype=torch.int64)
    grid = LatLonGrid(lat, lon)
    return patchify(from_fields(fields, times, keys(1), known, ("sst", "u10"), grid), patch)


def test_cells_hide_so_many_of_the_visible_tokens() -> None:
    """The share lies in the range that was asked for, but for the one cell that each visible token keeps."""
    patches = coarse()
    for low, high in ((0.3, 0.3), (0.1, 0.6)):
        mask = draw(MaskConfig("cells", ratio=0.5, cells=(low, high)), patches, keys(60))
        assert mask.hidden_cells is not None
        visible = mask.hidden_cells.gather(1, mask.keep[..., None].expand(-1, -1, 9))
        share = visible.float().mean((1, 2))
        assert float(share.max()) <= high
        assert float(share.mean()) == pytest.approx((low + high) / 2, abs=0.07)
        assert not visible.all(2).any()
        elsewhere = mask.hidden_cells.sum() - visible.sum()
        assert int(elsewhere) == 0
    assert not draw(MaskConfig("cells", cells=(0.0, 0.0)), patches, keys(9)).hidden_cells.any()  # type: ignore[union-attr]


def test_cells_of_one_sample_make_one_gap_and_of_another_are_scattered() -> None:
    """Neighbouring cells share their fate more often than chance in nearly all samples, in some almost always."""
    patches = coarse()
    mask = draw(MaskConfig("cells", ratio=0.5, cells=(0.4, 0.4)), patches, keys(200))
    hidden = mask.concealed().expand(-1, -1, 2, 9).float()
    back = hidden[torch.arange(200)[:, None], mask.order.argsort(1)]
    fields = unpatchify(back, patches, (1, 3, 3))[:, 0, 0]
    assert torch.equal(fields, unpatchify(back, patches, (1, 3, 3))[:, 0, 1])  # all variables alike
    alike = (fields == fields.roll(1, 2)).float().mean((1, 2))
    share = fields.mean((1, 2))
    chance = share**2 + (1 - share) ** 2
    assert float((alike > chance).float().mean()) > 0.98
    assert float(alike.max()) > 0.95
    assert float(alike.min()) < 0.8


def test_the_bumps_lie_on_the_sphere() -> None:
    """The random field is smooth across 0°E as anywhere else; cells are where the grid says."""
    patches = coarse()
    points = _cell_points(patches)
    fields = unpatchify(points.permute(2, 0, 1)[:, :, None].expand(-1, -1, 2, -1), patches, (1, 3, 3))[:, 0, 0]
    lat, lon = np.deg2rad(patches.grid.lat)[:, None], np.deg2rad(patches.grid.lon)[None]
    for found, expected in zip(
        fields, (np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), strict=True
    ):
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)
    smooth = _bumps(points, uniform(keys(300), 3 * BUMPS + 1))
    maps = unpatchify(smooth[:, :, None].expand(-1, -1, 2, -1), patches, (1, 3, 3))[:, 0, 0]
    jump = (maps - maps.roll(1, 2)).square().mean((0, 1))
    assert float(jump[0] / jump[1:].mean()) == pytest.approx(1, abs=0.3)
    assert float(smooth.std((1, 2)).mean()) == pytest.approx(1, abs=1e-3)


def test_cells_stay_hidden_through_a_window() -> None:
    """Gaps of compact samples are nearly the same at all steps."""
    patches = coarse(steps=3)
    mask = draw(MaskConfig("cells", ratio=0.5, cells=(0.4, 0.4)), patches, keys(100))
    hidden = mask.concealed().expand(-1, -1, 2, 9).float()[torch.arange(100)[:, None], mask.order.argsort(1)]
    fields = unpatchify(hidden, patches, (1, 3, 3))[:, :, 0]
    same = (fields[:, 0] == fields[:, 2]).float().mean((1, 2))
    assert float(same.max()) > 0.97
    assert float(same.mean()) > 0.65


def test_what_cannot_be_is_refused() -> None:
    """Ratios that leave nothing, unknown kinds and bad numbers: one line with the remedy."""
    with pytest.raises(EarthSSLError, match="at least one visible and one hidden; change the ratio"):
        visible_count(4, 0.95)
    with pytest.raises(EarthSSLError, match="leaves 4 of 4"):
        visible_count(4, 0.05)
    with pytest.raises(EarthSSLError, match="leaves"):
        draw(MaskConfig("tube", ratio=0.9), globe(2, 2, steps=8), keys(1))
    with pytest.raises(EarthSSLError, match="Did you mean 'random'"):
        MaskConfig("randon")
    for bad in (
        {"cells": (0.5, 0.2)},
        {"cells": (0.0, 1.0)},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": float("nan")},
        {"weight": -1.0},
        {"blocks": 0},
    ):
        with pytest.raises(EarthSSLError, match=r"masks\.random"):
            MaskConfig(**bad)  # type: ignore[arg-type]

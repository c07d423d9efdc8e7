"""Two views: which steps they show, what is changed in each, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.joint_embedding.simclr import SimCLRConfig
from earthssl.pretext.joint_embedding.views import TwoViews, ViewsConfig, draw_views, head, span
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.objective import Context

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
PLAIN = ViewsConfig(keep=1.0, scale=0.0, offset=0.0, variable_dropout=0.0)


def make(views: ViewsConfig, grid: LatLonGrid) -> tuple[Any, TwoViews]:
    """Return a new encoder and a task on two views, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, PATCH).build(NAMES)
    return encoder, SimCLRConfig(views=views).build(Context(encoder, NAMES, grid))


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Ten windows of 8 months: two views of 3 and a lag of up to 3."""
    return small_windows("train", 8).batch(range(0, 200, 20), number=0)  # type: ignore[no-any-return]


def test_the_span_is_the_objectives(batch: Batch) -> None:
    """3 + 3 steps and 2 between them at the greatest lag; the shortest is two views that follow one another."""
    assert SimCLRConfig().span(EncoderConfig("nano", 3, PATCH)) == span(3, 3) == 8
    assert span(1, 1) == 2


def test_lags_reach_both_ends_and_views_share_no_step(batch: Batch) -> None:
    """1 to 3 months from the last step of the first view to the first of the second, equally often."""
    lags = []
    batch = replace(batch, values=batch.values[:1], valid=batch.valid[:1], times=batch.times[:1], keys=batch.keys[:1])
    for number in range(300):
        first, second = draw_views(PLAIN, replace(batch, number=number))
        assert torch.equal(first.times, batch.times[:, :3])
        lag = int((batch.times[0] == second.times[0, 0]).nonzero()) - 2
        assert torch.equal(second.times, batch.times[:, lag + 2 : lag + 5])
        assert torch.equal(first.values, batch.values[:, :3])
        assert torch.equal(second.values, batch.values[:, lag + 2 : lag + 5])
        lags.append(lag)
    counts = np.bincount(lags, minlength=5)
    assert counts[[0, 4]].tolist() == [0, 0]
    assert counts[1:4] == pytest.approx(100, abs=4 * (300 * 2 / 9) ** 0.5)


def test_views_are_a_function_of_keys_and_number(batch: Batch) -> None:
    """A sample's views do not depend on the others; other keys, and the other view, change other things."""
    config = ViewsConfig(variable_dropout=0.5)
    first, second = draw_views(config, batch)
    again = draw_views(config, batch)
    assert torch.equal(first.values, again[0].values)
    assert torch.equal(second.values, again[1].values)
    one = replace(batch, values=batch.values[4:5], valid=batch.valid[4:5], times=batch.times[4:5], keys=batch.keys[4:5])
    assert torch.equal(draw_views(config, one)[1].values, second.values[4:5])
    other = draw_views(config, replace(batch, keys=batch.keys + 1))
    assert not torch.equal(other[0].values, first.values)
    assert (first.keys != second.keys).all()


def test_scale_and_offset_undo_exactly(batch: Batch) -> None:
    """Every variable of a view is an affine image of what it was, within the bounds; missing cells stay 0."""
    config = replace(PLAIN, scale=0.4, offset=0.7)
    plain, changed = draw_views(PLAIN, batch), draw_views(config, batch)
    scales, offsets = [], []
    for before, after in zip(plain, changed, strict=True):
        assert torch.equal(before.valid, after.valid)
        assert (after.values[~after.valid] == 0).all()
        for sample in range(len(batch)):
            for variable in range(3):
                x = before.values[sample, :, variable][before.valid[sample, :, variable]].double().numpy()
                y = after.values[sample, :, variable][before.valid[sample, :, variable]].double().numpy()
                slope, level = np.polyfit(x, y, 1)
                assert y == pytest.approx(slope * x + level, abs=1e-5)
                scales.append(slope)
                offsets.append(level)
    assert 0.6 <= min(scales) < 0.7
    assert 1.3 < max(scales) <= 1.4
    assert -0.7 <= min(offsets) < -0.5
    assert 0.5 < max(offsets) <= 0.7
    assert len({round(scale, 5) for scale in scales}) == 60  # each variable, sample and view its own
    assert abs(np.corrcoef(scales, offsets)[0, 1]) < 4 / 60**0.5


def test_variables_are_dropped_by_view(batch: Batch) -> None:
    """One always stays; the two views of a sample lose different ones."""
    first, second = draw_views(replace(PLAIN, variable_dropout=0.6), batch)
    present = [view.valid.flatten(3).any(-1).any(1) for view in (first, second)]
    assert all(there.any(1).all() for there in present)
    assert not torch.equal(*present)
    assert (first.values[~first.valid] == 0).all()


def test_each_view_shows_its_share_of_tokens(batch: Batch) -> None:
    """Exact counts, no token twice, every token equally often, other ones in the other view; all with keep 1."""
    _, task = make(ViewsConfig(keep=0.4), batch.grid)
    first, second = task.draw(batch)
    patches = patchify(first, PATCH)
    ids = task.shown(patches, fold(torch.zeros(2000, dtype=torch.int64), torch.arange(2000)))
    assert ids is not None
    assert ids.shape == (2000, round(0.4 * patches.count))
    shown = torch.zeros(2000, patches.count).scatter_(1, ids, 1)
    assert (shown.sum(1) == ids.shape[1]).all()
    assert shown.mean(0).numpy() == pytest.approx(ids.shape[1] / patches.count, abs=4 * (0.24 / 2000) ** 0.5)
    one, two = task.shown(patches, first.keys), task.shown(patches, second.keys)
    assert one is not None
    assert two is not None
    assert not torch.equal(one.sort(1).values, two.sort(1).values)
    assert make(PLAIN, batch.grid)[1].shown(patches, first.keys) is None
    assert make(ViewsConfig(keep=1e-6), batch.grid)[1].shown(patches, first.keys).shape == (10, 1)  # type: ignore[union-attr]


def test_hidden_tokens_do_not_reach_the_embedding(batch: Batch) -> None:
    """Values under tokens that are not shown change nothing; one that is shown does."""
    encoder, task = make(replace(PLAIN, keep=0.3), batch.grid)
    view, _ = task.draw(batch)
    before = task.pooled(encoder, view, PATCH)
    patches = patchify(view, PATCH)
    keep = task.shown(patches, view.keys)
    assert keep is not None
    hidden = next(k for k in range(patches.count) if k not in keep[0] and patches.valid[0, k].all())
    for token, changes in ((hidden, False), (int(keep[0, 0]), True)):
        cells = torch.zeros(patches.valid.shape[1], dtype=torch.bool)
        cells[token] = True
        step, place = int(patches.step[token]), int(patches.cell[token])
        row, column = 2 * (place // patches.shape[2]), 3 * (place % patches.shape[2])
        values = view.values.clone()
        values[0, step, :, row : row + 2, column : column + 3] += 1.0
        after = task.pooled(encoder, replace(view, values=values), PATCH)
        assert bool((after[0] != before[0]).any()) == changes
        assert torch.equal(after[1:], before[1:])


def test_the_season_is_not_given(batch: Batch) -> None:
    """Other dates, same fields: the same embedding."""
    encoder, task = make(PLAIN, batch.grid)
    view, _ = task.draw(batch)
    later = replace(view, times=view.times + 86400 * 100)
    assert torch.equal(task.pooled(encoder, view, PATCH), task.pooled(encoder, later, PATCH))


def test_rolling_turns_fields_and_coastlines_together(batch: Batch) -> None:
    """Each view by its own whole number of columns; rolled back it is what it was; the place is hidden."""
    plain = draw_views(PLAIN, batch)
    turns = set()
    for number in range(20):
        numbered = replace(batch, number=number)
        plain, rolled = draw_views(PLAIN, numbered), draw_views(replace(PLAIN, roll=True), numbered)
        found = []
        for before, after in zip(plain, rolled, strict=True):
            back = [k for k in range(12) if torch.equal(after.values.roll(-k, -1), before.values)]
            assert len(back) == 1
            assert torch.equal(after.valid.roll(-back[0], -1), before.valid)
            assert torch.equal(after.known.roll(-back[0], -1), before.known)
            assert patchify(after, (1, 1, 1)).count == patchify(before, (1, 1, 1)).count  # land stays without tokens
            found.append(back[0])
        turns.add(tuple(found))
    assert len(turns) > 15
    encoder, task = make(replace(PLAIN, roll=True), batch.grid)
    elsewhere = LatLonGrid(batch.grid.lat, batch.grid.lon + 10)
    view = plain[0]
    assert torch.equal(task.pooled(encoder, view, PATCH), task.pooled(encoder, replace(view, grid=elsewhere), PATCH))
    encoder, task = make(PLAIN, batch.grid)
    assert not torch.equal(
        task.pooled(encoder, view, PATCH), task.pooled(encoder, replace(view, grid=elsewhere), PATCH)
    )


def test_heads_take_out_what_all_share() -> None:
    """A constant added to all features changes nothing while it learns; evaluated, every sample stands alone."""
    torch.manual_seed(0)
    made, x = head(6, 8, 4), torch.randn(50, 6)
    torch.testing.assert_close(made(x), made(x + 10), rtol=1e-3, atol=1e-4)
    made.eval()
    torch.testing.assert_close(made(x)[2:3], made(x[2:3]))
    assert made(x).shape == (50, 4)


def test_what_does_not_fit_is_refused(batch: Batch) -> None:
    """Settings out of range, windows of another length, rolling on a regional grid."""
    for bad in (
        {"max_lag": 0},
        {"keep": 0.0},
        {"keep": 1.5},
        {"scale": 1.0},
        {"scale": -0.1},
        {"offset": float("nan")},
        {"offset": float("inf")},
        {"variable_dropout": 1.0},
    ):
        with pytest.raises(EarthSSLError, match="expected"):
            ViewsConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match=r"hidden: expected a width"):
        SimCLRConfig(hidden=0)
    for steps in (7, 3):
        with pytest.raises(EarthSSLError, match="objective's span"):
            draw_views(PLAIN, batch.cut(0, steps))
    region = LatLonGrid(batch.grid.lat, np.arange(12) * 2.0)
    with pytest.raises(EarthSSLError, match="goes round the globe"):
        make(replace(PLAIN, roll=True), region)

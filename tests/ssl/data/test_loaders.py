"""Windows and loaders: batch k is a function of (seed, k), whoever asks and whenever."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.loaders import EvalLoader, TrainLoader
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.store.store import Store

Maker = Callable[..., Windows]


def same(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same, bit for bit."""
    return a.number == b.number and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("values", "valid", "times", "keys", "known")
    )


def first_times(batch: Batch) -> list[int]:
    """The first time of every window, which tells the windows apart."""
    return batch.times[:, 0].tolist()


def test_a_window_holds_the_steps_of_the_store(small_store: Path, small_windows: Maker) -> None:
    windows, store = small_windows("val", length=4), Store(small_store)
    assert len(windows) == 48 - 3
    batch = windows.batch([0, 44, 7])
    for row, index in enumerate([0, 44, 7]):
        steps = np.arange(252 + index, 256 + index)  # validation starts with January 2002
        fields = store.read(steps)
        np.testing.assert_array_equal(batch.valid[row].numpy(), np.isfinite(fields))
        np.testing.assert_array_equal(batch.values[row].numpy(), np.nan_to_num(fields))
        np.testing.assert_array_equal(batch.times[row].numpy(), store.times[steps].astype(np.int64))
        assert windows.last_times[index] == store.times[steps[-1]]
    assert batch.values.shape == (3, 4, 3, 7, 12)
    assert len(batch) == 3
    assert batch.variables == ("sst", "u10", "v10")
    np.testing.assert_array_equal(batch.known.numpy(), store.statistics.known)
    assert batch.grid.same_as(store.grid)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_no_batch_of_a_part_holds_a_time_of_another(small_store: Path, small_windows: Maker, part: str) -> None:
    splits = Store(small_store).splits
    for batch in EvalLoader(small_windows(part, length=5), 50):
        assert splits.inside(batch.times.numpy().astype("datetime64[s]"), part).all()


def test_keys_depend_on_seed_part_epoch_and_index_and_on_nothing_else(small_windows: Maker) -> None:
    windows = small_windows("train")
    keys = windows.batch([3, 5, 8], epoch=2).keys
    assert torch.equal(windows.batch([8, 100, 3], epoch=2, number=77).keys[[2, 0]], keys[[0, 2]])
    assert torch.equal(windows.batch(torch.tensor([3, 5, 8], dtype=torch.int64), epoch=2).keys, keys)
    others = [windows.batch([3], epoch=e).keys for e in (0, 1)]
    others += [small_windows("train", seed=1).batch([3], epoch=2).keys, small_windows("val").batch([3], epoch=2).keys]
    others += [windows.batch([4], epoch=2).keys, keys[:1]]
    assert len({int(k) for k in others}) == len(others)


def test_batch_k_is_a_function_of_seed_and_k(small_windows: Maker) -> None:
    one, two = TrainLoader(small_windows(), 16, seed=4), TrainLoader(small_windows(), 16, seed=4)
    run = list(islice(one, 35))  # two epochs of 14 and a half
    assert len({batch.number for batch in run}) == 35  # what a whole batch draws with differs
    for number in (34, 0, 13, 14, 29):  # in any order
        assert same(two.get(number), run[number])
    other = TrainLoader(small_windows(), 16, seed=5)
    assert first_times(other.get(0)) != first_times(run[0])


def test_a_resumed_run_goes_on_with_the_batch_it_had_come_to(small_windows: Maker) -> None:
    whole = list(islice(TrainLoader(small_windows(), 16, seed=4), 20))
    done = 9
    resumed = TrainLoader(small_windows(), 16, seed=4, first=lambda: done)
    assert all(same(a, b) for a, b in zip(whole[9:], islice(resumed, 11), strict=True))
    done = 17  # asked anew whenever iteration starts
    assert same(next(iter(resumed)), whole[17])


def test_every_window_comes_once_an_epoch(small_windows: Maker) -> None:
    windows = small_windows("train", length=3)
    assert len(windows) == 238
    loader = TrainLoader(windows, 16, seed=0)
    assert loader.batches_per_epoch == 14
    epochs = []
    for epoch in range(4):
        seen = [t for number in range(14) for t in first_times(loader.get(14 * epoch + number))]
        assert len(set(seen)) == len(seen) == 224
        epochs.append(seen)
    assert len({tuple(seen) for seen in epochs}) == 4
    left_out = [set(windows.batch(range(238)).times[:, 0].tolist()) - set(seen) for seen in epochs]
    assert all(len(rest) == 14 for rest in left_out)
    assert left_out[0] != left_out[1]  # nobody waits for ever


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batch_of_one_process(small_windows: Maker, ranks: int) -> None:
    alone = TrainLoader(small_windows(), 6 * ranks, seed=2)
    crew = [TrainLoader(small_windows(), 6, seed=2, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {loader.batches_per_epoch for loader in crew} == {alone.batches_per_epoch}
    for number in (0, 1, alone.batches_per_epoch, 40):
        parts = [loader.get(number) for loader in crew]
        whole = alone.get(number)
        for name in ("values", "times", "keys"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert {part.number for part in parts} == {whole.number}


@pytest.mark.parametrize(("batch_size", "ranks"), [(239, 1), (120, 2), (0, 1)])
def test_batches_that_the_training_block_cannot_fill_are_refused(
    small_windows: Maker, batch_size: int, ranks: int
) -> None:
    with pytest.raises(EarthSSLError, match=rf"batch_size: .* {238 // ranks} .*238 windows.* got {batch_size}"):
        TrainLoader(small_windows(), batch_size, seed=0, ranks=ranks)
    assert len(TrainLoader(small_windows(), 119, seed=0, ranks=2).get(0)) == 119


def test_evaluation_sees_every_window_once_in_order_with_the_same_keys(small_windows: Maker) -> None:
    windows = small_windows("test", length=2)
    loader = EvalLoader(windows, 10)
    first, second = list(loader), list(loader)
    assert len(first) == len(loader) == 5
    assert [t for batch in first for t in first_times(batch)] == windows.batch(range(47)).times[:, 0].tolist()
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    shares = [[t for batch in EvalLoader(windows, 10, rank, 3) for t in first_times(batch)] for rank in range(3)]
    assert sorted(t for share in shares for t in share) == windows.batch(range(47)).times[:, 0].tolist()
    one = next(iter(EvalLoader(windows, 47)))
    assert torch.equal(torch.cat([batch.keys for batch in first]), one.keys)  # whatever the batch size


def test_a_batch_moves_with_all_its_tensors(small_windows: Maker) -> None:
    made = small_windows().batch([0, 1], number=3)
    batch: Any = made.to("meta")
    assert {getattr(batch, name).device.type for name in ("values", "valid", "times", "keys")} == {"meta"}
    assert batch.number == made.number


def test_season_batches_hold_one_calendar_month_and_every_window_comes_round(small_windows: Maker) -> None:
    windows = small_windows("train", length=3)
    loader = TrainLoader(windows, 6, seed=4, grouping="season")
    sizes = np.bincount(windows.last_times.astype("datetime64[M]").astype(int) % 12, minlength=12)
    assert loader.batches_per_epoch == int((sizes // 6).sum())
    seen: list[int] = []
    for number in range(loader.batches_per_epoch):
        batch = loader.get(number)
        last = batch.times[:, -1].numpy().astype("datetime64[s]").astype("datetime64[M]").astype(int)
        assert len(set(last % 12)) == 1
        assert len(set(last)) == 6
        seen += first_times(batch)
    assert len(set(seen)) == len(seen) == 6 * loader.batches_per_epoch
    months = [int(loader.get(number).times[0, -1]) // 2629746 % 12 for number in range(12)]
    assert len(set(months)) > 3  # the months come mixed
    again = TrainLoader(windows, 6, seed=4, grouping="season")
    assert same(again.get(17), loader.get(17))
    assert set(first_times(loader.get(loader.batches_per_epoch))) != set(first_times(loader.get(0)))


def test_season_batches_that_no_month_can_fill_are_refused(small_windows: Maker) -> None:
    with pytest.raises(EarthSSLError, match=r"expected 1 to 20 with training\.batches season"):
        TrainLoader(small_windows("train", length=3), 21, seed=0, grouping="season")


def test_shortened_windows_are_those_that_would_be_loaded_anew(small_windows: Maker) -> None:
    long, short = small_windows("val", length=6), small_windows("val", length=2)
    made = long.shortened(2)
    assert np.array_equal(made.starts, short.starts)
    assert np.array_equal(made.last_times, short.last_times)
    assert same(made.batch([0, 5, 46]), short.batch([0, 5, 46]))
    assert len(long) == 43  # as before
    with pytest.raises(EarthSSLError, match="at most 6 steps"):
        long.shortened(7)


def test_cut_takes_the_steps_asked_for(small_windows: Maker) -> None:
    batch = small_windows("train", length=5).batch([0, 10, 20])
    same_for_all = batch.cut(1, 3)
    assert torch.equal(same_for_all.values, batch.values[:, 1:4])
    assert torch.equal(same_for_all.times, batch.times[:, 1:4])
    apart = batch.cut(torch.tensor([0, 2, 1]), 3)
    for row, first in enumerate([0, 2, 1]):
        for name in ("values", "valid", "times"):
            assert torch.equal(getattr(apart, name)[row], getattr(batch, name)[row, first : first + 3])
    assert torch.equal(apart.keys, batch.keys)
    for first, length in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(EarthSSLError, match="inside 5 steps"):
            batch.cut(first, length)


def test_spread_batches_take_windows_far_apart_and_each_once(small_windows: Maker) -> None:
    windows = small_windows("val", length=2)
    batches = list(EvalLoader(windows, 10, grouping="spread"))
    assert len(batches) == 5
    assert sorted(t for batch in batches for t in first_times(batch)) == sorted(
        windows.batch(range(47)).times[:, 0].tolist()
    )
    gaps = [np.diff(sorted(first_times(batch))).min() / 86400 for batch in batches]
    assert min(gaps) > 100  # every fifth month

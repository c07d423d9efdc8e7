"""Fields: resident and streaming give the same bits; buffers in use stay; what is gone is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data import loading, streaming
from earthssl.ssl.data.loaders import EvalLoader, TrainLoader
from earthssl.ssl.data.loading import Loading
from earthssl.ssl.data.reading import Ring
from earthssl.ssl.data.resident import Resident
from earthssl.ssl.data.streaming import Streaming
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.store.chunks import Template
from earthssl.ssl.store.encoding import encode
from earthssl.ssl.store.store import Store
from earthssl.ssl.store.writing import close, create, open_fields
from earthssl.ssl.training.pretrain import pretrain
from safetensors.torch import load_file

STEPS, SHAPE = 1000, (2, 3, 4)
DTYPES = ("float32", "float16", "int16")
Maker = Callable[[str], Store]


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Maker of a store of 1000 days in chunks of 7, with values missing here and there, of a dtype."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(STEPS, *SHAPE)).astype(np.float32) * 3
    values[rng.random(values.shape) < 0.1] = np.nan
    values[200:400] = np.nan_to_num(values[200:400])  # and nothing missing for a while
    times = np.datetime64("2000-01-01", "s") + np.arange(STEPS) * np.timedelta64(1, "D")
    splits = SplitsConfig(("2000-01", "2001-10"), ("2001-12", "2002-03"), ("2002-05", "2002-09"), 20).build()
    coefficients = np.zeros((1, 1, *SHAPE), np.float32)
    made: dict[str, Store] = {}

    def make(dtype: str) -> Store:
        if dtype not in made:
            folder = tmp_path_factory.mktemp("fields") / dtype
            names = ("t2m", "msl")
            grid = LatLonGrid([1, 0, -1], [0, 1, 2, 3])
            template = Template(names, grid, times, splits, dtype, 7)
            create(folder, template, Statistics("hour", (0,), 0, coefficients, np.ones(SHAPE, np.float32)))
            fields = open_fields(folder)
            for first, last in template.chunks():
                fields[first:last] = encode(values[first:last], dtype, names)
            close(folder, template, {"source": "by hand"})
            made[dtype] = Store(folder)
        return made[dtype]

    return make


def same(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same, bit for bit."""
    names = ("values", "valid", "times", "keys")
    return a.number == b.number and all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", ["train", "val"])
def test_resident_and_streaming_batches_are_the_same_bits(store_of: Maker, dtype: str, part: str) -> None:
    store = store_of(dtype)
    held, read = (Windows(store, part, 4, 0, Loading(mode)) for mode in ("resident", "streaming"))
    assert isinstance(held.fields, Resident)
    assert isinstance(read.fields, Streaming)
    device = Resident(store, held.fields.first, held.fields.last, "cpu")
    for one, two in zip(
        islice(TrainLoader(held, 16, seed=1), 45), islice(TrainLoader(read, 16, seed=1), 45), strict=True
    ):
        assert same(one, two)
    for one, two in zip(EvalLoader(held, 50), EvalLoader(read, 50), strict=True):
        assert same(one, two)
    chosen = [0, len(held) - 1, 7, 7, 50]
    batch = read.batch(chosen)
    values, valid = device.gathered(held.starts[chosen], 4)  # the way of an accelerator
    assert torch.equal(values, batch.values)
    assert torch.equal(valid, batch.valid)
    plain = store.read((held.starts[chosen][:, None] + np.arange(4)).ravel()).reshape(batch.values.shape)
    np.testing.assert_array_equal(batch.values.numpy(), np.nan_to_num(plain))
    np.testing.assert_array_equal(batch.valid.numpy(), np.isfinite(plain))
    assert 0 < batch.valid.float().mean() < 1


def test_resident_fields_keep_their_sixteen_bits_in_memory(store_of: Maker) -> None:
    sizes = {dtype: Resident(store_of(dtype), 0, 600).nbytes for dtype in DTYPES}
    assert sizes["float16"] == sizes["int16"] == 600 * 24 * 2
    assert sizes["float32"] == 600 * 24 * 4


def test_a_thread_that_reads_ahead_changes_nothing(store_of: Maker) -> None:
    windows = Windows(store_of("float16"), "train", 3, 0, Loading("streaming"))
    plain, ahead = (TrainLoader(windows, 16, seed=1, threaded=threaded) for threaded in (False, True))
    with_thread = iter(ahead)
    for one, two in islice(zip(plain, with_thread, strict=False), 100):
        assert same(one, two)
    with_thread.close()  # type: ignore[attr-defined]


def test_a_buffer_is_never_overwritten_while_anything_shows_it(store_of: Maker) -> None:
    windows = Windows(store_of("float16"), "train", 3, 0, Loading("streaming"))
    loader = iter(TrainLoader(windows, 8, seed=1))
    kept, copies = [], []
    for k in range(40):
        batch = next(loader)
        if k % 4 == 0:
            shown = batch.values[2:5, 1:, :, ::2]  # views alone, of torch and of NumPy, keep the memory
            kept.append((shown.numpy() if k % 8 else shown, batch.valid[3]))
            copies.append((shown.clone(), batch.valid[3].clone()))
    del batch
    for (shown, valid), (was, was_valid) in zip(kept, copies, strict=True):
        assert torch.equal(torch.as_tensor(shown), was)
        assert torch.equal(valid, was_valid)
    size = 8 * 3 * 24
    assert windows.fields.nbytes <= (10 + 2) * 5 * size  # ten kept, no more than two in turn
    product = torch.ones(3, requires_grad=True)
    batch = next(loader)
    loss = (batch.values[:, :, 0, 0, 0] * product).sum()  # the graph keeps what it will need
    expected = batch.values[:, :, 0, 0, 0].sum(0)
    del batch
    for _ in range(3):
        next(loader)
    loss.backward()
    assert torch.equal(product.grad, expected)  # type: ignore[arg-type]


def test_buffers_are_used_again() -> None:
    ring = Ring()
    places = set()
    for _ in range(20):
        places.add(ring.take((4, 5), np.float32).data_ptr())
    assert len(places) == 1
    a, b = ring.take((4, 5), np.float32), ring.take((4, 5), np.float32)
    assert a.data_ptr() != b.data_ptr()
    for size in range(1, 200):  # many sizes, such as last batches: old buffers go
        ring.take((3**6, size), np.bool_)
    assert ring.nbytes < 10 * 3**6 * 200


def test_streaming_holds_no_more_than_its_buffers(store_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda *_: 20_000)
    store = store_of("float16")
    windows = Windows(store, "train", 3, 0)  # auto: 31 kB do not go into 10
    assert isinstance(windows.fields, Streaming)
    for _ in islice(TrainLoader(windows, 4, seed=0), 300):
        assert windows.fields.nbytes <= 3 * 4 * 3 * 24 * 5
    with pytest.raises(EarthSSLError, match=r"training\.data resident: .* needs 0\.00 GiB, but there are"):
        Windows(store, "train", 3, 0, Loading("resident"))
    assert isinstance(Windows(store, "val", 3, 0).fields, Resident)  # 120 days fit
    assert isinstance(Windows(store, "val", 3, 0, Loading(processes=2)).fields, Streaming)


def test_chunks_that_are_gone_are_named(store_of: Maker, tmp_path: Path) -> None:
    copy = Store(shutil.copytree(store_of("float32").path, tmp_path / "copy"))
    windows = Windows(copy, "train", 3, 0, Loading("streaming"))
    windows.batch([0])
    held = copy.chunk_file(0)
    with open(held, "r+b") as file:
        file.truncate(100)
    with pytest.raises(EarthSSLError, match=rf"{held}: .* removed or cut short while in use; restore .* resume"):
        windows.batch([0])  # without the check the kernel would end the process
    windows.batch([70])
    copy.chunk_file(10).unlink()
    with pytest.raises(EarthSSLError, match="removed or cut short"):
        windows.batch([70])
    for number in (11, 12):
        copy.chunk_file(number).unlink()
    copy.chunk_file(12).write_bytes(b"short")
    with pytest.raises(EarthSSLError, match="No such file"):
        windows.batch([77])
    windows.ahead([84])  # says nothing: what is gone is an error when it is needed
    with pytest.raises(EarthSSLError, match="5 bytes instead of 672"):
        windows.batch([84])
    with pytest.raises(EarthSSLError, match="missing or cut short"):
        Resident(copy, 0, 20)


def test_batches_ahead_are_bounded_by_bytes() -> None:
    assert streaming.batches_ahead(1000) == 8
    assert streaming.batches_ahead(200 * 2**20) == 2
    assert streaming.batches_ahead(10 * 2**30) == 1  # never none


def test_what_is_read_ahead_is_what_will_be_asked(store_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(store_of("float16"), "train", 3, 0, Loading("streaming"))
    told: list[list[int]] = []
    monkeypatch.setattr(windows, "ahead", lambda chosen: told.append(chosen.tolist()))
    loader = TrainLoader(windows, 50, seed=1, first=lambda: 7)  # an epoch has 13: the next one is met twice
    asked = [loader._chosen(k)[0].tolist() for k in range(7, 7 + 20 + 8)]
    for k, _ in enumerate(islice(loader, 20)):
        assert told == asked[: k + 1 + 8]  # resumed at 7; eight batches ahead of the one at hand
    told.clear()
    batches = EvalLoader(windows, 50)
    list(batches)
    assert told == [chosen.tolist() for chosen in batches.batches[1:]]


def test_all_bytes_of_a_window_are_advised_in_small_requests(store_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "ADVICE_BYTES", 50)
    told = []
    monkeypatch.setattr(streaming.os, "posix_fadvise", lambda handle, *rest: told.append(rest[:2]))
    windows = Windows(store_of("float32"), "train", 3, 0, Loading("streaming"))
    windows.fields._advise(5, 8)  # type: ignore[attr-defined]
    assert told == [(480, 50), (530, 50), (580, 50), (630, 42), (0, 50), (50, 46)]  # steps of 96 bytes, chunks of 7


def test_more_chunks_than_may_be_mapped(store_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAPS", 3)
    store = store_of("int16")
    held, read = (Windows(store, "train", 20, 0, Loading(mode)) for mode in ("resident", "streaming"))
    order = np.random.default_rng(0).permutation(len(held))[:60]
    read.ahead(order)
    assert same(held.batch(order), read.batch(order))


def test_a_run_trains_to_the_same_weights_however_its_fields_are_held(
    small_config: Callable[..., Any], tmp_path: Path
) -> None:
    weights = []
    for mode in ("resident", "streaming"):
        config = small_config(tmp_path / mode, steps=3, warmup_steps=1, val_every=3, data=mode)
        weights.append(load_file(pretrain(config, TASKS) / "encoder.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    with pytest.raises(EarthSSLError, match=r"training\.data: .* got 'stream'\. Did you mean 'streaming'"):
        small_config(tmp_path / "no", data="stream")

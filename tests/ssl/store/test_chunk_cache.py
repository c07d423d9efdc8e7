"""Compressed, sharded and remote stores: the same batches through a bounded cache, whatever breaks on the way."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from earthssl.cli.main import main
from earthssl.pretext import TASKS
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json, waited_for, write_json
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.data.loading import Loading
from earthssl.ssl.data.streaming import Streaming
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.runtime.background import Ahead
from earthssl.ssl.store import remote_zarr
from earthssl.ssl.store.chunk_cache import GB, ChunkCache
from earthssl.ssl.store.chunks import MANIFEST, Template, chunk_file
from earthssl.ssl.store.describe import describe
from earthssl.ssl.store.encoding import encode
from earthssl.ssl.store.pack import pack
from earthssl.ssl.store.store import Store
from earthssl.ssl.store.writing import close, create, open_fields
from earthssl.ssl.training.pretrain import pretrain

STEPS, SHAPE, CHUNK_STEPS = 200, (2, 18, 36), 9
CHUNK = CHUNK_STEPS * 2 * 18 * 36 * 2  # bytes
CHUNKS = 23


def make(folder: Path, dtype: str = "float16") -> Path:
    """A plain store of 200 days in chunks of 9, the last one not full, smooth so that it can be compressed."""
    values = np.round(np.random.default_rng(0).normal(size=(STEPS, *SHAPE)), 1).astype(np.float32)
    values[:, 1, :6] = np.nan
    times = np.datetime64("2001-01-01", "s") + np.arange(STEPS) * np.timedelta64(1, "D")
    splits = SplitsConfig(("2001-01", "2001-05"), ("2001-06-05", "2001-06-20"), ("2001-06-25", "2001-07-19"), 2).build()
    grid = LatLonGrid(np.linspace(85, -85, 18), np.arange(36) * 10.0)
    template = Template(("t2m", "msl"), grid, times, splits, dtype, CHUNK_STEPS)
    coefficients = np.where(np.isfinite(values[:1]), 0, np.nan).astype(np.float32)[None]
    create(folder, template, Statistics("hour", (0,), 0, coefficients[:, 0][:, None], np.ones(SHAPE, np.float32)))
    fields = open_fields(folder)
    for first, last in template.chunks():
        fields[first:last] = encode(values[first:last], dtype, template.variables)
    proof = {"blocks": {}, "gaps_days": {}, "embargo_days": 2}
    close(folder, template, {"source": "by hand", "valid_share": {"t2m": 1.0}, "attributes": {}, "split_proof": proof})
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plain") / "store")


@pytest.fixture(scope="module")
def packed(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(plain, tmp_path_factory.mktemp("packed") / "store")


@pytest.fixture
def cache(tmp_path: Path) -> ChunkCache:
    return ChunkCache(tmp_path / "cache", 1.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_zarr, "PAUSE_S", 0.001)
    monkeypatch.setattr(remote_zarr, "LONGEST_S", 0.002)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """Serve a folder over HTTP; `drop(path, times asked)` says which answers are cut in half."""
    state = SimpleNamespace(folder=Path(), asked=[], drop=lambda path, times: False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            state.asked.append(self.path)
            file = state.folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data, status, asked = file.read_bytes(), 200, self.headers.get("Range", "")
            if asked.startswith("bytes=-"):
                data, status = data[-int(asked[7:]) :], 206
            elif asked:
                first, last = asked.removeprefix("bytes=").split("-")
                data, status = data[int(first) : int(last) + 1 if last else None], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                dropped = state.drop(self.path, state.asked.count(self.path))
                self.wfile.write(data[: len(data) // 2] if dropped else data)

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url, state.stop = f"http://127.0.0.1:{httpd.server_address[1]}", httpd.shutdown
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def batches(store: Store, mode: str, count: int = 20) -> list[Any]:
    """Batches of more than an epoch."""
    windows = Windows(store, "train", 3, 0, Loading(mode))
    return list(islice(TrainLoader(windows, 8, seed=1), count))


def check_same(found: Store, plain: Path, mode: str) -> None:
    """Assert that batches are those of the plain store, bit for bit."""
    for one, two in zip(batches(found, mode), batches(Store(plain), mode), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("values", "valid", "times", "keys"))


def kept(cache: ChunkCache) -> list[Path]:
    """Chunk files in the cache, finished or not."""
    return [file for file in cache.folder.glob("*/fields/c/*/0/0/*") if file.is_file()]


@pytest.mark.parametrize("mode", ["streaming", "resident"])
def test_a_packed_store_on_disk_gives_the_same_batches(plain: Path, packed: Path, cache: ChunkCache, mode: str) -> None:
    store = Store(packed, cache)
    assert store.mirror is not None
    assert store.fingerprint == Store(plain).fingerprint
    check_same(store, plain, mode)
    store.verify()
    assert len(kept(cache)) == CHUNKS
    assert Store(store.path).mirror is None  # the twin is a plain store
    Store(store.path).verify()
    files = [file for file in packed.rglob("*") if file.is_file() and "fields" in file.parts]
    assert len(files) == CHUNKS + 1  # shards of whole chunks
    assert sum(file.stat().st_size for file in files) < 0.8 * CHUNKS * CHUNK
    np.testing.assert_array_equal(xr.open_zarr(packed).fields.values, Store(plain).read_all().astype(np.float16))


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_other_dtypes_and_codecs(tmp_path: Path, cache: ChunkCache, dtype: str) -> None:
    plain = make(tmp_path / "plain", dtype)
    check_same(Store(pack(plain, tmp_path / "packed"), cache), plain, "streaming")
    other = shutil.copytree(plain, tmp_path / "other")  # as someone may have rewritten it: chunks of another cut
    shutil.rmtree(other / "fields")
    values = zarr.open_group(plain)["fields"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata, which are not in Zarr's specification
        zarr.create_array(
            other, name="fields", data=values[:STEPS], chunks=(7, 1, 18, 36), attributes=dict(values.attrs)
        )
        zarr.consolidate_metadata(other)
    check_same(Store(other, cache), plain, "streaming")


@pytest.mark.parametrize("scheme", ["http", "memory", "file"])
def test_a_store_behind_a_url(plain: Path, cache: ChunkCache, server: SimpleNamespace, scheme: str) -> None:
    if scheme == "http":
        server.folder = plain
        address = server.url
    elif scheme == "memory":
        address = "memory://stores/one"
        fsspec.filesystem("memory").put(str(plain), "/stores/one", recursive=True)
    else:
        address = f"file://{plain}"
    store = Store(address, cache)
    check_same(store, plain, "streaming")
    store.verify()
    assert (store.mirror is None) == (scheme == "file")  # which can be mapped where it lies
    assert describe(address).startswith(f"training store {address}\n") if scheme == "file" else True
    if scheme == "http":
        chunks = [path for path in server.asked if path.startswith("/fields/c/")]
        assert len(chunks) == CHUNKS  # each fetched once, by whichever thread


IN_S3 = """
import sys
from pathlib import Path
import fsspec, numpy as np
from earthssl.ssl.store.chunk_cache import ChunkCache
from earthssl.ssl.store.store import Store
plain, packed, cache = map(Path, sys.argv[1:])
system = fsspec.filesystem("s3")
system.mkdir("shelf")
system.put(str(packed), "shelf/store", recursive=True)
store = Store("s3://shelf/store", ChunkCache(cache, 1.0))
store.verify()
np.testing.assert_array_equal(store.read_all(), Store(plain).read_all())
"""


@pytest.mark.slow
def test_a_store_in_s3(plain: Path, packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    s3 = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    command = [sys.executable, "-c", IN_S3, str(plain), str(packed), str(tmp_path)]
    try:  # in a process of its own: s3fs leaves connections open
        subprocess.run(command, check=True, env=environment)
    finally:
        s3.stop()


def test_broken_connections_are_tried_again_and_leave_nothing_half(
    plain: Path, packed: Path, cache: ChunkCache, server: SimpleNamespace
) -> None:
    server.folder = packed
    server.drop = lambda path, times: times in (1, 4)
    store = Store(server.url, cache)
    check_same(store, plain, "streaming")
    assert len(kept(cache)) == 17  # what training reads
    store.verify()
    assert len(kept(cache)) == CHUNKS


def test_a_connection_lost_for_good_ends_clearly(
    plain: Path, cache: ChunkCache, server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.folder = plain
    server.drop = lambda path, times: path == "/fields/c/7/0/0/0"
    store = Store(server.url, cache)
    with pytest.raises(EarthSSLError, match=r"http://.*: fields could not be read in 8 tries .* run the same command"):
        store.read([7 * CHUNK_STEPS])
    assert server.asked.count("/fields/c/7/0/0/0") == 8
    assert not kept(cache)
    server.drop = lambda path, times: False
    np.testing.assert_array_equal(store.read([70]), Store(plain).read([70]))


def test_a_run_that_lost_the_connection_goes_on_with_the_same_batches(
    plain: Path, cache: ChunkCache, server: SimpleNamespace
) -> None:
    server.folder = plain
    windows = Windows(Store(plain), "train", 3, 0, Loading("streaming"))
    wanted = [int(windows.starts[k]) // CHUNK_STEPS for k in TrainLoader(windows, 1, seed=1)._chosen(12)[0]]
    server.drop = lambda path, times: path == f"/fields/c/{wanted[0]}/0/0/0"
    seen: list[Any] = []

    def go_on() -> None:
        windows = Windows(Store(server.url, cache), "train", 3, 0, Loading("streaming"))
        for batch in islice(TrainLoader(windows, 1, 1, first=lambda: len(seen)), 20 - len(seen)):
            seen.append(batch)

    with pytest.raises(EarthSSLError, match="could not be read in 8 tries"):
        go_on()
    assert len(seen) <= 12
    server.drop = lambda path, times: False
    go_on()
    whole = [TrainLoader(windows, 1, seed=1).get(k) for k in range(20)]
    assert all(torch.equal(one.values, two.values) for one, two in zip(seen, whole, strict=True))


def test_once_filled_a_cache_works_without_a_connection(
    plain: Path, cache: ChunkCache, server: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    server.folder = plain
    Store(server.url, cache).verify()
    with pytest.raises(EarthSSLError, match=r"http://127\.0\.0\.1:9/none: manifest\.json could not be read in 8 tries"):
        Store("http://127.0.0.1:9/none", cache)
    server.drop = lambda path, times: True
    store = Store(server.url, cache)
    assert "meanwhile what is in" in capsys.readouterr().err
    check_same(store, plain, "streaming")


def test_bytes_that_differ_are_refused_and_not_kept(plain: Path, cache: ChunkCache, tmp_path: Path) -> None:
    bad = shutil.copytree(plain, tmp_path / "bad")
    with open(bad / "fields/c/3/0/0/0", "r+b") as file:
        file.write(b"\x01")
    (bad / "fields/c/4/0/0/0").unlink()  # Zarr would read missing values
    store = Store(f"memory://{_upload(bad)}", cache)
    for step in (27, 36):
        with pytest.raises(EarthSSLError, match=rf"memory://.*: steps {step} to {step + 8} of fields are not those"):
            store.read([step])
    assert not kept(cache)
    assert np.isfinite(store.read([0])[0, 0]).all()
    (bad / "scale/c/0/0/0").write_bytes(b"\x00" * 4 * 1296)
    with pytest.raises(EarthSSLError, match="axes and statistics are not those of its manifest"):
        Store(f"memory://{_upload(bad)}", cache)
    evil = {**read_json(plain / MANIFEST, ""), "fingerprint": "../../../home"}
    write_json(bad / MANIFEST, evil)
    with pytest.raises(EarthSSLError, match="expected the manifest of a training store, got something else"):
        Store(f"memory://{_upload(bad)}", cache)
    assert len(list(cache.folder.glob("*/"))) == 1


def test_files_of_another_type_are_not_mapped(plain: Path, cache: ChunkCache, tmp_path: Path) -> None:
    other = shutil.copytree(plain, tmp_path / "other")
    for file in (other / "zarr.json", other / "fields" / "zarr.json"):
        file.write_text(file.read_text().replace('"endian": "little"', '"endian": "big"'))
    with pytest.raises(EarthSSLError, match="not those of its manifest"):
        Store(other, cache).read([0])
    assert not remote_zarr.is_plain((plain / "fields" / "zarr.json").read_text(), (CHUNK_STEPS, *SHAPE), "int16")


def _upload(folder: Path, uploads: list[int] = []) -> str:  # noqa: B006 (counts)
    uploads.append(1)
    name = f"uploads/{len(uploads)}"
    fsspec.filesystem("memory").put(str(folder), f"/{name}", recursive=True)
    return name


def test_a_replaced_store_gets_a_twin_of_its_own(plain: Path, cache: ChunkCache, tmp_path: Path) -> None:
    moving = pack(plain, tmp_path / "moving")
    first = Store(moving, cache)
    shutil.rmtree(moving)
    other = make(tmp_path / "other", "float32")
    pack(other, moving)
    second = Store(moving, cache)
    assert first.path != second.path
    check_same(second, other, "streaming")


def test_the_cache_stays_within_its_bound(plain: Path, packed: Path, tmp_path: Path, capfd: Any) -> None:
    small = ChunkCache(tmp_path / "small", 10 * CHUNK / GB)
    store = Store(packed, small)
    most = 0
    windows, plainly = Windows(store, "train", 3, 0, Loading("streaming")), Windows(Store(plain), "train", 3, 0)
    for one, two in islice(zip(TrainLoader(windows, 8, 1), TrainLoader(plainly, 8, 1), strict=False), 12):
        assert torch.equal(one.values, two.values)
        most = max(most, len(kept(small)))
    assert 5 < most <= 10
    assert "a cache of 0.000233 GB is smaller than what an epoch mixes" in capfd.readouterr().err
    assert isinstance(windows.fields, Streaming)
    assert len(windows.fields._chunks) <= 2  # those that gave way are let go
    store = Store(packed, ChunkCache(tmp_path / "other", 10 * CHUNK / GB))
    for number in range(15):
        store.chunk_file(number)
        store.chunk_file(0)  # used again and again: others go
    assert sorted(int(file.parts[-4]) for file in kept(store.mirror.cache)) == [0, *range(6, 15)]
    with pytest.raises(EarthSSLError, match=r"EARTHSSL_CACHE_GB: expected at least .* 8 chunks of"):
        Store(packed, ChunkCache(tmp_path / "tiny", 7 * CHUNK / GB))


def test_two_who_want_a_chunk_fetch_it_once(plain: Path, cache: ChunkCache, server: SimpleNamespace) -> None:
    server.folder = plain
    stores = [Store(server.url, cache) for _ in range(4)]  # as processes do: locks of files, nothing shared
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: stores[k % 4].read([k // 4 % 2]), range(16)))
    assert all(np.array_equal(found[k], found[k % 8], equal_nan=True) for k in range(16))
    assert server.asked.count("/fields/c/0/0/0/0") == 1


def test_what_is_begun_early_may_fail_and_ends_with_its_owner() -> None:
    ahead, done = Ahead(2), threading.Event()
    ahead.begin(lambda: 1 / 0)
    ahead.begin(done.set)
    assert done.wait(10)
    before = [thread for thread in threading.enumerate() if thread.name == "ahead"]
    assert all(thread.daemon for thread in before)  # the end of the program does not wait for them
    del ahead
    end = time.monotonic() + 10
    while len([thread for thread in before if thread.is_alive()]) > len(before) - 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert len([thread for thread in before if thread.is_alive()]) == len(before) - 2


KILLED = """
import os, signal, sys
from pathlib import Path
from earthssl.ssl.store import chunks
from earthssl.ssl.store.chunk_cache import ChunkCache
from earthssl.ssl.store.store import Store
store = Store(sys.argv[1], ChunkCache(Path(sys.argv[2]), 1.0))
chunks.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
store.read([0])
"""


def test_a_half_chunk_that_was_left_makes_way_for_the_whole(plain: Path, packed: Path, cache: ChunkCache) -> None:
    store = Store(packed, cache)
    left = chunk_file(store.path, 0).with_name("0.123.partial")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    np.testing.assert_array_equal(store.read([0]), Store(plain).read([0]))
    assert kept(cache) == [store.chunk_file(0)]


@pytest.mark.slow
def test_a_kill_while_fetching_leaves_no_half_chunk(plain: Path, packed: Path, cache: ChunkCache) -> None:
    command = [sys.executable, "-c", KILLED, str(packed), str(cache.folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = kept(cache)
    assert left.suffix == ".partial"
    store = Store(packed, cache)
    with waited_for(cache.folder / ".lock"):  # the killed one's locks went with it
        pass
    np.testing.assert_array_equal(store.read([0]), Store(plain).read([0]))
    assert kept(cache) == [store.chunk_file(0)]


def test_a_run_trains_on_a_url_to_the_same_weights(
    small_store: Path, small_config: Callable[..., Any], cache: ChunkCache, server: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("EARTHSSL_CACHE", str(tmp_path / "env"))
    server.folder = pack(small_store, tmp_path / "packed")
    weights = []
    for name, store in (("plain", small_store), ("url", server.url)):
        config = small_config(tmp_path / name, store=store, steps=2, warmup_steps=1, val_every=2, data="streaming")
        weights.append((pretrain(config, TASKS) / "encoder.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert list((tmp_path / "env" / "stores").glob("*/fields/c/0/0/0/0"))
    assert main(["prepare", "--info", "http://127.0.0.1:9/none"]) == 2
    assert "manifest.json could not be read in 8 tries" in capsys.readouterr().err
    monkeypatch.setenv("EARTHSSL_CACHE_GB", "much")
    assert main(["prepare", "--info", server.url]) == 2
    assert "EARTHSSL_CACHE_GB: expected a size in GB above 0, got 'much'" in capsys.readouterr().err


def test_packing_from_the_command_line(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--pack", str(plain), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "out" / MANIFEST).read_bytes() == (plain / MANIFEST).read_bytes()
    assert main(["prepare", "--pack", str(plain), str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]

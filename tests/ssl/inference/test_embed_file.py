"""FrozenEncoder on long series: dask chunks in, dask chunks out; each step read once; the same numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference import frozen_encoder
from earthssl.ssl.inference.embed_file import embed_file
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder


@pytest.fixture(scope="module")
def frozen(small_run: Path) -> FrozenEncoder:
    """The encoder of the small run."""
    return load_encoder(small_run / "checkpoint")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch a chunk, however small the fields."""
    monkeypatch.setattr(frozen_encoder, "CHUNK_BYTES", 1)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_lazy_in_lazy_out_and_the_same_bits(frozen: FrozenEncoder, small_data: xr.Dataset, pooling: str) -> None:
    """Nothing is computed before it is asked for; chunks are even, as Zarr needs; numbers equal the eager ones."""
    gappy = small_data.isel(time=[k for k in range(120) if k not in (40, 77, 79)])
    eager = frozen.embed(gappy, pooling, [0, -1], batch_size=16)
    lazy = frozen.embed(gappy.chunk(time=25), pooling, [0, -1], batch_size=16)
    assert isinstance(lazy.data, da.Array)
    assert not isinstance(eager.data, da.Array)
    assert set(lazy.chunks[0][:-1]) == {16}
    assert lazy.chunks[0][-1] <= 16
    xr.testing.assert_identical(lazy.compute(), eager)
    xr.testing.assert_identical(lazy.isel(time=slice(30, 50)).compute(), eager.isel(time=slice(30, 50)))
    xr.testing.assert_identical(frozen.embed(gappy, pooling, [0, -1], 16, lazy=True).compute(), eager)
    forced = frozen.embed(gappy.chunk(time=25), pooling, [0, -1], 16, lazy=False)
    assert not isinstance(forced.data, da.Array)
    xr.testing.assert_identical(forced, eager)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_each_chunk_of_the_source_is_read_once(frozen: FrozenEncoder, small_data: xr.Dataset, scheduler: str) -> None:
    """Chunks that overlap share what they read, and no more is read than is asked for."""
    reads: Counter[tuple[str, int]] = Counter()

    def source(name: str) -> da.Array:
        values = small_data[name].values

        def read(block_info: Any = None) -> np.ndarray:
            first, last = block_info[None]["array-location"][0]
            reads[name, first] += 1
            return values[first:last]

        return da.map_blocks(read, chunks=((30,) * 12, 7, 12), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))

    lazy = xr.Dataset(
        {name: (("time", "lat", "lon"), source(name), var.attrs) for name, var in small_data.data_vars.items()},
        small_data.coords,
    )
    features = frozen.embed(lazy, batch_size=20)
    looked_at = {first for _, first in reads}
    assert len(looked_at) <= 6  # the screening reads a few steps
    reads.clear()
    with dask.config.set(scheduler=scheduler, num_workers=4):
        computed = features.compute()
    assert set(reads.values()) == {1}
    assert len(reads) == 3 * 12
    xr.testing.assert_identical(computed, frozen.embed(small_data, batch_size=20))
    reads.clear()
    features.isel(time=slice(100, 110)).compute()
    assert sorted(reads) == [(name, first) for name in ("sst", "u10", "v10") for first in (90, 120)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_file_is_written_chunk_by_chunk(
    frozen: FrozenEncoder, small_data: xr.Dataset, small_run: Path, tmp_path: Path, suffix: str
) -> None:
    """From file to file, NetCDF or Zarr; labels survive."""
    years = small_data.isel(time=slice(0, 60))
    years.to_netcdf(tmp_path / "data.nc")
    out = embed_file(
        small_run / "checkpoint", tmp_path / "data.nc", tmp_path / f"f{suffix}", pooling="tokens", layer=[0, 2]
    )
    with xr.open_dataarray(out, engine="zarr" if suffix == ".zarr" else "netcdf4") as found:
        expected = frozen.embed(years, "tokens", [0, 2])
        xr.testing.assert_equal(found.load(), expected)
        assert found.attrs == expected.attrs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.nc", f"f{suffix}"]
    with pytest.raises(EarthSSLError, match="exists already"):
        embed_file(small_run / "checkpoint", tmp_path / "data.nc", out)


def test_lazy_features_go_to_files_by_themselves(frozen: FrozenEncoder, small_data: xr.Dataset, tmp_path: Path) -> None:
    """xarray's own writers work on the lazy array."""
    lazy = frozen.embed(small_data.isel(time=slice(0, 80)).chunk(time=30), batch_size=32)
    lazy.to_netcdf(tmp_path / "a.nc")
    lazy.to_zarr(tmp_path / "a.zarr", consolidated=False)
    how: dict[str, Any] = {"engine": "zarr", "consolidated": False}
    with xr.open_dataarray(tmp_path / "a.nc") as a, xr.open_dataarray(tmp_path / "a.zarr", **how) as b:
        xr.testing.assert_equal(a.load(), b.load())


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_nothing_is_left_of_a_failure(
    frozen: FrozenEncoder, small_data: xr.Dataset, small_run: Path, tmp_path: Path, suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An error half-way leaves neither a file under the name nor a temporary one."""
    small_data.to_netcdf(tmp_path / "data.nc")
    monkeypatch.setattr(frozen_encoder, "CHUNK_BYTES", 1)
    calls: list[int] = []
    encode = FrozenEncoder.encode

    def failing(self: FrozenEncoder, *arguments: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no room")
        return encode(self, *arguments)

    monkeypatch.setattr(FrozenEncoder, "encode", failing)
    with pytest.raises(MemoryError):
        embed_file(small_run / "checkpoint", tmp_path / "data.nc", tmp_path / f"f{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["data.nc"]


def test_a_name_that_says_no_format_is_refused(small_run: Path, tmp_path: Path) -> None:
    """Before anything is opened."""
    with pytest.raises(EarthSSLError, match=r"ends in \.nc, \.nc4, \.zarr, got '.*f\.csv'"):
        embed_file(small_run / "checkpoint", "absent.nc", tmp_path / "f.csv")


def test_other_processes_can_do_the_work(frozen: FrozenEncoder, small_data: xr.Dataset) -> None:
    """The graph holds nothing that cannot be sent."""
    import cloudpickle

    lazy = frozen.embed(small_data.isel(time=slice(0, 24)), lazy=True)
    again = cloudpickle.loads(cloudpickle.dumps(lazy))
    xr.testing.assert_identical(again.compute(scheduler="synchronous"), lazy.compute(scheduler="synchronous"))


def test_the_bar_counts_every_chunk(
    frozen: FrozenEncoder, small_data: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends at 100 %: dask's names are the ones that are counted."""
    frozen.embed(small_data, batch_size=32)
    assert "100%" in capsys.readouterr().err

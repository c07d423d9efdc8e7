"""s3:// against moto's server: round trips, resuming, races, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.hub import registry_index
from earthssl.ssl.hub.pull import list_registry, pull
from earthssl.ssl.hub.push import push
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.remote import download

BIG = "encoder.safetensors"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A stand-in for S3, as a file system of its own."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield s3fs.S3FileSystem(
        key="x", secret="y", endpoint_url=f"http://{host}:{port}", skip_instance_cache=True, use_listings_cache=False
    )
    server.stop()


@pytest.fixture
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket `shelf`, as a file system; the environment leads to it."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    if s3.exists("shelf"):
        s3.rm("shelf", recursive=True)
    s3.mkdir("shelf")
    return s3


def test_s3_round_trip(bucket: Any, tiny: Path, data: xr.Dataset, same: Any, pin: Any) -> None:
    """push → list → pull → embed; pushing again sends nothing."""
    address = push(tiny, "s3://shelf/reg/tiny")
    assert address == f"s3://shelf/reg/tiny#sha256={pin(tiny)}"
    assert same(pull(address), tiny)
    assert [entry["name"] for entry in list_registry("s3://shelf/reg")] == ["tiny"]
    assert load_encoder(address).embed(data).equals(load_encoder(tiny).embed(data))
    before = bucket.info(f"shelf/reg/tiny/{BIG}")["LastModified"]
    push(tiny, "s3://shelf/reg/tiny")
    assert bucket.info(f"shelf/reg/tiny/{BIG}")["LastModified"] == before


def test_s3_goes_on_where_it_stopped(
    bucket: Any, tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, same: Any, pin: Any
) -> None:
    """Half of a file that is at hand is not asked for again; of another version all is."""
    push(tiny, "s3://shelf/tiny")
    partial = cache / ".partial" / pin(tiny)
    partial.mkdir(parents=True)
    head = bucket.info(f"shelf/tiny/{BIG}")
    starts: list[int] = []
    write = download._write
    monkeypatch.setattr(download, "_write", lambda opened, *rest: (starts.append(opened.start), write(opened, *rest)))
    for version in (head["ETag"], '"another"'):
        shutil.rmtree(cache / pin(tiny), ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / f"{BIG}.part").write_bytes((tiny / BIG).read_bytes()[:20_000])
        (partial / f"{BIG}.part.json").write_text(json.dumps({"where": f"s3://shelf/tiny/{BIG}", "version": version}))
        starts.clear()
        assert same(pull("s3://shelf/tiny"), tiny)
        assert (20_000 in starts) == (version == head["ETag"])


def test_s3_refuses_and_replaces(
    bucket: Any, tiny: Path, other: Path, monkeypatch: pytest.MonkeyPatch, same: Any
) -> None:
    """Another one needs --replace; a changed byte is found; a half push is nothing."""
    push(tiny, "s3://shelf/reg/x")
    with pytest.raises(EarthSSLError, match="--replace"):
        push(other, "s3://shelf/reg/x")
    push(other, "s3://shelf/reg/x", replace=True)
    assert same(pull("s3://shelf/reg/x"), other)
    assert not bucket.exists("shelf/reg/x/card.md")
    bucket.pipe_file(f"shelf/reg/x/{BIG}", b"changed")
    assert same(pull("s3://shelf/reg/x"), other)  # from the cache, by the manifest's hash
    shutil.rmtree(pull("s3://shelf/reg/x"))
    with pytest.raises(EarthSSLError, match="got 7 bytes with another"):
        pull("s3://shelf/reg/x")
    with monkeypatch.context() as patch:
        patch.setattr("earthssl.ssl.hub.push._seal", lambda *_: (_ for _ in ()).throw(EarthSSLError("killed")))
        with pytest.raises(EarthSSLError, match="killed"):
            push(tiny, "s3://shelf/reg/half")
    with pytest.raises(EarthSSLError, match=r"expected an object at s3://shelf/reg/half/manifest\.json, found none"):
        pull("s3://shelf/reg/half")
    assert [entry["name"] for entry in list_registry("s3://shelf/reg")] == ["x"]
    push(tiny, "s3://shelf/reg/half")
    assert same(pull("s3://shelf/reg/half"), tiny)


def test_s3_index_written_by_two_keeps_both(bucket: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where someone else writes between our reading and our writing, it is read again."""
    push(tiny, "s3://shelf/reg/a")
    real = registry_index.index_text
    raced = []

    def race(entries: dict[str, Any]) -> str:
        if not raced:
            raced.append(1)
            stolen = {**entries, "thief": entries["a"]}
            bucket.pipe_file("shelf/reg/index.json", real(stolen).encode())
        return real(entries)

    monkeypatch.setattr("earthssl.ssl.hub.push.index_text", race)
    push(tiny, "s3://shelf/reg/b")
    assert [entry["name"] for entry in list_registry("s3://shelf/reg")] == ["a", "b", "thief"]


def test_s3_that_is_not_there(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket, no server."""
    with pytest.raises(EarthSSLError, match="found none"):
        pull("s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(download, "TRIES", 2)
    with pytest.raises(EarthSSLError, match=r"Could not connect.*gave up after 2 tries"):
        pull("s3://shelf/x")

"""push, pull, list and verify: a folder, S3 (moto's server), the Hugging Face Hub (a stand-in), the command line."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.cli import main
from earthssl.ssl import download, registry
from earthssl.ssl.checkpoint import load_encoder
from earthssl.ssl.errors import EarthSSLError
from earthssl.ssl.hub import list_registry, pull, verify
from earthssl.ssl.push import push

BIG = "encoder.safetensors"


def same(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, byte for byte."""
    return {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}


def pin(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's manifest."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def other(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint: the one of version 1 that tests keep."""
    source = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"
    return Path(shutil.copytree(source, tmp_path_factory.mktemp("other") / "other"))


@pytest.fixture(scope="module")
def data(tiny: Path) -> xr.Dataset:
    """A few months on the tiny checkpoint's grid."""
    grid = load_encoder(tiny).record.grid
    rng = np.random.default_rng(1)
    shape = (6, *grid.shape)
    fields = {
        "sst": (("time", "lat", "lon"), 290 + rng.normal(size=shape), {"units": "K"}),
        "u10": (("time", "lat", "lon"), rng.normal(size=shape), {"units": "m s-1"}),
    }
    times = np.arange("2001-01", "2001-07", dtype="datetime64[M]").astype("datetime64[ns]")
    return xr.Dataset(fields, {"time": times, "lat": grid.lat, "lon": grid.lon})


def test_the_round_trip_is_bit_equal(tiny: Path, data: xr.Dataset, serve: Any, tmp_path: Path) -> None:
    """push → pull through a web server → verify → embed: every file and every feature the same."""
    address = push(tiny, tmp_path / "reg" / "tiny")
    assert address == f"{tmp_path}/reg/tiny#sha256={pin(tiny)}"
    served = serve(tmp_path / "reg")
    remote = f"{served.url}/tiny#sha256={pin(tiny)}"
    assert verify(remote)["golden_difference"] == 0
    assert same(pull(remote), tiny)
    at_home, elsewhere = (load_encoder(place).embed(data) for place in (tiny, remote))
    assert at_home.shape == (4, load_encoder(tiny).encoder.width)
    assert at_home.values.tobytes() == elsewhere.values.tobytes()
    [entry] = list_registry(served.url)
    assert (entry["name"], entry["manifest_sha256"]) == ("tiny", pin(tiny))


def test_a_registry_of_folders(tiny: Path, other: Path, tmp_path: Path) -> None:
    """The index says what each is; pushing twice changes nothing; another needs --replace; none is half there."""
    reg = tmp_path / "reg"
    push(tiny, reg / "a")
    push(other, f"file://{reg}/b")
    index = (reg / "index.json").read_bytes()
    push(tiny, reg / "a")
    assert (reg / "index.json").read_bytes() == index
    a, b = list_registry(reg)
    assert (a["name"], b["name"]) == ("a", "b")
    assert a["manifest_sha256"] == pin(tiny)
    assert a["bytes"] == sum(file.stat().st_size for file in tiny.iterdir())
    assert a["variables"] == ["sst", "u10"]
    assert a["grid"].startswith("8×9")
    assert a["scores"][0]["task"] == "enso"
    assert b["scores"] == []
    with pytest.raises(EarthSSLError, match=r"found another \(manifest .* --replace"):
        push(other, reg / "a")
    assert same(reg / "a", tiny)
    push(other, reg / "a", replace=True)
    assert same(reg / "a", other)
    assert list_registry(reg)[0]["manifest_sha256"] == pin(other)
    assert sorted(path.name for path in reg.iterdir()) == [".index.lock", "a", "b", "index.json"]
    with pytest.raises(EarthSSLError, match="another checkpoint lies there now"):
        pull(f"{reg}/a#sha256={pin(tiny)}")


def test_pushes_at_once_all_reach_the_index(tiny: Path, tmp_path: Path) -> None:
    """The index is written under a lock."""
    pushers = [threading.Thread(target=push, args=(tiny, tmp_path / "reg" / f"n{k}")) for k in range(6)]
    for pusher in pushers:
        pusher.start()
    for pusher in pushers:
        pusher.join()
    assert [entry["name"] for entry in list_registry(tmp_path / "reg")] == [f"n{k}" for k in range(6)]


@pytest.mark.parametrize("step", ["copyfile", "rename"])
def test_a_push_that_fails_leaves_what_was_there(
    tiny: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The disk is full half way: the old one is whole and listed; the next push works."""
    reg = tmp_path / "reg"
    push(tiny, reg / "a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile" if step == "copyfile" else "os.rename", full)
        with pytest.raises(EarthSSLError, match="no space left"):
            push(other, reg / "a", replace=True)
    assert same(reg / "a", tiny)
    assert list_registry(reg)[0]["manifest_sha256"] == pin(tiny)
    push(other, reg / "a", replace=True)
    assert same(reg / "a", other)
    assert sorted(path.name for path in reg.iterdir()) == [".index.lock", "a", "index.json"]


def test_where_push_does_not_go(tiny: Path) -> None:
    """A web server, a commit, a pin, a bucket without a name."""
    for address, words in (
        ("https://host.example/reg/x", "a web server is read, not written to; push to the folder that it serves"),
        (f"hf://owner/name@{'0' * 40}", "expected a branch to push to, got a commit"),
        (f"reg/x#sha256={'0' * 64}", "expected an address without a pin"),
        ("s3://bucket", "got a bucket only"),
        ("reg/.x", "expected a name"),
    ):
        with pytest.raises(EarthSSLError, match=words):
            push(tiny, address)


# ---- S3 ------------------------------------------------------------------------------------------------------


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


def test_s3_round_trip(bucket: Any, tiny: Path, data: xr.Dataset) -> None:
    """push → list → pull → embed; pushing again sends nothing."""
    address = push(tiny, "s3://shelf/reg/tiny")
    assert address == f"s3://shelf/reg/tiny#sha256={pin(tiny)}"
    assert same(pull(address), tiny)
    assert [entry["name"] for entry in list_registry("s3://shelf/reg")] == ["tiny"]
    assert load_encoder(address).embed(data).equals(load_encoder(tiny).embed(data))
    before = bucket.info(f"shelf/reg/tiny/{BIG}")["LastModified"]
    push(tiny, "s3://shelf/reg/tiny")
    assert bucket.info(f"shelf/reg/tiny/{BIG}")["LastModified"] == before


def test_s3_goes_on_where_it_stopped(bucket: Any, tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_s3_refuses_and_replaces(bucket: Any, tiny: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        patch.setattr("earthssl.ssl.push._seal", lambda *_: (_ for _ in ()).throw(EarthSSLError("killed")))
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
    real = registry.index_text
    raced = []

    def race(entries: dict[str, Any]) -> str:
        if not raced:
            raced.append(1)
            stolen = {**entries, "thief": entries["a"]}
            bucket.pipe_file("shelf/reg/index.json", real(stolen).encode())
        return real(entries)

    monkeypatch.setattr("earthssl.ssl.push.index_text", race)
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


# ---- Hugging Face Hub ----------------------------------------------------------------------------------------


@dataclass
class Repository:
    """A stand-in for one model repository: branches point to commits, commits hold files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""
    tokens: list[tuple[str, str]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        """Make a commit the head of main and return its hash."""
        self.main = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[self.main] = files
        return self.main

    def respond(self, request: Any, path: str) -> bool:
        """Answer the few requests that pull and push make."""
        self.tokens.append((path, request.headers.get("Authorization", "")))
        parts = path.split("/")
        if path.startswith("api/models/owner/name/revision/"):
            found = {"main": self.main}.get(parts[-1], parts[-1])
            if found not in self.commits:
                request.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return True
            siblings = [{"rfilename": name} for name in self.commits[found]]
            self.json(request, {"id": "owner/name", "sha": found, "siblings": siblings})
        elif path.startswith("api/models/owner/name/preupload/"):
            asked = json.loads(self.body(request))["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            self.json(request, {"files": modes})
        elif path.startswith("api/models/owner/name/commit/"):
            files = dict(self.commits[self.main])
            for line in self.body(request).splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                elif one["key"] == "deletedFile":
                    del files[one["value"]["path"]]
            url = f"{request.headers['Host']}/owner/name/commit/x"
            self.json(request, {"success": True, "commitOid": self.commit(files), "commitUrl": f"http://{url}"})
        elif path.startswith("owner/name/resolve/"):
            name = "/".join(parts[4:])
            if name not in self.commits.get(parts[3], {}):
                request.answer(404)
            else:
                request.answer(302, headers={"Location": f"/cdn/{parts[3]}/{name}"})
        elif path.startswith("cdn/"):
            request.answer(200, self.commits[parts[1]][parts[2]], {"ETag": f'"{parts[1]}"'})
        else:
            request.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        return True

    @staticmethod
    def body(request: Any) -> bytes:
        """Return what was sent."""
        if request.headers.get("Transfer-Encoding") != "chunked":
            return bytes(request.rfile.read(int(request.headers["Content-Length"])))
        content = b""
        while size := int(request.rfile.readline(), 16):
            content += request.rfile.read(size)
            request.rfile.readline()
        return content

    @staticmethod
    def json(request: Any, answer: Any) -> None:
        """Send JSON."""
        request.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def hub(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The hub, with an empty repository `owner/name`."""
    repository = Repository()
    repository.commit({".gitattributes": b""})
    server = serve(tmp_path)
    server.faults.append(repository.respond)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return repository


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_hf_round_trip(hub: Repository, tiny: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A branch is resolved to its commit, which is said and recorded; a commit is taken as it is; offline by either."""
    address = push(tiny, "hf://owner/name@main")
    assert address == f"hf://owner/name@{hub.main}#sha256={pin(tiny)}"
    assert hub.commits[hub.main] == {".gitattributes": b"", **files(tiny)}
    assert main(["pull", "hf://owner/name@main"]) == 0
    printed = capsys.readouterr()
    assert f"hf://owner/name@main is commit {hub.main}" in printed.err
    folder = Path(printed.out.strip())
    assert same(folder, tiny)
    assert f"hf://owner/name@{hub.main}" in [at for one in list_registry() for at in one["addresses"]]
    assert pull("hf://owner/name@main", offline=True) == folder
    hub.tokens.clear()
    assert pull(address) == folder
    assert hub.tokens == []  # the pin is in the cache
    assert pull(f"hf://owner/name@{hub.main}") == folder


def test_hf_branches_move_and_commits_do_not(hub: Repository, tiny: Path, other: Path) -> None:
    """Another checkpoint on the branch needs --replace; the old commit still gives the old one."""
    old = push(tiny, "hf://owner/name@main").partition("#")[0]
    head = hub.main
    assert push(tiny, "hf://owner/name@main").startswith(old)
    assert hub.main == head
    with pytest.raises(EarthSSLError, match="--replace"):
        push(other, "hf://owner/name@main")
    new = push(other, "hf://owner/name@main", replace=True)
    assert hub.commits[hub.main] == {".gitattributes": b"", **files(other)}
    assert same(pull(new), other)
    assert same(pull(old), tiny)
    assert same(pull("hf://owner/name@main"), other)


def test_hf_says_what_is_missing(hub: Repository, tiny: Path) -> None:
    """No such repository, no such revision, no checkpoint in it, a changed byte."""
    with pytest.raises(EarthSSLError, match="no such repository, or not for you"):
        pull("hf://owner/another@main")
    with pytest.raises(EarthSSLError, match="no revision 'v9'"):
        pull("hf://owner/name@v9")
    with pytest.raises(EarthSSLError, match=r"manifest\.json, the server has none"):
        pull("hf://owner/name@main")
    hub.commit({**files(tiny), BIG: b"x" * (tiny / BIG).stat().st_size})
    with pytest.raises(EarthSSLError, match="bytes with another"):
        pull("hf://owner/name@main")


def test_hf_token_stays_on_its_host(hub: Repository, tiny: Path, serve: Any, tmp_path: Path) -> None:
    """It goes to the hub, not to where the hub's files are sent on to."""
    push(tiny, "hf://owner/name@main")
    elsewhere = serve(tmp_path)
    seen = []

    def answer(request: Any, path: str) -> bool:
        seen.append(request.headers.get("Authorization"))
        return hub.respond(request, path)

    elsewhere.faults.append(answer)
    real = hub.respond

    def sends_on(request: Any, path: str) -> bool:
        if path.startswith("cdn/"):
            raise AssertionError("the hub itself was asked for content")
        answer_with = request.answer

        def moved(status: int, data: bytes = b"", headers: dict[str, str] | None = None, **how: Any) -> None:
            if headers and "Location" in headers:
                headers = {"Location": elsewhere.url + headers["Location"]}
            answer_with(status, data, headers, **how)

        request.answer = moved
        return real(request, path)

    hub_server_faults: list[Callable[[Any, str], bool]] = [sends_on]
    server = serve(tmp_path)
    server.faults.extend(hub_server_faults)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        hub.tokens.clear()
        assert same(pull("hf://owner/name@main"), tiny)
    assert len(seen) == len(files(tiny))
    assert set(seen) == {None}
    assert {token for path, token in hub.tokens if "resolve" in path} == {"Bearer hf_secret"}


# ---- The command line ----------------------------------------------------------------------------------------


def test_the_verbs(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Any) -> None:
    """push, list, pull, verify, as a person types them; mistakes end in one line and status 2."""
    reg = str(tmp_path / "reg")
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "nothing yet\n"
    assert main(["push", str(tiny), f"{reg}/tiny"]) == 0
    assert capsys.readouterr().out == f"{reg}/tiny#sha256={pin(tiny)}\n"
    url = serve(Path(reg)).url
    assert main(["list", url]) == 0
    assert "enso 0.625 (beside it PCA 0.5)" in capsys.readouterr().out
    assert main(["list", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["manifest_sha256"] == pin(tiny)
    assert main(["pull", f"{url}/tiny", "--out", str(tmp_path / "out")]) == 0
    assert same(tmp_path / "out", tiny)
    capsys.readouterr()
    assert main(["verify", f"{url}/tiny", "--offline"]) == 0
    assert "whole; golden output differs by 0" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert pin(tiny)[:12] in capsys.readouterr().out
    for words, said in (
        (["pull"], "expected an address"),
        (["push", str(tiny)], "expected a checkpoint and where to"),
        (["pull", f"{url}/none"], "found none|server has none"),
        (["pull", "htps://x/y"], "Did you mean 'https'"),
        (["list", str(tmp_path / "nowhere")], "index.json"),
        (["list", "hf://owner/name@main"], "holds one checkpoint"),
        (["pull", f"{url}/tiny", "--fast"], "unknown option"),
    ):
        assert main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert any(part in lines[0] for part in said.split("|")), lines

"""hf:// through huggingface_hub against a stand-in for the Hub: commits, branches, tokens, refusals."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.hub.pull import list_registry, pull
from earthssl.ssl.hub.push import push

BIG = "encoder.safetensors"


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


def test_hf_round_trip(
    hub: Repository, tiny: Path, cache: Path, capsys: pytest.CaptureFixture[str], same: Any, pin: Any
) -> None:
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


def test_hf_branches_move_and_commits_do_not(hub: Repository, tiny: Path, other: Path, same: Any) -> None:
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


def test_hf_token_stays_on_its_host(hub: Repository, tiny: Path, serve: Any, tmp_path: Path, same: Any) -> None:
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

    server = serve(tmp_path)
    server.faults.append(sends_on)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        hub.tokens.clear()
        assert same(pull("hf://owner/name@main"), tiny)
    assert len(seen) == len(files(tiny))
    assert set(seen) == {None}
    assert {token for path, token in hub.tokens if "resolve" in path} == {"Bearer hf_secret"}

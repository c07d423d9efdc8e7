"""push, pull, list and verify between folders and a web server, and as verbs of the command line."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.hub.pull import list_registry, pull, verify
from earthssl.ssl.hub.push import push
from earthssl.ssl.hub.registry_index import by_worth, standing
from earthssl.ssl.inference.load import load_encoder


def test_the_round_trip_is_bit_equal(
    tiny: Path, data: xr.Dataset, serve: Any, tmp_path: Path, same: Any, pin: Any
) -> None:
    """push → pull through a web server → verify → embed: every file and every feature the same."""
    address = push(tiny, tmp_path / "reg" / "tiny")
    assert address == f"{tmp_path}/reg/tiny#sha256={pin(tiny)}"
    served = serve(tmp_path / "reg")
    remote = f"{served.url}/tiny#sha256={pin(tiny)}"
    replayed = verify(remote)
    assert replayed["golden_difference"] <= replayed["tolerance"]
    assert same(pull(remote), tiny)
    at_home, elsewhere = (load_encoder(place).embed(data) for place in (tiny, remote))
    assert at_home.shape == (4, load_encoder(tiny).encoder.width)
    assert at_home.values.tobytes() == elsewhere.values.tobytes()
    [entry] = list_registry(served.url)
    assert (entry["name"], entry["manifest_sha256"]) == ("tiny", pin(tiny))


def test_a_registry_of_folders(tiny: Path, other: Path, tmp_path: Path, same: Any, pin: Any) -> None:
    """The index says what each is; pushing twice changes nothing; another needs --replace; none is half there."""
    reg = tmp_path / "reg"
    push(tiny, reg / "a")
    push(other, f"file://{reg}/b")
    index = (reg / "index.json").read_bytes()
    push(tiny, reg / "a")
    assert (reg / "index.json").read_bytes() == index
    (reg / "a" / "card.md").write_text("rotten")
    push(tiny, reg / "a")
    assert same(reg / "a", tiny)
    (reg / "a" / "notes.txt").write_text("mine")
    with pytest.raises(EarthSSLError, match=r"found 'notes\.txt' too; move it away"):
        push(tiny, reg / "a", replace=True)
    (reg / "a" / "notes.txt").unlink()
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


@pytest.mark.parametrize("step", ["copyfile", "exchange"])
def test_a_push_that_fails_leaves_what_was_there(
    tiny: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, same: Any, pin: Any
) -> None:
    """The disk is full half way: the old one is whole and listed; the next push works."""
    reg = tmp_path / "reg"
    push(tiny, reg / "a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile" if step == "copyfile" else "earthssl.ssl.hub.push.exchange", full)
        with pytest.raises(EarthSSLError, match="no space left"):
            push(other, reg / "a", replace=True)
    assert same(reg / "a", tiny)
    assert list_registry(reg)[0]["manifest_sha256"] == pin(tiny)
    (reg / "..a.new.4711").mkdir()  # what a push leaves that is killed
    (reg / ".a.new").mkdir()
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


def test_checkpoints_that_win_come_first() -> None:
    """Share of wins less share of losses, then the name; one without a table stands between."""

    def entry(name: str, *words: str) -> dict[str, Any]:
        verdicts = [f"pretrained − PCA, lead {k}: +0.1 [+0.0, +0.2] {word}" for k, word in enumerate(words)]
        return {"name": name, "scores": [{"verdicts": verdicts}] if words else []}

    entries = [
        entry("loses", "worse", "undecided"), entry("bare"), entry("wins", "better", "better", "undecided"),
        entry("all", "better"), entry("even", "better", "worse"), {"name": "odd", "scores": [{"verdicts": [" "]}, {}]},
    ]  # fmt: skip
    assert [one["name"] for one in by_worth(entries)] == ["all", "wins", "bare", "even", "odd", "loses"]
    assert standing(entries[2]) == (2, 1, 0)


def test_the_verbs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Any, same: Any, pin: Any
) -> None:
    """push, list, pull, verify, as a person types them; mistakes end in one line and status 2."""
    reg = str(tmp_path / "reg")
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "nothing yet\n"
    assert main(["push", str(tiny), f"{reg}/tiny"]) == 0
    assert capsys.readouterr().out == f"{reg}/tiny#sha256={pin(tiny)}\n"
    url = serve(Path(reg)).url
    assert main(["list", url]) == 0
    assert "pretrained 0.625, PCA 0.5 (correlation)" in capsys.readouterr().out
    assert main(["list", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["manifest_sha256"] == pin(tiny)
    assert main(["pull", f"{url}/tiny", "--out", str(tmp_path / "out")]) == 0
    assert same(tmp_path / "out", tiny)
    capsys.readouterr()
    assert main(["verify", f"{url}/tiny", "--offline"]) == 0
    said = re.search(r"whole; golden output differs by (\S+) \(at most (\S+)\)", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) <= float(said[2])
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

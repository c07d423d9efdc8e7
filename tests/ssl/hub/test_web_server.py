"""pull from a real web server that drops, lies, changes, sends on, trickles, and disappears."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from earthssl.ssl.checkpoint.manifest import check_files
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.hub.pull import pull
from earthssl.ssl.remote import download, place

BIG = "encoder.safetensors"


def nothing_came(cache: Path) -> bool:
    """Return whether the cache holds no checkpoint."""
    return not list(cache.glob("[0-9a-f]*"))


def refused(server: Any, words: str, cache: Path, **how: Any) -> str:
    """Pull, expect the words in one line, and that no checkpoint has come."""
    with pytest.raises(EarthSSLError, match=words) as caught:
        pull(f"{server.url}/reg/tiny", **how)
    assert "\n" not in str(caught.value)
    assert nothing_came(cache)
    return str(caught.value)


def test_what_is_pulled_is_what_lies_there(server: Any, tiny: Path, cache: Path, same: Any) -> None:
    """Every byte; the second time only the manifest is asked for; with a pin not even that."""
    folder = pull(f"{server.url}/reg/tiny")
    assert same(folder, tiny)
    pin = hashlib.sha256((tiny / "manifest.json").read_bytes()).hexdigest()
    assert folder == cache / pin
    assert {path for path, _ in server.asked} == {f"reg/tiny/{file.name}" for file in tiny.iterdir()}
    server.asked.clear()
    assert pull(f"{server.url}/reg/tiny/") == folder
    assert [path for path, _ in server.asked] == ["reg/tiny/manifest.json"]
    server.asked.clear()
    assert pull(f"{server.url}/reg/tiny#sha256={pin}") == folder
    assert server.asked == []
    assert [path.name for path in (cache / ".partial").iterdir()] == [f"{pin}.lock"]


def test_a_connection_that_breaks_off_goes_on_where_it_stopped(server: Any, tiny: Path, same: Any) -> None:
    """No byte is sent twice."""
    server.fault(BIG, times=2)(lambda request: request.usual(f"reg/tiny/{BIG}", cut=10_000))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert server.ranges(BIG) == ["", "bytes=10000-", "bytes=20000-"]
    assert server.sent == sum(file.stat().st_size for file in tiny.iterdir())


def test_trying_goes_on_while_bytes_come(server: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, same: Any) -> None:
    """More breaks than tries, each after a good piece."""
    monkeypatch.setattr(download, "BLOCK", 3000)
    server.fault(BIG)(lambda request: request.usual(f"reg/tiny/{BIG}", cut=3500))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert len(server.ranges(BIG)) > 2 * download.TRIES


def test_a_server_that_gives_nothing_more_is_given_up(server: Any, tiny: Path, cache: Path, same: Any) -> None:
    """After a few tries; what came is kept, and used the next time."""
    server.fault(BIG)(
        lambda request: request.usual(f"reg/tiny/{BIG}", cut=20_000 if not request.headers.get("Range") else 0)
    )
    said = refused(server, "broke off 15600 bytes before the announced end; gave up after 5 tries", cache)
    assert "the same command goes on" in said
    server.faults.clear()
    server.asked.clear()
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert server.ranges(BIG) == ["bytes=20000-"]
    assert server.ranges("record.json") == []


def test_a_server_that_ignores_ranges_restarts_cleanly(server: Any, tiny: Path, same: Any) -> None:
    """The whole file comes again, and nothing of the first half is left."""
    server.fault(BIG, times=1)(lambda request: request.usual(f"reg/tiny/{BIG}", cut=10_000))
    server.fault(BIG)(lambda request: request.usual(f"reg/tiny/{BIG}", ranges=False))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert server.ranges(BIG) == ["", "bytes=10000-"]


def test_an_etag_that_changes_between_parts_restarts(server: Any, tiny: Path, same: Any) -> None:
    """Halves of two versions are not glued."""
    server.fault(BIG, times=1)(lambda request: request.usual(f"reg/tiny/{BIG}", cut=10_000, etag='"old"'))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert len(server.ranges(BIG)) == 2


def test_a_server_that_glues_two_versions_is_found_out(server: Any, tiny: Path, same: Any) -> None:
    """It ignores If-Range and sends the rest of another file: the hash is wrong, and all comes again in one piece."""
    other = b"\x00" * (tiny / BIG).stat().st_size

    def first(request: Any) -> None:
        request.answer(200, other, {"ETag": '"1"'}, cut=10_000)

    server.fault(BIG, times=1)(first)
    server.fault(BIG, times=1)(lambda request: request.usual(f"reg/tiny/{BIG}", etag='"1"'))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert server.ranges(BIG) == ["", "bytes=10000-", ""]


def test_a_server_that_glues_without_end_is_given_up(server: Any, tiny: Path, cache: Path) -> None:
    """Each time the first half of another file, each time broken off: three rounds, not one for ever."""
    other = b"\x00" * (tiny / BIG).stat().st_size

    def half(request: Any) -> None:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        if start:
            request.usual(f"reg/tiny/{BIG}", etag='"1"')
        else:
            request.answer(200, other, {"ETag": '"1"'}, cut=10_000)

    server.fault(BIG)(half)
    refused(server, "bytes with another", cache)
    assert server.ranges(BIG) == ["", "bytes=10000-"] * download.ROUNDS
    assert not list(cache.rglob("*.part"))


def test_another_range_than_asked_for_is_not_taken(server: Any, tiny: Path, cache: Path) -> None:
    """206 with bytes from elsewhere."""
    server.fault(BIG, times=1)(lambda request: request.usual(f"reg/tiny/{BIG}", cut=10_000))
    server.fault(BIG)(lambda request: request.answer(206, b"x" * 9, {"Content-Range": "bytes 0-8/9"}))
    refused(server, "another range than was asked for", cache)


@pytest.mark.parametrize("name", [BIG, "record.json", "card.md", "golden.safetensors"])
def test_a_changed_byte_is_refused(server: Any, cache: Path, name: str) -> None:
    """In any file; the damaged file is not kept, so that it cannot poison the next try."""
    good = (server.folder / "reg/tiny" / name).read_bytes()
    (server.folder / "reg/tiny" / name).write_bytes(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
    refused(
        server,
        rf"{re.escape(name)}: expected {len(good)} bytes with SHA-256 .* got {len(good)} bytes with another",
        cache,
    )
    assert not list(cache.rglob(f"{name}.part"))
    (server.folder / "reg/tiny" / name).write_bytes(good)
    pull(f"{server.url}/reg/tiny")


def test_a_length_too_short_is_found_out(server: Any, cache: Path) -> None:
    """The server says that the file ends before it does."""
    data = (server.folder / "reg/tiny" / BIG).read_bytes()
    server.fault(BIG)(lambda request: request.answer(200, data, length=1000))
    refused(server, "got 1000 bytes with another", cache)


def test_a_length_too_long_is_refused_before_a_byte_is_taken(server: Any, cache: Path) -> None:
    """More is announced than the manifest says."""
    server.fault(BIG)(lambda request: request.answer(200, b"", length=10**15))
    refused(server, "at most 35600 bytes, but 1000000000000000 or more", cache)
    assert len(server.ranges(BIG)) == 1


@pytest.mark.parametrize("name", ["manifest.json", BIG])
def test_endless_data_is_cut_off(server: Any, cache: Path, name: str) -> None:
    """No length, no end."""

    def endless(request: Any) -> None:
        request.send_response(200)
        request.end_headers()
        while request.state.sent < 1 << 28:
            request.write(b"\x00" * 65536)

    server.fault(name)(endless)
    refused(server, r"expected at most \d+ bytes", cache)
    assert server.sent < 1 << 26
    assert not list(cache.rglob("*.part"))


def test_a_manifest_without_sizes_still_has_limits(server: Any, cache: Path) -> None:
    """Version 1 has none: the limit of all together holds."""
    manifest = server.folder / "reg/tiny/manifest.json"
    plain = json.loads(manifest.read_text())
    del plain["bytes"]
    manifest.write_text(json.dumps(plain))
    refused(server, "--max-gb", cache, max_gb=30e-6)
    pull(f"{server.url}/reg/tiny")


def test_too_large_a_checkpoint_is_refused_by_its_manifest(server: Any, cache: Path) -> None:
    """Before any other file is asked for."""
    refused(server, "allow it with --max-gb", cache, max_gb=30e-6)
    assert len(server.asked) == 1


@pytest.mark.parametrize("slow", ["body", "head", "chunks", "trailer"])
def test_a_trickle_is_a_time_out(server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    """A byte now and then keeps no one waiting for ever, in the body or around it."""
    monkeypatch.setattr(place, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "TRIES", 2)

    def trickle(request: Any) -> None:
        request.protocol_version = "HTTP/1.1"
        if slow != "head":
            request.send_response(200)
            if slow != "body":
                request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
        if slow == "trailer":
            request.wfile.write(b"1\r\nx\r\n0\r\n")
        for _ in range(100):
            request.wfile.write(b"a: b\r\n" if slow == "trailer" else b"0")
            request.wfile.flush()
            time.sleep(0.05)

    server.fault(BIG)(trickle)
    begin = time.monotonic()
    refused(server, "gave up after 2 tries", cache)
    assert time.monotonic() - begin < 6


def test_silence_is_a_time_out(server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the request and says nothing."""
    monkeypatch.setattr(place, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "TRIES", 2)
    server.fault("manifest.json")(lambda request: time.sleep(0.5))
    refused(server, "timed out", cache)


def test_503_is_tried_again(server: Any, tiny: Path, same: Any) -> None:
    """Unavailable for a moment."""
    server.fault("", times=3)(lambda request: request.answer(503, headers={"Retry-After": "0"}))
    assert same(pull(f"{server.url}/reg/tiny"), tiny)


ANSWERS = {
    503: "503.*gave up",
    500: "500.*gave up",
    404: "the server has none",
    410: "the server has none",
    403: "refuses access",
    302: "302",
}


@pytest.mark.parametrize(("status", "words"), ANSWERS.items())
def test_a_server_that_says_no_is_quoted(server: Any, cache: Path, status: int, words: str) -> None:
    """What can be mended by waiting is waited for, the rest is said at once."""
    server.fault(BIG)(lambda request: request.answer(status))
    refused(server, words, cache)
    assert len(server.ranges(BIG)) == (5 if status >= 500 else 1)


def test_a_server_that_disappears(server: Any, tiny: Path, cache: Path, serve: Any, same: Any) -> None:
    """Gone in the middle; another one goes on with what is whole."""

    def die(request: Any) -> None:
        server.faults.append(lambda request, path: request.connection.close() or True)
        request.usual(f"reg/tiny/{BIG}", cut=5000)

    server.fault(BIG, times=1)(die)
    refused(server, "gave up after 5 tries", cache)
    other = serve(server.folder)
    assert same(pull(f"{other.url}/reg/tiny"), tiny)
    assert other.ranges("record.json") == []


def test_no_server_at_all(cache: Path) -> None:
    """A port where nobody listens."""
    with pytest.raises(EarthSSLError, match=r"manifest\.json: .*refused.*gave up after 5 tries"):
        pull("http://127.0.0.1:9/reg/tiny")


def test_compressed_bytes_are_refused(server: Any, cache: Path) -> None:
    """A bomb would be one; they were not asked for."""
    server.fault(BIG)(lambda request: request.answer(200, b"x", {"Content-Encoding": "gzip"}))
    refused(server, "got them gzip", cache)


def test_plain_http_to_another_machine_needs_a_word(cache: Path) -> None:
    """It is refused before anything is asked."""
    with pytest.raises(EarthSSLError, match="which anyone on the way can change; use https, or allow it"):
        pull("http://192.0.2.1/reg/tiny")


def test_a_pin_that_does_not_fit(server: Any, cache: Path) -> None:
    """Another checkpoint lies there now."""
    with pytest.raises(EarthSSLError, match=f"expected the manifest with SHA-256 {'0' * 64}, got"):
        pull(f"{server.url}/reg/tiny#sha256={'0' * 64}")
    assert nothing_came(cache)


def test_a_full_disk(server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is seen before; a disk that fills up in the middle is said in words, and it goes on later."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    refused(server, "MiB more on disk, but .* has 0 MiB free", cache)
    monkeypatch.undo()


def test_a_disk_that_fills_up(server: Any, cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, same: Any) -> None:
    """In the middle of a file: said in words, nothing is lost, and it goes on when there is room."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", full)
        refused(server, "no space left while writing.*the same command again, it continues", cache)
    assert same(pull(f"{server.url}/reg/tiny"), tiny)


def test_offline(server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pulled is found by its address; what was not is refused; nothing is asked of the network."""
    address = f"{server.url}/reg/tiny"
    folder = pull(address)
    server.asked.clear()
    monkeypatch.setenv("EARTHSSL_OFFLINE", "1")
    assert pull(address) == folder
    assert pull(f"{address}#sha256={folder.name}") == folder
    with pytest.raises(EarthSSLError, match=r"expected it in the cache .* found none; pull it once with a network"):
        pull(f"{server.url}/reg/another")
    (folder / BIG).write_bytes(b"damaged")
    with pytest.raises(EarthSSLError, match="expected it in the cache"):
        pull(address)
    assert server.asked == []
    assert pull(address, offline=False) == folder
    check_files(folder)


def test_a_cache_that_was_damaged_heals(server: Any, tiny: Path, same: Any) -> None:
    """It is fetched again, not used."""
    folder = pull(f"{server.url}/reg/tiny")
    (folder / BIG).write_bytes(b"damaged")
    server.fault(BIG, times=1)(lambda request: request.answer(404))
    with pytest.raises(EarthSSLError, match="the server has none"):
        pull(f"{server.url}/reg/tiny")
    assert (folder / BIG).read_bytes() == b"damaged"  # it stays until another takes its place
    assert same(pull(f"{server.url}/reg/tiny"), tiny)


def test_https_to_a_server_that_speaks_none(server: Any, cache: Path) -> None:
    """Said at once, not tried again."""
    with pytest.raises(EarthSSLError, match="expected a server that speaks https with a valid certificate"):
        pull(server.url.replace("http:", "https:") + "/reg/tiny")
    assert nothing_came(cache)


def test_two_at_once_do_no_harm(server: Any, tiny: Path, same: Any) -> None:
    """One fetches, the other waits and finds it done."""
    server.fault("record.json")(lambda request: time.sleep(0.05) or request.usual("reg/tiny/record.json"))
    found: list[Path] = []
    said: list[str] = []

    def bring() -> None:
        found.append(pull(f"{server.url}/reg/tiny", say=said.append))

    pullers = [threading.Thread(target=bring) for _ in range(4)]
    for puller in pullers:
        puller.start()
    for puller in pullers:
        puller.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert "waiting" in said[0]
    assert same(found[0], tiny)
    assert len(server.ranges(BIG)) == 1


def fork(work: Any) -> int:
    """Do the work in a process of its own, and return its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the server's threads stay behind
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_a_killed_pull_goes_on(server: Any, tiny: Path, cache: Path, same: Any) -> None:
    """SIGKILL in the middle of the largest file: the next pull asks for the rest only."""
    held = threading.Event()

    def stall(request: Any) -> None:
        request.usual(f"reg/tiny/{BIG}", cut=30_000)
        held.set()
        time.sleep(60)

    server.fault(BIG, times=1)(stall)
    child = fork(lambda: pull(f"{server.url}/reg/tiny"))
    assert held.wait(60)
    for _ in range(500):
        if [part.stat().st_size for part in cache.rglob(f"{BIG}.part")] == [30_000]:
            break
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert nothing_came(cache)
    before, size = server.sent, sum(file.stat().st_size for file in tiny.iterdir())
    assert same(pull(f"{server.url}/reg/tiny"), tiny)
    assert server.ranges(BIG) == ["", "bytes=30000-"]
    again = server.sent - before
    assert again < size - 30_000 + (tiny / "manifest.json").stat().st_size


def test_what_fails_the_golden_sample_is_not_kept(server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hash is right, and yet it does not do what it did at home."""
    monkeypatch.setattr("earthssl.ssl.checkpoint.verify.GOLDEN_TOLERANCE", -1.0)
    said = refused(server, "the golden input gives an output that differs", cache)
    assert said.startswith(f"{server.url}/reg/tiny: ")
    assert not list(cache.rglob(BIG))


def test_a_newer_format_is_refused_before_its_weights_come(server: Any, cache: Path) -> None:
    """The record is read first."""
    folder = server.folder / "reg/tiny"
    record = json.loads((folder / "record.json").read_text())
    record["format_version"] = 99
    (folder / "record.json").write_text(json.dumps(record))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["record.json"] = hashlib.sha256((folder / "record.json").read_bytes()).hexdigest()
    manifest["bytes"]["record.json"] = (folder / "record.json").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(server, "upgrade earthssl", cache)
    assert server.ranges(BIG) == []


def test_out_is_a_copy(server: Any, tiny: Path, tmp_path: Path, same: Any) -> None:
    """New, empty or the same already; anything else is refused before a byte is asked for."""
    out = tmp_path / "deep" / "out"
    assert pull(f"{server.url}/reg/tiny", out) == out
    assert same(out, tiny)
    assert pull(f"{server.url}/reg/tiny", out) == out
    server.asked.clear()
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "mine").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "filled")
    for other, words in (("filled", "is not empty"), ("link", "is a link")):
        with pytest.raises(EarthSSLError, match=words):
            pull(f"{server.url}/reg/tiny", tmp_path / other)
    assert server.asked == []
    assert [path.name for path in (tmp_path / "filled").iterdir()] == ["mine"]

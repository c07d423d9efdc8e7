"""Where a checkpoint lies: one line of text, taken apart and refused where it says anything odd.

    runs/mine/checkpoint, file:///data/registry/NAME     a folder
    https://host/registry/NAME                           behind any web server (http:// only on this machine)
    s3://bucket/registry/NAME                            S3 or what speaks its protocol
    hf://owner/name@REVISION                             a model repository of the Hugging Face Hub

Each may end in `#sha256=` and the SHA-256 of the checkpoint's manifest, which fixes every byte of it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..common.errors import EarthSSLError, nearest

SCHEMES = ("file", "https", "http", "s3", "hf")
PIN = "#sha256="
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True)
class Address:
    """A place, taken apart.

    Attributes:
        scheme: file, https, http, s3 or hf.
        place: A folder's path; a URL; bucket and key; owner and name. No slash at the end.
        revision: Branch, tag or commit of a hf:// repository, else empty.
        pin: SHA-256 of the manifest that must be found there, or empty.
    """

    scheme: str
    place: str
    revision: str = ""
    pin: str = ""

    def __str__(self) -> str:
        return self.bare + (PIN + self.pin if self.pin else "")

    @property
    def bare(self) -> str:
        """The address without its pin."""
        start = "" if self.scheme in ("file", "http", "https") else f"{self.scheme}://"
        return start + self.place + (f"@{self.revision}" if self.revision else "")

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def name(self) -> str:
        """Last part of the place: the checkpoint's name in its registry.

        Raises:
            EarthSSLError: If it is no plain name.
        """
        return plain_name(self.place.rpartition("/")[2], self.bare)

    @property
    def registry(self) -> Address:
        """The address one level up, which holds `index.json`."""
        if self.scheme == "file":
            return Address("file", str(Path(self.place).absolute().parent))
        return Address(self.scheme, self.place.rpartition("/")[0])

    def at(self, revision: str) -> Address:
        """Return the same repository at another revision."""
        return replace(self, revision=revision)

    def pinned(self, sha256: str) -> Address:
        """Return the same address with a pin."""
        return replace(self, pin=sha256)


def plain_name(name: str, where: str) -> str:
    """Return a name of letters, digits, '.', '_' and '-' that cannot lead out of its folder.

    Raises:
        EarthSSLError: If it is anything else, a path for example.
    """
    if not NAME.fullmatch(name):
        raise EarthSSLError(
            f"{where}: expected a name of letters, digits, '.', '_' and '-' (at most 100, first a letter or digit), "
            f"got {name!r:.120}; rename it"
        )
    return name


def parse(text: str | Path, *, allow_http: bool = False) -> Address:
    """Return the address that a text stands for.

    Args:
        text: See the head of this module; a `Path` is a folder whatever its name.
        allow_http: Take http:// to other machines too: no one vouches then for what comes, but a pin does.

    Raises:
        EarthSSLError: If it is none, or one that is not safe.
    """
    if isinstance(text, Path):
        return Address("file", str(text))
    bare, mark, pin = text.partition(PIN)
    if mark and not _HASH.fullmatch(pin):
        raise EarthSSLError(f"{text!r:.300}: expected 64 hexadecimal digits in lower case after {PIN}, got '{pin:.80}'")
    if not bare or any(not char.isprintable() for char in bare):
        raise EarthSSLError(f"expected an address or a folder, got {text!r:.300}")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(?=//|/)", bare) or re.match(r"(file|hf|s3|https?):", bare)
    if found is None:
        return Address("file", bare, pin=pin)
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise EarthSSLError(
            f"{bare}: expected an address that begins with {', '.join(f'{s}:' for s in SCHEMES)} or a folder, got "
            f"'{scheme}:'.{nearest(scheme, SCHEMES)}"
        )
    if scheme == "file":
        return Address("file", _file(bare), pin=pin)
    rest = bare[found.end() :]
    if not rest.startswith("//") or ".." in unquote(rest).split("/") or "\\" in rest:
        raise EarthSSLError(f"{bare}: expected {scheme}://… without '..' or '\\', got something else; see --help")
    if scheme == "hf":
        return replace(_hf(rest[2:], bare), pin=pin)
    if scheme == "s3":
        return Address("s3", _s3(rest[2:].rstrip("/"), bare), pin=pin)
    return Address(scheme, _url(f"{scheme}:{rest}", allow_http), pin=pin)


def _file(bare: str) -> str:
    parts = urlsplit(bare)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise EarthSSLError(f"{bare}: expected file:///folder on this machine, got host '{parts.netloc}'")
    return unquote(parts.path)


def _hf(rest: str, bare: str) -> Address:
    repository, mark, revision = rest.partition("@")
    parts = repository.split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
        raise EarthSSLError(f"{bare}: expected hf://owner/name@revision, got something else")
    if not mark or not _REVISION.fullmatch(revision):
        raise EarthSSLError(
            f"{bare}: expected a revision, hf://{repository}@COMMIT, got none; a repository changes, a commit does not "
            f"(@main takes today's and says which commit that is)"
        )
    return Address("hf", repository, revision)


def _s3(rest: str, bare: str) -> str:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or any(not part for part in key.split("/") if key):
        raise EarthSSLError(f"{bare}: expected s3://bucket/prefix/NAME, got something else; check the bucket's name")
    return rest


def _url(url: str, allow_http: bool) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise EarthSSLError(f"{url}: expected a URL, but {error}") from None
    if not host or " " in url or not url.isascii():
        raise EarthSSLError(f"{url}: expected {parts.scheme}://host/…, got no host or signs that no URL has")
    if "@" in parts.netloc:
        raise EarthSSLError("expected a URL without user and password in it (they would be kept in logs), got one")
    if parts.query or parts.fragment:
        raise EarthSSLError(f"{url}: expected the URL of a folder, got one with '?' or '#'; leave that out")
    if parts.scheme == "http" and not (allow_http or is_loopback(host)):
        raise EarthSSLError(
            f"{url}: expected https://, got http://, which anyone on the way can change; use https, or allow it with "
            f"--allow-http and a {PIN}… pin"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether the host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

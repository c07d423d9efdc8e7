"""Places that hold files: one small interface for a folder, a web server, S3 and the Hugging Face Hub.

A place is opened at an offset and gives blocks; `download.py` does the rest (resuming, limits, retries, hashes), once
for all of them. Names are the caller's: none comes from the other side.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .address import Address
from .errors import EarthSSLError

BLOCK = 1 << 20  # bytes
TIMEOUT_S = 30.0  # without a byte
LARGEST_ANSWER = 8 * BLOCK  # bytes that are held in memory at once


class Absent(EarthSSLError):
    """There is no such file."""


class Transient(Exception):
    """It failed, but may succeed when tried again.

    Attributes:
        wait_s: Seconds that the other side asks to wait, or 0.
    """

    def __init__(self, said: str, wait_s: float = 0.0) -> None:
        super().__init__(said)
        self.wait_s = wait_s


@dataclass
class Opened:
    """A file that is being read.

    Attributes:
        start: Offset of the first block, bytes: what was asked for, or 0 where the place begins anew.
        total: Size of the whole file, bytes, where the place says so; it may lie.
        version: What tells this version of the file from another, or "" where nothing does.
        blocks: Its bytes from `start` on.
    """

    start: int
    total: int | None
    version: str
    blocks: Iterator[bytes]


class Remote(ABC):
    """A place that holds the files of a checkpoint or a registry's index."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def where(self, name: str) -> str:
        """Return the file's address for messages and stamps."""
        return f"{self.address.bare.rstrip('/')}/{name}"

    @abstractmethod
    def open(self, name: str, start: int = 0, version: str = "") -> AbstractContextManager[Opened]:
        """Open a file at an offset if it is still of this version, else at its beginning.

        Raises:
            Absent: If there is none.
            Transient: If trying again may help.
            EarthSSLError: If it does not.
        """


class Folder(Remote):
    """A folder of this machine."""

    @contextmanager
    def open(self, name: str, start: int = 0, version: str = "") -> Iterator[Opened]:
        path = Path(self.address.place) / name
        try:
            # A link may lead anywhere, and a pipe never ends.
            handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        except (FileNotFoundError, NotADirectoryError):
            raise Absent(f"expected a file at {path}, found none; check the address") from None
        except OSError as error:
            raise EarthSSLError(
                f"{path}: expected a plain file, but {os.strerror(error.errno or 0)}; check path and rights"
            ) from None
        with handle:
            state = os.fstat(handle.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise EarthSSLError(f"{path}: expected a plain file, got something else; the folder is not trusted")
            present = f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"
            start = start if version == present else 0
            handle.seek(start)
            yield Opened(start, state.st_size, present, iter(lambda: handle.read(BLOCK), b""))


AWS = ("ENDPOINT_URL_S3", "ENDPOINT_URL", "PROFILE", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")


@lru_cache(maxsize=4)
def _s3_client(*_: str | None) -> Any:
    """Return a client for what the environment variables `AWS` say; one takes a while to make, so it is kept."""
    import botocore.session
    import s3fs

    times = {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S, "retries": {"max_attempts": 0}}
    anonymous = botocore.session.Session().get_credentials() is None  # a public bucket needs no one's name
    client = s3fs.S3FileSystem(anon=anonymous, config_kwargs=times, skip_instance_cache=True)
    client.retries = 1  # `download.patiently` tries again
    return client


class S3(Remote):
    """A prefix of a bucket; endpoint and credentials come from the usual AWS environment variables and files."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.bucket, _, self.prefix = address.place.partition("/")
        try:
            self.fs = _s3_client(*(os.environ.get(f"AWS_{name}") for name in AWS))
        except ImportError:
            raise EarthSSLError(f"{address}: s3:// needs s3fs; pip install 'earthssl[s3]'") from None

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}" if self.prefix else name}

    def call(self, method: str, name: str, **how: Any) -> Any:
        """Return the answer to a request for one object; its body is read into `answer["Body"]`, up to a limit."""
        from fsspec.asyn import sync

        async def ask() -> Any:
            answer = await self.fs._call_s3(method, **self._at(name), **how)
            if method == "get_object":
                content = bytearray()
                async with answer["Body"] as body:
                    while len(content) <= LARGEST_ANSWER and (block := await body.read(BLOCK)):
                        content += block
                answer["Body"] = bytes(content)
            return answer

        try:
            return sync(self.fs.loop, ask)
        except FileNotFoundError:
            raise Absent(f"expected an object at {self.where(name)}, found none; check the address") from None
        except FileExistsError:
            raise Changed(self.where(name)) from None
        except PermissionError as error:
            raise EarthSSLError(f"{self.where(name)}: access denied ({error}); check the AWS credentials") from None
        except Exception as error:
            code = str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))
            if code in ("PreconditionFailed", "412"):
                raise Changed(self.where(name)) from None
            if code in ("InvalidBucketName", "InvalidRange", "NotImplemented"):
                raise EarthSSLError(f"{self.where(name)}: {error} ({code}); check bucket and endpoint") from None
            raise Transient(f"{type(error).__name__}: {error}") from None

    @contextmanager
    def open(self, name: str, start: int = 0, version: str = "") -> Iterator[Opened]:
        head = self.call("head_object", name)
        total, present = int(head["ContentLength"]), str(head["ETag"])
        start = start if version == present and start < total else 0
        yield Opened(start, total, present, self._blocks(name, start, total, present))

    def _blocks(self, name: str, start: int, total: int, version: str) -> Iterator[bytes]:
        while start < total:
            last = min(start + LARGEST_ANSWER, total) - 1
            answer = self.call("get_object", name, Range=f"bytes={start}-{last}", IfMatch=version)
            block = answer["Body"]
            right = str(answer.get("ContentRange", "")).startswith(f"bytes {start}-{last}/")
            if right and len(block) < last + 1 - start:
                raise Transient("the connection broke off")
            if not right or len(block) > last + 1 - start:
                raise EarthSSLError(f"{self.where(name)}: asked for a range, got something else; use another endpoint")
            yield block
            start += len(block)

    def write(self, name: str, data: bytes, **condition: str) -> None:
        """Put an object; `IfMatch` or `IfNoneMatch` make it conditional.

        Raises:
            Changed: If the condition does not hold.
        """
        self.call("put_object", name, Body=data, **condition)

    def send(self, name: str, file: Path) -> None:
        """Upload a file, in parts where it is large."""
        at = self._at(name)
        try:
            self.fs.put_file(str(file), f"{at['Bucket']}/{at['Key']}")
        except PermissionError as error:
            raise EarthSSLError(f"{self.where(name)}: access denied ({error}); check the AWS credentials") from None
        except Exception as error:
            raise Transient(f"{type(error).__name__}: {error}") from None

    def remove(self, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        self.call("delete_object", name)


class Changed(Transient):
    """The object is not, or no longer, of the version that was named."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} was changed meanwhile by someone else")


def remote_of(address: Address, *, allow_http: bool = False) -> Remote:
    """Return the place that an address names; a hf:// revision must be a commit."""
    if address.scheme == "file":
        return Folder(address)
    if address.scheme == "s3":
        return S3(address)
    if address.scheme == "hf":
        from .hugging import Hf

        return Hf(address)
    from .web import Web

    return Web(address, allow_http=allow_http)

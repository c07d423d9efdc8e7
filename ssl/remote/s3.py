"""A prefix of an S3 bucket as a place of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..common.errors import EarthSSLError
from . import place
from .address import Address
from .place import BLOCK, Absent, Opened, Remote, Transient

LARGEST_ANSWER = 8 * BLOCK  # bytes that are held in memory at once
AWS = ("ENDPOINT_URL_S3", "ENDPOINT_URL", "PROFILE", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")


@lru_cache(maxsize=4)
def _s3_client(*_: str | None) -> Any:
    """Return a client for what the environment variables `AWS` say; one takes a while to make, so it is kept."""
    import botocore.session
    import s3fs

    times = {"connect_timeout": place.TIMEOUT_S, "read_timeout": place.TIMEOUT_S, "retries": {"max_attempts": 0}}
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

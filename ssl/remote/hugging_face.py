"""hf://: names, tokens, commits and uploads through huggingface_hub; the bytes come as from any web server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ..common.errors import EarthSSLError
from . import place
from .address import Address, parse
from .place import Absent, Transient
from .web_server import AGAIN, Web

HUB = "https://huggingface.co"


def endpoint() -> str:
    """Return the hub's URL: $HF_ENDPOINT or the public one; http only on this machine."""
    return parse(os.environ.get("HF_ENDPOINT") or HUB).place


class Hf(Web):
    """A model repository at a commit."""

    def url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        at = self.address
        return hf_hub_url(at.place, name, revision=at.revision, endpoint=endpoint())

    def headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        known = build_hf_headers(library_name="earthssl")
        return super().headers() | {key: known[key] for key in known if key.lower() == "authorization"}


def commit_of(address: Address) -> Address:
    """Return the address at the commit that its revision stands for today.

    Raises:
        Absent: If there is no such repository or revision.
        Transient, EarthSSLError: If the hub does not answer.
    """
    return address if address.is_commit else look_up(address)[0]


def look_up(address: Address) -> tuple[Address, list[str]]:
    """Return the address at its commit, and the names of the files there; errors as `commit_of`."""
    from huggingface_hub import HfApi

    with _clear(address):
        info = HfApi(endpoint()).model_info(address.place, revision=address.revision, timeout=place.TIMEOUT_S)
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise EarthSSLError(
            f"{address.bare}: expected a commit of 40 hexadecimal digits, the hub says {info.sha!r:.80}; check "
            "HF_ENDPOINT"
        )
    return address.at(str(info.sha)), [str(file.rfilename) for file in info.siblings or []]


def upload(folder: Path, names: Sequence[str], stale: Sequence[str], address: Address, parent: str) -> Address:
    """Commit files of a folder to a branch in one piece, and return the address at the new commit.

    Args:
        folder: Holds them.
        names: Of the files.
        stale: Files to delete there.
        address: Repository and branch.
        parent: Commit that the branch must still be at.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, str(folder / name)) for name in names),
        *(CommitOperationDelete(name) for name in stale),
    ]
    with _clear(address):
        done = HfApi(endpoint()).create_commit(
            address.place,
            operations,
            commit_message="A checkpoint of earthssl",
            revision=address.revision,
            parent_commit=parent,
        )
    return address.at(str(done.oid))


@contextmanager
def _clear(address: Address) -> Iterator[None]:
    """Turn the library's errors into ours."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except RepositoryNotFoundError:
        raise Absent(
            f"{address.bare}: {urlsplit(endpoint()).netloc} has no such repository, or not for you; check the name, "
            "log in with `hf auth login`, or make it with `hf repo create`"
        ) from None
    except RevisionNotFoundError:
        raise Absent(f"{address.bare}: the repository has no revision '{address.revision}'; check it") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        if status in AGAIN:
            raise Transient(said) from None
        raise EarthSSLError(
            f"{address.bare}: {said}; check your rights to it, or log in with `hf auth login`"
        ) from None
    except EarthSSLError:
        raise
    except (OSError, ValueError) as error:
        raise Transient(f"{type(error).__name__}: {error}") from None
    except Exception as error:  # the library's transport has errors of its own
        if "http" not in type(error).__module__:
            raise
        raise Transient(f"{type(error).__name__}: {error}") from None

"""The place that an address names."""

from __future__ import annotations

from .address import Address
from .hugging_face import Hf
from .local import Folder
from .place import Remote
from .s3 import S3
from .web_server import Web


def remote_of(address: Address, *, allow_http: bool = False) -> Remote:
    """Return the place that an address names; a hf:// revision must be a commit."""
    if address.scheme == "file":
        return Folder(address)
    if address.scheme == "s3":
        return S3(address)
    if address.scheme == "hf":
        return Hf(address)
    return Web(address, allow_http=allow_http)

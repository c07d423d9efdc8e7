"""A folder held by one process: whoever comes second is refused, and the lock file outlives the lock."""

from __future__ import annotations

from pathlib import Path

import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import locked


def test_a_folder_is_held_once_and_its_lock_file_stays(tmp_path: Path) -> None:
    """Were the file removed, one process could hold the old file and another a new one of its name."""
    with locked(tmp_path):
        held = (tmp_path / ".lock").stat().st_ino
        with pytest.raises(EarthSSLError, match="in use by another process"), locked(tmp_path):
            pass
    assert (tmp_path / ".lock").stat().st_ino == held
    with locked(tmp_path):
        assert (tmp_path / ".lock").stat().st_ino == held

"""Where a browser is expected, tests that need one fail without it; elsewhere they are skipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.mark.parametrize(("expected", "outcome"), [("1", "1 error"), ("0", "1 skipped")])
def test_a_missing_browser_is_a_failure_only_where_one_is_expected(tmp_path: Path, expected: str, outcome: str) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "playwright.py").write_text("")  # hides the package: it has no part `sync_api`
    (tmp_path / "test_one.py").write_text("def test_one(browser): pass\n")
    alone = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *alone, "test_one.py"],
        cwd=tmp_path, env={"EARTHSSL_BROWSER": expected, "PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin",
                           "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert outcome in run.stdout, run.stdout + run.stderr

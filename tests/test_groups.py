"""Tests of one xdist_group run in one worker, so that what they share is made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import os
import pytest

@pytest.mark.xdist_group("shared")
@pytest.mark.parametrize("number", range(6))
def test_worker(number):
    with open({seen!r}, "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


def test_a_group_is_run_by_one_of_two_workers(tmp_path: Path) -> None:
    """pytest-xdist ignores groups without a word under a pytest it does not know."""
    seen, file = tmp_path / "seen", tmp_path / "test_shared.py"
    file.write_text(TESTS.format(seen=str(seen)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(file)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    workers = seen.read_text(encoding="utf-8").split()
    assert (len(workers), len(set(workers))) == (6, 1)

"""Work folders: gone when the work ends, swept when their process was killed, never while somebody works there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mirage_core.stages.scratch import sweep, work_folder

WORKER = """
import sys, time
from mirage_core.stages.scratch import work_folder
with work_folder("grounding") as folder:
    (folder / "checkpoint").write_text("gigabytes")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_folder_goes_with_its_work(tmp_path: Path) -> None:
    with work_folder("grounding") as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_work_and_what_is_in_use_stays(tmp_path: Path) -> None:
    other = tmp_path / "mirage-of-somebody"
    other.mkdir()
    child = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    assert sweep(tmp_path) == [], "it is in use"
    assert (left / "checkpoint").exists()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with work_folder("relaxation") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, other])
        with work_folder("evaluation"):
            assert folder.exists()

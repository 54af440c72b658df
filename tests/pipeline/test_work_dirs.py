"""Work folders: gone when the work ends, swept when their process was killed, never while somebody works there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mirage_core.pipeline.work_dirs import drop_scratch, persistent_scratch, sweep, work_folder

WORKER = """
import sys, time
from mirage_core.pipeline.work_dirs import work_folder
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
        assert sorted(path for path in tmp_path.iterdir() if path.is_dir()) == sorted([folder, other])
        with work_folder("evaluation"):
            assert folder.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_what_was_killed_while_it_was_made_or_removed_goes_too(tmp_path: Path) -> None:
    half = tmp_path / "mirage-relaxation-0a1b2c3d"
    (half / "scratch").mkdir(parents=True)
    for name in (half.name, "mirage-report-4e5f6a7b"):  # the second one's folder is not there yet, or no more
        (tmp_path / f"{name}.lock").touch()
    assert len(sweep(tmp_path)) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_kept_scratch_of_work_that_is_done_is_dropped_unless_somebody_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "unfinished" / "0a1b"
    with persistent_scratch(folder) as scratch:
        (scratch / "batch").write_text("answers")
        drop_scratch(folder)
        assert (folder / "batch").exists()
    folder.mkdir()
    folder.with_name("0a1b.lock").touch()
    drop_scratch(folder)
    assert list(folder.parent.iterdir()) == []
    drop_scratch(folder)
    assert list(folder.parent.iterdir()) == []

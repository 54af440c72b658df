"""`mirage run --direct` is killed, or asked to end, in the middle of stage 2: nothing is left, the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirage_core.pipeline.run_record import newest_record
from mirage_core.store import Store
from tests.crash.accident import OVERRIDES, processes, until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR by which the run's processes are known."""
    with tempfile.TemporaryDirectory(prefix="accident-") as folder:
        yield Path(folder)


def start(store: Path, temporary: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", "run", "--recipe", "micro", "--direct", "--store", str(store)]
    for override in OVERRIDES:
        command += ["--set", override]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("how", "status", "state"), [(signal.SIGTERM, 143, "Cancelled"), (signal.SIGKILL, -9, "Running")]
)
def test_a_direct_run_that_ends_early_leaves_no_process_and_the_next_one_resumes(
    tmp_path: Path, temporary: Path, how: signal.Signals, status: int, state: str
) -> None:
    place = tmp_path / "store"

    def ranks() -> list[int]:
        return [process.pid for process in processes("mirage_core.pipeline.worker", f"{temporary}/mirage-relaxation")]

    run = start(place, temporary)
    until(lambda: bool(ranks()) and any(place.glob("checkpoints/*/*/manifest.json")), "a checkpoint of stage 2")
    run.send_signal(how)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == status, output
    until(lambda: not ranks(), "no training process", 30)
    store = Store.open(place, cache=tmp_path / "cache")
    assert newest_record(store).state == state
    finished = {artifact.path: store.manifest(artifact).about["created"] for artifact in store.list()}
    assert len(finished) == 5

    again = start(place, temporary)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    assert "going on after step" in output
    assert newest_record(store).state == "Completed"
    stamps = {artifact.path: store.manifest(artifact).about["created"] for artifact in store.list()}
    assert {path: stamps[path] for path in finished} == finished
    assert [store.verify(artifact) for artifact in store.list()] == [[]] * len(stamps)
    assert list(place.glob("checkpoints/*/*/manifest.json")) == []
    assert list(temporary.glob("mirage-*")) == [], "what the killed run left was swept"

"""``make run`` as the README says: from a checkout to a report, and a second time with every stage cached."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.commands import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

PATIENCE_S = 900


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """The tracked files in a folder of their own, with the environment of this checkout; what runs there is ended."""
    folder = tmp_path / "mirage"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    yield folder
    make(folder, "down")


def make(folder: Path, *words: str) -> str:
    """What a target prints; the environment of this checkout is used as it is, and never set up from the copy."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MIRAGE_", "PREFECT_"))}
    done = subprocess.run(
        ["make", "-o", ".venv/.mirage-ready", *words], cwd=folder, env={**known, "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_make_run_gives_a_report_and_then_finds_everything_cached(checkout: Path) -> None:
    make(checkout, "up", f"PORT={free_port()}")
    make(checkout, "run", "RECIPE=micro")
    first = newest(checkout)
    make(checkout, "run", "RECIPE=micro")
    second = newest(checkout)

    assert {stage["state"] for stage in first["stages"]} == {"Completed"}
    assert {stage["state"] for stage in second["stages"]} == {"Cached"}
    assert [stage["digest"] for stage in first["stages"]] == [stage["digest"] for stage in second["stages"]]
    assert first["scores"] == second["scores"] and first["id"] != second["id"]


def newest(folder: Path) -> dict:
    """The record of the newest run."""
    return json.loads(max((folder / ".mirage/store/runs").glob("*.json")).read_text())

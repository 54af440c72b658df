"""The soak in its short form, as `make e2e` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.pipeline_run import ROOT


@pytest.mark.e2e
@pytest.mark.slow
def test_the_short_soak_counts_nothing_that_must_not_be(tmp_path: Path) -> None:
    target = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.soak", "--json", str(target), "--folder", str(tmp_path / "soak")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    counts = json.loads(target.read_text())
    parts = {part["part"] for part in counts["parts"]}
    assert {"kills, local", "kills, s3", "writers, local", "writers, s3", "flips, local", "flips, s3"} <= parts
    killed = [part["done"] for part in counts["parts"] if part["part"].startswith("kills")]
    assert sum(count for done in killed for name, count in done.items() if name.startswith("killed: ")) >= 4

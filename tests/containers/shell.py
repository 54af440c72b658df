"""Run a command of the walks, and say what comes next."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(command: Sequence[str], timeout_s: float = 600.0, stdin: str | None = None, check: bool = True) -> str:
    """What a command printed, both streams; AssertionError with all of it where it failed."""
    done = subprocess.run(
        command, cwd=ROOT, input=stdin, text=True, timeout=timeout_s, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0 or not check, (
        f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    )
    return done.stdout


def say(what: str) -> None:
    """Print what comes next, with the time."""
    print(f"== {time.strftime('%H:%M:%S')} {what}", flush=True)

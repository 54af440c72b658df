"""The check of DeepSpeed that set-up makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mirage_core.errors import SettingsError
from mirage_core.training.engine.deepspeed import import_deepspeed

ROOT = Path(__file__).parents[2]


def test_deepspeed_works_here_without_compiling() -> None:
    command = [sys.executable, "-m", "mirage_core.training.engine.deepspeed_setup"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing needs compiling" in done.stdout


def test_a_missing_deepspeed_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(SettingsError, match=r"runtime\.engine to plain"):
        import_deepspeed("cpu")

"""The check of DeepSpeed that set-up makes: `make setup` starts it as a program, here it is forked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mirage_core.errors import SettingsError
from mirage_core.training.engine.deepspeed import import_deepspeed
from tests.forked import run_ranks


@pytest.mark.xdist_group("ranks")
def test_deepspeed_works_here_without_compiling(tmp_path: Path) -> None:
    run_ranks("mirage_core.training.engine.deepspeed_setup", tmp_path, [()])
    assert "nothing needs compiling" in (tmp_path / "rank-0.log").read_text()


def test_a_missing_deepspeed_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(SettingsError, match=r"runtime\.engine to plain"):
        import_deepspeed("cpu")

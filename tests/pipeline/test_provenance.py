"""The commit and the versions that an artifact's manifest tells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mirage_core.pipeline import provenance as module
from mirage_core.pipeline.provenance import commit, provenance


def test_the_commit_is_that_of_the_checkout_and_nothing_where_git_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    package = tmp_path / "mirage_core" / "stages"
    package.mkdir(parents=True)
    (package / "made_with.py").write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    monkeypatch.setattr(module, "__file__", str(package / "made_with.py"))
    commit.cache_clear()
    try:
        assert commit() == head.stdout.strip()
        (package / "made_with.py").write_text("two")
        commit.cache_clear()
        assert commit() == f"{head.stdout.strip()}-dirty"
        monkeypatch.setenv("PATH", str(tmp_path))
        commit.cache_clear()
        assert commit() is None
    finally:
        commit.cache_clear()
    assert {"python", "torch", "transformers"} <= provenance()["versions"].keys()

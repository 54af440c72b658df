"""Stores of both sorts: a local folder, and a file system that is only reached through fsspec."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirage_core.store import Store, publish


@pytest.fixture(autouse=True)
def _brief_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers who meet on a remote store wait for each other less long: nothing here takes seconds."""
    monkeypatch.setattr(publish, "SETTLE_S", 0.3)
    monkeypatch.setattr(publish, "SETTLE_POLL_S", 0.02)


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    url = str(tmp_path / "store") if request.param == "local" else f"memory://mirage-{uuid.uuid4().hex}/prefix"
    opened = Store.open(url, cache=tmp_path / "cache")
    yield opened
    opened.backend.remove("")


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """An empty store in a local folder."""
    return Store.open(tmp_path / "store", cache=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with files: ``folder(a="text", **{"sub/b": "more"})``."""

    def make(**files: str) -> Path:
        new_folder = tmp_path / f"folder-{uuid.uuid4().hex}"
        for name, text in files.items():
            path = new_folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        new_folder.mkdir(exist_ok=True)
        return new_folder

    return make

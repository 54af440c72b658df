"""A store in a local folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirage_core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store", cache=tmp_path / "cache")

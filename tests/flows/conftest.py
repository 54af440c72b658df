"""A pipeline of fake stages; the server of the flow tests is in tests/servers/harness.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.fake_pipeline import FakePipeline, install


@pytest.fixture
def fake_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePipeline:
    """Fake stages, and a store of this test's own."""
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("tasks.stages.BACKOFF", [0, 0, 0])
    return install(monkeypatch)

"""One temporary Prefect server for the flow tests of a process, and a road of fake stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.fake_road import FakeRoad, install


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of Prefect's own test harness, with a result storage of its own."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        storage = tmp_path_factory.mktemp("prefect-storage")
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: storage}):
            yield


@pytest.fixture
def road(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRoad:
    """Fake stages, and a store of this test's own."""
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("tasks.stages.BACKOFF", [0, 0, 0])
    return install(monkeypatch)

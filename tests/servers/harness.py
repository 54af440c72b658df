"""One temporary Prefect server for the flow tests of a process: Prefect's own test harness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of Prefect's own test harness, with a result storage of its own, one for each xdist_group."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        storage = tmp_path_factory.mktemp("prefect-storage")
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: storage}):
            yield

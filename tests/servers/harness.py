"""One temporary Prefect server for the flow tests of a process: Prefect's own test harness."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of Prefect's own test harness, with a result storage of its own, one for each xdist_group.

    It collects garbage as that of ``mirage up`` does: else requests stand still for a minute now and then.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessASGIServer, "_run_uvicorn_command", _start_server)
        with prefect_test_harness(server_startup_timeout=120):
            storage = tmp_path_factory.mktemp("prefect-storage")
            with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: storage}):
                yield


def _start_server(harness: Any) -> subprocess.Popen[bytes]:
    from prefect.settings import get_current_settings

    command = [sys.executable, "-m", "deployments.collecting", "uvicorn", "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(harness.port)]
    only_the_api = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(
        [*command, "--log-level", "error", "--lifespan", "on"],
        cwd=ROOT,
        env={**os.environ, **only_the_api, **settings},
    )

"""Shared by all tests: one thread a process, nothing of the caller's environment, no network but loopback."""

from __future__ import annotations

import gc
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests.forked import start_server

pytest_plugins = ["tests.servers.fixtures"]

# What is compiled is kept, also where the caller's environment would have every process compile all of it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Before torch or Prefect are imported by any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
for name in ("MIRAGE_STORE", "MIRAGE_S3_BLOCK", "MIRAGE_HOME", "PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.startswith("AWS_")]:  # nobody's real buckets, nor their keys
    del os.environ[name]
# Nor what lies in the caller's home; and no test waits for a cloud's metadata service.
os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, AWS_EC2_METADATA_DISABLED="true")

# A loaded machine is no failure: examples have no deadline, and how long they took to be drawn is nobody's fault.
settings.register_profile("mirage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mirage")


def pytest_configure() -> None:
    """No search for garbage among what is imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor later: it stays to the end. The server of forked processes is started with what is imported by now."""
    gc.freeze()
    start_server()
    gc.enable()


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout's .mirage."""
    monkeypatch.setenv("MIRAGE_HOME", str(tmp_path_factory.mktemp("home")))

"""Whoever holds the GPU's slot is killed: on this machine it is free at once, elsewhere when the lease ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.stack import LiveStack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("crash")]

HOLDER = """
import logging, sys, time
from tasks import gpu
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("test").setLevel("INFO")
gpu.LEASE_S = 60  # the shortest that the server takes
with gpu.GpuSlot(logging.getLogger("test")).acquired():
    print("held", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def holder(live: LiveStack, home: Path, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PREFECT_API_URL": live.api, "MIRAGE_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(seconds)], env=environment, stdout=subprocess.PIPE, text=True
    )


def killed_holder(live: LiveStack, home: Path) -> None:
    process = holder(live, home, 600)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "held":
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert slots(live) == 1


def slots(live: LiveStack) -> int:
    return int(live.get("v2/concurrency_limits/gpu")["active_slots"])


def test_the_slot_of_a_holder_killed_on_this_machine_is_taken_at_once(fragile_stack: LiveStack, tmp_path: Path) -> None:
    fragile_stack.until(lambda: slots(fragile_stack) == 0, "a free GPU", 180)
    killed_holder(fragile_stack, tmp_path)
    output, _ = holder(fragile_stack, tmp_path, 0).communicate(timeout=120)
    assert "was killed: its slot is free again" in output
    assert "held" in output
    assert slots(fragile_stack) == 0


def test_the_slot_of_a_holder_killed_elsewhere_is_free_when_its_lease_ends(
    fragile_stack: LiveStack, tmp_path: Path
) -> None:
    fragile_stack.until(lambda: slots(fragile_stack) == 0, "a free GPU", 180)
    killed_holder(fragile_stack, tmp_path / "elsewhere")
    fragile_stack.until(lambda: slots(fragile_stack) == 0, "the lease ends", 180)
    output, _ = holder(fragile_stack, tmp_path / "here", 0).communicate(timeout=120)
    assert "held" in output

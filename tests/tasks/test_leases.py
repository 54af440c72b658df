"""Notes of leases: those of a killed process are found, once; those of a living one never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from tasks.leases import LeaseFile, abandoned_leases

HOLDER = """
import sys, time
from pathlib import Path
from uuid import UUID
from tasks.leases import LeaseFile
with LeaseFile(Path(sys.argv[1])) as lease_file:
    lease_file.write(UUID(int=6))
    lease_file.write(UUID(int=7))
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lease_of_a_killed_process_is_found_once_and_that_of_a_living_one_never(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with LeaseFile(tmp_path) as own:
        own.write(UUID(int=1))
        assert list(abandoned_leases(tmp_path)) == []
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        assert list(abandoned_leases(tmp_path)) == [UUID(int=7)]
        assert list(abandoned_leases(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []

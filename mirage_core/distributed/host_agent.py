"""One host's part of a job: starts torchrun or DeepSpeed's launcher, and ends it together with whoever started this.

`python -m mirage_core.distributed.host_agent JOB.json ...`, run by process_group.py. Its standard input stays open as
long as the job runs: when the parent is gone, here or at the other end of ssh, it is closed, and everything ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from mirage_core.distributed.job import read_job
from mirage_core.distributed.process_group import NOT_SHARED, HostSpec, launch_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the host's processes to their end; returns the launcher's status, or NOT_SHARED with the reason on stdout."""
    parser = argparse.ArgumentParser(description="One host's part of a Mirage job.")
    parser.add_argument("job", type=Path)
    for name in ("--launcher", "--worker", "--address"):
        parser.add_argument(name, required=True)
    for name in ("--host", "--hosts", "--processes", "--port", "--grace"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args(arguments)
    missing = missing_paths(options.job)
    if missing:
        sys.stdout.write(missing)
        return NOT_SHARED
    host = HostSpec(options.host, options.hosts, options.processes, options.address, options.port)
    run = [options.worker, str(options.job), "--ends-with", str(os.getpid())]
    command = launch_command(options.launcher, host, run, options.grace)
    launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=end_when_closed, args=(launcher,), name="end-with-parent", daemon=True).start()
    status = launcher.wait()
    return status if status >= 0 else 128 - status


def missing_paths(job_file: Path) -> str:
    """Return a message about the paths of a job that this host does not see; empty where it sees all."""
    if not job_file.is_file():
        return (
            f"the job's folder {job_file.parent} is not seen here: it must lie on storage that all hosts share under "
            "the same path; point TMPDIR there"
        )
    job = read_job(job_file)
    needed = [*job.inputs.values(), job.output, job.scratch, *([job.resume_from] if job.resume_from else [])]
    missing = sorted(str(path) for path in needed if not path.exists())
    if not missing:
        return ""
    return (
        f"{', '.join(missing)} is not seen here: the store, its cache (MIRAGE_HOME) and TMPDIR must lie on storage "
        "that all hosts share under the same paths"
    )


def end_when_closed(launcher: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the standard input, then kill the launcher and all it has started."""
    while os.read(sys.stdin.fileno(), 4096):  # no buffer, whose lock would be taken when this process ends
        pass
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(launcher.pid)
        for process in [first, *first.children(recursive=True)]:  # torchrun's are in sessions of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


if __name__ == "__main__":
    sys.exit(main())

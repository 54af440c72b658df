"""A program: a flow maps one task over many numbers, and each task notes its number. Arguments: how many, log file."""

from __future__ import annotations

import json
import os
import sys
import time

from prefect import flow, task, unmapped
from prefect.runtime import flow_run


@task
def note(number: int, log: str) -> int:
    """Append the number to the log, in one write."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{number}\n".encode())
    finally:
        os.close(descriptor)
    return number


@flow(name="many-tasks")
def many_tasks(count: int, log: str) -> tuple[str, int]:
    """Map over ``range(count)``; the run's id and the sum of what came back."""
    return str(flow_run.id), sum(note.map(range(count), log=unmapped(log)).result())


if __name__ == "__main__":
    started = time.monotonic()
    run, total = many_tasks(int(sys.argv[1]), sys.argv[2])
    print(json.dumps({"run": run, "total": total, "seconds": round(time.monotonic() - started, 2)}))

"""How fast this machine multiplies float32 matrices: what the minutes of a road on CPUs depend on."""

from __future__ import annotations

import os
import subprocess
import sys

from mirage_core.errors import MirageError

SIDE = 512
ROUNDS = 12
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# A process of its own: a library of linear algebra reads its number of threads once, when it is imported.
_PROGRAM = f"""
import time
import numpy
a = numpy.ones(({SIDE}, {SIDE}), numpy.float32)
def seconds():
    start = time.process_time()
    a @ a
    return time.process_time() - start
print(2 * {SIDE} ** 3 / min(seconds() for _ in range({ROUNDS})) / 1e9)
"""


def gflops_per_core() -> float:
    """Return the float32 GFLOP/s of one core, in a third of a second: numpy's product of 512 x 512 matrices, the best.

    Processor time counts, so that other processes beside it change little. MirageError where numpy fails.
    """
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MirageError(f"numpy cannot multiply matrices here: {done.stderr.strip()[-500:]}; run `make setup` again")
    return float(done.stdout)


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(gflops: float) -> str:
    """Return the machine in a line."""
    return f"{cores()} cores, each {gflops:.0f} GFLOP/s in float32 (numpy, {SIDE} x {SIDE})"

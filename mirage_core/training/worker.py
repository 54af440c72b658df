"""One process of a job: `python -m mirage_core.training.worker JOB.json --rank R --world-size N --parent PID`.

Programs are found by name, so that this floor imports nothing above it, and torch is imported
only after the number of threads is set.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from mirage_core import benchmarks
from mirage_core.training.events import EventWriter
from mirage_core.training.failure import write_failure
from mirage_core.training.job import Job, read_job
from mirage_core.training.launch import events_file, failure_file

RunProgram = Callable[[Job, int, int, EventWriter], None]

PROGRAMS = {
    "warmup": "mirage_core.training.warmup:run_warmup",
    "text": "mirage_core.training.supervised:run_supervised",
    "capimagine": "mirage_core.training.supervised:run_supervised",
    "grounding": "mirage_core.training.supervised:run_supervised",
    "relaxation": "mirage_core.training.supervised:run_supervised",
    "grpo": "mirage_core.training.grpo:run_grpo",
    "evaluate": "mirage_core.evaluation.run:evaluate_rank",
}
"""The function of each program: (job, rank, world_size, emit) -> None."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this process's part of the job; an error is written to its failure file, status 1."""
    parser = argparse.ArgumentParser(description="One process of a Mirage job.")
    parser.add_argument("job", type=Path)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="this process ends when that one is gone")
    given = parser.parse_args(arguments)
    end_with_parent(given.parent)
    # One for every collective of DeepSpeed: a log of an error would show nothing else.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    folder = given.job.parent
    try:
        run(read_job(given.job), given.rank, given.world_size, folder)
    except Exception as problem:
        write_failure(failure_file(folder, given.rank), problem, given.rank)
        raise
    return 0


def run(job: Job, rank: int, world_size: int, folder: Path) -> None:
    """Join the other processes where the program needs them, then run the program."""
    prepare_libraries(rank, world_size, job.settings.runtime.threads, folder)
    benchmarks.use(job.settings.problems)  # a user's own task
    events = EventWriter(events_file(folder, rank))
    if job.program == "evaluate":
        program(job.program)(job, rank, world_size, events)
        return
    from mirage_core.training.processes import joined

    with joined(rank, world_size, folder / "rendezvous"):
        program(job.program)(job, rank, world_size, events)


def program(name: str) -> RunProgram:
    """The function of a program."""
    module, _, function = PROGRAMS[name].partition(":")
    found: RunProgram = getattr(importlib.import_module(module), function)
    return found


def prepare_libraries(rank: int, world_size: int, threads: int, folder: Path) -> None:
    """Tell the libraries who this process is, in their own words, before they are imported."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
        # Nothing is compiled here; if a library ever does, a lock left by a killed build cannot hang a later run.
        TORCH_EXTENSIONS_DIR=str(folder / "extensions"),
    )
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a host name that does not resolve is no obstacle then


def end_with_parent(parent: int) -> None:
    """End this process, whatever it does, within a second of its parent's death (SIGKILL included).

    Where it leads a process group of its own (the launcher sees to that), all it has started ends with it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def leave(status: int) -> None:
    """End the process at once: tearing down all that was imported takes a second, in every process of every stage."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())

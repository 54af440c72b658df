"""One process of a job: `python -m mirage_core.distributed.worker JOB.json --rank R --world-size N --parent PID`.

Without a rank it takes its place from the environment, as torchrun, DeepSpeed's launcher and Slurm give it:
`torchrun --nproc-per-node 8 -m mirage_core.distributed.worker JOB.json` (docs/several-hosts.md).

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
from dataclasses import dataclass
from pathlib import Path

import psutil

from mirage_core import benchmarks
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.failure import write_failure
from mirage_core.distributed.interruption import interrupt_file
from mirage_core.distributed.job import Job, read_job
from mirage_core.distributed.process_group import events_file, failure_file
from mirage_core.errors import InputError

RunProgram = Callable[[Job, int, int, EventWriter], None]

PROGRAMS = {
    "warmup": "mirage_core.training.warmup.objective:run_warmup",
    "text": "mirage_core.training.sft.train:run_supervised",
    "capimagine": "mirage_core.training.sft.train:run_supervised",
    "grounding": "mirage_core.training.sft.train:run_supervised",
    "relaxation": "mirage_core.training.sft.train:run_supervised",
    "grpo": "mirage_core.training.grpo.objective:run_grpo",
    "evaluate": "mirage_core.evaluation.evaluate:evaluate_rank",
}
"""The function of each program: (job, rank, world_size, emit) -> None."""

_TOLD = {
    "rank": ("RANK", "SLURM_PROCID"),
    "world_size": ("WORLD_SIZE", "SLURM_NTASKS"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID"),
    "local_size": ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"),
}
"""What torchrun, DeepSpeed's launcher and Slurm call it in the environment."""


@dataclass(frozen=True)
class Member:
    """Which process this is, of how many: of the job, and on this host. ``meets_by_file``: else at MASTER_ADDR."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    meets_by_file: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this process's part of the job; an error is written to its failure file, status 1."""
    parser = argparse.ArgumentParser(description="One process of a Mirage job.")
    parser.add_argument("job", type=Path)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--world-size", type=int)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="this process ends when that one is gone")
    parser.add_argument("--ends-with", type=int, help="and when that one of this host is gone")
    given = parser.parse_args(arguments)
    folder = given.job.parent
    end_with_parent(given.parent, given.ends_with, interrupt_file(folder))
    # One for every collective of DeepSpeed: a log of an error would show nothing else.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    member = member_of(given.rank, given.world_size)
    try:
        run(read_job(given.job), member, folder)
    except Exception as error:
        write_failure(failure_file(folder, member.rank), error, member.rank)
        raise
    return 0


def member_of(rank: int | None, world_size: int | None) -> Member:
    """The process this is: as it was told, or as the environment says. InputError where neither does."""
    if rank is not None and world_size is not None:
        return Member(rank, world_size, rank, world_size, meets_by_file=True)
    told = {name: [int(os.environ[key]) for key in keys if key in os.environ] for name, keys in _TOLD.items()}
    if not all(told.values()) or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError(
            "this process was not told its --rank and --world-size, and the environment does not say RANK, WORLD_SIZE, "
            "LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (or Slurm's names of the first four); start it "
            "by torchrun, DeepSpeed's launcher or srun"
        )
    return Member(**{name: found[0] for name, found in told.items()}, meets_by_file=False)


def run(job: Job, member: Member, folder: Path) -> None:
    """Join the other processes where the program needs them, then run the program."""
    rank, world_size = member.rank, member.world_size
    prepare_libraries(rank, world_size, job.settings.runtime.threads, folder, member.local_rank, member.local_size)
    benchmarks.use(job.settings.problems)  # a user's own task
    for needed in (job.output, job.scratch):  # where no launcher of this project has made them
        needed.mkdir(parents=True, exist_ok=True)
    events = EventWriter(events_file(folder, rank))
    if not member.meets_by_file:
        from mirage_core.distributed.collectives import on_this_host

        on_this_host(member.local_rank, member.local_size)
    if job.program == "evaluate":
        program(job.program)(job, rank, world_size, events)
        return
    from mirage_core.distributed.collectives import joined

    with joined(rank, world_size, folder / "rendezvous" if member.meets_by_file else None):
        program(job.program)(job, rank, world_size, events)


def program(name: str) -> RunProgram:
    """The function of a program."""
    module, _, function = PROGRAMS[name].partition(":")
    found: RunProgram = getattr(importlib.import_module(module), function)
    return found


def prepare_libraries(
    rank: int, world_size: int, threads: int, folder: Path, local_rank: int | None = None, local_size: int | None = None
) -> None:
    """Tell the libraries who this process is, in their own words, before they are imported."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank if local_rank is None else local_rank),
        WORLD_SIZE=str(world_size),
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
        # Nothing is compiled here; if a library ever does, a lock left by a killed build cannot hang a later run.
        TORCH_EXTENSIONS_DIR=str(folder / "extensions"),
    )
    if sys.platform == "linux" and (local_size or world_size) == world_size:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a host name that does not resolve is no obstacle then


def end_with_parent(parent: int, another: int | None = None, interrupt: Path | None = None) -> None:
    """End this process, whatever it does, within a second of its parent's death (SIGKILL included), or another's.

    Where it leads a process group of its own (the launcher sees to that), all it has started ends with it. When the
    file ``interrupt`` is there it gets SIGTERM, once: a training that goes on finishes its step and saves.
    """

    def watch() -> None:
        asked = False
        while os.getppid() == parent and (another is None or psutil.pid_exists(another)):
            if not asked and interrupt is not None and interrupt.exists():
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
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

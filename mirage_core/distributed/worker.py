"""What surrounds a process of a job, whatever its program: the job, the libraries, the process group, its error.

pipeline/worker.py is the module that runs, since it imports the programs. Without ``--rank`` a process takes its rank
from the environment, as torchrun, DeepSpeed's launcher and Slurm set it (docs/several-hosts.md). Torch is imported
only after the number of threads is set.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from mirage_core import benchmarks
from mirage_core.distributed.arithmetic import use_portable_math
from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.events import EventWriter, write_failure
from mirage_core.distributed.job import Job, read_job
from mirage_core.distributed.process_group import events_file, failure_file, stop_file
from mirage_core.errors import InputError

ENV_NAMES = {
    "rank": ("RANK", "SLURM_PROCID"),
    "world_size": ("WORLD_SIZE", "SLURM_NTASKS"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID"),
    "local_size": ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"),
}
"""The environment variables of torchrun, DeepSpeed's launcher and Slurm."""


@contextmanager
def worker_process(arguments: Sequence[str] | None = None) -> Iterator[tuple[Job, EventWriter]]:
    """Be a process of a job inside the block, which runs the job's program; an error of it is written to its file.

    Yields the job and the writer of the process's events.
    """
    options = _parse(arguments)
    folder = options.job.parent
    die_with_parent(options.parent, options.ends_with, stop_file(folder))
    # One for every collective of DeepSpeed: a log of an error would show nothing else.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    process = process_of(options.rank, options.world_size)
    rendezvous = None if options.rank is None else folder / "rendezvous"
    try:
        with as_process(process), _prepared(read_job(options.job), process, folder, rendezvous) as job:
            yield job, EventWriter(events_file(folder, process.rank))
    except Exception as error:
        write_failure(failure_file(folder, process.rank), error, process.rank)
        raise


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One process of a Mirage job.")
    parser.add_argument("job", type=Path)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--world-size", type=int)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="this process ends when that one is gone")
    parser.add_argument("--ends-with", type=int, help="and when that one of this host is gone")
    return parser.parse_args(arguments)


def process_of(rank: int | None, world_size: int | None) -> ProcessContext:
    """Return the context of a process by its arguments, else by its environment. InputError where both lack it."""
    if rank is not None and world_size is not None:
        return ProcessContext.on_one_host(rank, world_size)
    values = {name: [int(os.environ[key]) for key in keys if key in os.environ] for name, keys in ENV_NAMES.items()}
    if not all(values.values()) or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError(
            "this process got no --rank and --world-size, and the environment lacks RANK, WORLD_SIZE, LOCAL_RANK, "
            "LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (or Slurm's names of the first four); start it by torchrun, "
            "DeepSpeed's launcher or srun"
        )
    return ProcessContext(**{name: first for name, (first, *_) in values.items()})


@contextmanager
def _prepared(job: Job, process: ProcessContext, folder: Path, rendezvous: Path | None) -> Iterator[Job]:
    """Set up the process, and join the others where the program needs them."""
    configure_libraries(process, job.settings.runtime.threads, folder)
    if job.settings.runtime.portable_math:
        use_portable_math()
    benchmarks.use(job.settings.problems)  # a user's own task
    for needed in (job.output, job.scratch):  # where no launcher of this project has created them
        needed.mkdir(parents=True, exist_ok=True)
    if job.program == "evaluate":
        yield job
        return
    from mirage_core.distributed.collectives import torch_process_group

    with torch_process_group(rendezvous):
        yield job


def configure_libraries(process: ProcessContext, threads: int, folder: Path) -> None:
    """Set the environment variables of the libraries before they are imported."""
    os.environ.update(
        RANK=str(process.rank),
        LOCAL_RANK=str(process.local_rank),
        WORLD_SIZE=str(process.world_size),
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
        # Nothing is compiled here; if a library ever does, a lock left by a killed build cannot hang a later run.
        TORCH_EXTENSIONS_DIR=str(folder / "extensions"),
    )
    if "torch" in sys.modules:  # a forked process: the variables came too late
        sys.modules["torch"].set_num_threads(threads)
    if sys.platform == "linux" and process.local_size == process.world_size:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # works also where the host's name does not resolve


def die_with_parent(parent: int, another: int | None = None, stop: Path | None = None) -> None:
    """End this process, whatever it does, within a second of its parent's death (SIGKILL included), or another's.

    Where it leads a process group of its own (the launcher sees to that), all it has started ends with it. When the
    file ``stop`` appears it gets SIGTERM, once: a training finishes its step and saves.
    """

    def watch() -> None:
        signalled = False
        while os.getppid() == parent and (another is None or psutil.pid_exists(another)):
            if not signalled and stop is not None and stop.exists():
                signalled = True
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def exit_now(status: int = 0) -> None:
    """End the process at once: a normal exit tears down all imports, which takes a second in every process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""One process that trains the cases of test_accumulation.py, one after the other, in one group."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mirage_core.distributed.collectives import torch_process_group
from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import read_job
from mirage_core.training.sft.train import run_supervised


def main() -> None:
    folder, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(TORCH_EXTENSIONS_DIR=str(folder / "extensions"), GLOO_SOCKET_IFNAME="lo")
    with as_process(ProcessContext.on_one_host(rank, world_size)), torch_process_group(folder / "rendezvous"):
        for name in json.loads((folder / "cases.json").read_text()):
            job = read_job(folder / f"{name}.json")
            run_supervised(job, EventWriter(job.scratch / f"events-{rank}.jsonl"))


if __name__ == "__main__":
    main()

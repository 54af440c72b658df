"""One process that trains Monet's stages with every engine (run by test_monet_training.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mirage_core.distributed.collectives import torch_process_group
from mirage_core.distributed.context import ProcessContext, as_process, current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.training.engine import deepspeed as deepspeed_engine
from mirage_core.training.sft.train import run_supervised
from tests.training.monet_world import STAGE
from tests.training.small_world import make_job
from tests.training.stages_child import ENGINES, gathering_all

PROGRAMS = {"monet-warmup": "monet_warmup", "monet-targets": "monet_targets", "monet": "monet"}
SHARDED = ("zero-1", "zero-2", "zero-3")
CASES = tuple((program, engine) for program in PROGRAMS for engine in SHARDED)
ADAPTED = (("monet-targets", "zero-3"), ("monet", "zero-3"))
"""Those that are trained by adapters too."""
ADAPTERS = {"model": {"lora": {"rank": 4, "alpha": 8.0}}}


def run(folder: Path, work: Path, program: str, engine: str, **sections: object) -> Path:
    """Train a stage on the inputs of its name in ``folder``, in two micro-batches, with checkpointing."""
    stage = {**STAGE, "steps": 2, "micro_batch_size": 2, "gradient_checkpointing": True}
    sections = {"runtime": ENGINES[engine], PROGRAMS[program]: stage, **sections}
    job = make_job(folder / program, work, program, **sections)
    if (folder / program / "states").exists():
        job = job.model_copy(update={"inputs": {**job.inputs, "states": folder / program / "states"}})
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    run_supervised(job, EventWriter(job.scratch / f"events-{current_process().rank}.jsonl"))
    return job.output


def main() -> None:
    inputs, folder, rank, world_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    deepspeed_engine._zero_config = gathering_all(deepspeed_engine._zero_config)
    with as_process(ProcessContext.on_one_host(rank, world_size)), torch_process_group(folder / "rendezvous"):
        for program, engine in CASES:
            run(inputs, folder / f"{program}-{engine}", program, engine)
        for program, engine in ADAPTED:
            run(inputs, folder / f"{program}-{engine}-adapters", program, engine, **ADAPTERS)


if __name__ == "__main__":
    main()

"""One process that runs GRPO with every engine, one after the other (run by test_grpo_engines.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mirage_core.distributed.collectives import torch_process_group
from mirage_core.distributed.context import ProcessContext, as_process, current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.training.engine import deepspeed as deepspeed_engine
from mirage_core.training.grpo import train as grpo
from tests.training.small_world import even_length, make_job

GRPO: dict[str, Any] = {"steps": 2, "micro_batch_size": 5, "kl_weight": 0.05}
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "adapters": {
        "model": {"lora": {"rank": 4, "alpha": 8.0}},
        "grpo": {"gradient_checkpointing": True, "zero_variance_groups": "redraw", "accuracy_filter": [0.0, 0.5]},
    },
    "replay": {"grpo": {"latents": "replay", "updates_per_rollout": 2, "zero_variance_groups": "drop"}},
    "sampled": {"grpo": {"latents": "replay", "latent_sigma": 0.1, "latent_sigma_learned": True}},
    "judged": {"grpo": {"latents": "replay", "latent_term": "released", "updates_per_rollout": 2}},
}
"""Sections of the settings."""
CASES = ("plain:whole", "plain:adapters", "plain:replay", "1:whole", "2:whole", "3:whole", "3:adapters", "3:replay",
         "plain:sampled", "3:sampled", "plain:judged", "3:judged")  # fmt: skip
"""The plain engine, or a ZeRO stage; and what is trained."""


def run_case(name: str, inputs: Path, folder: Path) -> None:
    engine, _, kind = name.partition(":")
    runtime = {"engine": "plain"} if engine == "plain" else {"engine": "deepspeed", "zero_stage": int(engine)}
    sections = {**KINDS[kind], "grpo": {**GRPO, **KINDS[kind].get("grpo", {})}, "runtime": runtime}
    job = make_job(inputs, folder / name, "grpo", **sections)
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    grpo.run_grpo(job, EventWriter(job.scratch / f"events-{current_process().rank}.jsonl"), scorer=even_length)


def shard_everything() -> None:
    """DeepSpeed leaves small weights whole, which all of these are: then nothing would be shown about sharding."""
    configured = deepspeed_engine._config

    def config(*given: Any, **named: Any) -> dict[str, Any]:
        made = configured(*given, **named)
        made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    deepspeed_engine._config = config


def main() -> None:
    inputs, folder, rank, world_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder / "extensions")
    shard_everything()
    with as_process(ProcessContext.on_one_host(rank, world_size)), torch_process_group(folder / "rendezvous"):
        for name in sys.argv[5:]:
            run_case(name, inputs, folder)


if __name__ == "__main__":
    main()

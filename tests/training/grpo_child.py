"""One process that runs GRPO with every engine, one after the other (run by test_grpo_engines.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mirage_core.distributed.collectives import joined
from mirage_core.distributed.events import EventWriter
from mirage_core.training.engine import deepspeed as deepspeed_engine
from mirage_core.training.grpo import objective as grpo
from mirage_core.training.grpo import rollouts
from tests.training.small_world import make_job

GRPO: dict[str, Any] = {"steps": 3, "micro_batch_size": 5, "kl_weight": 0.05}
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "adapters": {
        "model": {"lora": {"rank": 4, "alpha": 8.0}},
        "grpo": {"gradient_checkpointing": True, "silent_groups": "redraw", "group_accuracy": [0.0, 0.5]},
    },
    "replay": {"grpo": {"latents": "replay", "updates_per_rollout": 2, "silent_groups": "drop"}},
}
"""Sections of the settings."""
CASES = ("plain:whole", "plain:adapters", "plain:replay", "1:whole", "2:whole", "3:whole", "3:adapters", "3:replay")
"""The plain engine, or a ZeRO stage; and what is trained."""


def run_case(name: str, inputs: Path, folder: Path, rank: int, world_size: int) -> None:
    engine, _, kind = name.partition(":")
    runtime = {"engine": "plain"} if engine == "plain" else {"engine": "deepspeed", "zero_stage": int(engine)}
    sections = {**KINDS[kind], "grpo": {**GRPO, **KINDS[kind].get("grpo", {})}, "runtime": runtime}
    job = make_job(inputs, folder / name, "grpo", **sections)
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    grpo.run_grpo(job, rank, world_size, EventWriter(job.scratch / f"events-{rank}.jsonl"))


def is_even(problem: Any, output: str, rule: str) -> bool:
    """A model this young is never right; here answers of an even length are."""
    return len(output) % 2 == 0


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
    rollouts.is_correct = is_even
    shard_everything()
    with joined(rank, world_size, folder / "rendezvous"):
        for name in sys.argv[5:]:
            run_case(name, inputs, folder, rank, world_size)


if __name__ == "__main__":
    main()

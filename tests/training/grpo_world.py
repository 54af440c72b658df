"""GRPO on the small world: runs, objectives, and the answers that they learn from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirage_core.benchmarks.judge import Scorer
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.store.records import load_problems
from mirage_core.training.grpo.objective import GRPOObjective
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.objective import MicroBatch
from mirage_core.training.sft.train import load_trainable, run_supervised
from tests.training.small_world import even_length, make_inputs, make_job


def make_latent_inputs(folder: Path, work: Path) -> None:
    """The small world, its model trained for a few steps to answer with latents."""
    make_inputs(folder)
    job = make_job(folder, work, "relaxation", relaxation={"steps": 40})
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    shutil.rmtree(folder / "model")
    shutil.copytree(job.output, folder / "model")


def run_here(job: Job, scorer: Scorer = even_length) -> Path:
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_grpo(job, EventWriter(job.scratch / "events.jsonl"), scorer)
    return job.output


def objective(
    inputs: Path,
    work: Path,
    max_rows: int | None = None,
    scorer: Scorer = even_length,
    sections: dict[str, Any] | None = None,
    **grpo: Any,
) -> tuple[GRPOObjective, Any]:
    job = make_job(inputs, work, "grpo", grpo=grpo, **(sections or {}))
    model = load_trainable(job)
    problems = load_problems(inputs / "problems", split="train")
    kept = work / "kept"
    policy = GRPOObjective(
        job.settings, model, problems, job.seed, max_rows=max_rows, cache_folder=kept, pushed=work / "pushed",
        scorer=scorer,
    )  # fmt: skip
    return policy, model.backbone


def answers(batches: Sequence[MicroBatch]) -> set[tuple[int, ...]]:
    """The answers that are learned from, each with the last token of its prompt."""
    found = set()
    for batch in batches:
        rows = batch.data.batch.layout.answers
        for row in range(batch.data.batch.learned):
            found.add(tuple(rows.input_ids[row][rows.attention_mask[row]].tolist()))
    return found

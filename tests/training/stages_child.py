"""One process that takes a few steps of both Mirage stages with every engine, from each other's checkpoints too.

Run by test_stages_on_engines.py: real examples on a tiny Qwen2.5-VL, every second one with two spans, in two
micro-batches, with gradient checkpointing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mirage_core.distributed.collectives import torch_process_group
from mirage_core.distributed.context import ProcessContext, as_process, current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import ProgramName
from mirage_core.latent.examples import EncodedExample
from mirage_core.store.tables import read_table
from mirage_core.training.engine import deepspeed as deepspeed_engine
from mirage_core.training.sft import examples
from mirage_core.training.sft.train import run_supervised
from tests.training.small_world import make_job

STEPS, MIDDLE = 2, 1
ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"engine": "plain"},
    **{f"zero-{stage}": {"engine": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "zero-2-offload": {"engine": "deepspeed", "zero_stage": 2, "offload_optimizer": True},
    "zero-3-offload": {
        "engine": "deepspeed",
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_parameters": True,
    },
    **{f"zero-{stage}-fused": {"engine": "deepspeed", "zero_stage": stage, "fused": True} for stage in (1, 2, 3)},
}
STAGE = {"steps": STEPS, "batch_size": 5, "micro_batch_size": 2, "gradient_checkpointing": True}
HARD = {
    "latent": {"num_latents": 2, "bottleneck": "latent_only"},
    "relaxation": {
        **STAGE,
        "bottleneck_ramp": 0.6,
        "grounding_weight": 0.5,
        "latent_noise": 0.3,
        "latent_dropout": 0.2,
    },
}
"""Stage 2 with a bottleneck that comes on, and all that makes it harder."""
FILM = {**STAGE, "learning_rate": 2.0e-3, "warmup_steps": 2, "stepwise": {"where": "pointer", "what": "kind"}}
"""Stepwise grounding, its heads beside the model; with one span an example."""
VISUAL = {"where": "pointer", "what": "codebook", "codebook_size": 4}
FED: dict[str, dict[str, Any]] = {
    "image-norm": {"latent": {"num_latents": 2, "feed_norm": "image"}, "film": FILM},
    "query": {"latent": {"num_latents": 2, "input": "query"}, "film": FILM},
    "code": {
        "latent": {"num_latents": 2, "input": "code"},
        "film": {**FILM, "stepwise": VISUAL, "validation": {"every": STEPS, "examples": 2, "problems": 2}},
        "evaluation": {"max_new_tokens": 3},
    },
}
"""The film with what is fed beside hidden states as they are; codes also answer, by a head that may be sharded."""
LVR = {"lvr": {**STAGE, "learning_rate": 2.0e-3, "warmup_steps": 2, "head": "glu", "stop": "vector"}}
"""Latents read by a head, and a stop vector, both beside the model."""
TOKENS = {"visual_tokens": {**STAGE, "codebook_size": 8}}
"""Explicit visual tokens, whose examples hold codes: in the folder CODED of the inputs, with the same model."""
CODED = "visual-codes"
OTHERS: dict[str, dict[str, Any]] = {"lvr": LVR, "visual-tokens": TOKENS}
COCONUT = {
    "coconut": {
        **STAGE,
        "first_share": 0.0,
        "last_share": 0.5,
        "stages": 1,
        "uniform_prob": 0.4,
        "step_decoder": {"width": 32},
    },
    "captions": {"of": "film"},
}
"""A stage, then the last one with a new optimizer; some rows are all in words, and a decoder is trained beside."""
CODI = {"codi": {**STAGE, "projection": 24, "step_decoder": {"width": 32}}, "captions": {"of": "film"}}
"""Both tasks, latents read by a projection, and a decoder of them."""
CAPTIONED = {"coconut": COCONUT, "codi": CODI}
"""Cases that read captions, of films."""
ONE_SPAN = ("film", "pooler", *OTHERS, *CAPTIONED, *FED)
"""Cases whose examples have one span: labels after the last span alone would tell nothing of two."""
AFTER = {"zero-3": "zero-1", "zero-1": "zero-3-offload", "plain": "zero-2-offload", "zero-2-offload": "plain"}
"""From whose checkpoint an engine goes on, in the other number of processes."""


def cases(world_size: int) -> list[tuple[str, str]]:
    """Stage 2 with every engine; stage 1, which makes one pass, with those that differ for it; the hard stage 2; a
    pooler, and a model that is held to that of its own engine; other methods; and all that is fed as latents."""
    # One process shards nothing: there only the engines from whose checkpoints two processes go on.
    relaxation = [*{"plain", *AFTER.values()}] if world_size == 1 else list(ENGINES)
    grounding = ["plain"] if world_size == 1 else [engine for engine in ENGINES if engine.count("-") < 2]
    hard = "plain" if world_size == 1 else "zero-3"
    film = ["plain"] if world_size == 1 else ["zero-2", "zero-3"]
    sharded = ["plain"] if world_size == 1 else ["zero-3"]
    stages = ["plain"] if world_size == 1 else ["zero-2", "zero-3"]
    return [
        *(("relaxation", engine) for engine in sorted(relaxation)),
        *(("grounding", engine) for engine in grounding),
        ("hard", hard),
        *(("film", engine) for engine in film),
        *((case, engine) for case in ("pooler", "pooled", *FED) for engine in sharded),
        *((case, engine) for case in (*OTHERS, *CAPTIONED) for engine in stages),
    ]


def with_second_span(example: EncodedExample) -> EncodedExample:
    """The same with its span said again a little later."""
    inside = _span(example)
    later = inside.stop + 2

    def repeated(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values[:later], values[inside], values[later:]])

    return replace(
        example,
        ids=repeated(example.ids),
        labels=repeated(example.labels),
        auxiliary_pixel_values=torch.cat([example.auxiliary_pixel_values] * 2),
        auxiliary_grid_thw=torch.cat([example.auxiliary_grid_thw] * 2),
    )


def _span(example: EncodedExample) -> slice:
    """Where latent_start to latent_end stand: from the token before those of the answer that have no label."""
    answer = int((example.labels >= 0).nonzero()[0])
    silent = [at for at in range(answer, len(example.ids)) if int(example.labels[at]) < 0]
    first = silent[0]
    last = first
    while last + 1 < len(example.ids) and int(example.labels[last + 1]) < 0:
        last += 1
    return slice(first - 1, last + 1)


def patched(
    example_encoder: Callable[..., Callable[[int], EncodedExample]],
) -> Callable[..., Callable[[int], EncodedExample]]:
    def encoding_twice(*arguments: Any, **options: Any) -> Callable[[int], EncodedExample]:
        encode = example_encoder(*arguments, **options)
        return lambda index: with_second_span(encode(index)) if index % 2 else encode(index)

    return encoding_twice


def gathering_all(config: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Let ZeRO-3 gather every weight in every pass: by default it keeps small ones, all of a tiny model."""
    return lambda *given: {**config(*given), "stage3_param_persistence_threshold": 0}


def run(inputs: Path, work: Path, case: str, engine: str, after: Path | None) -> None:
    runtime = {**ENGINES[engine], "processes": current_process().world_size, "checkpoint_every": MIDDLE}
    program: ProgramName = "relaxation" if case == "hard" else "film" if case in FED else case
    special: dict[str, dict[str, Any]] = {"hard": HARD, "film": {"film": FILM}, **OTHERS, **CAPTIONED, **FED}
    sections = special.get(case, {program: STAGE})
    inputs = inputs / CODED if case == "visual-tokens" else inputs
    job = make_job(inputs, work, program, resume_from=after, runtime=runtime, **sections)
    if case in CAPTIONED:
        job = job.model_copy(update={"inputs": {**job.inputs, "examples": inputs / "captions"}})
    if case == "pooled":
        before = work.parents[1] / "pooler" / engine / "output"
        job = job.model_copy(update={"inputs": {**job.inputs, "model": before}})
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    run_supervised(job, EventWriter(work / f"events-{current_process().rank}.jsonl"))


def figures(work: Path) -> dict[str, list[float]]:
    rows = read_table(work / "output" / "curves.parquet")
    names = {row["name"] for row in rows} & {
        "loss", "gradient_norm", "text", "visual", "where", "what", "where_accuracy", "stop", "explain",
        "teacher", "distillation",
    }  # fmt: skip
    return {name: [row["value"] for row in rows if row["name"] == name] for name in sorted(names)}


def main() -> None:
    inputs, folder, rank, world_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    plain_encoder, twice = examples.example_encoder, patched(examples.example_encoder)
    deepspeed_engine._zero_config = gathering_all(deepspeed_engine._zero_config)
    results: dict[str, Any] = {}
    with as_process(ProcessContext.on_one_host(rank, world_size)), torch_process_group(folder / "rendezvous"):
        for case, engine in cases(world_size):
            work = folder / case / engine
            examples.example_encoder = plain_encoder if case in ONE_SPAN else twice
            run(inputs, work, case, engine, None)
            results[f"{case} {engine}"] = figures(work)
        examples.example_encoder = twice
        for engine, other in AFTER.items() if len(sys.argv) > 5 else ():
            work = folder / f"{engine}-after-{other}"
            middle = Path(sys.argv[5]) / "relaxation" / other / "scratch" / "checkpoints" / f"step-{MIDDLE:08d}"
            run(inputs, work, "relaxation", engine, middle)
            results[f"{engine} after {other}"] = figures(work)
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()

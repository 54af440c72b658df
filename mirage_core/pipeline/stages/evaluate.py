"""Stage ``evaluation``: one method's answers to the test problems, judged; one artifact a method.

``blind-evaluation`` is the same without the picture, for a recipe with ``evaluation.blind``: what a method's accuracy
is to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirage_core.config import InferenceSettings, ProblemSettings, Settings
from mirage_core.config.section import Section
from mirage_core.methods import get_method
from mirage_core.pipeline.stage import Sharding, ShardSpec, Stage, StageContext
from mirage_core.store.records import load_problems
from mirage_core.types import Problem

READING = 3
"""Raised when the readers of letters and words read an answer otherwise, so that it is judged anew; mazes keep theirs:
what is in their boxes is read as ever."""


def evaluation_identity(settings: Settings) -> dict[str, Any]:
    """Return how answers are sampled and judged; the seed only where the temperature is above 0."""
    return {
        **({"reading": READING} if _read_as_text(settings.problems) else {}),
        "evaluation": settings.evaluation.model_dump(mode="json", exclude={"methods", "blind"}),
        **InferenceSettings.of(settings).as_metadata(),
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention"}),
        "seed": settings.seed if settings.evaluation.temperature > 0 else None,
    }


def _read_as_text(problems: ProblemSettings) -> bool:
    return any(isinstance(value, Section) and not name.startswith("vsp_") for name, value in problems)


def run_evaluation(context: StageContext) -> dict[str, Any]:
    """Answer and judge every test problem; the summary holds the rows of the score table."""
    return _evaluate(context, _problems(context))


def run_blind(context: StageContext) -> dict[str, Any]:
    """Answer and judge every test problem without its picture."""
    return _evaluate(context, _problems(context), blind=True)


def evaluate_shard(context: StageContext, spec: ShardSpec) -> dict[str, Any]:
    """Answer and judge the problems of a shard of the batches."""
    from mirage_core.evaluation.evaluate import problems_of_batches

    problems, batch_size = _problems(context), context.settings.evaluation.batch_size
    return _evaluate(context, problems_of_batches(problems, batch_size, spec.select))


def merge_shards(context: StageContext, folders: Sequence[Path]) -> dict[str, Any]:
    """Join the answers of all shards, in the order of the problems, and score them as a whole."""
    from mirage_core.evaluation.evaluate import merge_folders

    method = context.params["method"]
    latents = get_method(method).latents
    metrics = merge_folders(folders, _problems(context), method=method, latents=latents, output=context.output)
    return _summary(method, metrics)


def num_batches(context: StageContext) -> int:
    """Return the number of batches: none is ever split, since its rows are answered together."""
    return -(-len(_problems(context)) // context.settings.evaluation.batch_size)


def _problems(context: StageContext) -> list[Problem]:
    return load_problems(context.input_paths["problems"], split="test")


def _evaluate(context: StageContext, problems: Sequence[Problem], *, blind: bool = False) -> dict[str, Any]:
    from mirage_core.evaluation.evaluate import evaluate

    method = context.params["method"]
    metrics = evaluate(
        context.input_paths["model"],
        problems,
        settings=context.settings,
        method=method,
        latents=get_method(method).latents,
        output=context.output,
        scratch=context.scratch,
        progress=context.progress,
        blind=blind,
    )
    return _summary(method, metrics)


def _summary(method: str, metrics: dict[str, Any]) -> dict[str, Any]:
    memory = metrics.get("memory", {})  # only after running out of memory with whole batches
    return {"method": method, "latents": get_method(method).latents, "scores": metrics["scores"], **memory}


EVALUATION = Stage(
    name="evaluation",
    version=1,
    kind="evaluation",
    inputs=("model", "problems"),
    identity=evaluation_identity,
    run=run_evaluation,
    params=("method",),
    keeps_scratch=True,
    gpu=True,
    sharding=Sharding(max_shards=num_batches, run=evaluate_shard, merge=merge_shards),
)

BLIND_EVALUATION = Stage(
    name="blind-evaluation",
    version=1,
    kind="evaluation",
    inputs=("model", "problems"),
    identity=evaluation_identity,
    run=run_blind,
    params=("method",),
    keeps_scratch=True,
    gpu=True,
)

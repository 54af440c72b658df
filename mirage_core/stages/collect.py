"""Stage ``collect``: one clean run of a model over some test problems, and the states it leaves for all measures."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import use
from mirage_core.store.records import load_problems


def collect_identity(settings: Settings) -> dict[str, Any]:
    """Which problems are answered, and how; answers are greedy, so that nothing is left to chance."""
    return {
        "analysis": settings.analysis.model_dump(mode="json", include={"instances", "batch_size", "seed"}),
        "evaluation": settings.evaluation.model_dump(mode="json", include={"max_new_tokens", "planning_rule"}),
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention"}),
        **use(settings),
    }


def run_collect(context: StageContext) -> dict[str, Any]:
    """Answer the instances; the summary says how many, how many had latents, and how many were right."""
    from mirage_core.analysis.collected import save_collected
    from mirage_core.analysis.collecting import chosen_instances, collect
    from mirage_core.analysis.opening import open_asker

    settings = context.settings
    problems = load_problems(context.input_paths["problems"], split="test")
    instances = chosen_instances(problems, settings.analysis.instances, settings.analysis.seed)
    collected = collect(open_asker(context.input_paths["model"], settings), instances, context.progress)
    save_collected(context.output, collected)
    return {
        "instances": len(instances),
        "with_latents": int(collected.has_span.sum()),
        "correct": sum(score.correct for _, score in collected.scored),
        "num_latents": collected.num_latents,
    }


COLLECT = Stage(
    name="collect",
    version=1,
    kind="collected",
    inputs=("model", "problems"),
    identity=collect_identity,
    run=run_collect,
    gpu=True,
)

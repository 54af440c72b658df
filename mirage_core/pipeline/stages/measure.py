"""Stage ``collect``: one clean run of a model over some test problems, and the states it leaves for all measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.train import use
from mirage_core.store.records import load_problems

if TYPE_CHECKING:
    from mirage_core.analysis.results import Record


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
    from mirage_core.analysis.collect import chosen_instances, collect, save_collected
    from mirage_core.analysis.intervened_generation import open_asker

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


def measure_identity(settings: Settings) -> dict[str, Any]:
    """How a clean run was collected, and how finely it is measured."""
    chosen = settings.analysis.model_dump(mode="json", exclude={"measures"})
    return {**collect_identity(settings), "analysis": chosen}


def run_measure(context: StageContext) -> dict[str, Any]:
    """Take the measure of the context's parameters; the summary says on how many instances."""
    from mirage_core.analysis.results import result_kind, write_result

    name = context.params["measure"]
    result_kind(name)  # an unknown measure is refused before anything is read
    result = _measured(name, context)
    write_result(context.output, result)
    head = result.model_dump(mode="json", include={"header"})["header"]
    return {"measure": name, "instances": head["instances"], "used": head["used"]}


def _measured(name: str, context: StageContext) -> Record:
    from mirage_core.analysis.collect import load_collected
    from mirage_core.analysis.intervened_generation import open_asker
    from mirage_core.analysis.measures.registry import FROM_STATES, ON_THE_MODEL

    collected = load_collected(context.input_paths["collected"])
    instances = collected.instances(load_problems(context.input_paths["problems"], split="test"))
    if name in FROM_STATES:
        return FROM_STATES[name](collected, instances, context.settings.analysis)
    asker = open_asker(context.input_paths["model"], context.settings)
    return ON_THE_MODEL[name](asker, collected, instances, context.settings.analysis, context.progress)


MEASURE = Stage(
    name="measure",
    version=1,
    kind="measure",
    inputs=("model", "problems", "collected"),
    identity=measure_identity,
    run=run_measure,
    params=("measure",),
    gpu=True,
)

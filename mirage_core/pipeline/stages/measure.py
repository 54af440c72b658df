"""Stages ``collect`` (a clean run of a model, with its states) and ``measure`` (one measure of such a run)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirage_core.config import InferenceSettings, Settings
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.store.records import load_problems

if TYPE_CHECKING:
    from mirage_core.analysis.results import Record


def collect_identity(settings: Settings) -> dict[str, Any]:
    """Return which problems are answered, and how; decoding is greedy, so that there is no seed.

    Runs over spans of their own lengths that an earlier version cut to ``num_latents`` are made anew.
    """
    own_lengths = {"spans": "of one length"} if settings.latent.length == "frames" else {}
    return {
        "analysis": settings.analysis.model_dump(
            mode="json", include={"instances", "batch_size", "seed", "span_latents"}
        ),
        "evaluation": settings.evaluation.model_dump(mode="json", include={"max_new_tokens", "planning_rule"}),
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention"}),
        **InferenceSettings.of(settings).as_metadata(),
        **own_lengths,
    }


def run_collect(context: StageContext) -> dict[str, Any]:
    """Answer the instances; the summary counts them, those with latents, and the correct ones."""
    from mirage_core.analysis.collect import collect, save_clean_run, select_instances
    from mirage_core.analysis.intervened_generation import load_runner

    settings = context.settings
    problems = load_problems(context.input_paths["problems"], split="test")
    instances = select_instances(problems, settings.analysis.instances, settings.analysis.seed)
    collected = collect(load_runner(context.input_paths["model"], settings), instances, context.progress)
    save_clean_run(context.output, collected)
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
    """Return how a clean run was collected, and the settings of its measures."""
    return {**collect_identity(settings), "analysis": settings.analysis.model_dump(mode="json", exclude={"measures"})}


def run_measure(context: StageContext) -> dict[str, Any]:
    """Run the measure that the parameters name; the summary counts its instances."""
    from mirage_core.analysis.result_files import result_kind, write_result

    name = context.params["measure"]
    result_kind(name)  # an unknown measure is refused before anything is read
    result = _result(name, context)
    write_result(context.output, result)
    header = result.model_dump(mode="json", include={"header"})["header"]
    return {"measure": name, "instances": header["instances"], "used": header["used"]}


def _result(name: str, context: StageContext) -> Record:
    from mirage_core.analysis.collect import load_clean_run
    from mirage_core.analysis.intervened_generation import load_runner
    from mirage_core.analysis.measures.registry import MODEL_MEASURES, STATE_MEASURES

    collected = load_clean_run(context.input_paths["collected"])
    instances = collected.instances(load_problems(context.input_paths["problems"], split="test"))
    if name in STATE_MEASURES:
        return STATE_MEASURES[name](collected, instances, context.settings.analysis)
    runner = load_runner(context.input_paths["model"], context.settings).of_length(collected.num_latents)
    return MODEL_MEASURES[name](runner, collected, instances, context.settings.analysis, context.progress)


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

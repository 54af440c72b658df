"""Stage ``measure``: one measure of the causal analysis; one artifact a model and measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.stages.collect import collect_identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.store.records import load_problems

if TYPE_CHECKING:
    from mirage_core.analysis.result import Record


def measure_identity(settings: Settings) -> dict[str, Any]:
    """How a clean run was collected, and how finely it is measured."""
    chosen = settings.analysis.model_dump(mode="json", exclude={"measures"})
    return {**collect_identity(settings), "analysis": chosen}


def run_measure(context: StageContext) -> dict[str, Any]:
    """Take the measure of the context's parameters; the summary says on how many instances."""
    from mirage_core.analysis.result import result_kind, write_result

    name = context.params["measure"]
    result_kind(name)  # an unknown measure is refused before anything is read
    result = _measured(name, context)
    write_result(context.output, result)
    head = result.model_dump(mode="json", include={"header"})["header"]
    return {"measure": name, "instances": head["instances"], "used": head["used"]}


def _measured(name: str, context: StageContext) -> Record:
    from mirage_core.analysis.collected import load_collected
    from mirage_core.analysis.measures import FROM_STATES, ON_THE_MODEL
    from mirage_core.analysis.opening import open_asker

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

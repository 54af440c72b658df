"""The flow ``mirage-stage``: one stage of the road on its own. A thin deployment a stage: mirage-stage/<stage>."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.heartbeat import said_to_live
from flows.steps import lost_said, run_task
from mirage_core.config import Method, Settings, StageName
from mirage_core.distributed.launch import ending_jobs
from mirage_core.errors import InputError
from mirage_core.pipeline.pipeline import road
from mirage_core.pipeline.recovery import healed
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import label
from mirage_core.recipes import load
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url
from tasks.pictures import settings_markdown


@dataclass(frozen=True, slots=True)
class Planned:
    """A step of the road that has not been taken: its stage, its parameters and the steps it needs."""

    name: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Planned]


@flow(name="mirage-stage", flow_run_name="{stage}-{recipe}", persist_result=False, result_serializer="json")
def single_stage(
    stage: StageName,
    recipe: str = "tiny",
    overrides: tuple[str, ...] = (),
    method: Method | None = None,
    problems: str = "",
    auxiliary_images: str = "",
    examples: str = "",
    model: str = "",
) -> Artifact:
    """Run one stage of a recipe, on chosen artifacts or on the recipe's own.

    An input that is left empty comes from the stages before this one, which are Cached where they were done.
    A chosen one is an artifact's path in the store (`model/c79ed3f314f4bfba129a`) or the start of its digest, as
    `mirage store ls` and the run's page show them.

    Args:
        stage: The stage to run. Each deployment has its own chosen already.
        recipe: The settings to start from: micro (a minute), tiny, tiny-causal, small, qwen2.5-vl-3b, qwen2.5-vl-7b,
            or the path of a YAML file that the worker can read.
        overrides: Settings that differ from the recipe's, one an item, such as `seed=7` or
            `relaxation.steps=200`.
        method: What an evaluation judges: the base model (zero-shot), the answer alone (direct-sft), the
            imagination in words (capimagine), the auxiliary picture given as an input (auxiliary-input), the model
            after grounding (stage-1), relaxation (stage-2), relaxation alone (without-stage-1) or reinforcement of any
            of them (grpo after stage-2, direct-sft-grpo, ...). No other stage takes it.
        problems: Problems for auxiliary-images, examples, auxiliary-problems, evaluation, grpo, direct-sft-grpo,
            capimagine-grpo or without-stage-1-grpo: a path or the start of a digest. Empty: the recipe's own.
        auxiliary_images: Pictures for examples or auxiliary-problems: a path or the start of a digest. Empty: the
            recipe's own.
        examples: Training examples for direct-sft, captions, capimagine (the captioned ones), auxiliary-examples,
            auxiliary-input (those), grounding, without-stage-1 or relaxation: a path or the start of a digest. Empty:
            the recipe's own.
        model: The model that direct-sft, auxiliary-input, capimagine, grounding, without-stage-1, relaxation, grpo,
            direct-sft-grpo, capimagine-grpo or without-stage-1-grpo trains further, or that evaluation judges: a path
            or the start of a digest. Empty: the recipe's own.
    """
    settings = load(recipe, overrides)
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")
    named = {"problems": problems, "auxiliary_images": auxiliary_images, "examples": examples, "model": model}
    chosen = chosen_inputs(stage, {name: reference for name, reference in named.items() if reference})
    step = planned_step(settings, stage, method)
    with said_to_live(), ending_jobs():
        return healed(lambda: take(step, settings, chosen), lost_said())


def planned_step(settings: Settings, stage: str, method: str | None) -> Planned:
    """The step of the road that runs this stage; InputError when the recipe has no such step."""
    made: dict[str, Planned] = road(settings, lambda name, params, /, **inputs: Planned(name, params, inputs))
    wanted = label(stage, {"method": method} if method else {})
    if wanted not in made:
        raise InputError(f"the recipe {settings.recipe} has no step {wanted!r}, expected one of {', '.join(made)}")
    return made[wanted]


def chosen_inputs(stage: str, references: Mapping[str, str]) -> dict[str, Artifact]:
    """The artifacts chosen by path or digest; InputError when the stage does not take such an input."""
    takes = get_stage(stage).inputs or ()
    for name in references:
        if name not in takes:
            raise InputError(f"stage {stage} takes no {name}, it takes {', '.join(takes) or 'what the recipe makes'}")
    store = open_store()
    return {name: store.get(reference) for name, reference in references.items()}


def take(step: Planned, settings: Settings, chosen: Mapping[str, Artifact]) -> Artifact:
    """Take a step of the road, and before it the steps whose artifacts were not chosen, each once."""
    taken: dict[str, Artifact] = {}

    def walk(planned: Planned, given: Mapping[str, Artifact]) -> Artifact:
        named = label(planned.name, planned.params)
        if named not in taken:
            inputs = {name: given.get(name) or walk(before, {}) for name, before in planned.inputs.items()}
            taken[named], cached = run_task(planned.name, planned.params, settings, store_url(), inputs)
            get_run_logger().info("%s: %s%s", named, taken[named].path, " (cached)" if cached else "")
        return taken[named]

    return walk(step, chosen)

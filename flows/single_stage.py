"""The flow ``mirage-stage``: one stage of the pipeline on its own. Deployments: mirage-stage/<stage>."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.heartbeat import undo_false_crash
from flows.steps import lost_artifact_logger, prefect_step
from mirage_core.config import Method, Settings, StageName
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.errors import InputError
from mirage_core.pipeline.pipeline import run_pipeline
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import label
from mirage_core.recipes import load
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url
from tasks.ui_artifacts import settings_markdown


@dataclass(frozen=True, slots=True)
class StageNode:
    """A stage of the pipeline that has not run: its parameters, and the stages that make its inputs."""

    name: str
    params: Mapping[str, Any]
    inputs: Mapping[str, StageNode]


@flow(name="mirage-stage", flow_run_name="{stage}-{recipe}", persist_result=False)
def single_stage(
    stage: StageName,
    recipe: str = "tiny",
    overrides: tuple[str, ...] = (),
    method: Method | None = None,
    problems: str = "",
    auxiliary_images: str = "",
    examples: str = "",
    model: str = "",
    states: str = "",
) -> Artifact:
    """Run one stage of a recipe, on chosen artifacts or on the recipe's own.

    An input that is left empty comes from the stages before this one, which are Cached where they have run.
    A chosen one is an artifact's path in the store (`model/c79ed3f314f4bfba129a`) or the start of its digest, as
    `mirage store ls` and the run's page show them.

    Args:
        stage: The stage to run. Each deployment has one chosen already.
        recipe: The settings to start from: micro (a minute), tiny, tiny-paper, small, qwen2.5-vl-3b, qwen2.5-vl-7b,
            qwen2.5-vl-7b-film, or the path of a YAML file that the worker can read.
        overrides: Settings that differ from the recipe's, one per item, such as `seed=7` or
            `relaxation.steps=200`.
        method: What an evaluation judges: the base model (zero-shot), the answer alone (direct-sft), the
            imagination in words (capimagine) or in codes (visual-tokens), the auxiliary image as an input
            (auxiliary-input), the model after grounding (stage-1), relaxation (stage-2), relaxation alone
            (without-stage-1), the film (film), targets learned from the answer (pooled), regions of the image (lvr),
            latents aligned with a teacher (monet) or in the place of words (coconut, codi), or reinforcement of any
            of them (grpo after stage-2, direct-sft-grpo, ...). No other stage takes it.
        problems: Problems for auxiliary-images, examples, auxiliary-problems, evaluation, grpo, direct-sft-grpo,
            capimagine-grpo, without-stage-1-grpo, film-grpo, pooled-grpo, lvr-grpo, visual-tokens-grpo, coconut-grpo,
            codi-grpo or monet-grpo: a path or the start of a digest. Empty: the recipe's own.
        auxiliary_images: Images for examples or auxiliary-problems: a path or the start of a digest. Empty: the
            recipe's own.
        examples: Training examples for direct-sft, captions, capimagine (the captioned ones), visual-codes,
            visual-tokens (those with codes), auxiliary-examples, auxiliary-input (those), grounding,
            without-stage-1, film, pooler, pooled, lvr, relaxation, coconut, codi, monet-warmup, monet-observations,
            monet-targets, monet-latents or monet (captioned ones): a path or the start of a digest. Empty: the
            recipe's own.
        model: The model that visual-codes encodes images by, that direct-sft, auxiliary-input, capimagine,
            visual-tokens, grounding, without-stage-1, film, pooler, pooled (what pooler made), lvr, coconut, codi,
            relaxation, grpo, direct-sft-grpo, capimagine-grpo, without-stage-1-grpo, film-grpo, pooled-grpo,
            lvr-grpo, visual-tokens-grpo, coconut-grpo, codi-grpo, monet-warmup, monet-targets, monet or monet-grpo
            trains further, that monet-observations or monet-latents takes states of, or that evaluation judges: a path
            or the start of a digest. Empty: the recipe's own.
        states: A teacher's states for monet-targets or monet: a path or the start of a digest. Empty: the recipe's own.
    """
    settings = load(recipe, overrides)
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")
    named = {"problems": problems, "auxiliary_images": auxiliary_images, "examples": examples, "model": model}
    named["states"] = states
    chosen = chosen_inputs(stage, {name: reference for name, reference in named.items() if reference})
    node = stage_node(settings, stage, method)
    with undo_false_crash(), cancel_jobs_on_interrupt():
        for attempt in reruns_on_lost_artifact(lost_artifact_logger()):
            with attempt:
                artifact = run_node(node, settings, chosen)
    return artifact


def stage_node(settings: Settings, stage: str, method: str | None) -> StageNode:
    """Return the node of this stage in the recipe's pipeline; InputError when the pipeline has none."""
    nodes: dict[str, StageNode] = run_pipeline(
        settings, lambda name, params, /, **inputs: StageNode(name, params, inputs)
    )
    wanted = label(stage, {"method": method} if method else {})
    if wanted not in nodes:
        raise InputError(f"the recipe {settings.recipe} has no step {wanted!r}, expected one of {', '.join(nodes)}")
    return nodes[wanted]


def chosen_inputs(stage: str, references: Mapping[str, str]) -> dict[str, Artifact]:
    """Return the artifacts chosen by path or digest; InputError when the stage takes no such input."""
    accepted = get_stage(stage).inputs or ()
    for name in references:
        if name not in accepted:
            raise InputError(
                f"stage {stage} takes no {name}, it takes {', '.join(accepted) or 'what the recipe makes'}"
            )
    store = open_store()
    return {name: store.get(reference) for name, reference in references.items()}


def run_node(node: StageNode, settings: Settings, chosen: Mapping[str, Artifact]) -> Artifact:
    """Run a stage, and before it the stages whose artifacts were not chosen, each once."""
    artifacts: dict[str, Artifact] = {}
    step = prefect_step(settings, store_url())

    def run(node: StageNode, chosen: Mapping[str, Artifact]) -> Artifact:
        key = label(node.name, node.params)
        if key not in artifacts:
            inputs = {name: chosen.get(name) or run(before, {}) for name, before in node.inputs.items()}
            artifacts[key] = step(node.name, node.params, **inputs)
        return artifacts[key]

    return run(node, chosen)

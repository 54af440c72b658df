"""A single stage started from the form of its deployment, on artifacts chosen there."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from mirage_core.methods import stage_inputs, state_stages
from mirage_core.pipeline.registry import STAGES
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.types import Artifact
from tests.browser.finished import ALSO_TRAINED, METHODS, OVERRIDES, SEED
from tests.browser.window import Window
from tests.servers.stack import LiveStack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

# What each stage is given, by the stage that made it in the finished run.
CHOICES = {
    **{name: value for name, value in stage_inputs().items() if value},
    "evaluation": {"model": "relaxation", "problems": "problems"},  # under the name of stage-1: nobody has done that
}
# Another seed than the finished run's, and another teacher where the seed says nothing to the stage: neither the result
# nor what the recipe itself would take is in the store. These methods no recipe judges of its own accord.
OTHER_SEED = "seed=104"
BY_DEFAULT = load("micro").evaluation.methods
ALSO = {
    "examples": ["teacher.variant=cot"],
    "captions": ["teacher.variant=cot", "evaluation.methods=[capimagine]"],
    "visual-codes": ["evaluation.methods=[visual-tokens]"],
    "pooler": ["evaluation.methods=[pooled]"],
    **{name: ["evaluation.methods=[monet]"] for name in ("monet-warmup", "monet-targets", *state_stages())},
    "auxiliary-problems": ["evaluation.methods=[auxiliary-input]"],
    "auxiliary-examples": ["evaluation.methods=[auxiliary-input]"],
    **{name: [f"evaluation.methods=[{name}]"] for name in METHODS if name in STAGES and name not in BY_DEFAULT},
}
# What depends on its inputs alone: it finds what the finished run has made of them, and made it of nothing else.
SETTLED = ("auxiliary-problems", "auxiliary-examples", *state_stages())


@pytest.fixture
def artifacts(live_stack: LiveStack, finished_run: str) -> dict[str, Artifact]:
    """The artifacts of the finished run, by the stage that made them."""
    store = Store.open(live_stack.store)
    manifests = [(artifact, store.manifest(artifact).about) for artifact in store.list()]
    return {about["stage"]: artifact for artifact, about in manifests if about["settings"]["seed"] == SEED}


def test_every_stage_that_takes_inputs_is_tried_here() -> None:
    assert {name: set(chosen) for name, chosen in CHOICES.items()} == {
        name: set(stage.inputs) for name, stage in STAGES.items() if stage.inputs
    }


@pytest.mark.parametrize("stage", CHOICES)
def test_a_stage_started_from_the_form_works_on_the_chosen_artifacts(
    stage: str, live_stack: LiveStack, artifacts: dict[str, Artifact], window: Window
) -> None:
    chosen = {name: artifacts[maker] for name, maker in CHOICES[stage].items()}
    open_form(window, live_stack, stage, OTHER_SEED, *ALSO_TRAINED, *ALSO.get(stage, []))
    for name, artifact in chosen.items():
        window.fill(name, artifact.path if name == "model" else artifact.digest[:16])
    if stage == "evaluation":
        window.choices("method").filter(has_text=re.compile(r"^\s*stage-1\s*$")).click()
    run = window.submit()

    state = live_stack.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    named = "evaluation/stage-1" if stage == "evaluation" else stage
    tasks = [(task["name"], task["state_name"]) for task in live_stack.task_runs(run, named)]
    if stage in SETTLED:
        assert tasks == [(named, "Cached")], "nothing ran, and nothing else was asked for"
        return
    assert tasks == [(named, "Completed")], "nothing but the stage itself ran"
    assert inputs_of(stage, live_stack.store) == {name: artifact.digest for name, artifact in chosen.items()}


@pytest.mark.parametrize("stage", ["problems", "base", "report"])
def test_a_stage_without_inputs_to_choose_is_started_from_its_form_too(
    stage: str, live_stack: LiveStack, finished_run: str, window: Window
) -> None:
    open_form(window, live_stack, stage, *OVERRIDES)
    run = window.submit()

    state = live_stack.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    tasks = {task["name"]: task["state_name"] for task in live_stack.task_runs(run, stage)}
    assert tasks[stage] == "Cached" and set(tasks.values()) == {"Cached"}, "the finished run made them"


def test_a_choice_that_the_store_does_not_have_is_told_on_the_runs_page(live_stack: LiveStack, window: Window) -> None:
    open_form(window, live_stack, "auxiliary-images", OTHER_SEED)
    window.fill("problems", "problems/0123456789abcdef0123")
    run = window.submit()

    assert live_stack.wait(run)["type"] == "FAILED"
    window.open_run(live_stack.ui, run)
    expect(window.tab("Logs").get_by_text("problems/0123456789abcdef0123").first).to_be_visible()


def test_the_form_explains_every_parameter(live_stack: LiveStack, window: Window) -> None:
    window.open_form(live_stack.ui, deployment(live_stack, "evaluation"))

    for parameter in ("stage", "recipe", "overrides", "method", "problems", "auxiliary_images", "examples", "model"):
        explained = window.field(parameter).get_by_role("article")
        expect(explained).to_be_visible()
        assert len(explained.inner_text()) > 30, parameter
    methods = window.choices("method").all_inner_texts()
    assert methods == list(METHODS)


def open_form(window: Window, stack: LiveStack, stage: str, *overrides: str) -> None:
    """The form of a stage's deployment with the micro recipe filled in."""
    window.open_form(stack.ui, deployment(stack, stage))
    window.fill("recipe", "micro")
    window.add("overrides", overrides)


def deployment(stack: LiveStack, stage: str) -> str:
    """The id of a stage's deployment."""
    return str(stack.get(f"deployments/name/mirage-stage/{stage}")["id"])


def inputs_of(stage: str, root: str) -> dict[str, str]:
    """The digests of what the stage was given when it worked with the other seed, from its artifact's manifest."""
    store = Store.open(root)
    manifests = [store.manifest(artifact).about for artifact in store.list(STAGES[stage].kind)]
    (about,) = [about for about in manifests if about["stage"] == stage and about["settings"]["seed"] == 104]
    return {name: value["digest"] for name, value in about["inputs"].items()}

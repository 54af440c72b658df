"""The flow ``mirage-serve``: a published model, served, asked, and let to serve. Deployment: mirage-serve/canary."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.commands.evaluate import hosted_model
from flows.commands.serve import serve_command
from flows.heartbeat import undo_false_crash
from flows.pointers import NIGHTLY, EvaluationTarget, pointer_target
from flows.steps import lost_artifact_logger, run_task
from mirage_core import benchmarks
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.errors import AnswersDiffer, DataError, SettingsError
from mirage_core.evaluation.agreement import Difference, differences, spread, stored_answers
from mirage_core.evaluation.endpoint import evaluate_endpoint
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.serving.process import server_process
from mirage_core.store import Store
from mirage_core.store.records import load_predictions, load_problems
from mirage_core.types import Artifact, Prediction, Problem, ProgressEvent
from tasks.paths import open_store, store_url
from tasks.ui_artifacts import canary_markdown

SERVING = "serving"
NAME = "canary"
"""The name under which the server serves the model."""
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What the model behind ``pointer`` answered when served: ``asked`` problems, and those that differ from stored."""

    pointer: str
    model: Artifact
    method: str
    evaluation: Artifact
    asked: int
    different: list[Difference]


@flow(name="mirage-serve", persist_result=False)
def mirage_serve(
    pointer: str = NIGHTLY,
    problems: Annotated[int, Field(gt=0)] = 50,
    allowed: Annotated[int, Field(ge=0)] = 0,
    serving: str = SERVING,
) -> dict[str, Any]:
    """Start the model that a pointer names as a server, ask problems of its evaluation, and let it serve if it agrees.

    A model that answers in another way than its stored evaluation fails the run, and the pointer stays.

    Args:
        pointer: The pointer that names the published model, as `mirage run --publish-as` sets it.
        problems: How many of its test problems are asked, evenly spread over them.
        allowed: So many of them may be answered in another way. In bfloat16 the order of sums may turn near ties.
        serving: The pointer that is moved to the model where it agrees.
    """
    store = open_store()
    target = pointer_target(store, pointer)
    check_greedy(target)
    with undo_false_crash(), cancel_jobs_on_interrupt():
        for attempt in reruns_on_lost_artifact(lost_artifact_logger()):
            with attempt:
                canary = asked_as_served(store, pointer, target, problems)
    create_markdown_artifact(
        canary_markdown(canary.model.path, canary.method, canary.asked, canary.different),
        key="serve-canary",
        description=f"{canary.method}, {canary.model.path}: {len(canary.different)} of {canary.asked} differ",
    )
    if len(canary.different) > allowed:
        raise AnswersDiffer(disagreement(canary, serving))
    store.point(serving, canary.model, about=store.pointer(pointer).about)
    get_run_logger().info("%s now names %s: %d answers as stored", serving, canary.model.path, canary.asked)
    return {
        "model": canary.model.path, "digest": canary.model.digest, "method": canary.method, "asked": canary.asked,
        "different": [each.problem_id for each in canary.different], "serving": serving,
    }  # fmt: skip


def check_greedy(target: EvaluationTarget) -> None:
    """SettingsError for a model whose evaluation samples: its stored answers are not what a server gives."""
    temperature = target.settings.evaluation.temperature
    if temperature > 0:
        raise SettingsError(
            f"the evaluation of {target.model.path} samples (evaluation.temperature {temperature}), expected greedy "
            "answers (0): sampled ones of a server depend on a request's seed, so they cannot be compared"
        )


def asked_as_served(store: Store, pointer: str, target: EvaluationTarget, count: int) -> Canary:
    """Serve the model, ask it ``count`` test problems, and compare with its evaluation, which is made if missing."""
    stored = target.problems or run_task("problems", {}, target.settings, store_url(), {})[0]
    inputs = {"model": target.model, "problems": stored}
    evaluation, _ = run_task("evaluation", {"method": target.method}, target.settings, store_url(), inputs)
    problems = spread(load_problems(store.fetch(stored), split="test"), count)
    benchmarks.use(target.settings.problems)  # a task of the recipe's own has its own prompts
    if not problems:
        raise DataError(f"{stored.path} holds no test problems to ask: publish a model of a run that has some")
    found = served_answers(target, problems)
    known = stored_answers(load_predictions(store.fetch(evaluation)))
    return Canary(
        pointer=pointer, model=target.model, method=target.method, evaluation=evaluation, asked=len(problems),
        different=differences(known, found),
    )  # fmt: skip


def served_answers(target: EvaluationTarget, problems: Sequence[Problem]) -> list[Prediction]:
    """Start the model as a process of its own on this machine, and ask it these problems; nothing is cached."""
    command = serve_command(
        target.model.path, "--store", store_url(), "--name", NAME, "--method", target.method,
        "--max-answer-tokens", str(target.settings.evaluation.max_new_tokens),
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "MIRAGE_API_KEY"}
    logger = get_run_logger()

    def log(event: ProgressEvent) -> None:
        if event.step is None:
            logger.info("%s", event.message)

    with (
        tempfile.TemporaryDirectory(prefix="mirage-canary-") as folder,
        server_process(command, Path(folder) / "log", environment) as server,
    ):
        logger.info("%s is served at %s", target.model.path, server.url)
        hosted, settings = hosted_model(server.url, NAME, None, None, own_evaluation(target))
        answers = Store.open(Path(folder) / "answers", cache=Path(folder) / "cache")
        result = evaluate_endpoint(hosted, problems, settings.runtime.teacher, answers, log)
    return [prediction for prediction, _ in result.scored]


def own_evaluation(target: EvaluationTarget) -> list[str]:
    """Return the overrides by which the model is asked as its stored evaluation was."""
    return [f"evaluation.max_new_tokens={target.settings.evaluation.max_new_tokens}", "evaluation.temperature=0"]


def disagreement(canary: Canary, serving: str) -> str:
    """Return the message of a run that fails: which problems, and what was answered."""
    first = "; ".join(
        f"{each.problem_id} ({each.what}): stored {each.stored[-80:]!r}, served {each.found[-80:]!r}"
        for each in canary.different[:_SHOWN]
    )
    return (
        f"{canary.model.path}, served, answers {len(canary.different)} of {canary.asked} problems in another way than "
        f"its evaluation {canary.evaluation.path}: {first}{'; ...' if len(canary.different) > _SHOWN else ''}. The "
        f"pointer {serving} stays where it was"
    )

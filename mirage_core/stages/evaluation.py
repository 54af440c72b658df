"""Stage ``evaluation``: one method's answers to the test problems, judged; one artifact a method."""

from __future__ import annotations

from typing import Any, Literal

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import use
from mirage_core.store.records import load_problems

LATENTS: dict[str, Literal["on", "off"]] = {
    "zero-shot": "off",
    "direct-sft": "off",
    "stage-1": "on",
    "stage-2": "on",
    "grpo": "on",
}
"""Whether a method's answers may hold latents: not where the model was never taught them."""


def evaluation_identity(settings: Settings) -> dict[str, Any]:
    """How answers are drawn and judged; the seed only where answers are drawn by chance."""
    chosen = settings.evaluation.model_dump(mode="json", exclude={"methods"})
    return {
        "evaluation": chosen,
        **use(settings),
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention"}),
        "seed": settings.seed if settings.evaluation.temperature > 0 else None,
    }


def run_evaluation(context: StageContext) -> dict[str, Any]:
    """Answer and judge every test problem; the summary holds the rows of the score table."""
    from mirage_core.evaluation.run import evaluate

    method = context.params["method"]
    metrics = evaluate(
        context.input_paths["model"],
        load_problems(context.input_paths["problems"], split="test"),
        settings=context.settings,
        method=method,
        latents=latents_of(method),
        output=context.output,
        scratch=context.scratch,
        progress=context.progress,
    )
    return {"method": method, "latents": latents_of(method), "scores": metrics["scores"]}


def latents_of(method: str) -> Literal["on", "off"]:
    """The latent mode of a method; InputError names the known methods."""
    if method not in LATENTS:
        raise InputError(f"got the method {method!r}, expected one of {', '.join(LATENTS)}")
    return LATENTS[method]


EVALUATION = Stage(
    name="evaluation",
    version=1,
    kind="evaluation",
    inputs=("model", "problems"),
    identity=evaluation_identity,
    run=run_evaluation,
    params=("method",),
    keeps_scratch=True,
)

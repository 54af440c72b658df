"""Stage ``evaluation``: one method's answers to the test problems, judged; one artifact a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.stage import Cut, Share, Stage, StageContext
from mirage_core.pipeline.stages.train import use
from mirage_core.store.records import load_problems
from mirage_core.types import Problem

LATENTS: dict[str, Literal["on", "off"]] = {
    "zero-shot": "off",
    "direct-sft": "off",
    "direct-sft-grpo": "off",
    "auxiliary-input": "off",
    "capimagine": "off",
    "capimagine-grpo": "off",
    "stage-1": "on",
    "without-stage-1": "on",
    "without-stage-1-grpo": "on",
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
    return _evaluate(context, _problems(context))


def run_share(context: StageContext, share: Share) -> dict[str, Any]:
    """Answer and judge the problems of a share of the batches."""
    from mirage_core.evaluation.evaluate import problems_of_batches

    problems, batch_size = _problems(context), context.settings.evaluation.batch_size
    return _evaluate(context, problems_of_batches(problems, batch_size, share.of))


def merge_shares(context: StageContext, folders: Sequence[Path]) -> dict[str, Any]:
    """Put the answers of all shares together, in the order of the problems, and count anew."""
    from mirage_core.evaluation.evaluate import merge_folders

    method = context.params["method"]
    latents = latents_of(method)
    metrics = merge_folders(folders, _problems(context), method=method, latents=latents, output=context.output)
    return _summary(method, metrics)


def pieces(context: StageContext) -> int:
    """The number of batches: no batch is ever cut, since its rows are answered together."""
    return -(-len(_problems(context)) // context.settings.evaluation.batch_size)


def _problems(context: StageContext) -> list[Problem]:
    return load_problems(context.input_paths["problems"], split="test")


def _evaluate(context: StageContext, problems: Sequence[Problem]) -> dict[str, Any]:
    from mirage_core.evaluation.evaluate import evaluate

    method = context.params["method"]
    metrics = evaluate(
        context.input_paths["model"],
        problems,
        settings=context.settings,
        method=method,
        latents=latents_of(method),
        output=context.output,
        scratch=context.scratch,
        progress=context.progress,
    )
    return _summary(method, metrics)


def _summary(method: str, metrics: dict[str, Any]) -> dict[str, Any]:
    told = metrics.get("memory", {})  # only where the memory did not do for whole batches
    return {"method": method, "latents": latents_of(method), "scores": metrics["scores"], **told}


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
    gpu=True,
    cut=Cut(pieces=pieces, run=run_share, merge=merge_shares),
)

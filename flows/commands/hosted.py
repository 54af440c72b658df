"""``mirage evaluate --endpoint``: a model behind an OpenAI-compatible API, asked and judged like our own."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from flows.commands.evaluate import problems_of, say, tell
from flows.commands.printing import aside
from flows.commands.session import connect_to_prefect
from flows.trained import use_task
from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.evaluation.endpoint import Form, Hosted, evaluate_endpoint
from mirage_core.llm_client.secrets import keys_from
from mirage_core.recipes import load
from mirage_core.store.records import save_predictions
from mirage_core.types import Variant
from tasks.paths import open_store
from tasks.secrets import read_key

RECIPE = "qwen2.5-vl-7b"
"""Whose settings count where --set says nothing else: greedy, 1,024 tokens."""


def evaluate(
    endpoint: str,
    model: str | None,
    benchmark: str,
    data: Path | None,
    *,
    prompt: str,
    variant: str,
    sets: list[str],
    save: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Ask the endpoint about every problem of the data, judge, and print what it came to."""
    if model is None:
        raise InputError("--endpoint needs --model, the model's name as the endpoint knows it")
    hosted, settings = hosted_of(endpoint, model, prompt, variant, sets)
    opened = open_store(store)
    use_task(benchmark, None, opened)
    problems, source = problems_of(benchmark, data, opened)
    aside.print(f"{model} at {endpoint} on {len(problems)} problems of {source}", markup=False)
    if settings.runtime.teacher.api_key_block is not None:
        connect_to_prefect()
    with keys_from(read_key):
        found = evaluate_endpoint(hosted, problems, settings.runtime.teacher, opened, say)
    if save is not None:
        save_predictions(save, found.scored)
    tell({"benchmark": benchmark, "model": model, "data": source, **found.metrics}, as_json=as_json)


def hosted_of(endpoint: str, model: str, prompt: str, variant: str, sets: list[str]) -> tuple[Hosted, Settings]:
    """The system and the settings it is reached with; InputError for a prompt or variant that does not exist."""
    for word, known in ((prompt, get_args(Form)), (variant, get_args(Variant))):
        if word not in known:
            raise InputError(f"got {word!r}, expected one of {', '.join(known)}")
    settings = load(RECIPE, [*sets, f"runtime.teacher.base_url={endpoint}"])
    hosted = Hosted(
        model=model,
        form=prompt,  # type: ignore[arg-type]  # checked above
        variant=variant,  # type: ignore[arg-type]
        evaluation=settings.evaluation,
        seed=None if settings.teacher.seed is None else settings.seed,
        revision=settings.teacher.revision,
        max_tokens_field=settings.teacher.max_tokens_field,
    )
    return hosted, settings

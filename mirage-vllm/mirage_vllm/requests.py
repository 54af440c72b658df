"""What a request asks of its spans, in ``SamplingParams.extra_args`` (``vllm_xargs`` of the server)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirage_vllm.spans import NO_LIMIT, RowOptions

if TYPE_CHECKING:
    from vllm import SamplingParams

LATENTS, TEXT_TOKENS = "latents", "max_text_tokens"


def fault_of(arguments: dict[str, Any]) -> str | None:
    """Return what is wrong with the arguments that are meant for spans; None: nothing."""
    latents, limit = arguments.get(LATENTS, "on"), arguments.get(TEXT_TOKENS, 1)
    if latents not in ("on", "off"):
        return f"{LATENTS} is {latents!r}, expected on or off"
    if type(limit) is not int or limit < 1:
        return f"{TEXT_TOKENS} is {limit!r}, expected a positive integer"
    return None


def row_options(params: SamplingParams | None) -> tuple[RowOptions, str | None]:
    """Return the options of a request, and what is wrong with them: its answer is then to end at once.

    An answer with a grammar never imagines: the grammar forbids latents.
    """
    if params is None:
        return RowOptions(), None
    arguments = params.extra_args or {}
    fault = fault_of(arguments)
    if fault is not None:
        return RowOptions(max_text_tokens=0), fault
    return (
        RowOptions(
            imagines=arguments.get(LATENTS, "on") == "on" and params.structured_outputs is None,
            max_text_tokens=arguments.get(TEXT_TOKENS, NO_LIMIT),
            temperature=params.temperature,
        ),
        None,
    )

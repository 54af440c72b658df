"""``mirage serve``: a trained model behind an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.apps.options import StoreOption

LIMITS = "Limits"
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="A model: a folder or an artifact. [default: the furthest trained of the newest run]"
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        envvar="MIRAGE_API_KEY",
        show_default=False,
        help="The key that clients must send. Others on this machine see it in the list of processes: better use the "
        "variable, or --api-key-file.",
    ),
]


def serve(
    model: ModelArgument = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; any but 127.0.0.1 and localhost needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free one.")] = 8000,
    api_key: KeyOption = None,
    api_key_file: Annotated[Path | None, typer.Option(help="A file with the key.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name for clients. [default: the folder's]")] = None,
    method: Annotated[
        str | None, typer.Option(help="The method that answers. [default: the one the model was trained by]")
    ] = None,
    drain_s: Annotated[
        int, typer.Option(min=0, help="After SIGTERM, running answers get so many seconds to end.")
    ] = 60,
    max_rows: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Answers decoded side by side.")] = 32,
    max_queue: Annotated[
        int, typer.Option(min=1, rich_help_panel=LIMITS, help="Requests that wait; more get 429.")
    ] = 256,
    max_choices: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Answers of a request (n).")] = 8,
    max_prompt_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Tokens of a prompt.")] = 16384,
    max_answer_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Tokens of an answer.")] = 4096,
    max_pictures: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Pictures of a request.")] = 16,
    max_megapixels: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Megapixels of a picture.")] = 40,
    max_body_mb: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Megabytes of a request.")] = 32,
    max_cache_mb: Annotated[
        int, typer.Option(min=1, rich_help_panel=LIMITS, help="Megabytes of picture features that are kept.")
    ] = 256,
    store: StoreOption = None,
) -> None:
    """Answer OpenAI's chat completions with a trained model, its latents included, until SIGTERM.

    Example: mirage serve .mirage/models/tiny --port 8000
    """
    from flows.commands import serve as command
    from mirage_core.serving.limits import ServingLimits

    limits = ServingLimits(
        rows=max_rows,
        queue=max_queue,
        choices=min(max_choices, max_rows),
        body_bytes=max_body_mb * 2**20,
        pictures=max_pictures,
        pixels=max_megapixels * 1_000_000,
        prompt_tokens=max_prompt_tokens,
        answer_tokens=max_answer_tokens,
        feature_bytes=max_cache_mb * 2**20,
    )
    key = command.read_key(api_key, api_key_file)
    command.serve(model, method, store, host, port, key=key, name=name, drain_s=drain_s, limits=limits)

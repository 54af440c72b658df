"""``mirage export`` and ``mirage push``: a trained model for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.apps.options import StoreOption
from mirage_core.model.export import Adapter

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model: an artifact or a folder.")]
LicenceOption = Annotated[
    str | None, typer.Option(help="The card's licence, as the hub names it. [default: that of the base model]")
]
AdapterOption = Annotated[
    Adapter,
    typer.Option(
        help="Of a model trained with adapters: merged weights and adapters, merged weights alone, or adapters alone."
    ),
]


def export(
    model: ModelArgument,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    adapter: AdapterOption = "keep",
    licence: LicenceOption = None,
    store: StoreOption = None,
) -> None:
    """Write a trained model as a plain Hugging Face folder, with its newest scores on its card.

    Example: mirage export model/c79ed3f314f4bfba129a my-model
    """
    from flows.commands import export as command

    command.export(model, folder, adapter, licence, store)


def push(
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="The repository: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")] = False,
    adapter: AdapterOption = "keep",
    licence: LicenceOption = None,
    store: StoreOption = None,
) -> None:
    """Send a trained model with its card to a Hugging Face hub (HF_TOKEN or `hf auth login`; HF_ENDPOINT).

    Example: mirage push .mirage/models/tiny --to me/mirage-tiny --dry-run
    """
    from flows.commands import export as command

    command.push(model, to, adapter, licence, store, private=private, dry_run=dry_run)

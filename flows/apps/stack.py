"""``mirage up``, ``down``, ``deploy``, ``s3-block``, ``status``: the local Prefect server and worker."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import StoreOption


def up(
    port: Annotated[int | None, typer.Option(help="The server's port. [default: 4200]")] = None,
) -> None:
    """Start the local Prefect server and worker in the background, where they do not run yet."""
    from flows.commands import stack as command

    command.up(port)


def down() -> None:
    """Stop the local Prefect worker and server."""
    from flows.commands import stack as command

    command.down()


def deploy(store: StoreOption = None) -> None:
    """Register the deployments of prefect.yaml with the Prefect server.

    Example: mirage deploy --store s3://bucket/prefix
    """
    from flows.commands import stack as command

    command.deploy(store)


def s3_block(
    name: Annotated[str, typer.Argument(help="The block's name: lower case letters, digits, dashes.")] = "s3",
) -> None:
    """Save this shell's AWS variables as a Prefect block, from which flows read the keys of an S3 store.

    Afterwards: MIRAGE_S3_BLOCK=s3 mirage deploy --store s3://bucket/prefix
    """
    from flows.commands import stack as command

    command.save_s3_block(name)


def status() -> None:
    """Show what of the local stack runs, where the store is, where its keys come from, and how fast the machine is."""
    from flows.commands import stack as command

    command.status()

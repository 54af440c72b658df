"""``mirage store``: list, check, clean up and name artifacts."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import JsonOption, StoreOption

app = typer.Typer(help="List, check, clean up and name the artifacts of the store.", no_args_is_help=True)


@app.command("ls")
def store_ls(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: problems, model, evaluation, ...")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts, newest first.

    Example: mirage store ls model
    """
    from flows.commands import store as command

    command.list_artifacts(kind, store, as_json=as_json)


@app.command("show")
def store_show(
    reference: Annotated[str, typer.Argument(help="An artifact's path, or the start of its digest.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an artifact's files, summary and origin.

    Example: mirage store show model/c79ed3f314f4bfba129a
    """
    from flows.commands import store as command

    command.show_artifact(reference, store, as_json=as_json)


@app.command("verify")
def store_verify(
    reference: Annotated[str | None, typer.Argument(help="One artifact. [default: all]")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged artifacts to the quarantine, so that their stages run again.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Check every byte of one artifact, or of all, against the manifests; exit status 1 where one is damaged."""
    from flows.commands import store as command

    command.verify(reference, store, repair=repair)


@app.command("gc")
def store_gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is found. [default: only show it]")] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what was last written longer ago: 2h, 7d. [default: 7d]")
    ] = "7d",
    keep_runs: Annotated[
        int | None, typer.Option(min=1, help="Keep the artifacts of only this many newest runs. [default: all]")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what nothing refers to any more: killed uploads, dead checkpoints, artifacts without a run.

    Example: mirage store gc --older-than 2h --delete
    """
    from flows.commands import store as command

    command.collect(older_than, keep_runs, store, delete=delete, as_json=as_json)


@app.command("point")
def store_point(
    name: Annotated[str, typer.Argument(help="The pointer; mirage-evaluation/nightly evaluates `nightly`.")],
    reference: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="An artifact's path, or the start of its digest.")
    ],
    store: StoreOption = None,
) -> None:
    """Point a name at an artifact.

    Example: mirage store point nightly model/c79ed3f314f4bfba129a
    """
    from flows.commands import store as command

    command.point(name, reference, store)

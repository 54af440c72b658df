"""``mirage store``: a look into the store of artifacts."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import JsonOption, StoreOption

app = typer.Typer(help="Look into the store of artifacts.", no_args_is_help=True)


@app.command("ls")
def store_ls(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: problems, model, evaluation, ...")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts, newest first."""
    from flows.commands import store as command

    command.list_artifacts(kind, store, as_json=as_json)


@app.command("show")
def store_show(
    reference: Annotated[str, typer.Argument(help="An artifact's path, or the start of its digest.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an artifact's files, figures and origin."""
    from flows.commands import store as command

    command.show_artifact(reference, store, as_json=as_json)


@app.command("verify")
def store_verify(
    reference: Annotated[str | None, typer.Argument(help="One artifact. [default: all]")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take what is damaged out of use, so that its stage runs again.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Read every byte of one artifact, or of all, against the manifests; exit status 1 where one is damaged."""
    from flows.commands import store as command

    command.verify(reference, store, repair=repair)


@app.command("gc")
def store_gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove it. [default: only show it]")] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what was written last so long ago: 2h, 7d. [default: 7d]")
    ] = "7d",
    keep_runs: Annotated[
        int | None, typer.Option(min=1, help="Only that many of the newest runs keep their artifacts. [default: all]")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what nothing needs any more: uploads that were killed, dead checkpoints, artifacts without a run."""
    from flows.commands import store as command

    command.collect(older_than, keep_runs, store, delete=delete, as_json=as_json)


@app.command("point")
def store_point(
    name: Annotated[str, typer.Argument(help="The pointer: `nightly` is what mirage-evaluation/nightly evaluates.")],
    reference: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="An artifact's path, or the start of its digest.")
    ],
    store: StoreOption = None,
) -> None:
    """Let a name stand for an artifact from now on."""
    from flows.commands import point as command

    command.point(name, reference, store)

"""The command line ``mirage``: its commands, errors and exit statuses."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from flows.apps import bench, data, judging, models, pipeline, serving, stack, store
from mirage_core.errors import MirageError

app = typer.Typer(
    help="Teach a vision-language model to think in latent visual tokens: run the pipeline, judge, ask, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def common(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Options of every command."""
    if debug:
        sys.tracebacklimit = 1000


for command in (
    pipeline.run, pipeline.plan, judging.evaluate, judging.answer, pipeline.report, judging.diagnose, pipeline.study,
    judging.score, judging.compare, serving.serve, models.export, models.push, stack.up, stack.down, stack.deploy,
):  # fmt: skip
    app.command()(command)
app.command("s3-block")(stack.s3_block)
app.command()(stack.status)
app.add_typer(store.app, name="store")
app.add_typer(data.teacher_app, name="teacher")
app.add_typer(data.data_app, name="data")
app.add_typer(data.scenes_app, name="scenes")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line; errors become one message on stderr and exit status 1 (2: wrong usage)."""
    try:
        if os.environ.get("MIRAGE_S3_BLOCK"):
            from flows.commands.session import connect_to_local_server

            connect_to_local_server()
        app()
    except MirageError as error:
        _fail(str(error), error)
    except ModuleNotFoundError as error:
        _fail(
            f"the Python module {error.name} is missing: pip install -c constraints.txt "
            "'mirage-latent[train,scenes,teacher,serve,machines]' into the environment of this command (in a checkout: "
            "'.[train,scenes,teacher,serve,machines]')",
            error,
        )
    except OSError as error:
        _fail(f"{type(error).__name__}: {error}", error)


def _fail(message: str, error: BaseException) -> None:
    from rich.console import Console

    if "--debug" in sys.argv[1:]:
        raise error
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, style="red", markup=False)
    sys.exit(1)


if __name__ == "__main__":
    main()

"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="The store: a folder or s3://bucket/prefix. [default: MIRAGE_STORE]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a setting, such as seed=7; may be repeated."),
]
RecipeOption = Annotated[str, typer.Option(help="A recipe's name, or a YAML file.")]
DirectOption = Annotated[bool, typer.Option("--direct", help="Run in this process, without a Prefect server.")]
SaveOption = Annotated[
    Path | None, typer.Option(help="Save the judged answers to this parquet file, for `mirage compare`.")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(help="A model: a folder or an artifact. [default: the furthest trained model of the newest run]"),
]

"""Options that many commands share."""

from __future__ import annotations

from typing import Annotated

import typer

StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="The store: a folder or s3://bucket/prefix. [default: MIRAGE_STORE]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SetsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; may be repeated.")
]
RecipeOption = Annotated[str, typer.Option(help="A recipe's name, or a YAML file.")]

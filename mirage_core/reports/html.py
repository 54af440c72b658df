"""The one way pages are filled in: everything is escaped, and what a template names must be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def page_environment(*folders: Path, **filters: Callable[..., Any]) -> Environment:
    """Templates of ``folders``, then those of this floor (the head and the style of every page), with ``filters``."""
    made = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(filters)
    return made

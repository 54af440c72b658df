"""The template environment of every page, which escapes all values; settings and versions as pages show them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mirage_core.config import Settings, as_recipe

TEMPLATES = Path(__file__).parent / "templates"
LIBRARIES = ("torch", "transformers", "deepspeed", "numpy", "pillow")


def page_environment(*folders: Path, **filters: Callable[..., Any]) -> Environment:
    """Return an environment with the templates of ``folders``, then those of this package, and with ``filters``."""
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(filters)
    return environment


def resolved_settings(settings: Settings) -> str:
    """The settings as YAML, without ``runtime``, which changes no result."""
    plain = as_recipe(settings, exclude={"runtime"})
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def versions() -> dict[str, str]:
    """Versions of this project and of the libraries that its numbers depend on; those not installed are left out."""
    installed: dict[str, str] = {}
    for name in ("mirage-latent", *LIBRARIES):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed

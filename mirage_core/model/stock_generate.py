"""Stock ``model.generate`` with custom callables: remote code is refused, streamer and images are passed on.

Stock code (transformers 5.23) runs code from a folder or the hub when ``custom_generate`` is a name. A callable gets
no streamer from it, and of the images only features without grids.
"""

from __future__ import annotations

import os
from inspect import signature
from types import MethodType
from typing import Any, Protocol, runtime_checkable

from mirage_core.errors import SettingsError


@runtime_checkable
class CustomGenerate(Protocol):
    """A ``custom_generate`` callable that needs the streamer and some inputs itself."""

    def bind_inputs(self, streamer: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the callable bound to its inputs, and the remaining keyword arguments of ``generate``."""
        ...


def guard_generate(model: Any) -> None:
    """Make ``model.generate`` refuse names and folders, and pass streamer and images to callables."""
    model.generate = MethodType(_generate, model)


def _generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Run stock ``generate``; SettingsError for a ``custom_generate`` that is not a callable."""
    stock = type(model).generate
    bound = signature(stock).bind(model, *args, **kwargs)
    custom = bound.arguments.get("custom_generate")
    if isinstance(custom, str | os.PathLike):
        raise SettingsError(
            f"custom_generate is {str(custom)!r}, which would run code from there. Give it a callable, such as "
            "mirage_core.generation.hf_generate.latent_generate(backbone, ids, num_latents=4)."
        )
    if isinstance(custom, CustomGenerate):
        custom, remaining = custom.bind_inputs(bound.arguments.get("streamer"), bound.arguments.get("kwargs", {}))
        bound.arguments |= {"custom_generate": custom, "kwargs": remaining}
    return stock(*bound.args, **bound.kwargs)

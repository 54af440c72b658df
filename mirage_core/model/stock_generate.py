"""Stock ``model.generate`` with a callable of ours: remote code refused, streamer and pictures handed on.

Stock code (transformers 5.23) runs code from a folder or the hub when ``custom_generate`` is a name. From a callable
it keeps the streamer, and what it hands on of the pictures (features without grids) is not enough to place them.
"""

from __future__ import annotations

import os
from inspect import signature
from types import MethodType
from typing import Any, Protocol, runtime_checkable

from mirage_core.errors import SettingsError


@runtime_checkable
class Taking(Protocol):
    """A ``custom_generate`` callable that takes the streamer and some inputs by itself."""

    def take(self, streamer: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The callable with what it took of the keyword arguments of ``generate``, and those that are left."""
        ...


def guard_generate(model: Any) -> None:
    """Make ``model.generate`` refuse names and folders, and hand streamer and pictures to callables that take them."""
    model.generate = MethodType(_generate, model)


def _generate(model: Any, *given: Any, **named: Any) -> Any:
    """Stock ``generate``; SettingsError for a ``custom_generate`` that is no callable."""
    stock = type(model).generate
    bound = signature(stock).bind(model, *given, **named)
    chosen = bound.arguments.get("custom_generate")
    if isinstance(chosen, str | os.PathLike):
        raise SettingsError(
            f"custom_generate is {str(chosen)!r}, which would run code from there. Give it a callable, such as "
            "mirage_core.generation.hf_generate.latent_generate(backbone, ids, num_latents=4)."
        )
    if isinstance(chosen, Taking):
        taken, left = chosen.take(bound.arguments.get("streamer"), bound.arguments.get("kwargs", {}))
        bound.arguments |= {"custom_generate": taken, "kwargs": left}
    return stock(*bound.args, **bound.kwargs)

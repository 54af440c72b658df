"""Adapters of the supported models, one module each, and their registry. See docs/add-a-backbone.md."""

from __future__ import annotations

from mirage_core.errors import SettingsError
from mirage_core.model.backbones.adapter import ModelAdapter
from mirage_core.model.backbones.qwen2_5_vl import Qwen25VL
from mirage_core.model.backbones.qwen3_vl import Qwen3VL

__all__ = ["ADAPTERS", "ModelAdapter", "adapter_class"]

ADAPTERS: dict[str, type[ModelAdapter]] = {"qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL}


def adapter_class(model_type: object) -> type[ModelAdapter]:
    """Return the adapter class of a ``model_type`` (config.json); SettingsError lists the supported types."""
    adapter = ADAPTERS.get(str(model_type))
    if adapter is None:
        raise SettingsError(
            f"A model of type {model_type!r} is not known, expected one of {', '.join(ADAPTERS)}. "
            "docs/add-a-backbone.md says how to add another."
        )
    return adapter

"""The models the engine runs on, one module each; nothing outside knows their inside. See docs/add-a-backbone.md."""

from __future__ import annotations

from mirage_core.errors import SettingsError
from mirage_core.model.backbones.adapter import Inside
from mirage_core.model.backbones.qwen2_5_vl import Qwen25VL
from mirage_core.model.backbones.qwen3_vl import Qwen3VL

__all__ = ["KNOWN", "Inside", "inside_class"]

KNOWN: dict[str, type[Inside]] = {"qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL}


def inside_class(model_type: object) -> type[Inside]:
    """The inside of models of a type (``model_type`` in config.json); SettingsError names the known ones."""
    found = KNOWN.get(str(model_type))
    if found is None:
        raise SettingsError(
            f"A model of type {model_type!r} is not known, expected one of {', '.join(KNOWN)}. "
            "docs/add-a-backbone.md says how to add another."
        )
    return found

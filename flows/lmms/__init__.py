"""The plug-in for lmms-eval, whose entry point ``lmms_eval.models`` finds the model ``mirage`` here.

``lmms-eval --model mirage --model_args pretrained=FOLDER --tasks vstar_bench``. Nothing else of the project imports
this package, and lmms-eval does not have to be installed.
"""

from __future__ import annotations

from typing import Any

MODEL = "mirage"
CLASS = "flows.lmms.model.Mirage"


def manifest() -> Any:
    """Return what lmms-eval registers (from 0.7 on): the model's name and class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, simple_class_path=CLASS)

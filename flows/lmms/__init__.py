"""The plug-in for lmms-eval: its entry point ``lmms_eval.models`` finds a model called ``mirage`` here.

``lmms-eval --model mirage --model_args pretrained=FOLDER --tasks vstar_bench``. Nothing else of the project imports
this, and lmms-eval need not be installed.
"""

from __future__ import annotations

from typing import Any

MODEL = "mirage"
CLASS = "flows.lmms.model.Mirage"


def manifest() -> Any:
    """What lmms-eval registers (from 0.7 on): the name of the model, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, simple_class_path=CLASS)

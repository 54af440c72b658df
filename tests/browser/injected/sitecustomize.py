"""In a run under test: every stage that really works is noted, and one of them breaks once.

Python imports a module of this name when it starts, and the run's PYTHONPATH names this folder: the flow, its tasks and
the stages stay the product's own. MIRAGE_TEST_LOG is the file that gets a line for each stage; MIRAGE_TEST_FAULT is a
file that names the stage to break, and that is removed when it breaks.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

REGISTRY = "mirage_core.pipeline.registry"
BREAKS_AT_STEP = 3


class WatchesTheRegistry(MetaPathFinder):
    """Lets the registry of stages load as ever, then puts watched stages in the place of its own."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_watched(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _then_watched(load: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def load_and_watch(module: ModuleType) -> None:
        load(module)
        for name, stage in module.STAGES.items():
            module.STAGES[name] = replace(stage, run=_watched(stage.run, name))

    return load_and_watch


def _watched(run: Callable[[Any], dict[str, Any]], name: str) -> Callable[[Any], dict[str, Any]]:
    @wraps(run)
    def watched(context: Any) -> dict[str, Any]:
        method = context.params.get("method")
        with open(os.environ["MIRAGE_TEST_LOG"], "a") as log:
            log.write(f"{name}/{method}\n" if method else f"{name}\n")
        fault = Path(os.environ.get("MIRAGE_TEST_FAULT", ""))
        if fault.is_file() and fault.read_text() == name:
            context = replace(context, progress=_breaking(context.progress, fault))
        return run(context)

    return watched


def _breaking(progress: Callable[[Any], None], fault: Path) -> Callable[[Any], None]:
    """Raise in the middle of the stage's work, as a fault of its input would."""
    from mirage_core.errors import DataError

    def breaking(event: Any) -> None:
        progress(event)
        if event.step is not None and event.step >= BREAKS_AT_STEP:
            fault.unlink()
            raise DataError("a fault put in by the test; expected none; click Retry")

    return breaking


if "MIRAGE_TEST_LOG" in os.environ:
    sys.meta_path.insert(0, WatchesTheRegistry())

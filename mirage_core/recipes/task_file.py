"""The file of a user's own task and its sha256: resolved when a recipe is read, fixed for the whole run."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, TaskData
from mirage_core.errors import SettingsError

LARGEST = 1_000_000
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a recipe's data with a relative path of its task resolved in ``folder``."""
    problems = data.get("problems")
    task = problems.get("task") if isinstance(problems, Mapping) else None
    module = task.get("module") if isinstance(task, Mapping) else None
    if not isinstance(problems, Mapping) or not isinstance(task, Mapping) or not isinstance(module, str):
        return data
    if not is_path(module):
        return data
    resolved = str(folder / Path(module).expanduser())
    return {**data, "problems": {**problems, "task": {**task, "module": resolved}}}


def with_task(settings: Settings) -> Settings:
    """Return the settings with the path and digest of their task; SettingsError if it is missing or has changed."""
    task = settings.problems.task
    if task is None:
        return settings
    _, digest = read_task(task)
    module = str(task_file(task.module)) if is_path(task.module) else task.module
    update = {"task": task.model_copy(update={"module": module, "sha256": digest})}
    return settings.model_copy(update={"problems": settings.problems.model_copy(update=update)})


def read_task(task: TaskData) -> tuple[bytes, str]:
    """Return the content of a task's file and its sha256; SettingsError if it is not the file of the settings."""
    path = task_file(task.module)
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"{path} has more than {LARGEST} bytes: it is not a task")
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"problems.task.module: {path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if task.sha256 not in (None, digest):
        raise SettingsError(
            f"problems.task: {path} has changed: its sha256 is {digest[:12]}..., the settings have "
            f"{str(task.sha256)[:12]}.... Restore the file, or start the recipe again with the new one"
        )
    return content, digest


def task_file(module: str) -> Path:
    """Return the file of a path or of a dotted module name; SettingsError if there is none."""
    if not is_path(module):
        return _dotted_file(module)
    path = Path(module).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise SettingsError(
            f"problems.task.module: got {module!r}, which is no Python file seen from {Path.cwd()}; expected a file, "
            "such as tasks/turning.py (in a recipe: relative to the recipe), or a dotted module name"
        )
    return path


def is_path(module: str) -> bool:
    """Return whether a module is given by its file: not a dotted name, or ending in .py."""
    return module.endswith(".py") or _DOTTED.fullmatch(module) is None


def _dotted_file(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise SettingsError(f"problems.task.module: {module!r} cannot be found: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SettingsError(
            f"problems.task.module: got {module!r}, expected a module of an installed package, or a file: ./{module}.py"
        )
    return Path(spec.origin)

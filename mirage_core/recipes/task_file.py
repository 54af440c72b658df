"""Where a user's own task stands, and its file's sha256: fixed when a recipe is read, the same for the whole run."""

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
    """A recipe's data with the file of its own task, where that is a relative path, looked for in ``folder``."""
    problems = data.get("problems")
    task = problems.get("task") if isinstance(problems, Mapping) else None
    module = task.get("module") if isinstance(task, Mapping) else None
    if not isinstance(problems, Mapping) or not isinstance(task, Mapping) or not isinstance(module, str):
        return data
    if not is_path(module):
        return data
    found = str(folder / Path(module).expanduser())
    return {**data, "problems": {**problems, "task": {**task, "module": found}}}


def with_task(settings: Settings) -> Settings:
    """The settings with the place and the digest of their own task; SettingsError where it is not there, or another."""
    task = settings.problems.task
    if task is None:
        return settings
    _, digest = read_task(task)
    module = str(task_file(task.module)) if is_path(task.module) else task.module
    update = {"task": task.model_copy(update={"module": module, "sha256": digest})}
    return settings.model_copy(update={"problems": settings.problems.model_copy(update=update)})


def read_task(task: TaskData) -> tuple[bytes, str]:
    """The text of a task's file and its sha256; SettingsError when it is not the one the settings name."""
    path = task_file(task.module)
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"{path} has more than {LARGEST} bytes: that is no task's file")
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"problems.task.module: {path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(text).hexdigest()
    if task.sha256 not in (None, digest):
        raise SettingsError(
            f"problems.task: {path} has changed: its sha256 is {digest[:12]}..., these settings are of "
            f"{str(task.sha256)[:12]}.... Bring the file back as it was, or start the recipe again with the new one"
        )
    return text, digest


def task_file(module: str) -> Path:
    """The file of a path or of a dotted module name; SettingsError says what is wrong with it."""
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
    """Whether a module is named by its file: everything that is no dotted name, or ends with .py."""
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

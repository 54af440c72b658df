"""Settings without local paths: the same on a page or in an identity wherever a recipe's files are."""

from __future__ import annotations

from typing import Any

from mirage_core.benchmarks.io.content_digest import PATH_SETTINGS, content_of
from mirage_core.config import AuxiliaryImageSettings, ProblemSettings, RuntimeSettings, Settings

SHOWN_DIGITS = 12


def strip_local_paths(settings: Settings) -> Settings:
    """Return the settings with every local file or folder named by its content, and ``runtime`` at its defaults.

    Files whose content enters an identity elsewhere are left out: excluded maps, a task's module, templates and
    recordings.
    """
    teacher = settings.teacher.model_copy(update={"recording": None, "template": "mirage"})
    update = {
        "runtime": RuntimeSettings(),
        "problems": _problems(settings.problems),
        "auxiliary_images": _auxiliary_images(settings.auxiliary_images),
        "teacher": teacher,
    }
    return settings.model_copy(update=update)


def _problems(problems: ProblemSettings) -> ProblemSettings:
    update: dict[str, Any] = {"exclude": ()}
    for name, keys in PATH_SETTINGS.items():
        section = getattr(problems, name)
        if section is not None:
            update[name] = section.model_copy(update={key: _by_content(getattr(section, key)) for key in keys})
    if problems.task is not None:
        update["task"] = problems.task.model_copy(update={"module": "task.py"})
    return problems.model_copy(update=update)


def _auxiliary_images(settings: AuxiliaryImageSettings) -> AuxiliaryImageSettings:
    if settings.scenes is None:
        return settings
    sources = {key: _by_content(getattr(settings.scenes, key)) for key in ("model", "lora", "descriptions")}
    return settings.model_copy(update={"scenes": settings.scenes.model_copy(update=sources)})


def _by_content(source: str | None) -> str | None:
    """Return a local source by its content; a hub id, or what is no path, unchanged."""
    content = content_of(source)
    return source if content == source or content is None else f"sha256:{content[:SHOWN_DIGITS]}"

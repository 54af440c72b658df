"""Stage ``problems``: the problems of every source and split, and what their data sets bring beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirage_core.config import PUBLIC_SECTIONS, Settings, identity
from mirage_core.errors import SettingsError
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.store import fingerprint
from mirage_core.store.records import GIVEN_FILE, PROBLEMS_FILE, save_given, save_problems
from mirage_core.types import Given, Problem

SOURCES = ("vsp_folder", "jigsaw", "sat", "comt", "own", "task", *PUBLIC_SECTIONS)
TASK_FILE = "task.py"


def problems_identity(settings: Settings) -> dict[str, Any]:
    """The problem settings and the seed; local data counts by its content, wherever it lies."""
    from mirage_core.benchmarks.io.content_digest import sources_identity

    made = identity(settings.problems.model_copy(update=dict.fromkeys(SOURCES)))
    chosen = {name: value for name, value in made.items() if name not in SOURCES}
    chosen |= {"exclude": excluded_sha256(settings), **sources_identity(settings.problems)}
    return {"problems": chosen, "seed": settings.seed}


def excluded_sha256(settings: Settings) -> list[str]:
    """A digest of the maps that the excluded files hold, empty without any; SettingsError names a file not there.

    The maps count, not the files: rows of spatial reasoning hold theirs in pictures beside the JSONL.
    """
    from mirage_core.benchmarks.generate import excluded_forms

    files = [_excluded_file(name) for name in settings.problems.exclude]
    return [fingerprint("excluded", 1, sorted(excluded_forms(files)), {})] if files else []


def run_problems(context: StageContext) -> dict[str, Any]:
    """Make or read the problems; the summary counts them by benchmark and split."""
    from mirage_core.benchmarks import use
    from mirage_core.benchmarks.load_problems import sourced_problems

    counts: Counter[str] = Counter()
    given: list[Given] = []

    def noted() -> Iterator[Problem]:
        for problem, brought in sourced_problems(context.settings.problems, context.settings.seed, context.progress):
            counts[f"{problem.benchmark} {problem.split}"] += 1
            given.extend([brought] if brought else [])
            yield problem

    save_problems(context.output / PROBLEMS_FILE, noted())
    if given:
        save_given(context.output / GIVEN_FILE, given)
    task = use(context.settings.problems)
    if task is not None:
        # Never run from here. What is made of these problems depends on its scorer too, so it is part of their digest.
        (context.output / TASK_FILE).write_bytes(task.source)
    return {"problems": counts.total(), **dict(sorted(counts.items()))}


def _excluded_file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise SettingsError(
            f"problems.exclude names {name!r}, which is no file seen from {Path.cwd()}: expected published JSONL files"
        )
    return path


PROBLEMS = Stage(name="problems", version=1, kind="problems", inputs=(), identity=problems_identity, run=run_problems)

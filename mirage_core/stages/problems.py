"""Stage ``problems``: generated problems of every split, never sharing a map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.errors import SettingsError
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.store import fingerprint
from mirage_core.store.records import PROBLEMS_FILE, save_problems


def problems_identity(settings: Settings) -> dict[str, Any]:
    """The problem settings and the seed; excluded files count by their content, wherever they lie."""
    chosen = {**identity(settings.problems), "exclude": excluded_sha256(settings)}
    return {"problems": chosen, "seed": settings.seed}


def excluded_sha256(settings: Settings) -> list[str]:
    """A digest of the maps that the excluded files hold, empty without any; SettingsError names a file not there.

    The maps count, not the files: rows of spatial reasoning hold theirs in pictures beside the JSONL.
    """
    from mirage_core.benchmarks.generate import excluded_forms

    files = [_excluded_file(name) for name in settings.problems.exclude]
    return [fingerprint("excluded", 1, sorted(excluded_forms(files)), {})] if files else []


def run_problems(context: StageContext) -> dict[str, Any]:
    """Generate the problems; the summary counts them by benchmark and split."""
    from mirage_core.benchmarks.generate import generate_problems

    made = generate_problems(context.settings.problems, context.settings.seed, context.progress)
    save_problems(context.output / PROBLEMS_FILE, made)
    counts = Counter(f"{problem.benchmark} {problem.split}" for problem in made)
    return {"problems": len(made), **dict(sorted(counts.items()))}


def _excluded_file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise SettingsError(
            f"problems.exclude names {name!r}, which is no file seen from {Path.cwd()}: expected published JSONL files"
        )
    return path


PROBLEMS = Stage(name="problems", version=1, kind="problems", inputs=(), identity=problems_identity, run=run_problems)

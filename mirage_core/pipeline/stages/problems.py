"""Stage ``problems``: the problems of every source and split, and the images that data sets provide for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirage_core.config import PUBLIC_SECTIONS, Settings, identity
from mirage_core.errors import SettingsError
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.store import fingerprint
from mirage_core.store.records import PROBLEMS_FILE, PROVIDED_IMAGES_FILE, save_problems, save_provided_images
from mirage_core.types import Problem, ProvidedImage

SOURCES = (
    "mental_rotation", "paper_folding", "vsp_folder", "jigsaw", "sat", "comt", "own", "task", *PUBLIC_SECTIONS,
)  # fmt: skip
TASK_FILE = "task.py"


def problems_identity(settings: Settings) -> dict[str, Any]:
    """Return the problem settings and the seed; local data counts by its content, wherever it is."""
    from mirage_core.benchmarks.io.content_digest import sources_identity

    section = identity(settings.problems.model_copy(update=dict.fromkeys(SOURCES)))
    generated = {name: value for name, value in section.items() if name not in SOURCES}
    generated |= {"exclude": excluded_sha256(settings), **sources_identity(settings.problems)}
    return {"problems": generated, "seed": settings.seed, **({"film": True} if _provides_frames(settings) else {})}


def _provides_frames(settings: Settings) -> bool:
    """Whether a data set may provide the frames of films, and they are wanted."""
    provides = settings.problems.comt is not None or settings.problems.own is not None
    return provides and settings.keeps_frames


def excluded_sha256(settings: Settings) -> list[str]:
    """Return a digest of the maps in the excluded files, empty without any; SettingsError names a missing file.

    The maps count, not the files: rows of spatial reasoning have theirs in images beside the JSONL.
    """
    from mirage_core.benchmarks.generate import excluded_forms

    files = [_excluded_file(name) for name in settings.problems.exclude]
    return [fingerprint("excluded", 1, sorted(excluded_forms(files)), {})] if files else []


def run_problems(context: StageContext) -> dict[str, Any]:
    """Generate or read the problems; the summary counts them by benchmark and split."""
    from mirage_core.benchmarks import use
    from mirage_core.benchmarks.load_problems import sourced_problems

    counts: Counter[str] = Counter()
    provided: list[ProvidedImage] = []
    film = _provides_frames(context.settings)

    def counted() -> Iterator[Problem]:
        for problem, image in sourced_problems(context.settings.problems, context.settings.seed, context.progress):
            counts[f"{problem.benchmark} {problem.split}"] += 1
            provided.extend([image if film else replace(image, frames=())] if image else [])
            yield problem

    save_problems(context.output / PROBLEMS_FILE, counted())
    if provided:
        save_provided_images(context.output / PROVIDED_IMAGES_FILE, provided, film=film)
    task = use(context.settings.problems)
    if task is not None:
        # Never executed from here. Later stages depend on its scorer too, so it is part of the problems' digest.
        (context.output / TASK_FILE).write_bytes(task.source)
    return {"problems": counts.total(), **dict(sorted(counts.items()))}


def _excluded_file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise SettingsError(
            f"problems.exclude names {name!r}, which is no file in {Path.cwd()}: expected published JSONL files"
        )
    return path


PROBLEMS = Stage(name="problems", version=1, kind="problems", inputs=(), identity=problems_identity, run=run_problems)

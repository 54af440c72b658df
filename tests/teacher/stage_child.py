"""Runs the stage ``examples`` (and what it needs) in a process that a test may kill: settings as JSON, and a store."""

from __future__ import annotations

import sys

from mirage_core.config import Settings
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stage import run_stage
from mirage_core.store import Store
from mirage_core.types import Artifact, ProgressEvent


def examples(settings: Settings, store: Store) -> Artifact:
    """The artifact of the stage."""
    problems = run_stage(STAGES["problems"], settings, {}, store, quiet).artifact
    drawn = run_stage(STAGES["auxiliary-images"], settings, {"problems": problems}, store, quiet).artifact
    given = {"problems": problems, "auxiliary_images": drawn}
    return run_stage(STAGES["examples"], settings, given, store, quiet).artifact


def quiet(event: ProgressEvent) -> None:
    """Nobody listens."""


if __name__ == "__main__":
    print(examples(Settings.model_validate_json(sys.argv[1]), Store.open(sys.argv[2])).digest)

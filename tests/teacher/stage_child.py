"""Run the stage ``examples`` and its inputs in a process that a test may kill; arguments: settings as JSON, a store."""

from __future__ import annotations

import sys

from mirage_core.config import Settings
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stage import run_stage
from mirage_core.store import Store
from mirage_core.types import Artifact, ProgressEvent


def examples(settings: Settings, store: Store) -> Artifact:
    """Return the artifact of the stage."""
    problems = run_stage(STAGES["problems"], settings, {}, store, quiet).artifact
    drawn = run_stage(STAGES["auxiliary-images"], settings, {"problems": problems}, store, quiet).artifact
    inputs = {"problems": problems, "auxiliary_images": drawn}
    return run_stage(STAGES["examples"], settings, inputs, store, quiet).artifact


def quiet(event: ProgressEvent) -> None:
    """Ignore progress."""


if __name__ == "__main__":
    print(examples(Settings.model_validate_json(sys.argv[1]), Store.open(sys.argv[2])).digest)

"""Which work pool runs the deployments, and in which image: MIRAGE_WORK_POOL and MIRAGE_IMAGE at deploy time.

Prefect's templates know no default, so that prefect.yaml names the local pool and this writes another where one is
asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

PREFECT_FILE = "prefect.yaml"
IMAGE_FOLDER = "/opt/mirage"
"""Where the images of docker/ hold the code."""


@contextmanager
def prefect_file(repository: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """The file to deploy: the checkout's own, or a copy of it for the pool and the image that are asked for."""
    pool, image = environment.get("MIRAGE_WORK_POOL"), environment.get("MIRAGE_IMAGE")
    own = repository / PREFECT_FILE
    if not pool and not image:
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="mirage-deploy-") as folder:
        chosen = Path(folder) / PREFECT_FILE
        known = yaml.safe_load(own.read_text(encoding="utf-8"))
        chosen.write_text(yaml.safe_dump(elsewhere(known, pool, image), sort_keys=False), encoding="utf-8")
        yield chosen


def elsewhere(known: Mapping[str, Any], pool: str | None, image: str | None) -> dict[str, Any]:
    """The content of prefect.yaml for another pool; with an image, runs find the code in it instead of here."""
    changed = {**known, "deployments": [_moved(entry, pool, image) for entry in known["deployments"]]}
    if image:
        changed["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": IMAGE_FOLDER}}]
    changed.pop("definitions", None)
    return changed


def _moved(entry: Mapping[str, Any], pool: str | None, image: str | None) -> dict[str, Any]:
    old = entry["work_pool"]
    variables = {**old.get("job_variables", {}), **({"image": image} if image else {})}
    return {**entry, "work_pool": {**old, "name": pool or old["name"], "job_variables": variables}}

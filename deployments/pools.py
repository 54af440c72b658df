"""The work pool and the image of the deployments: MIRAGE_WORK_POOL and MIRAGE_IMAGE at deploy time.

Prefect's templates have no defaults: prefect.yaml names the local pool; for another pool a changed copy is deployed.
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
"""The folder of the code in the images of docker/."""


@contextmanager
def prefect_file(repository: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the file to deploy: the checkout's own, or a copy for the chosen pool and image."""
    pool, image = environment.get("MIRAGE_WORK_POOL"), environment.get("MIRAGE_IMAGE")
    original = repository / PREFECT_FILE
    if not pool and not image:
        yield original
        return
    with tempfile.TemporaryDirectory(prefix="mirage-deploy-") as folder:
        copy = Path(folder) / PREFECT_FILE
        content = yaml.safe_load(original.read_text(encoding="utf-8"))
        copy.write_text(yaml.safe_dump(for_pool(content, pool, image), sort_keys=False), encoding="utf-8")
        yield copy


def for_pool(content: Mapping[str, Any], pool: str | None, image: str | None) -> dict[str, Any]:
    """Return the content of prefect.yaml for another pool; with an image, runs use the code in the image."""
    changed = {**content, "deployments": [_entry_for_pool(entry, pool, image) for entry in content["deployments"]]}
    if image:
        changed["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": IMAGE_FOLDER}}]
    changed.pop("definitions", None)
    return changed


def _entry_for_pool(entry: Mapping[str, Any], pool: str | None, image: str | None) -> dict[str, Any]:
    old = entry["work_pool"]
    variables = {**old.get("job_variables", {}), **({"image": image} if image else {})}
    return {**entry, "work_pool": {**old, "name": pool or old["name"], "job_variables": variables}}

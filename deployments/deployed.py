"""What a server was last sent by `mirage deploy`: a stamp in a variable there, so that the same is not sent again."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import yaml

from deployments import api

VARIABLE = "mirage_deployed"
FULL_PIPELINE = "mirage/full-pipeline"
TAG = "mirage"
"""Every entry of prefect.yaml has it."""
CODE = ("deployments", "flows", "tasks", "mirage_core")
"""The flows, and what their parameters are made of: the forms of the UI follow from signatures and docstrings."""
READ = ("MIRAGE_STORE", "MIRAGE_S3_BLOCK", "MIRAGE_WORK_POOL", "MIRAGE_IMAGE", "MIRAGE_METHODS", "PWD")
"""The variables of which deployments are made."""


def stamp(repository: Path, environment: Mapping[str, str]) -> str:
    """Return a sha256 of all that `prefect deploy` sends for this checkout and these variables."""
    digest = hashlib.sha256(importlib.metadata.version("prefect").encode())
    for name in READ:
        digest.update(f"\0{name}={environment.get(name, '')}".encode())
    sources = (path for folder in CODE for path in sorted((repository / folder).rglob("*.py")))
    for path in (repository / "prefect.yaml", *sources):
        digest.update(f"\0{path.relative_to(repository)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def is_current(api_url: str, repository: Path, environment: Mapping[str, str]) -> bool:
    """Whether the server was sent exactly this last, and has it all: what was deployed by hand counts as changed."""
    expected = len(yaml.safe_load((repository / "prefect.yaml").read_text(encoding="utf-8"))["deployments"])
    with api.client(api_url) as client:
        known = client.get(f"/variables/name/{VARIABLE}")
        if known.is_error or known.json()["value"] != stamp(repository, environment):
            return False
        count = client.post("/deployments/count", json={"deployments": {"tags": {"all_": [TAG]}}})
        one = client.get(f"/deployments/name/{FULL_PIPELINE}")
    if count.is_error or one.is_error or count.json() != expected:
        return False
    return bool((one.json()["job_variables"].get("env") or {}).get("MIRAGE_STORE") == environment["MIRAGE_STORE"])


def remember(api_url: str, repository: Path, environment: Mapping[str, str]) -> None:
    """Leave the stamp on the server; one that refuses it is sent everything the next time too."""
    value = stamp(repository, environment)
    with api.client(api_url) as client:
        if client.patch(f"/variables/name/{VARIABLE}", json={"value": value}).is_error:
            client.post("/variables/", json={"name": VARIABLE, "value": value})

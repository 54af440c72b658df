"""Provenance of an artifact: the commit of this project, and the versions of the libraries that decide results."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

PROJECT = "mirage-latent"
LIBRARIES = ("torch", "transformers", "deepspeed", "peft")


def provenance() -> dict[str, Any]:
    """Return the commit of this project (None where it does not run from a checkout), and library versions."""
    return {"commit": commit(), "versions": {"python": platform.python_version(), **_versions()}}


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Return the checked-out commit, with ``-dirty`` where tracked files differ; of an installed package its own."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return _installed_commit()
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _installed_commit() -> str | None:
    """Return the commit that pip recorded for a package installed from a repository."""
    try:
        origin = distribution(PROJECT).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    commit_id = json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit_id) if commit_id else None


def _versions() -> dict[str, str]:
    """Return the versions of this project and of its libraries that are installed."""
    versions = {}
    for name in (PROJECT, *LIBRARIES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions

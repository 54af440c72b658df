"""With what an artifact was made: the commit of this project, and the versions of what its results come out of."""

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


def made_with() -> dict[str, Any]:
    """The commit of this project (None where it does not run from a checkout), and the versions of what it uses."""
    return {"commit": commit(), "versions": {"python": platform.python_version(), **_versions()}}


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The checked-out commit, with ``-dirty`` where tracked files differ from it; of an installed package its own."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return _installed_commit()
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _installed_commit() -> str | None:
    """What pip wrote down of a package it took out of a repository."""
    try:
        told = distribution(PROJECT).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    found = json.loads(told or "{}").get("vcs_info", {}).get("commit_id")
    return str(found) if found else None


def _versions() -> dict[str, str]:
    """Versions of the installed ones among what a model's weights come out of."""
    found = {}
    for name in (PROJECT, *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

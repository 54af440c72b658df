"""Paths of a checkout: the store's root (MIRAGE_STORE) and the local stack's folder (MIRAGE_HOME)."""

from __future__ import annotations

import os
from pathlib import Path

from mirage_core.store import Store
from mirage_core.store.backends.s3 import SCHEMES, check_url


def repository() -> Path:
    """Return the checkout this code runs from; the working folder where it is installed without one."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "prefect.yaml").is_file() else Path.cwd()


def home() -> Path:
    """Return the folder that runs write on this machine: MIRAGE_HOME, else ``.mirage`` in the checkout."""
    return Path(os.environ.get("MIRAGE_HOME") or repository() / ".mirage").resolve()


def variable(name: str) -> str | None:
    """Return an environment variable; None where it is unset or empty, here or when the deployment was made."""
    value = os.environ.get(name, "")
    # Prefect keeps a placeholder of prefect.yaml where the variable was missing at `prefect deploy`.
    return None if not value or value.startswith("{{") else value


def store_url(chosen: str | None = None) -> str:
    """Return the store's root: ``chosen``, else MIRAGE_STORE, else ``store`` in the home. Paths become absolute.

    SettingsError where the URL holds keys: it is written to parameters, records and the UI.
    """
    url = chosen or variable("MIRAGE_STORE") or str(home() / "store")
    check_url(url)
    return url if "://" in url else str(Path(url).resolve())


def open_store(chosen: str | None = None) -> Store:
    """Open the store at ``store_url(chosen)``; files of a remote store are cached in the home.

    The keys of an S3 store come from the Prefect block that MIRAGE_S3_BLOCK names, else from the AWS variables.
    """
    url = store_url(chosen)
    block = variable("MIRAGE_S3_BLOCK")
    if block and url.partition("://")[0] in SCHEMES:
        from tasks import credentials  # imports Prefect, which the command line avoids where it can

        credentials.provide(block)
    return Store.open(url, cache=home() / "cache")

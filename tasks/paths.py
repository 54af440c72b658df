"""Where a checkout keeps things: the store's root (MIRAGE_STORE) and the local stack's folder (MIRAGE_HOME)."""

from __future__ import annotations

import os
from pathlib import Path

from mirage_core.store import Store
from mirage_core.store.backends.entries import RESULTS
from mirage_core.store.backends.s3 import SCHEMES, check_url


def repository() -> Path:
    """The checkout this code runs from; the working folder where it was installed without one."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "prefect.yaml").is_file() else Path.cwd()


def home() -> Path:
    """What runs leave on this machine: ``.mirage`` in the checkout unless MIRAGE_HOME says otherwise."""
    return Path(os.environ.get("MIRAGE_HOME") or repository() / ".mirage").resolve()


def variable(name: str) -> str | None:
    """An environment variable's value; None where it is not set, or empty, or was not when a deployment was made."""
    value = os.environ.get(name, "")
    # Prefect leaves a placeholder of prefect.yaml as it is where the variable was missing at `prefect deploy`.
    return None if not value or value.startswith("{{") else value


def store_url(chosen: str | None = None) -> str:
    """The store's root: the one chosen, else MIRAGE_STORE, else ``store`` in the home. Paths become absolute.

    SettingsError where it holds keys: it goes into parameters, records and the UI.
    """
    url = chosen or variable("MIRAGE_STORE") or str(home() / "store")
    check_url(url)
    return url if "://" in url else str(Path(url).resolve())


def results_url(chosen: str | None = None) -> str:
    """Where Prefect keeps the results of stages: below the store's root, wherever that is."""
    return f"{store_url(chosen).rstrip('/')}/{RESULTS}"


def open_store(chosen: str | None = None) -> Store:
    """The store at ``store_url(chosen)``; copies of a remote store's files are kept in the home.

    The keys of an S3 store come from the Prefect block that MIRAGE_S3_BLOCK names, else from the AWS variables.
    """
    url = store_url(chosen)
    block = variable("MIRAGE_S3_BLOCK")
    if block and url.partition("://")[0] in SCHEMES:
        from tasks import credentials  # imports Prefect, which the command line does without where it can

        credentials.provide(block)
    return Store.open(url, cache=home() / "cache")

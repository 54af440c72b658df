"""Where a checkout keeps things: the store's root (MIRAGE_STORE) and the local stack's folder (MIRAGE_HOME)."""

from __future__ import annotations

import os
from pathlib import Path

from mirage_core.store import Store


def repository() -> Path:
    """The checkout this code runs from; the working folder where it was installed without one."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "prefect.yaml").is_file() else Path.cwd()


def home() -> Path:
    """What runs leave on this machine: ``.mirage`` in the checkout unless MIRAGE_HOME says otherwise."""
    return Path(os.environ.get("MIRAGE_HOME") or repository() / ".mirage").resolve()


def store_url(chosen: str | None = None) -> str:
    """The store's root: the one chosen, else MIRAGE_STORE, else ``store`` in the home. Paths become absolute."""
    url = chosen or os.environ.get("MIRAGE_STORE") or str(home() / "store")
    return url if "://" in url else str(Path(url).resolve())


def open_store(chosen: str | None = None) -> Store:
    """The store at ``store_url(chosen)``; copies of a remote store's files are kept in the home."""
    url = store_url(chosen)
    return Store.open(url, cache=home() / "cache")

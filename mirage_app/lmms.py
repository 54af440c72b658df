"""What lmms-eval's entry point names: the plug-in of flows/lmms; the modules of lmms-eval's process stay first."""

from __future__ import annotations

from typing import Any

from mirage_app import provide


def manifest() -> Any:
    """Return what lmms-eval registers."""
    provide(first=False)
    from flows.lmms import manifest as registered

    return registered()

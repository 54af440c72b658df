"""What a child process does that waits to be interrupted; it imports nothing large, so that it waits soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mirage_core.store import Store


def fall_asleep(folder: Path) -> Store:
    """Say so with a file of this process's number, then sleep."""
    (folder / str(os.getpid())).touch()
    time.sleep(600)
    raise AssertionError("nobody woke this process")

"""The program in a checkout and installed. A wheel installs two packages, ``mirage_core`` and this one.

In a checkout ``flows``, ``tasks``, ``deployments`` and ``bench`` are folders of its root. A wheel puts them into this
package's folder (setup.py), so that no module of a user is hidden by one of these names, and none hides one of them:
they are importable only in processes of the command, once ``provide`` was called.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ROOMS = ("flows", "tasks", "deployments", "bench")


def provide(*, first: bool = True) -> None:
    """Make the program's packages importable in this process, before those of a user, or after them.

    Nothing is done in a checkout, where they are importable already.
    """
    if (FOLDER / ROOMS[0]).is_dir() and str(FOLDER) not in sys.path:
        sys.path.insert(0 if first else len(sys.path), str(FOLDER))


def main() -> None:
    """Run the command line ``mirage``."""
    provide()
    from flows.cli import main as command_line

    command_line()

"""Where the command line prints: results to stdout, progress and warnings to stderr."""

from __future__ import annotations

import sys

from rich.console import Console

# A pipe or a file has no width: tables are not cut there.
PIPE_WIDTH = 200

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
aside = Console(highlight=False, soft_wrap=True, stderr=True)

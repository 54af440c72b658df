"""The commands that README.md and docs/*.md show in their shell blocks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docker/README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))


def documented() -> dict[str, str]:
    """Every command, without its comment, and the page that shows it first."""
    commands: dict[str, str] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"^```(?:bash|sh|cron)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                command = re.split(r"\s+# ", line)[0].strip()
                if command:
                    commands.setdefault(command, page)
    return commands

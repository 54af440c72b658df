"""A watched run: what its environment needs for every executed stage to be noted, and one to break once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

INJECTED = Path(__file__).parent / "injected"


@dataclass(frozen=True)
class Watched:
    """The execution log of one run, kept in ``folder``."""

    folder: Path

    def environment(self, *, breaks: str | None = None) -> dict[str, str]:
        """The variables of the run's process; ``breaks`` names the stage that fails once, in the middle of its work."""
        if breaks:
            self.fault.write_text(breaks)
        return {
            "PYTHONPATH": str(INJECTED),
            "MIRAGE_TEST_LOG": str(self.folder / "executed.log"),
            "MIRAGE_TEST_FAULT": str(self.fault),
        }

    @property
    def fault(self) -> Path:
        """The fault that waits; gone once it has struck."""
        return self.folder / "fault"

    @property
    def executed(self) -> list[str]:
        """Every stage whose body ran, in order, as often as it ran."""
        log = self.folder / "executed.log"
        return log.read_text().split() if log.exists() else []

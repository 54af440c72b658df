"""Stage ``report``: one self-contained page about everything before it."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings
from mirage_core.stages.places import without_places
from mirage_core.stages.stage import Stage, StageContext


def report_identity(settings: Settings) -> dict[str, Any]:
    """All settings but ``runtime`` and places: the page shows them."""
    return without_places(settings).model_dump(mode="json", exclude={"runtime"})


def run_report(context: StageContext) -> dict[str, Any]:
    """Write the page from the folders of every artifact made before it."""
    from mirage_core.evaluation.report import write_report

    # What is not part of the identity must not reach the page, or two runs would differ under one fingerprint.
    return write_report(context.output, without_places(context.settings), dict(context.input_paths))


REPORT = Stage(name="report", version=1, kind="report", inputs=None, identity=report_identity, run=run_report)

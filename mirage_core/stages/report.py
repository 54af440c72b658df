"""Stage ``report``: one self-contained page about everything before it."""

from __future__ import annotations

from typing import Any

from mirage_core.config import RuntimeSettings, Settings
from mirage_core.stages.stage import Stage, StageContext


def report_identity(settings: Settings) -> dict[str, Any]:
    """All settings but ``runtime`` and paths: the page shows them. Files are known by the digests of what uses them."""
    left_out: dict[str, Any] = {"exclude": True, "task": {"module"}}
    return settings.model_dump(
        mode="json", exclude={"runtime": True, "problems": left_out, "teacher": {"recording", "template"}}
    )


def run_report(context: StageContext) -> dict[str, Any]:
    """Write the page from the folders of every artifact made before it."""
    from mirage_core.evaluation.report import write_report

    # What is not part of the identity must not reach the page, or two runs would differ under one fingerprint.
    problems = context.settings.problems.model_copy(update={"exclude": ()})
    if problems.task is not None:
        task = problems.task.model_copy(update={"module": "task.py"})
        problems = problems.model_copy(update={"task": task})
    teacher = context.settings.teacher.model_copy(update={"recording": None, "template": "mirage"})
    update = {"runtime": RuntimeSettings(), "problems": problems, "teacher": teacher}
    shown = context.settings.model_copy(update=update)
    return write_report(context.output, shown, dict(context.input_paths))


REPORT = Stage(name="report", version=1, kind="report", inputs=None, identity=report_identity, run=run_report)

"""Stage ``study``: the report of a study's cells, from their answers and the parameter ``study``."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings
from mirage_core.pipeline.stage import Stage, StageContext


def study_identity(settings: Settings) -> dict[str, Any]:  # noqa: ARG001 -- every stage's identity has this form
    """Return nothing: all that the page shows beside the answers is in the parameter ``study``."""
    return {}


def run_study(context: StageContext) -> dict[str, Any]:
    """Write the page, the figures, the table and the plots; the summary holds the headline."""
    from mirage_core.reports.study.inputs import StudyReportInput
    from mirage_core.reports.study.report import write_study

    study = StudyReportInput.model_validate(context.params["study"])
    return write_study(context.output, study, context.input_paths)


STUDY = Stage(
    name="study",
    version=3,
    kind="study",
    inputs=None,
    identity=study_identity,
    run=run_study,
    params=("study",),
)

"""Stage ``report``: one self-contained page about everything before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.pipeline.portable_settings import without_places
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.lens import auxiliary_pictures
from mirage_core.store.records import load_problems

if TYPE_CHECKING:
    from mirage_core.reports.run.page import SampleLooks

LOOKS = "looks/"


def report_identity(settings: Settings) -> dict[str, Any]:
    """All settings but ``runtime`` and places: the page shows them."""
    return without_places(settings).model_dump(mode="json", exclude={"runtime"})


def run_report(context: StageContext) -> dict[str, Any]:
    """Write the page from the folders of every artifact made before it."""
    from mirage_core.reports.run.report import write_report

    # What is not part of the identity must not reach the page, or two runs would differ under one fingerprint.
    settings = without_places(context.settings)
    return write_report(context.output, settings, dict(context.input_paths), looks_at_samples(context))


def looks_at_samples(context: StageContext) -> SampleLooks | None:
    """The looks that were taken at the answers shown; None where there are none."""
    from mirage_core.reports.run.page import SampleLooks

    taken = {name.partition("/")[2]: path for name, path in context.input_paths.items() if name.startswith(LOOKS)}
    if not taken:
        return None
    from mirage_core.analysis.lens.results import read_looks
    from mirage_core.reports.diagnosis.question_page import looks_css, sample_looks

    shown = {method: read_looks(path).shown for method, path in taken.items()}
    wanted = {answer.problem_id for answers in shown.values() for answer in answers}
    problems = [each for each in load_problems(context.input_paths["problems"], split="test") if each.id in wanted]
    known, auxiliary = {problem.id: problem for problem in problems}, auxiliary_pictures(context, problems)
    pieces = {
        (method, answer.problem_id): (
            answer.output,
            sample_looks(answer, known[answer.problem_id], auxiliary.get(answer.problem_id)),
        )
        for method, answers in shown.items()
        for answer in answers
        if answer.problem_id in known
    }
    return SampleLooks(pieces=pieces, css=looks_css())


REPORT = Stage(name="report", version=1, kind="report", inputs=None, identity=report_identity, run=run_report)

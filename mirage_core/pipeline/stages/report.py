"""Stage ``report``: one self-contained page about all stages before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.pipeline.portable_settings import strip_local_paths
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.lens import auxiliary_images_of
from mirage_core.store.records import load_problems

if TYPE_CHECKING:
    from mirage_core.reports.run.page import SampleLens

LENS_PREFIX = "looks/"


def report_identity(settings: Settings) -> dict[str, Any]:
    """Return all settings but ``runtime`` and local paths: the page shows them."""
    return strip_local_paths(settings).model_dump(mode="json", exclude={"runtime"})


def run_report(context: StageContext) -> dict[str, Any]:
    """Write the page from the folders of all artifacts before it."""
    from mirage_core.reports.run.report import write_report

    # What is not part of the identity must not reach the page, or two runs would differ under one fingerprint.
    settings = strip_local_paths(context.settings)
    return write_report(context.output, settings, dict(context.input_paths), sample_lens(context))


def sample_lens(context: StageContext) -> SampleLens | None:
    """Return the latent lens of the answers shown; None where it was not run."""
    from mirage_core.reports.run.page import SampleLens

    folders = {
        name.partition("/")[2]: path for name, path in context.input_paths.items() if name.startswith(LENS_PREFIX)
    }
    if not folders:
        return None
    from mirage_core.analysis.lens.results import read_lens
    from mirage_core.reports.diagnosis.lens_view import lens_css, sample_lens_html

    shown = {method: read_lens(path).shown for method, path in folders.items()}
    ids = {answer.problem_id for answers in shown.values() for answer in answers}
    problems = [each for each in load_problems(context.input_paths["problems"], split="test") if each.id in ids]
    known, auxiliary = {problem.id: problem for problem in problems}, auxiliary_images_of(context, problems)
    pieces = {
        (method, answer.problem_id): (
            answer.output,
            sample_lens_html(answer, known[answer.problem_id], auxiliary.get(answer.problem_id), context.settings),
        )
        for method, answers in shown.items()
        for answer in answers
        if answer.problem_id in known
    }
    return SampleLens(pieces=pieces, css=lens_css())


REPORT = Stage(name="report", version=1, kind="report", inputs=None, identity=report_identity, run=run_report)

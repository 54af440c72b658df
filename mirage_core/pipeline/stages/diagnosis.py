"""Stage ``diagnosis``: one page about a model's latents, from its measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.pipeline.portable_settings import strip_local_paths
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.lens import auxiliary_images_of
from mirage_core.store import Store
from mirage_core.types import Artifact

if TYPE_CHECKING:
    from mirage_core.evaluation.metrics import AccuracyRow

MEASURED = "measure/"
FIGURES = "diagnosis.json"


def diagnosis_identity(settings: Settings) -> dict[str, Any]:
    """Return all settings but ``runtime`` and local paths: the page shows them."""
    return strip_local_paths(settings).model_dump(mode="json", exclude={"runtime"})


def run_diagnosis(context: StageContext) -> dict[str, Any]:
    """Write the page from the measures, the latent lens, and the problems they refer to."""
    from mirage_core.analysis.lens.results import read_lens
    from mirage_core.analysis.result_files import read_result, result_kind
    from mirage_core.reports.diagnosis.page import Sources, write_diagnosis
    from mirage_core.store.records import load_problems

    paths = context.input_paths
    names = [name.removeprefix(MEASURED) for name in paths if name.startswith(MEASURED)]
    lens = read_lens(paths["looks"]) if "looks" in paths else None
    shown = {answer.problem_id for answer in lens.shown} if lens else set()
    problems = [problem for problem in load_problems(paths["problems"], split="test") if problem.id in shown]
    sources = Sources(
        settings=strip_local_paths(context.settings),
        subject=subject(context.store, context.inputs["collected"]),
        results={name: read_result(paths[MEASURED + name], result_kind(name)) for name in in_order(names)},
        lens=lens,
        problems={problem.id: problem for problem in problems},
        auxiliary=auxiliary_images_of(context, problems),
        accuracies=accuracies(context),
    )
    return write_diagnosis(context.output, sources)


def accuracies(context: StageContext) -> tuple[AccuracyRow, ...]:
    """Return the accuracy of the clean answers, and that of a rule which sees the text of the same problems alone."""
    from mirage_core.evaluation.blind import text_rule_rows
    from mirage_core.evaluation.metrics import accuracy_rows
    from mirage_core.store.records import load_predictions, load_problems

    clean = load_predictions(context.input_paths["collected"])
    answered = {prediction.problem_id for prediction, _ in clean}
    problems = load_problems(context.input_paths["problems"])
    asked = [problem for problem in problems if problem.split == "test" and problem.id in answered]
    return (*accuracy_rows(clean), *text_rule_rows(problems, asked, context.settings.evaluation.planning_rule))


def subject(store: Store, collected: Artifact) -> Any:
    """Return the model that a clean run was collected from, as recorded in the manifests."""
    from mirage_core.reports.diagnosis.page import Subject

    model = store.manifest(collected).about["inputs"]["model"]
    handle = Artifact(kind="model", path=model["path"], digest=model["digest"])
    try:
        made_by = str(store.manifest(handle).about.get("stage", "unknown"))
    except (ArtifactMissing, ArtifactDamaged):
        made_by = "no longer in the store"
    return Subject(model=handle.path, digest=handle.digest, made_by=made_by)


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return the measures in the project's order, each once; unknown ones last."""
    from mirage_core.analysis.result_files import RESULTS

    known = [name for name in RESULTS if name in names]
    return tuple(known + sorted(set(names) - set(known)))


DIAGNOSIS = Stage(
    name="diagnosis",
    version=3,
    kind="diagnosis",
    inputs=None,  # problems, collected; measure/NAME, looks, auxiliary_images if any
    identity=diagnosis_identity,
    run=run_diagnosis,
)

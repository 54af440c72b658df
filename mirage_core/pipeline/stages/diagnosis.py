"""Stage ``diagnosis``: one page about a model's latents, from the measures that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.config import Settings
from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.pipeline.portable_settings import without_places
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.lens import auxiliary_pictures
from mirage_core.store import Store
from mirage_core.types import Artifact

MEASURED = "measure/"
FIGURES = "diagnosis.json"


def diagnosis_identity(settings: Settings) -> dict[str, Any]:
    """All settings but ``runtime`` and places: the page shows them."""
    return without_places(settings).model_dump(mode="json", exclude={"runtime"})


def run_diagnosis(context: StageContext) -> dict[str, Any]:
    """Write the page from the measures that were taken, the looks, and the problems they speak of."""
    from mirage_core.analysis.lens.results import read_looks
    from mirage_core.analysis.results import read_result, result_kind
    from mirage_core.reports.diagnosis.page import Sources, write_diagnosis
    from mirage_core.store.records import load_problems

    paths = context.input_paths
    names = [name.removeprefix(MEASURED) for name in paths if name.startswith(MEASURED)]
    looks = read_looks(paths["looks"]) if "looks" in paths else None
    wanted = {shown.problem_id for shown in looks.shown} if looks else set()
    problems = [each for each in load_problems(paths["problems"], split="test") if each.id in wanted]
    sources = Sources(
        settings=without_places(context.settings),
        subject=subject(context.store, context.inputs["collected"]),
        results={name: read_result(paths[MEASURED + name], result_kind(name)) for name in in_order(names)},
        looks=looks,
        problems={problem.id: problem for problem in problems},
        auxiliary=auxiliary_pictures(context, problems),
    )
    return write_diagnosis(context.output, sources)


def subject(store: Store, collected: Artifact) -> Any:
    """The model that a clean run was collected from, as the manifests tell."""
    from mirage_core.reports.diagnosis.page import Subject

    model = store.manifest(collected).about["inputs"]["model"]
    handle = Artifact(kind="model", path=model["path"], digest=model["digest"])
    try:
        made_by = str(store.manifest(handle).about.get("stage", "unknown"))
    except (ArtifactMissing, ArtifactDamaged):
        made_by = "no longer in the store"
    return Subject(model=handle.path, digest=handle.digest, made_by=made_by)


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Measures in the project's order, each once; unknown ones last."""
    from mirage_core.analysis.results import RESULTS

    known = [name for name in RESULTS if name in names]
    return tuple(known + sorted(set(names) - set(known)))


DIAGNOSIS = Stage(
    name="diagnosis",
    version=2,
    kind="diagnosis",
    inputs=None,  # problems, collected; measure/NAME, looks, auxiliary_images where there are any
    identity=diagnosis_identity,
    run=run_diagnosis,
)

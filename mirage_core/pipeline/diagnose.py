"""The stages of a diagnosis: a model by its recipe, one clean run, every measure, the latent lens, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.methods import get_method
from mirage_core.pipeline.pipeline import Step, methods_of, run_to_evaluations
from mirage_core.pipeline.stages.diagnosis import MEASURED, in_order
from mirage_core.store import Store
from mirage_core.types import Artifact

Handle = TypeVar("Handle")

RECORDS = "diagnoses"
ON_TEXT = ("text-chain",)
"""What can be measured of a model that answers without latents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisTarget:
    """What is diagnosed: a method, the measures, and a model and problems where they were chosen."""

    method: str
    measures: tuple[str, ...]
    model: Artifact | None = None
    problems: Artifact | None = None


def diagnose(
    step: Step[Handle],
    measures: Sequence[str],
    *,
    model: Handle,
    problems: Handle,
    auxiliary_images: Handle | None = None,
    method: str | None = None,
) -> dict[str, Handle]:
    """Measure a model and write its page: collect, each measure, looks, diagnosis; returns the handles by label.

    ``method``: how the model answers; None leaves the latent lens out.
    """
    images = {} if auxiliary_images is None else {"auxiliary_images": auxiliary_images}
    inputs = {"model": model, "problems": problems, "collected": step("collect", {}, model=model, problems=problems)}
    parts = {MEASURED + name: step("measure", {"measure": name}, **inputs) for name in in_order(measures)}
    if method is not None and get_method(method).latents == "on":
        parts["looks"] = step("looks", {"method": method}, **inputs, **images)
    page = step("diagnosis", {}, problems=problems, collected=inputs["collected"], **images, **parts)
    return {"collect": inputs["collected"], **parts, "diagnosis": page}


def run_to_model(settings: Settings, method: str, step: Step[Handle]) -> dict[str, Handle]:
    """Run a recipe up to the model of ``method``; returns handles of ``model``, ``problems``, ``auxiliary_images``."""

    def without_evaluation(name: str, params: Mapping[str, Any], /, **inputs: Handle) -> Handle:
        return inputs["model"] if name in ("evaluation", "blind-evaluation") else step(name, params, **inputs)

    evaluation = settings.evaluation.model_copy(update={"methods": (method,)})
    handles = run_to_evaluations(settings.model_copy(update={"evaluation": evaluation}), without_evaluation)
    judged = get_method(method)
    return {
        "model": handles[judged.stage],
        "problems": handles[judged.problems],
        "auxiliary_images": handles["auxiliary-images"],
    }


def diagnose_target(settings: Settings, target: DiagnosisTarget, step: Step[Artifact]) -> dict[str, Artifact]:
    """Run to the page, from the recipe or from a chosen model; returns the artifact of each label."""
    if target.model is None:
        inputs = run_to_model(settings, target.method, step)
        if target.problems is not None:
            inputs["problems"] = target.problems
        return diagnose(step, target.measures, method=target.method, **inputs)
    if target.problems is None and get_method(target.method).problems != "problems":
        raise InputError(f"{target.method} has problems of its own: choose them beside the model")
    problems = target.problems or step("problems", {})
    return diagnose(step, target.measures, model=target.model, problems=problems, method=target.method)


def default_method(settings: Settings) -> str:
    """Return the method of a recipe to diagnose: the furthest trained with latents, else the furthest trained.

    InputError where the recipe trains nothing.
    """
    trained = [method for method in map(get_method, methods_of(settings)) if method.stages]
    if not trained:
        raise InputError(
            f"the recipe {settings.recipe} trains no model (evaluation.methods is "
            f"{', '.join(settings.evaluation.methods)}): add stage-2 to them, or choose a model"
        )
    return max(trained, key=lambda method: (method.latents == "on", len(method.stages), method.name)).name


def select_measures(settings: Settings, method: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the measures to run: those named, else the recipe's, and those of films where it has some.

    A model without latents has those of its text.

    InputError for an unknown one, or one that needs latents where the model has none.
    """
    from mirage_core.analysis.result_files import RESULTS

    unknown = [name for name in names if name not in RESULTS]
    if unknown:
        raise InputError(f"got the measure {unknown[0]!r}, expected some of {', '.join(RESULTS)}")
    if get_method(method).latents == "on":
        films = () if settings.auxiliary_images.film == "off" else ("film", "hand-made")
        return in_order(names or (*settings.analysis.measures, *films))
    impossible = [name for name in names if name not in ON_TEXT]
    if impossible:
        raise InputError(
            f"{method} answers without latents, so {', '.join(impossible)} cannot be measured: "
            f"expected {', '.join(ON_TEXT)}"
        )
    return ON_TEXT


def save_diagnosis_record(store: Store, page: Artifact) -> None:
    """Record a diagnosis in the store, so that `mirage store gc` keeps the page and all of its inputs."""
    name = page.path.rpartition("/")[2]
    store.write_json(f"{RECORDS}/{name}.json", {"diagnosis": page.model_dump(mode="json")})

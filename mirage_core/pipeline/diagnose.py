"""The walk of a diagnosis, written once: the road to a model, one clean run, every measure, the looks, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.pipeline import Step, judged, methods, model_of, test_of, trained_for
from mirage_core.pipeline.stages.diagnosis import MEASURED, in_order
from mirage_core.pipeline.stages.evaluate import latents_of
from mirage_core.store import Store
from mirage_core.types import Artifact

Handle = TypeVar("Handle")

RECORDS = "diagnoses"
ON_TEXT = ("text-chain",)
"""What can be measured on a model that answers without latents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """What is diagnosed: the method, the measures to take, and a model and problems where they were chosen."""

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
    """Measure a model and write its page: collect, each measure, looks, diagnosis; the handle of each by its label.

    ``method``: how the model answers, None where nothing is to be looked at.
    """
    drawn = {} if auxiliary_images is None else {"auxiliary_images": auxiliary_images}
    collected = step("collect", {}, model=model, problems=problems)
    made = {
        MEASURED + name: step("measure", {"measure": name}, model=model, problems=problems, collected=collected)
        for name in in_order(measures)
    }
    if method is not None and looked_at(method):
        made["looks"] = step("looks", {"method": method}, model=model, problems=problems, collected=collected, **drawn)
    page = step("diagnosis", {}, problems=problems, collected=collected, **drawn, **made)
    return {"collect": collected, **made, "diagnosis": page}


def road_to(settings: Settings, method: str, step: Step[Handle]) -> dict[str, Handle]:
    """Walk a recipe as far as the model of ``method``: handles of ``model``, ``problems``, ``auxiliary_images``."""

    def unjudged(name: str, params: Mapping[str, Any], /, **inputs: Handle) -> Handle:
        return inputs["model"] if name == "evaluation" else step(name, params, **inputs)

    one = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"methods": (method,)})})
    made = judged(one, unjudged)
    return {
        "model": made[model_of(method)],
        "problems": made[test_of(method)],
        "auxiliary_images": made["auxiliary-images"],
    }


def walked(settings: Settings, chosen: Diagnosed, step: Step[Artifact]) -> dict[str, Artifact]:
    """Walk to the page: along the recipe to its model, or from a model that was chosen; the artifact of each label."""
    if chosen.model is None:
        made = road_to(settings, chosen.method, step)
        given = {**made, **({} if chosen.problems is None else {"problems": chosen.problems})}
        return diagnose(step, chosen.measures, method=chosen.method, **given)
    if chosen.problems is None and test_of(chosen.method) != "problems":
        raise InputError(f"{chosen.method} is asked problems of its own: choose them beside the model")
    problems = chosen.problems or step("problems", {})
    return diagnose(step, chosen.measures, model=chosen.model, problems=problems, method=chosen.method)


def looked_at(method: str) -> bool:
    """Whether a method's answers have latents to look at."""
    return latents_of(method) == "on"


def furthest(settings: Settings) -> str:
    """The method of a recipe that is diagnosed: the furthest trained with latents, else the furthest trained.

    InputError where the recipe trains nothing.
    """
    wanted = methods(settings)
    trained = sorted(
        (method for method in wanted if trained_for(method)), key=lambda method: _rank(method), reverse=True
    )
    if not trained:
        raise InputError(
            f"the recipe {settings.recipe} trains no model (evaluation.methods is "
            f"{', '.join(settings.evaluation.methods)}): add stage-2 to them, or choose a model"
        )
    return trained[0]


def _rank(method: str) -> tuple[bool, int, str]:
    """Later is further: with latents, then by the stages that were trained."""
    return looked_at(method), len(trained_for(method)), method


def chosen_measures(settings: Settings, method: str, named: Sequence[str]) -> tuple[str, ...]:
    """The measures to take: those named, else the recipe's; of a model without latents those on its text.

    InputError for one that is not known, or that a model without latents cannot answer.
    """
    from mirage_core.analysis.results import RESULTS

    unknown = [name for name in named if name not in RESULTS]
    if unknown:
        raise InputError(f"got the measure {unknown[0]!r}, expected some of {', '.join(RESULTS)}")
    if latents_of(method) == "on":
        return in_order(named or settings.analysis.measures)
    impossible = [name for name in named if name not in ON_TEXT]
    if impossible:
        raise InputError(
            f"{method} answers without latents, so {', '.join(impossible)} cannot be taken: "
            f"expected {', '.join(ON_TEXT)}"
        )
    return ON_TEXT


def keep_record(store: Store, page: Artifact) -> None:
    """Note a diagnosis in the store, so that `mirage store gc` keeps the page and all it was made from."""
    name = page.path.rpartition("/")[2]
    store.write_json(f"{RECORDS}/{name}.json", {"diagnosis": page.model_dump(mode="json")})

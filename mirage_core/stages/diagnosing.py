"""The walk of a diagnosis, written once: the road to a model, one clean run, every measure, the looks, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.stages.diagnosis import MEASURED, in_order
from mirage_core.stages.evaluation import latents_of
from mirage_core.stages.road import Step, judged, model_of, test_of
from mirage_core.store import Store
from mirage_core.types import Artifact

Handle = TypeVar("Handle")

RECORDS = "diagnoses"
ON_TEXT = ("text-chain",)
"""What can be measured on a model that answers without latents."""


def diagnose(
    step: Step[Handle],
    measures: Sequence[str],
    *,
    model: Handle,
    problems: Handle,
    auxiliary_images: Handle | None = None,
    looks: bool = True,
) -> dict[str, Handle]:
    """Measure a model and write its page: collect, each measure, looks, diagnosis; the handle of each by its label."""
    drawn = {} if auxiliary_images is None else {"auxiliary_images": auxiliary_images}
    collected = step("collect", {}, model=model, problems=problems)
    made = {
        MEASURED + name: step("measure", {"measure": name}, model=model, problems=problems, collected=collected)
        for name in in_order(measures)
    }
    if looks:
        made["looks"] = step("looks", {}, model=model, problems=problems, collected=collected, **drawn)
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


def chosen_measures(settings: Settings, method: str, named: Sequence[str]) -> tuple[str, ...]:
    """The measures to take: those named, else the recipe's; of a model without latents those on its text.

    InputError for one that is not known, or that a model without latents cannot answer.
    """
    from mirage_core.analysis.result import RESULTS

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

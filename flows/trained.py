"""Which trained model is meant: the newest run's furthest, an artifact, or a folder; and how it is to be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from mirage_core import benchmarks
from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactMissing, InputError, SettingsError
from mirage_core.pipeline.run_record import RunRecord, load_record
from mirage_core.recipes import load, names
from mirage_core.store import Store
from mirage_core.types import Artifact

# The furthest trained model first: what a run calls the step, and what an evaluation calls the method.
TRAINED = {
    "grpo": "grpo",
    "relaxation": "stage-2",
    "without-stage-1-grpo": "without-stage-1-grpo",
    "without-stage-1": "without-stage-1",
    "grounding": "stage-1",
    "capimagine-grpo": "capimagine-grpo",
    "capimagine": "capimagine",
    "direct-sft-grpo": "direct-sft-grpo",
    "direct-sft": "direct-sft",
    "auxiliary-input": "auxiliary-input",
}
METHOD_OF_STEP = {**TRAINED, "base": "zero-shot"}
STEPS = {method: step for step, method in METHOD_OF_STEP.items()}
# The programs that trained a model folder, the last first, as its mirage.json says, and the method that uses it.
METHOD_OF_STAGES = {
    ("grpo", "text"): "direct-sft-grpo",
    ("grpo", "capimagine"): "capimagine-grpo",
    ("grpo", "relaxation", "base"): "without-stage-1-grpo",
    ("grpo",): "grpo",
    ("relaxation", "base"): "without-stage-1",
    ("relaxation",): "stage-2",
    ("grounding",): "stage-1",
    ("capimagine",): "capimagine",
    ("text",): "direct-sft",
}
FALLBACK_RECIPE = "tiny"
# A recipe with a teacher behind an endpoint must name one; where it was is not told, and a trained model needs none.
NO_TEACHER = "http://teacher.invalid/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder on this machine, the method that uses it, its settings, and what to call it.

    ``told``: what its artifact's manifest adds to its mirage.json: the recipe's settings, commit and versions.
    """

    name: str
    folder: Path
    method: str
    settings: Settings
    told: Mapping[str, object] = field(default_factory=dict)


def checkpoint(reference: str | None, method: str | None, store: Store) -> Checkpoint:
    """The model meant by a folder, an artifact's path or digest, or None: then the newest run's.

    ``method`` chooses among a run's models, and overrules how a given model is used.
    """
    if reference is None:
        return _of_newest_run(method, store)
    if Path(reference).is_dir() and (Path(reference) / "config.json").is_file():
        return _of_folder(Path(reference).resolve(), method)
    artifact = store.get(reference)
    if artifact.kind != "model":
        raise InputError(f"{artifact.path} is a {artifact.kind}, expected a model: `mirage store ls model` lists them")
    about = store.manifest(artifact).about
    told, used = about.get("settings"), method or METHOD_OF_STEP.get(str(about.get("stage")))
    chosen = _of_folder(store.fetch(artifact), used, name=artifact.path, told=told if isinstance(told, dict) else None)
    return replace(chosen, told=_told(store, artifact))


def use_task(benchmark: str, reference: str | None, store: Store) -> None:
    """Make a benchmark known that is the own task of the model's recipe; where there is no model, nobody knows it."""
    if benchmark in benchmarks.NAMES:
        return
    try:
        chosen = checkpoint(reference, None, store)
    except ArtifactMissing:
        return
    benchmarks.use(chosen.settings.problems)


def newest_trained(store: Store, recipe: str | None = None) -> RunRecord:
    """The newest completed run that trained a model; ArtifactMissing where there is none."""
    for name in sorted(store.names("runs/"), reverse=True):
        record = load_record(store, name)
        trained = any(stage.name in TRAINED and stage.path for stage in record.stages)
        if record.state == "Completed" and trained and recipe in (None, record.recipe):
            return record
    wanted = f" of the recipe {recipe}" if recipe else ""
    raise ArtifactMissing(f"no completed run{wanted} with a trained model in {store.url}: `mirage run` makes one")


def trained_step(record: RunRecord) -> tuple[str, str]:
    """The step of a run that trained the furthest, and its method's name."""
    made = {stage.name for stage in record.stages if stage.path}
    return next((step, method) for step, method in TRAINED.items() if step in made)


def artifact_of(store: Store, record: RunRecord, step: str) -> Artifact:
    """The artifact a run's step made; ArtifactMissing when there is none, or it is gone."""
    path = next((stage.path for stage in record.stages if stage.name == step and stage.path), None)
    if path is None:
        made = ", ".join(stage.name for stage in record.stages if stage.path)
        raise ArtifactMissing(f"run {record.id} of {record.recipe} made no {step}, it made {made}: choose another")
    return store.get(path)


def settings_of(told: dict[str, object], whose: str) -> Settings:
    """Settings as they were kept; SettingsError when this version no longer understands them."""
    try:
        return Settings.model_validate(told)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SettingsError(
            f"the settings of {whose} do not fit this version at {where}: run the recipe again"
        ) from error


def _of_newest_run(method: str | None, store: Store) -> Checkpoint:
    record = newest_trained(store)
    step, used = (_step_of(method), method) if method else trained_step(record)
    artifact = artifact_of(store, record, step)
    settings = settings_of(record.settings, f"run {record.id}")
    folder = store.fetch(artifact)
    return Checkpoint(name=artifact.path, folder=folder, method=used, settings=settings, told=_told(store, artifact))


def _told(store: Store, artifact: Artifact) -> dict[str, object]:
    """What a model's manifest says beyond its mirage.json; places, hosts and addresses (runtime) are nobody else's."""
    about = store.manifest(artifact).about
    settings = {name: value for name, value in about.get("settings", {}).items() if name != "runtime"}
    return {"settings": settings, **({"made_with": about["made_with"]} if "made_with" in about else {})}


def _of_folder(
    folder: Path, method: str | None, *, name: str | None = None, told: dict[str, object] | None = None
) -> Checkpoint:
    about = about_folder(folder)
    settings = _settings_in(about, folder) if told is None else settings_of(told, str(name))
    used = method or method_of(about)
    _step_of(used)
    return Checkpoint(name=name or str(folder), folder=folder, method=used, settings=settings)


def _settings_in(about: Mapping[str, object], folder: Path) -> Settings:
    """The settings a model folder carries, done the way its recipe is done here; of an older one its recipe's."""
    recipe = str(about.get("recipe", FALLBACK_RECIPE))
    known = load(recipe if recipe in names() else FALLBACK_RECIPE)
    kept = about.get("settings")
    if not isinstance(kept, dict):
        # Not exported: it says how it is to be used, the rest is as its recipe has it.
        used = {name: about[name] for name in ("prompt", "latent") if name in about}
        teacher = {**identity(known.teacher), "variant": about.get("variant", known.teacher.variant)}
        return settings_of({**identity(known), **used, "teacher": teacher}, str(folder))
    runtime = identity(known.runtime)
    runtime["teacher"]["base_url"] = NO_TEACHER
    return settings_of({**kept, "runtime": runtime}, str(folder))


def method_of(about: Mapping[str, object]) -> str:
    """The method that uses a model, by the programs that trained it; one that none trained is a base."""
    told = about.get("stages")
    stages = [*told[::-1]] if isinstance(told, list) else [about.get("stage")]
    fitting = (method for last, method in METHOD_OF_STAGES.items() if tuple(stages[: len(last)]) == last)
    return next(fitting, "zero-shot")


def about_folder(folder: Path) -> dict[str, object]:
    """What mirage.json says; a model this project did not make has none."""
    path = folder / "mirage.json"
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): take the folder as it was saved") from error
    return about if isinstance(about, dict) else {}


def _step_of(method: str) -> str:
    if method not in STEPS:
        raise InputError(f"got the method {method!r}, expected one of {', '.join(STEPS)}")
    return STEPS[method]

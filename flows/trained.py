"""Which trained model a command means: the newest run's furthest, an artifact, or a folder; and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirage_core import benchmarks
from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactMissing, InputError, SettingsError
from mirage_core.json_values import read_json
from mirage_core.latent.span_tokens import authors_metadata, family_of_folder
from mirage_core.methods import TRAIN_STAGES, Method, furthest_first, get_method, method_of_stage
from mirage_core.pipeline.run_record import RunRecord, load_record
from mirage_core.recipes import load, names
from mirage_core.store import Store
from mirage_core.types import Artifact

FALLBACK_RECIPE = "tiny"
# A recipe with a teacher behind an endpoint must name one; a trained model needs none, and none is recorded with it.
NO_TEACHER = "http://teacher.invalid/v1"
NO_ROLLOUTS = "http://127.0.0.1:9"  # the port of discard


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder on this machine, the method that uses it, its settings, and its name.

    ``provenance``: what its artifact's manifest adds to its mirage.json: the recipe's settings, commit and versions.
    """

    name: str
    folder: Path
    method: str
    settings: Settings
    provenance: Mapping[str, object] = field(default_factory=dict)


def find_checkpoint(reference: str | None, method: str | None, store: Store) -> Checkpoint:
    """Return the model of a folder, of an artifact's path or digest, of a pointer, or (None) of the newest run.

    ``method`` chooses among a run's models, and overrules how a given model is used.
    """
    if reference is None:
        return _of_newest_run(method, store)
    if Path(reference).is_dir() and (Path(reference) / "config.json").is_file():
        return _of_folder(Path(reference).resolve(), method)
    artifact = store.pointer(reference).artifact if reference in store.pointers() else store.get(reference)
    if artifact.kind != "model":
        raise InputError(f"{artifact.path} is a {artifact.kind}, expected a model: `mirage store ls model` lists them")
    about = store.manifest(artifact).about
    settings, judging = about.get("settings"), method_of_stage(str(about.get("stage")))
    checkpoint = _of_folder(
        store.fetch(artifact),
        method or (judging.name if judging else None),
        name=artifact.path,
        settings=settings if isinstance(settings, dict) else None,
    )
    return replace(checkpoint, provenance=_provenance(store, artifact))


def use_task(benchmark: str, reference: str | None, store: Store) -> None:
    """Register a benchmark that is the custom task of the model's recipe; without a model nothing is registered."""
    if benchmark in benchmarks.NAMES:
        return
    try:
        checkpoint = find_checkpoint(reference, None, store)
    except ArtifactMissing:
        return
    benchmarks.use(checkpoint.settings.problems)


def newest_trained(store: Store, recipe: str | None = None) -> RunRecord:
    """Return the newest completed run that trained a model; ArtifactMissing where there is none."""
    for name in sorted(store.names("runs/"), reverse=True):
        record = load_record(store, name)
        if record.state == "Completed" and trained_method(record) and recipe in (None, record.recipe):
            return record
    of_recipe = f" of the recipe {recipe}" if recipe else ""
    raise ArtifactMissing(f"no completed run{of_recipe} with a trained model in {store.url}: `mirage run` makes one")


def trained_method(record: RunRecord) -> Method | None:
    """Return the method whose model a run has trained the furthest; None where it trained none."""
    finished = {stage.name for stage in record.stages if stage.path}
    return next((method for method in furthest_first() if method.stage in finished), None)


def artifact_of(store: Store, record: RunRecord, stage: str) -> Artifact:
    """Return the artifact of a run's stage; ArtifactMissing when there is none, or it was removed."""
    paths = {line.name: line.path for line in record.stages if line.path}
    if stage not in paths:
        raise ArtifactMissing(
            f"run {record.id} of {record.recipe} made no {stage}, it made {', '.join(paths)}: choose another"
        )
    return store.get(paths[stage])


def parse_settings(data: Mapping[str, object], owner: str) -> Settings:
    """Return settings as they were saved; SettingsError when this version no longer understands them."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f" at {part}" for part in [".".join(map(str, first["loc"]))] if part)
        raise SettingsError(
            f"the settings of {owner} do not fit this version{where} ({first['msg']}): run the recipe again"
        ) from error


def _of_newest_run(name: str | None, store: Store) -> Checkpoint:
    record = newest_trained(store)
    method = get_method(name) if name else trained_method(record)
    assert method is not None
    artifact = artifact_of(store, record, method.stage)
    settings = parse_settings(record.settings, f"run {record.id}")
    return Checkpoint(
        name=artifact.path,
        folder=store.fetch(artifact),
        method=method.name,
        settings=settings,
        provenance=_provenance(store, artifact),
    )


def _provenance(store: Store, artifact: Artifact) -> dict[str, object]:
    """Return what a model's manifest adds to its mirage.json, without ``runtime`` (local paths, hosts, addresses)."""
    about = store.manifest(artifact).about
    settings = {name: value for name, value in about.get("settings", {}).items() if name != "runtime"}
    return {"settings": settings, **({"made_with": about["made_with"]} if "made_with" in about else {})}


def _of_folder(
    folder: Path, method: str | None, *, name: str | None = None, settings: dict[str, Any] | None = None
) -> Checkpoint:
    metadata = read_metadata(folder)
    chosen = _settings_in(metadata, folder) if settings is None else parse_settings(settings, str(name))
    used = get_method(method or method_of(metadata)).name
    return Checkpoint(name=name or str(folder), folder=folder, method=used, settings=chosen)


def _settings_in(metadata: Mapping[str, Any], folder: Path) -> Settings:
    """Return the settings a model folder holds, with its recipe's runtime; of an older folder those of its recipe."""
    recipe = str(metadata.get("recipe", FALLBACK_RECIPE))
    known = load(recipe if recipe in names() else FALLBACK_RECIPE)
    saved = metadata.get("settings")
    if not isinstance(saved, dict):
        # Not exported: it records how it is to be used, the rest is as in its recipe.
        used = {name: metadata[name] for name in ("prompt", "latent") if name in metadata}
        teacher = {**identity(known.teacher), "variant": metadata.get("variant", known.teacher.variant)}
        return parse_settings({**identity(known), **used, "teacher": teacher}, str(folder))
    # What its training asked of a runtime, no answer asks: any optimizer, teacher or server of rollouts fits this one.
    runtime = {**identity(known.runtime), "engine": "plain", "rollouts_url": NO_ROLLOUTS}
    runtime["teacher"]["base_url"] = NO_TEACHER
    return parse_settings({**saved, "runtime": runtime}, str(folder))


def method_of(metadata: Mapping[str, Any]) -> str:
    """Return the method whose training fits the programs of a mirage.json best, the last ones first.

    Of several the furthest trained; zero-shot where no program fits.
    """
    programs = metadata.get("stages")
    history = programs[::-1] if isinstance(programs, list) else [metadata.get("stage")]

    def fit(method: Method) -> int:
        """Return how many programs agree, from the last one back to the base."""
        own = [*(TRAIN_STAGES[name].program.name for name in reversed(method.stages)), "base"]
        return len([*takewhile(lambda pair: pair[0] == pair[1], zip(own, history, strict=False))])

    best = max(furthest_first(), key=fit)
    return best.name if fit(best) else "zero-shot"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the content of mirage.json; of a model of other authors, by its tokens, which method made it."""
    path = folder / "mirage.json"
    if not path.is_file():
        return authors_metadata(family_of_folder(folder))
    try:
        metadata = read_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): take the folder as it was saved") from error
    return metadata if isinstance(metadata, dict) else {}

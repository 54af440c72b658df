"""``mirage diagnose``: measure whether a model's latents matter, in this process or by the deployment."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.printing import console
from flows.commands.session import DirectProgress, absolute, connect_to_prefect, ended_by_sigterm, environment, keys_of
from flows.diagnosis_target import diagnosed
from mirage_core.config import Settings
from mirage_core.pipeline.diagnose import Diagnosed, keep_record, walked
from mirage_core.pipeline.recovery import healed, retried
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.shards import in_processes, run_stage_in_shards
from mirage_core.pipeline.stage import StageResult, label
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent
from tasks.paths import open_store

if TYPE_CHECKING:
    from flows.watch import Say


def diagnose(
    model: str | None,
    recipe: str,
    sets: list[str],
    method: str | None,
    problems: str | None,
    measures: str | None,
    store: str | None,
    *,
    direct: bool,
    as_json: bool,
    open_page: bool,
) -> None:
    """Take the measures and write the page, then say the verdict and where the page is."""
    opened = open_store(store)
    named = [name.strip() for name in (measures or "").split(",") if name.strip()]
    asked: dict[str, Any] = {"overrides": sets, "method": method, "model": model or "", "problems": problems or "",
                             "measures": named}  # fmt: skip
    settings, chosen = diagnosed(opened, recipe=recipe, **asked)  # what cannot be done is said before anything starts
    if direct:
        page = run_direct(settings, chosen, opened, _silent if as_json else DirectProgress())
    else:
        say = _nothing if as_json else _printed
        page = run_deployment({"recipe": absolute(recipe), **asked}, settings, chosen, store, say)
    show(page, opened, as_json=as_json)
    if open_page:
        webbrowser.open(place_of(page, opened).as_uri())


def run_direct(settings: Settings, chosen: Diagnosed, store: Store, progress: Progress) -> Artifact:
    """Walk in this process; Prefect is not imported."""
    shards = in_processes(partial(Store.open, store.url, store.cache))

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        def run() -> StageResult:
            return run_stage_in_shards(get_stage(name), settings, inputs, store, progress, params, fan_out=shards)

        return retried(run, lambda said: progress(ProgressEvent(stage=label(name, params), message=said))).artifact

    def say(said: str) -> None:
        progress(ProgressEvent(stage="diagnosis", message=said))

    with keys_of(settings), ended_by_sigterm():
        page = healed(lambda: walked(settings, chosen, step), say)["diagnosis"]
    keep_record(store, page)
    return page


def run_deployment(
    parameters: Mapping[str, Any], settings: Settings, chosen: Diagnosed, store: str | None, say: Say
) -> Artifact:
    """Start mirage-study/diagnosis and watch it; the page it made is then in the store."""
    connect_to_prefect()
    from flows.watch import start_and_watch

    start_and_watch(
        "mirage-study/diagnosis",
        parameters=parameters, environment=environment(store), say=say,
    )  # fmt: skip
    return made_page(settings, chosen, open_store(store))


def made_page(settings: Settings, chosen: Diagnosed, store: Store) -> Artifact:
    """The page that a finished run has left: every stage before it is found in the store, none runs."""
    from mirage_core.errors import ArtifactMissing
    from mirage_core.pipeline.stage import stage_fingerprint

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        stage = get_stage(name)
        found = store.find(stage.kind, stage_fingerprint(stage, settings, inputs, params))
        if found is None:
            raise ArtifactMissing(f"{label(name, params)} is not in {store.url}: run the same command again")
        return found

    return walked(settings, chosen, step)["diagnosis"]


def show(page: Artifact, store: Store, *, as_json: bool) -> None:
    """The verdicts, and where the page is."""
    place = place_of(page, store)
    if as_json:
        console.print_json(place.with_suffix(".json").read_text(encoding="utf-8"))
        return
    console.print(str(page.summary["headline"]), style="bold", markup=False)
    for edge in page.summary["edges"]:
        colour = {"yes": "green", "no": "red"}.get(edge["outcome"], "yellow")
        console.print(f"{edge['edge']}  {edge['outcome']}: {edge['said']}", style=colour, markup=False)
    console.print(f"page: {place}", markup=False)


def place_of(page: Artifact, store: Store) -> Path:
    """The page as a local file."""
    return store.fetch(page) / str(page.summary["page"])


def _printed(line: str, style: str | None = None) -> None:
    console.print(line, style=style, markup=False)


def _nothing(line: str, style: str | None = None) -> None:
    """Nothing stands beside JSON."""


def _silent(event: ProgressEvent) -> None:
    """The same, of this process's stages."""

"""``mirage diagnose``: measure whether a model's latents matter, in this process or by the deployment."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flows.commands.open_display import open_display
from flows.commands.printing import console, print_line
from flows.commands.session import absolute_recipe, api_url, exit_on_sigterm, flow_environment, provide_teacher_key
from flows.diagnosis_target import resolve_target
from flows.display.display import Display, Silent
from flows.model_folders import is_model_folder, stored_model, stored_problems
from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.diagnose import DiagnosisTarget, diagnose_target, save_diagnosis_record
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.runner import StageRunner
from mirage_core.pipeline.stage import label
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress
from tasks.paths import open_store


def diagnose(
    model: str | None,
    recipe: str,
    sets: list[str],
    method: str | None,
    problems: str | None,
    measures: str | None,
    store: str | None,
    *,
    benchmark: str | None = None,
    data: Path | None = None,
    direct: bool,
    as_json: bool,
    open_page: bool,
) -> None:
    """Take the measures and write the page, then print the verdict and the page's path."""
    if model is not None and model.startswith(("http://", "https://")):
        raise InputError(
            f"got the address {model}, expected a model's folder or artifact: diagnosis reads and exchanges hidden "
            "states, which no endpoint gives. Of an endpoint `mirage evaluate --endpoint URL` tells the accuracy, and "
            "with --blank that without pictures"
        )
    opened = open_store(store)
    if is_model_folder(model):
        model = stored_model(opened, str(model), method).path
    if benchmark is not None:
        problems = stored_problems(opened, benchmark, data).path
    measure_names = [name.strip() for name in (measures or "").split(",") if name.strip()]
    parameters: dict[str, Any] = {
        "overrides": sets,
        "method": method,
        "model": model or "",
        "problems": problems or "",
        "measures": measure_names,
    }
    settings, chosen = resolve_target(opened, recipe=recipe, **parameters)  # errors come before anything starts
    display = Silent(console) if as_json else open_display()
    if direct:
        with display:
            page = run_direct(settings, chosen, opened, display.progress)
    else:
        page = run_deployment({"recipe": absolute_recipe(recipe), **parameters}, settings, chosen, store, display)
    show(page, opened, as_json=as_json)
    if open_page:
        webbrowser.open(local_page(page, opened).as_uri())


def run_direct(settings: Settings, chosen: DiagnosisTarget, store: Store, progress: Progress) -> Artifact:
    """Run the measures in this process, without importing Prefect."""
    stages = StageRunner(store, progress)

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        return stages.run(name, params, settings, inputs).artifact

    with provide_teacher_key(settings), exit_on_sigterm():
        for attempt in reruns_on_lost_artifact(partial(stages.log, "diagnosis")):
            with attempt:
                page = diagnose_target(settings, chosen, step)["diagnosis"]
    save_diagnosis_record(store, page)
    return page


def run_deployment(
    parameters: Mapping[str, Any], settings: Settings, chosen: DiagnosisTarget, store: str | None, display: Display
) -> Artifact:
    """Start mirage-study/diagnosis, watch it to its end, and return its page from the store."""
    from flows.watch import start_and_watch

    start_and_watch(
        api_url(),
        "mirage-study/diagnosis",
        parameters=parameters,
        environment=flow_environment(store),
        display=display,
    )
    return find_page(settings, chosen, open_store(store))


def find_page(settings: Settings, chosen: DiagnosisTarget, store: Store) -> Artifact:
    """Return the page of a finished run; every stage before it is found in the store, none runs."""
    from mirage_core.errors import ArtifactMissing
    from mirage_core.pipeline.stage import stage_fingerprint

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        stage = get_stage(name)
        artifact = store.find(stage.kind, stage_fingerprint(stage, settings, inputs, params))
        if artifact is None:
            raise ArtifactMissing(f"{label(name, params)} is not in {store.url}: run the same command again")
        return artifact

    return diagnose_target(settings, chosen, step)["diagnosis"]


def show(page: Artifact, store: Store, *, as_json: bool) -> None:
    """Print the verdicts and the page's path."""
    path = local_page(page, store)
    if as_json:
        console.print_json(path.with_suffix(".json").read_text(encoding="utf-8"))
        return
    print_line(str(page.summary["headline"]), "bold")
    for edge in page.summary["edges"]:
        colour = {"yes": "green", "no": "red"}.get(edge["outcome"], "yellow")
        print_line(f"{edge['edge']}  {edge['outcome']}: {edge['said']}", colour)
    print_line(f"page: {path}")


def local_page(page: Artifact, store: Store) -> Path:
    """Return the page as a local file."""
    return store.fetch(page) / str(page.summary["page"])

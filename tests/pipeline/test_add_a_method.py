"""A new method takes one record and one loss: it is then planned, trained, judged and reported like the others."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.trained import find_checkpoint
from mirage_core import methods
from mirage_core.config import CoconutSettings, EvaluationSettings, Settings
from mirage_core.distributed import launch
from mirage_core.distributed.job import Job
from mirage_core.errors import InputError, SettingsError
from mirage_core.methods import METHODS, TRAIN_STAGES, Method, Program, TrainStage, register
from mirage_core.pipeline.pipeline import plan
from mirage_core.pipeline.runner import run_in_process
from mirage_core.planning.plan import make_plan
from mirage_core.recipes import load
from mirage_core.reports.labels import method_label, stage_label
from mirage_core.reports.run.training_budget import budget_of
from mirage_core.store import Store
from tests.pipeline.jobs_here import run_here

PACKAGE = Path(methods.__file__).parent
MODULE = "tests.pipeline.latent_reconstruction"
SMALL = [
    "evaluation={methods: [zero-shot, reconstruction], max_new_tokens: 8}",
    "problems.vsp_planning={train: 8, validation: 2, test_per_level: 2}",
    "problems.vsp_reasoning=null",
    "model.warmup.steps=2",
    "grounding={steps: 2, batch_size: 4}",
    "runtime={engine: plain, processes: 1, threads: 1}",
]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[Method]:
    """The method, known to this process and to those it starts; forgotten afterwards."""
    before = dict(METHODS), dict(TRAIN_STAGES)
    monkeypatch.setenv(methods.MODULES, MODULE)
    methods.import_registered()
    yield METHODS["reconstruction"]
    for registry, entries in zip((METHODS, TRAIN_STAGES), before, strict=True):
        registry.clear()
        registry.update(entries)  # type: ignore[arg-type]
    del sys.modules[MODULE]
    importlib.invalidate_caches()


def run_job_here(real: Any) -> Any:
    """Run all jobs but the new stage's in this process: to start one takes longer than its steps."""

    def run_job(job: Job, **options: Any) -> None:
        if job.program == "reconstruction":
            real(job, **options)
            return
        run_here(job)

    return run_job


@pytest.mark.slow
@pytest.mark.usefixtures("added")
def test_an_added_method_is_planned_trained_judged_and_reported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load("micro", SMALL)
    run_job = run_job_here(launch.run_job)
    monkeypatch.setattr("mirage_core.distributed.launch.run_job", run_job)
    monkeypatch.setattr("mirage_core.evaluation.evaluate.run_job", run_job)
    assert [stage.name for stage in make_plan(settings, 80.0).stages] == ["base", "latent-reconstruction", "evaluation"]

    record = run_in_process(settings, store, lambda event: None)

    assert [stage.name for stage in record.stages if stage.name not in methods.DATA_STAGES] == [
        "latent-reconstruction", "evaluation/zero-shot", "evaluation/reconstruction", "report"
    ]  # fmt: skip
    assert {row.method for row in record.scores} == {"zero-shot", "reconstruction"}
    assert all(stage.cached for stage in plan(settings, store))

    model = find_checkpoint(None, None, store)
    metadata = json.loads((model.folder / "mirage.json").read_text())
    assert model.method == find_checkpoint(str(model.folder), None, store).method == "reconstruction"
    assert metadata["stages"] == ["base", "reconstruction"] and metadata["latent"]["num_latents"] == 4
    assert "latent reconstruction" in (model.folder / "README.md").read_text()
    page = (store.fetch(store.list("report")[0]) / "report.html").read_text()
    assert "Latent reconstruction (squared error)" in page


def test_every_table_knows_an_added_method(added: Method) -> None:
    settings = load("micro", [*SMALL, "runtime.timeouts={latent-reconstruction: 60}"])
    budget = budget_of(added.name, settings, {"latent-reconstruction": 7})

    assert added.name in EvaluationSettings.model_json_schema()["properties"]["methods"]["items"]["enum"]
    assert (added.stages, added.latents) == (("latent-reconstruction",), "on")
    assert (budget.grounding_steps, budget.examples) == (7, 28)
    assert method_label(added.name) == added.label and stage_label(added.stage) == "Latent reconstruction"
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_a_method_that_nobody_added_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"got 'reconstruction', .*'zero-shot', 'direct-sft'"):
        load("micro", SMALL)
    with pytest.raises(SettingsError, match="did you mean stage-2"):
        load("micro", ["evaluation.methods=[stage-22]"])


@pytest.mark.parametrize(
    ("stage", "method", "error"),
    [
        ({"name": "grounding"}, {}, "grounding, which are taken"),
        ({}, {"name": "grpo"}, "grpo, which are taken"),
        ({"program": Program(name="text", title="", section="direct_sft", loss=print)}, {}, "another program 'text'"),
        ({"start": "nothing"}, {}, "unknown stages nothing"),
        ({}, {"stage": "nowhere"}, "unknown stages nowhere"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(stage: dict[str, Any], method: dict[str, Any], error: str) -> None:
    record = {"name": "new", "label": "New", "program": methods.TEXT, "start": "base", "data": "examples", **stage}
    judged = {"name": "new", "label": "New", "stage": "new", **method}
    with pytest.raises(InputError, match=error):
        register(TrainStage(**record), Method(**judged))
    assert "new" not in TRAIN_STAGES and "new" not in METHODS


def test_a_record_that_needs_another_section_is_told_at_once() -> None:
    settings = Settings(recipe="test")
    with pytest.raises(SettingsError, match=r"lvr reads lvr, which is LvrSettings.* needs CoconutSettings"):
        settings.section("lvr", CoconutSettings)
    assert settings.section("coconut", CoconutSettings) is settings.coconut


def test_nothing_asks_which_method_it_is_by_the_type_of_its_section() -> None:
    """Losses state what their own section is; ``Settings.section`` refuses another one. Nothing else looks at types."""
    asked = re.compile(r"isinstance\([^)]*Settings")
    lines = [line.strip() for file in PACKAGE.rglob("*.py") for line in file.read_text().splitlines()]
    found = [line for line in lines if asked.search(line) and not line.startswith("assert ")]
    assert found == [] and any(asked.search(line) for line in lines)

"""Studies over fake stages: what cells share runs once, what fails stops nobody else, what is done stays done."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirage_core.analysis.result_files import write_result
from mirage_core.errors import ArtifactMissing, InputError, StudyIncomplete, TrainingError
from mirage_core.methods import get_method
from mirage_core.pipeline import registry
from mirage_core.pipeline.stage import StageContext
from mirage_core.store import Store
from mirage_core.store.records import PREDICTIONS_FILE, PROBLEMS_FILE, save_predictions, save_problems
from mirage_core.studies.grid import grid
from mirage_core.studies.loading import load_study
from mirage_core.studies.plan import plan_study
from mirage_core.studies.record import newest_study
from mirage_core.studies.run import StudyResult, run_study_in_process
from mirage_core.studies.spec import Study
from tests.flows.fake_measures import FakeMeasures, install_measures
from tests.pipeline.fakes import Events, fake_stages, write_one
from tests.studies.answers import scored
from tests.studies.latents import measured

CELLS = [
    {"name": "direct", "method": "direct-sft"},
    {"name": "mirage", "method": "stage-2"},
    {"name": "mirage-grpo", "method": "grpo"},
    {"sweep": "latent.num_latents", "values": [2, 4], "method": "stage-2", "name": "k"},
    {"name": "cot", "method": "direct-sft", "overrides": {"teacher.variant": "cot"}},
]


def study_of(at: Path, cells: list[dict[str, Any]] | None = None, **changes: Any) -> Study:
    data = {"recipe": "micro", "baseline": "direct", "cells": cells or CELLS, **changes}
    file = at / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    return load_study(file)


def answering(name: str, context: StageContext) -> dict[str, Any]:
    """What a fake stage does: an evaluation leaves answers, a training its steps, and the first stage no problems."""
    summary = write_one(context)
    if name == "problems":
        save_problems(context.output / PROBLEMS_FILE, [])
    if name in ("evaluation", "blind-evaluation"):
        save_predictions(context.output / PREDICTIONS_FILE, scored("1100", context.params["method"]))
    return {**summary, "steps": 5, "tokens": 70}


def measuring(monkeypatch: pytest.MonkeyPatch) -> FakeMeasures:
    """Fakes in the place of the stages that ask a model for its latents; what they measured is written down by hand."""
    fakes = install_measures(monkeypatch)

    def measure(context: StageContext) -> dict[str, Any]:
        fakes.begin(context, "measure")
        write_result(context.output, measured(72, 2, 65))
        return {}

    monkeypatch.setitem(registry.BESIDE, "measure", replace(registry.BESIDE["measure"], run=measure))
    return fakes


def run(study: Study, store: Store, parallel: int = 1) -> StudyResult:
    return run_study_in_process(study, (), store, Events(), parallel=parallel)


@pytest.mark.parametrize("parallel", [1, 3])
def test_what_cells_share_runs_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    ran = fake_stages(monkeypatch, answering)
    result = run(study_of(tmp_path), store, parallel)

    assert Counter(ran) == {
        "problems": 1, "auxiliary-images": 1, "base": 1,  # every cell and every value of k
        "examples": 2, "direct-sft": 2, "evaluation/direct-sft": 2,  # direct and cot
        "grounding": 2, "relaxation": 2, "grpo": 1,  # k = 4 is the recipe's own: mirage, mirage-grpo and k-4 share
        "evaluation/stage-2": 2, "evaluation/grpo": 1,
    }  # fmt: skip
    assert result.record.state == "Completed"
    assert [outcome.run.name for outcome in result.cells] == [run.name for run in grid(study_of(tmp_path))]


def test_cells_of_a_recipe_with_blind_evaluation_have_a_line_without_the_picture(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages(monkeypatch, answering)
    blind = replace(registry.get_stage("blind-evaluation"), run=lambda context: answering("blind-evaluation", context))
    monkeypatch.setitem(registry.BESIDE, "blind-evaluation", blind)
    result = run(study_of(tmp_path, CELLS[:2], overrides={"evaluation.blind": True}), store)

    figures = json.loads((store.fetch(result.report) / "study.json").read_text())
    assert all(cell["scores_without_picture"] for cell in figures["cells"])


def test_a_second_study_finds_everything_cached_and_the_same_report(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fake_stages(monkeypatch, answering)
    first = run(study_of(tmp_path), store)
    done = list(ran)
    second = run(study_of(tmp_path), store)

    assert ran == done
    assert second.report == first.report
    assert all(line.cached for cell in second.record.cells for line in cell.stages)
    assert newest_study(store, "mine") == second.record


def test_a_cell_that_fails_stops_nobody_else_and_is_all_that_runs_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    def work(name: str, context: StageContext) -> dict[str, Any]:
        if name == "relaxation" and context.settings.latent.num_latents == 2 and broken:
            raise TrainingError("the loss is nan\nat step 3")
        return answering(name, context)

    ran = fake_stages(monkeypatch, work)
    result = run(study_of(tmp_path), store)

    assert [outcome.run.name for outcome in result.failed] == ["k-2/42"]
    assert (result.record.state, result.record.error) == ("Failed", "cells failed: k-2/42")
    with pytest.raises(StudyIncomplete, match=r"1 of 6 cells failed: k-2/42 .*the loss is nan.*only what is missing"):
        result.check()
    figures = json.loads((store.fetch(result.report) / "study.json").read_text())
    assert [len(cell["scores"]) for cell in figures["cells"]] == [3, 3, 3, 0, 3, 3]

    broken.clear()
    ran.clear()
    mended = run(study_of(tmp_path), store)
    assert ran == ["relaxation", "evaluation/stage-2"]
    mended.check()
    assert mended.record.state == "Completed"


def test_a_shared_stage_that_fails_is_tried_once_and_fails_all_that_need_it(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(name: str, context: StageContext) -> dict[str, Any]:
        if name == "grounding":
            raise TrainingError("no")
        return answering(name, context)

    ran = fake_stages(monkeypatch, work)
    result = run(study_of(tmp_path), store)

    assert [outcome.run.cell.name for outcome in result.failed] == ["mirage", "mirage-grpo", "k-2", "k-4"]
    assert ran.count("grounding") == 2, "once with k = 4, once with k = 2"


def test_cells_in_parallel_wait_for_the_stage_they_share(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cells stand at the base at the same time; only one of them may be inside."""
    inside, most, lock = [0], [0], threading.Lock()

    def work(name: str, context: StageContext) -> dict[str, Any]:
        if name == "base":
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.2)
            with lock:
                inside[0] -= 1
        return answering(name, context)

    ran = fake_stages(monkeypatch, work)
    run(study_of(tmp_path), store, parallel=3)

    assert most == [1] and ran.count("base") == 1


def test_an_artifact_that_was_found_damaged_is_made_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(name: str, context: StageContext) -> dict[str, Any]:
        if name == "direct-sft" and not hurt:
            hurt.append(True)
            damage(context)
        return answering(name, context)

    def damage(context: StageContext) -> None:
        """The next stage that reads the base finds a flipped bit."""
        folder = Path(store.url) / context.inputs["model"].path
        file = next(path for path in folder.rglob("result.json"))
        file.write_bytes(file.read_bytes()[:-1] + b"!")

    hurt: list[bool] = []
    ran = fake_stages(monkeypatch, work)
    fresh = Store.open(store.url, tmp_path / "another-cache")
    result = run(study_of(tmp_path), fresh)

    assert hurt and result.record.state == "Completed"
    assert ran.count("base") == 2, ran


def test_budgets_are_those_of_the_stages_that_train_the_cell(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages(monkeypatch, answering)
    result = run(study_of(tmp_path), store)
    figures = json.loads((store.fetch(result.report) / "study.json").read_text())
    budgets = {cell["name"]: cell["runs"][0]["budget"] for cell in figures["cells"]}

    assert {name: (b["text_steps"], b["grounding_steps"], b["policy_updates"]) for name, b in budgets.items()} == {
        "direct": (5, 0, 0), "mirage": (5, 5, 0), "mirage-grpo": (5, 5, 5),
        "k-2": (5, 5, 0), "k-4": (5, 5, 0), "cot": (5, 0, 0),
    }  # fmt: skip
    assert [budgets[name]["tokens"] for name in ("direct", "mirage", "mirage-grpo")] == [70, 140, 210]
    assert budgets["mirage"]["examples"] == 5 * 8 + 5 * 8
    assert budgets["mirage-grpo"]["sampled_answers"] == 5 * 2 * 4


def test_a_budget_counts_the_stages_of_a_methods_teachers(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages(monkeypatch, answering)
    result = run(study_of(tmp_path, [{"name": "direct", "method": "monet"}]), store)
    budget = json.loads((store.fetch(result.report) / "study.json").read_text())["cells"][0]["runs"][0]["budget"]

    monet = get_method("monet")
    assert set(monet.all_stages) > set(monet.stages)
    assert budget["text_steps"] + budget["grounding_steps"] == 5 * len(monet.all_stages)


def test_a_plan_counts_what_is_shared_and_does_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fake_stages(monkeypatch, answering)
    runs = grid(study_of(tmp_path))
    before = plan_study(runs, store)
    shared = Counter(share.label for share in before)

    assert (ran, store.backend.sizes("")) == ([], {})
    assert (shared["base"], shared["examples"], shared["grounding"], shared["evaluation/stage-2"]) == (1, 2, 2, 2)
    assert len(next(share for share in before if share.label == "base").runs) == 6
    assert not any(share.cached for share in before)
    run(study_of(tmp_path), store)
    assert all(share.cached for share in plan_study(runs, store))
    assert Counter(ran) == shared, "what was planned is what ran"


def test_the_latents_of_every_cell_that_has_some_are_measured_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mirage and k-4 are the same model: one collect, one measure; direct answers without latents."""
    fake_stages(monkeypatch, answering)
    fakes = measuring(monkeypatch)
    study = study_of(tmp_path, [CELLS[0], CELLS[1], CELLS[3]], measures=["interventions"])
    planned = Counter(share.label for share in plan_study(grid(study), store))
    result = run(study, store)

    assert (planned["collect"], planned["measure/interventions"]) == (2, 2)
    assert Counter(fakes.ran) == {"collect": 2, "measure/interventions": 2}
    figures = json.loads((store.fetch(result.report) / "study.json").read_text())
    assert [cell["latents"] is None for cell in figures["cells"]] == [True, False, False, False]
    assert figures["cells"][1]["latents"]["permuted"]["mean"] == 0.1, "what the fake measure wrote"

    fakes.ran.clear()
    again = run(study, store)
    assert (fakes.ran, again.report) == ([], result.report)
    assert all(share.cached for share in plan_study(grid(study), store))


def test_a_measure_that_fails_fails_its_cell_and_is_all_that_runs_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fake_stages(monkeypatch, answering)
    fakes = measuring(monkeypatch)
    fakes.faults["measure/interventions"] = [TrainingError("no memory")]
    study = study_of(tmp_path, CELLS[:2], measures=["interventions"])
    failed = run(study, store)

    assert [outcome.run.name for outcome in failed.failed] == ["mirage/42"]
    ran.clear()
    fakes.ran.clear()
    run(study, store).check()
    assert (ran, fakes.ran) == ([], ["measure/interventions"])


@pytest.mark.parametrize("parallel", [0, -1])
def test_no_cells_at_a_time_is_refused(tmp_path: Path, store: Store, parallel: int) -> None:
    with pytest.raises(InputError, match="parallel"):
        run(study_of(tmp_path), store, parallel)


def test_a_study_without_a_report_says_how_to_make_one(store: Store) -> None:
    with pytest.raises(ArtifactMissing, match="mirage study ablation"):
        newest_study(store, "ablation")


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_study_that_is_cancelled_ends_at_once_and_says_so(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    def work(name: str, context: StageContext) -> dict[str, Any]:
        if name == "direct-sft":
            raise KeyboardInterrupt
        return answering(name, context)

    fake_stages(monkeypatch, work)
    with pytest.raises(KeyboardInterrupt):
        run(study_of(tmp_path), store, parallel)
    record = store.read_json(max(store.names("studies/")))
    assert record["state"] == "Cancelled"

"""Which model a command means, and what it asks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.answer import image_problem, parse_plan
from flows.commands.evaluate import check_auxiliary_input, problems_of
from flows.trained import find_checkpoint, method_of
from mirage_core.benchmarks.auxiliary_input import with_auxiliary_input
from mirage_core.benchmarks.vsp_planning import make_problem
from mirage_core.config import identity
from mirage_core.errors import ArtifactMissing, DataError, InputError
from mirage_core.recipes import load
from mirage_core.worlds.maze import maze_from_rows
from mirage_core.worlds.maze.art import picture_bytes, render
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline


@pytest.fixture
def ran(fake_pipeline: FakePipeline) -> FakePipeline:
    """A store with one completed run."""
    CliRunner().invoke(app, ["run", "--recipe", "micro", "--direct"])
    return fake_pipeline


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A map in the benchmark's art."""
    path = tmp_path / "map.png"
    path.write_bytes(picture_bytes(render(maze_from_rows([[1, 0, 0], [-1, -1, 0], [0, 2, 0]]))))
    return path


def test_without_a_choice_it_is_the_furthest_trained_model_of_the_newest_run(ran: FakePipeline) -> None:
    chosen = find_checkpoint(None, None, open_store())

    assert chosen.method == "grpo"
    assert (chosen.folder / "made.txt").read_text().startswith("grpo")
    assert chosen.settings.recipe == "micro"


def test_a_method_chooses_its_model(ran: FakePipeline) -> None:
    chosen = find_checkpoint(None, "stage-1", open_store())

    assert (chosen.folder / "made.txt").read_text().startswith("grounding")


def test_an_artifact_that_is_no_model_is_refused(ran: FakePipeline) -> None:
    problems = open_store().list("problems")[0]

    with pytest.raises(InputError, match="expected a model"):
        find_checkpoint(problems.path, None, open_store())


def test_an_unknown_method_is_refused_with_the_known_ones(ran: FakePipeline) -> None:
    with pytest.raises(InputError, match="stage-2"):
        find_checkpoint(None, "stage-9", open_store())


def test_a_folder_says_itself_how_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "mirage.json").write_text(json.dumps({"recipe": "micro", "stage": "relaxation"}))
    chosen = find_checkpoint(str(tmp_path), None, open_store(str(tmp_path / "store")))

    assert (chosen.method, chosen.settings.recipe) == ("stage-2", "micro")


def test_without_any_run_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="mirage run"):
        find_checkpoint(None, None, open_store(str(tmp_path)))


def test_a_row_without_its_picture_is_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"text_input": "<image>", "image_input": "gone.png", "map_id": 1, "map_desc": [[1, 2], [0, 0]]}
    file.write_text(json.dumps(row) + "\n")

    with pytest.raises(DataError, match=r"rows\.jsonl, line 1.*gone\.png"):
        problems_of("vsp-planning", file, open_store(str(tmp_path / "store")))


def test_a_picture_in_the_benchmarks_art_is_a_whole_problem(picture: Path) -> None:
    planning = image_problem(picture, None, "vsp-planning")
    reasoning = image_problem(picture, "RIGHT, RIGHT, DOWN, DOWN, LEFT", "vsp-reasoning")

    assert planning.answer == "RRDDL"
    assert planning.facts["map"]
    assert reasoning.answer == "A"


def test_reasoning_without_a_plan_says_what_to_give(picture: Path) -> None:
    with pytest.raises(InputError, match="RIGHT, RIGHT, DOWN"):
        image_problem(picture, "what happens?", "vsp-reasoning")


def test_a_question_of_another_benchmark_is_asked_as_it_is(picture: Path) -> None:
    assert image_problem(picture, "which piece?", "jigsaw").question == "<image>\nwhich piece?"
    with pytest.raises(InputError, match="jigsaw has no default question"):
        image_problem(picture, None, "jigsaw")


@pytest.mark.parametrize(
    ("question", "plan"),
    [
        ("RIGHT, up", "RU"),
        ("RDL", "RDL"),
        ("rdl", "RDL"),
        ("Look. Full Action Plan: UP, UP\nAnswer.", "UU"),
        ("hm", ""),
    ],
)
def test_plans_are_read_from_words_and_letters(question: str, plan: str) -> None:
    assert parse_plan(question) == plan


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.xdist_group("prefect")
def test_a_deployment_that_was_never_registered_is_said_with_the_way_out() -> None:
    from prefect.settings import PREFECT_API_URL
    from rich.console import Console

    from flows.display.display import Silent
    from flows.watch import RunFailed, start_and_watch

    url = str(PREFECT_API_URL.value())
    with pytest.raises(RunFailed, match="mirage deploy"):
        start_and_watch(url, "mirage/full-pipeline", parameters={}, environment={}, display=Silent(Console()))


@pytest.mark.parametrize(
    ("stages", "method"),
    [
        (["base"], "zero-shot"),
        (["base", "text"], "direct-sft"),
        (["base", "text", "grpo"], "direct-sft-grpo"),
        (["base", "capimagine"], "capimagine"),
        (["base", "capimagine", "grpo"], "capimagine-grpo"),
        (["base", "grounding"], "stage-1"),
        (["base", "grounding", "relaxation"], "stage-2"),
        (["base", "grounding", "relaxation", "grpo"], "grpo"),
        (["base", "relaxation"], "without-stage-1"),
        (["base", "relaxation", "grpo"], "without-stage-1-grpo"),
    ],
)
def test_a_models_history_tells_how_it_answers(stages: list[str], method: str) -> None:
    assert method_of({"stage": stages[-1], "stages": stages}) == method


def test_a_model_without_a_history_is_told_by_its_last_stage() -> None:
    assert method_of({"stage": "grounding"}) == "stage-1"
    assert method_of({}) == "zero-shot"


def test_the_upper_bound_is_not_judged_on_problems_that_do_not_show_the_picture(fake_pipeline: FakePipeline) -> None:
    CliRunner().invoke(app, ["run", "--recipe", "micro", "--direct", "--set", "evaluation.methods=[auxiliary-input]"])
    store = open_store()
    model = next(artifact for artifact in store.list("model") if artifact.summary["made"] == "auxiliary-input")

    assert {find_checkpoint(reference, None, store).method for reference in (model.path, None)} == {"auxiliary-input"}
    problem = make_problem("a", "test", maze_from_rows([[1, 2, 0], [0, 0, 0], [0, 0, 0]]), b"map", "R")
    check_auxiliary_input("auxiliary-input", [with_auxiliary_input(problem, b"arrows")])
    check_auxiliary_input("direct-sft", [problem])
    with pytest.raises(InputError, match="needs the auxiliary image as an input"):
        check_auxiliary_input("auxiliary-input", [problem])


@pytest.mark.parametrize(
    "overrides",
    [
        ("film.optimizer=muon", "runtime.zero_stage=0"),
        (
            "teacher.kind=endpoint",
            "teacher.model=any",
            "teacher.variant=cot",
            "runtime.teacher.base_url=http://127.0.0.1:1/v1",
        ),
        ("grpo.rollouts=served", "runtime.rollouts_url=http://127.0.0.1:1"),
    ],
)
def test_a_model_folder_needs_nothing_of_the_runtime_of_its_training(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    settings = identity(load("tiny", overrides))
    settings.pop("runtime", None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "mirage.json").write_text(json.dumps({"recipe": "tiny", "settings": settings}))

    chosen = find_checkpoint(str(tmp_path), "film", open_store())

    found = identity(chosen.settings)
    found.pop("runtime", None)
    assert found == settings

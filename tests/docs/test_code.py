"""The code that the documentation shows runs as it stands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from flows.cli import app
from mirage_core import benchmarks
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.config import ArchitectureSettings, ModelSettings
from mirage_core.methods import METHODS
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.recipes import load
from mirage_core.studies.grid import grid
from mirage_core.studies.loading import load_study
from mirage_core.studies.loading import names as studies
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher.examples import write_examples
from mirage_core.teacher.oracle import OracleTeacher
from tests.pipeline.fakes import Events

DOCS = Path(__file__).parents[2] / "docs"
ABOUT_DATA = ("data.md", "your-own-task.md")
SMALL = ArchitectureSettings(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1)


def test_the_use_of_the_latent_engine_runs_as_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_base_model(ModelSettings(architecture=SMALL), 42)
    save_model(tmp_path / "model", model.backbone, model.processor, {})
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "latent-engine.md").read_text(), re.DOTALL)
    names = {"FOLDER": tmp_path / "model"}
    exec(compile(code, "docs/latent-engine.md", "exec"), names)
    assert capsys.readouterr().out
    assert any(weight.grad is not None for weight in names["backbone"].parameters())


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_smallest_task_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "_TASKS", {})
    (code,) = blocks("your-own-task.md", "python")
    (tmp_path / "shades.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(
        "extends: micro\nproblems: {vsp_planning: null, vsp_reasoning: null, task: {module: shades.py, train: 40, "
        "validation: 5, test: 20}}"
    )
    settings = load(tmp_path / "mine.yaml")

    problems = [problem for problem, _ in sourced_problems(settings.problems, settings.seed, Events())]
    images = draw_auxiliary_images(problems, settings.auxiliary_images, 64, settings.seed, Events())

    assert len(write_examples(OracleTeacher(), problems, images, "direct", Events())) == 65


@pytest.mark.parametrize("page", ABOUT_DATA)
def test_the_recipes_of_the_pages_about_data_are_recipes(page: str, tmp_path: Path) -> None:
    shutil.copy(DOCS / "examples/turning.py", tmp_path)
    (text,) = blocks(page, "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    assert load(tmp_path / "mine.yaml").recipe == "mine"


def parsed(words: list[str]) -> dict[str, object]:
    """The arguments and options of a command line, taken apart as the program does, without running it."""
    context = typer.main.get_command(app).make_context("mirage", list(words))
    while hasattr(context.command, "resolve_command"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context.params


def test_the_method_of_the_page_is_the_one_that_its_test_trains() -> None:
    (code,) = blocks("add-a-method.md", "python")
    module = (DOCS.parent / "tests/pipeline/latent_reconstruction.py").read_text()
    assert module.partition('"""\n\n')[2] == code


def test_the_line_of_the_page_has_the_keys_of_a_line() -> None:
    (line,) = blocks("data.md", "json")
    assert set(json.loads(line)) <= set(jsonl_data.KEYS)
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (DOCS / "data.md").read_text(), re.MULTILINE)
    assert set(jsonl_data.KEYS) <= {key for cell in cells for key in re.findall(r"\w+", cell)}


def test_the_study_of_the_page_is_one_and_its_commands_are_commands(tmp_path: Path) -> None:
    (text,) = blocks("studies.md", "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    runs = grid(load_study(tmp_path / "mine.yaml"))
    assert [run.cell.name for run in runs[:4]] == ["direct-sft", "long", "k-2", "k-8"]
    (commands,) = blocks("studies.md", "bash")
    lines = [shlex.split(line, comments=True) for line in commands.splitlines()]
    for program, *words in lines:
        if program == "mirage":
            given = parsed(words)
            grid(load_study(str(given["name"])), list(given["sets"] or ()))  # type: ignore[call-overload]
    assert {name for name in studies() if f"`{name}`" in (DOCS / "studies.md").read_text()} == set(studies())


def test_the_page_about_studies_names_every_method() -> None:
    text = (DOCS / "studies.md").read_text()
    assert [method for method in METHODS if f"`{method}`" not in text] == []

"""A task of one's own goes the whole pipeline by its recipe alone; nothing of this repository knows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.store import Store
from mirage_core.store.records import load_examples, load_problems
from tests.forked import forked_jobs

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
METHOD = "without-stage-1-grpo"
# As the documentation's recipe, with fewer processes to start and fewer steps.
SHORTER = [
    f"evaluation.methods=[{METHOD}]",
    "runtime.processes=1",
    "runtime.engine=plain",
    "model.warmup.steps=3",
    "direct_sft.steps=3",
    "relaxation.steps=3",
    "grpo.steps=1",
]


def mirage(*arguments: str) -> str:
    """What a command prints; the processes of its jobs are forked."""
    with forked_jobs():
        done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.stdout


@pytest.mark.slow
def test_a_task_of_ones_own_goes_the_whole_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # far from the repository
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    for name in ("turning.py", "turning.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    sets = [part for setting in SHORTER for part in ("--set", setting)]

    mirage("run", "--direct", "--recipe", "turning.yaml", *sets)

    record = json.loads(mirage("report", "--json"))
    assert record["state"] == "Completed"
    assert {stage["name"] for stage in record["stages"]} == {
        "problems", "auxiliary-images", "examples", "base", "without-stage-1", "without-stage-1-grpo",
        "evaluation/without-stage-1-grpo", "report",
    }  # fmt: skip
    assert {(score["benchmark"], score["n"]) for score in record["scores"] if score["level"] == "all"} == {
        ("turning", 12)
    }
    assert {score["level"] for score in record["scores"]} == {"all", "left", "half", "right"}
    check_artifacts(Store.open(tmp_path / "store"), tmp_path / "turning.py")

    asked = ("evaluate", "--benchmark", "turning", "--method", METHOD, "--save", "again.parquet", "--json")
    result = json.loads(mirage(*asked))
    assert (result["benchmark"], sum(row["n"] for row in result["rows"] if row["group"] == "all")) == ("turning", 12)
    (evaluation,) = (stage["path"] for stage in record["stages"] if stage["name"].startswith("evaluation/"))
    assert json.loads(mirage("compare", evaluation, "again.parquet", "--json"))["flips"] == []


def check_artifacts(store: Store, file: Path) -> None:
    """Problems and examples are the task's, the task itself is kept beside them, and no path got into an identity."""
    problems = store.fetch(store.list("problems")[0])
    assert (problems / "task.py").read_bytes() == file.read_bytes()
    assert {problem.benchmark for problem in load_problems(problems)} == {"turning"}
    (examples,) = (store.fetch(artifact) for artifact in store.list("examples"))
    assert {example.chain.teacher for example in load_examples(examples)} == {"oracle"}
    assert "I turn the pattern" in load_examples(examples)[0].chain.text_before
    assert str(file.parent) not in (examples / "card.json").read_text()
    (report,) = (store.fetch(artifact) for artifact in store.list("report"))
    page = next(report.glob("*.html")).read_text()
    assert "turning" in page and str(file.parent) not in page

"""``mirage compare``: prediction files and artifacts, by any name they go under."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core import benchmarks
from mirage_core.errors import ArtifactMissing, InputError
from mirage_core.evaluation.predictions_file import score_outputs
from mirage_core.store import Store
from mirage_core.store.records import save_predictions, save_problems
from mirage_core.types import Artifact
from tests.benchmarks.public_data import vstar_folder

FIRST, SECOND = ["A", "B", "A", "A"], ["A", "A", "B", "B"]


def jsonl(folder: Path, name: str, outputs: list[str]) -> Path:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"row": at, "output": text}) + "\n" for at, text in enumerate(outputs)))
    return file


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_two_jsonl_files_are_compared_in_json_and_on_a_page(tmp_path: Path) -> None:
    data = vstar_folder(tmp_path / "data")
    files = jsonl(tmp_path, "one", FIRST), jsonl(tmp_path, "two", SECOND)
    page = tmp_path / "page.html"
    arguments = (*files, "--benchmark", "vstar", "--data", data, "--store", tmp_path / "store")
    result = json.loads(invoke(*arguments, "--page", page, "--json"))

    whole = next(row for row in result["rows"] if row["by"] == "all")
    assert (whole["first"], whole["second"], whole["only_first"], whole["only_second"]) == (0.75, 0.5, 2, 1)
    assert [(flip["problem_id"], flip["right"]) for flip in result["flips"]] == [
        ("vstar-1", "first"), ("vstar-2", "first"), ("vstar-3", "second"),
    ]  # fmt: skip
    assert page.read_text().count("data:image/webp") == 4
    table = invoke(*arguments)
    assert "only one right: 2  vstar-1, vstar-2" in table and "only two right: 1  vstar-3" in table


def published(store: Store, folder: Path, name: str, outputs: list[str], inputs: dict[str, Artifact]) -> Artifact:
    problems = benchmarks.get("vstar").load(folder / "data")
    texts = {problem.id: text for problem, text in zip(problems, outputs, strict=True)}
    output = folder / name
    output.mkdir()
    save_predictions(output / "predictions.parquet", score_outputs("vstar", problems, texts, method=name))
    about = {"inputs": {key: {"path": first.path, "digest": first.digest} for key, first in inputs.items()}}
    return store.publish("evaluation", name.encode().hex().ljust(64, "0"), output, summary={}, about=about)


def test_artifacts_bring_their_problems_and_a_model_its_evaluation(tmp_path: Path) -> None:
    vstar_folder(tmp_path / "data")
    store = Store.open(tmp_path / "store")
    for name in ("problems", "model"):
        (tmp_path / name).mkdir()
    save_problems(tmp_path / "problems" / "problems.parquet", benchmarks.get("vstar").load(tmp_path / "data"))
    (tmp_path / "model" / "config.json").write_text("{}")
    problems = store.publish("problems", "1" * 64, tmp_path / "problems", summary={}, about={})
    model = store.publish("model", "2" * 64, tmp_path / "model", summary={}, about={})
    first = published(store, tmp_path, "one", FIRST, {"problems": problems, "model": model})
    published(store, tmp_path, "two", SECOND, {"problems": problems})
    page = tmp_path / "page.html"
    result = json.loads(invoke(model.path, tmp_path / "two", "--store", store.url, "--page", page, "--json"))

    assert (result["first"], result["second"], len(result["flips"])) == ("one", "two", 3)
    assert page.read_text().count("data:image/webp") == 4
    assert json.loads(invoke(first.path, model.path, "--store", store.url, "--json"))["flips"] == []
    with pytest.raises(InputError, match="is a problems, expected an evaluation or a model"):
        invoke(problems.path, first.path, "--store", store.url)


def test_a_model_without_an_evaluation_says_what_to_do(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = store.publish("model", "2" * 64, tmp_path / "model", summary={}, about={})

    with pytest.raises(ArtifactMissing, match="mirage evaluate --save FILE"):
        invoke(model.path, model.path, "--store", store.url)


def test_bare_answers_need_a_benchmark(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name their benchmark with --benchmark"):
        invoke(jsonl(tmp_path, "one", FIRST), jsonl(tmp_path, "two", SECOND), "--store", tmp_path / "store")

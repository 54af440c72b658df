"""``mirage evaluate --endpoint`` and the teacher, asking a model behind ``mirage serve``."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from bench.serving import Target, compared
from flows.cli import app
from flows.commands.serve import generator_of
from flows.trained import find_checkpoint
from mirage_core import benchmarks
from mirage_core.benchmarks.vsp_prompts import PLANNING, with_ending
from mirage_core.errors import EndpointError
from mirage_core.store import Store
from mirage_core.store.records import load_predictions
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render
from tests.serving.conftest import KEY, Served

CASES = ("whole", "stream")
MAZES = (
    [[1, 0, 0], [0, -1, 0], [0, 0, 2]], [[0, 1, 0], [0, 0, -1], [2, 0, 0]], [[0, 0, 2], [-1, 0, 0], [1, 0, 0]],
    [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]],
    [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]],
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions in the published layout."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "imgs").mkdir()
    lines = []
    for number, cells in enumerate(MAZES):
        maze = maze_from_rows(cells)
        (folder / f"imgs/{number}.png").write_bytes(picture_bytes(render(maze)))
        line = {"image_input": f"imgs/{number}.png", "map_id": str(number), "map_desc": maze.rows()}
        lines.append({"text_input": with_ending(PLANNING, "direct"), **line})
    path = folder / "test_direct.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluate(rows: Path, folder: Path, *options: str) -> tuple[Any, list[Any]]:
    """The metrics, and the predictions with their scores."""
    saved = folder / "answers.parquet"
    command = ["evaluate", "--benchmark", "vsp-planning", "--data", str(rows), "--store", str(folder / "store")]
    done = CliRunner().invoke(app, [*command, "--save", str(saved), "--json", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), load_predictions(saved)


def test_the_answers_of_a_served_model_are_those_of_its_evaluation(
    served: Served, model_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    local, own = evaluate(rows, tmp_path, "--checkpoint", str(model_folder))
    remote, asked = evaluate(rows, tmp_path, "--endpoint", served.url)
    assert asked == own
    assert {prediction.method for prediction, _ in own} == {"stage-2"}
    assert sum(span.num_latents for prediction, _ in asked for span in prediction.spans) > 4 * len(MAZES)
    assert (remote["rows"], remote["method"], remote["latents"]) == (local["rows"], local["method"], local["latents"])
    assert remote["model"] == "imagines"


def test_the_same_answers_are_not_asked_for_twice_of_one_server(
    served: Served, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    first, asked = evaluate(rows, tmp_path, "--endpoint", served.url, "--model", "imagines")
    again, kept = evaluate(rows, tmp_path, "--endpoint", served.url)
    assert kept == asked
    assert (first["account"]["requests"], again["account"]["requests"]) == (len(MAZES), 0)
    (revision,) = {json.loads(path.read_text())["served"] for path in (tmp_path / "store/answers").rglob("*.json")}
    assert revision == "imagines"


def test_what_is_said_to_evaluate_goes_before_what_the_server_tells(
    served: Served, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    short, asked = evaluate(rows, tmp_path, "--endpoint", served.url, "--set", "evaluation.max_new_tokens=3")
    assert max(len(prediction.token_ids) for prediction, _ in asked) == 3
    assert short["variant"] == "direct"
    other, _ = evaluate(rows, tmp_path, "--endpoint", served.url, "--variant", "cot")
    assert other["variant"] == "cot"


def test_the_answers_that_the_benchmark_compares_are_those_of_decoding_one_by_one(
    served: Served, model_folder: Path, rows: Path, tmp_path: Path
) -> None:
    checkpoint = find_checkpoint(str(model_folder), None, Store.open(tmp_path / "store"))
    generator, problems = generator_of(checkpoint), benchmarks.get("vsp-planning").load(rows)
    targets = [Target(case, served.url, "imagines", case == "stream", served.process.pid, KEY) for case in CASES]
    found = compared(targets, generator, problems, 1, lambda _: None, concurrency=(1, 3))
    assert [(row.case, row.concurrency) for row in found] == [("sequential", 1), *product(CASES, (1, 3))]
    assert {row.same for row in found} == {1.0}
    assert all(row.cpu_ratio is not None and row.cpu_ratio > 0 for row in found)
    assert {row.first_token_p50_ms is None for row in found if row.case == "stream"} == {False}


def test_blank_pictures_are_asked_about_as_another_method(
    served: Served, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    _, seen = evaluate(rows, tmp_path, "--endpoint", served.url)
    blank, unseen = evaluate(rows, tmp_path, "--endpoint", served.url, "--blank")
    assert blank["method"] == "stage-2-blank"
    assert len({prediction.output for prediction, _ in unseen}) == 2  # maps of one size look alike
    assert [prediction.output for prediction, _ in unseen] != [prediction.output for prediction, _ in seen]


def test_a_wrong_key_or_model_ends_with_one_word(served: Served, rows: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--benchmark", "vsp-planning", "--data", str(rows), "--store", str(tmp_path / "store")]
    unknown = CliRunner().invoke(app, [*command, "--endpoint", served.url, "--set", "runtime.teacher.tries=1"])
    assert isinstance(unknown.exception, EndpointError) and "a request without a key" in str(unknown.exception)


def test_the_server_tells_how_its_model_is_asked_and_all_of_an_answer_on_request(served: Served) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    (card,) = httpx.get(f"{served.url}/models", headers=headers).json()["data"]
    assert card["mirage"] == {
        "method": "stage-2", "latents": "on", "prompt": "short", "variant": "direct",
        "planning_rule": "mirage", "max_tokens": 48, "temperature": 0.0, "top_p": 1.0,
    }  # fmt: skip
    body = {"model": "imagines", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 9}
    plain = httpx.post(f"{served.url}/chat/completions", json=body, headers=headers).json()
    assert "trajectory" not in plain["choices"][0]["message"]
    whole = httpx.post(f"{served.url}/chat/completions", json={**body, "trajectory": True}, headers=headers).json()
    message = whole["choices"][0]["message"]
    assert [span["num_latents"] for span in message["trajectory"]["spans"]] == message["latents"]
    assert len(message["trajectory"]["token_ids"]) + sum(message["latents"]) == whole["usage"]["completion_tokens"]
    for more in ({"stream": True}, {"stop": ["a"]}):
        refused = httpx.post(
            f"{served.url}/chat/completions", json={**body, "trajectory": True, **more}, headers=headers
        )
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "trajectory"

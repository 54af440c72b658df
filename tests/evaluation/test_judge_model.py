"""A judge model decides where the authors' rules do not, is paid once, and what it cost is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core import benchmarks
from mirage_core.errors import InputError, SettingsError
from mirage_core.evaluation.judge_model import JudgeModel, judge_by_model
from mirage_core.evaluation.predictions_file import score_outputs
from mirage_core.store import Store
from mirage_core.types import Problem
from tests.benchmarks.public_data import hr_bench_folder, vstar_folder
from tests.llm_client.chat_server import Call, chat_server
from tests.teacher.conftest import ignore_progress, teacher_runtime


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    return benchmarks.get("hr-bench-8k").load(hr_bench_folder(tmp_path / "data"))


def content(call: Call) -> str:
    return str(call.body["messages"][0]["content"])


def judged(url: str, store: Store, problems: list[Problem], outputs: list[str], **prices: Any) -> Any:
    texts = {problem.id: output for problem, output in zip(problems, outputs, strict=True)}
    scored = score_outputs(problems[0].benchmark, problems, texts, method="m")
    runtime = teacher_runtime(url).model_copy(update=prices)
    return judge_by_model(scored, problems, JudgeModel("big-judge", runtime), store, ignore_progress)


def test_only_undecided_answers_are_asked_about_and_paid_for_once(tmp_path: Path, problems: list[Problem]) -> None:
    store = Store.open(tmp_path / "store", cache=tmp_path / "cache")
    outputs = ["A", "it is the one above", "none of these", "Cannot determine the answer"]
    with chat_server(lambda call: call.reply("B" if "above" in content(call) else "Z")) as server:
        first = judged(server.url, store, problems, outputs, price_prompt=1e4)
        again = judged(server.url, store, problems, outputs, price_prompt=1e4)
        assert len(server.calls) == 2
        assert all("image_url" not in json.dumps(call.body) for call in server.calls)
        assert {call.body["temperature"] for call in server.calls} == {0.0}

    scores = [score for _, score in first.scored]
    assert [score.parsed for score in scores] == ["A", "B", None, None]
    assert [score.correct for score in scores] == [True, True, False, False]
    assert {score.rule for score in scores} == {"hr-bench-official+big-judge"}
    assert (first.account["asked"], first.account["decided"]) == (2, 1)
    assert (first.account["account"]["cost"], first.account["account"]["cost_now"]) == (2.0, 2.0)
    assert (again.account["account"]["cost"], again.account["account"]["cost_now"]) == (2.0, 0.0)


def test_a_judge_that_names_two_options_or_chatters_decides_nothing(tmp_path: Path, problems: list[Problem]) -> None:
    store = Store.open(tmp_path / "store", cache=tmp_path / "cache")
    replies = iter(["A or B", "I cannot say", "(C).", "The letter is D"])
    with chat_server(lambda call: call.reply(next(replies))) as server:
        runtime = teacher_runtime(server.url).model_copy(update={"concurrency": 1})
        texts = {problem.id: f"the thing number {at}" for at, problem in enumerate(problems)}
        scored = score_outputs("hr-bench-8k", problems, texts, method="m")
        found = judge_by_model(scored, problems, JudgeModel("j", runtime), store, ignore_progress)
    assert sorted(score.parsed or "" for _, score in found.scored) == ["", "", "C", "D"]


def test_a_benchmark_without_a_judge_refuses_one(tmp_path: Path) -> None:
    problems = benchmarks.get("vstar").load(vstar_folder(tmp_path / "v"))
    store = Store.open(tmp_path / "store", cache=tmp_path / "cache")
    with pytest.raises(SettingsError, match="authors of vstar ask no judge"):
        judged("http://127.0.0.1:9/v1", store, problems, ["A"] * len(problems))


def score_command(folder: Path, *more: str) -> Any:
    file = folder / "x.jsonl"
    file.write_text("".join(json.dumps({"row": at, "output": "the one above"}) + "\n" for at in range(4)))
    command = ["score", "--benchmark", "hr-bench-8k", "--data", str(folder / "data"), "--predictions", str(file)]
    return CliRunner().invoke(app, [*command, "--store", str(folder / "store"), *more])


def test_the_command_line_asks_the_judge_and_tells_its_cost(tmp_path: Path, problems: list[Problem]) -> None:
    assert len(problems) == 4
    off = json.loads(score_command(tmp_path, "--rule", "official", "--json").stdout)
    assert (off["rule"], off["unparsed"], off["accuracy"]) == ("hr-bench-official", 4, 0.0)
    with chat_server(lambda call: call.reply("A")) as server:
        done = score_command(tmp_path, "--judge", server.url, "--judge-model", "big-judge")
        assert done.exit_code == 0, done.output
        assert "judge big-judge: asked about 4 answers, decided 4;" in done.output
        score = json.loads(
            score_command(tmp_path, "--judge", server.url, "--judge-model", "big-judge", "--json").stdout
        )
        assert (score["rule"], score["judge"]["account"]["kept_answers"]) == ("hr-bench-official+big-judge", 4)
    for wrong in (
        ("--judge", "http://127.0.0.1:9/v1"),
        ("--judge", "http://x/v1", "--judge-model", "j", "--rule", "published-letter"),
    ):
        assert isinstance(score_command(tmp_path, *wrong).exception, InputError)

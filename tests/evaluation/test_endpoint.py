"""A hosted model under evaluation: asked as our own are, judged as our own are, and paid for once."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks.vsp_planning import make_problem
from mirage_core.config import EvaluationSettings
from mirage_core.errors import DataError, EndpointError, SettingsError
from mirage_core.evaluation.endpoint import HostedModel, evaluate_endpoint, question_messages
from mirage_core.store import Store
from mirage_core.types import Problem
from mirage_core.worlds.maze import maze_from_rows
from tests.benchmarks.data_sets import sat_folder
from tests.benchmarks.public_data import hr_bench_folder, vstar_folder
from tests.llm_client.chat_server import Call, ChatServer, chat_server
from tests.teacher.conftest import ignore_progress, teacher_runtime


def hosted(**changes: Any) -> HostedModel:
    evaluation = EvaluationSettings(max_new_tokens=64, **changes.pop("evaluation", {}))
    return HostedModel(
        **{"model": "big-vlm", "form": "benchmark", "variant": "cot", "evaluation": evaluation, **changes}
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", cache=tmp_path / "cache")


@pytest.fixture
def vstar(tmp_path: Path) -> list[Problem]:
    return benchmarks.get("vstar").load(vstar_folder(tmp_path / "vstar"))


def words(call: Call) -> str:
    return " ".join(part["text"] for part in call.body["messages"][0]["content"] if part["type"] == "text")


def right(problems: list[Problem]) -> Any:
    """Answers the first question of each kind right."""

    def respond(call: Call) -> None:
        problem = next(one for one in problems if one.question.partition("\n")[2].split("\n")[0] in words(call))
        call.reply("no idea" if problem.answer == "B" else f"<think>so</think>\\boxed{{{problem.answer}}}")

    return respond


def ask(server: ChatServer, store: Store, problems: list[Problem], **changes: Any) -> Any:
    return evaluate_endpoint(hosted(**changes), problems, teacher_runtime(server.url), store, ignore_progress)


def test_answers_are_judged_and_counted_like_any_methods(store: Store, vstar: list[Problem]) -> None:
    with chat_server(right(vstar)) as server:
        found = ask(server, store, vstar)

    whole = next(row for row in found.metrics["rows"] if row["group"] == "all")
    assert (whole["accuracy"], whole["n"], whole["unparsed"], whole["method"]) == (0.5, 4, 2, "big-vlm")
    assert [prediction.problem_id for prediction, _ in found.scored] == [problem.id for problem in vstar]
    assert found.metrics["endings"] == {"stop": 4} and found.metrics["served"] == ["served"]
    assert (found.metrics["account"]["answers"], found.metrics["account"]["prompt_tokens"]) == (4, 400)
    body = server.calls[0].body
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("big-vlm", 0.0, 64, 42)
    assert words(server.calls[0]).endswith("The final answer MUST BE put in \\boxed{}.")


def test_the_official_prompt_is_sent_to_the_last_word_with_its_picture(vstar: list[Problem]) -> None:
    (message,) = question_messages(vstar[0], "official", "cot")
    image, text = message["content"]

    assert text["text"].endswith("(D) black\nAnswer with the option's letter from the given choices directly.")
    assert image["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(vstar[0].images[0]).decode()


def test_pictures_stand_where_the_question_has_them(tmp_path: Path) -> None:
    problem = benchmarks.get("sat").load(sat_folder(tmp_path, test=2))[2]
    (message,) = question_messages(problem, "benchmark", "direct")

    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    (official,) = question_messages(problem, "official", "direct")
    assert official["content"][-1]["text"].endswith('Choose between the following options: "left" or "right".')
    planning = make_problem("p", "test", maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]]), b"", "DDRR")
    with pytest.raises(SettingsError, match="vsp-planning has no official prompt"):
        question_messages(planning, "official", "direct")


def test_no_answer_is_paid_for_twice(store: Store, vstar: list[Problem]) -> None:
    with chat_server(right(vstar)) as server:
        first = ask(server, store, vstar[:2])
        again = ask(server, store, vstar)

        assert len(server.calls) == 4
    assert again.metrics["account"]["kept_answers"] == 2
    assert [pair[0].output for pair in again.scored[:2]] == [pair[0].output for pair in first.scored]


def test_a_refused_question_is_unparsed_and_a_cut_answer_is_told(store: Store, vstar: list[Problem]) -> None:
    def respond(call: Call) -> None:
        if "thing 1 of direct" in words(call):
            call.fail(400, "the picture is too large")
        elif "thing 0 of relative" in words(call):
            call.reply("I would think that", finish="length")
        else:
            call.reply("(A)")

    with chat_server(respond) as server:
        found = ask(server, store, vstar)

    assert found.metrics["endings"] == {"length": 1, "refused": 1, "stop": 2}
    assert [(pair[0].finished, pair[1].parsed) for pair in found.scored] == [
        (True, "A"), (True, None), (False, None), (True, "A"),
    ]  # fmt: skip
    assert len(found.scored) == 4


def test_samples_are_drawn_with_seeds_of_their_own(store: Store, vstar: list[Problem]) -> None:
    with chat_server(lambda call: call.reply(f"({'AB'[call.body['seed'] % 2]})")) as server:
        found = ask(server, store, vstar[:1], evaluation={"samples": 2, "temperature": 0.7})

    assert [(pair[0].sample, pair[1].parsed) for pair in found.scored] == [(0, "A"), (1, "B")]
    assert found.metrics["rows"][-1]["accuracy"] == 0.5
    with pytest.raises(SettingsError, match=r"needs evaluation\.temperature above 0"):
        ask(server, store, vstar[:1], evaluation={"samples": 2})


def test_protocols_are_scored_over_all_orders(tmp_path: Path, store: Store) -> None:
    problems = benchmarks.get("hr-bench-8k").load(hr_bench_folder(tmp_path / "hr"))
    with chat_server(lambda call: call.reply("A")) as server:
        found = ask(server, store, problems, form="official")

    assert (found.metrics["protocols"][-1]["accuracy"], found.metrics["protocols"][-1]["consistent"]) == (0.25, 0.0)


def test_an_endpoint_that_knows_no_such_model_ends_the_evaluation(store: Store, vstar: list[Problem]) -> None:
    with chat_server(lambda call: call.fail(404, "no such model")) as server, pytest.raises(EndpointError, match="404"):
        ask(server, store, vstar)
    with pytest.raises(DataError, match="nothing to evaluate"):
        ask(server, store, [])

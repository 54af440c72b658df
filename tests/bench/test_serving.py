"""``mirage bench serve``: what its rows mean, how replies are read, and that wrong numbers are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from bench import serving
from bench.serving import Answered, Round, Row, Target, asked, endpoints, processor_time, quantile, row_of
from flows.cli import app
from flows.trained import find_checkpoint
from mirage_core.errors import InputError
from mirage_core.recipes import load
from mirage_core.store import Store
from tests.llm_client.chat_server import Call, chat_server

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 4}}
EVENTS = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"reasoning": "so "}}]},
    {"choices": [{"index": 0, "delta": {"content": "R"}}]},
    {"choices": [{"index": 0, "delta": {"latents": [4]}, "finish_reason": "stop"}]},
    {"choices": [], "usage": USAGE},
)
WAIT_S = 0.05


def reply(call: Call) -> None:
    """Stream the events with a wait before the first text, or send the whole answer."""
    if not call.body.get("stream"):
        call.reply("R", usage=USAGE, reasoning="so ")
        return
    call.handler.send_response(200)
    call.handler.send_header("Connection", "close")
    call.handler.end_headers()
    for number, event in enumerate(EVENTS):
        time.sleep(WAIT_S if number == 1 else 0)
        call.raw(f"data: {json.dumps(event)}\n\n".encode())
    call.raw(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_replies_are_read_to_their_end_and_the_first_text_counts(stream: bool) -> None:
    bodies = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(3)]
    with chat_server(reply) as server:
        done = asked(Target("x", server.url, "m", stream, key="k"), bodies[: 1 if stream else 3], 1 if stream else 2)
    assert {(answer.text, answer.tokens) for answer in done.answers} == {("so R", 3)}
    assert [answer.first_s is not None and answer.first_s >= WAIT_S for answer in done.answers] == [stream] * len(
        done.answers
    )
    assert done.cpu_s is None and done.wall_s > 0
    assert {call.headers["authorization"] for call in server.calls} == {"Bearer k"}
    assert server.calls[0].body["model"] == "m"


def test_a_reply_that_is_no_answer_ends_the_measurement() -> None:
    with (
        chat_server(lambda call: call.fail(429, "too many")) as server,
        pytest.raises(InputError, match=r"429.*too many"),
    ):
        asked(Target("x", server.url, "m", False), [{"messages": []}], 1)


def test_ratios_are_taken_round_by_round_and_texts_compared() -> None:
    base = [Round([Answered("a", 10), Answered("b", 30)], wall, cpu) for wall, cpu in ((4.0, 3.0), (8.0, 3.0))]
    ours = [
        Round([Answered("a", 10, 0.1), Answered(text, 30, 0.3)], wall, cpu)
        for text, wall, cpu in (("b", 1.0, 1.0), ("c", 4.0, 2.0))
    ]
    row = row_of("stream", 8, ours, base)
    assert row == Row("stream", 8, 1.25, 25.0, 3.0, 2.25, 300.0, 300.0, 0.75)
    assert row_of("endpoint", 1, [Round(ours[0].answers, 1.0, None)], base[:1]).cpu_ratio is None
    assert [quantile([1, 2, 3, 4], share) for share in (0.0, 0.5, 0.95)] == [1, 3, 4]


def test_the_rows_are_json_and_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = Row("whole", 8, 1.0, 2.0, 3.0, None, None, None, 1.0)
    monkeypatch.setattr(serving, "measure", lambda *_, **__: [row])
    words = ["bench", "serve", "--recipe", "micro", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert [each["case"] for each in json.loads(done.stdout)] == ["whole"]
    assert "whole" in CliRunner().invoke(app, words, catch_exceptions=False).stdout


def test_servers_beside_ours_are_numbered_and_have_their_processes_or_none() -> None:
    assert endpoints([], [], None, None) == []
    (alone,) = endpoints(["http://a/v1"], [], "m", "k")
    assert alone == Target("endpoint", "http://a/v1", "m", True, None, "k")
    both = endpoints(["http://a/v1", "http://b/v1"], [3, 4], "m", None)
    assert [(one.case, one.url, one.pid) for one in both] == [
        ("endpoint 1", "http://a/v1", 3), ("endpoint 2", "http://b/v1", 4)
    ]  # fmt: skip


def test_the_command_asks_every_endpoint_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[Target] = []

    def measure(*_: object, others: list[Target], **__: object) -> list[Row]:
        asked_for.extend(others)
        return []

    monkeypatch.setattr(serving, "measure", measure)
    serving.random_folder(tmp_path / "micro", load("micro"))
    words = ["bench", "serve", str(tmp_path / "micro"), "--json", "--store", str(tmp_path / "store")]
    for url, pid in (("http://127.0.0.1:8771/v1", "11"), ("http://127.0.0.1:8772/v1", "12")):
        words += ["--endpoint", url, "--endpoint-pid", pid]
    done = CliRunner().invoke(app, [*words, "--endpoint-model", "bench"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [(one.url, one.pid, one.case) for one in asked_for] == [
        ("http://127.0.0.1:8771/v1", 11, "endpoint 1"), ("http://127.0.0.1:8772/v1", 12, "endpoint 2")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("urls", "pids", "model"), [(["http://a/v1"], [], None), ([], [], "m"), (["u", "v"], [1], "m")]
)
def test_a_server_without_the_name_of_its_model_is_refused(urls: list[str], pids: list[int], model: str | None) -> None:
    with pytest.raises(InputError, match="give each endpoint the model's name"):
        endpoints(urls, pids, model, None)


def test_the_processor_time_of_a_server_holds_that_of_its_children() -> None:
    """vLLM's engine is a child of its server."""
    burn = "import time\nwhile time.process_time() < 0.6: pass\n"
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {burn + 'time.sleep(60)'!r}])\n"
    parent = f"{child}import time\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        try:
            watched, deadline = psutil.Process(process.pid), time.monotonic() + 60
            while processor_time(watched) < 0.6 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert processor_time(watched) >= 0.6 > sum(watched.cpu_times()[:2])
        finally:
            for each in [*watched.children(recursive=True), watched]:
                each.kill()


def test_the_random_model_and_its_questions_are_those_of_the_recipe(tmp_path: Path) -> None:
    settings = load("micro")
    serving.random_folder(tmp_path / "micro", settings)
    checkpoint = find_checkpoint(str(tmp_path / "micro"), None, Store.open(tmp_path / "store"))
    assert (checkpoint.method, checkpoint.settings.prompt) == ("stage-2", settings.prompt)
    problems = serving.planning_problems(settings, 5)
    assert [problem.group for problem in problems] == ["level-3", "level-4"] * 2 + ["level-3"]


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="--rounds is 0"):
        serving.measure(None, load("micro"), [], {}, 0, print)  # type: ignore[arg-type]

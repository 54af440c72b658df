"""``mirage evaluate --endpoint``: any hosted model, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.errors import EndpointError, InputError
from mirage_core.store.records import load_predictions
from tests.benchmarks.public_data import vstar_folder
from tests.llm_client.chat_server import Call, chat_server


def arguments(folder: Path, url: str, *more: str) -> list[str]:
    command = ["evaluate", "--benchmark", "vstar", "--data", str(folder / "data"), "--endpoint", url]
    quick = ["--set", "runtime.teacher.backoff_s=0", "--set", "evaluation.max_new_tokens=32"]
    return [*command, "--model", "big-vlm", "--store", str(folder / "store"), *quick, *more]


def test_a_hosted_model_is_judged_and_its_key_stays_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vstar_folder(tmp_path / "data")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    saved = tmp_path / "judged.parquet"
    with chat_server(lambda call: call.reply("A")) as server:
        command = arguments(tmp_path, server.url, "--prompt", "official", "--json", "--save", str(saved))
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        assert {call.headers["authorization"] for call in server.calls} == {"Bearer sk-secret"}
        assert {call.body["max_tokens"] for call in server.calls} == {32}

    result = json.loads(done.stdout)
    assert (result["model"], result["prompt"], result["endings"]) == ("big-vlm", "official", {"stop": 4})
    assert next(row for row in result["rows"] if row["group"] == "all")["accuracy"] == 0.5
    assert "sk-secret" not in done.output
    assert len(load_predictions(saved)) == 4


def test_wrong_use_is_one_message(tmp_path: Path) -> None:
    def several(call: Call) -> None:
        call.send(200, {"object": "list", "data": [{"id": "big-vlm"}, {"id": "small-vlm"}]})

    vstar_folder(tmp_path / "data")
    with chat_server(several) as server:
        odd = CliRunner().invoke(app, arguments(tmp_path, server.url, "--prompt", "polite"))
        nameless = [word for word in arguments(tmp_path, server.url) if word not in ("--model", "big-vlm")]
        unnamed = CliRunner().invoke(app, nameless)
        assert [call.path for call in server.calls] == ["/v1/models"]
    assert isinstance(odd.exception, InputError) and "expected one of official, benchmark, short" in str(odd.exception)
    assert isinstance(unnamed.exception, EndpointError)
    assert "has the models big-vlm, small-vlm; expected one: choose with --model" in str(unnamed.exception)
    alone = CliRunner().invoke(app, ["evaluate", "--benchmark", "vstar", "--model", "big-vlm"])
    assert alone.exit_code == 2


def test_an_endpoint_that_lists_no_models_is_asked_by_the_name_that_was_given(tmp_path: Path) -> None:
    def chat_only(call: Call) -> None:
        if call.path.endswith("/models"):
            call.fail(404)
        else:
            call.reply("A")

    vstar_folder(tmp_path / "data")
    with chat_server(chat_only) as server:
        named = CliRunner().invoke(app, arguments(tmp_path, server.url, "--json"))
        nameless = [word for word in arguments(tmp_path, server.url) if word not in ("--model", "big-vlm")]
        unnamed = CliRunner().invoke(app, nameless)
    result = json.loads(named.stdout)
    assert (result["model"], result["prompt"], result["variant"]) == ("big-vlm", "benchmark", "cot")
    assert isinstance(unnamed.exception, EndpointError) and "--model does not name one" in str(unnamed.exception)

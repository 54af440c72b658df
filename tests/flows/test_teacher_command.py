"""``mirage teacher try``: chains, faults and costs in the terminal, and nothing asked twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.teacher import spread
from mirage_core.errors import InputError, SettingsError
from tests.llm_client.chat_server import Call, chat_server

DATA = "{train_levels: [3], test_levels: [3], train: 6, validation: 1, test_per_level: 1}"


def arguments(store: Path, url: str, count: int = 3) -> list[str]:
    sets = [
        f"problems.vsp_planning={DATA}",
        "problems.vsp_reasoning=null",
        "teacher={kind: endpoint, variant: cot, model: some-model, attempts: 1}",
        f"runtime.teacher={{base_url: '{url}', price_prompt: 10, concurrency: 1}}",
    ]
    command = [part for text in sets for part in ("--set", text)]
    return ["teacher", "try", "--recipe", "micro", *command, "--n", str(count), "--store", str(store)]


def test_a_few_answers_are_shown_with_their_faults_and_their_cost_and_kept(tmp_path: Path) -> None:
    with chat_server(lambda call: call.reply("so \x1b[2J I guess \\boxed{U}")) as server:
        done = CliRunner().invoke(app, arguments(tmp_path / "store", server.url))
        assert done.exit_code == 0, done.output
        assert "place: expected <output_image> exactly once, got it 0 times" in done.output
        assert "so \ufffd[2J I guess \\boxed{U}" in done.output
        assert "accepted 0 of 3" in done.output
        assert "cost                   0.003" in done.output
        assert "vsp-planning-train-3-00004 attempt 1: left out" in done.output
        again = CliRunner().invoke(app, arguments(tmp_path / "store", server.url, 4))
        assert len(server.calls) == 4 + 1
        assert "kept_answers           2" in again.output
    assert not (tmp_path / "store/examples").exists()


def test_an_accepted_chain_is_shown_round_its_picture(tmp_path: Path) -> None:
    sets = ["--set", "teacher.variant=cot", "--set", f"problems.vsp_planning={DATA}"]
    command = ["--recipe", "micro", *sets, "--n", "1", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, ["teacher", "try", *command])
    assert done.exit_code == 0, done.output
    assert "accepted, written by oracle" in done.output
    assert "</think>\n[arrows]\n<think>" in done.output
    assert "accepted 1 of 1" in done.output


def test_wrong_use_is_one_message(tmp_path: Path) -> None:
    def refuse(call: Call) -> None:
        call.fail(404)

    with chat_server(refuse) as server:
        failed = CliRunner().invoke(app, arguments(tmp_path / "store", server.url))
    assert "Check teacher.model" in str(failed.exception)
    none = CliRunner().invoke(app, arguments(tmp_path / "store", "http://127.0.0.1:1/v1", 0))
    assert isinstance(none.exception, InputError)
    bad = CliRunner().invoke(app, ["teacher", "try", "--set", "teacher.kind=endpoint"])
    assert isinstance(bad.exception, SettingsError)


def test_a_key_in_a_block_needs_the_server_and_says_so(tmp_path: Path) -> None:
    command = arguments(tmp_path / "store", "http://127.0.0.1:1/v1")
    failed = CliRunner().invoke(app, [*command, "--set", "runtime.teacher.api_key_block=teacher-key"])
    assert "no Prefect server runs" in str(failed.exception)


def test_the_problems_tried_are_spread_over_all() -> None:
    assert spread(list(range(10)), 3) == [0, 3, 6]  # type: ignore[arg-type]
    assert spread([1], 3) == [1]  # type: ignore[list-item]
    with pytest.raises(InputError, match="no training problems"):
        spread([], 1)

"""``mirage plan`` and ``mirage bench training``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bench import training
from bench.training import Measured
from flows.cli import app
from mirage_core.errors import SettingsError


def run(*arguments: str) -> str:
    ran = CliRunner().invoke(app, list(arguments))
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_a_plan_says_memory_steps_tokens_and_hours_in_json() -> None:
    result = json.loads(run("plan", "--recipe", "qwen2.5-vl-7b", "--gpus", "8", "--rate", "200", "--json"))
    assert (result["gpus"], result["gpu_gib"], result["parameters"]) == (8, 80.0, 8292166656)
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert list(stages) == ["direct-sft", "grounding", "relaxation", "grpo", "evaluation"]
    assert {"weights", "optimizer", "gradients"} <= set(stages["relaxation"]["memory"])
    assert stages["grpo"]["hours"] > 0 and result["hours"] > stages["grpo"]["hours"]
    assert result["rows"]["mean_tokens"]["image"] == pytest.approx(111.8, abs=0.1)


def test_a_plan_for_people_says_what_does_not_fit_and_what_to_set() -> None:
    shown = run("plan", "--recipe", "qwen2.5-vl-7b", "--gpus", "1", "--gpu-gib", "24")
    assert "relaxation does not fit; it fits with: --set" in shown
    assert "hours: give the sustained TFLOP/s of a GPU" in shown
    assert "note: the tokenizer of Qwen/Qwen2.5-VL-7B-Instruct is not here" in shown


def test_a_rate_is_stated_or_measured_not_both() -> None:
    for arguments, message in (
        (["--rate", "5", "--measure"], "--rate and --measure"),
        (["--rate", "0"], "must be above 0"),
        (["--gpu-gib", "-1"], "must be above 0"),
    ):
        ran = CliRunner().invoke(app, ["plan", *arguments])
        assert isinstance(ran.exception, SettingsError)
        assert message in str(ran.exception)


def test_the_rows_of_the_training_benchmark_are_json_with_plan_beside_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = Measured(
        case="relaxation", rows=4, tokens=640, checkpointing=False, seconds=0.5, ratio=1.25,
        peak_bytes=100, planned_bytes=104, planned_ratio=1.04,
    )  # fmt: skip
    monkeypatch.setattr(training, "measure", lambda *_, **__: [row])
    result = json.loads(run("bench", "training", "--recipe", "tiny", "--json"))
    assert result == [
        {
            "case": "relaxation", "rows": 4, "tokens": 640, "checkpointing": False, "seconds": 0.5, "ratio": 1.25,
            "peak_bytes": 100, "planned_bytes": 104, "planned_ratio": 1.04,
        }
    ]  # fmt: skip
    assert "1.250" in run("bench", "training", "--recipe", "tiny")

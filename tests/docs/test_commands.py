"""Every command of README.md and docs/ is run: here, or by the test that ELSEWHERE names.

Here means in a folder with the files that the commands name and a store with one short run. What is not on this
machine is replaced (a hub id by a folder of its layout, a recipe that trains for minutes by ``micro``). A command that
would train is run with ``--dry-run``; the trainings themselves are run by other tests.
"""

from __future__ import annotations

import re
import shlex
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirage_core.store import Store
from tests.docs import world
from tests.docs.commands import ROOT, documented
from tests.flows.fake_hub import TOKEN, running_hub
from tests.llm_client.chat_server import chat_server
from tests.pipeline.jobs_here import jobs_here

pytestmark = [pytest.mark.xdist_group("docs"), pytest.mark.slow]  # one short run serves all commands

GUIDE = "tests/machines/test_guide.py::test_a_command_of_the_guide_is_a_program_with_those_options"
SOAK = "tests/soak/test_soak.py::test_the_short_soak_counts_nothing_that_must_not_be"
ELSEWHERE = {
    r"make run": "tests/docs/test_make_run.py::test_make_run_gives_a_report_and_then_finds_everything_cached",
    r"make (test|check)": "tests/docs/test_text.py::test_ci_runs_the_tests_by_the_command_of_the_readme",
    r"python -m pytest tests/model/test_backbone.py": "tests/model/test_backbone.py::",
    r"python -m pytest tests/training/test_stepwise.py": "tests/training/test_stepwise.py::",
    r"python -m pytest tests/training/test_visual_tokens.py": "tests/training/test_visual_tokens.py::",
    r"(MIRAGE_METHODS=my_method|python -m pytest tests/pipeline/test_add_a_method)": (
        "tests/pipeline/test_add_a_method.py::test_an_added_method_is_planned_trained_judged_and_reported"
    ),
    r"python -m pytest tests/golden": "tests/golden/test_golden.py::",
    r"make soak|python -m tests.soak": SOAK,
    r"tensorboard": "tests/training/test_tensorboard.py::test_a_run_shows_its_curves_and_validations",
    r"mirage export MODEL FOLDER --adapter only": "tests/flows/test_models_commands.py::",
    r"mirage diagnose /models/LVR-7B": "tests/flows/test_model_folders.py::test_the_command_measures_it_on_the_rows",
    r"(mirage serve|pip install -c constraints.txt -e '.\[serve\]'|curl)": (
        "tests/serving/test_serve.py::test_models_health_and_metrics"
    ),
    r"python -m mirage_vllm.rollouts": (
        "tests/vllm_plugin/test_rollouts_on_vllm.py"
        "::test_greedy_answers_are_those_of_decode_with_the_weights_that_were_pushed"
    ),
    r"pip install ./mirage-vllm|vllm serve": (
        "tests/vllm_plugin/test_on_vllm.py::test_the_server_answers_what_decode_does_and_counts_latents"
    ),
    r"mirage bench grpo": "tests/bench/test_grpo.py::",
    r"python docs/examples/client_mazes.py": (
        "tests/serving/test_clients.py::test_the_data_of_both_clients_are_the_same_problems_with_their_pictures"
    ),
    # Neither client is installed by the tests: they send its requests, and read its configuration.
    r"MIRAGE_API_KEY=sk-any python -m lmms_eval|pip install lmms-eval": (
        "tests/serving/test_clients.py::test_lmms_eval_reads_text_and_counts"
    ),
    r"LMUData=client-data": "tests/serving/test_clients.py::test_vlmevalkit_reads_the_content",
    r"mirage bench serve FOLDER --json --endpoint": (
        "tests/bench/test_serving.py::test_the_command_asks_every_endpoint_with_its_process"
    ),
    r"mirage bench latent": "tests/bench/test_latent.py::test_the_rows_are_json_with_the_named_cases",
    r"mirage bench arithmetic": "tests/bench/test_arithmetic.py::",
    r"mirage bench training": "tests/flows/test_plan_command.py::",
    r"prefect deployment run": "tests/machines/test_cluster.py::",
    r"(mirage run --direct --recipe docs/examples/turning.yaml|mirage evaluate --benchmark turning)": (
        "tests/flows/test_own_task.py::"
    ),
    r"(export|cp|chmod|openssl|docker|kubectl|rclone|git|dask|prefect|python -m deployments|17 4)\b": GUIDE,
    r"(MIRAGE_\w+=\S+ )+mirage deploy|mirage (s3-block|status)": "tests/flows/test_stack_commands.py::",
    r"mirage run --recipe qwen2.5-vl-7b --direct --store /shared/store": "tests/distributed/test_process_group.py::",
}
"""Commands by how they begin, and the test that runs them (a whole file: ``::``)."""

STAND_INS = (
    (r"--recipe (tiny-paper|tiny|qwen2.5-vl-3b(?= .*--measure)|my.yaml)(?= |$)", "--recipe micro"),
    (r"^mirage run(?! --recipe)", "mirage run --recipe micro"),
    (r"--data (/data/vstar_bench|craigwu/vstar_bench)", "--data data/vstar_bench"),
    (r"--benchmark hr-bench-8k", "--benchmark hr-bench-8k --data data/HR-Bench"),
    (r" --checkpoint /models/LVR-7B", ""),
    (r"/data/TableVQA-Bench", "data/TableVQA-Bench"),
    (r"/data/boards", "boards"),
    (r"qwen.parquet evaluation/0123456789", "qwen.parquet qwen.parquet"),
    (r"--store /backup/store", ""),
    (r"lora=lora", "lora=lora/pytorch_lora_weights.safetensors"),
    (r"\$PWD/", ""),
    (r"finetuning.steps=500", "finetuning.steps=1"),
    (r"width=480 --set height=320", "width=16 --set height=16"),
    (r"runtime.task_runner=dask", "runtime.task_runner=threads"),
    (r"analysis.instances=400", "analysis.instances=8"),
)
"""What is replaced in a command before it is run."""

TRAINS = re.compile(r"mirage (run|study)\b(?!.*--dry-run)")
SMALL_ANALYSIS = ("analysis.instances=8", "analysis.resamples=20", "analysis.shuffles=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the commands run, with a finished run in its store."""
    root = tmp_path_factory.mktemp("docs")
    patch = pytest.MonkeyPatch()
    with patch.context() as scope:
        scope.chdir(root)
        scope.setenv("MIRAGE_STORE", str(root / "store"))
        scope.setenv("MIRAGE_HOME", str(root / "home"))
        world.build(root)
        sets = [part for setting in world.SHORTER for part in ("--set", setting)]
        with jobs_here():
            world.run("run", "--recipe", "micro", "--direct", *sets)
        yield root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, entered, with its environment."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MIRAGE_STORE", str(folder / "store"))
    monkeypatch.setenv("MIRAGE_HOME", str(folder / "home"))
    monkeypatch.setattr(webbrowser, "open", lambda url: True)
    with jobs_here():
        yield folder


def elsewhere(command: str) -> str | None:
    """The test that runs a command outside of this file."""
    return next((test for pattern, test in ELSEWHERE.items() if re.match(pattern, command)), None)


HERE = [command for command in documented() if elsewhere(command) is None]


@pytest.mark.parametrize("command", HERE)
def test_a_documented_command_runs(command: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(replaced(command, here))
    assert program == "mirage", f"{command}: run it here, or name the test that does in ELSEWHERE"
    if TRAINS.match(command):
        words = [word for word in words if word != "--direct"] + ["--dry-run"]
    if "--endpoint" in words:
        with chat_server(lambda call: call.reply("A")) as server:
            monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
            words[words.index("--endpoint") + 1] = server.url
            world.run(*words)
    elif words[0] == "push":
        with running_hub() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            world.run(*words, "--dry-run")
    else:
        world.run(*words, *more(words, here))


def replaced(command: str, here: Path) -> str:
    """A command with its stand-ins: data and models that are here."""
    for pattern, text in STAND_INS:
        command = re.sub(pattern, text, command)
    store = Store.open(str(here / "store"))
    model = next(each.path for each in store.list("model") if store.manifest(each).about["stage"] == "relaxation")
    home = next((here / "home").rglob("config.json")).parent
    command = command.replace("answer FOLDER", f"answer {home}").replace(" MODEL", f" {model}")
    return command.replace(" FOLDER", " exported" + re.sub(r"\W", "", command)[-8:])


def more(words: list[str], here: Path) -> list[str]:
    """Options that make a command small."""
    if words[0] == "diagnose":
        if "nightly" in words:
            world.run("store", "point", "nightly", Store.open(str(here / "store")).list("model")[-1].path)
        sets = (*SMALL_ANALYSIS, *world.SHORTER) if "--recipe" in words else SMALL_ANALYSIS
        return ["--direct", *(part for setting in sets for part in ("--set", setting))]
    if words[0] == "scenes":
        frame = ("width=16", "height=16") if words[1] == "try" else ()
        return [part for setting in ("model=cogvideox", "steps=1", *frame) for part in ("--set", setting)]
    return []


def test_a_test_that_is_named_for_a_command_exists() -> None:
    for test in set(ELSEWHERE.values()):
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), test


def test_every_pattern_stands_for_a_command() -> None:
    unused = [pattern for pattern in ELSEWHERE if not any(re.match(pattern, command) for command in documented())]
    assert unused == []

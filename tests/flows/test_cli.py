"""The command line: exit statuses, one clear message an error, and a dry run that does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.pipeline.run_record import newest_record
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline


def mirage(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as people do, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**os.environ, "MIRAGE_HOME": str(home)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--recipe", "tinny", "--dry-run"], 1, "did you mean tiny"),
        (["run", "--recipe", "micro", "--set", "grounding.stepz=3", "--dry-run"], 1, "did you mean grounding.steps"),
        (["run", "--recipe", "micro", "--set", "seed=-1", "--direct"], 1, "seed"),
        (["run", "--recipe", "micro"], 1, "no Prefect server runs"),
        (["evaluate", "--benchmark", "vsp-planing"], 1, "did you mean 'vsp-planning'"),
        (["evaluate", "--benchmark", "vsp-planning"], 1, "`mirage run` makes one"),
        (["answer", "nowhere.png"], 1, "nowhere.png"),
        (["report"], 1, "there is no run"),
        (["store", "show", "model/0000"], 1, "no artifact 'model/0000'"),
        (["run", "--no-such-option"], 2, "No such option"),
    ],
)
def test_wrong_use_gives_one_message_and_an_exit_status(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    done = mirage(*arguments, home=tmp_path / "home")

    assert done.returncode == status, done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = mirage("--debug", "run", "--recipe", "tinny", "--dry-run", home=tmp_path / "home")

    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_dry_run_shows_settings_and_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = mirage("run", "--recipe", "micro", "--set", "grpo.enabled=false", "--dry-run", home=tmp_path / "home")

    assert done.returncode == 0, done.stderr
    assert "recipe: micro" in done.stdout
    assert "enabled: false" in done.stdout
    assert "will run  problems" in done.stdout
    assert "grpo" not in done.stdout.partition("store: ")[2]
    assert list(tmp_path.iterdir()) == []


def test_help_starts_without_torch_or_prefect() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app; "
        "CliRunner().invoke(app, ['run', '--help']); print(sorted({'torch', 'prefect', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_direct_run_imports_neither_prefect_nor_needs_a_server() -> None:
    code = "import sys; import flows.commands.run, mirage_core.pipeline.runner; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_a_direct_run_then_its_report_and_its_store(fake_pipeline: FakePipeline) -> None:
    cli = CliRunner()

    ran = cli.invoke(app, ["run", "--recipe", "micro", "--direct"])
    assert ran.exit_code == 0, ran.output
    assert len(fake_pipeline.ran) == 14

    reported = json.loads(cli.invoke(app, ["report", "--json"]).stdout)
    assert reported["recipe"] == "micro"
    assert reported["state"] == "Completed"
    assert {"name", "state", "cached", "seconds"} <= set(reported["stages"][0])
    assert {"benchmark", "method", "level", "accuracy", "interval", "n", "unparsed"} <= set(reported["scores"][0])
    assert reported["wall_seconds"] > 0

    assert "report.html" in cli.invoke(app, ["report"]).stdout
    assert "14 artifacts" in cli.invoke(app, ["store", "ls"]).stdout
    assert cli.invoke(app, ["store", "verify"]).exit_code == 0


def test_a_dry_run_says_what_is_cached(fake_pipeline: FakePipeline) -> None:
    cli = CliRunner()
    cli.invoke(app, ["run", "--recipe", "micro", "--direct"])
    plan = cli.invoke(app, ["run", "--recipe", "micro", "--dry-run"]).stdout

    assert plan.count("\ncached ") == 14
    assert len(fake_pipeline.ran) == 14


def test_a_damaged_artifact_is_named_by_verify(fake_pipeline: FakePipeline) -> None:
    cli = CliRunner()
    cli.invoke(app, ["run", "--recipe", "micro", "--direct"])
    path = next(stage.path for stage in newest_record(open_store()).stages if stage.name == "problems")
    file = next(Path(open_store().url).glob(f"{path}/files-*/made.txt"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")

    result = cli.invoke(app, ["store", "verify"])

    assert result.exit_code != 0
    assert str(path) in str(result.exception)
    assert "made.txt" in str(result.exception)

"""What a finished run leaves beside the store: its furthest trained model, with a card that tells scores and origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.export import export_on_finish
from mirage_core.errors import InputError
from mirage_core.pipeline.run_record import newest_record
from tasks.paths import home, open_store
from tests.flows.fake_pipeline import FakePipeline


def run(*words: str) -> str:
    """A run of the fake pipeline; what it printed."""
    done = CliRunner().invoke(app, ["run", "--recipe", "micro", "--direct", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output.replace("\n", "")


def test_a_run_exports_its_furthest_trained_model_with_scores_commit_and_versions(
    fake_pipeline: FakePipeline,
) -> None:
    output = run()

    folder = home() / "models" / "micro"
    assert str(folder) in output
    assert (folder / "made.txt").read_text().startswith("grpo")
    about = json.loads((folder / "mirage.json").read_text())
    assert [(row["method"], row["accuracy"], row["interval"]) for row in about["scores"]] == [
        ("grpo", 0.5, [0.25, 0.75])
    ]
    assert {"commit", "versions"} <= about["made_with"].keys()
    card = (folder / "README.md").read_text()
    assert "50" in card and "25" in card and str(about["made_with"]["commit"])[:7] in card


def test_a_second_run_finds_the_folder_as_it_is_and_another_model_replaces_it(fake_pipeline: FakePipeline) -> None:
    run()
    inode = (home() / "models" / "micro" / "made.txt").stat().st_ino
    run()
    assert (home() / "models" / "micro" / "made.txt").stat().st_ino == inode

    run("--set", "grpo.enabled=false")

    assert (home() / "models" / "micro" / "made.txt").read_text().startswith("relaxation")
    assert [path.name for path in (home() / "models").iterdir()] == ["micro"], "nothing is left half written"


def test_the_folder_is_chosen_or_left_out(fake_pipeline: FakePipeline, tmp_path: Path) -> None:
    run("--model-folder", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "config.json").is_file()

    assert "model:" not in run("--model-folder", "none")


def test_a_folder_of_somebody_else_is_never_replaced(fake_pipeline: FakePipeline, tmp_path: Path) -> None:
    run("--model-folder", "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="--model-folder"):
        export_on_finish(newest_record(open_store()), open_store(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_trained_nothing_leaves_nothing(fake_pipeline: FakePipeline, tmp_path: Path) -> None:
    run("--set", "evaluation.methods=[zero-shot]", "--model-folder", str(tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()

"""The flow ``mirage-study`` over fake stages, on a real Prefect server, and its command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mirage_core.errors import DataError, StudyIncomplete
from mirage_core.studies.loading import names
from mirage_core.studies.record import StudyRecord, newest_study
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.test_forms import form

CELLS = [
    {"name": "direct", "method": "direct-sft"},
    {"name": "mirage", "method": "stage-2"},
    {"name": "mirage-grpo", "method": "grpo"},
    {"name": "alone", "method": "without-stage-1"},
]


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A study of four cells."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"recipe": "micro", "baseline": "direct", "cells": CELLS}))
    return str(file)


def newest() -> StudyRecord:
    return newest_study(open_store(), "mine")


def artifacts(key: str) -> int:
    """How many artifacts of a key the server has; other tests share it."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        count = client._client.post("/artifacts/count", json={"artifacts": {"key": {"any_": [key]}}})
    return int(count.raise_for_status().json())


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.xdist_group("prefect")
@pytest.mark.parametrize("parallel", [1, 2])
def test_stages_of_the_grid_are_tasks_and_shared_ones_run_once(
    fake_pipeline: FakePipeline, study: str, parallel: int
) -> None:
    from flows.study import grid_study

    before = {key: artifacts(key) for key in ("study", "study-table")}
    report = grid_study(study=study, parallel=parallel)
    ran = list(fake_pipeline.ran)
    again = grid_study(study=study, parallel=parallel)

    assert len(ran) == len(set(ran)) == 13
    assert (report.kind, again) == ("study", report)
    assert fake_pipeline.ran == ran, "no stage's body ran twice"
    assert {cell.state for cell in newest().cells} == {"Completed"}
    assert {key: artifacts(key) for key in before} == {key: count + 2 for key, count in before.items()}


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.xdist_group("prefect")
def test_a_failed_cell_fails_the_study_and_only_what_is_missing_runs_again(
    fake_pipeline: FakePipeline, study: str
) -> None:
    from flows.study import grid_study

    fake_pipeline.faults["without-stage-1"] = [DataError("row 7 has no image")]
    with pytest.raises(StudyIncomplete, match=r"1 of 4 cells failed: alone/42 .*row 7"):
        grid_study(study=study)
    assert (newest().state, [cell.state for cell in newest().cells].count("Failed")) == ("Failed", 1)

    fake_pipeline.ran.clear()
    grid_study(study=study)
    assert fake_pipeline.ran == ["without-stage-1", "evaluation/without-stage-1"]


def test_the_command_shows_its_plan_then_runs_it_in_this_process(fake_pipeline: FakePipeline, study: str) -> None:
    from flows.cli import app

    planned = CliRunner().invoke(app, ["study", study, "--dry-run", "--seeds", "1,2"])
    assert planned.exit_code == 0, planned.output
    assert "26 stages for 8 cells, 54 without sharing; 0 are cached" in planned.output
    fewer = CliRunner().invoke(app, ["study", study, "--dry-run", "--seeds", "1,2", "--cells", "alone"])
    assert "for 4 cells" in fewer.output, fewer.output
    assert fake_pipeline.ran == []

    done = CliRunner().invoke(app, ["study", study, "--direct", "--seeds", "1,2"])
    assert done.exit_code == 0, done.output
    assert len(fake_pipeline.ran) == 26
    assert "| direct | 50.0" in done.output and "study.html" in done.output
    planned = CliRunner().invoke(app, ["study", study, "--dry-run", "--seeds", "1,2"])
    assert "26 are cached" in planned.output


def test_a_wrong_seed_and_an_unknown_study_are_told(fake_pipeline: FakePipeline, study: str) -> None:
    from flows.commands.study import parse_cells, parse_seeds
    from mirage_core.errors import InputError
    from mirage_core.studies.loading import load_study

    with pytest.raises(InputError, match="got the seeds '1,b', expected whole numbers"):
        parse_seeds("1,b")
    with pytest.raises(InputError, match="got the cells ',', expected names"):
        parse_cells(",")
    with pytest.raises(InputError, match="did you mean ablation"):
        load_study("ablatio")


def test_the_form_and_the_help_name_every_study() -> None:
    from flows.cli import app

    output = CliRunner().invoke(app, ["study", "--help"], terminal_width=200).output
    for name in names():
        assert name in form("flows/study.py:grid_study")["study"]["description"]
        assert name in output

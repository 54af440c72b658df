"""The recipe small: it resolves, and its road runs here when its numbers are cut down."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.pipeline.runner import run_in_process
from mirage_core.planning.flops import Rates
from mirage_core.planning.plan import make_plan
from mirage_core.recipes import load
from mirage_core.store import Store
from tests.pipeline.jobs_here import jobs_here

CUT = [
    "problems.vsp_planning={train: 10, validation: 0, test_per_level: 1}",
    "problems.vsp_reasoning={train: 4, validation: 0, test_per_level: 1}",
    "model.warmup={steps: 1, batch_size: 8, warmup_steps: 0}",
    *(f"{stage}.steps=1" for stage in ("grounding", "relaxation")),
    *(f"{stage}.batch_size=4" for stage in ("grounding", "relaxation")),
    "evaluation={methods: [stage-2], max_new_tokens: 4, batch_size: 8}",
    "runtime={engine: plain, threads: 1}",
]


def test_it_has_all_four_levels_both_benchmarks_and_the_papers_methods() -> None:
    settings = load("small")
    for data in (settings.problems.vsp_planning, settings.problems.vsp_reasoning):
        assert data is not None
        assert set(data.train_levels) == set(data.test_levels) == {3, 4, 5, 6}
    assert settings.evaluation.methods == ("zero-shot", "direct-sft", "stage-1", "stage-2", "grpo")
    assert (settings.model.source, settings.runtime.world_size) == ("from_scratch", 1)
    assert "not been run on a GPU yet" in settings.description
    # The comparison the paper makes: as many steps of text for both.
    assert settings.direct_sft.steps == settings.relaxation.steps


def test_its_training_is_planned_to_fit_a_small_gpu_and_eight_minutes() -> None:
    plan = make_plan(load("small"), 8.0, Rates(training=10.0, rolling=10.0))
    assert plan.fits
    assert plan.hours is not None and plan.hours * 60 < 8  # the rest of the twenty is data, starts and pictures


def test_a_dry_run_shows_its_stages(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["run", "--recipe", "small", "--dry-run", "--store", str(tmp_path / "store")])
    assert ran.exit_code == 0, ran.output
    assert "will run  relaxation" in ran.output


@pytest.mark.slow
def test_it_runs_on_a_cpu_with_its_numbers_cut_down(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    with jobs_here():
        record = run_in_process(load("small", CUT), store, lambda event: None)
    assert {stage.name for stage in record.stages} >= {
        "base",
        "grounding",
        "relaxation",
        "evaluation/stage-2",
        "report",
    }

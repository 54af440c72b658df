"""Explicit visual tokens from the plan to the report, and the answer that shows its codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from mirage_core import methods
from mirage_core.pipeline.pipeline import plan
from mirage_core.pipeline.runner import run_in_process
from mirage_core.planning.plan import make_plan
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import load_predictions
from mirage_core.training.data.visual_tokens.code_sheet import SHEET_FILE, TILE
from mirage_core.worlds.maze import maze_from_rows
from mirage_core.worlds.maze.art import picture_bytes, render
from tests.pipeline.jobs_here import jobs_here

SMALL = [
    "evaluation={methods: [direct-sft, visual-tokens], max_new_tokens: 16}",
    "problems.vsp_planning={train: 24, validation: 2, test_per_level: 4}",
    "problems.vsp_reasoning=null",
    "model.warmup.steps=2",
    "direct_sft={steps: 2, batch_size: 4}",
    "visual_tokens={codebook_size: 8, steps: 120, batch_size: 8, learning_rate: 5.0e-3}",
    "runtime={engine: plain, processes: 1, threads: 1}",
]


@pytest.mark.slow
def test_visual_tokens_are_planned_trained_judged_reported_and_shown(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load("micro", SMALL)
    planned = ["base", "visual-codes", "direct-sft", "visual-tokens", "evaluation"]
    assert [stage.name for stage in make_plan(settings, 80.0).stages] == planned

    with jobs_here():
        record = run_in_process(settings, store, lambda event: None)

    names = [stage.name for stage in record.stages]
    assert [name for name in names if name not in methods.DATA_STAGES] == [
        "direct-sft", "visual-tokens", "evaluation/direct-sft", "evaluation/visual-tokens", "report"
    ]  # fmt: skip
    assert "visual-codes" in names and {row.method for row in record.scores} == {"direct-sft", "visual-tokens"}
    assert all(stage.cached for stage in plan(settings, store))
    folders = [store.fetch(artifact) for artifact in store.list("evaluation")]
    outputs = [pair[0].output for folder in folders for pair in load_predictions(folder)]
    assert any(output.startswith("<|visual_start|><|visual_") for output in outputs)
    page = (store.fetch(store.list("report")[0]) / "report.html").read_text()
    assert "Explicit visual tokens" in page and "its codes, each as the nearest patch" in page and "[codes " in page

    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    (model,) = [
        folder for artifact in store.list("model") if ((folder := store.fetch(artifact)) / SHEET_FILE).is_file()
    ]
    (tmp_path / "map.png").write_bytes(picture_bytes(render(maze_from_rows([[1, 0, 0], [-1, -1, 0], [0, 2, 0]]))))
    shown = tmp_path / "page.html"
    words = ["answer", str(model), str(tmp_path / "map.png"), "--explain", "--page", str(shown)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "(visual-tokens)" in result.output
    codes = result.output.partition("[codes ")[2].partition("]")[0].split()
    assert len(codes) == settings.latent.num_latents and "What its codes look like" in shown.read_text()
    with Image.open(shown.with_suffix(".codes.png")) as strip:
        assert strip.size == (2 * TILE * len(codes), 2 * TILE)

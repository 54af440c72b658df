"""GRPO of a model without latents: no answer begins a span, whatever the model would like, and ratios still agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.sft.train import run_supervised
from tests.training.small_world import even_length, make_inputs, make_job


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, its model taught for a few steps to answer with latents."""
    folder, work = tmp_path_factory.mktemp("taught"), tmp_path_factory.mktemp("teaching") / "work"
    make_inputs(folder)
    trained = run(make_job(folder, work, "relaxation", relaxation={"steps": 40}))
    shutil.rmtree(folder / "model")
    shutil.copytree(trained, folder / "model")
    return folder


def run(job: Job) -> Path:
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    events = EventWriter(job.scratch / "events.jsonl")
    if job.program == "grpo":
        run_grpo(job, events, scorer=even_length)
    else:
        run_supervised(job, events)
    return job.output


def curves(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in read_table(folder / "curves.parquet"):
        found.setdefault(row["name"], []).append(row["value"])
    return found


def test_answers_hold_latents_only_where_the_model_may_have_them(inputs: Path, tmp_path: Path) -> None:
    watched = {"steps": 2, "validation": {"every": 1, "problems": 2}}
    jobs = {
        mode: make_job(inputs, tmp_path / mode, "grpo", grpo=watched).model_copy(update={"options": {"latents": mode}})
        for mode in ("on", "off")
    }
    drawn = {mode: run(job) for mode, job in jobs.items()}
    figures = {mode: curves(folder) for mode, folder in drawn.items()}

    assert max(figures["on"]["latent_share"]) > 0.5
    assert figures["off"]["latent_share"] == [0.0, 0.0]
    assert "validation/latent_share" in figures["on"] and "validation/latent_share" not in figures["off"]
    # On-policy: what was drawn and what is learned from have the same distribution, latent_start banned in both.
    assert max(figures["off"]["ratio_deviation"]) < 1e-3
    assert max(figures["off"]["gradient_norm"]) > 0
    assert min(figures["off"]["step_tokens"]) > 0


def test_a_model_that_never_had_latents_says_nothing_of_how_to_use_them(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    text = run(make_job(tmp_path, tmp_path / "text", "text", direct_sft={"steps": 1}))
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(text, tmp_path / "model")
    job = make_job(tmp_path, tmp_path / "grpo", "grpo", grpo={"steps": 1})
    improved = run(job.model_copy(update={"options": {"latents": "off"}}))
    metadata = [json.loads((folder / "mirage.json").read_text()) for folder in (text, improved)]

    assert [one["stages"] for one in metadata] == [["base", "text"], ["base", "text", "grpo"]]
    assert not any("latent" in one for one in metadata)
    assert all({"prompt", "variant"} <= one.keys() for one in metadata)

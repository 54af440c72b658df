"""GRPO after Coconut, CODI and visual tokens: answers are replayed as they were drawn, and one update is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirage_core.distributed.job import Job
from mirage_core.methods import METHODS, TRAIN_STAGES
from mirage_core.model.loading import load_model
from mirage_core.store.tables import read_table
from mirage_core.training.data.visual_tokens.quantise import CODEBOOK_FILE
from tests.training.grpo_world import run_here
from tests.training.small_world import make_job, trained_by
from tests.training.test_pooler import with_model
from tests.training.test_visual_tokens import STAGE as CODED
from tests.training.test_visual_tokens import quantised

STAGE: dict[str, Any] = {"steps": 24, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 2}
FILM: dict[str, Any] = {"captions": {"of": "film"}, "auxiliary_images": {"film": "forward"}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "coconut": ("recompute", {**FILM, "latent": {"num_latents": 4}, "coconut": {**STAGE, "last_share": 0.6}}),
    "codi": ("recompute", {**FILM, "codi": STAGE}),
    "codi, projected": ("replay", {**FILM, "codi": {**STAGE, "projection": 24}}),
}


def curves(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in read_table(folder / "curves.parquet"):
        found.setdefault(row["name"], []).append(row["value"])
    return found


def captioned(job: Job, inputs: Path) -> Job:
    return job.model_copy(update={"inputs": {**job.inputs, "examples": inputs / "captions"}})


@pytest.mark.parametrize("case", CASES)
def test_answers_with_latents_are_replayed_as_they_were_drawn(inputs: Path, tmp_path: Path, case: str) -> None:
    latents, sections = CASES[case]
    program: Any = case.partition(",")[0]
    model = trained_by(captioned(make_job(inputs, tmp_path / "taught", program, **sections), inputs))
    folder = with_model(inputs, tmp_path / "inputs", model)
    output = run_here(make_job(folder, tmp_path / "grpo", "grpo", grpo={"steps": 1, "latents": latents}, **sections))
    figures = curves(output)
    assert figures["latent_share"][0] > 0 and figures["num_latents"][0] > 0
    assert figures["ratio_deviation"] == [pytest.approx(0, abs=1e-4)]
    assert figures["gradient_norm"][0] > 0
    assert (output / "latent_readout.safetensors").is_file() == ("projected" in case)


def test_the_stages_are_registered_as_reinforcement_of_their_method() -> None:
    for name in ("coconut", "codi", "visual-tokens"):
        stage, method = TRAIN_STAGES[f"{name}-grpo"], METHODS[f"{name}-grpo"]
        assert stage.start == name and stage.program.reinforces and stage.latents == (name != "visual-tokens")
        assert method.stages == (name, f"{name}-grpo") and method.uses_grpo


def test_visual_tokens_are_text_that_is_replayed_and_keep_their_codebook(inputs: Path, tmp_path: Path) -> None:
    quantised(inputs, tmp_path / "coded", "picture")
    taught = make_job(tmp_path / "coded", tmp_path / "taught", "visual-tokens", visual_tokens=CODED)
    folder = with_model(tmp_path / "coded", tmp_path / "inputs", trained_by(taught))
    job = make_job(folder, tmp_path / "grpo", "grpo", grpo={"steps": 1})
    output = run_here(job.model_copy(update={"options": {"latents": "off"}}))
    figures = curves(output)
    assert figures["latent_share"] == [0] and figures["ratio_deviation"] == [pytest.approx(0, abs=1e-4)]
    assert figures["gradient_norm"][0] > 0
    assert (output / CODEBOOK_FILE).read_bytes() == (folder / "model" / CODEBOOK_FILE).read_bytes()
    assert len(load_model(output).ids.visual_codes) == CODED["codebook_size"]

"""The training loop on a real, random Qwen2.5-VL: the same result however it is cut, stopped and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mirage_core.distributed.events import EventReader, EventWriter
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.errors import ArtifactDamaged, TrainingError
from mirage_core.store.tables import read_table
from mirage_core.training.sft.train import run_supervised
from tests.training.small_world import make_job

ROOT = Path(__file__).parents[2]


def run_here(job: Job) -> list[dict[str, Any]]:
    """Run a job as the only process, in this one; returns its events."""
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    return list(EventReader([job.scratch / "events.jsonl"]).poll())


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def curve(folder: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(folder / "curves.parquet") if row["name"] == name]


@pytest.fixture(scope="module")
def straight(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each program run once without disturbance: its work folder."""
    folders = {}
    for program in ("text", "grounding", "relaxation"):
        folders[program] = tmp_path_factory.mktemp(program) / "work"
        run_here(make_job(inputs, folders[program], program))
    return folders


def test_every_step_of_stage_1_weighs_its_text_by_gamma(straight: dict[str, Path]) -> None:
    loss, visual, text = (curve(straight["grounding"] / "output", name) for name in ("loss", "visual", "text"))
    assert loss == pytest.approx([seen + 0.1 * said for seen, said in zip(visual, text, strict=True)], rel=1e-5)
    assert min(text) > 0.5


@pytest.mark.parametrize("program", ("text", "grounding", "relaxation"))
def test_every_program_learns_and_leaves_a_model_with_curves(straight: dict[str, Path], program: ProgramName) -> None:
    output = straight[program] / "output"
    losses = curve(output, "loss")
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert len(curve(output, "gradient_norm")) == 8
    about = json.loads((output / "mirage.json").read_text())
    assert about["stages"] == ["base", program]
    assert about["variant"] == "direct"
    assert about.get("latent", {}).get("num_latents") == (None if program == "text" else 2)


@pytest.mark.parametrize("program", ("text", "grounding", "relaxation"))
def test_a_run_resumed_from_a_checkpoint_ends_in_the_same_bytes(
    inputs: Path, straight: dict[str, Path], tmp_path: Path, program: ProgramName
) -> None:
    checkpoint = straight[program] / "scratch" / "checkpoints" / "step-00000003"
    events = run_here(make_job(inputs, tmp_path / "again", program, resume_from=checkpoint))
    assert events[0]["message"] == "going on after step 3"
    output = tmp_path / "again" / "output"
    assert weights(output) == weights(straight[program] / "output")
    assert (output / "curves.parquet").read_bytes() == (straight[program] / "output" / "curves.parquet").read_bytes()


def test_micro_batches_change_nothing_but_rounding(inputs: Path, straight: dict[str, Path], tmp_path: Path) -> None:
    run_here(make_job(inputs, tmp_path / "cut", "grounding", grounding={"micro_batch_size": 4}))
    for name in ("loss", "text", "visual", "gradient_norm"):
        assert curve(tmp_path / "cut" / "output", name) == pytest.approx(
            curve(straight["grounding"] / "output", name), rel=1e-4
        )


def test_known_image_features_change_nothing(inputs: Path, straight: dict[str, Path], tmp_path: Path) -> None:
    from mirage_core.training.sft import examples as supervised

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised, "precompute_features", lambda used, encode, *rest: supervised.OnDemandSource(encode))
        run_here(make_job(inputs, tmp_path / "pixels", "grounding"))
    expected = curve(straight["grounding"] / "output", "loss")
    assert curve(tmp_path / "pixels" / "output", "loss") == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d: the (loss|gradient_norm) is (nan|inf)"):
        run_here(make_job(inputs, tmp_path / "wild", "text", direct_sft={"learning_rate": 1e30, "warmup_steps": 0}))


def test_a_checkpoint_of_another_program_is_refused(inputs: Path, straight: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = straight["text"] / "scratch" / "checkpoints" / "step-00000003"
    with pytest.raises(TrainingError, match="checkpoint of text"):
        run_here(make_job(inputs, tmp_path / "other", "relaxation", resume_from=checkpoint))


def test_a_broken_checkpoint_is_refused(inputs: Path, straight: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(straight["text"] / "scratch" / "checkpoints" / "step-00000003", broken)
    (broken / "shard-00000.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactDamaged, match="not a training checkpoint"):
        run_here(make_job(inputs, tmp_path / "other", "text", resume_from=broken))

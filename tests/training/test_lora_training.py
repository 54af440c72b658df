"""Training by adapters: through every engine, resumed, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mirage_core.distributed.job import ProgramName
from mirage_core.distributed.launch import run_job
from mirage_core.model.loading import load_model
from tests.forked import forked_jobs, with_deepspeed
from tests.training.small_world import make_job, quiet
from tests.training.test_loop import curve, run_here, weights

LORA = {"model": {"lora": {"rank": 4, "alpha": 8.0}}}
SHORT = {"steps": 4, "learning_rate": 1.0e-2, "gradient_checkpointing": True}

FILM: dict[str, Any] = {"captions": {"of": "film"}, "auxiliary_images": {"film": "forward"}}
PROGRAMS: dict[ProgramName, tuple[str, dict[str, Any], str]] = {
    "text": ("direct_sft", {}, "examples"),
    "grounding": ("grounding", {}, "examples"),
    "relaxation": ("relaxation", {}, "examples"),
    "lvr": ("lvr", {}, "examples"),
    "coconut": ("coconut", {"first_share": 0.0, "last_share": 1.0, "stages": 1}, "captions"),
    "codi": ("codi", {"projection": 24}, "captions"),
}
"""The section of each, what is set in it, and the examples that it reads."""


@pytest.fixture(scope="module")
def straight(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each program run once by the plain engine: its work folder."""
    folders = {}
    for program, (section, more, examples) in PROGRAMS.items():
        folders[program] = tmp_path_factory.mktemp(program) / "work"
        job = make_job(inputs, folders[program], program, **LORA, **FILM, **{section: {**SHORT, **more}})
        run_here(job.model_copy(update={"inputs": {**job.inputs, "examples": inputs / examples}}))
    return folders


@pytest.mark.parametrize("program", PROGRAMS)
def test_adapters_learn_in_every_program_and_the_rest_stays(
    inputs: Path, straight: dict[str, Path], program: ProgramName
) -> None:
    output = straight[program] / "output"
    losses = curve(output, "loss")
    assert len(losses) == 4 and losses[-1] < losses[0]
    before, after = (load_model(folder).backbone.state_dict() for folder in (inputs / "model", output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {name for name in before if ".language_model.layers." in name and name.endswith("_proj.weight")}
    tables = {name for name in before if "embed_tokens" in name or "lm_head" in name}
    assert adapted <= changed and changed <= adapted | tables
    ids = load_model(output).ids
    rows = {row for name in tables for row in (before[name] != after[name]).any(1).nonzero().flatten().tolist()}
    assert rows <= {ids.latent_start, ids.latent_pad, ids.latent_end}


def test_a_checkpoint_of_adapters_holds_them_alone_and_resumes_to_the_same_bytes(
    inputs: Path, straight: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = straight["relaxation"] / "scratch" / "checkpoints" / "step-00000003"
    checkpoint_size = sum(file.stat().st_size for file in checkpoint.rglob("*"))
    assert (
        checkpoint_size < 0.6 * (inputs / "model" / "model.safetensors").stat().st_size
    )  # three numbers for each weight
    job = make_job(inputs, tmp_path / "again", "relaxation", resume_from=checkpoint, **LORA, relaxation=SHORT)
    run_here(job)
    output, expected = tmp_path / "again" / "output", straight["relaxation"] / "output"
    assert weights(output) == weights(expected)
    name = "adapter/adapter_model.safetensors"
    assert (output / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("program", ["relaxation", "lvr", "coconut", "codi"])
def test_zero_3_in_two_processes_trains_adapters_as_the_plain_engine_does(
    inputs: Path, straight: dict[str, Path], tmp_path: Path, program: ProgramName
) -> None:
    section, more, examples = PROGRAMS[program]
    runtime = {"engine": "deepspeed", "zero_stage": 3, "processes": 2}
    sections = {**LORA, **FILM, section: {**SHORT, **more}}
    job = make_job(inputs, tmp_path / "other", program, **sections, runtime=runtime)
    job = job.model_copy(update={"inputs": {**job.inputs, "examples": inputs / examples}})
    with_deepspeed()
    with forked_jobs():
        run_job(job, progress=quiet, on_checkpoint=lambda step, folder: None)
    ours, theirs = straight[program] / "output", tmp_path / "other" / "output"
    for name in ("loss", "gradient_norm"):
        assert curve(theirs, name) == pytest.approx(curve(ours, name), rel=1e-3)
    name = "adapter/adapter_model.safetensors"
    one, other = load_file(ours / name), load_file(theirs / name)
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, rtol=1e-3, atol=1e-3)
    merged = load_model(theirs).backbone.state_dict()
    for key, tensor in load_model(ours).backbone.state_dict().items():
        torch.testing.assert_close(merged[key], tensor, rtol=1e-3, atol=1e-3)

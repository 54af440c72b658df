"""The small world with captions, Monet's stages on it, and the teachers' states between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import ProgramName
from mirage_core.methods import state_stages
from mirage_core.model.loading import load_model
from mirage_core.store.records import load_examples, save_examples
from mirage_core.teacher.captions import oracle_caption, with_caption
from mirage_core.training.monet.teacher_states import save_teacher_states, states_of
from mirage_core.training.sft.examples import observed_encoder
from mirage_core.training.sft.train import run_supervised
from tests.training.small_world import make_job, quiet, small_settings

STAGE: dict[str, Any] = {"steps": 4, "batch_size": 5, "learning_rate": 2.0e-3, "warmup_steps": 2}


def with_captions(inputs: Path, folder: Path) -> Path:
    """The same inputs, the examples captioned."""
    (folder / "examples").mkdir(parents=True)
    for name in ("model", "problems"):
        (folder / name).symlink_to((inputs / name).resolve())
    settings = small_settings().captions
    examples = load_examples(inputs / "examples", frames=False)
    captioned = [with_caption(example, oracle_caption(example, settings)) for example in examples]
    save_examples(folder / "examples" / "examples.parquet", captioned)
    return folder


def following(inputs: Path, folder: Path, model: Path, states: Path | None = None) -> Path:
    """Inputs of a later stage: another model, and the states of its teacher."""
    folder.mkdir(parents=True)
    for name in ("examples", "problems"):
        (folder / name).symlink_to((inputs / name).resolve())
    (folder / "model").symlink_to(model.resolve())
    if states is not None:
        (folder / "states").symlink_to(states.resolve())
    return folder


def computed_states(inputs: Path, folder: Path, stage: str, model: Path) -> Path:
    """What a stage that computes states writes."""
    folder.mkdir(parents=True)
    record, examples = state_stages()[stage], load_examples(inputs / "examples", frames=False)
    loaded = load_model(model)
    encode = observed_encoder(record.program.name, small_settings(), loaded, examples)
    states = states_of(loaded, encode, len(examples), at_latents=record.program.has_latents, progress=quiet)
    save_teacher_states(folder, ((one.problem.id, own) for one, own in zip(examples, states, strict=True)))
    return folder


def trained(inputs: Path, work: Path, program: ProgramName, resume_from: Path | None = None, **sections: Any) -> Path:
    """Train here; returns the folder of the model."""
    job = make_job(inputs, work, program, resume_from, **sections)
    if (inputs / "states").exists():
        job = job.model_copy(update={"inputs": {**job.inputs, "states": inputs / "states"}})
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    return job.output


def make_monet_world(inputs: Path, folder: Path) -> dict[str, Path]:
    """The inputs of each of Monet's stages, by its program; each stage before was trained."""
    first = with_captions(inputs, folder / "monet-warmup")
    warm = trained(first, folder / "work-warmup", "monet-warmup", monet_warmup=STAGE)
    states = computed_states(first, folder / "observations", "monet-observations", warm)
    second = following(first, folder / "monet-targets", warm, states)
    teacher = trained(second, folder / "work-targets", "monet-targets", monet_targets=STAGE)
    states = computed_states(first, folder / "latents", "monet-latents", teacher)
    return {
        "monet-warmup": first,
        "monet-targets": second,
        "monet": following(first, folder / "monet", warm, states),
    }

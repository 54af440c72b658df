"""A few real problems, examples and a random base model, small enough to train on in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.benchmarks.judge import Scorer
from mirage_core.config import Settings
from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.store.records import save_examples, save_problems
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher import make_teacher, write_examples
from mirage_core.teacher.captions import oracle_caption, with_caption
from mirage_core.training.objective import MicroBatch, Objective
from mirage_core.training.sft.train import run_supervised
from mirage_core.types import Prediction, Problem, ProgressEvent, Score

ARCHITECTURE = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
STAGE = {"batch_size": 6, "learning_rate": 2.0e-3, "warmup_steps": 2}


def scorer_of(is_right: Callable[[Problem, str], bool]) -> Scorer:
    """A judge that decides by the problem and the text of an answer."""

    def score(problem: Problem, prediction: Prediction, rule: str) -> Score:
        correct = is_right(problem, prediction.output)
        return Score(problem_id=problem.id, correct=correct, parsed=None, rule=rule)

    return score


even_length = scorer_of(lambda problem, output: len(output) % 2 == 0)
"""A model this young is never right; by this judge answers of an even length are."""


def small_settings(**sections: Any) -> Settings:
    """A recipe of seconds; ``sections`` replace or extend its sections."""
    recipe: dict[str, Any] = {
        "recipe": "small",
        "seed": 7,
        "problems": {
            "vsp_planning": {
                "train_levels": [3, 4],
                "test_levels": [3],
                "train": 14,
                "validation": 2,
                "test_per_level": 1,
            },
            "vsp_reasoning": None,
        },
        "prompt": {"form": "short", "image_scale": 0.4375},
        "latent": {"num_latents": 2},
        "model": {"source": "from_scratch", "architecture": ARCHITECTURE},
        "direct_sft": {"steps": 8, **STAGE},
        "grounding": {"steps": 8, **STAGE},
        "relaxation": {"steps": 8, **STAGE},
        "grpo": {"steps": 4, "prompts_per_step": 3, "group_size": 4, "learning_rate": 1.0e-3, "max_new_tokens": 8},
        "evaluation": {"max_new_tokens": 16},
        "runtime": {"engine": "plain", "processes": 1, "threads": 1, "checkpoint_every": 3},
    }
    for name, section in sections.items():
        recipe[name] = {**recipe.get(name, {}), **section}
    return Settings.model_validate(recipe)


def quiet(event: ProgressEvent) -> None:
    """A Progress that says nothing."""


def make_inputs(folder: Path) -> None:
    """Write the artifacts' folders that jobs take: model, examples, problems, and captions, of films."""
    settings = small_settings()
    problems = [p for p in generate_problems(settings.problems, settings.seed, quiet) if p.split != "test"]
    film = settings.auxiliary_images.model_copy(update={"film": "forward"})
    images = draw_auxiliary_images(problems, film, settings.problems.cell_px, settings.seed, quiet)
    teacher = make_teacher(settings.teacher)
    for name in ("problems", "examples", "captions"):
        (folder / name).mkdir()
    save_problems(folder / "problems" / "problems.parquet", problems)
    examples = write_examples(teacher, problems, images, settings.teacher.variant, quiet)
    save_examples(folder / "examples" / "examples.parquet", examples, film=True)
    of_film = settings.captions.model_copy(update={"of": "film"})
    captioned = [with_caption(example, oracle_caption(example, of_film)) for example in examples]
    save_examples(folder / "captions" / "examples.parquet", captioned, film=True)
    base = build_base_model(settings.model, settings.seed)
    save_model(folder / "model", base.backbone, base.processor, {"stage": "base"})


def make_job(inputs: Path, work: Path, program: ProgramName, resume_from: Path | None = None, **sections: Any) -> Job:
    """A job on the small world, working in ``work``."""
    return Job(
        program=program,
        settings=small_settings(**sections),
        seed=7,
        inputs={name: inputs / name for name in ("model", "examples", "problems")},
        output=work / "output",
        scratch=work / "scratch",
        resume_from=resume_from,
    )


def trained_by(job: Job) -> Path:
    """Run a supervised job in this process; its output folder."""
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.output.parent / "events.jsonl"))
    return job.output


def rank_micro_batches(objective: Objective, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
    """What process ``rank`` of ``world_size`` computes in a step."""
    with as_process(ProcessContext.on_one_host(rank, world_size)):
        return objective.micro_batches(step)

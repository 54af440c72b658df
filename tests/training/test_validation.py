"""Validation while a stage trains: what is measured, that it touches nothing, and what follows from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mirage_core.benchmarks.judge import Scorer, judge
from mirage_core.config import TrainSettings
from mirage_core.distributed.events import EventReader, EventWriter
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.errors import DataError, TrainingError
from mirage_core.pipeline.stages.train import final_metrics
from mirage_core.store.records import load_examples, save_examples
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.objective import LossParts, MicroBatch
from mirage_core.training.sft import train as supervised
from mirage_core.training.sft.train import run_supervised
from mirage_core.training.validation.early_stopping import BEST_FILE
from mirage_core.training.validation.metrics import ValidationLoss
from mirage_core.training.validation.validation import Validation, sample
from mirage_core.types import Problem
from tests.training.small_world import make_job, scorer_of

SECTION = {"text": "direct_sft", "grounding": "grounding", "relaxation": "relaxation", "grpo": "grpo"}
STEADY = {"schedule": "constant", "warmup_steps": 0}  # the same steps whatever their number


def run_here(job: Job, scorer: Scorer = judge) -> list[dict[str, Any]]:
    """Run a job as the only process, in this one; returns its events."""
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    writer = EventWriter(job.scratch / "events.jsonl")
    if job.program == "grpo":
        run_grpo(job, writer, scorer)
    else:
        run_supervised(job, writer)
    return list(EventReader([job.scratch / "events.jsonl"]).poll())


def job_of(inputs: Path, work: Path, program: ProgramName, *, resume_from: Path | None = None, **chosen: Any) -> Job:
    return make_job(inputs, work, program, resume_from, **{SECTION[program]: chosen})


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_table(folder / "output" / "curves.parquet"):
        found.setdefault(row["name"], []).append((row["step"], row["value"]))
    return found


def weights(folder: Path) -> bytes:
    return (folder / "output" / "model.safetensors").read_bytes()


def messages(events: Sequence[dict[str, Any]]) -> str:
    return "\n".join(event["message"] for event in events if event["kind"] == "progress")


FIGURES = {
    "text": {"loss", "text", "accuracy", "finished_share"},
    "grounding": {"loss", "text", "visual", "accuracy", "finished_share", "latent_share", "cosine", "cosine_0",
                  "cosine_1", "cosine_constant", "cosine_input"},
    "relaxation": {"loss", "text", "accuracy", "finished_share", "latent_share", "cosine", "cosine_0", "cosine_1",
                   "cosine_constant", "cosine_input", "latent_norm", "image_norm"},
    "grpo": {"accuracy", "finished_share", "latent_share"},
}  # fmt: skip


@pytest.mark.parametrize("program", ("text", "grounding", "relaxation", "grpo"))
def test_it_measures_every_part_and_leaves_the_result_as_it_was(
    inputs: Path, tmp_path: Path, program: ProgramName
) -> None:
    run_here(job_of(inputs, tmp_path / "alone", program, steps=3))
    measured = {"every": 2, "examples": 2, "problems": 2, "patience": None, "keep_best": False}
    events = run_here(job_of(inputs, tmp_path / "watched", program, steps=3, validation=measured))
    assert weights(tmp_path / "watched") == weights(tmp_path / "alone")
    alone, watched = curves(tmp_path / "alone"), curves(tmp_path / "watched")
    held_out = {name.removeprefix("validation/") for name in watched if name.startswith("validation/")}
    assert held_out == FIGURES[program]
    assert {name: watched[name] for name in alone} == alone
    for name in held_out:
        assert [step for step, _ in watched[f"validation/{name}"]] == [0, 2, 3]
    assert "validation after step 2: validation/" in messages(events)


class FillerToo:
    """An objective with one batch that counts and one that only keeps the processes in step; and its engine."""

    def micro_batches(self, step: int) -> list[MicroBatch]:
        return [MicroBatch(3.0, {"n": 1.0}), MicroBatch(100.0, {"n": 1.0}, filler=True)]

    def loss(self, backbone: Any, data: float, totals: dict[str, float]) -> LossParts:
        return LossParts(torch.tensor(data / totals["n"]), {"text": torch.tensor(data / totals["n"])})

    def compute(self, work: Any) -> Any:
        return work()

    def release(self) -> None:
        """Nothing is under way."""


def test_what_only_keeps_the_processes_in_step_is_not_measured() -> None:
    both: Any = FillerToo()
    assert ValidationLoss(both, both)(both) == {"loss": 3.0, "text": 3.0}


def test_a_sample_is_the_same_at_every_validation_and_never_larger_than_the_split() -> None:
    assert sample(100, 5, 1) == sample(100, 5, 1) != sample(100, 5, 2)
    assert len(set(sample(100, 64, 1))) == 64
    assert sample(3, 64, 1) == (0, 1, 2)


def scripted(patch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Validations that find these losses, one after the other."""
    left = list(values)

    def validation(job: Job, *release: Any) -> Validation:
        chosen = job.settings.section(job.program, TrainSettings).validation
        return Validation(chosen, (lambda engine: {"loss": left.pop(0)},))

    patch.setattr(supervised, "validation", validation)


def test_the_weights_of_the_best_validation_are_the_result(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(job_of(inputs, tmp_path / "short", "text", steps=2, **STEADY))
    scripted(monkeypatch, [5.0, 4.0, 1.0, 2.0, 3.0])
    best = {"every": 1, "keep_best": True}
    events = run_here(job_of(inputs, tmp_path / "long", "text", steps=4, validation=best, **STEADY))
    assert weights(tmp_path / "long") == weights(tmp_path / "short")
    assert "keeps the weights after step 2: validation/loss 1" in messages(events)
    assert len(curves(tmp_path / "long")["loss"]) == 4
    history = json.loads((tmp_path / "long" / "output" / "mirage.json").read_text())["history"]
    assert history[-1]["kept_step"] == 2
    figures = final_metrics(tmp_path / "long" / "output")
    assert (figures["steps"], figures["kept_step"], figures["validation/loss"]) == (4, 2, 1.0)


def test_training_stops_when_validation_gets_no_better(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [5.0, 1.0, 2.0, 3.0, 0.0])
    events = run_here(job_of(inputs, tmp_path, "text", steps=8, validation={"every": 1, "patience": 2}, **STEADY))
    assert [step for step, _ in curves(tmp_path)["loss"]] == [1, 2, 3]
    assert "stops early: none of the last 2 validations" in messages(events)
    assert final_metrics(tmp_path / "output")["validation/loss"] == 3.0


def test_the_best_weights_and_the_patience_survive_a_resume(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"steps": 8, "validation": {"every": 1, "patience": 3, "keep_best": True}, **STEADY}
    losses = [5.0, 4.0, 1.0, 2.0, 3.0, 4.0, 0.0]  # the best after step 2, the end after step 5
    scripted(monkeypatch, losses)
    run_here(job_of(inputs, tmp_path / "straight", "text", **chosen))
    (checkpoint,) = (tmp_path / "straight" / "scratch" / "checkpoints").iterdir()
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    scripted(monkeypatch, losses[4:])  # the checkpoint is of step 3
    events = run_here(job_of(inputs, tmp_path / "resumed", "text", resume_from=tmp_path / "checkpoint", **chosen))
    assert "keeps the weights after step 2" in messages(events)
    for name in ("model.safetensors", "curves.parquet"):
        one, other = (tmp_path / run / "output" / name for run in ("straight", "resumed"))
        assert one.read_bytes() == other.read_bytes()


def test_a_checkpoint_without_its_best_weights_is_refused_at_once(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"steps": 4, "validation": {"every": 1, "keep_best": True}, **STEADY}
    scripted(monkeypatch, [5.0, 4.0, 1.0, 2.0, 3.0])
    run_here(job_of(inputs, tmp_path / "straight", "text", **chosen))
    (checkpoint,) = (tmp_path / "straight" / "scratch" / "checkpoints").iterdir()
    (found,) = checkpoint.rglob(BEST_FILE)
    with safe_open(found, "pt") as file:
        assert file.metadata() == {"step": "2"}
    found.unlink()
    scripted(monkeypatch, [2.0])
    with pytest.raises(TrainingError, match="holds nothing, expected those of the best validation, after step 2"):
        run_here(job_of(inputs, tmp_path / "resumed", "text", resume_from=checkpoint, **chosen))


def test_a_validation_loss_that_is_not_finite_stops_training(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [1.0, float("nan")])
    with pytest.raises(TrainingError, match="after step 2 validation/loss is nan"):
        run_here(job_of(inputs, tmp_path, "text", steps=4, validation={"every": 2, "keep_best": True}))


def test_a_diverging_loss_stops_training_and_names_the_examples(inputs: Path, tmp_path: Path) -> None:
    wild = {"steps": 60, "learning_rate": 3.0, "warmup_steps": 40, "max_loss_ratio": 2.0, "schedule": "constant"}
    ids = {example.problem.id for example in load_examples(inputs / "examples", split="train")}
    with pytest.raises(TrainingError, match=r"the loss diverges.*max_loss_ratio = 2 ") as caught:
        run_here(job_of(inputs, tmp_path, "text", **wild))
    assert sum(name in str(caught.value) for name in ids) == 6


def test_a_loss_that_is_not_finite_names_the_examples(inputs: Path, tmp_path: Path) -> None:
    ids = {example.problem.id for example in load_examples(inputs / "examples", split="train")}
    with pytest.raises(TrainingError, match="look at the examples of this step") as caught:
        run_here(job_of(inputs, tmp_path, "text", learning_rate=1e30, warmup_steps=0))
    assert sum(name in str(caught.value) for name in ids) == 6


def test_validation_without_a_validation_example_is_refused(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs, tmp_path / "inputs")
    kept = load_examples(inputs / "examples", split="train", frames=False)
    (tmp_path / "inputs" / "examples" / "examples.parquet").unlink()
    save_examples(tmp_path / "inputs" / "examples" / "examples.parquet", kept)
    with pytest.raises(DataError, match="no example of the split validation"):
        run_here(job_of(tmp_path / "inputs", tmp_path / "work", "text", validation={"every": 2}))


def test_greedy_answers_to_validation_problems_are_judged(inputs: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def first_is_right(problem: Problem, output: str) -> bool:
        if problem.split != "validation":
            return False
        asked.append(problem.id)
        return problem.id == asked[0]

    job = job_of(inputs, tmp_path, "grpo", steps=1, validation={"every": 5, "problems": 2})
    run_here(job, scorer_of(first_is_right))
    assert curves(tmp_path)["validation/accuracy"] == [(0, 0.5), (1, 0.5)]
    assert len(set(asked)) == 2

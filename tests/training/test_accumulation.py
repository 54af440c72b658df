"""However a batch is cut, into micro-batches or among processes: the loss and the gradients of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import ProgramName, write_job
from mirage_core.store.tables import read_table
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.examples import training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.train import load_trainable, run_supervised
from tests.forked import run_ranks
from tests.training.small_world import make_job, quiet, rank_micro_batches

pytestmark = pytest.mark.xdist_group("ranks")  # trained once, not by each worker, by processes of one server
PROGRAMS: tuple[ProgramName, ...] = ("text", "capimagine", "grounding", "relaxation")
SECTION = {"text": "direct_sft", "capimagine": "capimagine", "grounding": "grounding", "relaxation": "relaxation"}
STAGE = {"steps": 3, "batch_size": 5, "warmup_steps": 0, "learning_rate": 1e-3}


def gradients(
    inputs: Path, work: Path, program: ProgramName, world_size: int = 1, **chosen: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of step 1 and its gradients, added up over the processes and micro-batches of a step."""
    job = make_job(inputs, work, program, **{SECTION[program]: {**STAGE, **chosen}})
    model = load_trainable(job)
    data, _ = training_data(job, model, quiet)
    objective = SupervisedObjective(program, job.settings, model, data)
    batches = [one for rank in range(world_size) for one in rank_micro_batches(objective, 1, rank, world_size)]
    totals, loss = total_counts(batches), 0.0
    for batch in batches:
        part = objective.loss(model.backbone, batch.data, totals).total * (0.0 if batch.filler else 1.0)
        part.backward()
        loss += float(part.detach())
    return loss, {name: p.grad for name, p in model.backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_gradients_are_those_of_one_big_batch(inputs: Path, tmp_path: Path, program: ProgramName) -> None:
    whole_loss, whole = gradients(inputs, tmp_path / "whole", program)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 0
    for number, (world_size, micro) in enumerate(((1, 2), (2, None), (2, 1), (7, 2))):
        loss, cut = gradients(inputs, tmp_path / str(number), program, world_size, micro_batch_size=micro)
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        assert cut.keys() == whole.keys()
        for name, gradient in whole.items():
            assert torch.allclose(cut[name], gradient, atol=1e-5 * largest, rtol=1e-4), name


def test_batches_by_length_give_the_gradients_of_their_examples(inputs: Path, tmp_path: Path) -> None:
    _, whole = gradients(inputs, tmp_path / "whole", "relaxation", batch_by="length")
    _, cut = gradients(inputs, tmp_path / "cut", "relaxation", 2, batch_by="length", micro_batch_size=1)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        assert torch.allclose(cut[name], gradient, atol=1e-5 * largest, rtol=1e-4), name


VALIDATED = {"every": 2, "examples": 2, "problems": 2, "keep_best": True}
CASES: dict[str, tuple[ProgramName, dict[str, Any], dict[str, Any]]] = {
    "text": ("text", {"batch_by": "length", "micro_batch_size": 1}, {}),
    # One validation example: the second process has none of its own, and computes it again for nothing.
    "grounding": ("grounding", {"micro_batch_size": 2, "validation": {**VALIDATED, "examples": 1}}, {}),
    "relaxation": ("relaxation", {}, {}),
    "zero-3": ("relaxation", {"micro_batch_size": 2}, {"engine": "deepspeed", "zero_stage": 3}),
}


@pytest.fixture(scope="module")
def two(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained by two processes, with a validation meanwhile: the folder of their work."""
    folder = tmp_path_factory.mktemp("two")
    for name, (program, chosen, runtime) in CASES.items():
        stage = {**STAGE, "validation": VALIDATED, **chosen}
        job = make_job(inputs, folder / name, program, **{SECTION[program]: stage}, runtime=runtime)
        for made in (job.output, job.scratch):
            made.mkdir(parents=True)
        write_job(job, folder / f"{name}.json")
    (folder / "cases.json").write_text(json.dumps(list(CASES)))
    run_ranks("tests.training.accumulation_child", folder, [(folder, str(rank), "2") for rank in (0, 1)])
    return folder


def contents(file: Path) -> set[bytes]:
    """The tensors of a file, whatever their names."""
    return {tensor.float().numpy().tobytes() for tensor in load_file(file).values()}


@pytest.mark.parametrize("name", CASES)
def test_the_best_weights_are_kept_whole_and_are_the_result(two: Path, name: str) -> None:
    best = contents(two / name / "scratch" / "kept" / "best.safetensors")
    assert len(best) > 10
    assert best <= contents(two / name / "output" / "model.safetensors")


def curves(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in read_table(folder / "output" / "curves.parquet"):
        found.setdefault(row["name"], []).append(row["value"])
    return found


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_with_the_whole_batch(inputs: Path, two: Path, tmp_path: Path, name: str) -> None:
    program, chosen, _ = CASES[name]
    stage = {**STAGE, "validation": VALIDATED, **chosen, "micro_batch_size": None}
    job = make_job(inputs, tmp_path / "one", program, **{SECTION[program]: stage})
    for made in (job.output, job.scratch):
        made.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    alone, together = curves(tmp_path / "one"), curves(two / name)
    assert alone.keys() - together.keys() <= {"cosine_constant"}  # of a micro-batch
    for figure in ("loss", "gradient_norm", "validation/loss", "validation/text"):
        assert together[figure] == pytest.approx(alone[figure], rel=1e-4), figure
    for figure in ("validation/accuracy", "validation/finished_share"):
        assert together[figure] == alone[figure]
    for figure in (figure for figure in alone if figure.startswith("validation/cosine")):
        assert together[figure] == pytest.approx(alone[figure], abs=1e-4), figure

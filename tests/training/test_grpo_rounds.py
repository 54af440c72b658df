"""GRPO with several updates on the answers of one round: exact resumption between two of them, by any processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirage_core.errors import TrainingError
from tests.training.grpo_world import answers, objective, run_here
from tests.training.small_world import make_job, rank_micro_batches

ROUNDS = {"updates_per_rollout": 2}


@pytest.fixture
def inputs(latent_inputs: Path) -> Path:
    return latent_inputs


@pytest.fixture(scope="module")
def rounds(latent_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates a round, checkpointed in the middle of one."""
    return run_here(make_job(latent_inputs, tmp_path_factory.mktemp("rounds") / "work", "grpo", grpo=ROUNDS))


def test_a_run_resumed_between_two_updates_of_a_round_ends_in_the_same_bytes(
    inputs: Path, rounds: Path, tmp_path: Path
) -> None:
    checkpoint = rounds.parent / "scratch" / "checkpoints" / "step-00000003"
    again = run_here(make_job(inputs, tmp_path / "again", "grpo", resume_from=checkpoint, grpo=ROUNDS))
    for name in ("model.safetensors", "curves.parquet"):
        assert (again / name).read_bytes() == (rounds / name).read_bytes()


def test_answers_kept_by_two_processes_are_dealt_to_one_or_three(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path, updates_per_rollout=2)
    shared = [answers(rank_micro_batches(drawing, 0, rank, 2)) for rank in (0, 1)]
    for world_size in (1, 3):
        restored = []
        for rank in range(world_size):
            other, _ = objective(inputs, tmp_path, updates_per_rollout=2)
            restored.append(answers(rank_micro_batches(other, 1, rank, world_size)))
        assert set().union(*restored) == shared[0] | shared[1]
        assert sum(map(len, restored)) == len(shared[0] | shared[1])


def test_a_round_that_was_not_kept_is_told(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path, updates_per_rollout=2)
    with pytest.raises(TrainingError, match=r"drawn for step 1, .* processes \[0\]"):
        drawing.micro_batches(1)


def test_a_damaged_file_of_kept_answers_is_named(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path, updates_per_rollout=2)
    drawing.micro_batches(0)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:40])
    other, _ = objective(inputs, tmp_path, updates_per_rollout=2)
    with pytest.raises(TrainingError, match=file.name):
        other.micro_batches(1)


def test_several_updates_are_taken_on_the_answers_of_one_round(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, updates_per_rollout=2)
    (first,) = drawing.micro_batches(0)
    found = drawing.loss(backbone, first.data, first.counts)
    found.total.backward()
    with torch.no_grad():
        for weight in backbone.parameters():
            if weight.grad is not None:
                weight -= 0.3 * weight.grad
    (second,) = drawing.micro_batches(1)
    assert answers([second]) == answers([first])
    assert second.counts == {"rollouts": 12.0, "drawn": 0.0}
    later = drawing.loss(backbone, second.data, second.counts)
    assert float(found.parts["ratio_deviation"]) < 1e-5 < 1e-3 < float(later.parts["ratio_deviation"])
    assert float(later.parts["kl"]) > float(found.parts["kl"])
    assert "reward" in found.parts and "reward" not in later.parts
    assert answers(drawing.micro_batches(2)) != answers([first])

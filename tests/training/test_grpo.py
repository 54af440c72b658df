"""GRPO on a real, random model: what is drawn, what is learned from, and exact resumption."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.errors import SettingsError
from mirage_core.store.records import load_problems
from mirage_core.store.tables import read_table
from mirage_core.training import rollouts
from mirage_core.training.events import EventWriter
from mirage_core.training.grpo import GRPOObjective, run_grpo
from mirage_core.training.job import Job
from mirage_core.training.objective import MicroBatch
from mirage_core.training.supervised import load_trainable, run_supervised
from tests.training.small_world import make_inputs, make_job

FIGURES = {
    "reward", "reward_spread", "accuracy", "well_formed_share", "latent_share", "num_latents", "kl", "clip_fraction",
    "entropy", "completion_length", "silent_groups", "loss", "learning_rate", "gradient_norm",
}  # fmt: skip


def run_here(job: Job) -> Path:
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_grpo(job, 0, 1, EventWriter(job.scratch / "events.jsonl"))
    return job.output


def objective(inputs: Path, work: Path, **grpo: Any) -> tuple[GRPOObjective, torch.nn.Module]:
    job = make_job(inputs, work, "grpo", grpo=grpo)
    model = load_trainable(job, 0, 1)
    problems = load_problems(inputs / "problems", split="train")
    return GRPOObjective(job.settings, model, problems, job.seed), model.backbone


def answers(batches: list[MicroBatch]) -> set[tuple[int, ...]]:
    return {tuple(one.encoded.ids.tolist()) for batch in batches if not batch.filler for one in batch.data.rollouts}


@pytest.fixture(scope="module", autouse=True)
def _some_answers_are_right() -> Iterator[None]:
    """A model this young is never right; here answers of an even length are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "is_correct", lambda problem, output, rule: len(output) % 2 == 0)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, its model taught for a few steps to answer with latents."""
    folder, work = tmp_path_factory.mktemp("taught"), tmp_path_factory.mktemp("teaching") / "work"
    make_inputs(folder)
    job = make_job(folder, work, "relaxation", relaxation={"steps": 40})
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, 0, 1, EventWriter(job.scratch / "events.jsonl"))
    shutil.rmtree(folder / "model")
    shutil.copytree(job.output, folder / "model")
    return folder


@pytest.fixture(scope="module")
def straight(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(make_job(inputs, tmp_path_factory.mktemp("grpo") / "work", "grpo"))


def test_every_figure_of_the_policy_is_logged(straight: Path) -> None:
    rows = read_table(straight / "curves.parquet")
    assert {row["name"] for row in rows} >= FIGURES
    assert max(row["value"] for row in rows if row["name"] == "latent_share") > 0.5
    assert min(row["value"] for row in rows if row["name"] == "silent_groups") < 1.0
    assert not [row for row in rows if "second" in row["name"]]


def test_a_run_resumed_from_a_checkpoint_ends_in_the_same_bytes(inputs: Path, straight: Path, tmp_path: Path) -> None:
    checkpoint = straight.parent / "scratch" / "checkpoints" / "step-00000003"
    again = run_here(make_job(inputs, tmp_path / "again", "grpo", resume_from=checkpoint))
    for name in ("model.safetensors", "curves.parquet"):
        assert (again / name).read_bytes() == (straight / name).read_bytes()


def test_what_is_drawn_does_not_depend_on_the_number_of_processes(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path)
    alone = answers(list(drawing.micro_batches(2, 0, 1)))
    shared = [answers(list(drawing.micro_batches(2, rank, 2))) for rank in (0, 1)]
    assert alone == shared[0] | shared[1]
    assert alone != answers(list(drawing.micro_batches(3, 0, 1)))


def test_recorded_and_recomputed_probabilities_agree(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path)
    (batch,) = drawing.micro_batches(0, 0, 1)
    found = drawing.loss(backbone, batch.data, batch.counts)
    assert float(found.parts["ratio_deviation"]) < 1e-5
    assert float(found.parts["kl"]) == pytest.approx(0.0, abs=1e-9)
    assert float(found.parts["clip_fraction"]) == 0.0


def gradients(inputs: Path, work: Path, **grpo: Any) -> dict[str, torch.Tensor]:
    drawing, backbone = objective(inputs, work, **grpo)
    batches = list(drawing.micro_batches(0, 0, 1))
    total = {"rollouts": sum(batch.counts["rollouts"] for batch in batches)}
    for batch in batches:
        drawing.loss(backbone, batch.data, total).total.backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


def test_micro_batches_give_the_gradient_of_the_whole(inputs: Path, tmp_path: Path) -> None:
    whole = gradients(inputs, tmp_path)
    cut = gradients(inputs, tmp_path, micro_batch_size=5)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 0
    for name, gradient in whole.items():
        assert torch.allclose(cut[name], gradient, atol=1e-5 * max(1.0, largest)), name


def test_replayed_latents_carry_no_gradient_and_recomputed_ones_do(inputs: Path, tmp_path: Path) -> None:
    recomputed = gradients(inputs, tmp_path)
    replayed = gradients(inputs, tmp_path, latents="replay")
    assert any(not torch.allclose(recomputed[name], replayed[name], atol=1e-7) for name in recomputed)


def test_sharded_weights_are_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"runtime\.zero_stage"):
        run_here(make_job(inputs, tmp_path / "three", "grpo", runtime={"engine": "deepspeed", "zero_stage": 3}))


def test_a_group_of_one_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"grpo\.group_size"):
        run_here(make_job(inputs, tmp_path / "one", "grpo", grpo={"group_size": 1}))

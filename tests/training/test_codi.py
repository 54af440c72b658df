"""CODI's self-distillation: both tasks of an example, the token before the answer, and the loss by definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from mirage_core.distributed.job import Job
from mirage_core.errors import DataError
from mirage_core.methods import TRAIN_STAGES, get_method
from mirage_core.model.backbone import Backbone
from mirage_core.model.loading import load_model
from mirage_core.pipeline.stages.train import TRAIN
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.beside import Beside, teacher_rows_of
from mirage_core.training.sft.codi import TeacherRows, distillation
from mirage_core.training.sft.examples import example_encoder, training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.train import load_trainable
from tests.training.small_world import make_job, quiet, rank_micro_batches, small_settings, trained_by
from tests.training.test_coconut import checkpoint, curve, rolled_out

STAGE: dict[str, Any] = {
    "steps": 4,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "warmup_steps": 2,
    "teacher_weight": 0.5,
    "distillation_weight": 3.0,
}
WORLD: dict[str, Any] = {"captions": {"of": "film"}, "auxiliary_images": {"film": "forward"}}


def job_of(
    inputs: Path, work: Path, resume_from: Path | None = None, world: dict[str, Any] = WORLD, **more: Any
) -> Job:
    job = make_job(inputs, work, "codi", resume_from=resume_from, **world, codi={**STAGE, **more})
    return job.model_copy(update={"inputs": {**job.inputs, "examples": inputs / "captions"}})


def trained(inputs: Path, work: Path, **chosen: Any) -> Path:
    job = job_of(inputs, work, **chosen)
    return trained_by(job)


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(inputs, tmp_path_factory.mktemp("codi") / "whole")


def rows_of(inputs: Path, work: Path) -> tuple[Job, Any, Any, TeacherRows]:
    job = job_of(inputs, work)
    model = load_trainable(job)
    data, _ = training_data(job, model, quiet)
    rows = teacher_rows_of(job, model, data.examples)
    assert rows is not None
    return job, model, data, rows


def test_the_tasks_of_an_example_are_capimagines_and_relaxations(inputs: Path, tmp_path: Path) -> None:
    job, model, data, rows = rows_of(inputs, tmp_path)
    in_words = example_encoder("capimagine", job.settings, model, data.examples)
    relaxed = example_encoder("relaxation", job.settings, model, data.examples)
    for index in range(len(data.examples)):
        student = data.source.get(index)
        for row, expected in ((rows.row(index, student), in_words(index)), (student, relaxed(index))):
            assert torch.equal(row.ids, expected.ids) and torch.equal(row.labels, expected.labels)
        assert rows.row(index, student).image_features is student.image_features


def test_the_token_before_the_answer_is_found_in_both_tasks(inputs: Path, tmp_path: Path) -> None:
    _, model, data, rows = rows_of(inputs, tmp_path)
    for index, example in enumerate(data.examples):
        student = data.source.get(index)
        for row, from_end in zip((student, rows.row(index, student)), rows.before_answer(index), strict=True):
            place = len(row.ids) - from_end
            answer = model.processor.tokenizer.decode(row.ids[place + 1 :])
            assert answer.startswith(f"{example.problem.answer}}}")
            assert model.processor.tokenizer.decode(row.ids[place : place + 1]).endswith("{")


def test_a_chain_without_a_box_is_refused(inputs: Path, tmp_path: Path) -> None:
    _, _, data, rows = rows_of(inputs, tmp_path)
    example = data.examples[0]
    plain = replace(example, chain=replace(example.chain, text_after="Down."))
    with pytest.raises(DataError, match=rf"{example.chain.problem_id} has no .boxed.*end in the boxed answer"):
        replace(rows, examples=[plain]).before_answer(0)


def test_the_distance_is_scaled_by_the_teachers_deviation_which_stays_constant() -> None:
    student, teacher = torch.randn(3, 2, 8, requires_grad=True), torch.randn(3, 2, 8, requires_grad=True)
    found = distillation(student, teacher)
    terms = []
    for layer in range(3):
        for row in range(2):
            other = teacher[layer, row]
            difference = (student[layer, row] - other).abs()
            smooth = torch.where(difference < 1, difference.square() / 2, difference - 0.5).mean()
            terms.append(smooth / (((other - other.mean()) ** 2).sum() / 7).sqrt())
    assert found.item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-6)
    found.backward()
    assert teacher.grad is None and student.grad is not None and student.grad.abs().min() > 0


@contextmanager
def outputs_of_layers(backbone: Backbone) -> Iterator[list[Tensor]]:
    """The outputs of the layers, in the order in which they ran."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output)) for layer in backbone.layers]
    yield seen
    for hook in hooks:
        hook.remove()


def states_of(backbone: Backbone, row: Any, ids: Any, place: int) -> tuple[Tensor, Tensor]:
    """Hidden states [T, D], and the states of all layers [L + 1, D] at a place, of one row computed token by token."""
    with outputs_of_layers(backbone) as seen:
        hidden, _ = rolled_out(backbone, row, ids)
    between = [output[0, place] for output in seen[-len(backbone.layers) : -1]]
    embedded = backbone.embed_text(row.ids[None])[0, place]
    return hidden, torch.stack([embedded, *between, hidden[place]])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_the_definition(inputs: Path, tmp_path: Path, checkpointing: bool) -> None:
    _, model, data, rows = rows_of(inputs, tmp_path)
    job = job_of(inputs, tmp_path, micro_batch_size=2, gradient_checkpointing=checkpointing)
    objective = SupervisedObjective("codi", job.settings, model, data, Beside(teacher_rows=rows))
    batches = [one for rank in range(2) for one in rank_micro_batches(objective, 0, rank, 2)]
    totals, backbone = total_counts(batches), model.backbone
    found: dict[str, float] = {}
    for batch in batches:
        loss = objective.loss(backbone, batch.data, totals)
        loss.total.backward()
        for name in ("text", "teacher", "distillation"):
            found[name] = found.get(name, 0.0) + float(loss.parts[name])
    gradients = {name: one.grad.clone() for name, one in backbone.named_parameters() if one.grad is not None}
    backbone.zero_grad()
    terms: dict[str, list[Tensor]] = {"text": [], "teacher": [], "distillation": []}
    for index in data.order.batch(0):
        student = data.source.get(index)
        kept_states = []
        for name, row, from_end in zip(
            ("text", "teacher"), (student, rows.row(index, student)), rows.before_answer(index), strict=True
        ):
            hidden, states = states_of(backbone, row, model.ids, len(row.ids) - from_end)
            scores = log_softmax(backbone.logits(hidden[:-1]), dim=-1)
            terms[name] += [-scores[at, token] for at, token in enumerate(row.labels[1:].tolist()) if token != -100]
            kept_states.append(states)
        terms["distillation"].append(distillation(kept_states[0][:, None], kept_states[1][:, None]))
    means = {name: torch.stack(values).mean() for name, values in terms.items()}
    assert found == {name: pytest.approx(value.item(), abs=1e-5) for name, value in means.items()}
    (means["text"] + 0.5 * means["teacher"] + 3.0 * means["distillation"]).backward()
    assert len(gradients) > 20
    for name, weight in backbone.named_parameters():
        if name in gradients:
            assert weight.grad is not None
            torch.testing.assert_close(gradients[name], weight.grad, atol=5e-5, rtol=5e-4)


@pytest.mark.parametrize("latent", [{}, {"bottleneck": "latent_only"}, {"input": "blank"}])
def test_micro_batches_and_checkpointing_change_nothing(inputs: Path, tmp_path: Path, latent: dict[str, Any]) -> None:
    world = {**WORLD, "latent": {"num_latents": 2, **latent}}
    plain = trained(inputs, tmp_path / "plain", world=world)
    cut = trained(inputs, tmp_path / "cut", world=world, micro_batch_size=1, gradient_checkpointing=True)
    for name in ("loss", "text", "teacher", "distillation", "gradient_norm"):
        assert len(curve(plain, name)) == 4
        assert curve(cut, name) == pytest.approx(curve(plain, name), rel=2e-4), name


def test_a_resumed_run_ends_with_the_same_bits(inputs: Path, whole: Path, tmp_path: Path) -> None:
    again = trained(inputs, tmp_path / "again", resume_from=checkpoint(whole, 3))
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert load_model(whole).about["stages"] == ["base", "codi"]


def test_distilled_states_draw_near(inputs: Path, tmp_path: Path) -> None:
    output = trained(inputs, tmp_path, steps=30, distillation_weight=20.0, schedule="constant")
    distances = curve(output, "distillation")
    assert min(distances[-3:]) < 0.8 * max(distances[:3])


def test_spans_of_different_lengths_learn_where_to_end(inputs: Path, tmp_path: Path) -> None:
    frames = {**WORLD, "latent": {"length": "frames", "end": "free", "max_latents": 4}}
    watched = {"every": 4, "examples": 2}
    output = trained(inputs, tmp_path, world=frames, validation=watched)
    assert len(curve(output, "end")) == 4 and len(curve(output, "validation/distillation")) == 2


def test_the_stage_reads_captions_and_only_its_own_settings() -> None:
    assert get_method("codi").stages == ("codi",) and get_method("codi").latents == "on"
    assert TRAIN_STAGES["codi"].inputs == {"model": "base", "examples": "captions"}
    plain, after = small_settings(), small_settings(codi={"teacher_weight": 2.0})
    assert {name for name, stage in TRAIN.items() if stage.identity(plain) != stage.identity(after)} == {"codi"}
    assert "codi" not in plain.model_dump()
